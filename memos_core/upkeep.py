"""What keeps a store whole and quick: finishing what a killed process began, usage counts, compaction.

Runs beside the requests, in one thread of its own, and at opening. Each piece may be left out, run twice or killed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta

from . import filters
from .errors import Damaged, MemOSError, StoreUnavailable
from .types import Hit, Policy, Usage
from .uses import Uses, UseScope
from .vault import Vault
from .writing import Writer

log = logging.getLogger("memos_core")
_RECENT = timedelta(days=1)  # how far back opening looks for what a crash cut in two
_TOLD = 200  # and how many of the last events it holds against what is there


class Upkeep:
    """The upkeep of one store. Safe for many threads."""

    def __init__(self, vault: Vault, writer: Writer, policy: Policy) -> None:
        self._vault = vault
        self._writer = writer
        self._policy = policy
        self.uses = Uses(vault.db)
        self._reads: dict[str, Usage] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "memos-upkeep")
        self._pending = threading.Event()

    # --- after a crash -------------------------------------------------------------------------------------------------

    def repair(self, now: datetime) -> None:
        """Tell of what was written and not told of, carry out deletions that were told of and not done; now, or before the next write
        if somebody writes now. Raises Damaged for the one thing that no crash does: memories that were told of and are not there."""
        since = now - _RECENT
        if (
            not self._vault.ledger.may_write()
        ):  # what others began is theirs to finish; what is lost is said all the same
            if self._lost():
                with suppress(StoreUnavailable), self._vault.db.writing(wait=0):
                    self._require_nothing_lost()
        elif self._lost() or self._untold(since) or self._undone(since) or self._writer.forgetting.is_begun:
            self._vault.db.when_free(lambda: self._repair(since))  # somebody who writes now is between the two himself

    def _require_nothing_lost(self) -> None:
        if lost := self._lost():
            raise Damaged(
                f"{self._vault.path}/cubes.lance lacks {len(lost)} memories that were stored, such as {lost[0]}"
            )

    def _repair(self, since: datetime) -> None:
        self._require_nothing_lost()
        self._writer.forgetting.finish(self._undone(since))
        untold = {r.cube.id: r for r in self._vault.by_ids(self._untold(since))}
        told = self._vault.ledger.tells_of((id, row.cube.version) for id, row in untold.items()) if untold else set()
        for row in (r for id, r in untold.items() if (id, r.cube.version) not in told):
            verb = "add" if row.cube.version == 1 else "update"
            owner = row.cube.access.owner
            self._writer.tell(owner, verb, [row.cube], row.cube.updated_at, detail="told after a crash")

    def _untold(self, since: datetime) -> list[str]:
        """Memories of whose current version, written since a time, no event tells."""
        told = self._vault.told(f"at >= {filters.literal(since)}", "version")
        return [id for id, version in self._vault.written(since) if (id, version) not in told]

    def _undone(self, since: datetime) -> list[str]:
        """Memories whose deletion was recorded since a time and not carried out. One that was made anew under its old id
        since then is another write, and stays."""
        told = self._vault.told(f"verb = 'delete' AND at >= {filters.literal(since)}", "seq")
        return [id for id, seq in self._vault.written_as(sorted({id for id, _ in told})) if (id, seq) in told]

    def _lost(self) -> list[str]:
        """Memories that the last events tell of and that are not there: the newest files of `cubes` were lost, and Lance fell
        back to an older state without a word. (Events are written after what they tell of.)"""
        told = self._vault.events("outcome = 'ok' AND subject IS NOT NULL AND verb != 'delete'", _TOLD)
        ids = sorted({e.subject for e in told if e.subject})
        there = {r.cube.id: r.cube.version for r in self._vault.by_ids(ids)}
        missing = {e.subject for e in told if e.subject and there.get(e.subject, 0) < (e.version or 0)}
        return sorted(missing - {id for id, _ in self._vault.told("verb = 'delete'", "version")}) if missing else []

    # --- usage -----------------------------------------------------------------------------------------------------------

    def count(self, hits: Sequence[Hit], now: datetime) -> None:
        """Buffer that these were recalled. Who may not write to the store reads it uncounted."""
        if not self._vault.ledger.may_write():
            return
        with self._lock:
            for hit in hits:
                self._reads[hit.cube.id] = Usage(self._reads.get(hit.cube.id, Usage()).reads + 1, now)
            full = len(self._reads) >= self._policy.flush_usage
        if full:
            self._later(self.flush)

    def forget(self, ids: Iterable[str]) -> None:
        """Leave out that these were recalled since the last flush: they may never have been."""
        with self._lock:
            for id in ids:
                self._reads.pop(id, None)

    def note(self, scope: UseScope, ids: Sequence[str], now: datetime) -> None:
        """Buffer which memories a request of a scope wanted."""
        if self._vault.ledger.may_write() and self.uses.note(scope, ids, now):
            self._later(self.flush)

    def flush(self) -> int:
        """Write down buffered usage; of how many memories."""
        with self._lock:
            reads, self._reads = self._reads, {}
        if not self._vault.ledger.may_write():  # the log got its key since
            return 0
        try:
            if reads:
                self._vault.count_reads(reads)
        except MemOSError:  # the next flush may reach the store: what is read is not to look as if nobody read it
            with self._lock:
                for id, usage in reads.items():
                    since = self._reads.get(id, Usage())
                    last = usage.last_read_at if since.last_read_at is None else since.last_read_at
                    self._reads[id] = Usage(usage.reads + since.reads, last)
            raise
        self.uses.flush()
        return len(reads)

    def wait(self) -> None:
        """Wait until what is under way beside the requests is done."""
        with suppress(RuntimeError):  # closed: then it is
            self._thread.submit(lambda: None).result()

    # --- compaction ------------------------------------------------------------------------------------------------------

    def after_write(self) -> None:
        """Compact in the background, if this process has written enough for it to be worth it."""
        if self._vault.db.is_ragged:
            self._later(self._vault.db.compact)

    def sweep(self) -> int:
        """Remove what killed processes left behind that nobody can read: tables, and versions of memories that are gone."""
        with self._vault.writing():
            self._vault.db.drop_strays()
            return self._vault.remove_strays()

    def close(self) -> None:
        """Finish what is under way and write down buffered usage."""
        self._thread.shutdown()
        try:
            self.flush()
        except (
            StoreUnavailable
        ) as error:  # a full disk costs read counts, and must not hide what the caller's block raised
            log.warning("usage was not written down: %s", error)

    def _later(self, work: Callable[[], object]) -> None:
        """Do upkeep beside the requests, one piece at a time; a failure is logged and the next occasion tries again."""
        with self._lock:
            if self._pending.is_set():
                return
            self._pending.set()

        def run() -> None:
            try:
                work()
            except MemOSError as error:
                log.warning("upkeep of %s: %s", self._vault.path, error)
            finally:
                self._pending.clear()

        try:
            self._thread.submit(run)
        except RuntimeError:  # closed meanwhile
            self._pending.clear()
