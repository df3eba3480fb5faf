"""Blocks of keys and values that were computed apart, joined into one stretch of a prompt. An approximation, to be asked for.

What stands before a token decides its keys and values. A block computed behind other tokens than those it is used behind lacks what it
would have seen, and its first tokens were looked at as if they began the text. Joining takes three steps: keys are turned on to their
new positions (`rotation`), blocks are laid behind one another, and a share of the tokens is run again behind all that now precedes
them: the first of each block (LegoLink: EPIC, arXiv 2410.15332), or those whose keys and values are furthest from what they
should be in the first layers (CacheBlend, arXiv 2405.16444). How good that is depends on model and text: see `guard`.

Knows tensors and positions; knows no memories. Blocks are read and never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.cache_utils import Cache, DynamicLayer

from . import alteration, attention
from .errors import ContextTooLong, InvalidArgument, Unsupported
from .model import LocalModel

ATTENTIONS = ("sdpa", attention.NAME, "eager")  # implementations that take a mask of one's own


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Keys and values of the tokens `ids`, computed behind the tokens `behind` (from position 0 on) and nothing else.

    tensor: of shape [2, layers, KV heads, tokens, head dimension], keys (rotated) first.
    """

    ids: tuple[int, ...]
    tensor: torch.Tensor
    behind: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        """The position at which its first token was computed."""
        return len(self.behind)


