"""What a scope's requests recalled: counts that fade, kept in a table of the store, beside which requests go on undisturbed.

A scope is who asks, under which namespace, of which model. Requests are noted in memory; `flush` writes them down, off the request path.
What a killed process had noted is lost, and costs nothing but a later decision. Knows the table; decides nothing.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

import numpy as np

from . import filters
from .database import Database
from .heat import HALF_LIVES, Floats, Scales, faded
from .heat import read as one_read
from .tables import LATER, table_of
from .types import Namespace

_COLD = 0.01  # faded uses below which a row is not worth its place
_WEEKS = 14 * 86_400.0  # seconds in which what was usual at an hour of the day counts half
_NOTED = 256  # requests noted from which on they are to be written down


@dataclass(frozen=True, slots=True)
class UseScope:
    """Who asks, of the memories at or below which namespace, for which model (its fingerprint)."""

    who: str
    namespace: Namespace
    model: str


@dataclass(frozen=True, slots=True)
class Count:
    """Faded reads [scales] as of `at`; reads since they were last counted anew; the last one and the first. Times are POSIX seconds.
    hours [24]: reads in each hour of the day (UTC), fading over weeks."""

    heat: Floats = field(default_factory=lambda: np.zeros(len(HALF_LIVES)))
    at: float = 0.0
    reads: int = 0
    last: float = -np.inf
    first: float = np.inf
    hours: Floats = field(default_factory=lambda: np.zeros(24))

    def after(self, now: float, heat: Floats | None = None) -> Count:
        """The count after a read; `heat`: if it is known already."""
        hours = self.hours * 2 ** (-max(0.0, now - self.at) / _WEEKS) if self.at else self.hours.copy()
        hours[_hour(now)] += 1
        warmer = faded(self.heat, self.at, now) + 1 if heat is None else heat
        return Count(warmer, max(now, self.at), self.reads + 1, max(now, self.last), min(now, self.first), hours)

    def soon(self, now: float) -> float:
        """Reads a second that are expected just now: as in the last minutes, or as at this hour of the days before."""
        if not self.reads:
            return 0.0
        talk = float(faded(self.heat, self.at, now)[0]) * math.log(2) / HALF_LIVES[0]
        days = max(0.0, now - self.first) / 86_400
        day = math.exp2(-86_400 / _WEEKS)
        known = max(1.0, (1 - math.pow(day, days)) / (1 - day))
        fresh = math.exp2(-max(0.0, now - self.at) / _WEEKS)
        return max(talk, float(self.hours[_hour(now)]) * fresh / known / 3_600)


@dataclass(frozen=True, slots=True)
class Used:
    """A scope's requests, and those of them that wanted each memory."""

    scope: UseScope
    requests: Count
    members: dict[str, Count]


@dataclass(frozen=True, slots=True)
class _Noted:
    scope: UseScope
    ids: tuple[str, ...]
    at: float


