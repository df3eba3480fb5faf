"""The store's events: appended under the writers' lock, chained (`audit`), asked for, verified. Knows their table and the head's file.

The head lies in a file of its own, written after each append: a table whose end was cut off does not fit it. Whoever can write to the
store's folder can also forge both. With a key he cannot sign what he adds, and what he takes away at the end shows by a head that was kept
elsewhere (`MemOS.verify`).

A log that was once signed stays so. The manifest says with which key, which every writer looks at anyway: a process that has not got it
may read, and is refused before it writes anything.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
from lancedb.query import ColumnOrdering

from . import audit, filters
from .audit import Audit, AuditKey, Head, Told
from .database import Database
from .errors import AuditKeyRequired, Damaged
from .files import Files
from .tables import EVENTS
from .types import Event

_ALL = 2**31 - 1
_EVENT = list(Event.__slots__)
HEAD = "audit/head"
"""The file of the head."""


def begin(files: Files) -> None:
    """Write the head of a store that is being made. One that is missing later was taken away."""
    _put_head(files, Head())


class Ledger:
    """The events of one store. Safe for many threads; any number of processes may append. keys: to sign them with, the newest first."""

    def __init__(self, db: Database, keys: Sequence[AuditKey] = ()) -> None:
        self._db = db
        self._keys = tuple(keys)
        self._ids = tuple(key.id for key in keys)
        self._files = db.site.files
        self._last: tuple[Head, int] | None = (
            None  # what this process wrote last: then nobody else's rows are to be counted
        )
        self._chained = False  # as far as is known
        head = read_head(self._files)  # in case whoever signed first was killed before the manifest said so
        self._signed_with = audit.parts(head.link)[1] if head is not None else ""
        db.may_write = self.may_write

    # --- who may write ---------------------------------------------------------------------------------------------------

    def may_write(self) -> bool:
        """Whether this process has the key that the log is signed with, if it is; as far as was last seen."""
        signed_with = self._db.manifest.audit_key or self._signed_with
        return not signed_with or signed_with in self._ids

    def require_key(self) -> None:
        """Raise AuditKeyRequired where this process may not write: what it did could not be told of as the log must be."""
        if not self.may_write():
            signed_with = self._db.manifest.audit_key or self._signed_with
            given = f"audit_key= has {' and '.join(self._ids)}" if self._keys else "no audit_key= was given"
            raise AuditKeyRequired(
                f"{self._db.path}: its log is signed with key {signed_with}, and {given}: nothing was written. Give "
                "MemOS(audit_key=...) that key (memosctl: --audit-key-file); reading and verify need none"
            )

    # --- events ----------------------------------------------------------------------------------------------------------

    def settle(self, who: str, now: datetime) -> None:
        """Chain the events of a store that was made before there was a chain; and let the log say that it is signed from here on, or
        with a newer key, if it is so. Waits for nobody: what it cannot do now is done before the next write.

        Raises AuditKeyRequired if keys were given and the log is signed with none of them."""
        if self._keys:
            self.require_key()
            self._db.when_free(lambda: self._append([], [], [], who, now))
        elif not self._is_chained:
            self._db.when_free(self._upgrade)

    def record(
        self, events: Sequence[Event], readers: Sequence[Iterable[str]], seqs: Sequence[int | None] | None = None
    ) -> None:
        """Append events, each with who besides its actor may see it and, for a deletion, which write it takes back."""
        if events:
            self._append(events, readers, seqs or [None] * len(events), events[0].actor, events[0].at)

    def _append(
        self,
        events: Sequence[Event],
        readers: Sequence[Iterable[str]],
        seqs: Sequence[int | None],
        who: str,
        now: datetime,
    ) -> None:
        with self._db.writing(), self._db.guarded("events"):
            self.require_key()
            self._upgrade()
            known, table = read_head(self._files), self._db.table("events")
            notices: list[tuple[str, str]] = []
            if known is not None and self._last == (known, table.version):
                head = known
            else:
                head, behind = self._end(known)
                if known is None:  # the log itself says from now on that it may have lost its end
                    notices.append(("failed", audit.LOST))
                if self._keys and (said := audit.notices(head.link, behind, self._keys, self._db.manifest.audit_key)):
                    notices.append(said)
            told_first = [
                Event(str(uuid.uuid4()), now, who, "audit", outcome=outcome, detail=detail)
                for outcome, detail in notices
            ]
            # that a key begins is said at opening, never in a transaction that may be taken back; what is wrong waits for the next event
            if events or (told_first and told_first[-1].outcome == "ok"):
                key = self._keys[0] if self._keys else None
                told, head = audit.chained(
                    [*told_first, *events], [*(() for _ in told_first), *readers], [*(None for _ in told_first), *seqs],
                    head, key,
                )  # fmt: skip
                version = table.add(self.rows(told)).version
                self._db.committed("events")
                _put_head(self._files, head)
                self._last = (head, version)
            # after its first signed event: killed between, the next one finds that and says it
            signed_with = audit.parts(head.link)[1]
            if self._keys and signed_with == self._ids[0] != self._db.manifest.audit_key:
                self._db.write_manifest(replace(self._db.manifest, audit_key=self._ids[0]))

    @staticmethod
    def rows(told: Sequence[Told]) -> pa.Table:
        """Events as rows of the table."""
        columns: dict[str, list[Any]] = {n: [getattr(one.event, n) for one in told] for n in _EVENT}
        columns |= {n: [getattr(one, n) for one in told] for n in ("readers", "seq", "number", "checksum", "link")}
        return pa.table({f.name: pa.array(columns[f.name], f.type) for f in EVENTS}, schema=EVENTS)

    def rewind(self) -> None:
        """Say anew where the chain ends, as the table has it: what was told last was taken back. The caller holds `writing()`."""
        if not self._is_chained:  # then the next record chains all of it
            return
        stored = self._stored("true")
        _put_head(self._files, Head(stored[-1].number, stored[-1].link, len(stored)) if stored else Head())

    def events(self, where: str, limit: int) -> list[Event]:
        """Events that a condition holds for, the newest first."""
        order = [ColumnOrdering(column_name=name, ascending=False) for name in ("at", "number")]
        where = filters.all_of(
            where, "outcome != ''"
        )  # always true: Lance 13 cannot plan an ordered query that an index answers
        query = self._db.table("events").search().where(where).select([*_EVENT, "checksum"]).order_by(order)
        with self._db.guarded("events"):
            rows = query.limit(limit).to_arrow().to_pylist()
        found = {}
        for row in rows:
            sum = row.pop("checksum")
            event = found[row["id"]] = Event(**row)
            if audit.checksum(event) != sum:
                raise Damaged(f"{self._db.path}/events.lance: an event does not match its checksum: {event}")
        return list(found.values())

    def told(self, where: str, *columns: str) -> set[tuple[Any, ...]]:
        """Subjects of events that a condition holds for, each with other columns of the event."""
        where = filters.all_of("subject IS NOT NULL", "outcome = 'ok'", where)
        query = self._db.table("events").search().where(where).select(["subject", *columns])
        with self._db.guarded("events"):
            found = query.limit(_ALL).to_arrow()
        return set(zip(*(found[name].to_pylist() for name in ("subject", *columns)), strict=True))

    def tells_of(self, versions: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of some versions of memories that an event tells of. No index is asked: it may be what is wrong."""
        query = self._db.table("events").search().where("number > 0").select(["subject", "version", "outcome"])
        with self._db.guarded("events"):
            found = query.limit(_ALL).to_arrow()
        told = zip(*(found[name].to_pylist() for name in ("subject", "version", "outcome")), strict=True)
        return set(versions) & {(subject, version) for subject, version, outcome in told if outcome == "ok"}

    def all(self, where: str) -> list[Event]:
        """Every event that a condition holds for, the oldest first."""
        return [one.event for one in self._stored(where)]

    def head(self) -> str:
        """Where the chain ends, as text."""
        return str(read_head(self._files) or Head())

    def verify(self, expected: str | None = None) -> Audit:
        """Hold every stored event against its link; see `audit.examined`. Writes nothing."""
        with self._db.writing():  # an event without its head is seen by nobody who waits
            stored, head, named = self._stored("true"), read_head(self._files), self._db.manifest.audit_key
        return audit.examined(stored, head, expected, keys=self._keys, named=named)

    # --- below -----------------------------------------------------------------------------------------------------------

    def _stored(self, where: str) -> list[Told]:
        """Events as they are stored, in the order of their numbers. No index is asked: it may be what is wrong."""
        with self._db.guarded("events"):
            return read_told(self._db.table("events").search().where(where).limit(_ALL).to_arrow())

    def _end(self, head: Head | None) -> tuple[Head, list[Told]]:
        """Where the chain ends: as the file says, unless a process was killed between the events and the file; then with those events."""
        rows = int(self._db.table("events").count_rows())
        if head is None:
            stored = self._stored("true")
            return (Head(stored[-1].number, stored[-1].link, rows) if stored else Head()), []
        behind = self._stored(f"number > {head.number}") if rows > head.rows else []
        return audit.caught_up(head, behind), behind

    @property
    def _is_chained(self) -> bool:
        self._chained = self._chained or "link" in self._db.table("events").schema.names
        return self._chained

    def _upgrade(self) -> None:
        """Chain the events of a store that was made before there was a chain, in one commit."""
        if self._is_chained:
            return
        table = self._db.table("events")
        with self._db.guarded("events"):
            rows = sorted(table.search().limit(_ALL).to_arrow().to_pylist(), key=lambda r: (r["at"], r["number"] or 0))
            events = [Event(**{n: r[n] for n in _EVENT}) for r in rows]
            told, head = audit.chained(events, [r["readers"] or () for r in rows], [r["seq"] for r in rows], Head())
            _put_head(self._files, head)  # first: events with links and no head are a fault
            self._db.rewrite("events", self.rows(told))


def read_head(files: Files) -> Head | None:
    """The end of the chain as its file says it; None where there is no such file."""
    try:
        said = json.loads(files.read(HEAD))
        return Head(int(said["number"]), str(said["link"]), int(said["rows"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OverflowError):  # half of it, after a power cut: as good as none
        return None


def read_told(rows: pa.Table) -> list[Told]:
    """Events in rows of their table, in the order of their numbers."""
    told = [
        Told(Event(**{n: r[n] for n in _EVENT}), tuple(r["readers"] or ()), r["seq"], r["number"] or 0, r.get("link") or "", r["checksum"] or 0)
        for r in rows.to_pylist()
    ]  # fmt: skip
    return sorted(told, key=lambda one: one.number)


def _put_head(files: Files, head: Head) -> None:
    files.write(HEAD, [json.dumps(asdict(head)).encode()])
