"""A machine without a model: reads a trace, counts the seconds that held keys and values save, and lets a scheduler move them about.

The scheduler under test is the real `plan`, called at ticks. Between ticks a read leaves what it ran or loaded at hand, in a part of
the device's bytes that is set aside for it, the oldest going first: so keeping it costs a copy until then, and no scheduling happens
that a real engine would not do. The others decide at once, at every read, and have all of the bytes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from .. import heat
from ..schedule import (
    Bucket,
    Budgets,
    Place,
    Rates,
    SchedulePolicy,
    applied,
    plan,
    snapshot,
)
from ..worth import prefill_seconds, read_seconds
from .traces import Array, Trace

TICK = 1.0  # seconds
ASIDE = 0.04  # of the device's bytes, for what is at hand; but room for the largest at least


@dataclass(frozen=True, slots=True)
class Machine:
    """Costs, and the share of all keys and values of a trace that each place has room for."""

    name: str
    rates: Rates
    bytes_per_token: int
    device: float
    host: float
    disk: float


@dataclass(slots=True)
class Outcome:
    """What a scheduler came to on a trace: seconds saved and spent on moves, of all prefill seconds; how many reads were served from
    each place; bytes over a budget at the worst moment; and seconds of planning."""

    saved: float = 0.0
    spent: float = 0.0
    whole: float = 0.0
    served: list[int] = field(default_factory=lambda: [0] * len(Place))
    over: int = 0
    planning: list[float] = field(default_factory=list)
    by_action: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Costs:
    """A trace on a machine: bytes [n], seconds for a read from each place [n, places], and bytes that there is room for [places]."""

    size: Array
    read: Array
    room: Array

    @classmethod
    def of(cls, trace: Trace, machine: Machine) -> Costs:
        """By the machine's rates."""
        size = trace.tokens * machine.bytes_per_token
        total = int(size[np.unique(trace.subjects)].sum())
        room = np.array([0, total * machine.disk, total * machine.host, total * machine.device]).astype(np.int64)
        return cls(size, read_seconds(machine.rates, prefill_seconds(machine.rates, trace.tokens), size), room)


def scheduled(trace: Trace, machine: Machine, policy: SchedulePolicy, without: str = "") -> Outcome:
    """The trace under the real scheduler; `without` names the part of it that is left out (see `_lessened`), if one is."""
    policy, machine = _lessened(policy, machine, without)
    engine = _Engine(trace, machine, policy, Costs.of(trace, machine), without)
    for at, subject in zip(trace.times.tolist(), trace.subjects.tolist(), strict=True):
        engine.read(at, subject)
    return engine.outcome


def _lessened(policy: SchedulePolicy, machine: Machine, without: str) -> tuple[SchedulePolicy, Machine]:
    """Policy and machine without a part: those that numbers can switch off. `fading` (all reads count for days), `scales` (all time scales
    count alike), `capture` (a form is made by a prefill of its own) and `prefetch` (nothing is expected) are up to the engine."""
    if without == "hysteresis":
        policy = replace(policy, keep=1.0)
    if without == "break-even":
        policy = replace(policy, break_even=1e-9)
    if without == "ration":
        policy = replace(policy, build_seconds=60.0, build_burst=1e9)
    if without == "demotion":
        machine = replace(machine, host=0.0, disk=0.0)
    return policy, machine


