"""What is in a dump, read, checked, and made ready to land. Knows records and Arrow; writes only to the staging folder.

Memories are read once to know them all and, where one says what it was made from, once more when all are known. What is ready lies in
files of the form that the store's tables have, so that landing copies and no longer decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from . import admission, governance, keyed, lifecycle, rowfiles, tables
from .admission import Terms
from .embedding import Embedding, spoken
from .errors import DumpRefused
from .parcel import File
from .tables import Row, Vector
from .types import Access, Adapter, Kind, KVCache, Link, MemCube, State, Text

_BATCH = 256  # texts embedded at once

Here = Callable[[Sequence[str]], Mapping[str, Row]]
Before = Callable[[Sequence[str]], Mapping[tuple[str, int], MemCube]]
"""Versions before of memories that are here, by id and version."""


@dataclass(slots=True)
class Entry:
    """A memory of a dump: what it is called here, its version and the one that is here (0: none), and whether it lands."""

    id: str
    owner: str
    version: int
    access: Access
    lineage: tuple[Link, ...]
    base: int = 0
    lands: bool = True
    proven: bool = False  # the version that is here is one of its own
    past: tuple[int, ...] = ()  # versions before that come in with it
    shared: int = 0  # up to this version, what the dump has of it and what is here of it are the same memory
    earlier: tuple[int, ...] = ()  # versions of the dump that are older than what is here, and not here


class Intake:
    """One dump being read. `counts` says what became of its memories, by reason."""

    def __init__(
        self, folder: Path, url: str, terms: Terms, dimension: int, kept: int | None, here: Here, embedding: Embedding,
        now: datetime, kinds: frozenset[Kind], model: str | None,
        brought: Mapping[str, int], prepared: Callable[[MemCube], MemCube] = lambda cube: cube,
        before: Before = lambda ids: {}, numbers: Callable[[], Mapping[str, Collection[int]]] = dict, groups: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.entries: dict[str, Entry] = {}
        self.counts: Counter[str] = Counter()
        self.special: dict[
            str, MemCube
        ] = {}  # those in another form than text, as they will be here, by id in the dump
        self.foreign: list[MemCube] = []  # adapters of another model, as they are in the dump
        self.rows: list[Path] = []
        self.past: list[Path] = []
        self._folder = folder
        self._url = url
        self._terms = terms
        self._dimension = dimension  # here
        self._kept = kept  # dimension of vectors in the dump that are kept, None: they are made anew
        self._here = here
        self._found: dict[str, Row] = {}
        self._embedding = embedding
        self._now = now
        self._kinds = kinds
        self._model = model
        self._prepared = prepared  # a memory as the store's rules have it
        self._brought = brought  # versions that came from there before, by id
        self._before = before
        self._numbers = numbers  # of the versions before of all that is here
        self._groups = frozenset(groups)  # to which grants may come in
        self._admitted: dict[Access, Access] = {}
        self.strange_groups: set[str] = set()  # those whose grants were left out
        self._deferred: list[tuple[File, Path, list[int]]] = []
        self._later: set[str] = set()
        self.blobs: set[str] = set()  # that its memories name
        self.sensitive = False  # whether something of it says that it is
        self._links: dict[str, Row | None] = {}
        self._same: dict[Access, Access] = {}

    # --- memories --------------------------------------------------------------------------------------------------------

    def survey(self, file: File, path: Path, dimension: int) -> None:
        """Read a file of memories; those that were made from nothing are made ready at once."""
        ready: list[tuple[MemCube, str, Vector | None]] = []
        later: list[int] = []
        for number, cube, record, vector in self._read(file, path, dimension):
            if cube.id in self.entries:
                raise DumpRefused(f"{self._url}: {file.path}: memory {cube.id} is in it twice")
            owner = self._terms.owner or cube.access.owner
            access = self._same.setdefault(cube.access, cube.access)
            entry = Entry("", owner, cube.version, access, cube.lineage)
            self.entries[cube.id] = entry
            if (why := self._left_out(cube)) is not None:
                entry.lands = False
                self.counts[why] += 1
            if not lifecycle.is_passage(cube):
                entry.id = admission.id_here(cube, owner, self._terms.publisher)
            if not isinstance(cube.payload, Text):
                self.blobs.add(cube.payload.blob)
            if cube.lineage or not isinstance(cube.payload, Text):
                later.append(number)
                self._later.add(cube.id)
            elif entry.lands:
                ready.append((cube, record, vector))
        self._settle([self.entries[c.id] for c, _, _ in ready], [c.id for c, _, _ in ready])
        self._compare([c for c, _, _ in ready])
        self._make_ready(ready)
        if later:
            self._deferred.append((file, path, later))

    def join(self, dimension: int) -> None:
        """Read what was made from other memories, now that all are known. Raises DumpRefused for what claims to be made from what it
        is not, or to be read by whom its sources are not."""
        made = {id: e for id, e in self.entries.items() if e.lineage}
        _require_no_circle(made, self._url)
        for id, entry in made.items():
            self._require_honest(id, entry)
            if not entry.id:
                entry.id = self._passage(id, entry)
        self._learn({link.id for e in made.values() for link in e.lineage} - self.entries.keys())
        others = [(id, e) for id, e in self.entries.items() if e.lands and id in self._later]
        self._settle([e for _, e in others], [id for id, _ in others])
        settled = {id for id, _ in others}
        for file, path, numbers in self._deferred:
            wanted, ready = set(numbers), []
            for number, cube, record, vector in self._read(file, path, dimension):
                if number in wanted and cube.id in settled:
                    ready.append((cube, record, vector))
            self._compare([c for c, _, _ in ready])
            self._make_ready(ready)

    def _read(self, file: File, path: Path, dimension: int) -> Iterator[tuple[int, MemCube, str, Vector | None]]:
        where, number = f"{self._url}: {file.path}", 0
        with pa.memory_map(str(path)) as mapped:
            for batch in rowfiles.read(mapped, rowfiles.memories(dimension), file.rows, where):
                columns = (batch[n].to_pylist() for n in ("id", "version", "text", "record"))
                vectors = rowfiles.vectors(batch, where)
                for id, version, text, record, vector in zip(*columns, vectors, strict=True):
                    yield number, admission.cube_of(id, version, text, record, where), record, vector
                    number += 1

    def _left_out(self, cube: MemCube) -> str | None:
        if cube.kind not in self._kinds:
            return f"left_out_{cube.kind}"
        if self._model is not None and getattr(cube.payload, "model", self._model) != self._model:
            if isinstance(cube.payload, Adapter):
                self.foreign.append(cube)
            return "adapters_of_another_model" if isinstance(cube.payload, Adapter) else "tensors_of_another_model"
        return "expired" if lifecycle.has_expired(cube, self._now) else None

    def _settle(self, entries: Sequence[Entry], ids: Sequence[str]) -> None:
        """Decide which of these land, by what is here."""
        found = dict(self._here([e.id for e in entries]))
        for entry, id in zip(entries, ids, strict=True):
            row = found.get(entry.id)
            if (
                row is not None and row.cube.access.owner != entry.owner
            ):  # somebody else's: this one is called otherwise
                entry.id = self._given(id, entry)
                row = self._here([entry.id]).get(entry.id)
            if row is None:
                continue
            self._found[id] = row
            entry.base = row.cube.version
            entry.proven = self._brought.get(entry.id) == entry.base
            if entry.version <= entry.base:
                entry.lands = False
                self.counts["kept"] += 1
            elif row.cube.state is State.FROZEN:
                entry.lands = False
                self.counts["frozen"] += 1

    def _compare(self, cubes: Sequence[MemCube]) -> None:
        """Find out of memories that are here already how far they are the dump's own, by the content of a version that both have. What
        the dump has of them that is older than what is here, and not here, comes in at the end, see `judge`."""
        pairs = [(c, self.entries[c.id], self._found[c.id].cube) for c in cubes if c.id in self._found]
        old = [(cube, entry) for cube, entry, here in pairs if cube.version < here.version]
        before = self._before([e.id for _, e in old]) if old else {}
        since: dict[str, list[MemCube]] = {}
        for past in before.values():
            since.setdefault(past.id, []).append(past)
        for cube, entry, here in pairs:
            if _is_same(cube, here):
                entry.shared = min(cube.version, here.version)
                entry.proven = entry.proven or entry.lands  # shared or tagged since: the words are those that are here
            elif any(_is_same(cube, p) for p in since.get(entry.id, ()) if p.version >= cube.version):
                entry.shared = cube.version
        self._keep_earlier([cube for cube, entry in old if (entry.id, cube.version) not in before])

    def _compare_with_here(self, cube: MemCube, entry: Entry) -> None:
        """Whether a version before is what is here: then what the dump has is what became of it."""
        if _says_the_same(cube, self._found[cube.id].cube):
            entry.shared, entry.proven = cube.version, True
        elif entry.lands and not entry.proven:
            entry.lands = False
            self.counts["diverged"] += 1

    def _keep_earlier(self, cubes: Sequence[MemCube]) -> None:
        """Write down versions that are older than what is here, and not here."""
        kept = []
        for cube in cubes:
            entry, new = self.entries[cube.id], self._let_in(cube)
            if new is None or not isinstance(cube.payload, Text):
                continue
            entry.earlier = (*entry.earlier, cube.version)
            self.sensitive = self.sensitive or bool(cube.sensitivity)
            kept.append(admission.taken_in(new, entry.id, self._terms, self._name_here(cube)))
        if kept:
            self.past.append(self._kept_as(f"past-{len(self.past)}.arrow", tables.past(kept)))

    def _let_in(self, cube: MemCube) -> MemCube | None:
        """A memory without the grants to groups that are not known here; None if it was read by way of such grants alone."""
        if self._terms.publisher is not None or self._terms.owner not in (None, cube.access.owner):
            return cube  # it becomes somebody's alone
        access = self._admitted.get(cube.access)
        if access is None:
            access = self._admitted[cube.access] = admission.without_groups(cube.access, self._groups)
            self.strange_groups |= admission.groups_of(cube.access) - self._groups
        if access is cube.access or access == cube.access:
            return cube
        return replace(cube, access=access) if governance.readers_of(access) else None

    def _given(self, id: str, entry: Entry) -> str:
        return admission.given_id(id, entry.owner, self._terms.publisher)

    def _passage(self, id: str, entry: Entry) -> str:
        """What a passage of an item is called here: after the item, if it is called so in the dump."""
        item = next(link.id for link in entry.lineage if link.relation == keyed.PASSAGE)
        above = self.entries.get(item)
        number = next((n for n in range(1, 1_000) if keyed.passage_id(item, n) == id), None)
        if above is None or number is None or not above.id:
            return self._given(id, entry)
        return keyed.passage_id(above.id, number)

    def _require_honest(self, id: str, entry: Entry) -> None:
        links = [(link, self.entries[link.id]) for link in entry.lineage if link.id in self.entries]
        for link, source in links:
            if link.version > source.version:
                raise DumpRefused(
                    f"{self._url}: memory {id} claims to be made from version {link.version} of {link.id}, which is at {source.version}"
                )
        sources = [s.access for link, s in links if link.relation != "supersedes"]
        if not sources:
            return
        most = governance.derived_access(entry.access.owner, sources)
        if not all(governance.may_read(entry.access.owner, s) for s in sources) or not governance.within(
            entry.access, most
        ):
            raise DumpRefused(f"{self._url}: memory {id} claims readers who may not read what it was made from")

    def _learn(self, ids: set[str]) -> None:
        found = self._here(sorted(ids))
        self._links |= {id: found.get(id) for id in ids}

    def _name_here(self, cube: MemCube) -> Callable[[Link], str | None]:
        """What is linked to, here: as it is called here if it came along; if it did not, as it is if it is here for the owner."""
        owner = self.entries[cube.id].owner

        def name(link: Link) -> str | None:
            if (known := self.entries.get(link.id)) is not None and (known.lands or known.base):
                return known.id
            if link.id not in self._links:
                self._learn({link.id})
            row = self._links[link.id]
            readable = row is not None and governance.may_read(owner, row.cube.access)
            if not readable or row is None or not governance.within(cube.access, row.cube.access):
                self.counts["links_cut"] += 1
                return None
            return link.id

        return name

    def _make_ready(self, some: Sequence[tuple[MemCube, str, Vector | None]]) -> None:
        """Write memories down as rows of the store."""
        cubes: list[MemCube] = []
        records: list[str | None] = []
        vectors: list[Vector | None] = []
        for cube, record, vector in some:
            entry = self.entries[cube.id]
            if not entry.lands:
                continue
            admitted = self._let_in(cube)
            if admitted is None:
                entry.lands = False
                self.counts["read_by_unknown_groups"] += 1
                continue
            self.counts["grants_to_unknown_groups"] += admitted is not cube
            new = self._prepared(admission.taken_in(admitted, entry.id, self._terms, self._name_here(admitted)))
            if entry.base and (self._terms.publisher or self._terms.owner not in (None, cube.access.owner)):
                new = admission.with_access_of(new, self._found[cube.id].cube)
            if isinstance(new.payload, KVCache) and len(new.lineage) < len(cube.lineage):
                entry.lands = False  # nobody could tell when they are outdated
                self.counts["tensors_without_sources"] += 1
                continue
            self.sensitive = self.sensitive or bool(new.sensitivity)
            if not isinstance(new.payload, Text):
                self.special[cube.id] = new
            cubes.append(new)
            records.append(record if new is cube else None)
            vectors.append(vector if self._kept is not None and new.text else None)
        if not cubes:
            return
        self._embed(cubes, vectors)
        table = tables.encoded(cubes, vectors, 0, self._dimension, records)
        self.rows.append(self._kept_as(f"rows-{len(self.rows)}.arrow", table))

    def _embed(self, cubes: Sequence[MemCube], vectors: list[Vector | None]) -> None:
        """Fill in the vectors that are missing; those of a load that was killed are found again."""
        missing = [i for i, c in enumerate(cubes) if vectors[i] is None and c.text and lifecycle.is_searched(c)]
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            texts = [spoken(cubes[i].origin.speaker, cubes[i].text) for i in some]
            cached = self._folder / f"vectors-{sha256(repr((self._embedding.name, texts)).encode()).hexdigest()}.npy"
            if cached.exists():
                made = list(np.load(cached, allow_pickle=False))
            else:
                made = self._embedding.many(texts)
                partial = cached.with_suffix(".partial.npy")
                np.save(partial, np.stack(made), allow_pickle=False)
                partial.replace(cached)
            for i, vector in zip(some, made, strict=True):
                vectors[i] = vector
        self.counts["embedded"] += len(missing)

    # --- versions before ----------------------------------------------------------------------------------------------------

    def history(self, file: File, path: Path, seen: set[tuple[str, int]]) -> None:
        """Read a file of versions before. `seen`: ids and versions of the files read so far."""
        where, kept, older = f"{self._url}: {file.path}", list[MemCube](), list[MemCube]()
        with pa.memory_map(str(path)) as mapped:
            for batch in rowfiles.read(mapped, rowfiles.VERSIONS, file.rows, where):
                columns = (batch[n].to_pylist() for n in ("id", "version", "text", "record"))
                for id, version, text, record in zip(*columns, strict=True):
                    cube = admission.cube_of(id, version, text, record, where)
                    entry = self.entries.get(id)
                    if entry is None or version >= entry.version or cube.access.owner != entry.access.owner:
                        raise DumpRefused(
                            f"{where}: version {version} of memory {id} is not one before what is in the dump"
                        )
                    if (id, version) in seen:
                        raise DumpRefused(f"{where}: version {version} of memory {id} is in it twice")
                    seen.add((id, version))
                    if version < entry.base:
                        older.append(cube)
                    elif version == entry.base:
                        self._compare_with_here(cube, entry)
                    elif entry.lands and (new := self._let_in(cube)) is not None:
                        entry.proven = entry.proven or (entry.base > 0 and _is_same(cube, self._found[id].cube))
                        self.sensitive = self.sensitive or bool(cube.sensitivity)
                        kept.append(admission.taken_in(new, entry.id, self._terms, self._name_here(cube)))
                        entry.past = (*entry.past, version)
        if kept:
            self.past.append(self._kept_as(f"past-{len(self.past)}.arrow", tables.past(kept)))
        self._look_back(older)

    def _look_back(self, older: Sequence[MemCube]) -> None:
        """Keep of versions that are older than what is here those that are not here, and compare the others where that is needed."""
        if not older:
            return
        numbers = self._numbers()
        there = {c.id: numbers.get(self.entries[c.id].id, ()) for c in older}
        missing = [c for c in older if c.version not in there[c.id]]
        unsure = {c.id for c in missing if self.entries[c.id].shared < c.version}
        both = [c for c in older if c.id in unsure and c.version in there[c.id]]
        before = self._before(sorted({self.entries[c.id].id for c in both})) if both else {}
        for cube in both:
            entry = self.entries[cube.id]
            if cube.version > entry.shared and _says_the_same(cube, before[entry.id, cube.version]):
                entry.shared = cube.version
        self._keep_earlier(missing)

    def judge(self) -> None:
        """Keep what is here where nothing proves that the dump's is what became of it: its version is none of the dump's. Of what is older
        than what is here, take in what the dump and the store have one memory's later version in common of."""
        for entry in self.entries.values():
            if entry.lands and entry.base and not entry.proven:
                entry.lands = False
                self.counts["diverged"] += 1
            if entry.earlier:
                shared = entry.base if entry.lands else entry.shared
                self.counts["earlier_versions_unproven"] += sum(v > shared for v in entry.earlier)
                entry.earlier = tuple(v for v in entry.earlier if v <= shared)

    def replaced(self) -> list[MemCube]:
        """What is here and gets a newer version."""
        return [self._found[id].cube for id, e in self.entries.items() if e.lands and e.base]

    def stale(self, here: Mapping[str, Row]) -> bool:
        """Whether what is here is no longer what was decided by."""
        return any(
            (row.cube.version if (row := here.get(e.id)) is not None else 0) != e.base
            for e in self.entries.values()
            if e.lands or e.earlier
        )

    def _kept_as(self, name: str, table: pa.Table) -> Path:
        path = self._folder / name
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
        return path


def _is_same(a: MemCube, b: MemCube) -> bool:
    """Whether two versions, which need not have one number, are of one memory and say the same."""
    return (a.created_at, a.origin.stored_at) == (b.created_at, b.origin.stored_at) and _says_the_same(a, b)


def _says_the_same(a: MemCube, b: MemCube) -> bool:
    return (a.payload, a.attributes, a.tags, a.semantic_type) == (b.payload, b.attributes, b.tags, b.semantic_type)


def _require_no_circle(made: Mapping[str, Entry], url: str) -> None:
    done: set[str] = set()
    for start in made:
        path, stack = set[str](), [(start, False)]
        while stack:
            id, left = stack.pop()
            if left:
                path.discard(id)
                done.add(id)
                continue
            if id in path:
                raise DumpRefused(f"{url}: memory {id} claims to be made from itself")
            if id in done or id not in made:
                continue
            path.add(id)
            stack.append((id, True))
            stack += [(link.id, False) for link in made[id].lineage]
