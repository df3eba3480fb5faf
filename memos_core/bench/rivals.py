"""What a scheduler is measured against, on the same trace and the same bytes: simple rules that decide at every read, rules that know
the future, and a bound that nothing can pass.

The rules are caches over the same places: what is read comes to the device; what has no room goes to the next place down, the least
first; what has no room on disk is dropped.

The bound is a linear program after Berger, Beckmann & Harchol-Balter 2018 (Practical bounds on optimal caching with variable object
sizes): for each stretch between two reads of a subject, which fraction of its keys and values waits for the second read in which place;
no place ever over its bytes. It may in addition load ahead, from the slower place where something waits to a faster one just before
the read, without taking room there, as long as all of that stays within the seconds that the bucket gives. No schedule that makes keys and
values at the earliest when their text is first read saves more, whole or in parts, whatever it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..schedule import Place, SchedulePolicy
from .simulator import Costs, Machine, Outcome
from .traces import Array, Trace

TIMER, TOP = 60.0, 20  # MemOS' own scheduler: at an interval, one cache of the most used memories


@dataclass(frozen=True, slots=True)
class Use:
    """What a rule knows at a read: when, which subject, reads of it so far, and in how many reads from now it is read again."""

    at: int
    subject: int
    count: int
    next: float


Rank = Callable[[Use, int, float, float], float]
"""Of a use, bytes, seconds that holding it here saves at a read, and the rank of what was last let go here: what has least goes first."""


def least_recent(use: Use, size: int, saved: float, clock: float) -> float:
    """LRU."""
    return float(use.at)


def least_frequent(use: Use, size: int, saved: float, clock: float) -> float:
    """LFU, the least recent first among equals."""
    return use.count + 1e-9 * use.at


def greedy_dual(use: Use, size: int, saved: float, clock: float) -> float:
    """GreedyDual-Size-Frequency (Cherkasova 1998)."""
    return clock + use.count * saved / size


def farsighted(use: Use, size: int, saved: float, clock: float) -> float:
    """GreedyDual-Size with the future instead of a frequency: seconds saved for each byte and each read until the next one."""
    return saved / size / (use.next - use.at)


RULES: dict[str, Rank] = {
    "LRU": least_recent,
    "LFU": least_frequent,
    "GDSF": greedy_dual,
    "clairvoyant GDS": farsighted,
}


def ruled(trace: Trace, machine: Machine, rank: Rank) -> Outcome:
    """The trace under a rule."""
    costs, outcome = Costs.of(trace, machine), Outcome()
    cache = _Cache(machine, costs, rank, outcome)
    counts, upcoming = np.zeros(len(trace.tokens), int), following(trace.subjects)
    for at, i in enumerate(trace.subjects.tolist()):
        counts[i] += 1
        place = Place(int(cache.place[i]))
        outcome.served[place] += 1
        outcome.whole += float(costs.read[i, 0])
        outcome.saved += float(costs.read[i, 0] - costs.read[i, place])
        cache.used(Use(at, i, int(counts[i]), float(upcoming[at])))
    return outcome


class _Cache:
    def __init__(self, machine: Machine, costs: Costs, rank: Rank, outcome: Outcome) -> None:
        n = len(costs.size)
        self.place = np.zeros(n, np.intp)
        self._blob = np.zeros(n, bool)
        self._machine, self._costs, self._rank, self._outcome = machine, costs, rank, outcome
        self._uses: dict[int, Use] = {}
        self._ranks = np.zeros((n, len(Place)))
        self._clock = np.zeros(len(Place))

    def used(self, use: Use) -> None:
        """What a read brings to the device finds its place."""
        self._uses[use.subject] = use
        origin = int(self.place[use.subject])
        if origin == Place.DISK:
            self._blob[use.subject] = True
        self.place[use.subject] = Place.NOWHERE
        for place in (Place.DEVICE, Place.HOST, Place.DISK):
            if self._costs.room[place]:
                self._ranks[use.subject, place] = self._of(use.subject, place)
        self._put(use.subject, Place.DEVICE, origin)

    def _of(self, i: int, place: int) -> float:
        below = next((p for p in range(place - 1, 0, -1) if self._costs.room[p]), 0)
        saved = float(self._costs.read[i, below] - self._costs.read[i, place])
        return self._rank(self._uses[i], int(self._costs.size[i]), saved, float(self._clock[place]))

    def _put(self, i: int, place: int, origin: int) -> None:
        if place == Place.NOWHERE:
            return None
        size, room = self._costs.size, int(self._costs.room[place])
        if size[i] > room:
            return self._put(i, place - 1, origin)
        there = np.flatnonzero(self.place == place)
        free = room - int(size[there].sum())
        victims = []
        for v in there[np.argsort(self._ranks[there, place], kind="stable")].tolist():
            if free >= size[i]:
                break
            if self._rank is farsighted and self._ranks[v, place] >= self._ranks[i, place]:
                break
            victims.append(v)
            free += int(size[v])
        if free < size[i]:
            return self._put(i, place - 1, origin)
        for v in victims:
            self.place[v] = Place.NOWHERE
            self._clock[place] = max(self._clock[place], self._ranks[v, place])
        self.place[i] = place
        if place != origin:
            self._pay(i, place)
        for v in victims:
            self._put(v, place - 1, place)
        return None

    def _pay(self, i: int, place: int) -> None:
        rates, size = self._machine.rates, float(self._costs.size[i])
        if place == Place.DISK:
            self._outcome.spent += 0.0 if self._blob[i] else size / rates.write
            self._blob[i] = True
        else:
            self._outcome.spent += size / (rates.device if place == Place.DEVICE else rates.host)


def following(subjects: Array) -> Array:
    """For each read, the index of the next read of the same subject, or inf [m]."""
    found, seen = np.full(len(subjects), np.inf), dict[int, float]()
    for at in range(len(subjects) - 1, -1, -1):
        i = int(subjects[at])
        found[at] = seen.get(i, np.inf)
        seen[i] = at
    return found


def timed(trace: Trace, machine: Machine) -> Outcome:
    """MemOS' rule: each minute the most read memories are made into keys and values on the device, as many of 20 as there is room for,
    and what was there goes. Kinder than the original, which makes all of them again each time."""
    costs, outcome = Costs.of(trace, machine), Outcome()
    counts, held = np.zeros(len(trace.tokens), int), set[int]()
    due = float(trace.times[0]) + TIMER
    for at, i in zip(trace.times.tolist(), trace.subjects.tolist(), strict=True):
        if at >= due:
            due = at + TIMER
            chosen: set[int] = set()
            for j in np.argsort(-counts, kind="stable")[:TOP].tolist():
                if counts[j] and costs.size[[*chosen, j]].sum() <= costs.room[Place.DEVICE]:
                    chosen.add(j)
            outcome.spent += float(costs.read[list(chosen - held), Place.NOWHERE].sum())
            held = chosen
        place = Place.DEVICE if i in held else Place.NOWHERE
        counts[i] += 1
        outcome.served[place] += 1
        outcome.whole += float(costs.read[i, 0])
        outcome.saved += float(costs.read[i, 0] - costs.read[i, place])
    return outcome


def bound(trace: Trace, machine: Machine, policy: SchedulePolicy, *, ahead: bool = True) -> Outcome:
    """The linear program's optimum; `ahead` False leaves loading ahead out of it. `spent` is what its moves take: the copies to where
    something waits and was not waiting before, and the loads."""
    from scipy.optimize import linprog  # type: ignore[import-untyped]  # scipy has no types of its own
    from scipy.sparse import coo_array, vstack  # type: ignore[import-untyped]  # likewise

    costs, upcoming = Costs.of(trace, machine), following(trace.subjects)
    begins = np.flatnonzero(np.isfinite(upcoming))
    ends, i = upcoming[begins].astype(np.intp), trace.subjects[begins]
    places = [p for p in Place if p and costs.room[p] > 0]
    ways = [(w, p) for w in places for p in places if p == w or (ahead and p > w)]
    count, steps = len(begins), len(trace.times)
    # unknowns: for each way the fraction of each stretch, then the bytes in each place after each read
    size = costs.size[i].astype(float)
    unit = float(size.max())
    gains = np.concatenate([costs.read[i, 0] - costs.read[i, p] for _, p in ways] + [np.zeros(steps * len(places))])
    loads = np.concatenate(
        [size / (machine.rates.disk if w == Place.DISK else machine.rates.host) * (p > w) for w, p in ways]
    )
    row, column, value = [], [], []
    for k, place in enumerate(places):
        at = len(ways) * count + k * steps + np.arange(steps)
        row += [k * steps + np.arange(steps), k * steps + np.arange(1, steps)]
        column += [at, at[:-1]]
        value += [np.ones(steps), -np.ones(steps - 1)]
        for j, (w, _) in enumerate(ways):
            if w == place:
                row += [k * steps + begins, k * steps + ends]
                column += [j * count + np.arange(count)] * 2
                value += [-size / unit, size / unit]
    shape = (steps * len(places), len(gains))
    flow = coo_array((np.concatenate(value), (np.concatenate(row), np.concatenate(column))), shape).tocsr()
    whole = coo_array(
        (np.ones(count * len(ways)), (np.tile(np.arange(count), len(ways)), np.arange(count * len(ways)))),
        (count, len(gains)),
    )
    seconds = policy.build_burst + (trace.times[-1] - trace.times[0]) * policy.build_seconds / 60
    spend = coo_array((loads, (np.zeros(len(loads), int), np.arange(len(loads)))), (1, len(gains)))
    top = np.concatenate([np.ones(count * len(ways)), *(np.full(steps, costs.room[p] / unit) for p in places)])
    made = linprog(
        -gains, A_ub=vstack([whole, spend]).tocsr(), b_ub=np.append(np.ones(count), seconds), A_eq=flow,
        b_eq=np.zeros(shape[0]), bounds=np.stack([np.zeros(len(top)), top], axis=1), method="highs",
    )  # fmt: skip
    assert made.success, made.message
    shares = made.x[: count * len(ways)].reshape(len(ways), count)
    spent = float(loads @ made.x[: len(loads)]) + sum(
        _copies(
            trace,
            machine,
            i,
            size,
            begins,
            sum((shares[j] for j, (w, _) in enumerate(ways) if w == place), np.zeros(count)),
            place,
        )
        for place in places
    )
    whole_seconds = float(costs.read[trace.subjects, 0].sum())
    return Outcome(saved=float(-made.fun), spent=spent, whole=whole_seconds)


def _copies(trace: Trace, machine: Machine, i: Array, size: Array, begins: Array, share: Array, place: Place) -> float:
    rates = machine.rates
    rate = {Place.DISK: rates.write, Place.HOST: rates.host, Place.DEVICE: rates.device}[place]
    before, total = dict[int, float](), 0.0
    for subject, held, cost in zip(i.tolist(), share.tolist(), (size / rate).tolist(), strict=True):
        total += max(held - before.get(subject, 0.0), 0.0) * cost
        before[subject] = (
            max(held, before.get(subject, 0.0)) if place is Place.DISK else held
        )  # what was written once stays
    return total
