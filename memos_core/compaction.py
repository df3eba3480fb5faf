"""The indexes of the tables, and writing them anew: joining small files, dropping old versions, purging. What `Database` inherits.

One process compacts at a time, beside the writers, and gives way to them. Old versions are kept for `Policy.keep_versions`, which whoever
reads them has time for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb.index import FTS, Bitmap, BTree, IvfSq, LabelList

from .manifest import Manifest
from .sites import Site
from .tables import LATER
from .transactions import Transactions
from .types import Policy

_FEW = 32  # commits to a table that a reading does not feel
_ROWS = 2_000  # rows that an index has not seen, from which on a search feels them
_TRIES = 5  # how often a compaction is tried against writers
_FAR = timedelta(minutes=10)  # how long a shared store keeps old versions at least: longer than any turn
_WORDS = FTS(base_tokenizer="icu/split", stem=False, remove_stop_words=False, with_position=True)
_VECTORS = IvfSq(distance_type="cosine")  # its own number of partitions: compaction would join smaller ones
TABLES = ("history", "events", "usage", "meta", *LATER)
"""Beside the cubes."""
INDEXES: dict[str, dict[str, Any]] = {
    "cubes": {**{c: BTree() for c in ("id", "seq", "namespace", "place")}, "readers": LabelList(), "state": Bitmap(), "text": _WORDS},
    "history": {"id": BTree()},
    "events": {"subject": BTree(), "at": BTree(), "readers": LabelList()},
    "usage": {"id": BTree()},
}  # fmt: skip
"""Of each table, by column; that of the vectors comes once it pays."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """A table's version after it was compacted, when it first was so (monotonic seconds), and whether all older versions are dropped."""

    version: int
    since: float
    done: bool


