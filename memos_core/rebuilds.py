"""Work on adapters that outlasts a process: what is to be made again without a deleted memory, and what is being made. Knows files.

A rebuild is a file, since the record of what it replaces is gone; it is written before the deletion is, taken away when the work is done,
and holds ids and no words of anybody's. What is under way is a checkpoint, which holds what was learned so far, with a file beside it
that says of which memories: it goes with any of them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import Damaged
from .files import Files

_WANTED, _UNDER_WAY = "rebuilds", "distilling"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """That an adapter of these memories is wanted again: by whom, for which model (its fingerprint), and under which id it was."""

    id: str
    owner: str
    model: str
    sources: tuple[str, ...]


class Rebuilds:
    """The rebuilds of one store. Safe for many threads and processes."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def put(self, rebuild: Rebuild) -> None:
        """Want one; one that is wanted already under the same id is replaced."""
        self._files.write(f"{_WANTED}/{rebuild.id}.json", [json.dumps(asdict(rebuild)).encode()])

    def wanted(self) -> Iterator[Rebuild]:
        """Those that are wanted, the longest waiting first. Raises Damaged for a file that is none."""
        listed = self._files.listed(_WANTED)
        for name in sorted((n for n in listed if n.endswith(".json")), key=lambda n: (listed[n].written, n)):
            try:
                said = json.loads(self._files.read(f"{_WANTED}/{name}"))
                yield Rebuild(said["id"], said["owner"], said["model"], tuple(said["sources"]))
            except FileNotFoundError:  # done by another process meanwhile
                continue
            except (ValueError, KeyError, TypeError) as error:
                raise Damaged(f"{self._files.where(f'{_WANTED}/{name}')} is not what was written: {error}") from error

    def done(self, rebuild: Rebuild) -> None:
        """It is made, or will never be."""
        self._files.remove([f"{_WANTED}/{rebuild.id}.json"])


@dataclass(slots=True)
class Checkpoint:
    """A file for a checkpoint, at `path`; of a store without a folder it is a copy, which `keep` brings back."""

    path: Path
    _files: Files
    _name: str
    _kept: int | None = field(default=None)

    def keep(self) -> None:
        """Bring what was written to `path` since the last time into the store."""
        if self._files.local(self._name) is None and self.path.exists():
            written = self.path.stat().st_mtime_ns
            if written != self._kept:
                self._files.write(self._name, [self.path.read_bytes()])
                self._kept = written


class UnderWay:
    """The distillations of one store that were begun and not ended. Safe for many threads and processes."""

    def __init__(self, files: Files) -> None:
        self._files = files

    @contextmanager
    def begin(self, id: str, sources: Sequence[str]) -> Iterator[Checkpoint]:
        """The checkpoint of a distillation of memories; the same for the same id, so that it is gone on with."""
        name = f"{_UNDER_WAY}/{id}.safetensors"
        self._files.write(f"{_UNDER_WAY}/{id}.json", [json.dumps(list(sources)).encode()])
        if (path := self._files.local(name)) is not None:
            yield Checkpoint(path, self._files, name)
            return
        with tempfile.TemporaryDirectory(prefix="memos-") as folder:
            copy = Checkpoint(Path(folder) / f"{id}.safetensors", self._files, name)
            if self._files.has(name):
                copy.path.write_bytes(self._files.read(name))
            yield copy

    def end(self, id: str) -> None:
        """Remove what is left of one."""
        self._files.remove([f"{_UNDER_WAY}/{id}.{end}" for end in ("safetensors", "new", "json")])

    def abandon(self, sources: Collection[str]) -> list[str]:
        """Remove what was learned so far of any of these memories; the ids of the distillations."""
        gone = []
        for name in self._files.listed(_UNDER_WAY):
            id, _, kind = name.rpartition(".")
            if kind != "json":
                continue
            try:
                if not set(json.loads(self._files.read(f"{_UNDER_WAY}/{name}"))).isdisjoint(sources):
                    gone.append(id)
            except FileNotFoundError:  # ended meanwhile
                continue
            except ValueError:  # damaged: of what, nobody knows
                gone.append(id)
        for id in gone:
            self.end(id)
        return gone
