"""Steering vectors: a direction of the residual stream that stands for a contrast, and running a model with it added.

Made from pairs of prompts that differ in what is to be steered: the difference of means at the last token, in one layer (contrastive
activation addition, arXiv 2312.06681). Such vectors often do not work, or work the other way on some inputs; how well the pairs agree
foretells it (arXiv 2407.12404). So that is measured, and the effect on pairs that were kept out, and what fails is refused.

Knows models and tensors; knows no memories and no files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from safetensors.torch import load, save

from . import alteration
from .alteration import Alteration, Positions
from .errors import Damaged, Ineffective, InvalidArgument, ModelMismatch, Unsupported
from .fingerprint import difference
from .guard import divergence
from .model import LocalModel
from .prompt import Prompt

FORMAT = "memos-steering/1"
LEAST_PAIRS = 8
KEPT_OUT = 4  # every fourth pair is
DEPTH = (
    0.45  # of the layers, where a vector acts unless said otherwise: concepts are formed there, words not yet chosen
)

Side = str | Prompt | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Statistics:
    """How a vector was made and how well it works.

    pairs, kept_out: how many it was made from, and how many it was measured on.
    agreement: mean cosine between the differences of two pairs that it was made from; 1 if all point the same way, about 0 by chance.
    separation: of the kept out pairs' sides along the direction, difference of means over pooled standard deviation (Cohen's d).
    effect: of the divergence between the next-token distributions of a kept out pair's sides, the share that goes when the second
        side is run with the vector (at `strength`, at its last token); 1 if it becomes the first, 0 if nothing comes of it, below 0
        if it moves away.
    opposed: share of the kept out pairs on which it moves away.
    strength: the alpha at which exactly the difference of means is added.
    """

    pairs: int
    kept_out: int
    agreement: float
    separation: float
    effect: float
    opposed: float
    strength: float


@dataclass(frozen=True, slots=True, eq=False)
class SteeringVector:
    """A direction in the residual stream behind one decoder layer of one exact model.

    direction: float32, of shape [hidden size] and length 1, on the CPU. norm: the mean length of that layer's residual stream, so
    that alpha means the same on every layer and model.
    """

    model: str
    layer: int
    direction: torch.Tensor
    norm: float
    statistics: Statistics

    @property
    def digest(self) -> str:
        """Names what it does to the model."""
        said = f"{self.model}|{self.layer}|{self.norm!r}|".encode()
        return sha256(said + self.direction.numpy().tobytes()).hexdigest()[:32]


def extract(
    model: LocalModel,
    pairs: Sequence[tuple[Side, Side]],
    *,
    layer: int | None = None,
    least_agreement: float = 0.1,
    least_effect: float = 0.1,
) -> SteeringVector:
    """The vector from what the second sides of pairs have in common to what the first have.

    Args:
        pairs: prompts (texts, messages, or made by the model) with and without what is to be steered, else as alike as can be. Every
            fourth is kept out to measure the vector on.
        layer: the decoder layer behind which it is added, from 0 on; `DEPTH` of the way if None.
        least_agreement, least_effect: of the statistics, below which it is refused; -inf takes everything.

    Raises:
        InvalidArgument: fewer than `LEAST_PAIRS`, or no such layer.
        Ineffective: the vector does not do what it is for; the message has the statistics.
    """
    if len(pairs) < LEAST_PAIRS:
        raise InvalidArgument(f"pairs: at least {LEAST_PAIRS} are needed, not {len(pairs)}")
    layers = len(_layers(model.network, model.name))
    at = min(int(DEPTH * layers), layers - 1) if layer is None else layer
    if not 0 <= at < layers:
        raise InvalidArgument(f"layer: {model.name} has layers 0 to {layers - 1}, not {layer!r}")
    sides = [(_prompt(model, first), _prompt(model, second)) for first, second in pairs]
    with alteration.plain():
        states, norm = _states(model, sides, at)
        used = torch.tensor([i % KEPT_OUT != KEPT_OUT - 1 for i in range(len(pairs))])
        apart = states[:, 0] - states[:, 1]
        mean = apart[used].mean(0)  # centred: what all prompts have in common is in both sides, and goes
        length = float(mean.norm())
        if not _NOTHING * norm < length < math.inf:
            raise Ineffective(
                f"{model.name}: behind layer {at} the sides of the pairs differ by {length:.2g} on average"
            )
        plan = SteeringVector(model.fingerprint, at, mean / length, norm, _UNMEASURED)
        kept_out = [s for s, one in zip(sides, used, strict=True) if not one]
        effect, opposed = _effect(model, plan, kept_out, length / norm)
    found = Statistics(
        int(used.sum()), len(kept_out), _agreement(apart[used]), _separation(states[~used] @ plan.direction),
        effect, opposed, length / norm,
    )  # fmt: skip
    if not (found.agreement >= least_agreement and found.effect >= least_effect):
        raise Ineffective(
            f"{model.name}: the vector behind layer {at} does not work: agreement {found.agreement:.3f} (least {least_agreement:g}), "
            f"effect {found.effect:.3f} (least {least_effect:g}), opposed on {found.opposed:.0%} of {found.kept_out} pairs kept out"
        )
    return SteeringVector(plan.model, at, plan.direction, norm, found)


@contextmanager
def steered(
    model: LocalModel, vector: SteeringVector, alpha: float, *, positions: Positions = "generated"
) -> Iterator[LocalModel]:
    """Run what is begun in the block, in this thread or task, with alpha times the vector added. Vectors add up: blocks may be nested.

    alpha: in mean lengths of the layer's residual stream; `vector.statistics.strength` adds the difference that was found, a negative
        one steers the other way.
    positions: "generated" steers where tokens are drawn, the prompt's last and the answer's: what is held of prompts serves it, and
        the answer's keys and values are not held. "all" steers the prompt too: its keys and values are held apart, for this vector,
        alpha and order of vectors alone.

    It acts on passes of `generate`, `stream`, `generate_batch` and `forward` through hooks that exist during a pass only, under the
    model's lock: other threads never see them, and there is nothing left to undo. An answer begun in the block ends as it began.

    Raises ModelMismatch for another model's vector, InvalidArgument for an alpha that is no finite number or unknown positions.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InvalidArgument(f"alpha: a finite number is needed, not {alpha!r}")
    if positions not in ("all", "generated"):
        raise InvalidArgument(f"positions: all or generated, not {positions!r}")
    if vector.model != model.fingerprint:
        raise ModelMismatch(f"the vector was made for another model ({difference(vector.model, model.fingerprint)})")
    with alteration.altered(_change(model, vector, float(alpha), positions)):
        yield model


