"""Snapshots, what changed since one, and going back to it. Knows vault, writer and embedder; the rules are `timeline`'s.

A snapshot is an event, and going back writes new versions in front of the ones that are there: nothing is copied, the log is never taken
back, and what was deleted since is not brought back, because nothing of it was kept.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime

from . import filters, governance, lifecycle, timeline
from .embedding import Embedding, spoken
from .errors import InvalidArgument, NotFound
from .tables import Row, Vector
from .timeline import Difference, Rollback, Snapshot, Telling
from .types import Event, MemCube, Namespace, State, Text
from .vault import Vault
from .writing import Writer

_TAKE, _DROP = "snapshot", "drop snapshot"
_MANY = 5_000  # memories from which on reading what was told of all is cheaper than asking for these


@dataclass(frozen=True, slots=True)
class Reach:
    """Which memories a rollback may touch: those at or below a namespace, or one; the actor's own, or everybody's."""

    who: str
    namespace: Namespace = ()
    id: str | None = None
    everybody: bool = False

    def holds(self, cube: MemCube) -> bool:
        """Whether it may touch this one."""
        if self.id is not None and cube.id != self.id:
            return False
        here = cube.namespace[: len(self.namespace)] == self.namespace
        return here and (self.everybody or cube.access.owner == self.who)


@dataclass(frozen=True, slots=True)
class _Plan:
    pairs: list[tuple[MemCube, MemCube]]
    left: dict[str, str]


class TimeMachine:
    """The moments of one store. Safe for many threads."""

    def __init__(self, vault: Vault, writer: Writer, embedding: Embedding, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._writer = writer
        self._embedding = embedding
        self._clock = clock

    # --- snapshots -----------------------------------------------------------------------------------------------------

    def snapshot(self, who: str, name: str) -> Snapshot:
        """Remember this moment. Raises InvalidArgument if the actor has a snapshot of that name."""
        with self._vault.writing():
            if any(s.name == name for s in self.snapshots(who)):
                raise InvalidArgument(f"name: there is a snapshot {name!r} already: drop it, or choose another name")
            self._mark(who, _TAKE, name)
            return self.named(who, name)

    def snapshots(self, who: str) -> list[Snapshot]:
        """The actor's, in the order in which they were taken."""
        found: dict[str, Snapshot] = {}
        for at, verb, name, number in self._vault.marks(who, (_TAKE, _DROP)):
            found.pop(name, None)
            if verb == _TAKE:
                found[name] = Snapshot(name, who, at, number)
        return list(found.values())

    def named(self, who: str, name: str) -> Snapshot:
        """One of them. Raises NotFound."""
        for found in self.snapshots(who):
            if found.name == name:
                return found
        raise NotFound(f"no snapshot {name!r}")

    def drop(self, who: str, name: str) -> None:
        """Remember it no more. Raises NotFound."""
        with self._vault.writing():
            self.named(who, name)
            self._mark(who, _DROP, name)

    # --- differences ---------------------------------------------------------------------------------------------------

    def diff(self, who: str, a: str, b: str | None) -> Difference:
        """How one moment differs from another, or from now, as far as the actor may read it."""
        now = self._clock()
        first = self.named(who, a)
        second = Snapshot("", who, now, 2**62) if b is None else self.named(who, b)
        scope = f"actor = {filters.literal(who)} OR {filters.readable_by(who)}"
        start, end = sorted((first.number, second.number))
        between = filters.all_of(f"number > {start}", f"number <= {end}")
        touched = {t.subject for t in self._tellings(filters.all_of(scope, between))}
        told = self._told(touched | self._lapsed(who, first.at, second.at), scope)
        rows = {r.cube.id: r.cube for r in self._vault.by_ids(sorted({t.subject for t in told}))}
        gone = timeline.deleted_since(told, start)
        seen = {t.subject for t in told if _is_shown(t.subject, who, rows, gone)}
        told = [t for t in told if t.subject in seen]
        before, after = (timeline.versions_at(told, s.number) for s in (first, second))
        past = self._vault.past_versions([id for id in sorted(seen) if id in rows])

        def held(id: str, version: int) -> MemCube | None:
            cube = rows.get(id)
            return cube if cube is not None and cube.version == version else past.get((id, version))

        between_them = frozenset(t.subject for t in told if t.verb == "delete" and start < t.number <= end)
        return timeline.difference(before, after, between_them, held, (first.at, second.at))

    def _lapsed(self, who: str, a: datetime, b: datetime) -> set[str]:
        """What of an actor's ran out between two times, which nobody may have told of yet."""
        start, end = (filters.literal(at) for at in sorted((a, b)))
        ran_out = f"expires_at > {start} AND expires_at <= {end}"
        return set(self._vault.column("id", filters.all_of(filters.readable_by(who), ran_out)))

    # --- going back ----------------------------------------------------------------------------------------------------

    def rollback(self, reach: Reach, name: str, transaction: Callable[[], AbstractContextManager[None]]) -> Rollback:
        """Make what is in reach what it was, as new versions in front, all or nothing. Texts are embedded before the lock is taken."""
        moment, now = self.named(reach.who, name), self._clock()
        vectors: dict[str, Vector] = {}
        self._embed(vectors, self._plan(reach, moment.number, now).pairs)
        with transaction():
            plan = self._plan(reach, moment.number, now)
            self._embed(vectors, plan.pairs)
            old, new = [a for a, _ in plan.pairs], [b for _, b in plan.pairs]
            self._vault.put(old, new, [vectors[_said(b)] if _says_other(a, b) else None for a, b in plan.pairs])
            self._writer.tell(reach.who, "rollback", new, now)
            if new:
                self._writer.carry_on(old, new, reach.who, spare={c.id for c in new})
            back = tuple(c.id for c in new if c.state is not State.EXPIRED)
            off = tuple(c.id for c in new if c.state is State.EXPIRED)
            done = f"to {name!r}: {len(back)} as they were, {len(off)} withdrawn, {len(plan.left)} left"
            self._mark(reach.who, "rollback", done)
        return Rollback(reach.who, now, name, back, off, plan.left)

    def _plan(self, reach: Reach, number: int, now: datetime) -> _Plan:
        """What becomes of the memories in reach that changed since a moment."""
        if reach.id is not None:
            [cube] = self._writer.readable([reach.id], reach.who) if not reach.everybody else self._cubes([reach.id])
            if not reach.everybody:
                governance.require_owner(reach.who, cube)
            ids = {reach.id}
        else:
            scope = None if reach.everybody else filters.readable_by(reach.who)
            ids = {t.subject for t in self._tellings(filters.all_of(scope, f"number > {number}"))}
        cubes = [c for c in self._cubes(sorted(ids)) if reach.holds(c)]
        told = self._told({c.id for c in cubes}, None)
        versions, gone = timeline.versions_at(told, number), timeline.deleted_since(told, number)
        changed = [c for c in cubes if c.id in gone or versions.get(c.id) != c.version]
        past = self._vault.past_versions([c.id for c in changed if c.id in versions and c.id not in gone])
        plan = _Plan([], {})
        for cube in changed:
            was = None if cube.id in gone else versions.get(cube.id)  # else another memory had this id then
            new, why = self._becomes(cube, was, past, now)
            if why is not None:
                plan.left[cube.id] = why
            elif new is not cube:
                plan.pairs.append((cube, new))
        return plan

    def _becomes(
        self, cube: MemCube, version: int | None, past: Mapping[tuple[str, int], MemCube], now: datetime
    ) -> tuple[MemCube, str | None]:
        """A memory as it was in a version (None: it was not there), or why it is left as it is."""
        if (why := timeline.why_left(cube, now)) is not None:
            return cube, why
        if version is None:
            return timeline.withdrawn(cube, now), None
        was = past.get((cube.id, version))
        if was is None or not isinstance(was.payload, Text):
            return cube, f"what version {version} held is not kept"
        if was.state is State.EXPIRED:
            return timeline.withdrawn(cube, now), None
        new = timeline.returned(cube, was, now)
        return (new, None) if new.lineage == cube.lineage else self._narrowed(cube, new)

    def _narrowed(self, cube: MemCube, new: MemCube) -> tuple[MemCube, str | None]:
        """A memory that is made from others again: with no readers that they do not have today."""
        sources = [link.id for link in new.lineage if link.relation != "supersedes"]
        there = self._cubes(sources)
        if len(there) < len(set(sources)):
            return cube, "made from a memory that was deleted"
        if not all(governance.may_read(new.access.owner, s.access) for s in there):
            return cube, "made from a memory that its owner may not read any more"
        if not there:
            return new, None
        most = governance.derived_access(new.access.owner, [s.access for s in there])
        return replace(new, access=governance.narrowed(new.access, most)), None

    # --- below -----------------------------------------------------------------------------------------------------------

    def _cubes(self, ids: Sequence[str]) -> list[MemCube]:
        rows: list[Row] = self._vault.by_ids(ids)
        return [row.cube for row in rows]

    def _tellings(self, where: str) -> list[Telling]:
        return [Telling(*row) for row in self._vault.told(where, "version", "verb", "number")]

    def _told(self, ids: Iterable[str], scope: str | None) -> list[Telling]:
        """All that was told of some memories."""
        wanted = set(ids)
        if len(wanted) <= _MANY:
            return self._tellings(filters.all_of(scope, filters.one_of("subject", sorted(wanted))))
        return [t for t in self._tellings(scope or "") if t.subject in wanted]

    def _embed(self, known: dict[str, Vector], pairs: Sequence[tuple[MemCube, MemCube]]) -> None:
        wanted = dict.fromkeys(_said(b) for a, b in pairs if _says_other(a, b))
        new = [words for words in wanted if words not in known]
        known.update(zip(new, self._embedding.many(new), strict=True))

    def _mark(self, who: str, verb: str, detail: str) -> None:
        self._vault.record([Event(str(uuid.uuid4()), self._clock(), who, verb, detail=detail)], [()])


def _is_shown(id: str, who: str, rows: Mapping[str, MemCube], gone: frozenset[str]) -> bool:
    """Whether the actor may know of a memory: it may read it, or it could when it was deleted."""
    return governance.may_read(who, rows[id].access) if id in rows else id in gone


def _said(cube: MemCube) -> str:
    return spoken(cube.origin.speaker, cube.text)


def _says_other(old: MemCube, new: MemCube) -> bool:
    """Whether another vector is needed."""
    if not lifecycle.is_searched(new) or not new.text:
        return False
    return not old.text or not lifecycle.is_searched(old) or _said(old) != _said(new)
