"""What a store keeps beside its memories: named rules, read by every process that has it open. Knows their table, not their meaning.

Read from memory as long as the table's version is the one that was read: a rule that another process withdrew is not followed once more.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from . import filters
from .database import Database
from .errors import Damaged
from .tables import RULES


class Rules:
    """The rules of one store: JSON values by name. Safe for many threads and processes."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._version = -1
        self._known: Mapping[str, Any] = {}
        self._there = db.has("rules")
        if not self._there:  # the store was made by an earlier version
            db.when_free(lambda: db.make("rules"))

    @property
    def path(self) -> str:
        """Where their store is."""
        return self._db.path

    @property
    def known(self) -> Mapping[str, Any]:
        """Every rule, as it was read last: the object that `all` returned."""
        return self._known

    def all(self) -> Mapping[str, Any]:
        """Every rule, as it is now. Raises Damaged for one that is not what was written."""
        with self._db.guarded("rules"):
            self._there = self._there or self._db.has("rules")
            if not self._there:
                return self._known
            version = self._db.table("rules").version
            with self._lock:
                if version == self._version:
                    return self._known
            rows = self._db.table("rules").search().limit(2**31 - 1).to_arrow().to_pylist()
        for row in rows:
            if _checksum(row["name"], row["value"]) != row["checksum"]:
                raise Damaged(f"{self._db.path}/rules.lance: a rule does not match its checksum: {row['name']!r}")
        found = {row["name"]: json.loads(row["value"]) for row in rows}
        with self._lock:
            self._version, self._known = version, found  # at least as new as the version: read again if it is newer
        return found

    def under(self, prefix: str) -> dict[str, Any]:
        """Rules by the rest of their names after a prefix."""
        return {name.removeprefix(prefix): value for name, value in self.all().items() if name.startswith(prefix)}

    def put(self, rules: Mapping[str, Any]) -> None:
        """Set rules, in one commit."""
        rows = [
            {"name": n, "value": (v := json.dumps(value)), "checksum": _checksum(n, v)} for n, value in rules.items()
        ]
        with self._db.writing(), self._db.guarded("rules"):
            merge = self._db.table("rules").merge_insert("name").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(pa.Table.from_pylist(rows, schema=RULES))
            self._db.committed("rules")

    def drop(self, name: str) -> None:
        """Remove a rule; one that is not there is no error."""
        with self._db.writing(), self._db.guarded("rules"):
            self._db.table("rules").delete(f"name = {filters.literal(name)}")
            self._db.committed("rules")


def _checksum(name: str, value: str) -> int:
    return zlib.crc32(value.encode(), zlib.crc32(name.encode()))