def pack(vector: SteeringVector) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The vector as tensors and metadata for one safetensors file: "direction", and "steering" with the rest as JSON."""
    said = {"format": FORMAT, "model": vector.model, "layer": vector.layer, "norm": vector.norm}
    return (
        {"direction": vector.direction.clone()},
        {"steering": json.dumps({**said, "statistics": asdict(vector.statistics)})},
    )


def unpack(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> SteeringVector:
    """The vector that was packed. Raises Damaged for what is none."""
    try:
        said = json.loads(metadata["steering"])
        if said["format"] != FORMAT:
            raise Damaged(f"a steering vector of format {said['format']!r}, not {FORMAT!r}")
        statistics = Statistics(
            **{k: type_(said["statistics"].pop(k)) for k, type_ in _NUMBERS.items()}, **said["statistics"]
        )
        found = SteeringVector(
            str(said["model"]), int(said["layer"]), tensors["direction"], float(said["norm"]), statistics
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"no steering vector: {type(error).__name__}: {error}") from None
    direction = found.direction
    if direction.ndim != 1 or direction.dtype != torch.float32 or not abs(float(direction.norm()) - 1) < 1e-3:
        raise Damaged(
            f"no steering vector: its direction is no float32 vector of length 1 (shape {tuple(direction.shape)})"
        )
    if not (0 < found.norm < math.inf and found.layer >= 0):
        raise Damaged(f"no steering vector: layer {found.layer}, norm {found.norm}")
    return found


def to_bytes(vector: SteeringVector) -> bytes:
    """The vector as one safetensors file."""
    tensors, metadata = pack(vector)
    return save(tensors, metadata)


def from_bytes(data: bytes) -> SteeringVector:
    """The vector in a safetensors file. Raises Damaged for what is none."""
    size = int.from_bytes(data[:8], "little")
    try:
        tensors, head = load(data), json.loads(data[8 : 8 + size])
    except Exception as error:  # a parser's own errors, on bytes from elsewhere
        raise Damaged(f"no steering vector: {type(error).__name__}: {error}") from None
    return unpack(tensors, head.get("__metadata__", {}))


# --- below ---------------------------------------------------------------------------------------------------------------

_NOTHING = 1e-4  # of the residual stream's length: what rounding makes of no difference
_UNMEASURED = Statistics(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
_NUMBERS = {
    "pairs": int,
    "kept_out": int,
    "agreement": float,
    "separation": float,
    "effect": float,
    "opposed": float,
    "strength": float,
}


def _change(model: LocalModel, vector: SteeringVector, alpha: float, positions: Positions) -> Alteration:
    key = f"steering:{vector.digest}:{alpha!r}"
    return Alteration(model, key, positions, partial(_added, vector.layer, alpha * vector.norm * vector.direction))


@contextmanager
def _added(layer: int, delta: torch.Tensor, network: Any) -> Iterator[None]:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        states, *rest = output if isinstance(output, tuple) else (output,)
        states = states + delta.to(states.device, states.dtype)
        return (states, *rest) if isinstance(output, tuple) else states

    handle = _layers(network, "the model")[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _layers(network: Any, name: str) -> Any:
    """The decoder's layers, in order."""
    wanted = network.config.get_text_config().num_hidden_layers
    for module in network.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return module
    raise Unsupported(f"{name}: its decoder has no list of {wanted} layers: there is nowhere to steer it")


