"""The resident working set: scopes (what one actor may read under one namespace) kept in memory for ranking.

Knows the vault and the ranking. A scope of up to `Policy.resident_memories` is ranked whole; a larger one from candidates
that the database brings (nearest vectors, best words, and the turns around both), against statistics of a sample. What is
kept is checked against the store at every search, so that another process's write is seen by the next one.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime

from . import filters, governance, grants, lifecycle
from .errors import Damaged
from .recall import Corpus, Passage, Question, Ranked, Statistics, rank
from .tables import Candidate
from .transactions import Transaction
from .types import Hit, MemCube, Namespace, Policy, State
from .vault import Change, Vault
from .words import STOP, readings

_SAMPLE, _SLICES = 2_000, 8  # statistics of a large scope come from this many memories, taken in this many runs
_NEVER = datetime.min.replace(tzinfo=UTC)  # a time at which nothing has expired: the next search looks
_SCOPES, _EMPTY = 1_000, 64  # scopes kept at the most, and memories whose room an empty one takes
_RECOUNT = 64  # commits after which a scope is counted again
_MOST = 10_000  # candidates of one arm, however many are asked for
_AROUND, _ANCHORS = 2, 32  # turns fetched on each side of the best of each arm, and of how many


@dataclass(frozen=True, slots=True)
class Scope:
    """What an actor may read at or below a namespace. Another one for whoever else holds other grants: the name alone does not tell."""

    actor: str
    namespace: Namespace
    holding: frozenset[str]

    @classmethod
    def of(cls, actor: str, namespace: Namespace) -> Scope:
        """Of an actor as it acts now."""
        return cls(actor, namespace, grants.holding(actor))

    @property
    def where(self) -> str:
        """As a database filter: what is outside is never fetched."""
        return filters.all_of(
            filters.readable_by(self.actor), filters.under(self.namespace), filters.in_states(lifecycle.SEARCHED)
        )

    def holds(self, cube: MemCube) -> bool:
        """Whether a memory is in it, whatever its state."""
        here = cube.namespace[: len(self.namespace)] == self.namespace
        return here and governance.may_read(self.actor, cube.access)


@dataclass(slots=True)
class _Resident:
    lock: threading.Lock = field(default_factory=threading.Lock)
    corpus: Corpus | None = None
    rows: dict[str, Candidate] = field(default_factory=dict)
    expiring: list[tuple[datetime, str]] = field(default_factory=list)
    revision: tuple[str, int] | None = None
    seq: int = -1

    def copy(self) -> _Resident:
        """One of its own, for a transaction to change."""
        corpus = None if self.corpus is None else self.corpus.copy()
        return _Resident(threading.Lock(), corpus, dict(self.rows), self.expiring[:], self.revision, self.seq)


_Key = tuple[Scope, Transaction | None]  # a transaction that has changed something sees what nobody else does


@dataclass(frozen=True, slots=True)
class _Size:
    revision: tuple[str, int]
    size: int
    statistics: Statistics | None


class WorkingSet:
    """Ranked search over scopes. Safe for many threads; one scope is ranked by one thread at a time."""

    def __init__(self, vault: Vault, policy: Policy) -> None:
        self._vault = vault
        self._policy = policy
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, _Resident] = OrderedDict()
        self._sizes: OrderedDict[_Key, _Size] = OrderedDict()
        self._arms = ThreadPoolExecutor(4, "memos-arm")
        vault.listener = self._follow

    def search(self, scope: Scope, question: Question, k: int, narrowed: str | None, now: datetime) -> list[Hit]:
        """The k best memories of a scope, of those that `narrowed` (a condition, or None) holds for."""
        revision = self._vault.acknowledged()
        if (large := self._large_scope(scope, revision)) is not None:
            return self._from_candidates(scope, question, k, narrowed, now, large)
        entry = self._entry(scope)
        with entry.lock:
            if _is_past(entry.revision, revision):  # it was brought further while this one waited for it
                revision = self._vault.revision()
            if _is_past(entry.revision, revision):  # a reading that began before the last commit keeps to its time
                entry = _Resident()
            self._refresh(scope, entry, revision, now)
            assert entry.corpus is not None
            among = None
            if narrowed is not None:
                among = set(self._vault.column("id", filters.all_of(scope.where, narrowed)))
            hits = self._hits(scope, rank(question, entry.corpus, k, among=among), entry.rows)
        self._shrink(scope)
        return hits

    def settle(self, ended: Transaction, kept: bool) -> None:
        """Take over what a transaction made resident, or forget it."""
        with self._lock:
            for key in [k for k in self._kept if k[1] is ended]:
                entry = self._kept.pop(key)
                if kept:
                    self._kept[key[0], None] = entry
            for key in [k for k in self._sizes if k[1] is ended]:
                del self._sizes[key]

    def close(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._arms.shutdown()

    # --- resident ----------------------------------------------------------------------------------------------------

    def _changing(self) -> Transaction | None:
        inside = self._vault.db.transactions.inside
        return inside if inside is not None and inside.touched else None

    def _entry(self, scope: Scope) -> _Resident:
        key: _Key = (scope, self._changing())
        with self._lock:
            new = shared = None if key in self._kept or key[1] is None else self._kept.get((scope, None))
        if shared is not None:
            with shared.lock:
                new = shared.copy()
        with self._lock:
            entry = self._kept.setdefault(key, new or _Resident())
            self._kept.move_to_end(key)
            return entry

    def _refresh(self, scope: Scope, entry: _Resident, revision: tuple[str, int], now: datetime) -> None:
        """Bring a resident scope to a revision."""
        if entry.corpus is None or entry.revision is None or entry.revision[0] != revision[0]:
            self._load(scope, entry, revision, now)
        elif entry.revision != revision:
            rows = self._vault.candidates(f"seq > {entry.seq} AND ({_anything(scope)})")
            whole = filters.all_of(scope.where, filters.unexpired(now))
            count = self._vault.count(whole)
            self._vault.db.transactions.require_whole()
            self._take(scope, entry, rows, now)
            if count != len(entry.rows):
                there = set(self._vault.column("id", whole))
                self._vault.db.transactions.require_whole()
                _drop(entry, [id for id in entry.rows if id not in there])
                if len(entry.rows) != len(there):
                    self._load(scope, entry, revision, now)
            entry.revision = revision
        while entry.expiring and entry.expiring[0][0] <= now:
            _, id = heapq.heappop(entry.expiring)
            if id in entry.rows and not _is_live(entry.rows[id], now):
                _drop(entry, [id])

    def _load(self, scope: Scope, entry: _Resident, revision: tuple[str, int], now: datetime) -> None:
        rows = self._vault.candidates(scope.where)
        self._vault.db.transactions.require_whole()
        entry.corpus, entry.rows, entry.expiring, entry.seq = Corpus(), {}, [], -1
        self._take(scope, entry, rows, now)
        entry.revision = revision

    def _follow(self, change: Change) -> None:
        """Take over a commit of this process, so that the next search need not ask the store what it was. A scope that is
        being searched right now is left to ask."""
        changing = self._changing()
        with self._lock:
            kept = [(scope, entry) for (scope, under_way), entry in self._kept.items() if under_way is changing]
        for scope, entry in kept:
            if entry.revision == change.before and entry.lock.acquire(blocking=False):
                try:
                    if entry.revision == change.before and entry.corpus is not None:
                        mine = [Candidate.of(r) for r in change.written if scope.holds(r.cube)]
                        gone = [*change.removed, *(r.cube.id for r in change.written if not scope.holds(r.cube))]
                        if mine or any(id in entry.rows for id in gone):
                            _drop(entry, gone)
                            self._take(scope, entry, mine, _NEVER)
                        entry.revision = change.after
                finally:
                    entry.lock.release()

    def _take(self, scope: Scope, entry: _Resident, rows: list[Candidate], now: datetime) -> None:
        assert entry.corpus is not None
        live = [r for r in rows if _is_live(r, now)]
        _drop(entry, [r.id for r in rows])
        entry.corpus.put(_passage(r) for r in live if r.vector is not None)
        for row in live:
            entry.rows[row.id] = row
            if row.expires_at is not None:
                heapq.heappush(entry.expiring, (row.expires_at, row.id))
        entry.seq = max([entry.seq, *(r.seq for r in rows)])

    def _hits(self, scope: Scope, ranked: list[Ranked], rows: Mapping[str, Candidate]) -> list[Hit]:
        hits = [Hit(rows[r.id].cube, r.score, r.why) for r in ranked]
        for hit in hits:  # the filter said so; the record, which is checked against its sum, has the last word
            if not governance.may_read(scope.actor, hit.cube.access):
                raise Damaged(
                    f"{self._vault.path}/cubes.lance: the readers of memory {hit.cube.id} are not those of its record"
                )
        return hits

    def _shrink(self, used: Scope) -> None:
        """Let the scopes that were used longest ago go, until the rest fits. Each costs at least what an empty one does."""
        with self._lock:
            total = sum(max(_EMPTY, len(e.rows)) for e in self._kept.values())
            for key in list(self._kept):
                if (total <= self._policy.resident_total and len(self._kept) <= _SCOPES) or key[0] == used:
                    break
                total -= max(_EMPTY, len(self._kept.pop(key).rows))

    # --- candidates --------------------------------------------------------------------------------------------------

    def _large_scope(self, scope: Scope, revision: tuple[str, int]) -> Statistics | None:
        """Statistics of a scope that is too large to be resident, from a sample; None for one that is not. Counted again
        after so many commits that its size may have changed by as much."""
        key = (scope, self._changing())
        known = self._sizes.get(key)
        if known is None or known.revision[0] != revision[0] or revision[1] - known.revision[1] >= _RECOUNT:
            size = self._vault.count(scope.where)
            statistics = known.statistics if known is not None and 0.8 <= size / max(1, known.size) <= 1.2 else None
            if size <= self._policy.resident_memories:
                statistics = None
            elif statistics is None:
                statistics = self._sampled(scope, size)
            known = self._sizes[key] = _Size(revision, size, statistics)
            while len(self._sizes) > _SCOPES:
                self._sizes.popitem(last=False)
            if statistics is not None:
                with self._lock:
                    self._kept.pop(key, None)
        return known.statistics

    def _sampled(self, scope: Scope, size: int) -> Statistics:
        length = _SAMPLE // _SLICES
        slices = (self._vault.candidates(scope.where, start=i * size // _SLICES, limit=length) for i in range(_SLICES))
        return Corpus(_passage(r) for some in slices for r in some if r.vector is not None).statistics()

    def _arm(
        self, find: Callable[[str], list[Candidate]], scope: Scope, where: str, now: datetime
    ) -> tuple[list[Candidate], list[Candidate]]:
        """What an arm brings, and the turns around the best of it. What has expired and is not swept yet is left out here,
        because that is quicker; only if there was any, it is left out by the database, lest it crowd out the rest."""
        found = find(where)
        if not all(_is_live(r, now) for r in found):
            found = find(filters.all_of(where, filters.unexpired(now)))
        around = _neighbours(found[:_ANCHORS])
        beside = self._vault.candidates(filters.all_of(scope.where, around)) if around else []
        return found, [r for r in beside if _is_live(r, now)]

    def _from_candidates(
        self, scope: Scope, question: Question, k: int, narrowed: str | None, now: datetime, statistics: Statistics
    ) -> list[Hit]:
        self._vault.db.spare_descriptors()
        where = filters.all_of(scope.where, narrowed)
        wanted = max(self._policy.candidates, min(k, _MOST))
        words = _search_words(question.text)
        # in a copy of the context: what it may see of a transaction is what this thread may
        near = self._arms.submit(
            copy_context().run, self._arm, lambda w: self._vault.near(question.vector, w, wanted), scope, where, now
        )
        worded = self._arm(lambda w: self._vault.worded(words, w, wanted) if words else [], scope, where, now)
        found = [*worded[0], *near.result()[0]]
        rows = {r.id: r for r in (*worded[1], *near.result()[1], *found)}
        among: set[str] | None = None
        if narrowed is not None and rows:  # a neighbour informs, but is an answer only if it is asked for
            among = {r.id for r in found}
            among |= set(self._vault.column("id", filters.all_of(where, filters.one_of("id", rows))))
        corpus = Corpus(_passage(r) for r in rows.values() if r.vector is not None)
        return self._hits(scope, rank(question, corpus, k, statistics=statistics, among=among), rows)


def _is_past(held: tuple[str, int] | None, asked: tuple[str, int]) -> bool:
    return held is not None and held[0] == asked[0] and asked[1] < held[1]


def _passage(row: Candidate) -> Passage:
    talk, position = row.place.rsplit("/", 1) if row.place is not None else (None, None)
    assert row.vector is not None
    return Passage(
        id=row.id, text=row.text, vector=row.vector, speaker=row.speaker, session=talk,
        position=None if position is None else int(position), occurred_at=row.happened_at, priority=row.priority - 0.5,
    )  # fmt: skip


def _is_live(row: Candidate, now: datetime) -> bool:
    """Searched, and its time not over (a frozen memory has none): what `Scope.where` and `filters.unexpired` say."""
    frozen = row.state == State.FROZEN
    return row.state in lifecycle.SEARCHED and (frozen or row.expires_at is None or row.expires_at > now)


def _anything(scope: Scope) -> str:
    """The scope, whatever the state: what left it must be seen to leave."""
    return filters.all_of(filters.readable_by(scope.actor), filters.under(scope.namespace))


def _drop(entry: _Resident, ids: list[str]) -> None:
    assert entry.corpus is not None
    entry.corpus.remove(id for id in ids if id in entry.rows)
    for id in ids:
        entry.rows.pop(id, None)


def _neighbours(rows: Iterable[Candidate]) -> str | None:
    """The turns around some, as a condition."""
    places: set[str] = set()
    for row in rows:
        if row.place is not None:
            talk, position = row.place.rsplit("/", 1)
            places.update(f"{talk}/{int(position) + away}" for away in range(-_AROUND, _AROUND + 1))
    return filters.one_of("place", sorted(places)) if places else None


def _search_words(text: str) -> str:
    """The words that can tell memories apart, each once: a word repeated multiplies its weight and the query's time, and
    those that stand everywhere cost the most and say the least."""
    words = dict.fromkeys(word for token, word in readings(text) if token not in STOP)
    return " ".join(words or dict.fromkeys(text.split()))