class Compaction:
    """What `Database` inherits: it has the tables and the lock."""

    path: str
    policy: Policy
    site: Site
    transactions: Transactions

    def __init__(self) -> None:
        self._commits = self._rows = 0  # of this process, since the last compaction
        self._settled: dict[str, _Settled] = {}
        self.give_way: Callable[[], object] = lambda: None
        """Called before each table that there is anything to do with: what need not wait goes first."""
        self.rewriting: Callable[[], Callable[[], object]] = lambda: lambda: None
        """Called before the cubes are written together; what it returns is called after, and tells who keeps them in memory that
        they are what they were."""

    if TYPE_CHECKING:

        @property
        def cubes(self) -> Any:
            """The current cubes table."""

        @property
        def manifest(self) -> Manifest:
            """As last seen."""

        def committed(self, table: str, rows: int = 1) -> None:
            """Acknowledge a commit to a table."""

        def empty_caches(self) -> None:
            """Open the tables anew."""

        def spare_descriptors(self) -> None:
            """The same once the caches hold many files open."""

        def fresh(self, *, again: bool = False) -> Manifest:
            """The manifest as it is now."""

        def guarded(self, table: str) -> AbstractContextManager[None]:
            """Raise what the database raises as one of our errors."""

        def has(self, name: str) -> bool:
            """Whether there is a table."""

        def table(self, name: str) -> Any:
            """A table by name."""

        def write_manifest(self, manifest: Manifest) -> None:
            """Switch to another manifest."""

        def uncompacted(self) -> AbstractContextManager[None]:
            """Keep compactions away."""

        def writing(self, wait: float | None = None) -> AbstractContextManager[None]:
            """Be the only writer."""

        def names(self) -> list[str]:
            """The tables that are there."""

    @property
    def is_ragged(self) -> bool:
        """Whether this process has written enough for a compaction to pay."""
        return self._commits >= self.policy.compact_every or self._rows >= _ROWS

    def compact(self, wait: float = 0) -> bool:
        """Join small files, bring indexes up to date, drop old table versions. False if somebody else is at it, and still
        is after `wait` seconds, or inside a transaction."""
        if self.transactions.inside is not None:
            return False
        turn = self.site.turn("compact")
        try:
            turn.acquire(wait)
        except TimeoutError:
            return False
        try:
            if self.fresh().pinned:  # of a killed process: before its versions are dropped
                with self.writing():
                    pass
            self._commits = self._rows = 0
            there = self.names()
            for name in (self.manifest.cubes, *TABLES):
                with self.guarded(name):
                    if name in there:
                        self._optimize(name)
            self._train()
        finally:
            turn.release()
        self.spare_descriptors()
        return True

    def purge(self, before: Callable[[], None]) -> None:
        """Write every table from which rows go, and its indexes, anew, and remove all older files, also those of killed writers.
        Requests under way in other processes are answered from the new files. before: done first, while nobody else writes.

        Raises InvalidArgument inside a transaction, StoreUnavailable after `Policy.lock_seconds` of another one, or of a compaction.
        """
        with self.uncompacted(), self.writing():  # in this order, as a compaction takes them
            before()
            self._commits = self._rows = 0
            for name in (n for n in (self.manifest.cubes, *TABLES) if self.has(n)):
                with self.guarded(name):
                    if name not in ("events", "meta"):  # of these nothing is ever removed
                        self._write_anew(name)
                    self.table(name).optimize()
                    self.table(name).optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)
                    self.committed(name)
            for left in () if self.site.is_shared else Path(self.path).glob("*.lance/**/*.tmp*"):
                left.unlink(missing_ok=True)
        self.empty_caches()  # what is removed is not to stay on the disk as a file that is open

    def _write_anew(self, name: str) -> None:
        """Rows that were removed stay in their file, and their words in the index, while the rest of it is in use: so nothing of it
        may stay in use. Rows are written by an update that changes nothing, so that searches of others go on meanwhile."""
        table, indexes = self.table(name), INDEXES.get("cubes" if name == self.manifest.cubes else name, {})
        column = table.schema.names[0]
        if table.count_rows():
            table.update(values_sql={column: column})
        for column, config in indexes.items():
            table.create_index(column, config=config, replace=True)
        if any("vector" in found.columns for found in table.list_indices()):
            table.create_index("vector", config=_VECTORS, name="vector_idx", replace=True)

    def _optimize(self, name: str) -> None:
        """Compact a table, unless nobody has written to it since all was done, or few have a while ago, in which nothing can be
        dropped anyway: a look at it costs a hundredth of that."""
        keep = max(self.policy.keep_versions, _FAR) if self.site.is_shared else self.policy.keep_versions
        before, version, now = self._settled.get(name), int(self.table(name).version), time.monotonic()
        same = before is not None and before.version == version
        if before is not None:
            young = now - before.since < keep.total_seconds() and version - before.version < _FEW
            if (same and before.done) or young:
                return
        self.give_way()
        tell = self.rewriting() if name == self.manifest.cubes else None
        self._write_together(name, keep)
        if tell is not None:
            tell()
        after = int(self.table(name).version)
        since = before.since if before is not None and same and after == version else time.monotonic()
        self._settled[name] = _Settled(after, since, done=same and after == version)

    def _write_together(self, name: str, keep: timedelta) -> None:
        for attempt in range(_TRIES):
            try:
                if self.policy.fsync:  # what takes the place of flushed files is flushed before these go
                    self.table(name).optimize(cleanup_older_than=timedelta(days=36_500))
                    self.committed(name)
                self.table(name).optimize(cleanup_older_than=keep)
                return
            except RuntimeError as error:
                if "conflict" not in str(error).lower() or attempt == _TRIES - 1:
                    raise
                time.sleep(0.05 * 2**attempt)

    def _train(self) -> None:
        """Keep a vector index once it pays, and train it anew when the store has doubled: later rows are only appended
        to the partitions that the first ones made."""
        rows = self.cubes.count_rows("vector_checksum IS NOT NULL")  # what is only found by name has no vector
        if rows >= self.policy.index_from and rows >= 2 * self.manifest.trained:
            with self.guarded(self.manifest.cubes):
                self.cubes.create_index("vector", config=_VECTORS, name="vector_idx", replace=True)
                self.committed(self.manifest.cubes)
            self.write_manifest(replace(self.manifest, trained=rows))


def index(table: Any, wanted: dict[str, Any]) -> None:
    """Give a table the indexes that it lacks of these, by column."""
    there = {c for found in table.list_indices() for c in found.columns}
    for column, config in wanted.items():
        if column not in there:
            table.create_index(column, config=config)
