"""Many memories from elsewhere, in one commit. Knows the vault's tables; decides nothing.

The commit to `cubes` is the one at which they count. Before it go the blobs and the versions before, which nobody sees without their
memories; after it the events, and what follows from a change. A journal says what is under way. Whoever next wants to write, in this
process or another, finds it there and first ends what was cut off: forward if the commit is there, else back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pyarrow as pa

from . import filters
from .blobs import Blobs
from .errors import Damaged
from .rebuilds import Rebuild, Rebuilds
from .tables import PAST, cubes_schema
from .types import Event
from .vault import Vault
from .writing import Writer

_SOME = 1_000
_JOURNAL = "landing/journal.json"


@dataclass(frozen=True, slots=True)
class Written:
    """A memory that lands: the version that is here before (0: none), its own, the versions before that come with it, who may read it,
    and in words what did not come along. If its own is the one that is here, only versions before it come."""

    id: str
    base: int
    version: int
    past: tuple[int, ...]
    readers: tuple[str, ...]
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Cargo:
    """What lands: who brings it and when, what is written, and adapters that are wanted again."""

    who: str
    at: datetime
    verb: str
    written: Sequence[Written]
    rebuilds: Sequence[Rebuild] = ()


class Landing:
    """The landings of one store. Safe for many threads and processes: all of it happens while nobody else writes."""

    def __init__(self, vault: Vault, blobs: Blobs, writer: Writer, rebuilds: Rebuilds) -> None:
        self._vault = vault
        self._blobs = blobs
        self._writer = writer
        self._rebuilds = rebuilds
        self._files = vault.db.site.files
        self._landing = False
        vault.before_writing = self.recover

    def settle(self) -> None:
        """End what was cut off before this store was opened."""
        if self._files.has(_JOURNAL):  # of a process that lives, perhaps: it is waited for by writers only
            self._vault.db.when_free(self.recover)

    def recover(self) -> None:
        """End what was cut off, if anything was. The caller is the only writer."""
        if self._landing or not self._files.has(_JOURNAL):
            return
        self._landing = True
        try:
            cargo = self._read()
            if self._is_made(cargo.written[0]):
                self._finish(cargo)
            else:
                self._undo(cargo)
        finally:
            self._landing = False

    def _is_made(self, first: Written) -> bool:
        """Whether the commit is there at which what lands counts; `first` is the first of it."""
        there = self._vault.by_ids([first.id])
        if first.base == first.version:  # then nothing but versions before lands, which is one commit
            return any(past.version == first.past[0] for past in self._vault.past(first.id)) and bool(there)
        return bool(there) and there[0].cube.version == first.version

    def commit(
        self,
        cargo: Cargo,
        rows: Callable[[int], Iterator[pa.RecordBatch]],
        past: Callable[[], Iterator[pa.RecordBatch]],
        blobs: Mapping[str, Path],
    ) -> None:
        """Write it all. `rows` makes the batches of `cubes` for a number of write; `blobs` are files that become blobs of their names.
        The caller is the only writer, and has seen that each memory is at its base."""
        if not cargo.written:
            return
        self._landing = True
        try:
            self._write(cargo)
            for name, file in blobs.items():
                _keep(self._blobs, name, file)
            if any(w.past or w.base for w in cargo.written):
                with self._vault.db.guarded("history"):
                    self._vault.db.table("history").add(pa.RecordBatchReader.from_batches(PAST, past()))
                self._vault.db.committed("history")
            if any(w.base < w.version for w in cargo.written):
                self._write_cubes(rows, cargo.written)
            if (inside := self._vault.db.transactions.inside) is not None:
                inside.touched.update(w.id for w in cargo.written)
            self._finish(cargo)
        finally:
            self._landing = False

    def _write_cubes(self, rows: Callable[[int], Iterator[pa.RecordBatch]], written: Sequence[Written]) -> None:
        name = self._vault.manifest.cubes
        with self._vault.db.guarded("cubes"):
            table = self._vault.db.cubes
            batches = rows(table.version + 1)
            reader = pa.RecordBatchReader.from_batches(cubes_schema(self._vault.manifest.dimension), batches)
            if any(0 < w.base < w.version for w in written):
                merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(reader, on_bad_vectors="null")
            else:
                table.add(reader)
        self._vault.db.committed(name, sum(w.base < w.version for w in written))

    def _finish(self, cargo: Cargo) -> None:
        """What comes after the commit; done twice it is done once, but for events, which then tell of it twice."""
        changed = [w for w in cargo.written if 0 < w.base < w.version]
        if changed:
            new = {r.cube.id: r.cube for some in _batches([w.id for w in changed]) for r in self._vault.by_ids(some)}
            old = [next(c for c in self._vault.past(w.id) if c.version == w.base) for w in changed]
            self._writer.carry_on(
                old, [new[w.id] for w in changed], cargo.who, spare={w.id for w in cargo.written if w.base < w.version}
            )
        told = [
            (
                Event(
                    str(uuid.uuid4()),
                    cargo.at,
                    cargo.who,
                    cargo.verb,
                    w.id,
                    version,
                    detail=w.lacks if version == w.version else "",
                ),
                w.readers,
            )
            for w in cargo.written
            for version in (*w.past, *([w.version] if w.base < w.version else ()))
        ]
        for start in range(0, len(told), 20 * _SOME):
            events, readers = zip(*told[start : start + 20 * _SOME], strict=True)
            self._vault.ledger.record(events, readers)
        for rebuild in cargo.rebuilds:
            self._rebuilds.put(rebuild)
        self._files.remove([_JOURNAL])

    def _undo(self, cargo: Cargo) -> None:
        """Take back the versions before, which nobody has seen."""
        bases = {w.id: w.base for w in cargo.written if w.base < w.version}
        earlier: dict[tuple[int, ...], list[str]] = {}
        for w in cargo.written:
            if below := tuple(v for v in w.past if v < w.base):
                earlier.setdefault(below, []).append(w.id)
        table = self._vault.db.table("history")
        with self._vault.db.guarded("history"):
            for base in sorted(set(bases.values())):
                for some in _batches([id for id, b in bases.items() if b == base]):
                    table.delete(filters.all_of(filters.one_of("id", some), f"version >= {base}"))
            for versions, ids in sorted(earlier.items()):
                for some in _batches(ids):
                    listed = f"version IN ({', '.join(map(str, versions))})"
                    table.delete(filters.all_of(filters.one_of("id", some), listed))
        self._vault.db.committed("history")
        self._files.remove([_JOURNAL])

    # --- the journal -----------------------------------------------------------------------------------------------------

    def _write(self, cargo: Cargo) -> None:
        readers = list(dict.fromkeys(w.readers for w in cargo.written))
        number = {r: i for i, r in enumerate(readers)}
        said = {
            "who": cargo.who, "at": cargo.at.isoformat(), "verb": cargo.verb, "readers": readers,
            "written": [(w.id, w.base, w.version, w.past, number[w.readers], w.lacks) for w in cargo.written],
            "rebuilds": [asdict(r) for r in cargo.rebuilds],
        }  # fmt: skip
        self._files.write(_JOURNAL, [json.dumps(said).encode()])

    def _read(self) -> Cargo:
        try:
            said = json.loads(self._files.read(_JOURNAL))
            readers = [tuple(r) for r in said["readers"]]
            return Cargo(
                said["who"], datetime.fromisoformat(said["at"]), said["verb"],
                [Written(i, b, v, tuple(p), readers[r], lacks) for i, b, v, p, r, lacks in said["written"]],
                [Rebuild(r["id"], r["owner"], r["model"], tuple(r["sources"])) for r in said["rebuilds"]],
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Damaged(f"{self._files.where(_JOURNAL)} is not what was written: {error}") from error


def _keep(blobs: Blobs, name: str, file: Path) -> None:
    with file.open("rb") as found, mmap(found.fileno(), 0, access=ACCESS_READ) as content:
        blobs.write([content], name)  # type: ignore[list-item]  # read as bytes are, and never whole in memory


def _batches(ids: Iterable[str]) -> Iterator[list[str]]:
    several = list(ids)
    for start in range(0, len(several), _SOME):
        yield several[start : start + _SOME]
