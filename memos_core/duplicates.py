"""Memories that say nearly the same, proposed to be fused; and fusing memories of text. Knows vault and writer; decides nothing.

Two are near when the cosine of their vectors is high *and* they share most of their words: a number or a name that differs is one word in
ten, and hardly any of the cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import numpy as np

from . import filters, governance, lifecycle
from .embedding import Embedding, spoken
from .errors import InvalidArgument
from .tables import Candidate
from .types import MemCube, Namespace, Text
from .vault import Vault
from .words import readings
from .writing import Writer

MOST = 20_000  # memories that are held against each other at once
_BLOCK = 2_000


class Duplicates:
    """The near duplicates of one store. Safe for many threads."""

    def __init__(self, vault: Vault, writer: Writer, embedding: Embedding, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._writer = writer
        self._embedding = embedding
        self._clock = clock

    def near(self, who: str, namespace: Namespace, least: float) -> list[list[MemCube]]:
        """Groups of an actor's own memories of text, each near to another of its group, the oldest of each first. Raises
        InvalidArgument for more than `MOST` of them."""
        now = self._clock()
        where = filters.all_of(
            filters.readable_by(who), f"owner = {filters.literal(str(who))}", filters.under(namespace), filters.current(now),
            filters.in_states(lifecycle.LIVE), "vector_checksum IS NOT NULL", "kind = 'plaintext'",
        )  # fmt: skip
        if (count := self._vault.count(where)) > MOST:
            raise InvalidArgument(
                f"namespace: {count:,} memories, and at most {MOST:,} are held against each other: choose a smaller one"
            )
        found = self._vault.candidates(where)
        above = list(range(len(found)))

        def root(i: int) -> int:
            while above[i] != i:
                i = above[i]
            return i

        for a, b in _pairs(found, least):
            above[max(root(a), root(b))] = min(root(a), root(b))
        groups: dict[int, list[MemCube]] = {}
        for i, candidate in enumerate(found):
            if above[i] != i or i in above[:i] + above[i + 1 :]:
                groups.setdefault(root(i), []).append(candidate.cube)
        return [sorted(group, key=lambda c: (c.created_at, c.id)) for group in groups.values()]

    def fuse(self, who: str, ids: Sequence[str]) -> MemCube:
        """One memory of text out of several: the first of them in its next version, with the lines of the others. These are archived and
        linked to; their histories stay theirs, and deleting one deletes what its words went into. Who may not read all of them may not
        read it."""
        return self._writer.until_written(lambda: self._fused(who, ids), f"one of {len(ids)} memories to fuse")

    def _fused(self, who: str, ids: Sequence[str]) -> MemCube | None:
        """Read, fuse, write; None if somebody changed one of them in between."""
        first, *others = self._checked(who, ids)
        now = self._clock()
        access = governance.narrowed(first.access, governance.derived_access(who, [c.access for c in others]))
        new = lifecycle.fused(first, others, access, now)
        [vector] = self._embedding.many([spoken(new.origin.speaker, new.text)])
        gone = [lifecycle.archive(c, now) for c in others]
        with self._vault.writing():
            if self._checked(who, ids) != [first, *others]:
                return None
            self._vault.replace([first, *others], [new, *gone], [vector, *(None for _ in gone)])
            self._writer.tell(who, "fuse", [new], now)
            self._writer.tell(who, "archive", gone, now)
            self._writer.carry_on([first], [new], who)
        return new

    def _checked(self, who: str, ids: Sequence[str]) -> list[MemCube]:
        cubes = self._writer.readable(ids, who)
        if len(cubes) < 2:
            raise InvalidArgument(f"ids: two memories or more can be fused, not {len(cubes)}")
        for cube in cubes:
            governance.require_owner(who, cube)
            if not isinstance(cube.payload, Text) or lifecycle.is_passage(cube):
                raise InvalidArgument(f"ids: memory {cube.id} holds no text of its own")
        return cubes


def _pairs(found: Sequence[Candidate], least: float) -> Iterator[tuple[int, int]]:
    vectors = np.stack([c.vector for c in found if c.vector is not None]) if found else np.zeros((0, 1), np.float32)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    words = [frozenset(token for token, _ in readings(c.text)) for c in found]
    for start in range(0, len(found), _BLOCK):
        near = vectors[start : start + _BLOCK] @ vectors[: start + _BLOCK].T
        for a, b in zip(*np.nonzero(near >= least), strict=True):
            one, other = start + int(a), int(b)
            if other < one and _overlap(words[one], words[other]) >= least:
                yield one, other


def _overlap(some: frozenset[str], others: frozenset[str]) -> float:
    return len(some & others) / max(1, len(some | others))