@dataclass(frozen=True, slots=True)
class Repair:
    """Which tokens of a composition are run again.

    method: "deviation": those whose keys and values deviate most in the first layers, which are run for all tokens to see it, and are
        exact from then on; "first": the first of each block, which costs no more than its share; "none".
    share: of the tokens of all blocks, at most. With "first" the blocks draw from it in turn.
    first: tokens of a block at most, for "first".
    depth: layers that are run for all tokens, for "deviation".
    """

    method: Literal["first", "deviation", "none"] = "deviation"
    share: float = 0.15
    first: int = 32
    depth: int = 1

    def __post_init__(self) -> None:
        if self.method not in ("first", "deviation", "none"):
            raise InvalidArgument(f"method: first, deviation or none, not {self.method!r}")
        if not 0 <= self.share <= 1:
            raise InvalidArgument(f"share: a part of the tokens, between 0 and 1, not {self.share!r}")
        if self.first < 1 or self.depth < 1:
            raise InvalidArgument(f"first, depth: at least 1, not {self.first!r} and {self.depth!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """Keys and values of blocks at their new places, of shape [2, layers, KV heads, tokens, head dimension].

    recomputed: which tokens were run again through all layers, counted from the first block's first.
    exact: how many tokens needed no repair, since their block stands behind the very tokens that it was computed behind.
    work: what the repair ran, in token-layers, as a share of what prefilling the blocks would.
    """

    tensor: torch.Tensor
    recomputed: tuple[int, ...]
    exact: int
    work: float

    @property
    def share(self) -> float:
        """The share of the tokens that were run again."""
        return len(self.recomputed) / self.tensor.shape[-2]


def independent(model: LocalModel, ids: Sequence[int], behind: Block | None = None) -> Block:
    """A block computed behind a beginning: best that of the prompts in which it will stand, at least the token that begins a text.
    Without one its first tokens are looked at as the beginning.

    Raises InvalidArgument for no tokens, Unsupported for a model whose caches cannot be cut.
    """
    if not ids:
        raise InvalidArgument("ids: a block has at least one token")
    if behind is not None and behind.behind:
        raise InvalidArgument("behind: it must begin at position 0")
    _ = model.shape  # refuses those whose caches cannot be cut
    held = [] if behind is None else [(behind.tensor, len(behind.ids))]
    cache = model.cache(held, len(ids))
    at = 0 if behind is None else len(behind.ids)
    with alteration.plain():
        model.forward(list(ids), cache)
    return Block(tuple(ids), model.taken(cache, at, at + len(ids)), () if behind is None else behind.ids)


def recompose(
    model: LocalModel, prefix: Block | None, blocks: Sequence[Block], *, repair: Repair | None = None
) -> Composed:
    """Blocks behind a prefix and one another, in their order, as one stretch of keys and values; the prefix is not in it.

    prefix: the prompt's beginning, computed from position 0 on. repair: `Repair()` if None.

    Raises:
        Unsupported: the model's keys cannot be moved (see `LocalModel.rotation`), or its attention takes no mask of one's own.
        InvalidArgument: no block, or one whose tensor is not of its tokens and this model.
        ContextTooLong: they do not fit the window.
        OutOfMemory: the device has no room for them.
    """
    repair = repair or Repair()
    before = [] if prefix is None else [prefix]
    _check(model, before, blocks, repair)
    chosen: list[int] = []
    depth = 0
    with torch.inference_mode(), model.memory_errors(), alteration.plain():
        laid = _Laid.of(model, before, blocks)
        if laid.stale and repair.method == "first":
            chosen = _first(laid, repair)
        elif laid.stale and repair.method == "deviation":
            depth = min(repair.depth, model.shape[0] - 1)
            chosen = _deviating(model, laid, depth, int(repair.share * laid.tokens))
        _run_again(model, laid, chosen)
        return laid.composed(chosen, depth)


@dataclass(frozen=True, slots=True, eq=False)
class _Laid:
    """Blocks laid behind one another: `whole` of shape [2, layers, 1, heads, prefix and blocks, dimension] is to be repaired in place.

    spans: of the blocks, counted from the prompt's first token; stale: those of them that stand behind other tokens than before.
    """

    whole: torch.Tensor
    ids: tuple[int, ...]
    start: int
    spans: tuple[tuple[int, int], ...]
    stale: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, model: LocalModel, prefix: Sequence[Block], blocks: Sequence[Block]) -> _Laid:
        rotation = model.rotation
        layers, heads, width = model.shape
        ids = tuple(id for b in (*prefix, *blocks) for id in b.ids)
        whole = torch.empty((2, layers, 1, heads, len(ids), width), dtype=model.dtype, device=model.device)
        spans, stale, at = [], [], 0
        for block in (*prefix, *blocks):
            end = at + len(block.ids)
            tensor = block.tensor.to(model.device)
            whole[0, :, 0, :, at:end] = rotation.moved(tensor[0], block.start, at)
            whole[1, :, 0, :, at:end] = tensor[1]
            spans.append((at, end))
            if block.behind != ids[:at]:
                stale.append((at, end))
            at = end
        return cls(whole, ids, sum(len(b.ids) for b in prefix), tuple(spans[len(prefix) :]), tuple(stale))

    @property
    def tokens(self) -> int:
        return len(self.ids) - self.start

    def composed(self, chosen: Sequence[int], depth: int) -> Composed:
        """The result, after the tokens `chosen` were run again, and `depth` layers of all from the first stale one on."""
        layers = self.whole.shape[1]
        ran = len(chosen) * layers + (depth * (len(self.ids) - self.stale[0][0]) if depth else 0)
        return Composed(
            self.whole[:, :, 0, :, self.start :].clone(),
            tuple(i - self.start for i in chosen),
            self.tokens - sum(end - at for at, end in self.stale),
            ran / (layers * self.tokens),
        )


def _first(laid: _Laid, repair: Repair) -> list[int]:
    """The first tokens of every stale block, in turn, as far as the budget goes."""
    budget = int(repair.share * laid.tokens)
    most = max(end - at for at, end in laid.stale)
    turns = (at + turn for turn in range(min(most, repair.first)) for at, end in laid.stale if at + turn < end)
    return sorted(index for index, _ in zip(turns, range(budget), strict=False))


def _deviating(model: LocalModel, laid: _Laid, depth: int, budget: int) -> list[int]:
    """The stale tokens whose keys and values deviate most in layers 1 to `depth` (in layer 0 nothing deviates: it sees single tokens).
    What those layers gave is kept: it is exact, for every token."""
    begin = laid.stale[0][0]
    fresh = _shallow(model, laid, begin, depth)
    old = laid.whole[:, 1 : depth + 1, 0, :, begin:].float()
    size = (
        old.square().sum((-3, -1)).mean(-1)[..., None]
    )  # of a layer's keys, and of its values, so that all count alike
    deviation = ((fresh[:, 1:].float() - old).square().sum((-3, -1)) / size).sum((0, 1))
    laid.whole[:, : depth + 1, 0, :, begin:] = fresh
    stale = torch.tensor([i for at, end in laid.stale for i in range(at, end)])
    best = deviation.cpu()[stale - begin].argsort(descending=True, stable=True)[:budget]
    return sorted(int(i) for i in stale[best])


def _shallow(model: LocalModel, laid: _Laid, begin: int, depth: int) -> torch.Tensor:
    """Exact keys and values of layers 0 to `depth` of all tokens from `begin` on: of shape [2, depth + 1, heads, tokens, dimension]."""
    layers = [_Held(laid.whole[0, i, :, :, :begin], laid.whole[1, i, :, :, :begin]) for i in range(depth)]
    last = _Last(laid.whole[0, depth, :, :, :begin], laid.whole[1, depth, :, :, :begin])
    unused = [DynamicLayer() for _ in range(depth + 1, laid.whole.shape[1])]
    with suppress(_Reached):
        model.forward(laid.ids[begin:], Cache(layers=[*layers, last, *unused]))
    return torch.stack([torch.stack([layer.keys, layer.values])[:, 0, :, begin:] for layer in (*layers, last)], 1)


def _run_again(model: LocalModel, laid: _Laid, chosen: Sequence[int]) -> None:
    """Replace keys and values of tokens, in every layer, by what they are behind all that precedes them."""
    if not chosen:
        return
    where = torch.tensor(chosen, device=model.device)
    hidden = torch.arange(len(laid.ids), device=model.device)[None] > where[:, None]
    mask = torch.zeros(hidden.shape, dtype=model.dtype, device=model.device)
    mask = mask.masked_fill(hidden, torch.finfo(model.dtype).min)[None, None]
    cache = Cache(layers=[_Patched(k, v, where) for k, v in zip(*laid.whole, strict=True)])
    model.forward([laid.ids[i] for i in chosen], cache, position_ids=where[None], attention_mask=mask)


class _Held(DynamicLayer):  # type: ignore[misc]  # transformers is untyped to this checker
    """One layer of a cache, beginning with keys and values that stay as they are."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values


class _Patched(_Held):
    """Keys and values of all tokens, in which those of some are replaced where they stand."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, where: torch.Tensor) -> None:
        super().__init__(keys, values)
        self._where = where

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        self.keys[:, :, self._where] = key_states
        self.values[:, :, self._where] = value_states
        return self.keys, self.values


class _Last(_Held):
    """The last layer that is wanted: what follows its keys and values is not run."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        super().update(key_states, value_states)
        raise _Reached


class _Reached(Exception):
    """Ends a pass at the layer that was wanted."""


def _check(model: LocalModel, prefix: Sequence[Block], blocks: Sequence[Block], repair: Repair) -> None:
    if not blocks:
        raise InvalidArgument("blocks: there is none")
    kind = getattr(model.network.config, "_attn_implementation", None)
    if repair.method != "none" and kind not in ATTENTIONS:
        raise Unsupported(
            f"{model.name}: its attention is {kind!r}: tokens can be run again with {', '.join(ATTENTIONS)}"
        )
    layers, heads, width = model.shape
    for block in (*prefix, *blocks):
        wanted = (2, layers, heads, len(block.ids), width)
        if tuple(block.tensor.shape) != wanted or not block.ids:
            raise InvalidArgument(
                f"blocks: a tensor of shape {wanted} belongs to {len(block.ids)} tokens, not {tuple(block.tensor.shape)}"
            )
    if any(block.behind for block in prefix):
        raise InvalidArgument("prefix: it must begin at position 0")
    total = sum(len(b.ids) for b in (*prefix, *blocks))
    if total > model.window:
        raise ContextTooLong(f"{model.name}: {total} tokens are more than its window of {model.window}")
