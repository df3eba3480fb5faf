"""Whole caches of whole prompts, for models whose caches cannot be cut: sliding windows, recurrent states.

Knows caches as things to copy; a snapshot is good only for going on at exactly its end. What is kept is a copy, what is handed out is one.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class _Kept:
    cache: Any
    bytes: int
    sources: frozenset[str]


class Snapshots:
    """Caches by the tokens that made them, the least recently used going first. Safe for many threads. `budget` is in bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], _Kept] = OrderedDict()
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
            return len(known[1]), _copied(self._kept[known].cache)

    def put(self, start: str, ids: Sequence[int], cache: Any, sources: Collection[str] = ()) -> bool:
        """Keep a copy of a cache, if the budget has room for it. sources: ids of the memories that it was made from."""
        size = size_of(cache)
        if size > self._budget:
            return False
        with self._lock:
            self._drop((start, tuple(ids)))
            while self.bytes + size > self._budget:
                self._drop(next(iter(self._kept)))
            self._kept[start, tuple(ids)] = _Kept(_copied(cache), size, frozenset(sources))
            self.bytes += size
        return True

    def forget(self, sources: Iterable[str]) -> int:
        """Drop what was made from one of these memories; how many."""
        gone = frozenset(sources)
        with self._lock:
            found = [key for key, kept in self._kept.items() if kept.sources & gone]
            for key in found:
                self._drop(key)
        return len(found)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def _drop(self, key: tuple[str, tuple[int, ...]]) -> None:
        if key in self._kept:
            self.bytes -= self._kept.pop(key).bytes


def size_of(cache: Any) -> int:
    """Bytes of all tensors in a cache."""
    return sum({id(t): t.nbytes for t in _tensors(cache)}.values())


def _copied(cache: Any) -> Any:
    """A copy in memory of its own size: a tensor may be a part of a far larger one, as those of sliding windows are, and Python's own
    copy would take all of that."""
    return copy.deepcopy(cache, {id(t): t.clone(memory_format=torch.contiguous_format) for t in _tensors(cache)})


def _tensors(cache: Any) -> Iterator[torch.Tensor]:
    for layer in cache.layers:
        for value in vars(layer).values():
            several = (
                value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
            )
            yield from (t for t in several if isinstance(t, torch.Tensor))
