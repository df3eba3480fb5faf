"""MemVault: memories in and out of the store's tables.

Five tables. `cubes` holds the current version of every memory, with its vector and the columns that filters use;
`history` the versions before; `events` who did what; `usage` what was recalled; `meta` one row, the manifest, which names the current cubes table.

What is promised, and how: adding is *one* commit to `cubes` (the point at which it counts). A change first copies the old
version to `history`, then replaces it in `cubes` if it is still that version: a crash in between leaves a copy that
readers do not see, because they take from history only what is older than the current version. Events come last, except
that of a deletion, which comes first: opening the store adds those that a crash took and finishes a deletion (`upkeep`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lancedb.query import ColumnOrdering, MatchQuery

from . import filters, lifecycle
from .audit import AuditKey
from .codec import Outline
from .database import Database
from .errors import Conflict
from .governance import readers_of
from .grants import JOINED
from .ledger import Ledger, begin
from .manifest import Manifest
from .redaction import note_tags
from .retention import RULE, retained
from .rules import Rules
from .sites import Site
from .tables import RANKED, USAGE, Candidate, Row, Vector, candidates, decoded, encoded, kept_vectors, outlines, past
from .types import Event, MemCube, Policy, Usage

GRANT = "grant:"  # under this, a rule for each grant of several conditions that is in use
ROLLED_BACK = "rolled back"
"""Outcome of what a transaction did that was not kept."""

ALL = 2**31 - 1  # a limit must always be given: without one a vector search returns ten rows

Vectors = Sequence[Vector | None]
_READ = ["id", "version", "seq", "text", "record", "checksum"]
_READ_VECTOR = [*_READ, "vector", "vector_checksum"]


@dataclass(frozen=True, slots=True)
class Change:
    """A commit of this process to the cubes: the revisions before and after it, what it wrote and what it removed."""

    before: tuple[str, int]
    after: tuple[str, int]
    written: Sequence[Row] = ()
    removed: Sequence[str] = ()


class Vault:
    """The memories of one store. Safe for many threads; any number of processes may open the same."""

    def __init__(self, site: Site, policy: Policy, describe: Callable[[], Manifest], keys: Sequence[AuditKey] = ()) -> None:  # fmt: skip
        """Open the store at a site, or make one as `describe` says if there is nothing. keys: of its log, the newest first."""
        self.db = Database(site, policy, describe, begin)
        self.ledger = Ledger(self.db, keys)
        self._before: tuple[str, int] | None = None
        self.listener: Callable[[Change], None] = lambda change: None
        self.before_writing: Callable[[], None] = lambda: None
        """Called by whoever becomes the only writer: a landing that was cut off is ended first."""
        self.embed: Callable[[Sequence[MemCube]], Sequence[Vector]] = _unasked
        """The vectors of memories that come back into search."""
        self.tagged: Callable[[MemCube, MemCube | None], MemCube] = lambda cube, old: cube
        """What is said in the header of a memory of what was found in it, before it is stored in the place of another version or of none."""
        self.db.transactions.witness, self.db.rewriting = self._witness, self._rewriting
        self.db.transactions.take_back_of_the_dead()
        self.rules = Rules(self.db)

    @property
    def path(self) -> str:
        """Where the store is."""
        return self.db.path

    @property
    def manifest(self) -> Manifest:
        """What the store says of itself."""
        return self.db.manifest

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer until the end of the block. Raises AuditKeyRequired."""
        with self.db.writing():
            self.ledger.require_key()
            self.before_writing()
            yield

    def close(self) -> None:
        """Let go of the store. Twice is once."""
        self.db.close()

    # --- reading ---------------------------------------------------------------------------------------------------

    def rows(
        self, where: str, *, vectors: bool = False, limit: int = ALL, offset: int = 0, order: Sequence[str] = ()
    ) -> list[Row]:
        """Current memories that a condition holds for, ordered by columns ("-name": the greatest first; absent ones last)."""
        query = self.db.cubes.search().select(_READ_VECTOR if vectors else _READ).limit(limit).offset(offset)
        if not order:
            return self._read(query.where(where))
        # "version > 0" is always true: Lance 13 cannot plan an ordered query whose whole filter an index answers
        query = query.where(filters.all_of(where, "version > 0"))
        columns = [ColumnOrdering(column_name=n.removeprefix("-"), ascending=n[0] != "-") for n in order]
        return self._read(query.order_by(columns))

    def by_ids(self, ids: Sequence[str], where: str | None = None, *, vectors: bool = False) -> list[Row]:
        """Current memories with these ids, in no order, of those that a condition holds for."""
        return [
            row
            for some in _batches(ids, 1_000)
            for row in self.rows(filters.all_of(filters.one_of("id", some), where), vectors=vectors)
        ]

    def outlines(self, where: str) -> list[Outline]:
        """What must be known to remove them, of the memories that a condition holds for."""
        query = self.db.cubes.search().where(where).select(["record", "text", "checksum", "seq"]).limit(ALL)
        return outlines(self._arrow(query), self.path)

    def candidates(self, where: str, *, start: int = 0, limit: int = ALL) -> list[Candidate]:
        """Memories that a condition holds for, in stored order, as ranking needs them."""
        return self._found(self.db.cubes.search().where(where).select(RANKED).offset(start).limit(limit))

    def column(self, name: str, where: str) -> list[Any]:
        """One column of the current memories that a condition holds for."""
        return self.columns([name], where)[name].to_pylist()  # type: ignore[no-any-return]

    def columns(self, names: Sequence[str], where: str) -> Any:
        """Some columns of the current memories that a condition holds for, as an Arrow table."""
        with self.db.guarded("cubes"):
            return self.db.cubes.search().where(where).select(list(names)).limit(ALL).to_arrow()

    def last_reads(self) -> dict[str, float]:
        """When each memory was recalled last, of those that were, in POSIX seconds."""
        with self.db.guarded("usage"):
            found = self.db.table("usage").search().select(["id", "last_read_at"]).limit(ALL).to_arrow()
        times = found["last_read_at"].cast(pa.int64()).to_numpy() / 1e6
        return dict(zip(found["id"].to_pylist(), times.tolist(), strict=True))

    def distinct(self, name: str, where: str) -> list[Any]:
        """The different values of a column among the current memories that a condition holds for."""
        return self.columns([name], where)[name].unique().to_pylist()  # type: ignore[no-any-return]

    def count(self, where: str) -> int:
        """How many current memories a condition holds for."""
        with self.db.guarded("cubes"):
            return int(self.db.cubes.count_rows(where))

    def near(self, vector: Vector, where: str, limit: int) -> list[Candidate]:
        """By cosine, nearest first, from among those that the condition holds for. Refined once, which puts what the index
        found in exact order: more would read five vectors for each that is returned."""
        query = self.db.cubes.search(vector).distance_type("cosine").refine_factor(1).where(where)
        return self._found(query.select([*RANKED, "_distance"]).limit(limit))

    def worded(self, words: str, where: str, limit: int) -> list[Candidate]:
        """By BM25, best first, from among those that the condition holds for."""
        query = self.db.cubes.search(MatchQuery(words, "text"), query_type="fts").where(where)
        return self._found(query.select([*RANKED, "_score"]).limit(limit))

    def _found(self, query: Any) -> list[Candidate]:
        return candidates(self._arrow(query), self.manifest.dimension, self.path)

    def _read(self, query: Any) -> list[Row]:
        return decoded(self._arrow(query), self.manifest.dimension, self.path)

    def _arrow(self, query: Any) -> pa.Table:
        """What a query finds, asked once more if its files were compacted away under it (by a process that outran this one
        by `keep_versions`: this one was asleep). The second try reads the newest version."""
        with self.db.guarded("cubes"):
            try:
                return query.to_arrow()
            except RuntimeError as error:
                if "not found" not in str(error).lower():
                    raise
                return query.to_arrow()

    def past(self, id: str) -> list[MemCube]:
        """The versions of a memory before the current one, oldest first."""
        found = self.past_versions([id])
        return [found[key] for key in sorted(found)]

    def past_versions(self, ids: Sequence[str]) -> dict[tuple[str, int], MemCube]:
        """Those of several memories, by id and version."""
        found: dict[tuple[str, int], MemCube] = {}
        for some in _batches(ids, 1_000):
            query = self.db.table("history").search().where(filters.one_of("id", some)).limit(ALL)
            with self.db.guarded("history"):
                rows = decoded(
                    query.select(["text", "record", "checksum"]).to_arrow(), self.manifest.dimension, self.path
                )
            found |= {(r.cube.id, r.cube.version): r.cube for r in rows}
        return found

    def events(self, where: str, limit: int) -> list[Event]:
        """Events that a condition holds for, the newest first."""
        return self.ledger.events(where, limit)

    def revision(self) -> tuple[str, int]:
        """Changes whenever a memory does (and at a few other times): what was read at the same revision still holds."""
        with self.db.guarded("cubes"):
            version = self.db.cubes.version
        return self.manifest.cubes, version

    def acknowledged(self) -> tuple[str, int]:
        """The revision that holds all that was acknowledged: the newest one, or, while a commit of this process is on its way, the one
        before, which is all that there is until then, since whoever writes is the only one."""
        return self._before or self.revision()

    @contextmanager
    def _on_its_way(self) -> Iterator[tuple[str, int]]:
        """A commit to the cubes, until its listener has been told; the revision before. A lease may lapse, a lock does not; and what is
        written in a transaction is nobody else's."""
        before = self.revision()
        alone = not self.db.site.is_shared and self.db.transactions.inside is None
        self._before = before if alone else None
        try:
            yield before
        finally:
            self._before = None

    # --- writing ---------------------------------------------------------------------------------------------------

    def insert(self, cubes: Sequence[MemCube], vectors: Vectors) -> list[MemCube]:
        """Store new memories in one commit; as they are stored. The caller holds `writing()` and has seen that their ids are not there."""
        return self.put([None] * len(cubes), cubes, vectors)

    def replace(self, old: Sequence[MemCube], new: Sequence[MemCube], vectors: Vectors) -> list[MemCube]:
        """Put new versions in the place of old ones in one commit, the old ones going to history first; as they are stored. A vector of
        None keeps the stored one. Raises Conflict, and changes nothing current, if one is no longer the version it was."""
        return self.put(old, new, vectors)

    def put(self, old: Sequence[MemCube | None], new: Sequence[MemCube], vectors: Vectors) -> list[MemCube]:
        """`insert` and `replace` at once, in one commit: an old one of None is for a memory that is not there yet. What has
        no text keeps no vector."""
        if not new:
            return []
        keep = self.keeping()
        new, known = [keep(c, o) for c, o in zip(new, old, strict=True)], [c for c in old if c is not None]
        with self.writing():
            filled = self._filled(known, new, vectors)
            if known:
                with self.db.guarded("history"):
                    self.db.table("history").add(past(known))
                self.db.committed("history")
            self._commit(new, filled, known=len(known))
        return new

    def renew(self, old: Sequence[MemCube], new: Sequence[MemCube], rules: Mapping[str, float] | None = None) -> None:
        """Put memories in the place of old ones that differ in what makes no version: how long they live. Raises Conflict.
        rules: of retention, instead of those that are there."""
        if not new:
            return
        with self.writing():
            new = [self.retained(c) if rules is None else retained(c, rules) for c in new]
            self._commit(new, self._filled(old, new, [None] * len(new)), known=len(old))

    def _filled(self, known: Sequence[MemCube], new: Sequence[MemCube], vectors: Vectors) -> list[Vector | None]:
        """The vectors, with the stored ones where none is given. Raises Conflict if one is no longer the version it was."""
        kept = self._still(known, need_vectors=any(v is None for v in vectors)) if known else {}
        filled = [
            kept[c.id].vector if v is None and c.text and c.id in kept else v for c, v in zip(new, vectors, strict=True)
        ]
        lacking = [
            i for i, c in enumerate(new) if filled[i] is None and c.text and c.id in kept and lifecycle.is_searched(c)
        ]
        for i, vector in zip(lacking, self.embed([new[i] for i in lacking]) if lacking else (), strict=True):
            filled[i] = vector
        return kept_vectors(new, filled)

    def _commit(self, new: Sequence[MemCube], vectors: Vectors, known: int) -> None:
        self.use_grants(one for cube in new for one in readers_of(cube.access))
        note_tags(self.rules, any(cube.sensitivity for cube in new))
        with self._on_its_way() as before:
            seq = before[1] + 1
            with self.db.guarded("cubes"):
                rows = encoded(new, vectors, seq, self.manifest.dimension)
                if known == 0:
                    self.db.cubes.add(rows)
                else:
                    merge = self.db.cubes.merge_insert("id").when_matched_update_all()
                    merge = merge if known == len(new) else merge.when_not_matched_insert_all()
                    merge.execute(rows, on_bad_vectors="null")  # to LanceDB an absent vector is a bad one
            self.db.committed(self.manifest.cubes, len(new) - known or 1)
            self._changed(before, [Row(c, seq, v) for c, v in zip(new, vectors, strict=True)])

    def retained(self, cube: MemCube) -> MemCube:
        """A memory that is kept no longer than its owner's rules say: as it is stored, whoever stores it."""
        rules = self.rules.under(RULE)
        return retained(cube, rules) if rules else cube

    def keeping(self, more: Mapping[str, float] | None = None) -> Callable[[MemCube, MemCube | None], MemCube]:
        """What makes of a memory (and of its version before, if there is one) what is stored of it, by the rules as they are now, and more."""
        rules = {**(more or {}), **self.rules.under(RULE)}
        return lambda cube, old: self.tagged(retained(cube, rules) if rules else cube, old)

    def use_grants(self, readers: Iterable[str]) -> None:
        """Let grants of several conditions be known to whoever asks for memories, before there is one that has them."""
        joined = {one for one in readers if one.startswith(JOINED)}
        if joined and (new := joined - self.rules.under(GRANT).keys()):
            self.rules.put({GRANT + one: True for one in new})

    def remove(self, ids: Sequence[str]) -> int:
        """Remove memories and all their versions; how many old versions went. The caller has recorded it: a deletion counts
        from that moment, and whoever opens the store finishes what a killed process began (`unfinished`)."""
        with self.writing(), self.db.guarded("cubes"):
            before, these = self.revision(), filters.one_of("id", ids)
            self.db.cubes.delete(these)  # in one commit, however many: a reader sees all of them or none
            self.db.committed(self.manifest.cubes, len(ids))
            self._changed(before, removed=ids)
            if self.db.table("usage").count_rows():
                self.db.table("usage").delete(these)
                self.db.committed("usage")
            if self.db.has("uses"):
                for some in _batches(ids, 5_000):
                    self.db.table("uses").delete(filters.one_of("id", some))
                self.db.committed("uses")
            return self._remove_past(ids)

    def record(
        self, events: Sequence[Event], readers: Sequence[Iterable[str]], seqs: Sequence[int] | None = None
    ) -> None:
        """Append events, each with who besides its actor may see it and, for a deletion, which write it takes back."""
        self.ledger.record(events, readers, seqs)

    def _rewriting(self) -> Callable[[], None]:
        """What tells the listener of the commits of a compaction, unless somebody wrote meanwhile: each scope would ask the store
        for itself what they were, at its next search."""
        before, contents = self._contents()

        def tell() -> None:
            after, now = self._contents()
            if after != before and now == contents:
                self.listener(Change(before, after))

        return tell

    def _contents(self) -> tuple[tuple[str, int], tuple[int, int]]:
        """A revision, how many memories there are at it and the number of the last write among them: every write has a greater number
        than those before it and every deletion leaves fewer, so what has the same two has the same memories."""
        name = self.manifest.cubes
        table = self.db.pinned(name)
        with self.db.guarded(name):
            seqs = table.search().select(["seq"]).limit(ALL).to_arrow()["seq"]
            return (name, table.version), (len(seqs), pc.max(seqs).as_py() or 0)

    def _witness(self, pins: Mapping[str, int]) -> Callable[[], None]:
        """What the log says beyond its pinned version, to be told again, as rolled back and to who did it alone, once that is the
        newest again."""
        log = self.db.at("events", pins["events"]).search().select(["number"])
        last = log.order_by([ColumnOrdering(column_name="number", ascending=False)]).limit(1).to_arrow()["number"]
        undone = self.ledger.events(f"number > {last[0].as_py() if len(last) else 0}", ALL)[::-1]

        def tell() -> None:
            told = [
                replace(e, id=str(uuid.uuid4()), outcome=ROLLED_BACK if e.outcome == "ok" else e.outcome)
                for e in undone
            ]
            self.ledger.rewind()  # the chain ends again where it did
            self.ledger.record(told, [()] * len(told))

        return tell

    def count_reads(self, reads: dict[str, Usage]) -> None:
        """Add buffered usage to what is stored. In a table of its own: it says nothing about the content, and rewriting
        memories because they were read would make reading slow."""
        with self.writing(), self.db.guarded("usage"):
            for some in _batches(sorted(reads), 1_000):
                before = self.used(some)
                rows = [
                    {
                        "id": id,
                        "reads": before.get(id, Usage()).reads + reads[id].reads,
                        "last_read_at": reads[id].last_read_at,
                    }
                    for id in some
                ]
                merge = (
                    self.db.table("usage").merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                )
                merge.execute(pa.Table.from_pylist(rows, schema=USAGE))
                self.db.committed("usage")

    def used(self, ids: Sequence[str]) -> dict[str, Usage]:
        """How often and when last memories were recalled, of those that were."""
        with self.db.guarded("usage"):
            query = self.db.table("usage").search().where(filters.one_of("id", ids)).select(USAGE.names).limit(ALL)
            return {r["id"]: Usage(r["reads"], r["last_read_at"]) for r in query.to_arrow().to_pylist()}

    # --- upkeep ----------------------------------------------------------------------------------------------------

    def remove_strays(self) -> int:
        """Remove versions of memories that are no longer there: a deletion was killed. How many."""
        with self.db.guarded("history"):
            past = self.db.table("history").search().select(["id"]).limit(ALL).to_arrow()["id"].unique().to_pylist()
            there = {id for some in _batches(past, 1_000) for id in self.column("id", filters.one_of("id", some))}
            return self._remove_past([id for id in past if id not in there])

    def written(self, since: datetime) -> list[tuple[str, int]]:
        """Ids and versions of the memories written since a time."""
        with self.db.guarded("cubes"):
            query = self.db.cubes.search().where(f"updated_at >= {filters.literal(since)}").select(["id", "version"])
            found = query.limit(ALL).to_arrow()
        return list(zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True))

    def written_as(self, ids: Sequence[str]) -> list[tuple[str, int]]:
        """Those of these memories that are there, each with the number of its last write."""
        if not ids:
            return []
        with self.db.guarded("cubes"):
            found = self.db.cubes.search().where(filters.one_of("id", ids)).select(["id", "seq"]).limit(ALL).to_arrow()
        return list(zip(found["id"].to_pylist(), found["seq"].to_pylist(), strict=True))

    def told(self, where: str, *columns: str) -> set[tuple[Any, ...]]:
        """Subjects of events that a condition holds for, each with other columns of the event."""
        return self.ledger.told(where, *columns)

    def marks(self, who: str, verbs: Iterable[str]) -> list[tuple[datetime, str, str, int]]:
        """Time, verb, detail and number of what an actor did by some verbs and to no memory, in order."""
        where = filters.all_of(
            f"actor = {filters.literal(who)}", filters.one_of("verb", verbs), "subject IS NULL", "outcome = 'ok'"
        )
        columns = ("at", "verb", "detail", "number")
        with self.db.guarded("events"):
            found = self.db.table("events").search().where(where).select([*columns]).limit(ALL).to_arrow()
        return sorted(zip(*(found[name].to_pylist() for name in columns), strict=True), key=lambda mark: mark[3])

    # --- another cubes table, for re-embedding -------------------------------------------------------------------------

    def versions(self, name: str) -> dict[str, int]:
        """The checksum of each memory in a cubes table: version numbers begin anew where an id does."""
        with self.db.guarded(name):
            found = self.db.table(name).search().select(["id", "checksum"]).limit(ALL).to_arrow()
        return dict(zip(found["id"].to_pylist(), found["checksum"].to_pylist(), strict=True))

    def fill(self, name: str, dimension: int, cubes: Sequence[MemCube], vectors: Vectors) -> None:
        """Add memories to a cubes table that is being filled."""
        if cubes:
            with self.db.guarded(name):
                self.db.table(name).add(encoded(cubes, vectors, self.db.table(name).version + 1, dimension))
            self.db.committed(name)

    def drop_rows(self, name: str, ids: Sequence[str]) -> None:
        """Remove memories from a cubes table that is being filled."""
        with self.db.guarded(name):
            for some in _batches(ids, 5_000):
                self.db.table(name).delete(filters.one_of("id", some))

    def switch(self, manifest: Manifest) -> None:
        """Make another cubes table the current one, in one commit, and drop the one before."""
        before = self.manifest.cubes
        with self.db.guarded(manifest.cubes):
            self.db.table(manifest.cubes).optimize()
            self.db.committed(manifest.cubes)
        self.db.write_manifest(replace(manifest, audit_key=self.manifest.audit_key))
        self.db.drop(before)

    # --- rows ------------------------------------------------------------------------------------------------------

    def _still(self, old: Sequence[MemCube], need_vectors: bool) -> dict[str, Row]:
        rows = {r.cube.id: r for r in self.by_ids([c.id for c in old], vectors=need_vectors)}
        for cube in old:
            if cube.id not in rows or rows[cube.id].cube != replace(cube, usage=Usage()):
                raise Conflict(f"memory {cube.id} is no longer at version {cube.version}: read it again")
        return rows

    def _remove_past(self, ids: Sequence[str]) -> int:
        table = self.db.table("history")
        if not ids or not (before := table.count_rows()):
            return 0
        table.delete(filters.one_of("id", ids))
        self.db.committed("history")
        return int(before - table.count_rows())

    def _changed(self, before: tuple[str, int], written: Sequence[Row] = (), removed: Sequence[str] = ()) -> None:
        """Tell the listener of a commit, if nobody else's came between; and the transaction, if it is inside of one."""
        if (inside := self.db.transactions.inside) is not None:
            inside.touched.update((*(r.cube.id for r in written), *removed))
        after = self.revision()
        if after == (before[0], before[1] + 1):
            self.listener(Change(before, after, written, removed))


def _unasked(cubes: Sequence[MemCube]) -> Sequence[Vector]:
    raise AssertionError(f"nobody said how to embed {[c.id for c in cubes]}")


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
