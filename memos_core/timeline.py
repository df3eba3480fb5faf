"""Going back in time: what a moment's memories were, what differs between two moments, and a memory as it was. Pure.

A moment is the number of an event: the log has every version of every memory, and history every version's content, so that to remember a
moment costs one event, and what was deleted since is not kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from . import lifecycle
from .types import MemCube, State, Text

CHANGELESS = frozenset({"generate"})
"""Verbs whose events tell of no new version."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment under a name of its owner: everything that was told of before the event of this number. It costs that event, and keeps
    nothing that is deleted."""

    name: str
    actor: str
    at: datetime
    number: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A memory that differs between two moments: its versions then, None where it was not there. `forgotten`: it was deleted since, and
    nothing of it is left but this."""

    id: str
    before: int | None
    after: int | None
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """What an actor may know of the difference between two moments."""

    added: tuple[Changed, ...] = ()
    removed: tuple[Changed, ...] = ()
    changed: tuple[Changed, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollback:
    """What a rollback did: memories that say again what they said, memories that are no more returned because they came later, and those
    that were left as they are, each with the reason."""

    actor: str
    at: datetime
    snapshot: str
    returned: tuple[str, ...]
    withdrawn: tuple[str, ...]
    left: Mapping[str, str]


class Telling(NamedTuple):
    """Of an event: that a memory has this version since, or (delete) that it is gone."""

    subject: str
    version: int
    verb: str
    number: int


def versions_at(tellings: Iterable[Telling], number: int) -> dict[str, int]:
    """The versions of memories at a moment, by what was told of them until then."""
    found: dict[str, int] = {}
    gone: set[str] = set()
    for telling in sorted(tellings, key=lambda t: (t.number, t.version)):
        if telling.number > number:
            break
        if telling.verb == "delete":
            found.pop(telling.subject, None)
            gone.add(telling.subject)
        elif telling.verb not in CHANGELESS and (telling.subject not in gone or telling.version == 1):
            gone.discard(telling.subject)  # made anew: its versions begin anew
            found[telling.subject] = max(telling.version, found.get(telling.subject, 0))
    return found


def deleted_since(tellings: Iterable[Telling], number: int) -> frozenset[str]:
    """Ids of memories that were deleted after a moment; one of them may be that of another memory now."""
    return frozenset(t.subject for t in tellings if t.verb == "delete" and t.number > number)


def difference(
    before: Mapping[str, int],
    after: Mapping[str, int],
    gone: frozenset[str],
    held: Callable[[str, int], MemCube | None],
    times: tuple[datetime, datetime],
) -> Difference:
    """How the versions of one moment differ from those of another. What had expired or was withdrawn at a moment was not there; versions
    of the same content and access do not differ.

    Args:
        gone: ids that were deleted in between: of the version before nothing is left.
        held: a version of a memory, if it is kept.
        times: of the two moments.
    """

    def was(id: str, version: int | None, at: datetime) -> bool:
        cube = None if version is None else held(id, version)
        return version is not None and (cube is None or not lifecycle.has_expired(cube, at))

    added, removed, changed = [], [], []
    for id in sorted(before.keys() | after.keys()):
        old, new = before.get(id), after.get(id)
        there = old is not None if id in gone else was(id, old, times[0])
        now = was(id, new, times[1])
        if there and now and id not in gone:
            assert old is not None
            assert new is not None
            if old != new and not _say_the_same(held(id, old), held(id, new)):
                changed.append(Changed(id, old, new))
            continue
        if there:
            removed.append(Changed(id, old, None, forgotten=id in gone))
        if now:
            added.append(Changed(id, None, new))
    return Difference(tuple(added), tuple(removed), tuple(changed))


def _say_the_same(old: MemCube | None, new: MemCube | None) -> bool:
    if old is None or new is None:
        return False
    return returned(new, old, new.updated_at) is new and old.access == new.access


def why_left(current: MemCube, now: datetime) -> str | None:
    """Why a memory is not rolled back, if it is not: what is on hold, over, or follows its sources anyway."""
    if current.state is State.FROZEN:
        return "frozen"
    if current.lifespan.expires_at is not None and current.lifespan.expires_at <= now:
        return "its time is over"
    if not isinstance(current.payload, Text) and current.lineage:
        return "made from other memories, which it follows"
    return None


def returned(current: MemCube, past: MemCube, now: datetime) -> MemCube:
    """The next version, with the content and state of an old one; the same if that is what it has. Access, how long it lives, and a hold
    stay as they are today: going back must bring back no reader whose right was withdrawn, and nothing whose time is over."""
    state = (past.lifespan.frozen_from or State.GENERATED) if past.state is State.FROZEN else past.state
    valid_until = past.lifespan.valid_until if state in lifecycle.SEARCHED else current.lifespan.valid_until
    new = replace(
        current, payload=past.payload, kind=past.kind, semantic_type=past.semantic_type, tags=past.tags, attributes=past.attributes,
        lineage=past.lineage, priority=past.priority, origin=past.origin, state=state,
        sensitivity=lifecycle.tags_of(current, past),
        lifespan=replace(current.lifespan, valid_until=valid_until),
    )  # fmt: skip
    return current if new == current else _next(new, now)


def withdrawn(cube: MemCube, now: datetime) -> MemCube:
    """The next version of what was not there yet: expired before its time, so that nothing returns it, and a rollback to a moment at which
    it was there can bring it back; the same if it is that already."""
    return cube if cube.state is State.EXPIRED else _next(replace(cube, state=State.EXPIRED), now)


def _next(cube: MemCube, now: datetime) -> MemCube:
    return replace(cube, version=cube.version + 1, updated_at=max(now, cube.updated_at))
