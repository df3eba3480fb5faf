"""The store as the scheduler sees it: its memories, the passages that scopes have or should have, and what is held of them where.

A subject is a memory of text (which may be archived or expire), the passage of a scope (keys and values of several memories, see
`passages`), or what was converted by hand. Reads the store and the model's shelf; writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from . import brief, filters, governance, lifecycle, passages, resident
from .adapters import AdapterTier
from .chain import LEAST
from .errors import MemOSError, Unsupported
from .heat import HALF_LIVES, Scales
from .holdings import Bucket, Budgets, Place, Rates, SchedulePolicy, Snapshot, snapshot
from .keyed import PASSAGE
from .leases import Lease
from .passages import Choice, Costs, Member
from .tiers import Tiers
from .types import Adapter, Kind, KVCache, MemCube, Namespace, Policy, State, Text
from .uses import Count, Used, Uses, UseScope, warmth
from .vault import Vault

if TYPE_CHECKING:
    from .distillation import Distillation
    from .model import LocalModel

_SCOPES = 200  # looked at in one tick, the warmest first
_QUERY = 100  # tokens of a question and its answer: what each opened token is attended to by
_OF_WINDOW = 0.5  # of the model's window, for a passage: the conversation needs the rest
_WRITTEN = 8  # bytes of a token in a blob beside its keys and values
_HEAD = 2_048  # and of a blob


@dataclass(frozen=True, slots=True)
class Subject:
    """What stands behind a subject's id: for whom it is; the memories that it is, or is to be, made from; the cube that holds it, if it
    is held; for which scope; and the cubes that it takes the place of."""

    id: str
    who: str
    sources: tuple[MemCube, ...] = ()
    cube: MemCube | None = None
    scope: Namespace | None = None
    former: tuple[MemCube, ...] = ()

    @property
    def told_of(self) -> str:
        """The id under which the log tells of it."""
        return self.cube.id if self.cube is not None else self.id


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a snapshot is taken under: numbers, rates, what may be built yet, who is at work on what, and when (POSIX seconds); and
    of which subjects no adapter could be made a while ago."""

    policy: SchedulePolicy
    rates: Rates
    bucket: Bucket
    leases: Sequence[Lease]
    now: float
    model: LocalModel | None = None
    distillation: Distillation | None = None
    failing: Collection[str] = ()


@dataclass(slots=True)
class _Columns:
    ids: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    subjects: dict[str, Subject] = field(default_factory=dict)

    def add(self, subject: Subject, **row: Any) -> None:
        if subject.id not in self.subjects:
            self.ids.append(subject.id)
            self.rows.append({"heat": np.zeros(len(HALF_LIVES)), **row})
            self.subjects[subject.id] = subject


@dataclass(frozen=True, slots=True)
class _View:
    """What one look at the passages goes by."""

    at: Circumstances
    model: LocalModel
    scales: Scales
    costs: Costs
    kept: Mapping[str, MemCube]
    sources: Mapping[str, MemCube]  # of all passages, whoever may read them


