"""Verifying a store of which not all can be opened: reads what is there, and names the path of what is not. Opens nothing else of it.

An engine cannot be opened on a store whose log is damaged, and that is when its log must be verified. So this asks the database for one
table after the other, and goes on where one fails: of a log that lacks a file it reads the events in the others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lancedb
import pyarrow as pa

from . import audit
from .audit import Audit, Told
from .database import guarded
from .errors import MemOSError, NotAStore, StoreError, StoreUnavailable
from .ledger import HEAD, read_head, read_told
from .manifest import Manifest, verified
from .sites import Site, site
from .tables import EVENTS
from .types import Policy
from .validate import checked_word

_ALL = 2**31 - 1
_ROWS = 1_024  # of a table that are read at once
_STEPS = 4_096  # into how many pieces a log that lacks a file is cut at most, to read the rest
_ALWAYS = ("meta", "history", "events", "usage", "rules")
_NEWEST = 2**64 - 1  # from which versions are counted down in the names of their files


def verify_store(
    path: str | os.PathLike[str],
    *,
    head: str | None = None,
    audit_key: bytes | Sequence[bytes] | None = None,
    storage_options: Mapping[str, str] | None = None,
    policy: Policy = Policy(),
) -> Audit:
    """Hold a store's log against its chain, as `MemOS.verify` does, without opening the store; and see that every table can be read.

    What is missing or damaged is among the faults, with its path, and what is there is verified all the same. Nothing is written, but
    the lock by which it waits for whoever writes; a store on a medium that cannot be written is read without.

    Args:
        head: the `head` of an earlier verification, kept elsewhere.
        audit_key: with which the log must be signed; None: signatures are not checked.
        path, storage_options, policy: as for `MemOS`.

    Raises NotAStore where nothing of a store is, StoreUnavailable where the place cannot be reached.
    """
    keys, expected = audit.checked_keys(audit_key), checked_word(head, "head")
    place = site(path, policy, storage_options)
    if not place.is_shared and not os.path.isdir(place.path):
        raise NotAStore(f"{place.path} holds no store")
    with guarded(place, "open"):
        db = lancedb.connect(**place.connection())
        names = list(db.list_tables().tables)
    if not names and not place.files.has(HEAD):
        raise NotAStore(f"{place.path} holds no store")
    with ExitStack() as copies:
        reading = _Reading(place, db, names, copies)
        with _undisturbed(place, policy.lock_seconds) as alone:
            manifest = reading.manifest()
            known = reading.head()
            told = reading.events()
        reading.others(manifest)
    found = audit.examined(told, known, expected, keys=keys, named="" if manifest is None else manifest.audit_key)
    others = () if alone else ("whether somebody was writing meanwhile: the lock could not be had",)
    return replace(found, faults=(*reading.faults, *found.faults), unchecked=(*found.unchecked, *others))


@contextmanager
def _undisturbed(place: Site, seconds: float) -> Iterator[bool]:
    """Until the end of the block nobody writes, if that can be had; whether it could."""
    turn = place.turn("write")
    try:
        unfinished = turn.acquire(seconds)
    except (
        OSError,
        StoreUnavailable,
    ):  # a medium that cannot be written; or, as TimeoutError, somebody who writes all the time
        yield False
        return
    try:
        yield True
    finally:
        turn.release(clean=not unfinished)  # who takes it over next must still fence off who left it so


class _Reading:
    """One store, table by table. `faults` is what cannot be read, and why. copies: closed when what was made to read it may go."""

    def __init__(self, place: Site, db: Any, names: Sequence[str], copies: ExitStack) -> None:
        self._place = place
        self._db = db
        self._names = names
        self._copies = copies
        self.faults: list[str] = []

    def manifest(self) -> Manifest | None:
        """What the store says of itself; None if it cannot be read."""
        rows = self._rows("meta", ["key", "value"])
        if rows is None:
            return None
        values = [r["value"] for r in rows.to_pylist() if r["key"] == "manifest"]
        if len(values) != 1:
            self.faults.append(f"{self._at('meta')} holds {len(values)} manifests instead of one")
            return None
        try:
            return verified(values[0], self._place.path)
        except StoreError as error:
            self.faults.append(str(error))
            return None

    def head(self) -> audit.Head | None:
        """Where the log's file says that it ends."""
        found = read_head(self._place.files)
        if found is None:
            there = self._place.files.has(HEAD)
            self.faults.append(f"{self._place.files.where(HEAD)} is {'not what was written' if there else 'missing'}")
        return found

    def events(self) -> list[Told]:
        """Every event that can be read, in the order of their numbers."""
        table = self._open("events")
        if table is None:
            return []
        if lacking := set(EVENTS.names) - {"link"} - set(table.schema.names):
            self.faults.append(f"{self._at('events')} lacks the column {min(lacking)}")
            return []
        try:
            with guarded(self._place, "events"):
                rows = table.search().limit(_ALL).to_arrow()
        except MemOSError as error:
            self.faults.append(str(error))
            rows = self._rest(table)
        return sorted(self._told(rows), key=lambda one: one.number)

    def others(self, manifest: Manifest | None) -> None:
        """Read every other table from end to end, whatever is in it."""
        cubes = [n for n in self._names if n.startswith("cubes")]
        wanted = [manifest.cubes] if manifest is not None else cubes or ["cubes"]
        for name in dict.fromkeys((*wanted, *_ALWAYS, *self._names)):
            if name not in ("events", "meta"):
                self._rows(name)

    # --- below -----------------------------------------------------------------------------------------------------------

    def _at(self, name: str) -> str:
        return f"{self._place.path}/{name}.lance"

    def _open(self, name: str) -> Any:
        """A table in its newest version that can be opened; None without any."""
        if name not in self._names:
            self.faults.append(f"{self._at(name)} is missing")
            return None
        try:
            with guarded(self._place, name):
                return self._db.open_table(name)
        except MemOSError as error:
            self.faults.append(str(error))
        return self._before(name)

    def _before(self, name: str) -> Any:
        """A table of a folder as it was before its newest version, which does not open: as it was at the newest one that does.

        The database asks for the newest one whatever version is wanted, so it is shown a folder that lacks what does not open.
        """
        folder = Path(self._at(name))
        if self._place.is_shared or not (folder / "_versions").is_dir():
            return None
        above = Path(self._copies.enter_context(TemporaryDirectory(prefix="memos-verify-")))
        shown = above / folder.name
        (shown / "_versions").mkdir(parents=True)
        for part in folder.iterdir():
            if part.name != "_versions":
                (shown / part.name).symlink_to(part.absolute())
        versions = {_version(file): file for file in (folder / "_versions").glob("*.manifest") if file.stem.isdigit()}
        for file in versions.values():
            shutil.copyfile(file, shown / "_versions" / file.name)
        for version in sorted(versions, reverse=True):
            try:
                with guarded(self._place, name):
                    table = lancedb.connect(above).open_table(name)
            except MemOSError:  # the fault that is told of names the table; an older version may do
                (shown / "_versions" / versions[version].name).unlink()
                continue
            self.faults.append(f"{folder} was read as it was at version {version}, the newest one that opens")
            return table
        return None

    def _rows(self, name: str, kept: Sequence[str] | None = None) -> pa.Table | None:
        """Read a table from end to end; some columns of its rows, if any are wanted."""
        table = self._open(name)
        if table is None:
            return None
        with suppress(MemOSError):  # perhaps only because a compaction took the files away since
            return self._read(table, name, kept)
        try:
            with guarded(self._place, name):
                table.checkout_latest()
            return self._read(table, name, kept)
        except MemOSError as error:
            self.faults.append(str(error))
            return None

    def _read(self, table: Any, name: str, kept: Sequence[str] | None) -> pa.Table | None:
        with guarded(self._place, name):
            batches = table.search().limit(_ALL).to_batches(_ROWS)
            found = [b.select(list(kept)) for b in batches if kept is not None]
        return pa.Table.from_batches(found) if found else None

    def _rest(self, table: Any) -> pa.Table:
        """The rows of a table that can be read, of one that as a whole cannot."""
        with guarded(self._place, "events"):
            count = int(table.count_rows())
        found = list(self._pieces(table, 0, count, max(1, count // _STEPS)))
        return pa.concat_tables(found) if found else EVENTS.empty_table()

    def _pieces(self, table: Any, start: int, stop: int, least: int) -> Iterator[pa.Table]:
        try:
            with guarded(self._place, "events"):
                piece = table.take_offsets(list(range(start, stop))).to_arrow()
        except MemOSError:  # said once of the whole table
            if stop - start > least:
                middle = (start + stop) // 2
                yield from self._pieces(table, start, middle, least)
                yield from self._pieces(table, middle, stop, least)
            return
        yield piece

    def _told(self, rows: pa.Table) -> list[Told]:
        try:
            return read_told(rows)
        except (ValueError, OverflowError):  # a damaged text or time
            if len(rows) == 1:
                self.faults.append(f"{self._at('events')} holds an event whose words are damaged")
                return []
            middle = len(rows) // 2
            return self._told(rows.slice(0, middle)) + self._told(rows.slice(middle))


def _version(manifest: Path) -> int:
    """The number of the version that a file describes: newer databases count down, so that the newest comes first."""
    number = int(manifest.stem)
    return _NEWEST - number if number > _NEWEST // 2 else number
