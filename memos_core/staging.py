"""Files of a dump, brought here and compared with their hashes before anybody looks into them. Knows files; not what is in them.

They lie in a folder of the store that is named after the dump, so that a killed load goes on with what it had, and that a load which
was refused leaves nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from .errors import DumpRefused, StoreUnavailable
from .parcel import MANIFEST, File, Parcel
from .places import Files, Place
from .sites import Site

_CHUNK = 1 << 20
_KEPT = timedelta(days=1)  # how long what a killed load had is kept for the next one


def scratch(site: Site) -> Path:
    """Where files of this machine may lie for a store for a while: in its folder, or, for one in a bucket, among the system's."""
    if not site.is_shared:
        return Path(site.path)
    return Path(tempfile.gettempdir()) / f"memos-{sha256(site.path.encode()).hexdigest()[:16]}"


@contextmanager
def staging(site: Site, name: str, seconds: float, now: datetime) -> Iterator[Path]:
    """The folder for one dump, which one process at a time loads. It is gone after a block that ends well or with a refusal, and kept
    after anything else; what others left and did not come back for within a day goes first."""
    folder, turn = scratch(site) / "loading" / name[:32], site.turn("load")
    try:
        turn.acquire(seconds)
    except TimeoutError:
        raise StoreUnavailable(f"{site.path}: another process has been loading for {seconds} s") from None
    try:
        _sweep(folder.parent, now)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except DumpRefused:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        raise StoreUnavailable(f"{folder}: {error.strerror or error}") from error
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        turn.release()


@contextmanager
def emptied(site: Site, seconds: float) -> Iterator[None]:
    """Until the end of the block nobody loads, and nothing that killed loads and dumps left lies there. An archive that is being packed
    fails, and is to be dumped again."""
    turn = site.turn("load")
    try:
        turn.acquire(seconds)
    except TimeoutError:
        raise StoreUnavailable(f"{site.path}: another process has been loading for {seconds} s") from None
    try:
        for name in ("loading", "dumping"):
            shutil.rmtree(scratch(site) / name, ignore_errors=True)
        yield
    finally:
        turn.release()


def _sweep(above: Path, now: datetime) -> None:
    for folder in above.glob("*"):
        if folder.is_dir() and datetime.fromtimestamp(folder.stat().st_mtime, now.tzinfo) < now - _KEPT:
            shutil.rmtree(folder, ignore_errors=True)


def require_complete(files: Files, parcel: Parcel, *, loose: bool) -> None:
    """Raise DumpRefused if a dump has not just the files that its manifest names, in their sizes. `loose`: more are no harm, such as
    those of the version before of a publication."""
    named = {f.path: f.bytes for f in parcel.files}
    there = {path: size for path, size in files.sizes.items() if path != MANIFEST}
    if missing := sorted(named.keys() - there.keys()):
        raise DumpRefused(f"{files.url} lacks {len(missing)} files, such as {missing[0]}")
    if not loose and (extra := sorted(there.keys() - named.keys())):
        raise DumpRefused(f"{files.url} holds {len(extra)} files that its manifest does not name, such as {extra[0]}")
    for path, size in named.items():
        if there[path] != size:
            raise DumpRefused(f"{files.url}: {path} has {there[path]:,} bytes, and the manifest says {size:,}")


def bring(
    source: Place, parcel: Parcel, wanted: Sequence[File], folder: Path, moved: Callable[[int], None]
) -> dict[str, Path]:
    """Copy files here; where each lies, by its path. `moved` hears how many bytes are here."""
    needed, free = sum(f.bytes for f in wanted), shutil.disk_usage(folder).free
    if needed > free:
        raise StoreUnavailable(f"{source.url} holds {needed:,} bytes, and there is room for {free:,} at {folder}")
    done, found = 0, {}
    with source.opened() as files:
        require_complete(files, parcel, loose=parcel.publication is not None or files.unfinished)
        for file in wanted:
            target = found[file.path] = folder / file.sha256
            if not _is_whole(target, file):
                _copy(files, file, target)
            moved(done := done + file.bytes)
    return found


def _copy(files: Files, file: File, target: Path) -> None:
    said, partial = sha256(), target.with_suffix(".partial")
    try:
        with partial.open("wb") as out:
            for chunk in files.stream(file.path):
                said.update(chunk)
                out.write(chunk)
    except OSError as error:
        raise StoreUnavailable(f"{files.url}: {file.path}: {error.strerror or error}") from error
    if said.hexdigest() != file.sha256:
        raise DumpRefused(f"{files.url}: {file.path} does not match its hash")
    partial.replace(target)


def _is_whole(target: Path, file: File) -> bool:
    """Whether a file was brought before."""
    if not target.is_file() or target.stat().st_size != file.bytes:
        return False
    said = sha256()
    with target.open("rb") as found:
        while chunk := found.read(_CHUNK):
            said.update(chunk)
    return said.hexdigest() == file.sha256