class Census:
    """Snapshots of one store. Safe for many threads."""

    def __init__(self, vault: Vault, tiers: Tiers, adapters: AdapterTier, uses: Uses, policy: Policy) -> None:
        self._vault = vault
        self._tiers = tiers
        self._adapters = adapters
        self._uses = uses
        self._policy = policy
        self._lengths: dict[tuple[str, int, str], int] = {}  # tokens of a memory's line, by version and model

    def take(self, at: Circumstances) -> tuple[Snapshot, dict[str, Subject]]:
        """The snapshot, and what stands behind its ids (memories of text but for, which are themselves)."""
        texts = self._texts(at)
        columns = _Columns()
        if at.model is not None:
            self._held_and_wanted(columns, at, at.model)
        else:
            self._others(columns, at, set())
        n = len(texts["ids"])
        names = {name for row in columns.rows for name in row}
        known: dict[str, Any] = {}
        for name in names:
            mine = np.asarray([row.get(name, _ELSE.get(name, 0)) for row in columns.rows])
            first = np.full((n, *mine.shape[1:]), _ELSE.get(name, 0), mine.dtype)
            known[name] = np.concatenate([first, mine])
        for name in ("last_read", "created", "expires_at", "priority", "frozen"):
            rest = np.asarray([row.get(name, _ELSE[name]) for row in columns.rows], float)
            known[name] = np.concatenate([texts[name], rest])
        ids = [*texts["ids"], *columns.ids]
        held = {lease.id: lease for lease in at.leases}
        known["leased"] = [id in held for id in ids]
        known["leased_to"] = [_target_of(held[id]) if id in held else Place.NOWHERE for id in ids]
        found = snapshot(
            ids, rates=at.rates, budgets=self.budgets(at.model), bucket=at.bucket, scales=self._uses.scales(),
            planned_at=self._uses.recall("planned_at"), **known,
        )  # fmt: skip
        return found, columns.subjects

    def budgets(self, model: LocalModel | None) -> Budgets:
        """What may be held: half of the shelf is for passages, the rest for what requests leave on it."""
        if model is None or not model.reuses_blocks:
            return Budgets(0, 0, self._policy.kv_disk_bytes, self._policy.adapter_bytes)
        device, host = model.shelf.budgets
        block = LEAST * model.token_bytes
        return Budgets(
            device=device // 2 if device // 2 >= block else device, host=host // 2 if host // 2 >= block else host,
            disk=self._policy.kv_disk_bytes, adapters=self._policy.adapter_bytes, block=block, window=model.window,
        )  # fmt: skip

    def costs(self, model: LocalModel, rates: Rates) -> Costs:
        """Seconds for a token: opening one costs its copy, and that all of a question and its answer attends to it, which is so many
        parts of running it (a layer runs about 12 times its width squared for a token, and attends with 4 times its width)."""
        run, width = 1 / rates.prefill, int(model.network.config.get_text_config().hidden_size)
        attended = run * min(1.0, _QUERY / (3 * width))
        frame = model.count(brief.HEADER + brief.FOOTER)
        return Costs(run, attended + model.token_bytes / rates.device, int(model.window * _OF_WINDOW), frame)

    # --- memories of text --------------------------------------------------------------------------------------------------

    def _texts(self, at: Circumstances) -> dict[str, Any]:
        """Memories that may be archived or expire. One that its owner named is his to take away, one of an item the item's."""
        where = filters.all_of(
            f"kind = {filters.literal(Kind.PLAINTEXT.value)}", "key IS NULL", filters.in_states(lifecycle.SEARCHED),
            f"semantic_type IS NULL OR semantic_type != {filters.literal(PASSAGE)}",
        )  # fmt: skip
        found = self._vault.columns(["id", "state", "updated_at", "expires_at", "priority"], where)
        last = self._vault.last_reads()
        ids = found["id"].to_pylist()
        expires = _seconds(found["expires_at"])
        return {
            "ids": ids,
            "last_read": np.array([last.get(id, -np.inf) for id in ids], float),
            "created": _seconds(found["updated_at"]),
            "expires_at": np.where(np.isnan(expires), np.inf, expires),
            "priority": np.asarray(found["priority"].to_numpy(), float),
            "frozen": np.array([state == State.FROZEN for state in found["state"].to_pylist()], float),
        }

    # --- keys and values -----------------------------------------------------------------------------------------------------

    def _held_and_wanted(self, columns: _Columns, at: Circumstances, model: LocalModel) -> None:
        kept, placed = self._kept(), set[str]()
        if model.reuses_blocks:
            scales = self._uses.scales()
            used = sorted(self._uses.of(model.fingerprint), key=lambda u: -warmth(u.requests, scales, at.now))[:_SCOPES]
            ids = {id for one in used for id in one.members} | {link.id for c in kept.values() for link in c.lineage}
            sources = {r.cube.id: r.cube for r in self._vault.by_ids(sorted(ids))}
            view = _View(at, model, scales, self.costs(model, at.rates), kept, sources)
            for one in used:
                placed |= self._scope(columns, view, one)
        self._others(columns, at, placed, kept)

    def _scope(self, columns: _Columns, view: _View, used: Used) -> set[str]:
        """The passage of a scope, as it is and as it should be; the ids of the cubes that are spoken for by that."""
        scope, now = used.scope, view.at.now
        mine = [c for c in view.kept.values() if made_for(c, scope)]
        held = max(mine, key=lambda c: (len(c.lineage), c.id), default=None)
        there = tuple(link.id for link in held.lineage) if held is not None else ()
        cubes = self._members(view, used, there)
        requests = warmth(used.requests, view.scales, now)
        members = [
            Member(
                id, self._length(cube, view.model), warmth(used.members.get(id, Count()), view.scales, now), cube.updated_at.timestamp()
            )
            for id, cube in cubes.items()
        ]  # fmt: skip
        if not set(there) <= cubes.keys():  # it can no longer be opened
            held = None
        choice = passages.choose(members, requests, there, view.costs)
        due = passages.is_due(choice, there, used.requests.reads, view.costs, view.at.policy.break_even)
        if held is not None and not due:
            stays = passages.choose([m for m in members if m.id in there], requests, there, view.costs)
            subject = Subject(held.id, scope.who, _in_order(cubes, there), held, scope.namespace)
            self._passage(columns, view, used, subject, stays)
            return {held.id}
        if choice.ids:
            sources = _in_order(cubes, choice.ids)
            try:
                id = self._tiers.name_of(scope.who, sources, view.model, scope.namespace)
            except MemOSError:  # nothing in common any more: moved between two looks
                return set()
            subject = Subject(id, scope.who, sources, None, scope.namespace, tuple(mine))
            self._passage(columns, view, used, subject, choice)
        return set()

    def _members(self, view: _View, used: Used, there: Sequence[str]) -> dict[str, MemCube]:
        """The memories that may stand in a scope's passage: the actor may read them, they are searched and do not expire; of those
        that have no namespace in common, the ones that were wanted most."""
        found = (view.sources.get(id) for id in sorted({*used.members, *there}))
        cubes = {
            cube.id: cube for cube in found
            if cube is not None and governance.may_read(used.scope.who, cube.access)
            and isinstance(cube.payload, Text) and cube.state in lifecycle.SEARCHED and cube.lifespan.expires_at is None
        }  # fmt: skip
        wanted: dict[str, int] = {}
        for id, cube in cubes.items():
            wanted[cube.namespace[0]] = wanted.get(cube.namespace[0], 0) + used.members.get(id, Count()).reads
        most = max(wanted, key=lambda label: (wanted[label], label), default=None)
        return {id: cube for id, cube in cubes.items() if cube.namespace[0] == most}

    def _passage(self, columns: _Columns, view: _View, used: Used, subject: Subject, choice: Choice) -> None:
        cube, at, model = subject.cube, view.at, view.model
        share = min(1.0, choice.spared / choice.tokens) if choice.tokens else 0.0
        size = self._bytes(model, choice.tokens) if cube is None else _size(cube)
        place = Place.NOWHERE if cube is None else self._place(model, cube, used.scope)
        columns.add(
            subject,
            tokens=choice.tokens, kv_bytes=size, kv_place=place, kv_blob=cube is not None, heat=used.requests.heat * share,
            heat_at=used.requests.at, reads=round(used.requests.reads * share), last_read=used.requests.last,
            rebuildable=cube is None or cube.state is not State.FROZEN, expected=_expected(used.requests, at),
            distillable=(
                at.distillation is not None and subject.id not in at.failing and not self._has_adapter(subject.sources)
            ),
            adapter_bytes=self._adapter_bytes(at, model, len(subject.sources)),
        )  # fmt: skip

    def _others(
        self, columns: _Columns, at: Circumstances, placed: Collection[str], kept: Mapping[str, MemCube] | None = None
    ) -> None:
        """What was converted by hand, which stays while there is room for it, and passages that nobody's requests want any more."""
        model, rest = at.model, [c for c in (self._kept() if kept is None else kept).values() if c.id not in placed]
        alive = self._alive({link.id for c in rest for link in c.lineage}, at.now)
        for cube in rest:
            # one whose sources are out of search or past their time is opened by nobody: it must not hold room that others need
            by_hand = cube.attributes.get("scope") is None and {link.id for link in cube.lineage} <= alive
            frozen = cube.state is State.FROZEN
            subject = Subject(cube.id, cube.access.owner, (), cube)
            row: dict[str, Any] = {"pinned": by_hand, "rebuildable": bool(cube.lineage) and not frozen}
            if isinstance(cube.payload, Adapter):
                place = Place.DEVICE if self._adapters.weights.is_beside(model, cube) else Place.DISK
                columns.add(subject, adapter_bytes=_size(cube), adapter_place=place, adapter_blob=True, **row)
            else:
                tokens = cube.payload.tokens if isinstance(cube.payload, KVCache) else 0
                columns.add(subject, tokens=tokens, kv_bytes=_size(cube), kv_place=Place.DISK, kv_blob=True, **row)

    def _alive(self, ids: Collection[str], now: float) -> set[str]:
        """Those of some memories that are searched and have not expired."""
        rows = self._vault.by_ids(sorted(ids), filters.in_states(lifecycle.SEARCHED)) if ids else []
        moment = datetime.fromtimestamp(now, UTC)
        return {r.cube.id for r in rows if not lifecycle.has_expired(r.cube, moment)}

    def _kept(self) -> dict[str, MemCube]:
        where = filters.all_of(
            f"kind != {filters.literal(Kind.PLAINTEXT.value)}", filters.in_states(lifecycle.SEARCHED)
        )
        return {r.cube.id: r.cube for r in self._vault.rows(where)}

    # --- figures -------------------------------------------------------------------------------------------------------------

    def _length(self, cube: MemCube, model: LocalModel) -> int:
        key = (cube.id, cube.version, model.fingerprint)
        if key not in self._lengths:
            if len(self._lengths) > 100_000:
                self._lengths.clear()
            self._lengths[key] = model.count(brief.line(cube))
        return self._lengths[key]

    def _bytes(self, model: LocalModel, tokens: int) -> int:
        each = model.token_bytes if not self._policy.kv_bits else model.token_bytes // model.dtype.itemsize * 9 // 8
        return tokens * (each + _WRITTEN) + _HEAD

    def _place(self, model: LocalModel, cube: MemCube, scope: UseScope) -> Place:
        """The fastest place in which all of a passage is, for its scope."""
        try:
            ids = self._tiers.opener(model).manifest(_blob(cube)).ids
        except MemOSError:  # what is wrong with it is told of where it is opened
            return Place.DISK
        keys, tokens = resident.keys(model, (scope.who, *scope.namespace), ids)
        if tokens < len(ids):
            return Place.DISK
        return Place.DEVICE if model.shelf.on_device(keys) else Place.HOST

    def _has_adapter(self, sources: Sequence[MemCube]) -> bool:
        ids = {c.id for c in sources}
        where = filters.all_of(f"kind = {filters.literal(Kind.PARAMETRIC.value)}", filters.contains_any("parents", ids))
        return any({link.id for link in r.cube.lineage} == ids for r in self._vault.rows(where)) if ids else False

    def _adapter_bytes(self, at: Circumstances, model: LocalModel, sources: int) -> int:
        """Of an adapter of so many memories, each taken to tell one thing: what it does tell is known when questions are asked of it."""
        if at.distillation is None:
            return 0
        from .distil import adapter_bytes

        try:
            return adapter_bytes(model, at.distillation.recipe, max(1, sources))
        except Unsupported:  # nothing can be distilled for it
            return 0