class Uses:
    """The uses of one store. Safe for many threads; any number of processes may use the same."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._noted: list[_Noted] = []
        self._lock = threading.Lock()

    def note(self, scope: UseScope, ids: Iterable[str], now: datetime) -> bool:
        """A request wanted these memories; whether so many are noted that they are to be written down."""
        with self._lock:
            self._noted.append(_Noted(scope, tuple(dict.fromkeys(ids)), now.timestamp()))
            return len(self._noted) >= _NOTED

    def flush(self) -> int:
        """Write down what is noted; how many requests."""
        with self._lock:
            noted, self._noted = self._noted, []
        if not noted:
            return 0
        with self._db.writing():
            scales = self.scales()
            found = self._read(filters.one_of("who", sorted({n.scope.who for n in noted})))
            counts = {scope: {"": used.requests, **used.members} for scope, used in found.items()}
            touched = set[tuple[UseScope, str]]()
            for one in noted:
                of = counts.setdefault(one.scope, {})
                scales = self._count(of, one, scales)
                touched |= {(one.scope, id) for id in ("", *one.ids)}
            self._put([(scope, id, counts[scope][id]) for scope, id in sorted(touched, key=repr)])
            self.remember("scales", asdict(scales))
        return len(noted)

    def of(self, model: str) -> list[Used]:
        """What the scopes of a model used, as far as it was written down."""
        if not self._db.has("uses"):
            return []
        return list(self._read(f"model = {filters.literal(model)}").values())

    def by(self, who: str) -> list[Used]:
        """What the scopes of an actor used, of whichever model."""
        if not self._db.has("uses"):
            return []
        return list(self._read(f"who = {filters.literal(who)}").values())

    def scales(self) -> Scales:
        """What the store knows about its time scales."""
        said = self.recall("scales")
        if said is None:
            return Scales()
        return Scales(tuple(said["weights"]), tuple(said["totals"]), said["at"], said["subjects"])

    def restart(self, scope: UseScope) -> None:
        """Count a scope's reads anew: what it had was taken from it."""
        with self._db.writing():
            for found, used in self._read(f"key = {filters.literal(_key(scope, ''))}").items():
                if used.requests.reads:
                    self._put([(found, "", replace(used.requests, reads=0))])

    def sweep(self, now: datetime) -> None:
        """Remove what has faded away."""
        if not self._db.has("uses"):
            return
        with self._db.writing(), self._db.guarded("uses"):
            rows = self._rows("true")
            time = now.timestamp()
            cold = [r["key"] for r in rows if faded(np.asarray(r["heat"]), r["at"], time).max() < _COLD]
            for start in range(0, len(cold), 1_000):
                self._db.table("uses").delete(filters.one_of("key", cold[start : start + 1_000]))
                self._db.committed("uses")

    # --- what the scheduler remembers --------------------------------------------------------------------------------------

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        with self._db.guarded("scheduler"):
            rows = table_of("scheduler", [{"key": key, "value": json.dumps(value)}])
            table = self._db.later("scheduler")
            table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        self._db.committed("scheduler")

    def recall(self, key: str) -> Any:
        """The value under a name; None without one."""
        if not self._db.has("scheduler"):
            return None
        with self._db.guarded("scheduler"):
            query = self._db.table("scheduler").search().where(f"key = {filters.literal(key)}").select(["value"])
            rows = query.limit(1).to_arrow().to_pylist()
        return json.loads(rows[0]["value"]) if rows else None

    # --- below -----------------------------------------------------------------------------------------------------------

    def _count(self, of: dict[str, Count], one: _Noted, scales: Scales) -> Scales:
        before = of.get("", Count())
        scales, heat = one_read(scales, before.heat, before.at, one.at)
        of[""] = before.after(one.at, heat)
        for id in one.ids:
            of[id] = of.get(id, Count()).after(one.at)
        return scales

    def _read(self, where: str) -> dict[UseScope, Used]:
        self._db.later("uses")
        with self._db.guarded("uses"):
            rows = self._rows(where)
        found: dict[UseScope, Used] = {}
        for row in rows:
            scope = UseScope(row["who"], filters.decode_namespace(row["namespace"]), row["model"])
            used = found.setdefault(scope, Used(scope, Count(), {}))
            hours = np.asarray(row["hours"])
            count = Count(np.asarray(row["heat"]), row["at"], row["reads"], row["last"], row["first"], hours)
            if row["id"]:
                used.members[row["id"]] = count
            else:
                found[scope] = Used(scope, count, used.members)
        return found

    def _rows(self, where: str) -> list[dict[str, Any]]:
        query = self._db.table("uses").search().where(where).select(LATER["uses"].names).limit(2**31 - 1)
        return query.to_arrow().to_pylist()  # type: ignore[no-any-return]  # Arrow is untyped to this checker

    def _put(self, counts: Sequence[tuple[UseScope, str, Count]]) -> None:
        rows = [
            {
                "key": _key(scope, id), "who": scope.who, "namespace": filters.encode_namespace(scope.namespace), "model": scope.model,
                "id": id, "heat": count.heat.tolist(), "at": count.at, "reads": count.reads, "last": count.last,
                "first": count.first, "hours": count.hours.tolist(),
            }
            for scope, id, count in counts
        ]  # fmt: skip
        with self._db.guarded("uses"):
            table = self._db.later("uses")
            merge = table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(table_of("uses", rows))
        self._db.committed("uses")


def warmth(count: Count, scales: Scales, now: float) -> float:
    """Faded reads as one number: over the scales, by their weights."""
    return float(faded(count.heat, count.at, now) @ np.asarray(scales.weights))


def _hour(time: float) -> int:
    return int(time // 3_600) % 24


def _key(scope: UseScope, id: str) -> str:
    parts = (scope.who, filters.encode_namespace(scope.namespace), scope.model, id)
    return sha256("\0".join(f"{len(p)}:{p}" for p in parts).encode()).hexdigest()[:32]
