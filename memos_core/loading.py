"""Loading a dump: brought here, verified whole, made ready, and landed in one commit. Knows the order; each step is a module of its own.

Nothing is visible before the commit, and all of it after. Loading again finds what is here by id and version, so that it is done once;
what is newer here stays.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from . import filters, parcel, payloads, tables
from .admission import Terms
from .blobs import Blobs
from .embedding import Embedding
from .errors import AccessDenied, DumpRefused, OutOfMemory
from .governance import readers_of
from .grants import GROUP
from .groups import is_free
from .intake import Entry, Intake
from .landing import Cargo, Landing, Written
from .parcel import File, Group, Parcel
from .places import Place
from .rebuilds import Rebuild
from .redaction import note_tags
from .retention import RULE
from .staging import bring, staging
from .subscriptions import Uses
from .tables import Row
from .terms import Order, made_by, require_terms
from .types import Event, Kind, MemCube, Text
from .vault import ALL, Vault

_TRIES = 4  # how often what is ready is made anew because somebody wrote meanwhile; the last time nobody can
_AT_ONCE = 20_000  # ids from which on the whole list of what is here is read instead of asking for each

Progress = Callable[[int, int], None]
Landed = Callable[[dict[str, dict[str, int]]], None]
"""Hears, by file, which memories are here now, each with its version."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a dump.

    added, updated: memories that are new here, and that have a newer version now; `versions` came with them. kept: what was here in
    this version or a newer one; diverged: what was changed here and there, and stayed as it is here. vectors, embedded: vectors that
    were taken as they were, and made anew. payloads: tensors that came along. links_cut: sources that did not come along and are
    not here. left_out: what did not come, with counts by reason; of `grants_to_unknown_groups`
    the memories came, and the grants to groups that are not here, or not the same owner's, did not; `read_by_unknown_groups` are those that were read by nobody else. queued: adapters that `tick` distils anew; refused: those for which
    it cannot be done, with the reason. `dump` names what was loaded.
    """

    source: str
    dump: str
    added: int = 0
    updated: int = 0
    kept: int = 0
    diverged: int = 0
    versions: int = 0
    vectors: int = 0
    embedded: int = 0
    payloads: int = 0
    links_cut: int = 0
    bytes: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    queued: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    publication: str | None = None


@dataclass(frozen=True, slots=True)
class _Brought:
    """A dump whose files are here, by their paths in it, in a folder of its own; and what is asked of it."""

    order: Order
    url: str
    dump: Parcel
    wanted: Sequence[File]
    files: Mapping[str, Path]
    folder: Path


class Loader:
    """The loads of one store. Safe for many threads."""

    def __init__(
        self,
        vault: Vault,
        blobs: Blobs,
        embedding: Embedding,
        landing: Landing,
        clock: Callable[[], datetime],
        may_act_for_all: Callable[[str], bool],
    ) -> None:
        self._vault = vault
        self._blobs = blobs
        self._embedding = embedding
        self._landing = landing
        self._clock = clock
        self._may_act_for_all = may_act_for_all
        self._uses = Uses(vault.db.site.files)

    def manifest(self, source: Place) -> Parcel:
        """What a dump says of itself. Raises DumpRefused."""
        return parcel.read(source.manifest(), source.url)

    def load(
        self,
        order: Order,
        source: Place,
        *,
        progress: Progress = lambda done, total: None,
        landed: Landed = lambda files: None,
    ) -> LoadReport:
        """Load it. `landed` is called before anybody else writes."""
        found = self.manifest(source)
        require_terms(found, order, self._clock(), source.url)
        wanted = [f for f in found.files if self._is_wanted(f, order)]
        total = 2 * sum(f.bytes for f in wanted)
        with staging(
            self._vault.db.site, parcel.identity(found), self._vault.db.policy.lock_seconds, self._clock()
        ) as folder:
            files = bring(source, found, wanted, folder, lambda done: progress(done, total))
            if self.manifest(source) != found:
                raise DumpRefused(f"{source.url} was written anew meanwhile: load it again")
            report = self._landed(_Brought(order, source.url, found, wanted, files, folder), landed)
            progress(total, total)
        return report

    @staticmethod
    def _is_wanted(file: File, order: Order) -> bool:
        asked = order.only is None or file.path in order.only
        return asked and (not file.path.startswith("payloads/") or bool(order.kinds - {Kind.PLAINTEXT}))

    def _landed(self, brought: _Brought, landed: Landed) -> LoadReport:
        for _ in range(_TRIES - 1):
            if (report := self._attempt(brought, landed)) is not None:
                return report
        with self._vault.writing():  # somebody writes all the time: nobody does now
            return self._attempt(brought, landed) or _never()

    def _attempt(self, brought: _Brought, landed: Landed) -> LoadReport | None:
        """Make all ready and land it; None if what is here changed meanwhile."""
        rules = self._vault.rules.all()
        order, found = brought.order, brought.dump
        intake, by_file = self._read(brought)
        special = {e.id: intake.special[id] for id, e in intake.entries.items() if id in intake.special and e.lands}
        blobs = self._payloads(special.values(), brought)
        queued, refused = self._adapters(order, intake)
        with self._vault.writing():
            landing = {e.id: e for e in intake.entries.values() if e.lands}
            looking_back = {e.id: e for e in intake.entries.values() if e.earlier}
            there = {r.cube.id: r for r in self._rows(list(landing | looking_back))}
            if self._vault.rules.all() is not rules or intake.stale(there) or self._came_meanwhile(looking_back):
                return None
            held, size = sum(self._blobs.sizes().values()), sum(p.stat().st_size for p in blobs.values())
            if held + size > self._vault.db.policy.kv_disk_bytes:
                raise OutOfMemory(
                    f"{size:,} bytes of tensors do not fit beside {held:,} in Policy.kv_disk_bytes ({self._vault.db.policy.kv_disk_bytes:,})"
                )
            readers = _readers(intake, landing)
            if coming := self._rules_of(order, found):
                self._vault.rules.put(coming)
                self._tell_of(order, coming)
            self._vault.use_grants(one for listed in set(readers.values()) for one in listed)
            note_tags(self._vault.rules, intake.sensitive)
            written = [
                Written(
                    e.id, e.base, e.version, tuple(sorted(e.earlier + e.past)), readers[e.id], _lacks(e.base, e.version, e.past)
                )
                for e in landing.values()
            ] + [
                Written(e.id, e.base, e.base, tuple(sorted(e.earlier)), tuple(sorted(readers_of(there[e.id].cube.access))))
                for e in looking_back.values() if not e.lands
            ]  # fmt: skip
            if found.publication is not None and found.signature is not None:
                self._uses.count(found.publication, found.signature["key"], brought.url)
            cargo = Cargo(order.who, self._clock(), order.verb, written, queued)
            self._landing.commit(cargo, lambda seq: _rows(intake, landing, seq), lambda: _past(intake, written), blobs)
            self._keep_by(coming)
            landed(
                {
                    f: {e.id: e.version if e.lands else e.base for e in entries if e.lands or e.base}
                    for f, entries in by_file.items()
                }
            )
        counts = intake.counts
        added, updated = sum(not w.base for w in written), sum(0 < w.base < w.version for w in written)
        named = ("kept", "diverged", "embedded", "links_cut")
        vectors = sum(_count_vectors(p) for p in intake.rows)
        return LoadReport(
            brought.url, parcel.identity(found), added, updated, counts["kept"], counts["diverged"],
            sum(len(w.past) for w in written), max(0, vectors - counts["embedded"]), counts["embedded"], len(blobs), counts["links_cut"],
            sum(f.bytes for f in brought.wanted), {k: n for k, n in sorted(counts.items()) if n and k not in named},
            tuple(r.id for r in queued), tuple(refused), None if found.publication is None else found.publication.name,
        )  # fmt: skip

    def _read(self, brought: _Brought) -> tuple[Intake, dict[str, list]]:  # type: ignore[type-arg]
        order, found, url = brought.order, brought.dump, brought.url
        keep = self._vault.keeping(found.retention if self._is_whole(order, found) else {})
        here, end = self._vault.manifest, None if found.publication is None else found.publication.expires_at
        same = not order.stranger and made_by(found.embedder, here)
        publisher = found.signature["key"] if order.stranger and found.signature is not None else None
        intake = Intake(
            brought.folder, url, Terms(order.owner, end, publisher), here.dimension, here.dimension if same else None, self._here(found),
            self._embedding, self._clock(), order.kinds, order.model, order.brought, lambda cube: keep(cube, None),
            self._vault.past_versions, cache(self._numbers), self._known_groups(order, found),
        )  # fmt: skip
        by_file = {}
        for file in (f for f in brought.wanted if f.path.startswith("memories/")):
            before = len(intake.entries)
            intake.survey(file, brought.files[file.path], found.embedder.dimension)
            by_file[file.path] = list(intake.entries.values())[before:]
        self._require_right(order, intake)
        if order.only is None and (strays := {b for f in found.files if (b := parcel.blob_of(f.path))} - intake.blobs):
            raise DumpRefused(f"{url}: no memory in it has the payload {min(strays)}")
        intake.join(found.embedder.dimension)
        seen: set[tuple[str, int]] = set()
        for file in (f for f in brought.wanted if f.path.startswith("history/")):
            intake.history(file, brought.files[file.path], seen)
        intake.judge()
        return intake, by_file

    def _require_right(self, order: Order, intake: Intake) -> None:
        """Only the owner of a memory, or whoever may act for all, may put it here in the owner's name."""
        owners = {e.owner for e in intake.entries.values()}
        if not self._may_act_for_all(order.who) and (others := owners - {order.who}):
            raise AccessDenied(
                f"{len(others)} others own memories of this dump, and {order.who!r} may not add memories in their names: load it without as_they_are"
            )

    def _is_whole(self, order: Order, found: Parcel) -> bool:
        """Whether a whole store comes in as it is, with its rules."""
        return found.whole and order.owner is None and self._may_act_for_all(order.who)

    def _coming_groups(self, order: Order, found: Parcel) -> dict[str, Group]:
        """The groups that come along: with their owner, or with whoever may act for all. One whose name is taken here does not."""
        if order.stranger:
            return {}
        for_all, here = order.owner is None and self._may_act_for_all(order.who), self._vault.rules.under(GROUP)
        return {
            name: group for name, group in found.groups.items()
            if group.members is not None and (for_all or order.who == group.owner) and name not in here
            and is_free(self._vault, name, group.owner)
        }  # fmt: skip

    def _known_groups(self, order: Order, found: Parcel) -> set[str]:
        """The groups of a dump that are the same here, by name and owner, or will be; as `share` has it, of those that the loader owns or is
        in, unless he acts for all: a dump may lie about owners. One that has members here whom it has not in the dump is not the same: what
        is granted to it would be theirs, who lost that there."""
        here = self._vault.rules.under(GROUP)
        for_all = order.owner is None and self._may_act_for_all(order.who)
        same = {
            n for n, group in found.groups.items()
            if n in here and here[n]["owner"] == group.owner and (group.members is None or set(here[n]["members"]) <= set(group.members)) and (for_all or order.who in (group.owner, *here[n]["members"]))
        }  # fmt: skip
        return same | self._coming_groups(order, found).keys()

    def _rules_of(self, order: Order, found: Parcel) -> dict[str, Any]:
        """The rules that come along: groups, and of a whole store how long its owners' memories are kept, where nothing is said here."""
        groups = self._coming_groups(order, found).items()
        rules: dict[str, Any] = {GROUP + n: {"owner": g.owner, "members": list(g.members or ())} for n, g in groups}
        if self._is_whole(order, found):
            here = self._vault.rules.under(RULE)
            rules |= {RULE + path: seconds for path, seconds in found.retention.items() if path not in here}
        return rules

    def _tell_of(self, order: Order, rules: Mapping[str, Any]) -> None:
        """Record of each rule that came along what the verb that makes one records."""
        now = self._clock()
        for name, rule in rules.items():
            if name.startswith(GROUP):
                what, readers = f"{name.removeprefix(GROUP)}: {len(rule['members'])} members", rule["members"]
                told = Event(str(uuid.uuid4()), now, order.who, "group", detail=f"{what}, with a dump")
                self._vault.record([told], [{rule["owner"], *readers}])
                continue
            owner, *where = filters.decode_namespace(name.removeprefix(RULE))
            said = f"{'/'.join(where) or 'everything'}: for {timedelta(seconds=rule)}, with a dump"
            self._vault.record([Event(str(uuid.uuid4()), now, order.who, "retain", detail=said)], [[owner]])

    def _keep_by(self, rules: Mapping[str, Any]) -> None:
        """Let rules of retention that came along hold for what was here, too, as `MemOS.retain` does."""
        for name in (n for n in rules if n.startswith(RULE)):
            owner, *where = filters.decode_namespace(name.removeprefix(RULE))
            mine = filters.all_of(f"owner = {filters.literal(owner)}", filters.under(tuple(where)))
            pairs = [(r.cube, self._vault.retained(r.cube)) for r in self._vault.rows(mine)]
            changed = [(old, new) for old, new in pairs if old is not new]
            self._vault.renew([old for old, _ in changed], [new for _, new in changed])

    def _here(self, found: Parcel) -> Callable[[Sequence[str]], Mapping[str, Row]]:
        """What is here of some ids. Where few are here, or many are asked for, the ids of all that is here are read once."""

        @cache
        def listed() -> frozenset[str] | None:
            asked = found.counts["memories"]
            if asked > _AT_ONCE or self._vault.count("version > 0") <= asked:
                return frozenset(self._vault.column("id", "version > 0"))
            return None

        def rows(ids: Sequence[str]) -> Mapping[str, Row]:
            known = listed()
            return {r.cube.id: r for r in self._vault.by_ids([i for i in ids if known is None or i in known])}

        return rows

    def _numbers(self, ids: Collection[str] | None = None) -> dict[str, set[int]]:
        """The versions before that are here, by memory; of some memories, or of all (None)."""
        few = None if ids is None or len(ids) > _AT_ONCE else filters.one_of("id", ids)
        with self._vault.db.guarded("history"):
            query = self._vault.db.table("history").search()
            query = query if few is None else query.where(few)
            found = query.select(["id", "version"]).limit(ALL).to_arrow()
        numbers: dict[str, set[int]] = {}
        for id, version in zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True):
            numbers.setdefault(id, set()).add(version)
        return numbers

    def _came_meanwhile(self, looking_back: Mapping[str, Entry]) -> bool:
        """Whether versions that are to come in were brought by somebody else since they were found missing."""
        numbers = self._numbers(looking_back.keys()) if looking_back else {}
        return any(not numbers.get(id, set()).isdisjoint(e.earlier) for id, e in looking_back.items())

    def _rows(self, ids: Sequence[str]) -> list[Row]:
        if len(ids) > _AT_ONCE:
            there = set(self._vault.column("id", "version > 0"))
            ids = [id for id in ids if id in there]
        return self._vault.by_ids(ids)

    # --- other forms than text ---------------------------------------------------------------------------------------------

    def _payloads(self, cubes: Collection[MemCube], brought: _Brought) -> dict[str, Path]:
        """The blobs of memories, put together from their files. Raises DumpRefused for what does not fit its memory's record."""
        named, files = {f.path: f for f in brought.wanted}, brought.files
        found: dict[str, Path] = {}
        for cube in cubes:
            assert not isinstance(cube.payload, Text)
            name = cube.payload.blob
            where, head = f"{brought.url}: payload {name}", files.get(f"payloads/{name}/manifest.json")
            if head is None:
                if self._blobs.has(name):
                    continue
                raise DumpRefused(f"{where} of memory {cube.id} is not in it")
            outline = payloads.parsed(head.read_bytes(), name, where)
            parts = []
            for number, piece in enumerate(outline.pieces):
                path = f"payloads/{name}/{number}.safetensors"
                if path not in files or named[path].sha256 != piece.digest or named[path].bytes != piece.bytes:
                    raise DumpRefused(f"{where}: its tensors are not those that its manifest names")
                parts.append(files[path])
            payloads.require_fit(outline, parts, cube.payload, where)
            if name not in found and not self._blobs.has(name):
                found[name] = brought.folder / f"blob-{name}"
                with found[name].open("wb") as file:
                    payloads.joined(outline, parts, file)
        return found

    def _adapters(self, order: Order, intake: Intake) -> tuple[list[Rebuild], list[tuple[str, str]]]:
        """Adapters of another model: those that can be distilled anew from what came along, and the others with the reason."""
        queued, refused = [], []
        for cube in intake.foreign:
            entries = [intake.entries.get(link.id) for link in cube.lineage]
            sources = tuple(e.id for e in entries if e is not None and (e.lands or e.base))
            owner = intake.entries[cube.id].owner
            if sources and len(sources) == len(cube.lineage):
                queued.append(Rebuild(intake.entries[cube.id].id, owner, order.model or "", sources))
            elif not cube.lineage:
                refused.append((cube.id, "made for another model, and nothing says what it was made from"))
            else:
                refused.append((cube.id, "made for another model, and what it was made from did not come along"))
        return queued, refused