_ELSE: dict[str, Any] = {
    "last_read": -np.inf, "created": np.inf, "expires_at": np.inf, "priority": 0.5, "frozen": 1.0, "rebuildable": True,
}  # fmt: skip
"""What a column says where a row does not. Created at the end of time and frozen: what is held in another form is not archived, and
does not expire, by itself."""


def _expected(requests: Count, at: Circumstances) -> float:
    """The chance of a request within the time that is looked ahead: by how the last minutes went, and by how this hour of the day goes."""
    ahead = at.policy.prefetch_within.total_seconds()
    return float(1 - np.exp(-requests.soon(at.now) * ahead))


def made_for(cube: MemCube, scope: UseScope) -> bool:
    """Whether a cube is the passage of a scope."""
    where = cube.attributes.get("scope")
    if where is None or not isinstance(cube.payload, KVCache) or cube.payload.model != scope.model:
        return False
    return cube.access.owner == scope.who and tuple(where) == scope.namespace


def _in_order(cubes: Mapping[str, MemCube], ids: Sequence[str]) -> tuple[MemCube, ...]:
    return tuple(cubes[id] for id in ids if id in cubes)


def _size(cube: MemCube) -> int:
    return 0 if isinstance(cube.payload, Text) else cube.payload.bytes


def _blob(cube: MemCube) -> str:
    return "" if isinstance(cube.payload, Text) else cube.payload.blob


def _target_of(lease: Lease) -> Place:
    """The place that the holder of a lease brings something to, by what it says."""
    words = lease.what.split()
    return Place[words[3].upper()] if len(words) > 3 and words[3].upper() in Place.__members__ else Place.NOWHERE


def _seconds(column: Any) -> Any:
    """Times of an Arrow column as POSIX seconds; nan for none."""
    whole = column.combine_chunks()
    found = np.asarray(whole.cast("int64").fill_null(0).to_numpy(zero_copy_only=False), float) / 1e6
    return np.where(np.asarray(whole.is_null()), np.nan, found)
