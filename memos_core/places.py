"""Where dumps lie: folders and ZIP archives on any file system that fsspec knows. Knows files; not what is in them.

What is written to a local folder appears whole under its name or not at all; object stores promise the same of an object. What is read
may come from anybody: links, devices, members that lead out, and lists that lie are refused before a byte of them is read.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DumpRefused, InvalidArgument, StoreUnavailable
from .parcel import LARGEST_MANIFEST, LEDGER, MANIFEST, MOST_FILES, checked_path

_CHUNK = 1 << 20
_PARTIAL = ".partial"
_BROKEN = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
    RuntimeError,
)  # what zipfile raises of bad bytes


class Place:
    """A folder, or (if it ends in ".zip") an archive, at a path or URL. Raises InvalidArgument for what is neither."""

    def __init__(self, target: str | os.PathLike[str]) -> None:
        import fsspec  # type: ignore[import-untyped, unused-ignore]  # it has no stubs
        from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped, unused-ignore]

        if not isinstance(target, str | os.PathLike) or not os.fspath(target) or "\0" in os.fspath(target):
            raise InvalidArgument(f"target: a path or URL is needed, not {target!r}")
        self.url = os.fspath(target)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise InvalidArgument(f"{self.url}: {error}") from None
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.is_archive = self.root.lower().endswith(".zip")

    def at(self, path: str) -> str:
        """A path below it, as the file system names it."""
        return f"{self.root.rstrip('/')}/{path}"

    def below(self, name: str) -> Place:
        """The folder of a name in it."""
        return Place(f"{self.url.rstrip('/')}/{name}")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise what the file system raises as StoreUnavailable, naming the place."""
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"{self.url}: {error.strerror or error}") from error

    # --- writing -------------------------------------------------------------------------------------------------------

    def put(self, path: str, parts: Iterable[Any]) -> None:
        """Write a file below it, whole or not at all."""
        self._write(self.at(path), lambda file: [file.write(part) for part in parts])

    def size(self, path: str) -> int | None:
        """Bytes of a file below it; None if it is not there."""
        with self.guarded():
            return int(self.fs.size(self.at(path))) if self.fs.isfile(self.at(path)) else None

    def names(self) -> list[str]:
        """The files below it, as they are named there."""
        with self.guarded():
            self.fs.invalidate_cache()
            found = self.fs.find(self.root) if self.fs.isdir(self.root) else []
        return [name[len(self.root.rstrip("/")) + 1 :] for name in found]

    def folders(self) -> list[str]:
        """The names of the folders in it."""
        with self.guarded():
            self.fs.invalidate_cache()
            found = self.fs.ls(self.root, detail=True) if self.fs.isdir(self.root) else []
        return sorted(f["name"].rstrip("/").rpartition("/")[2] for f in found if f["type"] == "directory")

    def drop(self, paths: Iterable[str]) -> None:
        """Remove files below it; one that is not there is no error."""
        with self.guarded():
            dropped = list(paths)
            for path in dropped:
                if self.fs.isfile(self.at(path)):
                    self.fs.rm_file(self.at(path))
            for folder in {p.rpartition("/")[0] for p in dropped} - {""} if self.is_local else ():
                with suppress(OSError):  # not empty
                    self.fs.rmdir(self.at(folder))

    def pack(self, folder: Path, paths: Iterable[str]) -> None:
        """Write an archive of files of a local folder, whole or not at all. The same files make the same bytes."""

        def archive(file: Any) -> None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
                for path in paths:
                    info = zipfile.ZipInfo(path)
                    info.external_attr = (stat.S_IFREG | 0o644) << 16
                    with packed.open(info, "w", force_zip64=True) as member, (folder / path).open("rb") as source:
                        while chunk := source.read(_CHUNK):
                            member.write(chunk)

        self._write(self.root, archive)

    def _write(self, name: str, write: Callable[[Any], object]) -> None:
        with self.guarded():
            self.fs.makedirs(name.rpartition("/")[0], exist_ok=True)
            if not self.is_local:
                with self.fs.open(name, "wb") as file:
                    write(file)
                return
            partial = name + _PARTIAL
            try:
                with open(partial, "wb") as file:
                    write(file)
                os.replace(partial, name)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise

    # --- reading -------------------------------------------------------------------------------------------------------

    def manifest(self) -> bytes:
        """The manifest's bytes. Raises DumpRefused where there is none, or one of a size that is a lie."""
        if self.is_archive:
            with self.opened() as files:
                return files.whole(MANIFEST)
        with self.guarded():
            if (size := self.size(MANIFEST)) is None:
                raise DumpRefused(f"{self.url} holds no {MANIFEST}: it is no dump, or one that was not finished")
            if size > LARGEST_MANIFEST:
                raise DumpRefused(f"{self.url}: a manifest of {size:,} bytes is more than {LARGEST_MANIFEST:,}")
            return b"".join(_limited(self._stream(MANIFEST), size, self.url))

    @contextmanager
    def opened(self) -> Iterator[Files]:
        """Its files, to be read. Raises DumpRefused for what no dump holds."""
        with self.guarded():
            if not self.is_archive:
                sizes = self._local_sizes() if self.is_local else self._remote_sizes()
                yield Files(self.url, sizes, self._stream, unfinished=self.fs.isdir(self.at(LEDGER)))
                return
            if not self.fs.isfile(self.root):
                raise DumpRefused(f"{self.url}: there is no ZIP archive")
            with self.fs.open(self.root, "rb") as file:
                yield _members(file, self.url)

    def _local_sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        folders = [""]
        while folders:
            above = folders.pop()
            with os.scandir(self.at(above) if above else self.root) as entries:
                for entry in entries:
                    path = f"{above}{entry.name}"
                    if path == LEDGER:
                        continue
                    if entry.is_symlink():
                        raise DumpRefused(f"{self.url}: {path!r} is a link")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/")
                    elif not entry.is_file(follow_symlinks=False):
                        raise DumpRefused(f"{self.url}: {path!r} is a device or a pipe")
                    elif not path.endswith(_PARTIAL):
                        sizes[checked_path(path)] = entry.stat(follow_symlinks=False).st_size
                    if len(sizes) + len(folders) > 2 * MOST_FILES:
                        raise DumpRefused(f"{self.url}: it holds more than {2 * MOST_FILES:,} files")
        return sizes

    def _remote_sizes(self) -> dict[str, int]:
        self.fs.invalidate_cache()
        found = self.fs.find(self.root, detail=True)
        start = len(self.root.rstrip("/")) + 1
        names = {name[start:]: int(info["size"]) for name, info in found.items()}
        return {checked_path(n): size for n, size in names.items() if not n.startswith(f"{LEDGER}/")}

    def _stream(self, path: str) -> Iterator[bytes]:
        checked_path(path)
        if self.is_local:
            handle = os.open(self.at(path), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            file: Any = os.fdopen(handle, "rb", buffering=0)
        else:
            file = self.fs.open(self.at(path), "rb")
        with file:
            while chunk := file.read(_CHUNK):
                yield chunk


class Files:
    """The files of a dump that is being read: `sizes` by path. `unfinished`: whoever wrote it was stopped while he tidied up."""

    def __init__(
        self, url: str, sizes: Mapping[str, int], stream: Callable[[str], Iterator[bytes]], unfinished: bool = False
    ) -> None:
        self.url = url
        self.sizes = sizes
        self.unfinished = unfinished
        self._stream = stream

    def stream(self, path: str) -> Iterator[bytes]:
        """The bytes of a file in pieces. Raises DumpRefused if there are more or fewer than was said."""
        try:
            yield from _limited(self._stream(path), self.sizes[path], f"{self.url}: {path}")
        except _BROKEN as error:
            if isinstance(error, DumpRefused):
                raise
            raise DumpRefused(f"{self.url}: {path} cannot be read: {error}") from None

    def whole(self, path: str) -> bytes:
        """The bytes of a small file."""
        if path not in self.sizes:
            raise DumpRefused(f"{self.url} holds no {path}: it is no dump, or one that was not finished")
        if self.sizes[path] > LARGEST_MANIFEST:
            raise DumpRefused(f"{self.url}: {path} of {self.sizes[path]:,} bytes is more than {LARGEST_MANIFEST:,}")
        return b"".join(self.stream(path))


def _members(file: Any, url: str) -> Files:
    """The members of an archive, each looked at before any is read."""
    try:
        size = _require_short_list(file, url)
        archive = zipfile.ZipFile(file)
        infos = archive.infolist()
    except _BROKEN as error:
        if isinstance(error, DumpRefused):
            raise
        raise DumpRefused(f"{url} is no ZIP archive that can be read: {error}") from None
    sizes: dict[str, int] = {}
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if stat.S_ISLNK(kind):
            raise DumpRefused(f"{url}: {info.filename!r:.200} is a link")
        if kind not in (0, stat.S_IFREG):
            raise DumpRefused(f"{url}: {info.filename!r:.200} is a folder, a device or a pipe")
        if info.flag_bits & 0x1:
            raise DumpRefused(f"{url}: {info.filename!r:.200} is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise DumpRefused(
                f"{url}: {info.filename!r:.200} is compressed, so its size is not known: members are stored"
            )
        if checked_path(info.orig_filename) in sizes or info.filename != info.orig_filename:
            raise DumpRefused(f"{url}: {info.filename!r:.200} is in it twice")
        sizes[info.filename] = info.file_size
    if sum(sizes.values()) > size:
        raise DumpRefused(f"{url}: its members are larger than it is")

    def stream(path: str) -> Iterator[bytes]:
        try:
            with archive.open(path) as member:
                while chunk := member.read(_CHUNK):
                    yield chunk
        except OSError as error:
            if error.errno != errno.EINVAL:  # which is a place before the archive's beginning
                raise
            raise DumpRefused(f"{url}: {path} is not where its list of members says") from None

    return Files(url, sizes, stream)


def _require_short_list(file: Any, url: str) -> int:
    """Raise DumpRefused for an archive with more members than a dump has, before the list of them is read; its size."""
    size = int(file.seek(0, os.SEEK_END))
    file.seek(max(0, size - (1 << 16) - 22 - 20))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0:
        raise DumpRefused(f"{url} is no ZIP archive")
    entries, length = struct.unpack_from("<HI", tail, end + 10)
    if entries == 0xFFFF or length == 0xFFFFFFFF:
        locator = tail.rfind(b"PK\x06\x07", 0, end)
        if locator < 0:
            raise DumpRefused(f"{url}: its list of members is not there")
        file.seek(struct.unpack_from("<Q", tail, locator + 8)[0])
        entries, length = struct.unpack_from("<Q", head := file.read(56), 32)[0], struct.unpack_from("<Q", head, 40)[0]
    if entries > MOST_FILES or length > 512 * MOST_FILES:
        raise DumpRefused(f"{url}: {entries:,} members are more than {MOST_FILES:,}")
    file.seek(0)
    return size


def _limited(chunks: Iterable[bytes], size: int, where: str) -> Iterator[bytes]:
    left = size
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise DumpRefused(f"{where} does not have the {size:,} bytes that are said")
