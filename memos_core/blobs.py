"""Files that hold what is too large for a table, each named by the hash of what is in it.

A blob is never changed, and is checked when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from .errors import Damaged
from .files import Files
from .transactions import Transaction

_FOLDER = "blobs"


class Blobs:
    """The blobs of one store. Safe for many threads and processes."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.inside: Callable[[], Transaction | None] = lambda: None
        """Asked for the transaction that the caller is inside of: what it makes goes if it is not kept, what it removes stays until it is."""

    def path(self, name: str) -> str:
        """Where a blob lies, for messages. Raises Damaged for a name that is none: it came from a record."""
        return self._files.where(self._file(name))

    def has(self, name: str) -> bool:
        """Whether a blob is there."""
        return self._files.has(self._file(name))

    def write(self, parts: Sequence[bytes | memoryview], name: str) -> None:
        """Write a blob under a name that its content gives it. What is there already stays. Raises StoreUnavailable."""
        if (under_way := self.inside()) is not None:
            under_way.unwanted.discard(name)
        if not self.has(name):
            if under_way is not None:
                under_way.made.add(name)
            self._files.write(self._file(name), parts)

    def read(self, name: str, start: int, size: int) -> bytearray:
        """Bytes [start, start + size) of a blob. Raises Damaged if it is gone or shorter."""
        try:
            found = self._files.read(self._file(name), start, size)
        except OSError as error:
            raise Damaged(f"{self.path(name)} cannot be read as it was written: {error.strerror or error}") from error
        if len(found) < size:
            raise Damaged(f"{self.path(name)} ends after {start + len(found)} bytes, and {start + size} were written")
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Remove blobs; one that is not there is no error."""
        if (under_way := self.inside()) is not None:
            under_way.unwanted.update(names)
        else:
            self._files.remove([self._file(name) for name in names])

    def settle(self, ended: Transaction, kept: bool) -> None:
        """Remove what a transaction needs no more, or what it made."""
        self.remove(ended.unwanted if kept else ended.made)

    def sizes(self) -> dict[str, int]:
        """Bytes of each blob."""
        return {name: listed.bytes for name, listed in self._files.listed(_FOLDER).items()}

    def sweep(self, wanted: Iterable[str]) -> int:
        """Remove what is not wanted, halves of files among it; how many. The caller sees to it that nobody is writing."""
        if self.inside() is not None:
            return 0  # what it would remove may be wanted again
        return self._files.sweep(_FOLDER, wanted)

    def _file(self, name: str) -> str:
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise Damaged(f"{self._files.where(_FOLDER)}: {name!r} is no name of a blob")
        return f"{_FOLDER}/{name}"


def digest(*parts: bytes | bytearray | memoryview) -> str:
    """The hash of bytes, as a name."""
    found = sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()
