"""The verbs of time: what `MemOS` can make one of several changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from .blobs import Blobs
from .branches import copied
from .errors import InvalidArgument
from .merging import Merge, merged
from .redaction import Redactions
from .time_machine import Reach, TimeMachine
from .timeline import Difference, Rollback, Snapshot
from .transactions import Found, Transaction
from .upkeep import Upkeep
from .validate import checked_id, checked_namespace, checked_word
from .vault import Vault
from .working_set import WorkingSet
from .writing import Writer


class TimeTravel:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _blobs: Blobs
    _time_machine: TimeMachine
    _upkeep: Upkeep
    _vault: Vault
    _working_set: WorkingSet
    _writer: Writer
    _another: Callable[..., AbstractContextManager[Any]]
    _redactions: Redactions
    _clock: Callable[[], datetime]
    _fork: tuple[str, int] | None = None

    if TYPE_CHECKING:

        def _who(self, actor: str | None) -> str: ...

    # --- moments -------------------------------------------------------------------------------------------------------

    def snapshot(self, name: str, *, actor: str | None = None) -> Snapshot:
        """Remember this moment under a name of the actor's. Costs one event, whatever is in the store; outlives compaction and
        re-embedding; keeps nothing from deletion. Raises InvalidArgument for a name that is taken."""
        return self._time_machine.snapshot(self._who(actor), _checked_name(name))

    def snapshots(self, *, actor: str | None = None) -> list[Snapshot]:
        """The actor's snapshots, in the order in which they were taken."""
        who = self._who(actor)
        return self._whole(lambda: self._time_machine.snapshots(who))

    def drop_snapshot(self, name: str, *, actor: str | None = None) -> None:
        """Remember it no more; of the memories nothing changes. Raises NotFound."""
        self._time_machine.drop(self._who(actor), _checked_name(name))

    def diff(self, a: str, b: str | None = None, *, actor: str | None = None) -> Difference:
        """What was added, removed and changed from one snapshot of the actor's to another, or until now, with versions, of what the
        actor may read. (`get(id, version=...)` has the content.) Raises NotFound."""
        who, start, end = self._who(actor), _checked_name(a), None if b is None else _checked_name(b)
        return self._whole(lambda: self._time_machine.diff(who, start, end))

    def rollback(
        self, name: str, *, namespace: Sequence[str] = (), id: str | None = None, everybody: bool = False, actor: str | None = None
    ) -> Rollback:  # fmt: skip
        """Make the actor's own memories what they were at a snapshot of its: all of them, those at or below a namespace, or one.

        What changed gets its old content and state as a new version, what came later is withdrawn (expired before its time), and so a
        rollback can be undone by another. All or nothing, and told of in the log. Nothing else is touched:

        - memories of others, also where the actor may write them. `everybody`: for whoever runs the store; all owners' memories.
        - what was deleted stays deleted; what is frozen stays as it is; what was made from a deleted memory stays as it is.
        - access and the end of a life stay as they are today.
        - keys, values and adapters are not rolled back: they follow the texts that they were made from.

        Raises:
            NotFound: no such snapshot or memory of the actor's. AccessDenied: another's memory.
        """
        who, where = self._who(actor), checked_namespace(namespace, root=True)
        reach = Reach(who, where, None if id is None else checked_id(id), everybody)
        return self._time_machine.rollback(reach, _checked_name(name), self.transaction)

    # --- what if -------------------------------------------------------------------------------------------------------

    @contextmanager
    def branch(self, name: str) -> Iterator[Self]:
        """A `MemOS` on a copy of the store, to try things on: every verb works there, nothing of it is seen here, and at the end of
        the block it is gone without a trace, unless it was brought back by `merge`. The copy shares the store's files and costs no
        room until either changes. On it, a snapshot of the branch's name marks where it began: `trial.diff(name)`.

        Raises:
            InvalidArgument: the actor has a snapshot of that name; or a transaction is under way here.
        """
        checked = _checked_name(name)
        if self._vault.db.transactions.inside is not None:
            raise InvalidArgument(
                "name: a branch is of a store between two writes: begin it outside of the transaction"
            )
        given = self._redactions.given()
        with copied(self._vault.db) as path, self._another(path, sensitivity=given) as trial:
            trial._fork = self._vault.path, trial.snapshot(checked).number
            yield trial

    def merge(self, trial: Self) -> Merge:
        """Bring back all that was changed on a branch of this store, in one transaction, each memory as one new version with the
        name of who changed it there. Keys, values and adapters stay behind.

        Raises:
            Conflict: something of it changed here too since the branch began; nothing was brought back.
        """
        if trial._fork is None or trial._fork[0] != self._vault.path:
            raise InvalidArgument("trial: a branch of this store is needed, see MemOS.branch")
        return merged(
            self._vault, trial._vault, trial._fork[1], self._writer, self._clock(), self.transaction
        )  # fmt: skip

    # --- several changes as one ------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all that is done in the block one change: kept whole at its end, or, at an error or a kill, not at all.

        What is read in the block is what was written in it; every other thread and process reads the state before until the end, and
        never waits. Writers wait, up to `Policy.lock_seconds`. A block within a block is a part of the outer one, and an error that
        leaves the inner one takes all of it back, also if it is caught. The transaction belongs to the thread that began it and to
        what that runs in a copy of its context (`asyncio.to_thread`, LangGraph's nodes); not to other tasks of an event loop.
        What is taken back stays in the log of its actor, as "rolled back".

        Raises:
            StoreUnavailable: another writer, or a compaction, did not end in time.
        """
        self._vault.ledger.require_key()
        with self._vault.db.transactions.begin() as under_way:
            if not under_way.ends:
                under_way.ends.append(partial(self._settle, under_way))
            yield
        self._upkeep.after_write()

    def _whole(self, read: Callable[[], Found]) -> Found:
        """What a reading of several steps finds, with each transaction wholly in it or not at all."""
        return self._vault.db.transactions.whole(read)

    def _settle(self, ended: Transaction, kept: bool) -> None:
        self._blobs.settle(ended, kept)
        self._working_set.settle(ended, kept)
        self._writer.forget(sorted(ended.touched))
        if not kept:
            self._upkeep.forget(ended.touched)


def _checked_name(name: Any) -> str:
    found = checked_word(name, "name")
    if found is None:
        raise InvalidArgument("name: a string is needed, not None")
    return found
