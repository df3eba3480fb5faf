"""Who does what just now: leases on pieces of work, in a table of the store, so that nothing is done twice at once.

A lease is taken by one conditional update (rows updated: one or none), which is atomic on any store that the vault can open; no lock is
held meanwhile. It lapses unless it is renewed, so a killed holder's work is done by another; `attempt`, which counts the takers, tells a
holder that was asleep that it is no longer the holder. Knows the table and the clock that it is given; knows no work.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from . import filters
from .database import Database
from .errors import Conflict, MemOSError
from .tables import LATER, table_of

log = logging.getLogger("memos_core")
_TRIES = 5  # how often a write is tried against others of the same row
_KEPT = timedelta(days=1)  # for which a row that nobody holds is left


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do a piece of work until a time. `holder` is one taker, `attempt` the how manyth; `who` is for whom it is done, and
    `what` says in words what it is."""

    id: str
    holder: str
    attempt: int
    until: datetime
    who: str
    what: str


class Leases:
    """The leases of one store. Safe for many threads; any number of processes may use the same.

    Args:
        clock: the time, in UTC. Those of all machines must agree to a small part of a lease.
        seconds: for which a lease holds unless it is renewed; ten times the longest commit at least.
    """

    def __init__(self, db: Database, clock: Callable[[], datetime], *, seconds: float = 60.0) -> None:
        self._db = db
        self._clock = clock
        self._span = timedelta(seconds=seconds)

    def claim(self, id: str, *, who: str = "", what: str = "") -> Lease | None:
        """Take a lease; None if somebody else has it."""
        now, holder = self._clock(), str(uuid.uuid4())
        known = self._rows(f"id = {filters.literal(id)}")
        if not known:
            free = {"id": id, "holder": "", "until": now, "attempt": 0, "who": who, "what": what}
            self._insert(free)
        taken = Lease(id, holder, known[0].attempt + 1 if known else 1, now + self._span, who, what)
        values = {
            "holder": filters.literal(holder), "until": filters.literal(taken.until), "attempt": str(taken.attempt),
            "who": filters.literal(who), "what": filters.literal(what),
        }  # fmt: skip
        free_now = f"attempt = {taken.attempt - 1} AND (holder = '' OR until < {filters.literal(now)})"
        return taken if self._update(f"id = {filters.literal(id)} AND {free_now}", values) else None

    def renew(self, lease: Lease) -> Lease | None:
        """The lease for its span from now on; None if it is somebody else's meanwhile."""
        until = self._clock() + self._span
        renewed = self._update(_mine(lease), {"until": filters.literal(until)})
        return replace(lease, until=until) if renewed else None

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still its holder's: to be asked before the result of the work is published."""
        return bool(self._rows(_mine(lease)))

    def give_back(self, lease: Lease) -> bool:
        """Let others take it; False if it was somebody else's already."""
        return self._update(_mine(lease), {"holder": "''", "until": filters.literal(self._clock())})

    @contextmanager
    def held(self, id: str, *, who: str = "", what: str = "") -> Iterator[Lease | None]:
        """A lease until the end of the block, renewed by a thread meanwhile; None if somebody else has it."""
        lease = self.claim(id, who=who, what=what)
        if lease is None:
            yield None
            return
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(lease, done), name="memos-lease", daemon=True)
        keeper.start()
        try:
            yield lease
        finally:
            done.set()
            keeper.join()
            self.give_back(lease)

    def under_way(self) -> list[Lease]:
        """The leases that are held now, those that lapse first in front."""
        found = self._rows(f"holder != '' AND until >= {filters.literal(self._clock())}")
        return sorted(found, key=lambda lease: (lease.until, lease.id))

    def sweep(self) -> None:
        """Remove the rows of what nobody has held for a day."""
        old = f"until < {filters.literal(self._clock() - _KEPT)}"
        if self._rows(old):
            with self._db.guarded("leases"):
                self._db.later("leases").delete(old)
            self._db.committed("leases")

    # --- below -----------------------------------------------------------------------------------------------------------

    def _keep(self, lease: Lease, done: threading.Event) -> None:
        while not done.wait(self._span.total_seconds() / 3):
            try:
                if self.renew(lease) is None:
                    return
            except MemOSError as error:  # the next try may come in time
                log.warning("lease %s was not renewed: %s", lease.id, error)

    def _insert(self, row: dict[str, Any]) -> None:
        def insert() -> None:
            merge = self._db.later("leases").merge_insert("id").when_not_matched_insert_all()
            merge.execute(table_of("leases", [row]))

        self._tried(insert)

    def _update(self, where: str, values: dict[str, str]) -> bool:
        return bool(self._tried(lambda: self._db.later("leases").update(where=where, values_sql=values).rows_updated))

    def _tried(self, write: Callable[[], Any]) -> Any:
        for attempt in range(_TRIES - 1):
            try:
                return self._written(write)
            except Conflict:
                time.sleep(0.02 * 2**attempt)
        return self._written(write)

    def _written(self, write: Callable[[], Any]) -> Any:
        with self._db.guarded("leases"):
            found = write()
        self._db.committed("leases")
        return found

    def _rows(self, where: str) -> list[Lease]:
        with self._db.guarded("leases"):
            query = self._db.later("leases").search().where(where).select(LATER["leases"].names).limit(2**31 - 1)
            return [Lease(**row) for row in query.to_arrow().to_pylist()]


def _mine(lease: Lease) -> str:
    return (
        f"id = {filters.literal(lease.id)} AND holder = {filters.literal(lease.holder)} AND attempt = {lease.attempt}"
    )
