"""The store's tables and its lock: opening, making, guarding, compacting. With `vault`, all that knows LanceDB.

Writers take turns (a file lock, which a killed process gives back), so that reading and then writing is safe; readers never
wait. What the database raises comes out as one of our errors, naming the path. LanceDB flushes nothing to the device; with
`Policy(fsync=True)` each commit's new files are, before it is acknowledged.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from filelock import FileLock, Timeout
from lancedb.index import FTS, Bitmap, BTree, IvfSq, LabelList

from .disk import claim_folder, fault, flush_new_files
from .errors import (
    Damaged,
    EmbedderMismatch,
    InvalidArgument,
    MemOSError,
    NotAStore,
    StoreClosed,
    StoreUnavailable,
)  # fmt: skip
from .manifest import Manifest, signed, verified
from .tables import EVENTS, META, PAST, USAGE, cubes_schema
from .types import Policy

_CACHE = 512 * 2**20  # bytes of indexes kept in memory; LanceDB's own default is 6 GiB
_ROWS = 2_000  # rows that an index has not seen, from which on a search feels them
_TRIES = 5  # how often a compaction is tried against writers
_WORDS = FTS(base_tokenizer="icu/split", stem=False, remove_stop_words=False, with_position=True)
_VECTORS = IvfSq(distance_type="cosine")  # its own number of partitions: compaction would join smaller ones
TABLES = ("history", "events", "usage", "rules", "meta")
"""Beside the cubes."""
_INDEXES: dict[str, dict[str, Any]] = {
    "cubes": {**{c: BTree() for c in ("id", "seq", "namespace", "place")}, "readers": LabelList(), "state": Bitmap(), "text": _WORDS},
    "history": {"id": BTree()},
    "events": {"subject": BTree(), "at": BTree(), "readers": LabelList()},
    "usage": {"id": BTree()},
}  # fmt: skip


class Database:
    """The tables of one store. Safe for many threads; any number of processes may open the same."""

    def __init__(self, path: str | os.PathLike[str], policy: Policy, describe: Callable[[], Manifest]) -> None:
        """Open the store at `path`, or make one as `describe` says if there is nothing."""
        if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fspath(path):
            raise InvalidArgument(f"path: a folder is needed, not {path!r}")
        self.path = os.fspath(path)
        if "://" in self.path:
            raise StoreUnavailable(f"{self.path}: a store lives in a local folder; object storage is not supported yet")
        self.policy = policy
        self._commits = self._rows = 0  # of this process, since the last compaction
        self._mutex = threading.RLock()
        self._opening = threading.Lock()
        self._tables: dict[str, Any] = {}
        self._synced: set[str] = set()
        self._closed = False
        claim_folder(Path(self.path))
        self._lock = FileLock(
            Path(self.path) / ".write.lock", timeout=policy.lock_seconds, poll_interval=0.002, thread_local=False
        )
        with self.guarded("open"):
            # interval 0: every read sees what any process committed; a stale handle silently updates nothing
            self._db = lancedb.connect(
                self.path,
                read_consistency_interval=timedelta(0),
                session=lancedb.Session(index_cache_size_bytes=_CACHE, metadata_cache_size_bytes=_CACHE // 4),
            )
            with self.writing():
                if "meta" not in self._names():
                    self._create(describe())
        self.manifest = self._read_manifest()

    def close(self) -> None:
        """Let go of the tables. Twice is once."""
        self._closed = True
        self._tables.clear()
        self._lock.release(force=True)

    # --- tables --------------------------------------------------------------------------------------------------------

    @property
    def cubes(self) -> Any:
        """The current cubes table. Raises EmbedderMismatch if another process gave the store another embedder."""
        self._check_manifest()
        return self.table(self.manifest.cubes)

    def table(self, name: str) -> Any:
        """A table by name."""
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: open a new MemOS")
        if name not in self._tables:
            with self.guarded(name), self._opening:  # not the writers' lock: readers never wait for a writer
                self._tables[name] = self._db.open_table(name)
        return self._tables[name]

    def make_cubes(self, name: str, dimension: int) -> None:
        """Make an empty cubes table with its indexes, or finish one that a killed process began."""
        # not exist_ok: that compares schemas, and the JSON column reads back under Lance's own name for the type
        there = name in self._names()
        table = self._db.open_table(name) if there else self._db.create_table(name, schema=cubes_schema(dimension))
        _index(table, _INDEXES["cubes"])

    def ensure(self, name: str, schema: pa.Schema) -> None:
        """Make a table without indexes, unless it is there."""
        if name not in self._names():
            with self.writing(), self.guarded(name):
                self._db.create_table(name, schema=schema, exist_ok=True)
                self.committed(name)

    def rewrite(self, name: str, rows: pa.Table) -> None:
        """Put other rows, of another schema, in the place of all that a table holds, in one commit. The caller holds `writing()`."""
        with self.guarded(name):
            self._tables[name] = self._db.create_table(name, data=rows, mode="overwrite")
            _index(self._tables[name], _INDEXES[name])
            self.committed(name)

    def drop(self, name: str) -> None:
        """Remove a table that the manifest no longer names."""
        with self.guarded(name):
            self._tables.pop(name, None)
            self._db.drop_table(name, ignore_missing=True)

    def drop_strays(self) -> None:
        """Drop cubes tables that the manifest does not name: a re-embedding was killed after its switch."""
        for name in self._names():
            if name.startswith("cubes") and name not in (self.manifest.cubes, self.manifest.filling):
                self.drop(name)

    def _names(self) -> list[str]:
        return list(self._db.list_tables().tables)

    def _create(self, manifest: Manifest) -> None:
        if strangers := [
            p for p in os.listdir(self.path) if not p.startswith(".") and not p.endswith((".lance", "audit.head"))
        ]:
            raise NotAStore(f"{self.path} holds other files ({strangers[0]} …): choose an empty or a new folder")
        self.make_cubes(manifest.cubes, manifest.dimension)
        if self._db.open_table(manifest.cubes).count_rows():
            raise Damaged(f"{self.path}/meta.lance is missing, though there are memories beside it")
        for name, schema in (("history", PAST), ("events", EVENTS), ("usage", USAGE)):
            _index(self._db.create_table(name, schema=schema, exist_ok=True), _INDEXES[name])
        # last, and complete from the first moment: a store exists when its manifest does
        row = pa.Table.from_pylist([{"key": "manifest", "value": signed(manifest)}], schema=META)
        self._db.create_table("meta", data=row)
        for name in (manifest.cubes, "history", "events", "usage", "meta"):
            self.committed(name)

    # --- writing -------------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer until the end of the block. Raises StoreUnavailable after `Policy.lock_seconds`."""
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: open a new MemOS")
        nested = self._mutex._is_owned()  # type: ignore[attr-defined]  # asked, not counted: a count is wrong after Ctrl-C in the middle
        with self._mutex:
            try:
                if not nested:
                    self._acquire()
                    if self._tables:
                        self._check_manifest()
                yield
            finally:
                if not nested:
                    self._lock.release(force=True)

    def committed(self, table: str, rows: int = 1) -> None:
        """Acknowledge a commit to a table: on the device, if the policy says so."""
        self._commits += 1
        self._rows += rows
        if self.policy.fsync:
            flush_new_files(Path(self.path) / f"{table}.lance", self._synced)

    @contextmanager
    def guarded(self, table: str) -> Iterator[None]:
        """Raise what the database raises as one of our errors, naming the table's path."""
        try:
            yield
        except MemOSError:
            raise
        except (RuntimeError, OSError, ValueError, pa.ArrowException) as error:
            raise fault(error, self.path, table) from error
        except Exception as error:
            if (
                type(error).__name__ != "RustPanic"
            ):  # its class is private to LanceDB's extension: known by its name alone
                raise
            raise fault(error, self.path, table) from error

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise StoreUnavailable(
                f"{self.path}: another process has been writing for {self.policy.lock_seconds} s (lock {self._lock.lock_file})"
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be written: {error.strerror or error}") from error

    # --- compaction ----------------------------------------------------------------------------------------------------

    @property
    def is_ragged(self) -> bool:
        """Whether this process has written enough for a compaction to pay."""
        return self._commits >= self.policy.compact_every or self._rows >= _ROWS

    def compact(self, wait: float = 0) -> bool:
        """Join small files, bring indexes up to date, drop old table versions. False if somebody else is at it, and still
        is after `wait` seconds."""
        lock = FileLock(Path(self.path) / ".compact.lock", timeout=wait)
        try:
            with lock:
                self._commits = self._rows = 0
                for name in (self.manifest.cubes, *TABLES):
                    with self.guarded(name):
                        self._optimize(name)
                self._train()
                return True
        except Timeout:
            return False

    def purge(self) -> None:
        """Write every table from which rows go, and its indexes, anew, and remove all older files, also those of killed writers.
        Requests under way in other processes are answered from the new files. Raises StoreUnavailable after `Policy.lock_seconds`."""
        try:
            with FileLock(Path(self.path) / ".compact.lock", timeout=self.policy.lock_seconds), self.writing():
                self._commits = self._rows = 0
                for name in (self.manifest.cubes, *TABLES):
                    with self.guarded(name):
                        if name not in ("events", "meta"):  # of these nothing is ever removed
                            self._write_anew(name)
                        self.table(name).optimize()
                        self.table(name).optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)
                        self.committed(name)
                for left in Path(self.path).glob("*.lance/**/*.tmp*"):
                    left.unlink(missing_ok=True)
        except Timeout:
            raise StoreUnavailable(
                f"{self.path} has been compacted for {self.policy.lock_seconds} s by another process"
            ) from None

    def _write_anew(self, name: str) -> None:
        """Rows that were removed stay in their file, and their words in the index, while the rest of it is in use: so nothing of it
        may stay in use. Rows are written by an update that changes nothing, so that searches of others go on meanwhile."""
        table, indexes = (
            self.table(name),
            _INDEXES["cubes" if name == self.manifest.cubes else name] if name != "rules" else {},
        )
        column = table.schema.names[0]
        if table.count_rows():
            table.update(values_sql={column: column})
        for column, config in indexes.items():
            table.create_index(column, config=config, replace=True)
        if any("vector" in index.columns for index in table.list_indices()):
            table.create_index("vector", config=_VECTORS, name="vector_idx", replace=True)

    def _optimize(self, name: str) -> None:
        for attempt in range(_TRIES):
            try:
                if self.policy.fsync:  # what takes the place of flushed files is flushed before these go
                    self.table(name).optimize(cleanup_older_than=timedelta(days=36_500))
                    self.committed(name)
                self.table(name).optimize(cleanup_older_than=self.policy.keep_versions)
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

    # --- the manifest --------------------------------------------------------------------------------------------------

    def write_manifest(self, manifest: Manifest) -> None:
        """Switch to another manifest, in one commit."""
        with self.writing(), self.guarded("meta"):
            self.table("meta").update(where="key = 'manifest'", values={"value": signed(manifest)})
            self.committed("meta")
            self.manifest = self._read_manifest()

    def _read_manifest(self) -> Manifest:
        with self.guarded("meta"):
            version = self.table("meta").version
            rows = self.table("meta").search().select(["value"]).limit(2).to_list()
        if len(rows) != 1:
            raise Damaged(f"{self.path}/meta.lance holds {len(rows)} manifests instead of one")
        manifest = verified(rows[0]["value"], self.path)
        self._meta_version = version
        return manifest

    def _check_manifest(self) -> None:
        with self.guarded("meta"):
            stale = self.table("meta").version != self._meta_version
        if stale:
            now, before = self._read_manifest(), self.manifest
            if (now.embedder, now.dimension, now.probe) != (before.embedder, before.dimension, before.probe):
                self._meta_version = -1  # and so for every later call
                raise EmbedderMismatch(
                    f"{self.path} was re-embedded meanwhile: open it anew, with embed= the new embedder"
                )
            self.manifest = now


def _index(table: Any, wanted: dict[str, Any]) -> None:
    there = {c for index in table.list_indices() for c in index.columns}
    for column, config in wanted.items():
        if column not in there:
            table.create_index(column, config=config)
