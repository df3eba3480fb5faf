"""The verbs by which memory is trusted: what may be seen, what is forgotten, and proof of both. What `MemOS` inherits."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from . import filters, governance, retention
from .adapters import AdapterTier
from .audit import Audit
from .codec import Outline
from .duplicates import Duplicates
from .errors import InvalidArgument, NotFound
from .forgetting import Removed
from .grants import Context
from .groups import Groups, acting
from .reader import aware
from .redaction import Redaction, Redactions
from .sensitivity import Sensitivity
from .types import Event, MemCube, Namespace, Policy, Receipt, State
from .upkeep import Upkeep
from .validate import (
    checked_actors,
    checked_end,
    checked_id,
    checked_ids,
    checked_namespace,
    checked_number,
    checked_word,
)
from .vault import Vault
from .writing import Writer

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Trust:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _adapters: AdapterTier
    _clock: Callable[[], datetime]
    _duplicates: Duplicates
    _groups: Groups
    _policy: Policy
    _redactions: Redactions
    _upkeep: Upkeep
    _vault: Vault
    _writer: Writer

    if TYPE_CHECKING:

        def _who(self, actor: str | None) -> str: ...

    # --- who acts --------------------------------------------------------------------------------------------------------

    def acting(
        self, *, purpose: str | None = None, tool: str | None = None, agent: str | None = None
    ) -> AbstractContextManager[None]:
        """What is asked for in the block is asked for in this calling context, in this thread or task: rights that were given for it
        (`grant`) hold there. It is the word of the program that calls, as the actor is.

        Example:
            >>> with memory.acting(purpose="support"):                                      # doctest: +SKIP
            ...     memory.search("open tickets", actor="support-bot")
        """
        said = (checked_word(purpose, "purpose"), checked_word(tool, "tool"), checked_word(agent, "agent"))
        return acting(Context(*said))

    def group(self, name: str, members: Iterable[str], *, actor: str | None = None) -> frozenset[str]:
        """Say who is in a group, from now on: exactly these. "group:NAME" is then a reader or writer like an actor, and whoever is
        taken out of it loses at once what the group may read, with all that was derived from it.

        Whoever names a group first owns it. Raises AccessDenied for others."""
        who, now = self._who(actor), self._clock()
        with self._vault.writing():
            wanted = self._groups.put(name, members, who)
            told = Event(str(uuid.uuid4()), now, who, "group", detail=f"{name}: {len(wanted)} members")
            self._vault.record([told], [wanted])
        return wanted

    def members(self, name: str, *, actor: str | None = None) -> frozenset[str]:
        """Who is in a group. Raises NotFound for those who are neither in it nor its owner."""
        return self._groups.members(name, self._who(actor))

    def grant_operator(self, name: str, *, actor: str | None = None) -> frozenset[str]:
        """Let somebody run the store: dump it whole, and load memories in others' names; what others may see of each other does not change.
        Who they are now. The first one is named by any program that has the store's files, since it has them anyway; others by an operator.

        Raises AccessDenied."""
        return self._operators_changed(
            actor, f"{checked_word(name, 'name')} runs the store", self._groups.operators.add, name
        )

    def revoke_operator(self, name: str, *, actor: str | None = None) -> frozenset[str]:
        """Take that right from somebody; who has it now. Raises AccessDenied, NotFound, and InvalidArgument for the last one."""
        return self._operators_changed(
            actor, f"{checked_word(name, 'name')} runs the store no more", self._groups.operators.remove, name
        )

    def operators(self) -> frozenset[str]:
        """Who runs the store, see `grant_operator`."""
        return self._groups.operators.names()

    def _operators_changed(
        self, actor: str | None, said: str, change: Callable[[str, str], frozenset[str]], name: str
    ) -> frozenset[str]:
        who = self._who(actor)
        with self._vault.writing():
            names = change(name, who)
            self._writer.told_of(who, "operator", self._clock(), said)
        return names

    # --- forgetting ------------------------------------------------------------------------------------------------------

    def delete(
        self,
        ids_or_namespace: str | Iterable[str] | tuple[str, ...],
        *,
        filter: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Receipt:
        """Remove memories with all their versions, and whatever was derived from them, before it returns. Killed in the middle, the
        next opening finishes it; nobody ever sees half of it. The words are out of the files after `purge`, or after some time.

        Args:
            ids_or_namespace: an id, a list or set of ids, or a *tuple*: a namespace, of which all that the actor owns goes. What is past its
                time or was taken back is reached, too.
            filter: of a namespace, only what these conditions hold for (see `filters.matching`); with it, () is every namespace.

        Raises:
            InvalidArgument: nothing was selected, for which `forget` is; or a filter beside ids.
            NotFound, AccessDenied, IllegalTransition: of one of the ids; then nothing was removed.
        """
        who, now = self._who(actor), self._clock()
        if filter is not None and not (isinstance(ids_or_namespace, tuple) and filters.matching(filter)):
            raise InvalidArgument(
                "filter: conditions on the memories of a namespace are needed, at least one, and none beside ids; `forget` removes all"
            )
        if not isinstance(ids_or_namespace, tuple):
            ids = list(dict.fromkeys(checked_ids(ids_or_namespace)))
            return self._forgotten(who, now, lambda: self._owned_outlines(ids, who, now))
        where = filters.all_of(
            filters.under(checked_namespace(ids_or_namespace, root=filter is not None)),
            f"owner = {filters.literal(who)}",
            filters.matching(filter),
        )
        return self._forgotten(who, now, lambda: self._vault.outlines(where))

    def forget(self, *, actor: str | None = None) -> Receipt:
        """Remove all that an actor owns, in every namespace, as `delete` does. The log keeps that there was something, and who did what."""
        who, now = self._who(actor), self._clock()
        return self._forgotten(who, now, lambda: self._vault.outlines(f"owner = {filters.literal(who)}"))

    def purge(self, *, actor: str | None = None) -> Receipt:
        """Remove whatever is past its time or was taken back by a rollback, whoever owns it, and write the store's files anew, so that
        none holds a word of what was deleted: data, indexes, old versions, what killed processes left, unfinished loads and dumps. It
        takes as long as writing all memories; nobody writes meanwhile. A backup or a dump of the store is not reached (a receipt's
        `handed_out` names the dumps), nor is what a bucket keeps of older versions of its objects.

        Returns:
            Of what was removed, the actor's own memories; the log tells the other owners of theirs.

        Raises InvalidArgument inside a transaction; StoreUnavailable while another one, a load or a branch is under way.
        """
        self._vault.ledger.require_key()
        who, now = self._who(actor), self._clock()
        own = list[Removed]()

        def remove() -> None:
            own[:] = self._writer.forgetting.remove_over(filters.over(now, now), now).get(who, ())

        self._writer.forgetting.purge(remove)
        self._adapters.under_way.sweep()
        return _receipt(who, now, own, self._vault.ledger.head())

    def _forgotten(self, who: str, now: datetime, find: Callable[[], Sequence[Outline]]) -> Receipt:
        with self._vault.writing():
            gone = self._writer.forgetting.remove(find(), who, now)
            head = self._vault.ledger.head()
        self._upkeep.after_write()
        return _receipt(who, now, [gone], head)

    def _owned_outlines(self, ids: Sequence[str], who: str, now: datetime) -> list[Outline]:
        # what is past its time is there for its owner alone, and only to be removed
        there = f"owner = {filters.literal(str(who))} OR ({filters.current(now)})"
        where = filters.all_of(filters.one_of("id", ids), filters.readable_by(who), there)
        found = {o.id: o for o in self._vault.outlines(where)}
        for id in ids:
            if id not in found:
                raise NotFound(f"no memory {id!r}")
        for id in ids:
            governance.require_owned(who, id, found[id].owner)
        return [found[id] for id in ids]

    # --- where things are ------------------------------------------------------------------------------------------------

    def follow(self, id: str, *, actor: str | None = None) -> list[MemCube]:
        """All that was made from a memory, in any form and over any number of steps, as far as the actor may read it, itself first: what
        carries its id as `provenance`."""
        who = self._who(actor)
        [cube] = self._writer.readable([checked_id(id)], who)
        below = [outline.id for outline in self._writer.forgetting.descendants([cube.id])]
        seen = filters.all_of(filters.readable_by(who), filters.current(self._clock()))
        found = {row.cube.id: row.cube for row in self._vault.by_ids(below, seen)}
        return [self._shown(who, c) for c in (cube, *(found[one] for one in below if one in found))]

    @property
    def _sensitivity(self) -> Redaction | None:
        """What is left out for whom, by the rules that were read when it was asked who acts; None: nothing."""
        return self._redactions.now()

    def _set_up_redaction(self, given: Sensitivity | None, opener: str) -> None:
        """Let the store record what it was opened with, if it does not say that yet: then it holds whoever opens it."""
        self._redactions = Redactions(self._vault.rules, given)
        self._vault.tagged = lambda cube, old: cube if (r := self._sensitivity) is None else r.tagged(cube, old)
        self._writer.shows = lambda who, cubes: (
            (r := self._sensitivity) is None or all(r.is_raw(who, c) or r.is_plain(c) for c in cubes)
        )
        if not self._redactions.is_news(opener):
            return
        with self._vault.writing():
            now = self._clock()
            said = self._redactions.record(opener, now if self._vault.count("version > 0") else None)
            if said is not None:
                raw = f"raw for {', '.join(sorted(said.raw)) or 'nobody'}, as {said.by} said"
                told = Event(str(uuid.uuid4()), now, opener, "sensitivity", detail=raw)
                self._vault.record([told], [()])

    def _shown(self, who: str, cube: MemCube) -> MemCube:
        """A memory as an actor is given it."""
        redaction = self._sensitivity
        return cube if redaction is None else redaction.shown(who, cube)

    def allow_raw(self, readers: Iterable[str], *, actor: str | None = None) -> None:
        """Say who is given what is sensitive in this store as it is, besides the owner of each memory, from now on: exactly these actors,
        groups and grants. It is written in the log, and holds in every process that does not name fewer by its `Sensitivity`.

        Raises AccessDenied unless the actor is who opened the store with a `Sensitivity` first; InvalidArgument where nobody did.
        """
        who, wanted, now = self._who(actor), checked_actors(readers, "readers"), self._clock()
        self._groups.require_known(wanted, who)
        with self._vault.writing():
            self._redactions.allow(wanted, who, str(self._who(None)))
            said = ", ".join(sorted(map(str, wanted))) or "nobody"
            self._vault.record([Event(str(uuid.uuid4()), now, who, "allow raw", detail=said)], [wanted])

    def raw_readers(self) -> frozenset[str]:
        """Who is given what is sensitive in this store as it is, besides the owner of each memory."""
        recorded = self._redactions.recorded()
        return frozenset() if recorded is None else recorded.raw

    def archived(
        self,
        namespace: Sequence[str] = (),
        *,
        key: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        limit: int = 100,
        actor: str | None = None,
    ) -> list[MemCube]:
        """Memories that were taken out of search, by their name or by when they happened ([since, until)), the newest first. `restore`
        brings one back."""
        who = self._who(actor)
        where = filters.all_of(
            filters.readable_by(who), filters.under(checked_namespace(namespace, root=True)),
            filters.in_states([State.ARCHIVED]), filters.current(self._clock()),
            filters.happened(aware(since, "since"), aware(until, "until")),
            None if key is None else f"key = {filters.literal(checked_word(key, 'key') or '')}",
        )  # fmt: skip
        rows = self._vault.rows(where, limit=checked_number(limit, "limit"), order=("-happened_at", "id"))
        return [self._shown(who, row.cube) for row in rows]

    # --- said twice ------------------------------------------------------------------------------------------------------

    def duplicates(
        self, namespace: Sequence[str] = (), *, least: float = 0.9, actor: str | None = None
    ) -> list[list[MemCube]]:
        """Groups of the actor's own memories of text that say nearly the same, each proposed to `fuse`; nothing is changed.

        Args:
            namespace: at or below it, at most 20,000 memories.
            least: of the cosine of two vectors, and of the share of words that two have in common, from which on they are near.
        """
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0 < least <= 1:
            raise InvalidArgument(f"least: a number from 0 to 1 is needed, not {least!r}")
        return self._duplicates.near(self._who(actor), checked_namespace(namespace, root=True), least)

    # --- how long --------------------------------------------------------------------------------------------------------

    def retain(self, namespace: Sequence[str], span: timedelta | float | None, *, actor: str | None = None) -> None:
        """Keep what the actor owns at or below a namespace for so long after it was handed in, from now on and also what is there:
        then it is not returned any more, and `tick` removes it as `delete` does. What is frozen stays.

        Args:
            namespace: () is everything.
            span: a timedelta or seconds; None takes the rule back. Of several rules the shortest counts.
        """
        who, where, now = self._who(actor), checked_namespace(namespace, root=True), self._clock()
        end = checked_end(span, now)
        name = retention.rule(who, where)
        with self._vault.writing():
            rules = {n: s for n, s in self._vault.rules.under(retention.RULE).items() if retention.RULE + n != name}
            if end is not None:
                rules[name.removeprefix(retention.RULE)] = (end - now).total_seconds()
            mine = filters.all_of(f"owner = {filters.literal(str(who))}", filters.under(where))
            pairs = [(r.cube, retention.retained(r.cube, rules)) for r in self._vault.rows(mine)]
            changed = [(old, new) for old, new in pairs if old is not new]
            # first the memories, then the rule: killed between, too much is forgotten rather than too little
            self._vault.renew([old for old, _ in changed], [new for _, new in changed], rules)
            if end is None:
                self._vault.rules.drop(name)
            else:
                self._vault.rules.put({name: rules[name.removeprefix(retention.RULE)]})
            said = "no rule" if end is None else f"for {end - now}"
            told = Event(str(uuid.uuid4()), now, who, "retain", detail=f"{'/'.join(where) or 'everything'}: {said}")
            self._vault.record([told], [()])
        self._upkeep.after_write()

    def retention(self, *, actor: str | None = None) -> dict[Namespace, timedelta]:
        """The actor's rules of `retain`, by namespace."""
        return retention.rules_of(self._who(actor), self._vault.rules.under(retention.RULE))

    def _remove_lapsed(self, now: datetime) -> int:
        """Remove what is past its time, and what a rollback took back so long ago that none brings it back; how many."""
        since_ever = max(timedelta(0), now - _LONG_AGO)
        over = filters.over(now, now - min(self._policy.keep_withdrawn, since_ever))
        return sum(len(r.ids) for some in self._writer.forgetting.remove_over(over, now).values() for r in some)

    # --- proof -----------------------------------------------------------------------------------------------------------

    def verify(self, head: str | None = None) -> Audit:
        """Hold the log against its chain of hashes: every event that was changed, removed, inserted or moved is named, unless whoever did
        it made all links after it and the head anew.

        With `MemOS(audit_key=...)` nobody can who has not got the key: what he adds is found, and so is an unsigned log in the place of a
        signed one. Events from before the log had its key are only held as they were then. Give each store a key of its own: a log that was
        signed with it elsewhere, on a branch for example, is as authentic in the place of this one. `Audit.unchecked` says what was not checked.

        Args:
            head: the `head` of an earlier verification, kept where nobody who writes to the store can write: that its event and all
                before it are there as they were is checked by it, with or without a key. Nothing else shows that the newest events were
                cut off together with the head, or that all files were put back to what they were. Of events after it, it says nothing.

        Writes nothing. It tells how many events there are and nothing of any of them: it is for whoever runs the store. For a store that
        does not open there is `verify_store`.
        """
        return self._vault.ledger.verify(checked_word(head, "head"))


def _receipt(who: str, at: datetime, gone: Sequence[Removed], head: str) -> Receipt:
    """Of several removals: ids asked for, then what fell with them, and the hashes in the same order."""
    asked = [(id, h) for r in gone for id, h in zip(r.ids, r.hashes, strict=False)]
    fell = [(id, h) for r in gone for id, h in zip(r.derived, r.hashes[len(r.ids) :], strict=True)]
    return Receipt(
        who, at, tuple(id for id, _ in asked), tuple(id for id, _ in fell), sum(r.versions for r in gone), sum(r.blobs for r in gone),
        tuple(h for _, h in (*asked, *fell)), tuple(dict.fromkeys(out for r in gone for out in r.handed_out)), head,
    )  # fmt: skip
