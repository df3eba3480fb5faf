"""Keys moved to other positions: how one model turns its keys by their place (rotary position embedding), and turning them on.

A rotated key at position p becomes the key at position q by one more rotation, by the difference of the angles. Values carry no
position. Which entries of a head turn together, by which frequencies, in which layers, is asked of the model itself: one token is run
at two positions, and the convention that takes its keys from one to the other is the model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .errors import Unsupported

TYPES = ("default", "linear", "llama3", "yarn")  # whose frequencies depend on nothing but the configuration
FAR = 500  # positions between the two at which a token is run, at most
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}  # of a key's length; other types round coarser
_COARSE = 3e-2


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """How keys turn with their position.

    frequencies: radians a position of each pair of entries, float32, of shape [pairs]; a head's further entries do not turn.
    interleaved: pairs are neighbours (0, 1), (2, 3), ...; else (0, pairs), (1, pairs + 1), ...
    layers: the layers whose keys turn; the keys of the others carry no position.
    """

    frequencies: torch.Tensor
    interleaved: bool
    layers: tuple[int, ...]

    def moved(self, keys: torch.Tensor, start: int, to: int) -> torch.Tensor:
        """A copy of the keys of consecutive tokens, computed from position `start` on, as they are from position `to` on.

        keys: rotated keys of shape [layers, KV heads, tokens, head dimension]. The scale that YaRN puts on them stays as it is.
        """
        found = keys.clone()
        if start != to:
            where = list(self.layers)
            found[where] = self._turned(keys[where], start, to)
        return found

    def _turned(self, keys: torch.Tensor, start: int, to: int) -> torch.Tensor:
        """In float32; the angles are those that the model rounds to, so that nothing is lost at far positions."""
        places = torch.arange(keys.shape[-2], device=keys.device, dtype=torch.float32)[:, None]
        frequencies = self.frequencies.to(keys.device)
        angles = ((places + to) * frequencies).double() - ((places + start) * frequencies).double()
        cos, sin = angles.cos().float(), angles.sin().float()
        pairs = len(frequencies)
        first, second = self._halves(keys[..., : 2 * pairs].float())
        turned = (first * cos - second * sin, second * cos + first * sin)
        joined = torch.stack(turned, -1).flatten(-2) if self.interleaved else torch.cat(turned, -1)
        return torch.cat([joined.to(keys.dtype), keys[..., 2 * pairs :]], -1)

    def _halves(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.interleaved:
            return keys[..., 0::2], keys[..., 1::2]
        first, second = keys.chunk(2, -1)
        return first, second


def of(model: Any) -> Rotation:
    """The rotation of a LocalModel's keys; see `LocalModel.rotation`.

    Raises Unsupported, by name, for a model whose caches cannot be cut, whose kind of rotary embedding is none of `TYPES`, or whose
    keys do not turn as rotary embeddings do.
    """
    layers, _, width = model.shape
    config = model.network.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise Unsupported(f"{model.name}: it has no rotary position embedding: its keys cannot be moved")
    kind = parameters.get("rope_type", "one for each kind of layer")
    if kind not in TYPES:
        raise Unsupported(f"{model.name}: its rotary embedding is {kind!r}; keys can be moved for {', '.join(TYPES)}")
    far = min(FAR, model.window - 1)
    (here, values), (there, same) = (_alone(model, position) for position in (0, far))
    if not _close(values, same):
        raise Unsupported(f"{model.name}: more than its keys depends on the position: they cannot be moved")
    for candidate in _candidates(model.network, range(layers), width):
        turning = tuple(i for i in range(layers) if not _close(here[i], there[i]))
        moved = Rotation(candidate.frequencies, candidate.interleaved, turning).moved(here, 0, far)
        if turning and all(_close(moved[i], there[i]) for i in turning):
            return Rotation(candidate.frequencies, candidate.interleaved, turning)
    raise Unsupported(f"{model.name}: its keys do not turn with their position as rotary embeddings do")


def _candidates(network: Any, layers: range, width: int) -> Iterator[Rotation]:
    """Every frequency table in the model (a model that sees has several), in both conventions."""
    for module in network.modules():
        table = getattr(module, "inv_freq", None)
        if isinstance(table, torch.Tensor) and table.ndim == 1 and 2 * len(table) <= width:
            for interleaved in (False, True):
                yield Rotation(table.detach().float(), interleaved, tuple(layers))


def _alone(model: Any, position: int) -> torch.Tensor:
    """Keys and values of one token at a position, of shape [2, layers, KV heads, 1, head dimension]. Alone, it attends to itself,
    whatever its keys: so no rounding of one layer reaches the next, and half precision is compared with itself."""
    cache = model.cache()
    word = (
        model.network.get_input_embeddings().weight.shape[0] // 2
    )  # the first tokens may be padding, whose keys are nothing
    model.forward([word], cache, position_ids=torch.tensor([[position]], device=model.device))
    found: torch.Tensor = model.taken(cache, 0, 1)
    return found


def _close(left: torch.Tensor, right: torch.Tensor) -> bool:
    difference = (left.float() - right.float()).norm() / right.float().norm()
    return bool(difference <= _ROUNDING.get(left.dtype, _COARSE))
