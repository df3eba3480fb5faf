"""MemOS: the verbs. Each authorises, decides by the pure modules, and acts through the vault."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from . import brief as briefs
from . import filters, governance, lifecycle, placement, reader
from .codec import checked_attributes
from .embedding import Embedding
from .errors import Conflict, Damaged, InvalidArgument, MemOSError, NotFound, StoreClosed
from .recall import Question
from .types import (
    SCHEMA, Access, Ancestry, Brief, Draft, Event, Hit, Kind, Lifespan, Link, MemCube, Namespace, Origin, Policy, Reader,
    Receipt, SourceKind, State, Stats, Text, TickReport, Usage,
)  # fmt: skip
from .validate import checked_actor, checked_ids, checked_namespace, checked_ttl, checked_word
from .vault import Vault, Vector
from .working_set import Scope, WorkingSet

log = logging.getLogger("memos_core")
_TRIES = 5  # how often a change is tried against concurrent changes of the same memory


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemOS:
    """Memories of many users in one store, by form, owner and time.

    Args:
        path: a local folder; made if missing. Any number of processes may have it open.
        embed: callable from n texts to n vectors, or the name or folder of a sentence-transformers model; None for
            all-MiniLM-L6-v2. A store keeps to the embedder that it was made with.
        reader: a `Reader` that adds statements to the turns, such as `LLMReader`; None keeps the turns alone.
        policy: the numbers.
        actor: who acts where a verb names nobody.
        count_tokens: tokens of a text, for `brief`; None estimates.
        clock: the time, in UTC.

    Safe for many threads. Raises StoreError at opening: see `errors`.

    Example:
        >>> with MemOS("memories") as memory:                                            # doctest: +SKIP
        ...     memory.add("I take my tea with lemon.")
        ...     memory.search("How does she take her tea?")[0].cube.text
        'I take my tea with lemon.'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        embed: Callable[[Sequence[str]], Any] | str | os.PathLike[str] | None = None,
        reader: Reader | None = None,
        policy: Policy = Policy(),
        actor: str = "local",
        count_tokens: Callable[[str], int] = briefs.estimate_tokens,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._actor = checked_actor(actor)
        self._embedding = Embedding(embed)
        self._reader = reader
        self._policy = policy
        self._count_tokens = count_tokens
        self._clock = clock
        self._vault = Vault(path, policy, self._embedding.manifest)
        try:
            self._embedding.bind(self._vault.manifest, self._vault.path)
            self._repair()
        except BaseException:
            self._vault.close()
            raise
        self._working_set = WorkingSet(self._vault, policy)
        self._reads: dict[str, Usage] = {}
        self._reads_lock = threading.Lock()
        self._upkeep = ThreadPoolExecutor(1, "memos-upkeep")
        self._upkeep_pending = threading.Event()
        self._closed = False

    # --- writing -----------------------------------------------------------------------------------------------------

    def add(
        self,
        content: Any,
        *,
        namespace: Sequence[str] = ("default",),
        key: str | None = None,
        actor: str | None = None,
        session: str | None = None,
        occurred_at: datetime | str | None = None,
        source: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        semantic_type: str | None = None,
        tags: Iterable[str] = (),
        ttl: timedelta | float | None = None,
        access: Access | None = None,
    ) -> list[MemCube]:
        """Store what was said or noted, durably, before it returns.

        Args:
            content: a string, a message (mapping with role and content, optionally name, id and timestamp), or a
                sequence of either, which is a conversation. A conversation without `session` gets one of its own.
            namespace: the address; the permission is `access`.
            key: the caller's name for one memory; if it exists under this owner and namespace, this is its new version.
            ttl: how long it is returned, as a timedelta or in seconds.
            access: who may read and write; None: its owner, the actor, alone.

        Returns:
            The memories, in the order of the content, those that were already stored among them (same message id, or the same
            content at the same place of the same session); then what the reader made of the new ones.

        Raises:
            InvalidArgument: nothing was written.
        """
        who, where = self._who(actor), checked_namespace(namespace)
        turns = reader.turns(content, reader.aware(occurred_at, "occurred_at"))
        now = self._clock()
        span = checked_ttl(ttl)
        draft = MemCube(
            id="", version=1, kind=Kind.PLAINTEXT, state=State.GENERATED, namespace=where, payload=Text(""),
            origin=Origin(SourceKind.NOTE, stored_at=now, session=checked_word(session, "session"), source=checked_word(source, "source")),
            access=_owned(who, access), created_at=now, updated_at=now, key=checked_word(key, "key"),
            semantic_type=checked_word(semantic_type, "semantic_type"), tags=_checked_tags(tags),
            attributes=checked_attributes(attributes), lifespan=Lifespan(expires_at=None if span is None else now + span),
        )  # fmt: skip
        if draft.key is not None:
            if len(turns) != 1:
                raise InvalidArgument(f"key: names one memory, and content holds {len(turns)}")
            return self._add_keyed(draft, turns[0])
        stored, fresh = self._add_turns(draft, turns)
        return stored + (self._read(who, where, draft, fresh) if self._reader is not None and fresh else [])

    def update(
        self,
        id: str,
        text: str | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        mode: lifecycle.Mode = "overwrite",
        actor: str | None = None,
    ) -> MemCube:
        """Make a new version. `mode`: overwrite, append or merge (see `lifecycle.revise`). The actor must be a writer."""
        if text is not None:
            text = reader.turns([text])[0].text
        attributes = None if attributes is None else checked_attributes(attributes)
        now = self._clock()
        return self._change(
            id, actor, "update", governance.require_write,
            lambda cube: lifecycle.revise(cube, now, text=text, attributes=attributes, mode=mode),
        )  # fmt: skip

    def restore(self, id: str, version: int, *, actor: str | None = None) -> MemCube:
        """Make a new version with the content of an old one; access and state stay as they are today."""
        past = self.get(id, version=version, actor=actor)
        return self._change(
            id, actor, "restore", governance.require_write, lambda cube: lifecycle.restored(cube, past, self._clock())
        )

    def share(
        self, id: str, readers: Iterable[str] = (), writers: Iterable[str] = (), *, actor: str | None = None
    ) -> MemCube:
        """Say who else may read and who else may write, from now on: exactly these (`PUBLIC` for everybody). Owner only."""
        may_read = frozenset(checked_actor(r, public=True) for r in _several(readers, "readers"))
        may_write = frozenset(checked_actor(w, public=True) for w in _several(writers, "writers"))
        return self._change(
            id, actor, "share", governance.require_owner,
            lambda cube: lifecycle.with_access(cube, governance.shared(cube.access, may_read, may_write), self._clock()),
        )  # fmt: skip

    def archive(self, id: str, *, actor: str | None = None) -> MemCube:
        """Take out of search, and keep: found by its id. Owner only."""
        return self._change(id, actor, "archive", governance.require_owner, lambda c: lifecycle.archive(c, self._clock()))

    def freeze(self, id: str, *, actor: str | None = None) -> MemCube:
        """Make unchangeable, undeletable and unexpiring until unfrozen. Owner only."""
        return self._change(id, actor, "freeze", governance.require_owner, lambda c: lifecycle.freeze(c, self._clock()))

    def unfreeze(self, id: str, *, actor: str | None = None) -> MemCube:
        """Undo `freeze`. Owner only."""
        return self._change(id, actor, "unfreeze", governance.require_owner, lambda c: lifecycle.unfreeze(c, self._clock()))

    def delete(self, ids_or_namespace: str | Iterable[str] | tuple[str, ...], *, actor: str | None = None) -> Receipt:
        """Remove memories with all their versions, and whatever was derived from them, before it returns.

        Args:
            ids_or_namespace: an id, a list or set of ids, or a *tuple*: a namespace, of which all that the actor owns goes.

        Raises:
            NotFound, AccessDenied, IllegalTransition: of one of the ids; then nothing was removed.
        """
        who, now = self._who(actor), self._clock()
        with self._vault.writing():
            if isinstance(ids_or_namespace, tuple):
                where = filters.all_of(filters.under(checked_namespace(ids_or_namespace)), f"owner = {filters.literal(who)}")
                asked = [r.cube for r in self._vault.rows(where)]
            else:
                asked = self._readable(checked_ids(ids_or_namespace), who)
            for cube in asked:
                governance.require_owner(who, cube)
            derived = self._descendants(asked)
            lifecycle.require_deletable([*asked, *derived])
            gone = [*asked, *derived]
            versions = self._vault.remove([c.id for c in gone]) if gone else 0
            self._tell(who, "delete", gone, now)
        self._after_write()
        return Receipt(who, now, tuple(c.id for c in asked), tuple(c.id for c in derived), versions)

    # --- reading -----------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        *,
        namespace: Sequence[str] = (),
        actor: str | None = None,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        kinds: Iterable[Kind | str] | None = None,
    ) -> list[Hit]:
        """The k memories that answer best, best first, of those that the actor may read.

        Args:
            namespace: at or below it; () is everything.
            filter: conditions on attributes and header fields, see `filters.matching`.
            since, until: only what happened in [since, until).
        """
        who = self._who(actor)
        if not isinstance(query, str) or not query.strip():
            raise InvalidArgument("query: there is no text in it")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InvalidArgument(f"k: a whole number from 1 is needed, not {k!r}")
        start, end = reader.aware(since, "since"), reader.aware(until, "until")
        if start is not None and end is not None and start >= end:
            raise InvalidArgument(f"since, until: {start.isoformat()} is not before {end.isoformat()}")
        narrowed = filters.all_of(filters.happened(start, end), filters.of_kinds(kinds), filters.matching(filter)) or None
        scope = Scope(who, checked_namespace(namespace, root=True))
        now = self._clock()
        self._require_open()
        question = Question(query, self._embedding.one(query), now, reader.window(query, now))
        hits = self._working_set.search(scope, question, k, narrowed, now)
        self._count(hits, now)
        return hits

    def brief(
        self, query: str, *, namespace: Sequence[str] = (), actor: str | None = None, max_tokens: int = 1500
    ) -> Brief:
        """What to put before a model about a question: recalled memories as quoted, dated, attributed data that fits
        `max_tokens`, in an order that changes as little as possible from question to question."""
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InvalidArgument(f"max_tokens: a whole number from 1 is needed, not {max_tokens!r}")
        hits = self.search(query, namespace=namespace, actor=actor, k=max(10, max_tokens // 25))
        return briefs.arrange(hits, max_tokens, self._count_tokens)

    def get(self, id: str, *, version: int | None = None, actor: str | None = None) -> MemCube:
        """One memory by id, in its current or an earlier version. Raises NotFound for what is not there for this actor."""
        who = self._who(actor)
        [cube] = self._readable(checked_ids(id), who)
        if version is None or version == cube.version:
            return cube
        for past in self._vault.past(cube.id):
            if past.version == version and governance.may_read(who, past.access):
                return past
        raise NotFound(f"memory {id!r} has no version {version!r}")

    def history(self, id: str, *, actor: str | None = None) -> list[MemCube]:
        """All versions that the actor may read, oldest first, the current one last."""
        who = self._who(actor)
        [cube] = self._readable(checked_ids(id), who)
        past = (c for c in self._vault.past(cube.id) if c.version < cube.version)
        return [*(c for c in past if governance.may_read(who, c.access)), cube]

    def lineage(self, id: str, *, actor: str | None = None) -> Ancestry:
        """What a memory was made from and what was made from it, as far as the actor may read it."""
        who = self._who(actor)
        [cube] = self._readable(checked_ids(id), who)
        scope = filters.readable_by(who)
        parents = [link.id for link in cube.lineage]
        above = self._vault.rows(filters.all_of(scope, filters.one_of("id", parents))) if parents else []
        below = self._vault.rows(filters.all_of(scope, filters.contains_any("parents", [cube.id])))
        return Ancestry(cube, tuple(r.cube for r in above), tuple(r.cube for r in below))

    def log(
        self,
        *,
        actor: str | None = None,
        by: str | None = None,
        subject: str | None = None,
        verb: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """Who did what to which memory when, newest first: the actor's own acts, and what others did to memories that
        it could read at that time. `by`: only what this actor did."""
        who = self._who(actor)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument(f"limit: a whole number from 1 is needed, not {limit!r}")
        start, end = reader.aware(since, "since"), reader.aware(until, "until")
        wanted = {"actor": by, "subject": subject, "verb": verb}
        where = filters.all_of(
            f"actor = {filters.literal(who)} OR {filters.readable_by(who)}",
            *(f"{n} = {filters.literal(checked_word(v, n) or '')}" for n, v in wanted.items() if v is not None),
            None if start is None else f"at >= {filters.literal(start)}",
            None if end is None else f"at < {filters.literal(end)}",
        )
        return self._vault.events(where, limit)

    def stats(self, *, actor: str | None = None) -> Stats:
        """Counts over what the actor may read."""
        where = filters.readable_by(self._who(actor))
        kinds, states = (Counter(self._vault.column(name, where)) for name in ("kind", "state"))
        sessions = {s for s in self._vault.column("session", where) if s is not None}
        return Stats(kinds.total(), dict(kinds), dict(states), len(sessions), SCHEMA, self._embedding.name)

    # --- upkeep ------------------------------------------------------------------------------------------------------

    def tick(self, now: datetime | None = None) -> TickReport:
        """Write down buffered usage, expire what has lapsed, finish what a killed process began, compact the tables."""
        moment = reader.aware(now, "now") or self._clock()
        used = self._flush_reads()
        lapsed = filters.all_of(filters.in_states(s for s in State if s is not State.EXPIRED), f"NOT ({filters.unexpired(moment)})")
        expired = 0
        with self._vault.writing():
            old = [r.cube for r in self._vault.rows(lapsed)]
            new = [lifecycle.expire(c, moment) for c in old]
            self._vault.replace(old, new, [None] * len(new))
            self._tell("memos", "expire", new, moment)
            expired = len(new)
        self._vault.sweep()
        return TickReport(moment, used, expired, self._vault.compact())

    def close(self) -> None:
        """Write down buffered usage and let go of the store. Twice is once."""
        if self._closed:
            return
        self._upkeep.shutdown()
        try:
            self._flush_reads()
        finally:
            self._closed = True
            self._working_set.close()
            self._vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- below the verbs ---------------------------------------------------------------------------------------------

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else checked_actor(actor)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self._vault.path} was closed: open a new MemOS")

    def _readable(self, ids: Sequence[str], who: str) -> list[MemCube]:
        """These memories, in this order; NotFound for the first that is not there for the actor, or has expired."""
        where = filters.all_of(filters.one_of("id", ids), filters.readable_by(who), filters.unexpired(self._clock()), "state != 'expired'")
        found = {r.cube.id: r.cube for r in self._vault.rows(where)}
        for id in ids:
            if id not in found:
                raise NotFound(f"no memory {id!r}")
        return [found[id] for id in dict.fromkeys(ids)]

    def _descendants(self, cubes: Sequence[MemCube]) -> list[MemCube]:
        """Everything derived from these, transitively, whoever owns it."""
        seen = {c.id for c in cubes}
        found: list[MemCube] = []
        edge = list(seen)
        while edge:
            rows = self._vault.rows(filters.contains_any("parents", edge))
            new = [r.cube for r in rows if r.cube.id not in seen and any(
                link.id in seen and link.relation != "supersedes" for link in r.cube.lineage)]  # fmt: skip
            seen |= {c.id for c in new}
            found += new
            edge = [c.id for c in new]
        return found

    def _add_turns(self, draft: MemCube, turns: Sequence[reader.Turn]) -> tuple[list[MemCube], list[MemCube]]:
        """Store turns; all of them as stored, and those that are new."""
        if draft.origin.session is None and len(turns) > 1 and any(t.role for t in turns):
            draft = replace(draft, origin=replace(draft.origin, session=placement.session_label(turns)))
        unknown = [p for p in self._place(draft, turns) if p.stored is None or p.stored.text != p.turn.text]
        vectors = self._embedding.many([_spoken(p.turn.speaker, p.turn.text) for p in unknown])
        known = {(p.turn.speaker, p.turn.text): v for p, v in zip(unknown, vectors, strict=True)}
        with self._vault.writing():
            placed = self._place(draft, turns)  # again: only now does nobody else write
            late = [p for p in placed if p.stored is None and (p.turn.speaker, p.turn.text) not in known]
            for p, v in zip(late, self._embedding.many([_spoken(p.turn.speaker, p.turn.text) for p in late]), strict=True):
                known[p.turn.speaker, p.turn.text] = v
            cubes = [p.stored or _cube(draft, p) for p in placed]
            fresh = [c for c, p in zip(cubes, placed, strict=True) if p.stored is None]
            self._vault.insert(fresh, [known[c.origin.speaker, c.text] for c in fresh])
            self._tell(draft.access.owner, "add", fresh, draft.created_at)
        edited = {
            p.stored.id: self.update(p.stored.id, p.turn.text, actor=draft.access.owner)
            for p in placed if p.stored is not None and p.stored.text != p.turn.text
        }  # fmt: skip
        self._after_write()
        return [edited.get(c.id, c) for c in cubes], fresh

    def _place(self, draft: MemCube, turns: Sequence[reader.Turn]) -> list[placement.Placed]:
        owner, where, session = draft.access.owner, draft.namespace, draft.origin.session
        ids = [None if t.message_id is None else placement.message_key(owner, where, session, t.message_id) for t in turns]
        wanted = [i for i in ids if i is not None]
        by_id = {r.cube.id: r.cube for r in self._vault.rows(filters.one_of("id", wanted))} if wanted else {}
        first: list[MemCube] = []
        last: list[MemCube] = []
        if session is not None:
            here = filters.all_of(
                f"session = {filters.literal(session)}", f"owner = {filters.literal(owner)}",
                f"namespace = {filters.literal(filters.encode_namespace(where))}", "position IS NOT NULL",
            )  # fmt: skip
            last = [r.cube for r in self._vault.rows(here, limit=len(turns), last_by="position")][::-1]
            if len(last) == len(turns) > 1 and None in ids:
                rows = self._vault.rows(filters.all_of(here, f"position < {len(turns)}"))
                first = sorted((r.cube for r in rows), key=lambda c: c.origin.position or 0)
            else:
                first = last
        return placement.place(turns, session, by_id, ids, first, last)

    def _add_keyed(self, draft: MemCube, turn: reader.Turn) -> list[MemCube]:
        assert draft.key is not None
        who = draft.access.owner
        id = placement.stable_id(who, draft.namespace, "key", draft.key)
        [vector] = self._embedding.many([_spoken(turn.speaker, turn.text)])
        new = _cube(draft, placement.Placed(turn, id, None))
        with self._vault.writing():
            found = self._vault.rows(filters.one_of("id", [id]))
            if found:
                old = found[0].cube
                new = lifecycle.replaced(old, new)
                self._vault.replace([old], [new], [vector])
            else:
                self._vault.insert([new], [vector])
            self._tell(who, "update" if found else "add", [new], new.updated_at)
        self._after_write()
        return [new]

    def _change(
        self,
        id: str,
        actor: str | None,
        verb: str,
        require: Callable[[str, MemCube], None],
        make: Callable[[MemCube], MemCube],
    ) -> MemCube:
        """Read, decide, write if nobody wrote in between; else again."""
        who = self._who(actor)
        for attempt in range(_TRIES):
            [old] = self._readable(checked_ids(id), who)
            require(who, old)
            new = make(old)
            if new is old:
                return old
            vector: Vector | None = None
            if new.text != old.text:
                [vector] = self._embedding.many([_spoken(new.origin.speaker, new.text)])
            try:
                with self._vault.writing():
                    self._vault.replace([old], [new], [vector])
                    self._tell(who, verb, [new], new.updated_at)
                break
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
        self._after_write()
        return new

    def _read(self, who: str, where: Namespace, draft: MemCube, turns: list[MemCube]) -> list[MemCube]:
        """Have the reader make statements of new turns; what goes wrong is an event, and the turns stay."""
        assert self._reader is not None

        def similar(text: str) -> list[MemCube]:
            hits = self.search(text, namespace=where, actor=who, k=20, filter={"semantic_type": {"$in": list(reader.TYPES)}})
            return [h.cube for h in hits if governance.may_write(who, h.cube.access)]

        reading = self._reader.read(turns, similar)
        for problem in reading.problems:
            log.warning("reading turns for %s: %s", who, problem)
            self._tell(who, "read", [], self._clock(), outcome="failed", detail=problem)
        return [self._keep(who, draft, statement) for statement in reading.drafts]

    def _keep(self, who: str, draft: MemCube, statement: Draft) -> MemCube:
        """Store a statement that a reader drafted, as it decided: added, as an update, or in the place of another."""
        now = self._clock()
        sources = self._readable([link.id for link in statement.parents], who) if statement.parents else []
        access = governance.derived_access(who, [s.access for s in sources]) if sources else draft.access
        cube = replace(
            draft, id=str(uuid.uuid4()), payload=Text(statement.text), access=access,
            origin=Origin(SourceKind.EXTRACTION, stored_at=now, occurred_at=statement.occurred_at, speaker=statement.speaker,
                          session=draft.origin.session, source=draft.origin.source, model=statement.model),
            created_at=now, updated_at=now, semantic_type=statement.semantic_type, tags=statement.tags,
            attributes=checked_attributes(statement.attributes), lineage=statement.parents,
        )  # fmt: skip
        if statement.decision == "update" and statement.revises is not None:
            return self._change(
                statement.revises, who, "update", governance.require_write, lambda old: lifecycle.refined(old, cube, now)
            )
        [vector] = self._embedding.many([_spoken(cube.origin.speaker, cube.text)])
        with self._vault.writing():
            if statement.decision == "supersede" and statement.revises is not None:
                [old] = self._readable([statement.revises], who)
                cube = lifecycle.superseding(cube, old)
            self._vault.insert([cube], [vector])
            self._tell(who, "add", [cube], now)
        if statement.decision == "supersede" and statement.revises is not None:
            until = statement.occurred_at or now
            self._change(
                statement.revises, who, "supersede", governance.require_write, lambda c: lifecycle.superseded(c, until, now)
            )
        return cube

    def _tell(
        self, who: str, verb: str, cubes: Sequence[MemCube], at: datetime, *, outcome: str = "ok", detail: str = ""
    ) -> None:
        if not cubes and outcome == "ok":
            return
        subjects: list[MemCube | None] = list(cubes) or [None]
        events = [
            Event(str(uuid.uuid4()), at, who, verb, c and c.id, c and c.version, outcome, detail) for c in subjects
        ]
        self._vault.record(events, [governance.readers_of(c.access) if c else () for c in subjects])

    def _repair(self) -> None:
        """Tell of what was written in the last day and not told of, because a process was killed between the two. Raises
        Damaged for the opposite: what was told of and is not there."""
        if self._vault.lost():
            with self._vault.writing():
                if lost := self._vault.lost():
                    raise Damaged(f"{self._vault.path}/cubes.lance lacks {len(lost)} memories that were stored, such as {lost[0]}")
        since = self._clock() - timedelta(days=1)
        if not self._vault.missing_events(since):
            return
        with self._vault.writing():  # nobody is between the two now
            for cube in self._vault.missing_events(since):
                verb = "add" if cube.version == 1 else "update"
                self._tell(cube.access.owner, verb, [cube], cube.updated_at, detail="told after a crash")

    # --- usage and upkeep in the background --------------------------------------------------------------------------

    def _count(self, hits: Sequence[Hit], now: datetime) -> None:
        with self._reads_lock:
            for hit in hits:
                seen = self._reads.get(hit.cube.id, Usage())
                self._reads[hit.cube.id] = Usage(seen.reads + 1, now)
            full = len(self._reads) >= self._policy.flush_usage
        if full:
            self._later(self._flush_reads)

    def _flush_reads(self) -> int:
        with self._reads_lock:
            reads, self._reads = self._reads, {}
        if reads:
            self._vault.count_reads(reads)
        return len(reads)

    def _after_write(self) -> None:
        if self._vault.needs_compaction:
            self._later(self._vault.compact)

    def _later(self, work: Callable[[], object]) -> None:
        """Do upkeep beside the requests, one piece at a time; a failure is logged and the next write tries again."""
        if self._upkeep_pending.is_set() or self._closed:
            return
        self._upkeep_pending.set()

        def run() -> None:
            try:
                work()
            except MemOSError as error:
                log.warning("upkeep of %s: %s", self._vault.path, error)
            finally:
                self._upkeep_pending.clear()

        try:
            self._upkeep.submit(run)
        except RuntimeError:  # closed between the two
            self._upkeep_pending.clear()


def _spoken(speaker: str | None, text: str) -> str:
    """What is embedded for a memory."""
    return text if speaker is None else f"{speaker}: {text}"


def _owned(who: str, access: Access | None) -> Access:
    if access is None:
        return Access(who)
    if access.owner != who:
        raise InvalidArgument(f"access: its owner {access.owner!r} is not who adds, {who!r}")
    return access


def _several(names: Iterable[str], argument: str) -> Iterable[str]:
    if isinstance(names, str):
        raise InvalidArgument(f"{argument}: a list of actors is needed, not the string {names!r}")
    return names


def _checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(checked_word(t, "tags") or "" for t in _several(tags, "tags")))


def _cube(draft: MemCube, placed: placement.Placed) -> MemCube:
    turn = placed.turn
    origin = replace(
        draft.origin, kind=SourceKind.NOTE if turn.role is None else SourceKind.MESSAGE, occurred_at=turn.occurred_at,
        role=turn.role, speaker=turn.speaker, position=placed.position, message_id=turn.message_id,
    )  # fmt: skip
    return replace(draft, id=placed.id, payload=Text(turn.text), origin=origin)


__all__ = ["MemOS", "Link"]
