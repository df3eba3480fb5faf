"""MemOS: the verbs. Each authorises, decides by the pure modules, and acts through the vault."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from . import brief as briefs
from . import filters, fork, governance, lifecycle, reader
from .adapters import AdapterTier
from .audit import checked_keys
from .blobs import Blobs
from .bringing import Bringer
from .codec import checked_attributes, checked_text
from .derived import Derived
from .dumping import Dumper
from .duplicates import Duplicates
from .embedding import Embedding
from .errors import InvalidArgument, StoreClosed
from .exchange import Exchange
from .forms import Forms
from .groups import Groups
from .holdings import Rates, SchedulePolicy
from .inquiry import Inquiry
from .items import Items
from .landing import Landing
from .loading import Loader
from .publishing import MemStore
from .recall import Question
from .scheduler import checked_schedule
from .seeing import Seeing
from .sensitivity import Sensitivity, checked_sensitivity
from .sites import site
from .statements import Statements
from .subscriptions import Subscriptions
from .ticking import Ticking
from .tiers import Tiers
from .time_machine import TimeMachine
from .time_travel import TimeTravel
from .trust import Trust
from .types import (
    Access,
    Ancestry,
    Brief,
    Embedder,
    Event,
    Hit,
    Kind,
    Lifespan,
    MemCube,
    Origin,
    Policy,
    Reader,
    SourceKind,
    State,
    Stats,
    Text,
)  # fmt: skip
from .upkeep import Upkeep
from .validate import (
    checked_access,
    checked_actor,
    checked_actors,
    checked_end,
    checked_id,
    checked_namespace,
    checked_number,
    checked_policy,
    checked_tags,
    checked_word,
)  # fmt: skip
from .vault import Vault
from .working_set import Scope, WorkingSet
from .writing import Writer

if TYPE_CHECKING:
    from .distillation import Distillation
    from .model import LocalModel

_LEAST, _LINE = 10, 25  # hits considered for a brief: so many, or one for each short line that the budget has room for
_ASKED = 2_000  # characters of a question that are read for its words; all of it is embedded


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemOS(Forms, Exchange, Trust, Ticking, Seeing, TimeTravel, fork.Refusing):
    """Memories of many users in one store, by form, owner and time.

    Args:
        path: a local folder, made if missing, or s3://BUCKET/PATH (extra `s3`). Any number of processes may have it open, and of a bucket
            any number of machines.
        storage_options: of a bucket, where the usual AWS_* variables do not say it: access_key_id, secret_access_key, session_token,
            region, endpoint.
        embed: callable from n texts to n vectors, or the name or folder of a sentence-transformers model; None for
            all-MiniLM-L6-v2. A store keeps to the embedder that it was made with.
        reader: a `Reader` that adds statements to the turns, such as `LLMReader`; None keeps the turns alone.
        model: a `LocalModel`, for `generate`, for keeping keys and values, and for adapters.
        sensitivity: what is looked for in memories, and left out for whom, see `Sensitivity`; the store records it. None: as recorded.
        distillation: how memories become adapters, see `Distillation`.
        policy: the numbers. schedule: those of the scheduler, which `tick` and `start` set to work.
        rates: what things cost on this machine; None measures it.
        actor: who acts where a verb names nobody.
        count_tokens: tokens of a text, for `brief`; None estimates.
        clock: the time, in UTC. audit_key: 32 secret bytes or more that the log is signed with, or several such keys, newest first; others may read. See `verify`.

    Safe for many threads. `path` is where it lives, `closed` whether it was closed. Raises StoreError at opening: see `errors`.

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
        storage_options: Mapping[str, str] | None = None,
        embed: Embedder | str | os.PathLike[str] | None = None,
        reader: Reader | None = None,
        model: LocalModel | None = None,
        sensitivity: Sensitivity | None = None,
        distillation: Distillation | None = None,
        policy: Policy = Policy(),
        schedule: SchedulePolicy = SchedulePolicy(),
        rates: Rates | None = None,
        actor: str = "local",
        count_tokens: Callable[[str], int] = briefs.estimate_tokens,
        clock: Callable[[], datetime] = _utc_now,
        audit_key: bytes | Sequence[bytes] | None = None,
    ) -> None:
        if reader is not None and not callable(getattr(reader, "read", None)):
            raise InvalidArgument(f"reader: an object with a method read is needed, not {type(reader).__name__}")
        if not callable(count_tokens) or not callable(clock) or clock().utcoffset() is None:
            raise InvalidArgument("count_tokens, clock: callables are needed, the clock's times with a timezone")
        self._actor = checked_actor(actor)
        self._embedding = Embedding(embed)
        self._policy = checked_policy(policy)
        checked_schedule(schedule, clock(), rates=rates)
        self._count_tokens = count_tokens
        self._clock = clock
        given = checked_sensitivity(sensitivity)
        place = site(path, policy, storage_options)
        self._vault = Vault(place, policy, self._embedding.manifest, checked_keys(audit_key))
        self._blobs = blobs = Blobs(place.files)
        blobs.inside = lambda: self._vault.db.transactions.inside
        self._writer = Writer(self._vault, blobs, self._embedding, clock)
        self._upkeep = Upkeep(self._vault, self._writer, policy)
        self._derived = derived = Derived(self._vault, blobs, self._writer, policy, clock)
        self._adapters = AdapterTier(self._vault, blobs, self._writer, derived, policy, clock, place.files)
        landing = Landing(self._vault, blobs, self._writer, self._adapters.rebuilds)
        try:
            self._embedding.bind(self._vault.manifest, self._vault.path)
            self._vault.ledger.settle(self._actor, clock())
            landing.settle()
            self._upkeep.repair(clock())
            self._set_up_redaction(given, self._actor)
        except BaseException:
            self._vault.close()
            raise
        self._groups = Groups(self._vault)
        self._working_set = WorkingSet(self._vault, policy)
        self._inquiry = Inquiry(self._vault, self._writer, clock)
        self._statements = None if reader is None else Statements(reader, self._writer, self.search, clock)
        self._tiers = Tiers(self._vault, blobs, self._writer, derived, policy, clock)
        self._dumper = Dumper(self._vault, blobs, clock)
        self._loader = Loader(self._vault, blobs, self._embedding, landing, clock, self._may_act_for_all)
        self._subscriptions = Subscriptions(place.files)
        self._memstore = MemStore(
            self._vault, self._writer, self._dumper, self._loader, self._embedding, self._subscriptions, clock
        )
        self._model = model
        self._distillation = distillation
        self._duplicates = Duplicates(self._vault, self._writer, self._embedding, clock)
        self._set_up_scheduler(schedule, rates)
        if model is not None:  # what ticks put beside it goes with its memories too, though nobody asks anything
            self._writer.forget = lambda ids: self._answers().forget(ids)
        self._items = Items(self._vault, self._writer, self._embedding, self._upkeep, clock, self._actor)
        self._another = partial(
            type(self), embed=self._embedding.embedder, reader=reader, model=model, distillation=distillation, policy=policy,
            schedule=schedule, rates=rates, actor=actor, count_tokens=count_tokens, clock=clock, audit_key=audit_key,
        )  # fmt: skip
        self._time_machine = TimeMachine(self._vault, self._writer, self._embedding, clock)
        self._bringer = Bringer(self._vault, self._writer, self._embedding, self._items, clock)
        self.path, self.closed = self._vault.path, False
        fork.watch(self)

    @property
    def items(self) -> Items:
        """Memories by namespace and key: values to put and get, see `Items`."""
        return self._items

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
                sequence of either: a conversation, which without `session` gets one of its own. Of parts the text is taken; "[image]" or
                the like stands for others; messages that only call tools are left out; an event says what. Turns
                added one by one need an id or a timestamp, or the same words twice in a row are taken for a repeated call.
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
        shared = checked_access(access, str(who))
        self._groups.require_known(shared.readers | shared.writers | (shared.within or frozenset()), who)
        turns, left_out = reader.heard(content, reader.aware(occurred_at, "occurred_at"))
        now = self._clock()
        draft = MemCube(
            id="", version=1, kind=Kind.PLAINTEXT, state=State.GENERATED, namespace=where, payload=Text(""),
            origin=Origin(SourceKind.NOTE, stored_at=now, session=checked_word(session, "session"), source=checked_word(source, "source")),
            access=shared, created_at=now, updated_at=now, key=checked_word(key, "key"),
            semantic_type=checked_word(semantic_type, "semantic_type"), tags=checked_tags(tags),
            attributes=checked_attributes(attributes), lifespan=Lifespan(expires_at=checked_end(ttl, now)),
        )  # fmt: skip
        draft = self._vault.retained(draft)
        if draft.key is not None:
            if len(turns) != 1:
                raise InvalidArgument(f"key: names one memory, and content holds {len(turns)}")
            stored = [self._writer.add_keyed(draft, turns[0])]
        else:
            stored, fresh = self._writer.add_turns(draft, turns)
            if fresh and self._statements is not None:
                stored = stored + self._statements.of(who, draft, fresh)
        self._writer.tell_left_out(who, now, left_out)
        self._upkeep.after_write()
        return stored

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
        version = checked_number(version, "version")
        # as it is: nothing is left out of what is stored
        past = self._inquiry.get(self._who(actor), checked_id(id), version)
        return self._change(
            id, actor, "restore", governance.require_write, lambda cube: lifecycle.restored(cube, past, self._clock())
        )

    def share(
        self, id: str, readers: Iterable[str] = (), writers: Iterable[str] = (), *, actor: str | None = None
    ) -> MemCube:
        """Say who else may read and who else may write, from now on: exactly these (`PUBLIC` for everybody). Owner only. What
        was made from the memory loses the readers that the memory loses."""
        who, may_read, may_write = (
            self._who(actor),
            checked_actors(readers, "readers"),
            checked_actors(writers, "writers"),
        )
        self._groups.require_known(may_read | may_write, who)
        changed = self._writer.share(checked_id(id), who, may_read, may_write)
        self._upkeep.after_write()
        return changed

    def archive(self, id: str, *, actor: str | None = None) -> MemCube:
        """Take out of search, and keep: found by its id. Owner only."""
        return self._change(
            id, actor, "archive", governance.require_owner, lambda c: lifecycle.archive(c, self._clock())
        )

    def freeze(self, id: str, *, actor: str | None = None) -> MemCube:
        """Make unchangeable, undeletable and unexpiring until unfrozen. Owner only."""
        return self._change(id, actor, "freeze", governance.require_owner, lambda c: lifecycle.freeze(c, self._clock()))

    def unfreeze(self, id: str, *, actor: str | None = None) -> MemCube:
        """Undo `freeze`. Owner only."""
        return self._change(
            id, actor, "unfreeze", governance.require_owner, lambda c: lifecycle.unfreeze(c, self._clock())
        )

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
        if not isinstance(query, str) or not query.strip():
            raise InvalidArgument("query: there is no text in it")
        checked_text(query, "query")
        k = checked_number(k, "k")
        start, end = reader.aware(since, "since"), reader.aware(until, "until")
        if start is not None and end is not None and start >= end:
            raise InvalidArgument(f"since, until: {start.isoformat()} is not before {end.isoformat()}")
        narrowed = filters.all_of(filters.happened(start, end), filters.of_kinds(kinds), filters.matching(filter))
        where, now = checked_namespace(namespace, root=True), self._clock()
        self._require_open()

        def found(question: Question) -> tuple[str, list[Hit]]:
            who = self._who(actor)  # in the same reading: the manifest is looked at once for all of it
            return who, self._working_set.search(Scope.of(who, where), question, k, narrowed or None, now)

        with self._going_first():
            return self._found(query, now, found)

    def _found(self, query: str, now: datetime, found: Callable[[Question], tuple[str, list[Hit]]]) -> list[Hit]:
        question = Question(
            query[:_ASKED], self._embedding.one(query), now, reader.window(query, now), self._embedding.asking()
        )
        who, hits = self._whole(lambda: found(question))
        self._upkeep.count(hits, now)
        return hits if self._sensitivity is None else [replace(hit, cube=self._shown(who, hit.cube)) for hit in hits]

    def brief(
        self,
        query: str,
        *,
        namespace: Sequence[str] = (),
        actor: str | None = None,
        max_tokens: int = 1500,
        leave_out: Callable[[MemCube], bool] | None = None,
    ) -> Brief:
        """What to put before a model about a question: recalled memories as quoted, dated, attributed data that fits
        `max_tokens`, in an order that changes as little as possible from question to question.

        Args:
            max_tokens: of the text. If it is small, frame and best memory are cut; InvalidArgument if nothing known fits.
            leave_out: memories that the model sees anyway, such as turns that are still in its context.
        """
        return self._recalled(query, namespace, actor, max_tokens, leave_out)[0]

    def _recalled(
        self,
        query: str,
        namespace: Sequence[str],
        actor: str | None,
        max_tokens: int,
        leave_out: Callable[[MemCube], bool] | None,
    ) -> tuple[Brief, list[MemCube]]:
        """A brief, and what would be in it too, were it not left out."""
        max_tokens = checked_number(max_tokens, "max_tokens")
        k = max(_LEAST, max_tokens // _LINE)
        hits = self.search(query, namespace=namespace, actor=actor, k=k if leave_out is None else 2 * k)
        if leave_out is None:
            return briefs.arrange(hits, max_tokens, self._count_tokens), []
        kept = [h for h in hits if not leave_out(h.cube)][:k]
        found = briefs.arrange(kept, max_tokens, self._count_tokens)
        there = {c.id for c in found.cubes}
        ranks = [i for i, h in enumerate(hits) if h.cube.id in there]
        # where some did not fit, only what answers better than the last that did would have been taken before it
        last = k if len(there) == len(kept) else min(k, max(ranks, default=0))
        taken = {h.cube.id for h in kept}
        return found, [h.cube for h in hits[:last] if h.cube.id not in taken]

    def get(self, id: str, *, version: int | None = None, actor: str | None = None) -> MemCube:
        """One memory by id, in its current or an earlier version. Raises NotFound for what is not there for this actor."""
        who, known = self._who(actor), checked_id(id)
        return self._shown(who, self._whole(lambda: self._inquiry.get(who, known, version)))

    def history(self, id: str, *, actor: str | None = None) -> list[MemCube]:
        """All versions that the actor may read, oldest first, the current one last."""
        who, known = self._who(actor), checked_id(id)
        return [self._shown(who, cube) for cube in self._whole(lambda: self._inquiry.history(who, known))]

    def lineage(self, id: str, *, actor: str | None = None) -> Ancestry:
        """What a memory was made from and what was made from it, as far as the actor may read it."""
        who, known = self._who(actor), checked_id(id)
        found = self._whole(lambda: self._inquiry.lineage(who, known))
        parents, children = (tuple(self._shown(who, c) for c in some) for some in (found.parents, found.children))
        return Ancestry(self._shown(who, found.cube), parents, children)

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
        wanted = {"actor": by, "subject": subject, "verb": verb}
        window = (reader.aware(since, "since"), reader.aware(until, "until"))
        who, most = self._who(actor), checked_number(limit, "limit")
        events = self._whole(lambda: self._inquiry.log(who, wanted, window, most))
        redaction = self._sensitivity
        return events if redaction is None else [redaction.told(who, e) for e in events]

    def stats(self, *, actor: str | None = None) -> Stats:
        """Counts over what the actor may read."""
        who = self._who(actor)
        of_record = self._vault.manifest.embedder or self._embedding.name  # who only looks may have opened it with none
        return self._whole(lambda: self._inquiry.stats(who, of_record))

    # --- its life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the scheduler, write down buffered usage and let go of the store. Twice is once."""
        if self.closed or self._is_left_behind:  # in a fork there is nothing to let go of: it is the parent's
            self.closed = True
            return
        try:
            self.stop()
            self._upkeep.close()
        finally:
            self.closed = True
            self._tiers.close()
            self._working_set.close()
            self._vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _going_first(self) -> AbstractContextManager[None]:
        """A request, until the end of the block: what can be done later waits for it."""
        return self._requests.one()

    # --- below the verbs ---------------------------------------------------------------------------------------------

    def _who(self, actor: str | None) -> str:
        return self._groups.caller(self._actor if actor is None else actor)

    def _require_open(self) -> None:
        if self.closed:
            raise StoreClosed(f"{self._vault.path} was closed: open a new MemOS")

    def _change(
        self,
        id: str,
        actor: str | None,
        verb: str,
        require: Callable[[str, MemCube], None],
        make: Callable[[MemCube], MemCube],
    ) -> MemCube:
        who = self._who(actor)
        changed = self._writer.change(checked_id(id), who, verb, require, make)
        self._upkeep.after_write()
        return self._shown(who, changed)
