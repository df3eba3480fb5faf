"""The verbs of time: what `MemOS` can make one of several changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from .blobs import Blobs
from .transactions import Transaction
from .upkeep import Upkeep
from .vault import Vault
from .working_set import WorkingSet
from .writing import Writer


class TimeTravel:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _blobs: Blobs
    _upkeep: Upkeep
    _vault: Vault
    _working_set: WorkingSet
    _writer: Writer

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
        with self._vault.db.transactions.begin() as under_way:
            if not under_way.ends:
                under_way.ends.append(partial(self._settle, under_way))
            yield
        self._upkeep.after_write()

    def _settle(self, ended: Transaction, kept: bool) -> None:
        self._blobs.settle(ended, kept)
        self._working_set.settle(ended, kept)
        self._writer.forget(sorted(ended.touched))
        if not kept:
            self._upkeep.forget(ended.touched)
