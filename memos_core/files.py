"""Files of a store beside its tables: what is too large for a table, and what is under way. Here those of a folder; `bucket` has others.

Knows files; not what they mean. A file appears whole under its name or not at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import StoreUnavailable

_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a listing shows it: its bytes, and when it was written, in seconds of one clock for all files of a store."""

    bytes: int
    written: float


class Files(Protocol):
    """The files of one store, by names of the form "folder/file". Safe for many threads, processes and, in a bucket, machines.

    All methods raise StoreUnavailable where the place cannot be reached or written.
    """

    def where(self, name: str) -> str:
        """How to call a file in a message."""

    def local(self, name: str) -> Path | None:
        """The path to open a file by, where it has one."""

    def has(self, name: str) -> bool:
        """Whether a file is there."""

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytearray:
        """Bytes [start, start + size) of a file, or as many of them as there are. Raises OSError if it is not there."""

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file, in the place of one that is there."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""

    def listed(self, folder: str) -> dict[str, Listed]:
        """The files in a folder, by their names within it."""

    def sweep(self, folder: str, wanted: Iterable[str]) -> int:
        """Remove from a folder what is not wanted, halves of files among it; how many. The caller sees to it that nobody is writing."""


class LocalFiles:
    """The files of a store in a folder. A folder in it is made with its first file. `fsync`: on the device before `write` returns."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._folder = folder
        self._fsync = fsync

    def where(self, name: str) -> str:
        """How to call a file in a message."""
        return str(self._folder / name)

    def local(self, name: str) -> Path:
        """The path to open a file by; its folder is there."""
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        return path

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self._folder / name).exists()

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytearray:
        """Bytes [start, start + size) of a file, or as many of them as there are. Raises OSError if it is not there."""
        with (self._folder / name).open("rb", buffering=0) as file:
            wanted = os.fstat(file.fileno()).st_size - start if size is None else size
            found = bytearray(max(0, wanted))
            file.seek(start)
            view, at = memoryview(found), 0
            while at < wanted:
                n = file.readinto(view[at:])
                if not n:
                    return found[:at]
                at += n
        return found

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file, in the place of one that is there. Raises StoreUnavailable."""
        target = self._folder / name
        try:
            target.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, suffix=_PARTIAL, delete=False) as file:
                try:
                    for part in parts:
                        file.write(part)
                    file.flush()
                    if self._fsync:
                        os.fsync(file.fileno())
                    os.replace(file.name, target)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            if self._fsync:
                handle = os.open(target.parent, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise StoreUnavailable(
                f"{target}: {error.strerror or error}. What was acknowledged before is stored"
            ) from error

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def listed(self, folder: str) -> dict[str, Listed]:
        """The files in a folder, by their names within it."""
        found, path = {}, self._folder / folder
        for file in path.glob("*") if path.is_dir() else ():
            if not file.name.endswith(_PARTIAL):
                try:
                    stat = file.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                found[file.name] = Listed(stat.st_size, stat.st_mtime_ns / 1e9)
        return found

    def sweep(self, folder: str, wanted: Iterable[str]) -> int:
        """Remove from a folder what is not wanted, halves of files among it; how many. The caller sees to it that nobody is writing."""
        keep, path = set(wanted), self._folder / folder
        gone = [f for f in path.glob("*") if f.name not in keep] if path.is_dir() else []
        for file in gone:
            file.unlink(missing_ok=True)
        return len(gone)
