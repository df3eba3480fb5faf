"""Where a store is: a folder of this machine, or a bucket that many machines reach (`bucket`). Knows the folder.

A site says how the database is opened there, whose turn it is to write, and where the files beside the tables are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from .disk import claim_folder, fault, flush_new_files
from .errors import Conflict, InvalidArgument, StoreError
from .files import Files, LocalFiles
from .turns import Turn
from .types import Policy


class Site(Protocol):
    """The place of one store. Its methods raise StoreUnavailable where it cannot be reached or written.

    path: the folder or URL. is_shared: other machines write there too, so a turn may lapse while its holder sleeps.
    files: beside the tables.
    """

    path: str
    is_shared: bool
    files: Files

    def claim(self) -> None:
        """Make it fit for a store, if it is not yet."""

    def holds_store(self) -> bool:
        """Whether there is a store."""

    def strangers(self) -> list[str]:
        """What lies there that is none of ours."""

    def connection(self) -> dict[str, Any]:
        """What the database has to be told to open it."""

    def turn(self, name: str) -> Turn:
        """The right to do one thing, which one process at a time has."""

    def flush(self, table: str) -> None:
        """Bring a commit to a table onto the device."""

    def fault(self, error: Exception, table: str) -> StoreError | Conflict:
        """The error to raise for one that the database raised while it worked on a table."""


class Folder:
    """A store in a folder of this machine."""

    is_shared = False

    def __init__(self, path: str | os.PathLike[str], policy: Policy = Policy()) -> None:
        self.path = os.fspath(path)
        self.files: Files = LocalFiles(Path(self.path), fsync=policy.fsync)
        self._flushed: set[str] = set()

    def claim(self) -> None:
        """Make the folder, unless it is there."""
        claim_folder(Path(self.path))

    def holds_store(self) -> bool:
        """Whether there is a store."""
        return (Path(self.path) / "meta.lance").exists()

    def strangers(self) -> list[str]:
        """What lies there that is none of ours."""
        return [p for p in os.listdir(self.path) if not p.startswith(".") and not p.endswith(".lance") and p != "audit"]

    def connection(self) -> dict[str, Any]:
        """What the database has to be told to open it."""
        return {"uri": self.path}

    def turn(self, name: str) -> Turn:
        """A file lock, which a killed process gives back."""
        return _FileTurn(Path(self.path) / f".{name}.lock")

    def flush(self, table: str) -> None:
        """Bring a commit to a table onto the device."""
        flush_new_files(Path(self.path) / f"{table}.lance", self._flushed)

    def fault(self, error: Exception, table: str) -> StoreError | Conflict:
        """The error to raise for one that the database raised while it worked on a table."""
        return fault(error, self.path, table)


class _FileTurn:
    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._process = os.getpid()
        self._lock = FileLock(path, poll_interval=0.002, thread_local=False)

    def acquire(self, seconds: float) -> bool:
        self._lock.acquire(timeout=seconds)
        self._process = os.getpid()
        return False

    def require(self) -> None:
        pass  # the system gives it to nobody else while this process lives

    def release(self, *, clean: bool = True) -> None:
        if self._process == os.getpid():  # a fork has not got it, and would take it from its parent
            self._lock.release(force=True)


def site(
    path: str | os.PathLike[str], policy: Policy = Policy(), storage_options: Mapping[str, str] | None = None
) -> Site:
    """Where a path or URL leads.

    storage_options: for a bucket, see `bucket.Bucket`. Raises InvalidArgument, and MissingPackage for a bucket without the extra.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fspath(path):
        raise InvalidArgument(f"path: a folder or an s3:// URL is needed, not {path!r}")
    words = os.fspath(path)
    scheme, there, _ = words.partition("://")
    if not there:
        if storage_options is not None:
            raise InvalidArgument("storage_options: they are for a bucket, and path is a folder")
        return Folder(path, policy)
    if scheme != "s3":
        raise InvalidArgument(f"path: a store lives in a folder or at an s3:// URL; {scheme}:// is neither")
    from .bucket import Bucket

    return Bucket(words, policy, storage_options)
