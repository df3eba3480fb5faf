"""The cache of one request: keys and values in a buffer with room behind them. Knows transformers' cache layers; knows no prompts."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

GROW = 256  # tokens of room beyond what is asked for


class Room(DynamicLayer):  # type: ignore[misc]  # transformers is untyped to this checker
    """One layer's keys and values in a buffer with room behind them: a token is written, not joined to a copy of all before it."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, room: int = 0) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def over(cls, keys: torch.Tensor, values: torch.Tensor, used: int) -> Room:
        """A layer in buffers of shape [rows, heads, capacity, dimension] of which `used` tokens are filled."""
        layer = cls()
        layer._buffers = (keys, values)
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        layer.keys, layer.values = keys[:, :, :used], values[:, :, :used]
        return layer

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Write tokens behind those that are there; all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used, new = self.get_seq_length(), key_states.shape[-2]
        if not self._fits(used + new):
            capacity = used + new + max(self._room, GROW)
            grown = [t.new_empty((*t.shape[:2], capacity, t.shape[-1])) for t in (key_states, value_states)]
            if used:
                grown[0][:, :, :used], grown[1][:, :, :used] = self.keys, self.values
            self._buffers = (grown[0], grown[1])
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, used : used + new] = states
        self.keys, self.values = (buffer[:, :, : used + new] for buffer in self._buffers)
        return self.keys, self.values

    def _fits(self, tokens: int) -> bool:
        """Whether what is there stands in the buffers (rows may have been selected into tensors of their own) and more would."""
        if self._buffers is None or self._buffers[0].shape[2] < tokens:
            return False
        return self.get_seq_length() == 0 or self.keys.data_ptr() == self._buffers[0].data_ptr()


def empty(layers: int, room: int) -> Cache:
    """A cache of a model whose layers all attend to everything, with room for so many tokens before it must grow."""
    return Cache(layers=[Room(room) for _ in range(layers)])


class Memory:
    """The host's memory of a cache that nobody uses any more, for the next one. Safe for many threads.

    The first touch of new memory costs a page fault for each 4 KiB, several times what copying a block there does. At most `most`
    bytes are kept; a GPU's memory is kept by torch itself.
    """

    def __init__(self, most: int = 256 << 20) -> None:
        self._most = most
        self._free: deque[np.ndarray[Any, Any]] = deque(maxlen=1)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of whatever was there before."""
        size = prod(shape) * dtype.itemsize
        try:
            whole = self._free.pop()
        except IndexError:
            whole = np.empty(0, np.uint8)
        if whole.nbytes < size:  # what is not touched costs nothing, and the next prompt is often a little longer
            whole = torch.empty(1 << max(20, (size - 1).bit_length()), dtype=torch.uint8).numpy()
        lent = whole[:size]  # lives as long as any tensor over it
        weakref.finalize(lent, self._give_back, whole).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)

    def _give_back(self, whole: np.ndarray[Any, Any]) -> None:
        if whole.nbytes <= self._most:
            self._free.append(whole)


def over(
    blocks: Sequence[tuple[torch.Tensor, int]],
    layers: int,
    room: int,
    dtype: torch.dtype,
    device: torch.device,
    memory: Memory,
) -> Cache:
    """The same, filled with copies of blocks: tensors of [2, layers, heads, tokens, dimension], and how many tokens of each."""
    held = sum(tokens for _, tokens in blocks)
    _, _, heads, _, width = blocks[0][0].shape
    shape = (2, layers, 1, heads, held + room + GROW, width)
    whole = memory.take(shape, dtype) if device.type == "cpu" else torch.empty(shape, dtype=dtype, device=device)
    at = 0
    for tensor, tokens in blocks:
        whole[:, :, 0, :, at : at + tokens].copy_(tensor[..., :tokens, :], non_blocking=True)
        at += tokens
    return Cache(layers=[Room.over(whole[0, i], whole[1, i], held) for i in range(layers)])
