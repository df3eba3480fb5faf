"""The weights of one LoRA adapter, and whether they fit a network. Knows tensors and module names; knows no memories and no files.

Names are PEFT's: "base_model.model.MODULE.lora_A.weight" of shape [rank, inputs] and "...lora_B.weight" of shape [outputs, rank]. The
scaling (alpha / rank) is part of B, and every module has the same rank, so that weights say all there is to say about an adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .errors import Damaged, InvalidArgument, ModelMismatch, Unsupported
from .fingerprint import difference

PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
_MOST = 512  # rank: more is no low rank


@dataclass(frozen=True, slots=True, eq=False)
class LoRA:
    """An adapter for one exact model: `tensors` by PEFT's names, on the CPU. `digest` names what it does to the model."""

    model: str
    rank: int
    tensors: Mapping[str, torch.Tensor]
    digest: str

    @property
    def targets(self) -> tuple[str, ...]:
        """The modules that it changes."""
        return tuple(sorted(n.removeprefix(PREFIX).removesuffix(A) for n in self.tensors if n.endswith(A)))

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    def pair(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B of a module."""
        return self.tensors[f"{PREFIX}{module}{A}"], self.tensors[f"{PREFIX}{module}{B}"]


def made(model: str, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> LoRA:
    """An adapter from A and B of each module; those of a lower rank than the highest get zeros, which change nothing.

    Raises InvalidArgument for shapes that are none, values that are not finite, or no module at all.
    """
    if not pairs:
        raise InvalidArgument("adapter: it changes no module")
    for module, (a, b) in pairs.items():
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise InvalidArgument(f"adapter: {module} has A of shape {tuple(a.shape)} and B of {tuple(b.shape)}")
        if not (a.isfinite().all() and b.isfinite().all()):
            raise InvalidArgument(f"adapter: the weights of {module} are not all finite numbers")
    rank = max(a.shape[0] for a, _ in pairs.values())
    tensors = {}
    for module, (a, b) in sorted(pairs.items()):
        more = rank - a.shape[0]
        tensors[f"{PREFIX}{module}{A}"] = _own(torch.nn.functional.pad(a, (0, 0, 0, more)))
        tensors[f"{PREFIX}{module}{B}"] = _own(torch.nn.functional.pad(b, (0, more)))
    said = sha256(model.encode())
    for name, tensor in tensors.items():
        said.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:".encode())
        said.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return LoRA(model, rank, tensors, said.hexdigest()[:32])


def packed(lora: LoRA) -> bytes:
    """Its tensors as one safetensors file, as PEFT writes them."""
    return save(dict(lora.tensors), {"format": "pt"})


def unpacked(model: str, body: bytes, where: str) -> LoRA:
    """The adapter of such a file. Raises Damaged for what is none."""
    try:
        tensors = load(body)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"{where}: no adapter: {error}") from error
    try:
        return made(model, _pairs(tensors, where))
    except InvalidArgument as error:
        raise Damaged(f"{where}: no adapter: {error}") from error


def linears(network: Any) -> dict[str, torch.nn.Linear]:
    """The modules that an adapter may change: the linear layers but for the output's, by name. Raises Unsupported for none."""
    head = network.get_output_embeddings()
    found = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    if not found:
        raise Unsupported(f"{network.config.model_type}: it has no linear layers that an adapter could change")
    return found


def require_fit(lora: LoRA, model: Any) -> None:
    """Raise ModelMismatch for another model's adapter, InvalidArgument for modules or shapes that the network does not have."""
    if lora.model != model.fingerprint:
        raise ModelMismatch(f"the adapter was made for another model ({difference(lora.model, model.fingerprint)})")
    there = linears(model.network)
    for module in lora.targets:
        if module not in there:
            raise InvalidArgument(f"adapter: {model.name} has no linear layer {module!r} to change")
        a, b = lora.pair(module)
        wanted = (there[module].in_features, there[module].out_features)
        if (a.shape[1], b.shape[0]) != wanted:
            raise InvalidArgument(
                f"adapter: it takes {module!r} from {a.shape[1]} to {b.shape[0]} numbers, and {model.name} from {wanted[0]} to {wanted[1]}"
            )


def adopted(folder: str | Path, model: Any) -> tuple[LoRA, str]:
    """A LoRA that PEFT saved somewhere else, as an adapter for a model; and the name of the model that it says it was made for.

    Raises:
        InvalidArgument: the folder holds no LoRA in safetensors (pickled weights are not read: they are programs), one of a kind that
            is not only A and B (DoRA, biases, whole modules), or one whose rank, modules or shapes do not fit the model.
        Damaged: its files are not what they should be.
    """
    at = Path(folder)
    said = _config(at)
    file = at / "adapter_model.safetensors"
    if not file.is_file():
        pickled = (
            " (adapter_model.bin is pickled: a program, which is not run)"
            if (at / "adapter_model.bin").exists()
            else ""
        )
        raise InvalidArgument(f"{at}: it holds no adapter_model.safetensors{pickled}")
    try:
        tensors = load(file.read_bytes())
    except (SafetensorError, ValueError, OSError) as error:
        raise Damaged(f"{file}: no tensors: {error}") from error
    dtype = model.dtype
    pairs = {}
    for module, (a, b) in _pairs(tensors, str(file)).items():
        rank, alpha = a.shape[0], _of(said.get("alpha_pattern"), module, said.get("lora_alpha", a.shape[0]))
        scaling = float(alpha) / (rank**0.5 if said.get("use_rslora") else rank)
        if (wanted := _of(said.get("rank_pattern"), module, said.get("r", rank))) != rank:
            raise InvalidArgument(f"{file}: {module} has rank {rank}, and its configuration says {wanted}")
        if rank > _MOST:
            raise InvalidArgument(f"{file}: a rank of {rank} is more than {_MOST}")
        pairs[module] = (a.to(dtype), (b.float() * scaling).to(dtype))
    lora = made(model.fingerprint, pairs)
    require_fit(lora, model)
    return lora, str(said.get("base_model_name_or_path") or "")


def cast(lora: LoRA, dtype: torch.dtype) -> LoRA:
    """The same in another dtype."""
    if all(t.dtype == dtype for t in lora.tensors.values()):
        return lora
    return made(lora.model, {m: (lora.pair(m)[0].to(dtype), lora.pair(m)[1].to(dtype)) for m in lora.targets})


def for_model(lora: LoRA, model: str) -> LoRA:
    """The same for a model of another fingerprint."""
    return replace(lora, model=model)


# --- below ---------------------------------------------------------------------------------------------------------------


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _pairs(tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX) or not name.endswith((A, B)):
            raise InvalidArgument(f"{where}: {name!r} is no weight of a plain LoRA")
        module = name.removeprefix(PREFIX).removesuffix(A).removesuffix(B)
        if name.endswith(A):
            if f"{PREFIX}{module}{B}" not in tensors:
                raise InvalidArgument(f"{where}: {module} has an A and no B")
            found[module] = (tensor, tensors[f"{PREFIX}{module}{B}"])
    if 2 * len(found) != len(tensors):
        raise InvalidArgument(f"{where}: some of its modules have a B and no A")
    return found


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise InvalidArgument(f"{folder}: it holds no adapter_config.json, so it is no adapter of PEFT's")
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError("no object")
    except (ValueError, OSError) as error:
        raise Damaged(f"{file}: not readable as JSON: {error}") from error
    if str(said.get("peft_type", "")).upper() != "LORA":
        raise InvalidArgument(f"{file}: {said.get('peft_type')!r} adapters are not known, only LORA")
    for more in (
        "use_dora",
        "modules_to_save",
        "lora_bias",
        "fan_in_fan_out",
        "target_parameters",
        "trainable_token_indices",
    ):
        if said.get(more):
            raise InvalidArgument(f"{file}: {more} makes it more than a plain LoRA")
    if said.get("bias", "none") != "none":
        raise InvalidArgument(f"{file}: it trains biases, which a plain LoRA does not")
    return said


def _of(pattern: Any, module: str, otherwise: Any) -> Any:
    """The value for a module of one of PEFT's patterns, whose keys are ends of names."""
    for key, value in (pattern or {}).items():
        if module == key or module.endswith(f".{key}"):
            return value
    return otherwise