class _Engine:
    """What an engine does around `plan`: counts reads, keeps what is at hand, and carries moves out."""

    def __init__(self, trace: Trace, machine: Machine, policy: SchedulePolicy, costs: Costs, without: str) -> None:
        n = len(trace.tokens)
        self._aside = max(int(costs.room[Place.DEVICE] * ASIDE), int(costs.size.max()))
        budgets = Budgets(
            max(int(costs.room[Place.DEVICE]) - self._aside, 0),
            int(costs.room[Place.HOST]),
            int(costs.room[Place.DISK]),
        )
        begin = float(trace.times[0])
        self._state = snapshot(
            [str(i) for i in range(n)], tokens=trace.tokens, kv_bytes=costs.size, captured=without != "capture", created=begin, rates=machine.rates,
            budgets=budgets, bucket=Bucket(policy.build_burst, begin), scales=heat.Scales(at=begin),
        )  # fmt: skip
        self._costs, self._policy, self._groups, self._without = costs, policy, trace.groups, without
        count = len(heat.HALF_LIVES)
        fixed = {"fading": (*(0.0,) * (count - 1), 1.0), "scales": (1 / count,) * count}
        self._weights = fixed.get(without)
        self._expecting = _Expecting(trace.groups)
        self._at_hand: OrderedDict[int, int] = OrderedDict()
        self._next = begin + TICK
        self._changed = False
        self.outcome = Outcome()

    def read(self, at: float, i: int) -> None:
        """One request."""
        while self._changed and self._next <= at:
            self._tick(self._next)
            self._next += TICK
        self._next = max(self._next, np.floor(at) + TICK)
        state, read = self._state, self._costs.read[i]
        place = Place.DEVICE if i in self._at_hand else Place(int(state.kv_place[i]))
        self.outcome.served[place] += 1
        self.outcome.whole += float(read[Place.NOWHERE])
        self.outcome.saved += float(read[Place.NOWHERE] - read[place])
        scales, state.heat[i] = heat.read(state.scales, state.heat[i], float(state.heat_at[i]), at)
        state.heat_at[i] = state.last_read[i] = at
        state.reads[i] += 1
        self._state = replace(state, scales=replace(scales, weights=self._weights or scales.weights))
        self._expecting.read(i, at)
        self._land(i)
        self._changed = True

    def _land(self, i: int) -> None:
        if self._state.kv_place[i] == Place.DEVICE:
            return
        self._at_hand[i] = int(self._costs.size[i])
        self._at_hand.move_to_end(i)
        while sum(self._at_hand.values()) > self._aside:
            self._at_hand.popitem(last=False)

    def _tick(self, at: float) -> None:
        state = self._state
        state.at_hand[:] = False
        if self._without != "capture":
            state.at_hand[list(self._at_hand)] = True
        if self._without != "prefetch":
            state.expected[:] = self._expecting.chances(at)
        now = datetime.fromtimestamp(at, UTC)
        started = time.perf_counter()
        moves = plan(state, self._policy, now)
        self.outcome.planning.append(time.perf_counter() - started)
        self._state = applied(state, moves, self._policy, now)
        for move in moves:
            self.outcome.spent += move.seconds
            self.outcome.by_action[move.action] = self.outcome.by_action.get(move.action, 0.0) + move.seconds
            if move.target is Place.DEVICE:
                self._at_hand.pop(int(move.subject), None)
        self._changed = bool(moves)
        self._check()

    def _check(self) -> None:
        state = self._state
        held = np.bincount(state.kv_place, weights=state.kv_bytes, minlength=len(Place))
        held[Place.DISK] = state.kv_bytes[state.kv_blob | (state.kv_place == Place.DISK)].sum()
        budgets = (0, state.budgets.disk, state.budgets.host, state.budgets.device)
        self.outcome.over = max(self.outcome.over, *(int(held[p] - budgets[p]) for p in Place if p))


class _Expecting:
    """How likely each subject is read within the next minute, once somebody of its group is there: as often as it was in the past
    minutes in which the group was."""

    def __init__(self, groups: Array) -> None:
        self._groups = groups
        self._here = np.full(len(groups), -1.0)  # per subject: the minute in which it was last read
        self._read = np.zeros(len(groups))
        self._minutes = np.zeros(int(groups.max()) + 1 if len(groups) else 0)
        self._last = np.full(len(self._minutes), -np.inf)

    def read(self, i: int, at: float) -> None:
        """Subject `i` was read."""
        group = self._groups[i]
        if group < 0:
            return
        minute = at // 60
        if not self._minutes[group] or self._last[group] // 60 != minute:
            self._minutes[group] += 1
        self._last[group] = at
        if self._here[i] != minute:
            self._here[i] = minute
            self._read[i] += 1

    def chances(self, at: float) -> Array:
        """For all subjects [n]."""
        if not len(self._minutes):
            return np.zeros(len(self._groups))
        here = (at - self._last <= 60) & (self._minutes > 0)
        return np.where(here[self._groups], self._read / (self._minutes[self._groups] + 1), 0.0)
