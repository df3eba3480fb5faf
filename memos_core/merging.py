"""Bringing what was tried on a branch back into its store. Knows both vaults; the store's writer acts.

A change comes back as one version, with the name of who made it, if its memory, and what it was made from, is still what it was when the
branch began. If one is not, nothing comes back. Forms other than text stay behind: they are made from texts, and can be made again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime

from . import filters, grants, timeline
from .admission import groups_of
from .errors import Conflict
from .governance import readers_of
from .tables import Row, Vector
from .timeline import Telling
from .types import Event, Link, MemCube, Text
from .vault import Vault
from .writing import Writer

_NAMED = 5  # conflicts that an error names


@dataclass(frozen=True, slots=True)
class Merge:
    """What came back from a branch: ids of memories that were added, changed and removed, and those that stayed behind, with reasons."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    left: Mapping[str, str]


@dataclass(slots=True)
class _Tried:
    """What a branch holds of what was touched there: versions when it began, rows now, and who was the last to touch each."""

    base: dict[str, int]
    rows: dict[str, Row]
    actors: dict[str, str]
    left: dict[str, str] = field(default_factory=dict)


def merged(
    ours: Vault,
    theirs: Vault,
    fork: int,
    writer: Writer,
    now: datetime,
    transaction: Callable[[], AbstractContextManager[None]],
) -> Merge:
    """Bring back what a branch changed since the event `fork` of it. Raises Conflict, and changes nothing, where the store changed too."""
    tried = _tried(theirs, fork)
    with transaction():
        mine = {r.cube.id: r for r in ours.by_ids(sorted(tried.actors))}
        _require_unchanged(ours, theirs, mine, tried)
        removed = [id for id in sorted(tried.base) if id not in tried.rows]
        for id in removed:
            there = ours.by_ids([id])  # an earlier one may have taken it along
            writer.remove(there, tried.actors[id], now)
        new = [_squashed(r.cube, tried, now) for id, r in sorted(tried.rows.items()) if id not in tried.left]
        _require_same_groups(ours, theirs, new)
        old = [mine[c.id].cube if c.id in mine else None for c in new]
        vectors: Sequence[Vector | None] = [tried.rows[c.id].vector for c in new]
        ours.put(old, new, vectors)
        _tell(ours, new, tried, now)
        spare = {c.id for c in new}
        for before, after in zip(old, new, strict=True):
            if before is not None:
                writer.carry_on([before], [after], tried.actors[after.id], spare=spare)
    added = tuple(c.id for c in new if c.id not in tried.base)
    return Merge(added, tuple(c.id for c in new if c.id in tried.base), tuple(removed), tried.left)


def _tried(theirs: Vault, fork: int) -> _Tried:
    touched = {
        id: (number, actor)
        for id, number, actor, verb in sorted(theirs.told(f"number > {fork}", "number", "actor", "verb"), key=lambda t: t[1])
        if verb not in timeline.CHANGELESS
    }  # fmt: skip
    some = filters.one_of("subject", sorted(touched))
    base = timeline.versions_at((Telling(*t) for t in theirs.told(some, "version", "verb", "number")), fork)
    rows = {r.cube.id: r for r in theirs.by_ids(sorted(touched), vectors=True)}
    tried = _Tried(base, rows, {id: actor for id, (_, actor) in touched.items()})
    for id, row in rows.items():
        if not isinstance(row.cube.payload, Text):
            tried.left[id] = f"held as {row.cube.kind}: made on the branch, to be made again"
    while behind := [
        id for id, row in rows.items()
        if id not in tried.left and any(link.id in tried.left and link.relation != "supersedes" for link in row.cube.lineage)
    ]:  # fmt: skip
        tried.left |= dict.fromkeys(behind, "made from one that stays behind")
    return tried


def _require_unchanged(ours: Vault, theirs: Vault, mine: Mapping[str, Row], tried: _Tried) -> None:
    """Raise Conflict if a memory that was touched there, or one that such a memory was made from, changed here too."""
    clashes = [
        id for id in tried.actors
        if id not in tried.left and (mine[id].cube.version if id in mine else None) != tried.base.get(id)
    ]  # fmt: skip
    sources = {
        link.id
        for id, row in tried.rows.items()
        for link in row.cube.lineage
        if id not in tried.left and link.relation != "supersedes" and link.id not in tried.actors
    }
    here, there = (_versions(vault, sorted(sources)) for vault in (ours, theirs))
    clashes += [id for id in sources if here.get(id) != there.get(id)]
    if clashes:
        named = ", ".join(sorted(clashes)[:_NAMED])
        raise Conflict(f"{len(clashes)} memories changed in the store since the branch began, among them {named}")


def _require_same_groups(ours: Vault, theirs: Vault, new: Sequence[MemCube]) -> None:
    """Raise Conflict for a grant to a group that was made on the branch: here its name is nobody's yet, or somebody else's."""
    here, there = ({n: g["owner"] for n, g in vault.rules.under(grants.GROUP).items()} for vault in (ours, theirs))
    for cube in new:
        if strange := sorted(n for n in groups_of(cube.access) if n in there and here.get(n) != there[n]):
            raise Conflict(
                f"memory {cube.id} is shared with group {strange[0]!r}, which was made on the branch: make it here first, or share otherwise"
            )


def _versions(vault: Vault, ids: Sequence[str]) -> dict[str, int]:
    return {r.cube.id: r.cube.version for r in vault.by_ids(ids)}


def _squashed(cube: MemCube, tried: _Tried, now: datetime) -> MemCube:
    """All that was done to a memory there, as the next version here."""

    def here(link: Link) -> Link:
        base = tried.base.get(link.id, 0)
        touched = link.id in tried.actors and link.version > base
        return replace(link, version=base + 1) if touched else link

    return replace(
        cube, version=tried.base.get(cube.id, 0) + 1, updated_at=max(now, cube.updated_at), lineage=tuple(map(here, cube.lineage))
    )  # fmt: skip


def _tell(ours: Vault, new: Sequence[MemCube], tried: _Tried, now: datetime) -> None:
    events = [
        Event(
            str(uuid.uuid4()), now, tried.actors[c.id], "update" if c.id in tried.base else "add", c.id, c.version, detail="on a branch"
        )
        for c in new
    ]  # fmt: skip
    ours.record(events, [readers_of(c.access) for c in new])
