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

from .database import Database
from .errors import InvalidArgument, StoreUnavailable
from .sites import Folder, Site
from .turns import Turn

_FOLDER = ".branches"
_OWN = ("distilling", "rebuilds")  # work under way, which is the store's own
_PATIENCE = 60.0  # seconds for another one to make a folder in


@contextmanager
def copied(database: Database) -> Iterator[Path]:
    """A copy of a store in a folder as it is between two writes, until the end of the block. Raises InvalidArgument for another store."""
    if database.site.is_shared:
        raise InvalidArgument(f"name: {database.path} is in a bucket, and a branch shares a folder's files")
    target = Path(database.path) / _FOLDER / uuid.uuid4().hex
    in_use, process = _in_use(target), os.getpid()
    with _making(database.site):
        target.mkdir(parents=True)
        in_use.acquire(0)
    try:
        with database.uncompacted(), database.writing():
            _link(Path(database.path), target)
        yield target
    finally:
        if process == os.getpid():  # else a fork leaves the block, and it is its parent's
            in_use.release()
            _remove(target)


def require_none(site: Site) -> None:
    """Remove the copies that killed processes left. Raises StoreUnavailable if one is in use: it holds the files that the store had."""
    sweep(site)
    if not site.is_shared and any((Path(site.path) / _FOLDER).glob("*")):
        raise StoreUnavailable(
            f"{site.path} has a branch that is in use, and that holds what was deleted since: end it first"
        )


def sweep(site: Site) -> int:
    """Remove the copies that killed processes left of a store; how many."""
    folder, gone = Path(site.path) / _FOLDER, 0
    for target in folder.glob("*") if folder.is_dir() else ():
        with _making(site):
            in_use = _in_use(target)
            try:
                in_use.acquire(0)
            except (TimeoutError, FileNotFoundError):  # in use, or gone meanwhile
                continue
            in_use.release()
            _remove(target)
            gone += 1
    return gone


def _in_use(target: Path) -> Turn:
    return Folder(target).turn("branch")


@contextmanager
def _making(site: Site) -> Iterator[None]:
    """Held while a copy is begun, lest it be taken for a dead one."""
    turn = site.turn("branches")
    turn.acquire(_PATIENCE)
    try:
        yield
    finally:
        turn.release()


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
