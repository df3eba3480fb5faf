"""The weights of one LoRA adapter, and whether they fit a network. Knows tensors and module names; knows no memories and no files.

Names are PEFT's: "base_model.model.MODULE.lora_A.weight" of shape [rank, inputs] and "...lora_B.weight" of shape [outputs, rank]. The
scaling (alpha / rank) is part of B, and every module has the same rank, so that weights say all there is to say about an adapter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CONFIG = 1 << 20  # bytes of a configuration, and of what stands before the tensors
_HIGHEST = 1e30  # what a number of a configuration may be
_PLAIN = frozenset({
    "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r", "lora_alpha",
    "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size",
    "runtime_config",
})  # fmt: skip
"""Fields of PEFT's LoraConfig that are followed here, or that say nothing of a pass: where A and B were put, how they were trained, what
goes with another field. `init_lora_weights` is looked at apart."""
_STARTS = ("gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights`, beside true and false, that leave the model's own weights alone. The others (pissa, olora, corda, lora_ga,
loftq) take from them what A and B begin with, and A and B beside whole weights count it twice."""


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

    Raises InvalidArgument for shapes or dtypes that are none, values that are not finite, or no module at all.
    """
    if not pairs:
        raise InvalidArgument("adapter: it changes no module")
    for module, (a, b) in pairs.items():
        _require_pair("adapter", module, a, b)
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
    tensors = _loaded(body, where)
    try:
        return made(model, _pairs(tensors, where))
    except InvalidArgument as error:
        raise Damaged(f"{where}: no adapter: {error}") from error


def require_bare(network: Any) -> None:
    """Raise Unsupported for a network that PEFT has wrapped: its own adapters would be switched off with those beside it."""
    if any(hasattr(m, "get_base_layer") for m in network.modules()):
        raise Unsupported(
            f"{network.config.model_type}: it carries adapters of PEFT's; merge them first (merge_and_unload), or take them off (unload)"
        )


def linears(network: Any) -> dict[str, torch.nn.Linear]:
    """The modules that an adapter may change: the linear layers but for the output's, by name. Raises Unsupported for none, and as
    `require_bare` does."""
    require_bare(network)
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
            is not only A and B (DoRA, biases, whole modules) or whose training changed the model itself (PiSSA, OLoRA), one of which
            a field is not understood, or one whose rank, modules or shapes do not fit the model.
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
    most = _CONFIG + sum(8 * _MOST * (m.in_features + m.out_features) for m in linears(model.network).values())
    pairs = {}
    for module, (a, b) in _pairs(_loaded(_read(file, most), str(file)), str(file)).items():
        rank, wanted = a.shape[0], _told(at, said, "r", module)
        if wanted != rank:
            raise InvalidArgument(f"{file}: {module} has rank {rank}, and its configuration says {wanted}")
        if rank > _MOST:
            raise InvalidArgument(f"{file}: a rank of {rank} is more than {_MOST}")
        scaling = _told(at, said, "lora_alpha", module) / (rank**0.5 if said.get("use_rslora") else rank)
        pairs[module] = (a.to(model.dtype), (b.float() * scaling).to(model.dtype))
    try:
        lora = made(model.fingerprint, pairs)
        require_fit(lora, model)
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error}") from error
    return lora, str(said.get("base_model_name_or_path") or "")


def cast(lora: LoRA, dtype: torch.dtype) -> LoRA:
    """The same in another dtype."""
    if all(t.dtype == dtype for t in lora.tensors.values()):
        return lora
    return made(lora.model, {m: (lora.pair(m)[0].to(dtype), lora.pair(m)[1].to(dtype)) for m in lora.targets})


# --- below ---------------------------------------------------------------------------------------------------------------


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _read(file: Path, most: int) -> bytes:
    try:
        size = file.stat().st_size
        body = file.read_bytes() if size <= most else b""
    except OSError as error:
        raise Damaged(f"{file}: not readable: {error}") from error
    if size > most:
        raise InvalidArgument(f"{file}: it has {size:,} bytes, more than the {most:,} that it could need")
    return body


def _loaded(body: bytes, where: str) -> dict[str, torch.Tensor]:
    try:
        return load(body)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"{where}: no tensors: {error}") from error


def _require_pair(where: str, module: str, a: torch.Tensor, b: torch.Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise InvalidArgument(f"{where}: {module} has A of shape {tuple(a.shape)} and B of {tuple(b.shape)}")
    if a.dtype not in _DTYPES or b.dtype not in _DTYPES:
        raise InvalidArgument(f"{where}: {module} has A of {a.dtype} and B of {b.dtype}")


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
            _require_pair(where, module, *found[module])
    if 2 * len(found) != len(tensors):
        raise InvalidArgument(f"{where}: some of its modules have a B and no A")
    return found


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise InvalidArgument(f"{folder}: it holds no adapter_config.json, so it is no adapter of PEFT's")
    body = _read(file, _CONFIG)
    try:
        said = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(said, dict):
        raise Damaged(f"{file}: no JSON object")
    if str(said.get("peft_type", "")).upper() != "LORA":
        raise InvalidArgument(f"{file}: {said.get('peft_type')!r:.80} adapters are not known, only LORA")
    for field, value in said.items():
        if field == "init_lora_weights":
            plain = value in (True, False, None) or str(value).lower() in _STARTS
        else:  # what is not known must be off; only of biases "none" says so
            plain = not value or field in _PLAIN or (field, value) == ("bias", "none")
        if not plain:
            raise InvalidArgument(f"{file}: {field!r:.80} is {value!r:.80}, which makes it more than a plain LoRA")
    for field in ("rank_pattern", "alpha_pattern"):
        if not isinstance(said.get(field) or {}, dict):
            raise InvalidArgument(f"{file}: {field} is {said[field]!r:.80}, and no mapping")
    if not isinstance(said.get("use_rslora", False), bool):
        raise InvalidArgument(f"{file}: use_rslora is {said['use_rslora']!r:.80}, and neither true nor false")
    name = said.get("base_model_name_or_path") or ""
    if not isinstance(name, str) or not name.isprintable():
        raise InvalidArgument(f"{file}: base_model_name_or_path is {name!r:.80}, and no name")
    return said


def _told(folder: Path, said: Mapping[str, Any], field: str, module: str) -> float:
    """A number of the configuration for a module, as PEFT finds it: of the first key of a pattern that matches the end of the module's
    name, or else the one for all."""
    where = f"{folder / 'adapter_config.json'}: {field} of {module}"
    pattern: Mapping[str, Any] = said.get("rank_pattern" if field == "r" else "alpha_pattern") or {}
    found = pattern.get(module, said.get(field, 8))  # 8 is PEFT's own
    for key, value in pattern.items():
        # a repeated group, or much to choose from, may take longer to match than anybody lives
        if re.search(r"\)[*+?{]", key) or sum(key.count(c) for c in "*+?{(") > 6:
            raise InvalidArgument(f"{where}: the pattern {key!r:.80} is too intricate")
        try:
            matched = re.match(rf"(.*\.)?({key})$", module)
        except (re.error, OverflowError) as error:
            raise InvalidArgument(f"{where}: {key!r:.80} is no pattern: {error}") from error
        if matched:
            found = value
            break
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= _HIGHEST:
        raise InvalidArgument(f"{where}: a number is needed, not {found!r:.80}")
    return found
