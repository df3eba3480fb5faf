"""The store's tables and its lock: opening, making, guarding. With `compaction`, `ledger` and `vault`, all that knows LanceDB.

Writers take turns (see `sites`: a file lock, or a lease), so that reading and then writing is safe; readers never wait. What the
database raises comes out as one of our errors, naming the path. LanceDB flushes nothing to the device; with `Policy(fsync=True)` each
commit's new files are, before it is acknowledged.

A lease can lapse while its holder sleeps. So what is read and written in a turn goes through handles that stay at the version that was
the newest then, and whoever takes over a turn that was not given back first restores each table to what it is: a commit on top of an
older version than that is refused by the database, whenever it comes (`_fence`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lancedb
import pyarrow as pa

from . import fork, schema
from .compaction import INDEXES, TABLES, Compaction, index
from .errors import (
    Damaged,
    EmbedderMismatch,
    InvalidArgument,
    MemOSError,
    NotAStore,
    StoreClosed,
    StoreError,
    StoreUnavailable,
)  # fmt: skip
from .files import Files
from .manifest import Manifest, signed, verified
from .sites import Site
from .tables import EVENTS, LATER, META, PAST, USAGE, cubes_schema
from .transactions import Transactions
from .types import Policy

_CACHE = 512 * 2**20  # bytes of indexes kept in memory; LanceDB's own default is 6 GiB
_GENERATIONS = 8  # of indexes of words and vectors whose files the caches may hold open, two or three files each
_TRIES = 5  # how often a fence is tried against writers
_PINNED, _PINNED_LATER = ("history", "events", "usage"), ("uses", "rules")  # in a transaction; leases are nobody's turn
_IN_TURN = (*_PINNED, *_PINNED_LATER, "meta")  # besides the cubes, what is read in order to be written


class Database(Compaction, fork.Refusing):
    """The tables of one store. Safe for many threads; any number of processes may open the same."""

    def __init__(
        self, site: Site, policy: Policy, describe: Callable[[], Manifest], begin: Callable[[Files], None]
    ) -> None:
        """Open the store at a site, or make one as `describe` says if there is nothing. begin: writes the files that it has from the
        start."""
        fork.begin(site.path)
        self.path = site.path
        self.site = site
        self.policy = policy
        super().__init__()
        self._mutex = threading.RLock()
        self._opening = threading.Lock()
        self._tables: dict[str, Any] = {}
        self._pinned: dict[str, Any] = {}  # of this turn
        self._past: dict[str, tuple[int, Any]] = {}  # as they were before a transaction that is under way
        self._put_off: list[Callable[[], None]] = []
        self.transactions = Transactions(self)
        self.may_write: Callable[[], bool] = lambda: True
        """Whether this process can tell of what it does, as the log must be told: else it finishes nothing that others began."""
        self._closed = False
        self._connected: Any = None
        self._still: Any = None
        self._indexes: set[str] = set()  # that the present caches may hold open
        self._looked_at: tuple[str, int] | None = None  # the version at which they were listed last
        site.claim()
        self._turn = site.turn("write")
        fork.watch(self)
        with self.guarded("open"):
            self._connect()
            if "meta" not in self.names():  # else nobody is waited for: a transaction may take its time
                with self.writing():
                    if "meta" not in self.names():
                        self._create(describe(), begin)
            schema.require_columns(self, "meta", 0)
            self.look_again()
            schema.require_tables(self)

    def close(self) -> None:
        """Let go of the tables. Twice is once."""
        self._closed = True
        self._tables, self._past = {}, {}
        self._connected = self._still = None  # with them go the caches, and the files that these hold open
        if self._mutex.acquire(blocking=False):  # another thread that still writes gives it back itself
            self._turn.release(clean=False)
            self._mutex.release()

    @property
    def _db(self) -> Any:
        """The connection. Raises StoreClosed."""
        if self._connected is None:
            raise StoreClosed(f"{self.path} was closed: open a new MemOS")
        return self._connected

    def _connect(self) -> None:
        session = lancedb.Session(index_cache_size_bytes=_CACHE, metadata_cache_size_bytes=_CACHE // 4)
        # interval 0: every read sees what any process committed; a stale handle silently updates nothing
        self._connected = lancedb.connect(
            read_consistency_interval=timedelta(0), session=session, **self.site.connection()
        )  # fmt: skip
        if self.site.is_shared:
            self._still = lancedb.connect(session=session, **self.site.connection())

    def spare_descriptors(self) -> None:
        """Empty the caches once these hold open the files of several generations of the indexes of words and vectors."""
        if self.site.is_shared:  # there are no files to be open
            return
        name = self.manifest.cubes
        with self.guarded(name):
            table = self.at(name, None)
            if (seen := (name, int(table.version))) == self._looked_at:
                return
            self._looked_at = seen
            self._indexes |= {i.index_uuid for i in table.list_indices() if {"text", "vector"} & set(i.columns)}
        if len(self._indexes) > _GENERATIONS:
            self.empty_caches()

    def empty_caches(self) -> None:
        """Open the tables anew. LanceDB keeps the file of an index open as long as it is in the cache, which knows bytes alone: also
        one that was replaced and removed since."""
        with self.guarded("open"), self._opening:
            self._connect()
            # other ones, not emptied ones: another thread may be between finding a table and taking it
            kept = [n for n in self._tables if n == self.manifest.cubes or not n.startswith("cubes")]
            self._tables, self._past = {n: self._db.open_table(n) for n in kept}, {}
            self._indexes, self._looked_at = set(), None

    # --- tables --------------------------------------------------------------------------------------------------------

    @property
    def cubes(self) -> Any:
        """The current cubes table. Raises EmbedderMismatch if another process gave the store another embedder."""
        view = self.transactions.view()
        return self.at(view.cubes, view.pinned.get(view.cubes))

    def table(self, name: str) -> Any:
        """A table by name: as it was before a transaction that is under way and that this context is not inside of."""
        return self.at(name, None if name == "meta" else self.transactions.view().pinned.get(name))

    def at(self, name: str, version: int | None) -> Any:
        """A table by name at a version, to be read; None: the newest one."""
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: open a new MemOS")
        if version is not None:
            held, table = self._past.get(name, (None, None))
            if held != version:
                with self.guarded(name):
                    table = self._db.open_table(name, version=version)
                self._past[name] = version, table
            return table
        if self.site.is_shared and self._in_turn:
            return self._of_this_turn(name)
        tables = self._tables
        if name not in tables:
            with self.guarded(name), self._opening:  # not the writers' lock: readers never wait for a writer
                tables[name] = self._db.open_table(name)
        return tables[name]

    def pinned(self, name: str) -> Any:
        """A table as it is now, whatever is written to it later. Compaction may take its files away: see `view`."""
        with self.guarded(name), self._opening:
            table = self._db.open_table(name)
            table.checkout(table.version)
        return table

    def _of_this_turn(self, name: str) -> Any:
        """A table at the version that is the newest while the turn is held: whoever takes it over does so after that version."""
        if name not in self._pinned:
            with self.guarded(name):
                table = self._still.open_table(name)
                table.checkout_latest()
                self._pinned[name] = table
        self._turn.require()
        return self._pinned[name]

    def later(self, name: str) -> Any:
        """A table of `tables.LATER`, made if the store has none yet. Its first column is its key."""
        if name not in self._tables and name not in self._pinned:
            with self.writing(), self.guarded(name):
                self.make(name)
        return self.table(name)

    def make(self, name: str) -> None:
        """Make a table of `tables.LATER`, unless it is there. The caller holds `writing()`."""
        if name not in self.names():
            made = self._db.create_table(name, schema=LATER[name])
            made.set_unenforced_primary_key(LATER[name].names[0])  # and no index on it: racing upserts would double
            self.committed(name)

    def has(self, name: str) -> bool:
        """Whether the store has got one of the tables of `tables.LATER`."""
        return name in self._tables or name in self.names()

    def make_cubes(self, name: str, dimension: int) -> None:
        """Make an empty cubes table with its indexes, or finish one that a killed process began."""
        # not exist_ok: that compares schemas, and the JSON column reads back under Lance's own name for the type
        there = name in self.names()
        table = self._db.open_table(name) if there else self._db.create_table(name, schema=cubes_schema(dimension))
        index(table, INDEXES["cubes"])

    def rewrite(self, name: str, rows: pa.Table) -> None:
        """Put other rows, of another schema, in the place of all that a table holds, in one commit. The caller holds `writing()`."""
        with self.guarded(name):
            self._tables[name] = self._db.create_table(name, data=rows, mode="overwrite")
            index(self._tables[name], INDEXES[name])
            self.committed(name)

    def drop(self, name: str) -> None:
        """Remove a table that the manifest no longer names."""
        with self.guarded(name):
            self._tables.pop(name, None)
            self._pinned.pop(name, None)
            self._turn.require()
            self._db.drop_table(name, ignore_missing=True)

    def drop_strays(self) -> None:
        """Drop cubes tables that the manifest does not name: a re-embedding was killed after its switch."""
        for name in self.names():
            if name.startswith("cubes") and name not in (self.manifest.cubes, self.manifest.filling):
                self.drop(name)

    def names(self) -> list[str]:
        """The tables that are there."""
        with self.guarded("meta"):
            return list(self._db.list_tables().tables)

    def _create(self, manifest: Manifest, begin: Callable[[Files], None]) -> None:
        if strangers := self.site.strangers():
            raise NotAStore(f"{self.path} holds other files ({strangers[0]} …): choose an empty or a new folder")
        for name in (n for n in self.names() if n in TABLES or n.startswith("cubes")):  # of a killed process, and empty
            if self._db.open_table(name).count_rows():
                raise Damaged(
                    f"{self.path}/meta.lance is missing, though {name}.lance beside it is not empty: {schema.WHOLE}"
                )
        self.make_cubes(manifest.cubes, manifest.dimension)
        for name, columns in (("history", PAST), ("events", EVENTS), ("usage", USAGE)):
            index(self._db.create_table(name, schema=columns, exist_ok=True), INDEXES[name])
        self.make("rules")
        begin(self.site.files)
        # last, and complete from the first moment: a store exists when its manifest does
        row = pa.Table.from_pylist([{"key": "manifest", "value": signed(manifest)}], schema=META)
        self._db.create_table("meta", data=row)
        for name in (manifest.cubes, "history", "events", "usage", "meta"):
            self.committed(name)

    # --- writing -------------------------------------------------------------------------------------------------------

    @property
    def writes(self) -> bool:
        """Whether this thread is the only writer now."""
        # asked, not counted: a count is wrong after Ctrl-C in the middle
        return bool(self._mutex._is_owned())  # type: ignore[attr-defined]

    @property
    def _in_turn(self) -> bool:
        return self.transactions.inside is not None or self.writes

    @contextmanager
    def writing(self, wait: float | None = None) -> Iterator[None]:
        """Be the only writer until the end of the block. Raises StoreUnavailable after `wait` seconds; None:
        `Policy.lock_seconds`. Inside a transaction, threads of its context take turns."""
        if self._closed:
            raise StoreClosed(f"{self.path} was closed: open a new MemOS")
        if (inside := self.transactions.inside) is not None:
            with inside.turn:
                yield
            return
        self.transactions.require_turn()
        seconds, nested = self.policy.lock_seconds if wait is None else wait, self.writes
        if not self._mutex.acquire(timeout=seconds):
            raise StoreUnavailable(f"{self.path}: another thread has been writing for {seconds} s")
        try:
            if nested:
                yield
                return
            clean = False
            try:
                self._acquire(seconds)
                if self._tables and self.fresh().pinned and self.may_write():
                    self.transactions.take_back()
                while self._put_off and self.may_write():
                    self._put_off[0]()
                    del self._put_off[0]
                yield
                clean = True
            except MemOSError as error:
                clean = not isinstance(error, StoreError)  # else a request may still be on its way
                raise
            finally:
                self._pinned.clear()
                self._turn.release(clean=clean)
        finally:
            self._mutex.release()

    def when_free(self, work: Callable[[], None]) -> None:
        """Do something as the only writer, and wait for nobody: now, or before this process's next write if somebody writes now, or if
        the store cannot be written. Never, where this process may not write: it is left to one that may."""
        if not self.may_write():
            return
        begun = False
        try:
            with self.writing(wait=0):
                begun = True
                work()
        except StoreUnavailable:
            if begun:
                raise
            self._put_off.append(work)

    @contextmanager
    def uncompacted(self) -> Iterator[None]:
        """Keep compactions away until the end of the block: they drop old versions. Raises StoreUnavailable after
        `Policy.lock_seconds`."""
        if self.transactions.inside is not None:
            raise InvalidArgument(
                "purge: a transaction may be taken back, and for that it keeps old files: purge after it"
            )
        turn = self.site.turn("compact")
        try:
            turn.acquire(self.policy.lock_seconds)
        except TimeoutError:
            raise StoreUnavailable(
                f"{self.path} has been compacted, or in another transaction, for {self.policy.lock_seconds} s"
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            turn.release()

    def committed(self, table: str, rows: int = 1) -> None:
        """Acknowledge a commit to a table: on the device, if the policy says so."""
        self._commits += 1
        self._rows += rows
        if self.policy.fsync:
            self.site.flush(table)
        if self._in_turn:
            self._turn.require()  # what was written after it lapsed is not acknowledged

    @contextmanager
    def guarded(self, table: str) -> Iterator[None]:
        """Raise what the database raises as one of our errors, naming the table's path."""
        with guarded(self.site, table):
            yield

    def _acquire(self, seconds: float) -> None:
        try:
            unfinished = self._turn.acquire(seconds)
        except TimeoutError:
            raise StoreUnavailable(
                f"{self.path}: another process has been writing for {seconds} s (lock {self._turn.name})"
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be written: {error.strerror or error}") from error
        if unfinished:
            self._fence()

    def _fence(self) -> None:
        """See that whoever had the turn before and did not give it back cannot write any more: what he read is now older than a
        restore, on top of which the database takes no commit that was begun before it. What he had written stays."""
        for name in (n for n in self.names() if n in _IN_TURN or n.startswith("cubes")):
            with self.guarded(name):
                table = self._db.open_table(name)
                wanted = table.version
                for _ in range(_TRIES):
                    table.checkout(wanted)
                    self._turn.require()
                    table.restore()
                    table.checkout_latest()
                    if table.version == wanted + 1:
                        break
                    wanted = table.version - 1  # somebody came between, a compaction maybe: that is what it is now
                else:
                    raise StoreUnavailable(f"{self.path}/{name}.lance keeps changing while it is being taken over")

    # --- the manifest --------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """What the store says of itself, as last seen."""
        return self._known[1]

    def fresh(self, *, again: bool = False) -> Manifest:
        """The same as it is now; with `again`, read without asking whether it changed. Raises EmbedderMismatch."""
        return self.seen(again=again)[1]

    def look_again(self) -> None:
        """Read the manifest, whatever it was: for who opens the store, and holds to nothing yet."""
        self._known = self._read_manifest()

    def seen(self, *, again: bool = False) -> tuple[int, Manifest]:
        """The same with the number of its version, which every transaction's begin and end changes."""
        with self.guarded("meta"):
            stale = again or self.table("meta").version != self._known[0]
        if stale:
            now, before = self._read_manifest(), self.manifest
            if (now[1].embedder, now[1].dimension, now[1].probe) != (before.embedder, before.dimension, before.probe):
                self._known = -1, before  # and so for every later call
                raise EmbedderMismatch(
                    f"{self.path} was re-embedded meanwhile: open it anew, with embed= the new embedder"
                )
            self._known = now
        return self._known

    @property
    def seen_last(self) -> tuple[int, Manifest]:
        """The same as it was when it was looked at last."""
        return self._known

    def write_manifest(self, manifest: Manifest) -> None:
        """Switch to another manifest, in one commit."""
        with self.writing(), self.guarded("meta"):
            self.table("meta").update(where="key = 'manifest'", values={"value": signed(manifest)})
            self.committed("meta")
            self._known = self._read_manifest()

    def _read_manifest(self) -> tuple[int, Manifest]:
        with self.guarded("meta"):
            version = self.table("meta").version
            rows = self.table("meta").search().select(["value"]).limit(2).to_list()
        if len(rows) != 1:
            raise Damaged(f"{self.path}/meta.lance holds {len(rows)} manifests instead of one")
        return version, verified(rows[0]["value"], self.path)

    # --- versions of tables ----------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, int]:
        """The version of each table that holds what verbs write."""
        with self.guarded("meta"):
            return {name: int(self.at(name, None).version) for name in self._pinnable()}

    def restore(self, name: str, version: int) -> None:
        """Make a table what it was at a version, as a new version of it. Costs no copy."""
        with self.guarded(name):
            table = self._db.open_table(name)
            if table.version != version:
                self._turn.require()  # whoever took it over has restored it, and may have written since
                table.restore(version)
                self._pinned.pop(name, None)
                self.committed(name)

    def _pinnable(self) -> list[str]:
        """What verbs write under the writers' lock, as far as it is there."""
        return [self.manifest.cubes, *_PINNED, *(name for name in _PINNED_LATER if self.has(name))]


@contextmanager
def guarded(site: Site, table: str) -> Iterator[None]:
    """Raise what the database raises as one of our errors, naming the path of a table at a site."""
    try:
        yield
    except MemOSError:
        raise
    except (RuntimeError, OSError, ValueError, pa.ArrowException) as error:
        raise site.fault(error, table) from error
    except Exception as error:
        if type(error).__name__ != "RustPanic":  # its class is private to LanceDB's extension: known by its name alone
            raise
        raise site.fault(error, table) from error
