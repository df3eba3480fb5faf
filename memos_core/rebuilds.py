"""Work on adapters that outlasts a process: what is to be made again without a deleted memory, and what is being made. Knows files.

A rebuild is a file, since the record of what it replaces is gone; it is written before the deletion is, taken away when the work is done,
and holds ids and no words of anybody's. What is under way is a checkpoint, which holds what was learned so far, with a file beside it
that says of which memories: it goes with any of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import Damaged


@dataclass(frozen=True, slots=True)
class Rebuild:
    """That an adapter of these memories is wanted again: by whom, for which model (its fingerprint), and under which id it was."""

    id: str
    owner: str
    model: str
    sources: tuple[str, ...]


class Rebuilds:
    """The rebuilds of one store, in a folder of it that is made with the first one. Safe for many threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, rebuild: Rebuild) -> None:
        """Want one; one that is wanted already under the same id is replaced."""
        self._folder.mkdir(exist_ok=True)
        new = self._folder / f"{rebuild.id}.new"
        new.write_text(json.dumps(asdict(rebuild)), encoding="utf-8")
        os.replace(new, self._folder / f"{rebuild.id}.json")

    def wanted(self) -> Iterator[Rebuild]:
        """Those that are wanted, the longest waiting first. Raises Damaged for a file that is none."""
        files = list(self._folder.glob("*.json")) if self._folder.is_dir() else []
        for file in sorted(files, key=lambda f: (f.stat().st_mtime_ns, f.name)):
            try:
                said = json.loads(file.read_text(encoding="utf-8"))
                yield Rebuild(said["id"], said["owner"], said["model"], tuple(said["sources"]))
            except FileNotFoundError:  # done by another process meanwhile
                continue
            except (ValueError, KeyError, TypeError) as error:
                raise Damaged(f"{file} is not what was written: {error}") from error

    def done(self, rebuild: Rebuild) -> None:
        """It is made, or will never be."""
        (self._folder / f"{rebuild.id}.json").unlink(missing_ok=True)


class UnderWay:
    """The distillations of one store that were begun and not ended, in a folder of it. Safe for many threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, id: str, sources: Sequence[str]) -> Path:
        """The file for the checkpoint of a distillation of memories; the same for the same id, so that it is gone on with."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / f"{id}.json").write_text(json.dumps(list(sources)), encoding="utf-8")
        return self._folder / f"{id}.safetensors"

    def end(self, id: str) -> None:
        """Remove what is left of one."""
        for end in ("safetensors", "new", "json"):
            (self._folder / f"{id}.{end}").unlink(missing_ok=True)

    def abandon(self, sources: Collection[str]) -> list[str]:
        """Remove what was learned so far of any of these memories; the ids of the distillations."""
        gone = []
        for file in self._folder.glob("*.json") if self._folder.is_dir() else ():
            try:
                if not set(json.loads(file.read_text(encoding="utf-8"))).isdisjoint(sources):
                    gone.append(file.stem)
            except FileNotFoundError:  # ended meanwhile
                continue
            except ValueError:  # half written: of what, nobody knows
                gone.append(file.stem)
        for id in gone:
            self.end(id)
        return gone
