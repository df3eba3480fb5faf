"""MemVault: the only module that knows LanceDB and the disk.

Four tables. `cubes` holds the current version of every memory, with its vector and the columns that filters use;
`history` the versions before; `events` who did what; `meta` one row, the manifest, which names the current cubes table.

What is promised, and how: adding is *one* commit to `cubes` (the point at which it counts). A change first copies the old
version to `history`, then replaces it in `cubes` if it is still that version: a crash in between leaves a copy that
readers do not see, because they take from history only what is older than the current version. Events come last; opening
the store adds those that a crash took (`missing_events`). On a local disk, writers take turns (a file lock, which a killed
process gives back), so that reading and then writing is safe; readers never wait.

LanceDB flushes nothing to the device; with `Policy(fsync=True)` each commit's new files are, before it is acknowledged.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")  # before its import: Lance logs each fallback of its planner otherwise

import lancedb
import pyarrow as pa
from filelock import FileLock, Timeout
from lancedb.index import FTS, BTree, IvfSq, LabelList
from lancedb.query import ColumnOrdering, MatchQuery

from . import filters
from .disk import claim_folder, fault, flush_new_files
from .errors import (
    Conflict,
    Damaged,
    EmbedderMismatch,
    InvalidArgument,
    MemOSError,
    NotAStore,
    StoreClosed,
    StoreUnavailable,
)
from .manifest import Manifest, signed, verified
from .tables import EVENTS, META, PAST, USAGE, Row, Vector, cubes_schema, decoded, encoded, past
from .types import Event, MemCube, Policy, Usage

_TRIES = 5  # how often a compaction is tried against writers
ALL = 2**31 - 1  # a limit must always be given: without one a vector search returns ten rows

_READ = ["id", "version", "seq", "text", "record", "checksum", "reads", "last_read_at"]
_READ_VECTOR = [*_READ, "vector", "vector_checksum"]
_WORDS = FTS(base_tokenizer="icu/split", stem=False, remove_stop_words=False, with_position=True)


@dataclass(frozen=True, slots=True)
class Change:
    """A commit of this process to the cubes: the revisions before and after it, what it wrote and what it removed."""

    before: tuple[str, int]
    after: tuple[str, int]
    written: Sequence[Row] = ()
    removed: Sequence[str] = ()


class Vault:
    """One store, opened. Safe for many threads; any number of processes may open the same."""

    def __init__(self, path: str | os.PathLike[str], policy: Policy, describe: Callable[[], Manifest]) -> None:
        """Open the store at `path`, or make one as `describe` says if there is nothing."""
        if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fspath(path):
            raise InvalidArgument(f"path: a folder is needed, not {path!r}")
        self.path = os.fspath(path)
        if "://" in self.path:
            raise StoreUnavailable(f"{self.path}: a store lives in a local folder; object storage is not supported yet")
        self.policy = policy
        self._mutex = threading.RLock()
        self._opening = threading.Lock()
        self._held = 0
        self.commits = 0
        self._tables: dict[str, Any] = {}
        self._synced: set[str] = set()
        self._closed = False
        self.listener: Callable[[Change], None] = lambda change: None
        claim_folder(Path(self.path))
        self._lock = FileLock(Path(self.path) / ".write.lock", timeout=policy.lock_seconds, poll_interval=0.002)
        with self._guarded("open"):
            # interval 0: every read sees what any process committed; a stale handle silently updates nothing
            self._db = lancedb.connect(self.path, read_consistency_interval=timedelta(0))
            self._meta_version = -1
            with self.writing():
                if "meta" not in self._db.list_tables().tables:
                    self._create(describe())
        self.manifest = self._read_manifest()

    # --- reading ---------------------------------------------------------------------------------------------------

    def rows(self, where: str, *, vectors: bool = False, limit: int = ALL, last_by: str | None = None) -> list[Row]:
        """Current memories that a condition holds for; with `last_by`, the greatest by that column first."""
        query = self._cubes.search().where(where).select(_READ_VECTOR if vectors else _READ).limit(limit)
        if last_by is not None:
            query = query.order_by([ColumnOrdering(column_name=last_by, ascending=False)])
        return self._read(query)

    def by_ids(self, ids: Sequence[str], where: str | None = None, *, vectors: bool = False) -> list[Row]:
        """Current memories with these ids, in no order, of those that a condition holds for."""
        return [
            row
            for some in _batches(ids, 1_000)
            for row in self.rows(filters.all_of(filters.one_of("id", some), where), vectors=vectors)
        ]

    def sample(self, where: str, start: int, length: int) -> list[Row]:
        """A run of memories that a condition holds for, in stored order, with vectors."""
        query = self._cubes.search().where(where).select(_READ_VECTOR).offset(start).limit(length)
        return self._read(query)

    def column(self, name: str, where: str) -> list[Any]:
        """One column of the current memories that a condition holds for."""
        with self._guarded("cubes"):
            return self._cubes.search().where(where).select([name]).limit(ALL).to_arrow()[name].to_pylist()  # type: ignore[no-any-return]

    def count(self, where: str) -> int:
        """How many current memories a condition holds for."""
        with self._guarded("cubes"):
            return int(self._cubes.count_rows(where))

    def near(self, vector: Vector, where: str, limit: int) -> list[Row]:
        """By cosine, nearest first, from among those that the condition holds for; with vectors."""
        query = self._cubes.search(vector).distance_type("cosine").refine_factor(5).where(where)
        return self._read(query.select([*_READ_VECTOR, "_distance"]).limit(limit))

    def worded(self, words: str, where: str, limit: int) -> list[Row]:
        """By BM25, best first, from among those that the condition holds for; with vectors."""
        query = self._cubes.search(MatchQuery(words, "text"), query_type="fts").where(where)
        return self._read(query.select([*_READ_VECTOR, "_score"]).limit(limit))

    def _read(self, query: Any) -> list[Row]:
        """Rows of a query, once more if its files were compacted away under it (by a process that outran this one by
        `keep_versions`: this one was asleep). The second try reads the newest version."""
        with self._guarded("cubes"):
            try:
                found = query.to_arrow()
            except RuntimeError as error:
                if "not found" not in str(error).lower():
                    raise
                found = query.to_arrow()
            return decoded(found, self.manifest.dimension, self.path)

    def past(self, id: str) -> list[MemCube]:
        """The versions of a memory before the current one, oldest first."""
        query = (
            self._table("history").search().where(f"id = {filters.literal(id)}").select(["text", "record", "checksum"])
        )
        with self._guarded("history"):
            found = {
                c.version: c
                for c in (r.cube for r in decoded(query.limit(ALL).to_arrow(), self.manifest.dimension, self.path))
            }
        return [found[v] for v in sorted(found)]

    def events(self, where: str, limit: int) -> list[Event]:
        """Events that a condition holds for, the newest first."""
        order = [ColumnOrdering(column_name="at", ascending=False)]
        names = [n for n in EVENTS.names if n not in ("readers", "seq")]
        query = self._table("events").search().where(where).select(names).order_by(order).limit(limit)
        with self._guarded("events"):
            found = {row["id"]: Event(**row) for row in query.to_arrow().to_pylist()}
        return list(found.values())

    def revision(self) -> tuple[str, int]:
        """Changes whenever a memory does (and at a few other times): what was read at the same revision still holds."""
        with self._guarded("cubes"):
            version = self._cubes.version
        return self.manifest.cubes, version

    # --- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer until the end of the block. Raises StoreUnavailable after `Policy.lock_seconds`."""
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: open a new MemOS")
        with self._mutex:
            self._held += 1
            try:
                if self._held == 1:
                    self._acquire()
                if self._held == 1 and self._tables:
                    self._check_manifest()
                yield
            finally:
                self._held -= 1
                if self._held == 0:
                    self._lock.release()

    def insert(self, cubes: Sequence[MemCube], vectors: Sequence[Vector | None]) -> None:
        """Store new memories in one commit. The caller holds `writing()` and has seen that their ids are not there."""
        if cubes:
            before = self.revision()
            seq = before[1] + 1
            with self._guarded("cubes"):
                self._cubes.add(encoded(cubes, vectors, seq, self.manifest.dimension))
            self._committed(self.manifest.cubes)
            self._changed(before, [Row(c, seq, v) for c, v in zip(cubes, vectors, strict=True)])

    def replace(self, old: Sequence[MemCube], new: Sequence[MemCube], vectors: Sequence[Vector | None]) -> None:
        """Put new versions in the place of old ones in one commit, the old ones going to history first. A vector of None
        keeps the stored one. Raises Conflict, and changes nothing current, if one is no longer the version it was."""
        if not new:
            return
        with self.writing():
            kept = self._still(old, need_vectors=any(v is None for v in vectors))
            filled = [kept[c.id].vector if v is None else v for c, v in zip(new, vectors, strict=True)]
            with self._guarded("history"):
                self._table("history").add(past(old))
            self._committed("history")
            before = self.revision()
            seq = before[1] + 1
            used = [replace(c, usage=kept[c.id].cube.usage) for c in new]
            with self._guarded("cubes"):
                rows = encoded(used, filled, seq, self.manifest.dimension)
                self._cubes.merge_insert("id").when_matched_update_all().execute(rows)
            self._committed(self.manifest.cubes)
            self._changed(before, [Row(c, seq, v) for c, v in zip(used, filled, strict=True)])

    def remove(self, ids: Sequence[str]) -> int:
        """Remove memories and all their versions; how many old versions went. The caller has recorded it: a deletion counts
        from that moment, and whoever opens the store finishes what a killed process began (`unfinished`)."""
        with self.writing(), self._guarded("cubes"):
            for some in _batches(ids, 5_000):
                before = self.revision()
                self._cubes.delete(filters.one_of("id", some))
                self._committed(self.manifest.cubes)
                self._changed(before, removed=some)
            return self._remove_past(ids)

    def record(
        self, events: Sequence[Event], readers: Sequence[Iterable[str]], seqs: Sequence[int] | None = None
    ) -> None:
        """Append events, each with who besides its actor may see it and, for a deletion, which write it takes back."""
        if events:
            marks: Sequence[int | None] = seqs or [None] * len(events)
            rows = [
                {**asdict(e), "readers": sorted(r), "seq": n} for e, r, n in zip(events, readers, marks, strict=True)
            ]
            with self._guarded("events"):
                self._table("events").add(pa.Table.from_pylist(rows, schema=EVENTS))
            self._committed("events")

    def count_reads(self, reads: dict[str, Usage]) -> None:
        """Add buffered usage to what is stored. Not a new version: it says nothing about the content."""
        with self.writing(), self._guarded("cubes"):
            for some in _batches(sorted(reads), 1_000):
                stored = self._cubes.search().where(filters.one_of("id", some)).select(["id", "reads"]).limit(ALL)
                rows = [
                    {
                        "id": r["id"],
                        "reads": r["reads"] + reads[r["id"]].reads,
                        "last_read_at": reads[r["id"]].last_read_at,
                    }
                    for r in stored.to_list()
                ]
                if rows:
                    before = self.revision()
                    table = pa.Table.from_pylist(rows, schema=USAGE)
                    self._cubes.merge_insert("id").when_matched_update_all().execute(table)
                    self._committed(self.manifest.cubes)
                    self._changed(before)

    # --- upkeep ----------------------------------------------------------------------------------------------------

    def compact(self) -> bool:
        """Join small files, bring indexes up to date, drop old table versions. False if somebody else is at it."""
        lock = FileLock(Path(self.path) / ".compact.lock", timeout=0)
        try:
            with lock:
                self.commits = 0
                for name in (self.manifest.cubes, "history", "events", "meta"):
                    with self._guarded(name):
                        self._optimize(name)
                self._train()
                return True
        except Timeout:
            return False

    def drop_strays(self) -> None:
        """Drop cubes tables that the manifest does not name: a re-embedding was killed after its switch."""
        with self._guarded("meta"):
            for name in self._db.list_tables().tables:
                if name.startswith("cubes") and name not in (self.manifest.cubes, self.manifest.filling):
                    self.drop(name)

    def remove_strays(self) -> int:
        """Remove versions of memories that are no longer there: a deletion was killed. How many."""
        with self._guarded("history"):
            past = self._table("history").search().select(["id"]).limit(ALL).to_arrow()["id"].unique().to_pylist()
            there = {id for some in _batches(past, 1_000) for id in self.column("id", filters.one_of("id", some))}
            return self._remove_past([id for id in past if id not in there])

    def written(self, since: datetime) -> list[tuple[str, int]]:
        """Ids and versions of the memories written since a time."""
        with self._guarded("cubes"):
            query = self._cubes.search().where(f"updated_at >= {filters.literal(since)}").select(["id", "version"])
            found = query.limit(ALL).to_arrow()
        return list(zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True))

    def told(self, where: str, column: str) -> set[tuple[str, int]]:
        """Subjects of events that a condition holds for, each with another column of the event."""
        query = self._table("events").search().where(f"subject IS NOT NULL AND {where}").select(["subject", column])
        with self._guarded("events"):
            found = query.limit(ALL).to_arrow()
        return set(zip(found["subject"].to_pylist(), found[column].to_pylist(), strict=True))

    def close(self) -> None:
        """Let go of the tables. Twice is once."""
        self._closed = True
        self._tables.clear()

    # --- tables ----------------------------------------------------------------------------------------------------

    @property
    def _cubes(self) -> Any:
        self._check_manifest()
        return self._table(self.manifest.cubes)

    def _table(self, name: str) -> Any:
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: open a new MemOS")
        if name not in self._tables:
            with self._guarded(name), self._opening:  # not the writers' lock: readers never wait for a writer
                self._tables[name] = self._db.open_table(name)
        return self._tables[name]

    def _create(self, manifest: Manifest) -> None:
        if strangers := [p for p in os.listdir(self.path) if not p.startswith(".") and not p.endswith(".lance")]:
            raise NotAStore(f"{self.path} holds other files ({strangers[0]} …): choose an empty or a new folder")
        self.make_cubes(manifest.cubes, manifest.dimension)
        if self._db.open_table(manifest.cubes).count_rows():
            raise Damaged(f"{self.path}/meta.lance is missing, though there are memories beside it")
        past = self._db.create_table("history", schema=PAST, exist_ok=True)
        _index(past, {"id": BTree()})
        events = self._db.create_table("events", schema=EVENTS, exist_ok=True)
        _index(events, {"subject": BTree(), "at": BTree(), "readers": LabelList()})
        # last, and complete from the first moment: a store exists when its manifest does
        row = pa.Table.from_pylist([{"key": "manifest", "value": signed(manifest)}], schema=META)
        self._db.create_table("meta", data=row)
        self._committed("meta")

    def make_cubes(self, name: str, dimension: int) -> None:
        """Make an empty cubes table with its indexes, or finish one that a killed process began."""
        # not exist_ok: that compares schemas, and the JSON column reads back under Lance's own name for the type
        there = name in self._db.list_tables().tables
        table = self._db.open_table(name) if there else self._db.create_table(name, schema=cubes_schema(dimension))
        trees = {c: BTree() for c in ("id", "seq", "namespace", "thread", "updated_at")}
        _index(table, {**trees, **{c: LabelList() for c in ("readers", "tags", "parents")}, "text": _WORDS})

    # --- another cubes table, for re-embedding -------------------------------------------------------------------------

    def versions(self, name: str) -> dict[str, int]:
        """The version of each memory in a cubes table."""
        with self._guarded(name):
            found = self._table(name).search().select(["id", "version"]).limit(ALL).to_arrow()
        return dict(zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True))

    def fill(self, name: str, dimension: int, cubes: Sequence[MemCube], vectors: Sequence[Vector | None]) -> None:
        """Add memories to a cubes table that is being filled."""
        if cubes:
            with self._guarded(name):
                self._table(name).add(encoded(cubes, vectors, self._table(name).version + 1, dimension))
            self._committed(name)

    def drop_rows(self, name: str, ids: Sequence[str]) -> None:
        """Remove memories from a cubes table that is being filled."""
        with self._guarded(name):
            for some in _batches(ids, 5_000):
                self._table(name).delete(filters.one_of("id", some))

    def drop(self, name: str) -> None:
        """Remove a table that the manifest no longer names."""
        with self._guarded(name):
            self._tables.pop(name, None)
            self._db.drop_table(name, ignore_missing=True)

    def switch(self, manifest: Manifest) -> None:
        """Make another cubes table the current one, in one commit, and drop the one before."""
        before = self.manifest.cubes
        with self._guarded(manifest.cubes):
            self._table(manifest.cubes).optimize()
        with self._guarded("meta"):
            self._table("meta").update(where="key = 'manifest'", values={"value": signed(manifest)})
        self._committed("meta")
        self.manifest = self._read_manifest()
        self.drop(before)

    # --- the manifest ------------------------------------------------------------------------------------------------

    def write_manifest(self, manifest: Manifest) -> None:
        """Switch to another manifest, in one commit."""
        with self.writing(), self._guarded("meta"):
            self._table("meta").update(where="key = 'manifest'", values={"value": signed(manifest)})
            self._committed("meta")
            self.manifest = self._read_manifest()

    def _read_manifest(self) -> Manifest:
        with self._guarded("meta"):
            version = self._table("meta").version
            rows = self._table("meta").search().select(["value"]).limit(2).to_list()
        if len(rows) != 1:
            raise Damaged(f"{self.path}/meta.lance holds {len(rows)} manifests instead of one")
        manifest = verified(rows[0]["value"], self.path)
        self._meta_version = version
        return manifest

    def _check_manifest(self) -> None:
        with self._guarded("meta"):
            stale = self._table("meta").version != self._meta_version
        if stale:
            now, before = self._read_manifest(), self.manifest
            if (now.embedder, now.dimension, now.probe) != (before.embedder, before.dimension, before.probe):
                self._meta_version = -1  # and so for every later call
                raise EmbedderMismatch(
                    f"{self.path} was re-embedded meanwhile: open it anew, with embed= the new embedder"
                )
            self.manifest = now

    def _optimize(self, name: str) -> None:
        for attempt in range(_TRIES):
            try:
                self._table(name).optimize(cleanup_older_than=self.policy.keep_versions)
                return
            except RuntimeError as error:
                if "conflict" not in str(error).lower() or attempt == _TRIES - 1:
                    raise
                time.sleep(0.05 * 2**attempt)

    def _train(self) -> None:
        """Keep a vector index once it pays, and train it anew when the store has doubled: later rows are only appended
        to the partitions that the first ones made."""
        rows = self._cubes.count_rows()
        if rows >= self.policy.index_from and rows >= 2 * self.manifest.trained:
            partitions = max(1, int(rows**0.5) // 2)
            config = IvfSq(distance_type="cosine", num_partitions=partitions)
            with self._guarded(self.manifest.cubes):
                self._cubes.create_index("vector", config=config, name="vector_idx", replace=True)
            self.write_manifest(replace(self.manifest, trained=rows))

    # --- rows ------------------------------------------------------------------------------------------------------

    def _still(self, old: Sequence[MemCube], need_vectors: bool) -> dict[str, Row]:
        rows = {r.cube.id: r for r in self.by_ids([c.id for c in old], vectors=need_vectors)}
        for cube in old:
            if cube.id not in rows or rows[cube.id].cube.version != cube.version:
                raise Conflict(f"memory {cube.id} is no longer at version {cube.version}: read it again")
        return rows

    def _remove_past(self, ids: Sequence[str]) -> int:
        table, gone = self._table("history"), 0
        for some in _batches(ids, 5_000):
            where = filters.one_of("id", some)
            if count := table.count_rows(where):
                table.delete(where)
                gone += count
        if gone:
            self._committed("history")
        return gone

    def _changed(self, before: tuple[str, int], written: Sequence[Row] = (), removed: Sequence[str] = ()) -> None:
        """Tell the listener of a commit, if nobody else's came between."""
        after = self.revision()
        if after == (before[0], before[1] + 1):
            self.listener(Change(before, after, written, removed))

    def _committed(self, table: str) -> None:
        self.commits += 1
        if self.policy.fsync:
            flush_new_files(Path(self.path) / f"{table}.lance", self._synced)

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise StoreUnavailable(
                f"{self.path}: another process has been writing for {self.policy.lock_seconds} s (lock {self._lock.lock_file})"
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be written: {error.strerror or error}") from error

    @contextmanager
    def _guarded(self, table: str) -> Iterator[None]:
        try:
            yield
        except MemOSError:
            raise
        except (RuntimeError, OSError, ValueError, pa.ArrowException) as error:
            raise fault(error, self.path, table) from error


def _index(table: Any, wanted: dict[str, Any]) -> None:
    there = {c for index in table.list_indices() for c in index.columns}
    for column, config in wanted.items():
        if column not in there:
            table.create_index(column, config=config)


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
