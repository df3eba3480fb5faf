"""Files that hold what is too large for a table, each named by the hash of what is in it.

Knows files; not what they mean. A file appears whole under its name or not at all, is never changed, and is checked when it is read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from .errors import Damaged, StoreUnavailable

_PARTIAL = ".partial"


class Blobs:
    """The blobs of one store, in a folder of it that is made with the first one. Safe for many threads and processes."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._folder = folder
        self._fsync = fsync

    def path(self, name: str) -> Path:
        """Where a blob lies. Raises Damaged for a name that is none: it came from a record."""
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise Damaged(f"{self._folder}: {name!r} is no name of a blob")
        return self._folder / name

    def write(self, parts: Sequence[bytes | memoryview], name: str) -> None:
        """Write a blob under a name that its content gives it. What is there already stays. Raises StoreUnavailable."""
        target = self.path(name)
        if target.exists():
            return
        try:
            self._folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=_PARTIAL, delete=False) as file:
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
                handle = os.open(self._folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise StoreUnavailable(
                f"{target}: {error.strerror or error}. What was acknowledged before is stored"
            ) from error

    def take(self, file: Path, name: str) -> None:
        """Move a file that holds a blob, and lies on the same device, to its name. What is there already stays."""
        target = self.path(name)
        try:
            self._folder.mkdir(exist_ok=True)
            if not target.exists():
                if self._fsync:
                    handle = os.open(file, os.O_RDONLY)
                    try:
                        os.fsync(handle)
                    finally:
                        os.close(handle)
                os.replace(file, target)
        except OSError as error:
            raise StoreUnavailable(f"{target}: {error.strerror or error}") from error

    def read(self, name: str, start: int, size: int) -> bytearray:
        """Bytes [start, start + size) of a blob. Raises Damaged if it is gone or shorter."""
        found = bytearray(size)
        try:
            with self.path(name).open("rb", buffering=0) as file:
                file.seek(start)
                view, at = memoryview(found), 0
                while at < size:
                    n = file.readinto(view[at:])
                    if not n:
                        raise Damaged(
                            f"{self.path(name)} ends after {start + at} bytes, and {start + size} were written"
                        )
                    at += n
        except OSError as error:
            raise Damaged(f"{self.path(name)} cannot be read as it was written: {error.strerror or error}") from error
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Remove blobs; one that is not there is no error."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Bytes of each blob."""
        found = {}
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            if not file.name.endswith(_PARTIAL):
                try:
                    found[file.name] = file.stat().st_size
                except FileNotFoundError:  # removed meanwhile
                    continue
        return found

    def sweep(self, wanted: Iterable[str]) -> int:
        """Remove what is not wanted, halves of files among it; how many. The caller sees to it that nobody is writing."""
        keep = set(wanted)
        gone = [f for f in self._folder.glob("*") if f.name not in keep] if self._folder.is_dir() else []
        for file in gone:
            file.unlink(missing_ok=True)
        return len(gone)


def digest(*parts: bytes | bytearray | memoryview) -> str:
    """The hash of bytes, as a name."""
    found = sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()