def _prompt(model: LocalModel, side: Side) -> Prompt:
    if isinstance(side, Prompt):
        return side
    return model.encode(side) if isinstance(side, str) else model.prompt(side)


def _states(model: LocalModel, sides: Sequence[tuple[Prompt, Prompt]], layer: int) -> tuple[torch.Tensor, float]:
    """What stands in the residual stream behind a layer: at the last tokens, float32, of shape [pairs, 2, hidden size], and its mean
    length. The first token is left out of that: what it holds is many times longer in most models, and says nothing of the text."""
    last, lengths = [], []
    for pair in sides:
        for prompt in pair:
            states = _residual(model, prompt, layer)
            last.append(states[-1])
            lengths.append(states[min(1, len(states) - 1) :].norm(dim=-1))
    return torch.stack(last).reshape(len(sides), 2, -1), float(torch.cat(lengths).mean())


def _residual(model: LocalModel, prompt: Prompt, layer: int) -> torch.Tensor:
    """Of all tokens behind a layer, float32, on the CPU, of shape [tokens, hidden size]."""
    cache = model.cache()  # before the hook: the first one costs passes of its own
    seen: list[torch.Tensor] = []

    def hook(module: Any, inputs: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[0].float().cpu())

    with model.exclusive() as network:
        handle = _layers(network, model.name)[layer].register_forward_hook(hook)
        try:
            model.forward(prompt.ids, cache)
        finally:
            handle.remove()
    return seen[0].clone()


def _agreement(apart: torch.Tensor) -> float:
    """Mean cosine between two of the rows."""
    unit = torch.nn.functional.normalize(apart, dim=-1)
    count = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def _separation(along: torch.Tensor) -> float:
    """Cohen's d of two columns."""
    spread = along.var(0).mean().sqrt() if len(along) > 1 else torch.tensor(0.0)
    return float((along[:, 0] - along[:, 1]).mean() / spread.clamp(min=1e-12))


def _effect(
    model: LocalModel, vector: SteeringVector, sides: Sequence[tuple[Prompt, Prompt]], strength: float
) -> tuple[float, float]:
    """See `Statistics`."""
    before, after = [], []
    for first, second in sides:
        wanted = model.forward(first.ids, model.cache())
        before.append(divergence(wanted, model.forward(second.ids, model.cache())))
        cache = model.cache()
        if len(second.ids) > 1:
            model.forward(second.ids[:-1], cache)
        with alteration.altered(_change(model, vector, strength, "all")):
            after.append(divergence(wanted, model.forward(second.ids[-1:], cache)))
    opposed = sum(b < a for b, a in zip(before, after, strict=True)) / len(sides)
    return 1 - sum(after) / max(sum(before), 1e-12), opposed
