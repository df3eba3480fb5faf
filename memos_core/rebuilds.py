"""Work on adapters that outlasts a process: what is to be made again without a deleted memory, and what is being made. Knows files.

A rebuild is a file, since the record of what it replaces is gone; it is written before the deletion is, taken away when the work is done,
and holds ids and no words of anybody's. What is under way is a checkpoint, which holds what was learned so far, with a file beside it
that says of which memories: it goes with any of them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass

from .errors import Conflict, Damaged, StoreUnavailable
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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What one distillation has learned so far, as a file: it may be written for as long as nobody has ended the distillation."""

    _files: Files
    _id: str

    def read(self) -> bytes | None:
        """What was written last; None where nothing was."""
        try:
            return bytes(self._files.read(self._name))
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        """Write it whole, or not at all. Raises Conflict, and leaves nothing, where the distillation was ended: by the deletion of one of
        its memories, or by another process that was done with it; StoreUnavailable."""
        if self._is_begun:
            self._put(data)
        if not self._is_begun:  # ended while it was written: whoever did that did not see it
            self._files.remove([self._name])
            raise Conflict(f"distillation {self._id} was ended meanwhile, or a memory of it deleted: convert it again")

    # --- below -----------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"{_UNDER_WAY}/{self._id}.safetensors"

    @property
    def _is_begun(self) -> bool:
        return self._files.has(f"{_UNDER_WAY}/{self._id}.json")

    def _put(self, data: bytes) -> None:
        path = self._files.local(self._name)
        if path is None:
            self._files.write(self._name, [data])
            return
        # a name of its own, for two processes may be at it, and one that begins with the id, so that its half goes with the rest
        new = path.with_name(f"{self._id}.{uuid.uuid4().hex}.new")
        try:
            new.write_bytes(data)
            new.replace(path)
        except FileNotFoundError:  # taken away by whoever ended it
            return
        except OSError as error:
            new.unlink(missing_ok=True)
            raise StoreUnavailable(f"{path}: {error.strerror or error}") from error


class UnderWay:
    """The distillations of one store that were begun and not ended. Safe for many threads and processes.

    Each has a mark, ID.json, that says of which memories it is; everything else of it is called ID.something, and is nothing without it.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def begin(self, id: str, sources: Sequence[str]) -> Checkpoint:
        """The checkpoint of a distillation of memories; the same for the same id, so that it is gone on with. The caller sees to it that
        none of them is being deleted meanwhile."""
        self._files.write(f"{_UNDER_WAY}/{id}.json", [json.dumps(list(sources)).encode()])
        return Checkpoint(self._files, id)

    def end(self, id: str) -> None:
        """Remove what is left of one: the mark first, after which nothing more is written."""
        self._files.remove([f"{_UNDER_WAY}/{id}.json"])
        self.sweep()

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
        self._files.remove(f"{_UNDER_WAY}/{id}.json" for id in gone)
        self.sweep()
        return gone

    def sweep(self) -> None:
        """Remove what belongs to no distillation that is under way: what a killed process left."""
        names = list(self._files.listed(_UNDER_WAY))
        marked = {name.partition(".")[0] for name in names if name.endswith(".json")}
        strays = [name for name in names if (id := name.partition(".")[0]) not in marked and not self._is_begun(id)]
        self._files.remove(f"{_UNDER_WAY}/{name}" for name in strays)

    def _is_begun(self, id: str) -> bool:
        """Asked once more: a listing may show a file and not the mark that was written before it."""
        return self._files.has(f"{_UNDER_WAY}/{id}.json")
