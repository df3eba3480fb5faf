"""What the file system says, in our words: faults of the store's files, and flushing them to the device."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import Conflict, Damaged, StoreError, StoreUnavailable

_UNUSABLE = re.compile(
    r"no space left|os error 28|read-only|os error 30|permission denied|os error 13|quota|too many open files|"
    r"error sending request|http ?error|after \d+ retries|error trying to connect|dns error|connection (refused|reset|closed)|timed out|"
    r"access ?denied|invalidaccesskeyid|signaturedoesnotmatch|expiredtoken|nosuchbucket|slow ?down|service ?unavailable", re.I,
)  # fmt: skip  # of a disk; and of object storage
_CONFLICT = re.compile(r"conflict|incompatible with concurrent", re.I)
_DAMAGED = re.compile(
    r"not found|decode|invalid|corrupt|fill whole buffer|too small|outside|magic|range|parse|protobuf|io error|lanceerror\(io\)|panic",
    re.I,
)
_REFUSED = re.compile(
    r"invalid user input|schema error|no field named|execution error|query execution|during planning|error parsing|recursion",
    re.I,
)  # the database did not understand us


def fault(error: Exception, path: str, table: str) -> StoreError | Conflict:
    """The error to raise for one that the database raised while it worked on a table; its message names the path."""
    words = f"{type(error).__name__}: {error}" if type(error).__name__ == "RustPanic" else str(error)
    where = f"{path}/{table}.lance"
    if _UNUSABLE.search(words):
        return StoreUnavailable(f"{where}: {_brief(words)}. What was acknowledged before is stored")
    if _CONFLICT.search(words):
        return Conflict(f"{where} kept changing under this write, which was not made: {_brief(words)}")
    if _REFUSED.search(words):
        return StoreError(f"{where}: the database refused: {_brief(words)}")
    if not _DAMAGED.search(words):
        return StoreError(f"{where}: {_brief(words)}")
    return Damaged(f"{where} cannot be read as it was written: {_brief(words)}")


def claim_folder(path: Path) -> None:
    """Make the folder of a store unless it is there. Raises StoreUnavailable for a file, or where none can be made."""
    try:
        if path.exists() and not path.is_dir():
            raise StoreUnavailable(f"{path} is a file: a store is a folder")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be made: {error.strerror or error}") from error


def flush_new_files(folder: Path, done: set[str]) -> None:
    """fsync every file of a table that is not in `done`, and the folders that hold them; then they are in `done`.

    Lance writes each file once and never again, so a name that was flushed stays flushed.
    """
    for parent, folders, names in os.walk(folder):
        new = [path for name in (*names, *folders) if (path := f"{parent}/{name}") not in done]
        for path in new:
            _flush(path)
        if new:
            _flush(parent)
        done.update(new)
    if str(folder) not in done:
        _flush(str(folder.parent))
        done.add(str(folder))


def _flush(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # compacted away meanwhile: what replaced it is flushed in its turn
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _brief(words: str) -> str:
    return " ".join(words.split())[:300]
