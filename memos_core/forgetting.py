"""Forgetting, provably: memories by the hundred thousand, all that was made from them, and every file that still holds their words.

A deletion is told of before it is made, and made in one commit to the memories: a reader sees all of it or nothing of it, and whoever
opens the store finishes what a killed process began. What is needed of a memory to forget it is read from its record without making a
cube of it, which would take ten times as long.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from datetime import datetime

from . import branches, filters, lifecycle, retention
from .blobs import Blobs
from .codec import Outline
from .errors import IllegalTransition
from .grants import is_reserved
from .staging import emptied
from .types import PUBLIC, Event, Kind, MemCube, State, Text
from .vault import Vault

_BULK = 200  # memories from which on a deletion is marked as under way, and derived ones are looked for among all
_MARK = "deleting"
WHOLE = "the whole store"
"""How the detail of an event of a dump begins that had all memories in it."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal took: the memories asked for and those that fell with them, by id, how many old versions and blobs, what each
    said (a hash), and where it was handed out to before."""

    ids: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    versions: int = 0
    blobs: int = 0
    hashes: tuple[str, ...] = ()
    handed_out: tuple[str, ...] = ()


class Forgetting:
    """Removal from one store.

    removing: called before memories go, with the ids of all, and those of them that are held in other forms than text.
    forget: called after, with the ids.
    """

    def __init__(
        self,
        vault: Vault,
        blobs: Blobs,
        removing: Callable[[Collection[str], Sequence[MemCube]], object],
        forget: Callable[[Sequence[str]], object],
    ) -> None:
        self._vault = vault
        self._blobs = blobs
        self._removing = removing
        self._forget = forget

    def remove(
        self,
        asked: Sequence[Outline],
        who: str,
        now: datetime,
        *,
        held: bool = True,
        spare: Container[str] = frozenset(),
        detail: str = "",
    ) -> Removed:
        """Remove memories and whatever was derived from them. The caller holds `vault.writing()` since it read them.

        held: whether a frozen one holds the deletion, as it must where somebody asks for it; not where a right was withdrawn.
        spare: ids of memories that stay, with what was made from them, though they were made from one that goes.

        Raises IllegalTransition, and removes nothing, for what is held.
        """
        derived = self.descendants([o.id for o in asked], spare)
        if held:
            _require_unheld(asked, derived)
        gone = [*asked, *derived]
        if not gone:
            return Removed()
        ids = [o.id for o in gone]
        forms = [row.cube for row in self._vault.by_ids([o.id for o in gone if o.kind != Kind.PLAINTEXT])]
        bulk = len(gone) >= _BULK or bool(forms)
        if bulk:
            self._vault.rules.put({_MARK: now.isoformat()})
        self._removing(ids, forms)
        out = self._handed_out(gone)
        events = [Event(str(uuid.uuid4()), now, who, "delete", o.id, o.version, detail=detail) for o in gone]
        self._vault.record(events, [o.readers for o in gone], [o.seq for o in gone])
        versions = self._vault.remove(ids)
        blobs = self._drop_payloads(forms)
        self._forget(ids)
        if bulk:
            self._vault.rules.drop(_MARK)
        return Removed(
            tuple(o.id for o in asked), tuple(o.id for o in derived), versions, blobs, tuple(o.digest for o in gone), out
        )  # fmt: skip

    def remove_over(self, over: str, now: datetime) -> dict[str, list[Removed]]:
        """Remove what a condition says is over; by owner. What a legal hold holds, waits for that. What a memory went into by `fuse` has a
        time of its own, and stays, unless it is a retention rule that lets the memory stay no longer: that is of its words."""
        removed = dict[str, list[Removed]]()
        with self._vault.writing():
            ruled = {path[0] for path in map(filters.decode_namespace, self._vault.rules.under(retention.RULE))}
            for owner in sorted(set(self._vault.column("owner", over))):
                ids = self._vault.column("id", filters.all_of(over, f"owner = {filters.literal(owner)}"))
                cubes = [row.cube for row in self._vault.by_ids(ids)] if owner in ruled else []
                overdue = [c.id for c in retention.overdue(cubes, now)]
                rest = sorted(set(ids) - set(overdue))
                removed[owner] = self._remove_unless_held(overdue, owner, now, "retention")
                removed[owner] += self._remove_unless_held(
                    rest, owner, now, "its time was over", self._fused_from(rest, now)
                )
        return removed

    def _fused_from(self, ids: Sequence[str], now: datetime) -> frozenset[str]:
        """The memories that some went into by `fuse` and that are there."""
        if not ids or not (children := self._vault.column("id", filters.contains_any("parents", ids))):
            return frozenset()
        merged = {(id, "merged") for id in ids}
        return frozenset(
            r.cube.id
            for r in self._vault.by_ids(children, filters.current(now))
            if any((link.id, link.relation) in merged for link in r.cube.lineage)
        )

    def _remove_unless_held(
        self, ids: Sequence[str], owner: str, now: datetime, why: str, spare: Container[str] = frozenset()
    ) -> list[Removed]:
        asked = self._vault.outlines(filters.one_of("id", ids)) if ids else []
        try:
            return [self.remove(asked, owner, now, spare=spare, detail=why)]
        except IllegalTransition:
            if len(ids) == 1:
                return []
            return [r for id in ids for r in self._remove_unless_held([id], owner, now, why, spare)]

    def finish(self, undone: Sequence[str]) -> None:
        """Carry out a deletion that was told of and not made, and remove what one that was made left behind. The caller holds
        `vault.writing()`."""
        if undone:
            forms = self._vault.by_ids(undone, "kind != 'plaintext'")
            self._vault.remove(undone)
            self._drop_payloads([row.cube for row in forms])
        if _MARK in self._vault.rules.all():
            self._vault.remove_strays()
            self.sweep_blobs()
            self._vault.rules.drop(_MARK)

    @property
    def is_begun(self) -> bool:
        """Whether a large deletion was begun and not ended: by a process that lives and has the lock, or by one that was killed."""
        return _MARK in self._vault.rules.all()

    def _drop_payloads(self, gone: Sequence[MemCube]) -> int:
        """Remove the blobs of memories that are gone, but for those that others share; how many."""
        if not gone:
            return 0
        kept = {_blob(row.cube) for row in self._vault.rows("kind != 'plaintext'")}
        blobs = {blob for cube in gone if (blob := _blob(cube)) and blob not in kept}
        self._blobs.remove(blobs)
        return len(blobs)

    def sweep_blobs(self) -> int:
        """Remove blobs that no memory needs: what a killed process left, and what was made from words that changed since. What was made
        from no memory cannot be made again, so it stays for as long as its record does. The caller holds `vault.writing()`."""
        rows = [row.cube for row in self._vault.rows("kind != 'plaintext'")]
        needed = [c for c in rows if c.state in lifecycle.SEARCHED or not c.lineage]
        return self._blobs.sweep(blob for cube in needed if (blob := _blob(cube)))

    def descendants(self, ids: Collection[str], spare: Container[str] = frozenset()) -> list[Outline]:
        """Everything derived from these, transitively, whoever owns it. What superseded one is not made from it. spare: passed over."""
        seen, found = set(ids), list[Outline]()
        edge = sorted(seen)
        while edge:
            few = len(edge) < _BULK
            where = filters.contains_any("parents", edge) if few else "array_length(parents) > 0"
            new = [
                o
                for o in self._vault.outlines(where)
                if not (o.id in seen or o.id in spare or seen.isdisjoint(o.sources))
            ]
            edge = sorted(o.id for o in new)
            seen |= set(edge)
            found += new
        return found

    def purge(self, remove: Callable[[], object]) -> None:
        """Write the tables anew without what was removed from them, and remove every older file, also of killed processes. Words that
        were deleted are in no file of the store afterwards. remove: called before, to remove what is over."""
        db = self._vault.db
        with emptied(db.site, db.policy.lock_seconds):
            db.purge(lambda: self._sweep(remove))

    def _sweep(self, remove: Callable[[], object]) -> None:
        """Remove what is over, and whatever killed processes left behind. Raises StoreUnavailable, before anything is removed, while a
        branch is in use."""
        branches.require_none(self._vault.db.site)
        with self._vault.writing():
            remove()
            self._vault.rules.put({_MARK: ""})
            self.finish([])
            self._vault.db.drop_strays()

    def _handed_out(self, gone: Sequence[Outline]) -> tuple[str, ...]:
        """Where some of these may have been dumped or published to: that is out of reach. An event of a dump names no memories, so it is
        every dump of somebody who may read one of them."""
        ids = {o.id for o in gone}
        readers = frozenset[str]().union(*(o.readers for o in gone))
        anybody = any(one == PUBLIC or is_reserved(one) for one in readers)
        events = [
            e for e in self._vault.ledger.all("verb IN ('dump', 'publish') AND outcome = 'ok'")
            if e.subject in ids or (e.subject is None and (anybody or e.actor in readers or e.detail.startswith(WHOLE)))
        ]  # fmt: skip
        return tuple(dict.fromkeys(f"{e.verb} by {e.actor} at {e.at.isoformat()}: {e.detail}" for e in events))


def _require_unheld(asked: Sequence[Outline], derived: Sequence[Outline]) -> None:
    """Raise IllegalTransition if one is frozen: a legal hold outlasts a wish to forget. What others made of a memory does not hold it:
    they were lent it."""
    owners = {o.owner for o in asked}
    for one in [*asked, *(o for o in derived if o.owner in owners)]:
        if one.state == State.FROZEN:
            raise IllegalTransition(
                f"memory {one.id} is frozen: unfreeze it before deleting it or what it was made from"
            )


def _blob(cube: MemCube) -> str:
    return "" if isinstance(cube.payload, Text) else cube.payload.blob
