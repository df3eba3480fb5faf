"""Keys and values of prompts, held in memory between requests: a tree of blocks on the device and, behind it, on the host.

Knows tensors and bytes; knows no model and no disk. A block's keys and values are one tensor of shape [2, layers, KV heads, tokens,
head dimension] (keys first), never changed after it was put and never handed out but to be copied from. Budgets are in bytes and hold
at every moment. What does not fit on the device moves to the host, what does not fit there is dropped: it can be computed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from . import chain


@dataclass(frozen=True, slots=True)
class Found:
    """A stretch of a prompt that is held: the first `tokens` tokens of `tensor` (it may hold more)."""

    key: str
    tensor: torch.Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class Opening:
    """Keys and values held elsewhere, of tokens of a prompt behind those held here: `front` tokens are to be run first, meanwhile
    the rest comes; `blocks` waits for it and gives tensors of [2, layers, heads, tokens, dimension], in order."""

    front: int
    blocks: Callable[[], Sequence[torch.Tensor]]


@dataclass(slots=True)
class _Node:
    key: str
    parent: str
    ids: tuple[int, ...]
    tensor: torch.Tensor
    sources: frozenset[str]
    on_device: bool
    used: int = 0

    @property
    def bytes(self) -> int:
        return self.tensor.nbytes


@dataclass(frozen=True, slots=True)
class _Link:
    """A block that matches a prompt behind others that do, and how many of its tokens match."""

    node: _Node
    tokens: int
    before: _Link | None


@dataclass(frozen=True, slots=True)
class Held:
    """What a shelf holds: bytes on the device and on the host, and blocks."""

    device_bytes: int
    host_bytes: int
    blocks: int


class Shelf:
    """Blocks of one model's prompts. Safe for many threads.

    Args:
        device: where the model is. On a CPU there is one memory, and the host's budget is not used.
        device_bytes, host_bytes: budgets; 0 holds nothing.
    """

    def __init__(self, device: torch.device, device_bytes: int, host_bytes: int) -> None:
        self._device = device
        self._budgets = {True: device_bytes, False: host_bytes if device.type != "cpu" else 0}
        self._used = {True: 0, False: 0}
        self._nodes: dict[str, _Node] = {}
        self._children: dict[str, set[str]] = {}  # of roots, which are no nodes
        self._worth: dict[str, float] = {}
        self._time = 0
        self._lock = threading.RLock()

    @property
    def budgets(self) -> tuple[int, int]:
        """Bytes that may be held on the device and on the host."""
        return self._budgets[True], self._budgets[False]

    def held(self) -> Held:
        """How much is held now."""
        with self._lock:
            return Held(self._used[True], self._used[False], len(self._nodes))

    def find(self, start: str, ids: Sequence[int], *, using: bool = True) -> list[Found]:
        """The longest stretch from the beginning of `ids` that is held under a root, in order. Its last block may match in part. Unless
        it is only looked at, it counts as used now."""
        furthest, best = 0, None
        with self._lock:
            # what is held under a root may branch within a block: every branch that `ids` could take is followed to its end
            open_ends: list[tuple[str, int, _Link | None]] = [(start, 0, None)]
            while open_ends:
                parent, at, before = open_ends.pop()
                for key in self._below(parent):
                    node = self._nodes[key]
                    same = chain.common(node.ids, ids[at : at + len(node.ids)])
                    link = _Link(node, same, before)
                    if at + same > furthest:
                        furthest, best = at + same, link
                    if same == len(node.ids):
                        open_ends.append((key, at + same, link))
            found: list[Found] = []
            while best is not None:
                found.append(Found(best.node.key, best.node.tensor, best.tokens))
                best = best.before
            found.reverse()
            for each in found if using else ():
                self._touch(self._nodes[each.key])
        return found

    def put(
        self, start: str, parent: str, ids: Sequence[int], tensor: torch.Tensor, sources: Collection[str] = ()
    ) -> str | None:
        """Hold the block of tokens `ids` that follows the block `parent` (or the root `start`); its key, or None if there is no room
        for it or what precedes it is gone. `tensor` must be the caller's to give away. A block that says the beginning of this one takes no room beside it.

        sources: ids of the memories that the block or one before it was made from: `forget` drops it with any of them.
        """
        key = chain.key(parent, ids)
        with self._lock:
            if key in self._nodes:
                self._touch(self._nodes[key])
                return key
            if parent != start and parent not in self._nodes:
                return None
            known = self._nodes[parent].sources if parent != start else frozenset[str]()
            node = _Node(key, parent, tuple(ids), tensor, known | frozenset(sources), on_device=True)
            line = self._line(parent)
            needed = node.bytes + sum(self._nodes[k].bytes for k in line if self._nodes[k].on_device)
            if needed > self._budgets[True]:
                return None
            for shorter in [k for k in self._below(parent) if self._begins(k, node)]:
                self._drop(shorter)
            self._make_room(True, node.bytes, keep=line)
            self._nodes[key] = node
            self._children.setdefault(parent, set()).add(key)
            self._used[True] += node.bytes
            self._touch(node)
        return key

    def value(self, worth: Mapping[str, float]) -> None:
        """Say what blocks are worth, by key, in place of what was said before: those worth least go first, those of which nothing is
        said are worth 0, and of equals those go first that were used longest ago."""
        with self._lock:
            self._worth = dict(worth)

    def on_device(self, keys: Iterable[str]) -> bool:
        """Whether all of these blocks are held on the device."""
        with self._lock:
            return all(key in self._nodes and self._nodes[key].on_device for key in keys)

    def demote(self, keys: Iterable[str]) -> int:
        """Move blocks from the device to the host, as far as there is room there; how many."""
        with self._lock:
            there = [self._nodes[k] for k in keys if k in self._nodes and self._nodes[k].on_device]
            return sum(self._demote(node, set()) for node in reversed(there)) if self._budgets[False] else 0

    def drop(self, keys: Iterable[str]) -> int:
        """Drop blocks and all that follow them; how many."""
        with self._lock:
            return sum(self._drop(key) for key in list(keys))

    def forget(self, sources: Iterable[str]) -> int:
        """Drop every block that was made from one of these memories; how many."""
        gone = frozenset(sources)
        with self._lock:
            return sum(self._drop(k) for k in [k for k, n in self._nodes.items() if n.sources & gone])

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            for key in list(self._nodes):
                self._drop(key)

    # --- below -----------------------------------------------------------------------------------------------------------

    def _below(self, parent: str) -> set[str]:
        return self._children.get(parent, set())

    def _begins(self, key: str, node: _Node) -> bool:
        """Whether a block without children is the beginning of a node's."""
        ids = self._nodes[key].ids
        return not self._below(key) and node.ids[: len(ids)] == ids

    def _touch(self, node: _Node) -> None:
        self._time += 1
        node.used = self._time

    def _line(self, key: str) -> set[str]:
        """A block and all before it: not to be dropped for what follows them."""
        found = set()
        while key in self._nodes:
            found.add(key)
            key = self._nodes[key].parent
        return found

    def _make_room(self, on_device: bool, size: int, keep: set[str]) -> bool:
        """Move out or drop blocks without children in the same place, the least worth and least recently used first, until `size`
        bytes fit."""
        if size > self._budgets[on_device]:
            return False
        while self._used[on_device] + size > self._budgets[on_device]:
            victim = min((n for n in self._leaves(on_device) if n.key not in keep), key=self._order, default=None)
            if victim is None:
                return False
            if not on_device or not self._demote(victim, keep):
                self._drop(victim.key)
        return True

    def _order(self, node: _Node) -> tuple[float, int]:
        return self._worth.get(node.key, 0.0), node.used

    def _leaves(self, on_device: bool) -> Iterator[_Node]:
        for node in self._nodes.values():
            if node.on_device == on_device and not any(
                self._nodes[c].on_device == on_device for c in self._below(node.key)
            ):
                yield node

    def _demote(self, node: _Node, keep: set[str]) -> bool:
        """Move a block from the device to the host, in pinned memory, from which it comes back fastest."""
        if not self._make_room(False, node.bytes, keep | self._line(node.key) | self._below(node.key)):
            return False
        moved = torch.empty_like(node.tensor, device="cpu", pin_memory=self._device.type == "cuda")
        moved.copy_(node.tensor)
        self._used[True] -= node.bytes
        node.tensor, node.on_device = moved, False
        self._used[False] += node.bytes
        return True

    def _drop(self, key: str) -> int:
        """Drop a block and all that follow it, which without it are unreachable; how many."""
        if key not in self._nodes:
            return 0
        siblings = self._children[self._nodes[key].parent]
        siblings.discard(key)
        if not siblings:
            del self._children[self._nodes[key].parent]
        gone = [key]
        for each in gone:  # it grows meanwhile
            gone.extend(self._children.pop(each, ()))
            node = self._nodes.pop(each)
            self._used[node.on_device] -= node.bytes
        return len(gone)
