"""Whole caches of whole prompts, for models whose caches cannot be cut: sliding windows, recurrent states.

Knows caches as things to copy; a snapshot is good only for going on at exactly its end. What is kept is a copy, what is handed out is one.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch


class Snapshots:
    """Caches by the tokens that made them, the least recently used going first. Safe for many threads. `budget` is in bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def find(self, start: str, ids: Sequence[int]) -> tuple[int, Any]:
        """How many tokens the longest kept beginning of `ids` has under a root, and a copy of its cache; (0, None) without one."""
        with self._lock:
            known = max(
                (k for k in self._kept if k[0] == start and tuple(ids[: len(k[1])]) == k[1]),
                key=lambda k: len(k[1]), default=None,
            )  # fmt: skip
            if known is None:
                return 0, None
            self._kept.move_to_end(known)
            return len(known[1]), copy.deepcopy(self._kept[known][0])

    def put(self, start: str, ids: Sequence[int], cache: Any) -> bool:
        """Keep a copy of a cache, if the budget has room for it."""
        size = size_of(cache)
        if size > self._budget:
            return False
        with self._lock:
            self._drop((start, tuple(ids)))
            while self.bytes + size > self._budget:
                self._drop(next(iter(self._kept)))
            self._kept[start, tuple(ids)] = (copy.deepcopy(cache), size)
            self.bytes += size
        return True

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def _drop(self, key: tuple[str, tuple[int, ...]]) -> None:
        if key in self._kept:
            self.bytes -= self._kept.pop(key)[1]


def size_of(cache: Any) -> int:
    """Bytes of all tensors in a cache."""
    found: dict[int, int] = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            for tensor in (
                value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
            ):
                if isinstance(tensor, torch.Tensor):
                    found[id(tensor)] = tensor.nbytes
    return sum(found.values())
