"""How memories get into the vault: what is new about what is added, what a change makes of a memory, and telling of both.

Knows vault, embedder and the pure rules; leaves to `memos` who is asking for what. Texts are embedded before the lock is taken.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from . import filters, governance, lifecycle, placement
from .blobs import Blobs
from .codec import checked_attributes
from .embedding import Embedding, spoken
from .errors import AccessDenied, Conflict, InvalidArgument, NotFound
from .forgetting import Forgetting, Removed
from .reader import Turn, aware
from .reader import turns as turns_of
from .tables import Row, Vector, thread
from .types import Draft, Event, MemCube, Origin, SourceKind, State, Text
from .validate import checked_tags, checked_word
from .vault import Vault

log = logging.getLogger("memos_core")
_TRIES = 5  # how often a change is tried beside others before it keeps them out
_COLD_FROM = (
    State.GENERATED,
    State.ACTIVATED,
    State.MERGED,
)  # states in which a memory may be archived without being asked
_ROUNDED = 1e-3  # seconds by which a time read from a table may differ from itself


class Writer:
    """The changes to one store. Safe for many threads: whoever reads in order to write holds `vault.writing()`."""

    def __init__(self, vault: Vault, blobs: Blobs, embedding: Embedding, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._embedding = embedding
        self._clock = clock
        self.forget: Callable[[Sequence[str]], object] = lambda ids: None
        """Called with memories that are gone or say something else now: whoever holds what was made from them drops it."""
        self.removing: Callable[[Collection[str], Sequence[MemCube]], object] = lambda ids, forms: None
        """Called with the ids of all that is about to be removed, and with those of it that are held in other forms than text."""
        self.shows: Callable[[str, Sequence[MemCube]], bool] = lambda who, cubes: True
        """Whether an actor is given memories as they are, also where words cannot be left out."""
        vault.embed = lambda cubes: embedding.many([spoken(c.origin.speaker, c.text) for c in cubes])
        self.forgetting = Forgetting(
            vault, blobs, lambda ids, forms: self.removing(ids, forms), lambda ids: self.forget(ids)
        )

    def readable(self, ids: Sequence[str], who: str) -> list[MemCube]:
        """These memories, in this order; NotFound for the first that is not there for the actor, or has expired."""
        return [row.cube for row in self.readable_rows(ids, who)]

    def readable_rows(self, ids: Sequence[str], who: str) -> list[Row]:
        """The same, with what the store adds."""
        now = self._clock()
        found = {r.cube.id: r for r in self._vault.by_ids(ids, filters.readable_by(who))}
        for id in ids:
            if id not in found or lifecycle.has_expired(found[id].cube, now):
                raise NotFound(f"no memory {id!r}")
            governance.require_read(who, found[id].cube)
        return [found[id] for id in dict.fromkeys(ids)]

    def add_turns(self, draft: MemCube, turns: Sequence[Turn]) -> tuple[list[MemCube], list[MemCube]]:
        """Store turns under a draft's header; all of them as they are stored now, and those that are new."""
        turns, again = placement.rounds(turns)
        named = draft.origin.session  # a message's id counts within the session that the caller named, if any
        if named is None and len(turns) > 1 and any(t.role for t in turns):
            draft = replace(draft, origin=replace(draft.origin, session=placement.session_label(turns)))
        vectors: dict[tuple[str | None, str], Vector] = {}
        # what is there already is not embedded; a single turn is looked for only once, under the lock
        looked_for = [p.turn for p in self._place(draft, turns, named) if p.stored is None] if len(turns) > 1 else turns
        self._embed(vectors, looked_for)
        with self._vault.writing():
            placed = self._place(draft, turns, named)
            self._embed(vectors, [p.turn for p in placed if p.stored is None])
            # changes first, and all at once: they may be refused, and then nothing is written
            is_alone = len(turns) + len(again) == 1
            news = [p for p in placed if p.stored is not None and self._is_news(p)]
            changed = self._say_again(draft, news if is_alone else self._unfrozen(draft, news))
            cubes = [changed.get(p.id) or p.stored or _cube(draft, p) for p in placed]
            fresh = [c for c, p in zip(cubes, placed, strict=True) if p.stored is None]
            fresh = self._vault.insert(fresh, [vectors[c.origin.speaker, c.text] for c in fresh])
            stored = iter(fresh)
            cubes = [next(stored) if p.stored is None else c for c, p in zip(cubes, placed, strict=True)]
            self.tell(draft.access.owner, "add", fresh, draft.created_at)
            for turn in again:  # the same message, said otherwise within one call
                at = next(i for i, p in enumerate(placed) if p.turn.message_id == turn.message_id)
                same = placement.Placed(turn, cubes[at].id, cubes[at].origin.position, cubes[at])
                news = self._unfrozen(draft, [same] if self._is_news(same) else [])
                cubes[at] = self._say_again(draft, news).get(same.id, cubes[at])
        return cubes, fresh

    def add_keyed(self, draft: MemCube, turn: Turn) -> MemCube:
        """Store a memory under its owner's name for it, or the next version if there is one."""
        assert draft.key is not None
        who = draft.access.owner
        id = placement.stable_id(who, draft.namespace, "key", draft.key)
        [vector] = self._embedding.many([spoken(turn.speaker, turn.text)])
        new = _cube(draft, placement.Placed(turn, id, None))
        with self._vault.writing():
            found = self._vault.by_ids([id])
            if found:
                new = lifecycle.replaced(found[0].cube, new)
                [new] = self._vault.replace([found[0].cube], [new], [vector])
            else:
                [new] = self._vault.insert([new], [vector])
            self.tell(who, "update" if found else "add", [new], new.updated_at)
            self.carry_on([r.cube for r in found], [new] * len(found), who)
        return new

    def add_derived(self, draft: MemCube) -> MemCube:
        """Store a text that was derived from another memory, under its owner's name for it, or as its next version; what is there
        already as it is."""
        id = placement.stable_id(draft.access.owner, draft.namespace, "key", draft.key or "")
        new = replace(draft, id=id)
        [vector] = self._embedding.many([spoken(None, new.text)])
        with self._vault.writing():
            found = self._vault.by_ids([id])
            if found and _is_as(found[0].cube, new):
                return found[0].cube
            if found:
                new = lifecycle.replaced(found[0].cube, new)
                [new] = self._vault.replace([found[0].cube], [new], [vector])
            else:
                [new] = self._vault.insert([new], [vector])
            self.tell(draft.access.owner, "update" if found else "add", [new], new.updated_at)
            self.carry_on([r.cube for r in found], [new] * len(found), draft.access.owner)
        return new

    def add_statement(self, who: str, draft: MemCube, statement: Draft) -> MemCube:
        """Store what a reader made of turns, as it decided: added, as an update, or in the place of another."""
        now = self._clock()
        [said] = turns_of([statement.text], aware(statement.occurred_at, "occurred_at"))
        if statement.decision not in ("add", "update", "supersede"):
            raise InvalidArgument(f"decision: {statement.decision!r} is none of 'add', 'update', 'supersede'")
        sources = self.readable([link.id for link in statement.parents], who) if statement.parents else []
        access = governance.derived_access(who, [s.access for s in sources]) if sources else draft.access
        cube = replace(
            draft, id=str(uuid.uuid4()), payload=Text(said.text), access=access,
            origin=Origin(SourceKind.EXTRACTION, stored_at=now, occurred_at=said.occurred_at, speaker=checked_word(statement.speaker, "speaker"),
                          session=draft.origin.session, source=draft.origin.source, model=statement.model, provenance=lifecycle.provenance(sources)),
            created_at=now, updated_at=now, semantic_type=checked_word(statement.semantic_type, "semantic_type"), tags=checked_tags(statement.tags),
            attributes=checked_attributes(statement.attributes), lineage=statement.parents,
        )  # fmt: skip
        target = statement.revises
        if target is not None:
            [known] = self.readable([target], who)
            governance.require_owner(who, known)  # a reader's decision must not reach into what others wrote
            if statement.decision == "update" and not governance.within(known.access, access):
                target = None  # its readers may not read these turns: said beside it instead
        if target is not None and statement.decision == "update":
            return self.change(
                target, who, "update", governance.require_write, lambda old: lifecycle.refined(old, cube, now)
            )
        [vector] = self._embedding.many([spoken(cube.origin.speaker, cube.text)])
        with self._vault.writing():  # no Conflict can come: nobody else writes until both are done
            if target is not None and statement.decision == "supersede":
                [old] = self.readable([target], who)
                governance.require_write(who, old)
                past = lifecycle.superseded(old, said.occurred_at or now, now)
                cube = lifecycle.superseding(cube, old)
                [cube] = self._vault.insert([cube], [vector])
                self._vault.replace([old], [past], [None])
                self.tell(who, "supersede", [past], now)
            else:
                [cube] = self._vault.insert([cube], [vector])
            self.tell(who, "add", [cube], now)
        return cube

    def change(
        self,
        id: str,
        who: str,
        verb: str,
        require: Callable[[str, MemCube], None],
        make: Callable[[MemCube], MemCube],
    ) -> MemCube:
        """Read, decide, write if nobody wrote in between; see `until_written`. What `make` returns unchanged is not written."""

        def attempt() -> MemCube | None:
            [old] = self.readable([id], who)
            require(who, old)
            new = make(old)
            if new is old:
                return old
            vector: Vector | None = None
            if lifecycle.needs_vector(old, new):
                [vector] = self._embedding.many([spoken(new.origin.speaker, new.text)])
            try:
                with self._vault.writing():
                    [new] = self._vault.replace([old], [new], [vector])
                    self.tell(who, verb, [new], new.updated_at)
                    self.carry_on([old], [new], who)
            except Conflict:
                return None
            return new

        return self.until_written(attempt, f"memory {id}")

    def until_written(self, attempt: Callable[[], MemCube | None], what: str) -> MemCube:
        """What an attempt wrote that reads, decides, and gives None if somebody wrote in between: made a few times beside others, and at
        last as the only writer. Raises Conflict where that fails too: in a transaction, of which another thread writes."""
        for _ in range(_TRIES):
            if (new := attempt()) is not None:
                return new
        with self._vault.writing():  # others were quicker each time: what is read now cannot change under it
            new = attempt()
        if new is None:
            raise Conflict(f"{what} kept changing in the transaction in which it was to be changed: try again")
        return new

    def share(self, id: str, who: str, readers: frozenset[str], writers: frozenset[str]) -> MemCube:
        """Set who else may read and write. Raises AccessDenied for a reader who may not read what the memory was made from."""

        def allowed(actor: str, cube: MemCube) -> None:
            governance.require_owner(actor, cube)
            sources = [s.access for s in self._sources(cube)]
            wanted = governance.shared(cube.access, readers, writers)
            if sources and not governance.within(wanted, governance.derived_access(cube.access.owner, sources)):
                raise AccessDenied(
                    f"memory {cube.id} was made from memories that these readers may not read: share those first"
                )

        return self.change(
            id, who, "share", allowed,
            lambda cube: lifecycle.with_access(cube, governance.shared(cube.access, readers, writers), self._clock()),
        )  # fmt: skip

    def _sources(self, cube: MemCube) -> list[MemCube]:
        ids = [link.id for link in cube.lineage if link.relation != "supersedes"]
        return [r.cube for r in self._vault.by_ids(ids)]

    def _narrow(self, source: MemCube, who: str, now: datetime) -> None:
        """Take from what was derived the readers that its sources no longer have, one generation after the other."""
        gone: set[str] = set()
        for outline in self.forgetting.descendants([source.id]):
            if outline.id in gone:  # with the one that it was made from
                continue
            [row] = self._vault.by_ids([outline.id])
            cube = row.cube
            sources = [s.access for s in self._sources(cube)]
            if not all(governance.could_read(cube.access.owner, s) for s in sources):
                removed = self.forgetting.remove(
                    [outline], who, now, held=False
                )  # its owner lost what it was made from
                gone |= {*removed.ids, *removed.derived}
                continue
            most = governance.derived_access(cube.access.owner, sources)
            kept = source.access if lifecycle.is_passage(cube) else governance.narrowed(cube.access, most)
            if kept != cube.access:
                new = lifecycle.with_access(cube, kept, now)
                self._vault.replace([cube], [new], [None])
                self.tell(who, "share", [new], now)

    def remove(self, rows: Sequence[Row], who: str, now: datetime) -> Removed:
        """Remove memories and what was derived from them. The caller holds `vault.writing()` since it read them."""
        ids = [r.cube.id for r in rows]
        return self.forgetting.remove(self._vault.outlines(filters.one_of("id", ids)) if ids else [], who, now)

    def archive_cold(self, reasons: Mapping[str, str], quiet: Mapping[str, float], now: datetime) -> list[str]:
        """Take memories out of search, each for a reason, unless they were changed or read since the POSIX seconds `quiet`; which."""
        if not reasons:
            return []
        with self._vault.writing():
            read = self._vault.last_reads()
            old = [
                r.cube for r in self._vault.by_ids(list(reasons), filters.in_states(_COLD_FROM))
                if max(read.get(r.cube.id, -math.inf), r.cube.updated_at.timestamp()) <= quiet[r.cube.id] + _ROUNDED
            ]  # fmt: skip
            new = [lifecycle.archive(c, now) for c in old]
            self._vault.replace(old, new, [None] * len(new))
            events = [
                Event(str(uuid.uuid4()), now, c.access.owner, "archive", c.id, c.version, detail=reasons[c.id])
                for c in new
            ]
            self._vault.record(events, [governance.readers_of(c.access) for c in new])
        self.forget([c.id for c in new])
        return [c.id for c in new]

    def tell(
        self,
        who: str,
        verb: str,
        cubes: Sequence[MemCube],
        at: datetime,
        *,
        failed: str | None = None,
        detail: str = "",
    ) -> None:
        """Record events: one for each memory, or, for a failure, one that says what failed."""
        if failed is not None:
            self._vault.record([Event(str(uuid.uuid4()), at, who, verb, outcome="failed", detail=failed)], [()])
            return
        events = [Event(str(uuid.uuid4()), at, who, verb, c.id, c.version, detail=detail) for c in cubes]
        self._vault.record(events, [governance.readers_of(c.access) for c in cubes])

    def told_of(self, who: str, verb: str, at: datetime, detail: str) -> None:
        """Record one event of an act on many memories, which its actor alone sees."""
        with self._vault.writing():
            self._vault.record([Event(str(uuid.uuid4()), at, who, verb, detail=detail)], [()])

    def tell_left_out(self, who: str, at: datetime, kinds: str) -> None:
        """Say, in the program's log and in the store's, what of added messages is not text, if anything."""
        if not kinds:
            return
        detail = f"not text, a note stands for it or it was left out: {kinds}"
        log.warning("add for %s: %s", who, detail)
        self.told_of(who, "add", at, detail)

    def failed(self, who: str, verb: str, what: str) -> None:
        """Log and record something that failed and that a request was spared."""
        log.warning("%s for %s failed: %s", verb, who, what)
        if self._vault.ledger.may_write():  # else the request was one of a reader, and goes on
            self.tell(who, verb, [], self._clock(), failed=what)

    def _embed(self, known: dict[tuple[str | None, str], Vector], turns: Sequence[Turn]) -> None:
        new = [t for t in turns if (t.speaker, t.text) not in known]
        vectors = self._embedding.many([spoken(t.speaker, t.text) for t in new])
        known.update({(t.speaker, t.text): v for t, v in zip(new, vectors, strict=True)})

    def _is_news(self, placed: placement.Placed) -> bool:
        """Whether a message that is stored comes with other words, or after its time was over."""
        stored = placed.stored
        assert stored is not None
        if lifecycle.has_expired(stored, self._clock()):
            return True
        if placed.turn.message_id is None or stored.text == placed.turn.text:
            return False
        # what was said before and changed since (an update, a restore) is no news when it is handed in again
        return stored.version == 1 or all(placed.turn.text != past.text for past in self._vault.past(stored.id))

    def _unfrozen(self, draft: MemCube, placed: Sequence[placement.Placed]) -> list[placement.Placed]:
        """Messages that come again with other words, but for those that are frozen: these stay as they are, and cost a conversation
        nothing but themselves."""
        frozen = [p.id for p in placed if p.stored is not None and p.stored.state is State.FROZEN]
        for id in frozen:
            self.failed(draft.access.owner, "update", f"message {id} came with other words, and its memory is frozen")
        return [p for p in placed if p.id not in frozen]

    def _say_again(self, draft: MemCube, placed: Sequence[placement.Placed]) -> dict[str, MemCube]:
        """Messages that come again under their ids: the next versions, by id."""
        old, new = [p.stored for p in placed if p.stored is not None], []
        for stored, p in zip(old, placed, strict=True):
            lapsed = lifecycle.has_expired(stored, self._clock())
            again = lifecycle.replaced(stored, _cube(draft, p)) if lapsed else None
            new.append(again or lifecycle.said_again(stored, p.turn.text, draft.created_at))
        vectors = self._embedding.many([spoken(c.origin.speaker, c.text) for c in new])
        new = self._vault.replace(old, new, vectors)
        self.tell(draft.access.owner, "update", new, draft.created_at)
        self.carry_on(old, new, draft.access.owner)
        return {c.id: c for c in new}

    def carry_on(
        self, old: Sequence[MemCube], new: Sequence[MemCube], who: str, spare: Container[str] = frozenset()
    ) -> None:
        """Let what was derived follow its sources, whichever verb changed them: their words, and their readers; the passages
        of an item also its value, and out of search. `spare`: ids of those that follow already. The caller holds
        `vault.writing()` since it changed them."""
        pairs = list(zip(old, new, strict=True))
        changed = [b for a, b in pairs if a.text != b.text]
        items = [b for a, b in pairs if a.text == b.text and _leaves_passages(a, b)]
        followers = {r.cube.id: r.cube for r in self._descendants(changed)}
        followers |= {r.cube.id: r.cube for r in self._descendants(items) if lifecycle.is_passage(r.cube)}
        if followers:
            self._outdate([c for id, c in followers.items() if id not in spare], who, new[0].updated_at)
        self.forget([c.id for c in changed])
        for before, after in pairs:
            if before.access != after.access:
                self._narrow(after, who, after.updated_at)

    def _outdate(self, cubes: Sequence[MemCube], who: str, now: datetime) -> None:
        """Take out of search what says what its source no longer says."""
        old = [c for c in cubes if c.state in (State.GENERATED, State.ACTIVATED, State.MERGED)]
        new = [lifecycle.archive(c, now) for c in old]
        self._vault.replace(old, new, [None] * len(new))
        self.tell(who, "outdate", new, now)

    def _place(self, draft: MemCube, turns: Sequence[Turn], named: str | None) -> list[placement.Placed]:
        owner, where, session = draft.access.owner, draft.namespace, draft.origin.session
        ids = [t.message_id and placement.message_key(owner, where, named, t.message_id) for t in turns]
        by_id = {r.cube.id: r.cube for r in self._vault.by_ids([i for i in ids if i is not None])}
        if named is None and session is not None:  # "1" names another message in another conversation
            for at, (id, turn) in enumerate(zip(ids, turns, strict=True)):
                if id in by_id and turn.message_id and by_id[id].origin.digest != placement.digest(turn):
                    ids[at] = placement.message_key(owner, where, session, turn.message_id)
            by_id |= {
                r.cube.id: r.cube for r in self._vault.by_ids([i for i in ids if i is not None and i not in by_id])
            }
        first: list[MemCube] = []
        last: list[MemCube] = []
        if session is not None:
            here = filters.starting("place", thread(draft) or "")
            last = [r.cube for r in self._vault.rows(here, limit=len(turns), order=["-position"])][::-1]
            first = last
            if len(last) == len(turns) > 1 and None in ids:  # there may be more before these
                rows = self._vault.rows(filters.all_of(here, f"position < {len(turns)}"))
                first = sorted((r.cube for r in rows), key=lambda c: c.origin.position or 0)
        return placement.place(turns, session, by_id, ids, first, last)

    def _descendants(self, cubes: Sequence[MemCube]) -> list[Row]:
        """Everything derived from these, transitively, whoever owns it."""
        return self._vault.by_ids([o.id for o in self.forgetting.descendants([c.id for c in cubes])]) if cubes else []


def _leaves_passages(old: MemCube, new: MemCube) -> bool:
    """Whether an item's further texts, drawn from its value, no longer hold of it, or are no longer to be found."""
    if old.origin.kind is not SourceKind.ITEM:
        return False
    return old.attributes != new.attributes or (new.state is State.ARCHIVED and old.state is not State.ARCHIVED)


def _cube(draft: MemCube, placed: placement.Placed) -> MemCube:
    turn = placed.turn
    origin = replace(
        draft.origin, kind=SourceKind.NOTE if turn.role is None else SourceKind.MESSAGE, occurred_at=turn.occurred_at,
        role=turn.role, speaker=turn.speaker, position=placed.position, message_id=turn.message_id,
        digest=placement.digest(turn),
    )  # fmt: skip
    return replace(draft, id=placed.id, payload=Text(turn.text), origin=origin)


def _is_as(there: MemCube, new: MemCube) -> bool:
    """Whether a memory that is found says the same as a new one, of the same, to the same."""
    return lifecycle.is_searched(there) and all(
        getattr(there, name) == getattr(new, name)
        for name in ("payload", "attributes", "lineage", "access", "lifespan")
    )
