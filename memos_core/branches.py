"""What-if copies of a store. Knows files and locks.

Lance writes a file once and never again, and so do we with blobs: a copy is links to the same files, costs no room until either side
changes, and neither side sees what the other writes or drops. (Lance's own branches cannot be merged here, and its shallow clones would
have to keep their source from dropping versions.) Where the file system has no links the files are copied.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .database import Database
from .errors import StoreUnavailable

_FOLDER, _IN_USE = ".branches", ".branch.lock"
_OWN = ("distilling", "rebuilds")  # work under way, which is the store's own


@contextmanager
def copied(database: Database) -> Iterator[Path]:
    """A copy of a store as it is between two writes, until the end of the block."""
    target = Path(database.path) / _FOLDER / uuid.uuid4().hex
    in_use = FileLock(target / _IN_USE, timeout=0)
    with _making(target.parent):
        target.mkdir(parents=True)
        in_use.acquire()
    try:
        with database.uncompacted(), database.writing():
            _link(Path(database.path), target)
        yield target
    finally:
        in_use.release()
        _remove(target)


def sweep(path: Path) -> int:
    """Remove the copies that killed processes left of a store; how many."""
    folder, gone = path / _FOLDER, 0
    for target in folder.glob("*") if folder.is_dir() else ():
        with _making(folder):
            try:
                FileLock(target / _IN_USE, timeout=0).acquire().lock.release()
            except (Timeout, FileNotFoundError):  # in use, or gone meanwhile
                continue
            _remove(target)
            gone += 1
    return gone


def _making(folder: Path) -> FileLock:
    """Held while a copy is begun, lest it be taken for a dead one."""
    return FileLock(folder.with_suffix(".lock"))


def _remove(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    with suppress(OSError):  # there are others
        target.parent.rmdir()


def _link(source: Path, target: Path) -> None:
    for parent, folders, names in os.walk(source):
        here = Path(parent).relative_to(source)
        if here == Path():
            folders[:] = [f for f in folders if not f.startswith(".") and f not in _OWN]
        (target / here).mkdir(parents=True, exist_ok=True)
        for name in names:
            if not name.startswith("."):  # locks, and what Lance left unfinished
                _same(Path(parent, name), target / here / name)


def _same(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise StoreUnavailable(f"{target}: {error.strerror or error}. The store is as it was") from error