def _rows(intake: Intake, landing: Mapping[str, object], seq: int) -> Iterator[pa.RecordBatch]:
    for path in intake.rows:
        with pa.memory_map(str(path)) as mapped:
            for batch in _batches(mapped):
                kept = _filtered(batch, landing)
                at = kept.schema.get_field_index("seq")
                yield kept.set_column(at, kept.schema.field(at), pa.array([seq] * kept.num_rows, pa.int64()))


def _past(intake: Intake, written: Sequence[Written]) -> Iterator[pa.RecordBatch]:
    wanted = {w.id: frozenset(w.past) for w in written if w.past}
    for path in intake.past:
        with pa.memory_map(str(path)) as mapped:
            for batch in _batches(mapped):
                rows = zip(batch["id"].to_pylist(), batch["version"].to_pylist(), strict=True)
                yield batch.filter(pa.array([version in wanted.get(id, ()) for id, version in rows], pa.bool_()))
    if before := intake.replaced():
        yield from tables.past(before).to_batches()


def _batches(mapped: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(mapped)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _filtered(batch: pa.RecordBatch, landing: Mapping[str, object]) -> pa.RecordBatch:
    keep = [id in landing for id in batch["id"].to_pylist()]
    return batch if all(keep) else batch.filter(pa.array(keep))


def _readers(intake: Intake, landing: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for path in intake.rows:
        with pa.memory_map(str(path)) as mapped:
            for batch in _batches(mapped):
                for id, readers in zip(batch["id"].to_pylist(), batch["readers"].to_pylist(), strict=True):
                    if id in landing:
                        found[id] = tuple(readers)
    return found


def _count_vectors(path: Path) -> int:
    with pa.memory_map(str(path)) as mapped:
        return sum(b.num_rows - b["vector"].null_count for b in _batches(mapped))


def _lacks(base: int, version: int, past: Sequence[int]) -> str:
    """Which versions before a memory's own are not here, in words."""
    missing = sorted(set(range(base + 1, version)) - set(past))
    return f"without versions {', '.join(map(str, missing[:20]))}{' …' if len(missing) > 20 else ''}" if missing else ""


def _never() -> LoadReport:
    raise AssertionError("while nobody else writes, what is here does not change")
