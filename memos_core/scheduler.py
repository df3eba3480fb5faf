"""The scheduler at work: look, plan, carry out, tell. Everything that it decides is decided by `schedule.plan`, from the store.

Nothing is queued: what was not done, because it failed, or somebody else was at it, or this process was killed, is in the next plan.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from . import heat, planning, schedule
from .carrying import Carrier
from .census import Census, Circumstances, Subject
from .errors import InvalidArgument
from .heat import Floats
from .holdings import Action, Bucket, Budgets, Move, Place, Rates, SchedulePolicy, Snapshot, check_rates
from .leases import Leases
from .measuring import Measured
from .reports import DONE, ELSEWHERE, FAILED, LATER, Carried
from .types import Event, Kind, MemCube
from .uses import Uses
from .vault import Vault
from .writing import Writer

if TYPE_CHECKING:
    from .distillation import Distillation
    from .model import LocalModel

log = logging.getLogger("memos_core")
_AGAIN = timedelta(minutes=1)  # after which what failed is tried again, twice as long after each further failure
_LONGEST = timedelta(hours=6)
_MADE = 200  # passages and adapters of which it is remembered what they were made of
_AT_A_TIME = 500  # memories that are archived in one turn of the writers
_ROUNDS = 8  # plans of one `settle`: one move may make the next one possible
Subjects = dict[str, Subject]
_UNKNOWN = Rates(prefill=1e3, disk=1e9)  # without a model nothing is built, and nothing depends on them


def checked_schedule(
    policy: object, now: datetime, budgets: Budgets | None = None, rates: Rates | None = None
) -> SchedulePolicy:
    """The policy, if it does not contradict itself, no budget is smaller than one block, and rates, if given, are rates. Raises
    InvalidArgument."""
    if not isinstance(policy, SchedulePolicy):
        raise InvalidArgument(f"schedule: a SchedulePolicy is needed, not {type(policy).__name__}")
    known, bucket = _UNKNOWN if rates is None else check_rates(rates), Bucket(0.0, now.timestamp())
    schedule.plan(schedule.snapshot([], rates=known, budgets=budgets or Budgets(0), bucket=bucket), policy, now)
    return policy


class Scheduler:
    """The scheduler of one store in this process. Safe for many threads; one plan is carried out at a time.

    policy: its numbers. measured: what things cost on this machine.
    """

    def __init__(
        self,
        vault: Vault,
        writer: Writer,
        uses: Uses,
        census: Census,
        carrier: Carrier,
        leases: Leases,
        policy: SchedulePolicy,
        clock: Callable[[], datetime],
        measured: Measured,
    ) -> None:
        self._vault = vault
        self._writer = writer
        self._uses = uses
        self._census = census
        self._carrier = carrier
        self._policy = policy
        self._clock = clock
        self._measured = measured
        self.leases = leases
        self._bucket: Bucket | None = None
        self._made: dict[str, list[str]] = {}  # what cubes were made of that are not remembered yet
        self._failures: dict[tuple[str, str], tuple[int, datetime]] = {}
        self._lock = threading.RLock()
        self.stopping = threading.Event()
        self.give_way: Callable[[], object] = lambda: None
        """Called before each step: requests go first."""
        self.seen: Callable[[Snapshot, list[Carried], datetime, float], object] = lambda *_: None
        """Called after each plan that a model took part in: what there is now, what was done, when, and the share of a scope's requests
        that a memory needs for a place in the passage."""

    def check(self, model: LocalModel | None) -> None:
        """Raises InvalidArgument for a policy that contradicts itself and for budgets smaller than one block."""
        checked_schedule(self._policy, self._clock(), self._census.budgets(model))

    def look(self, now: datetime, model: LocalModel | None, how: Distillation | None) -> tuple[Snapshot, Subjects]:
        """What there is to decide about. `how` memories become adapters; None: they do not, by themselves."""
        rates = self._measured.rates(model) if model is not None else _UNKNOWN
        bucket = self._bucket or Bucket(self._policy.build_burst, now.timestamp())
        under_way = self.leases.under_way() if self._vault.db.has("leases") else []
        failing = [id for (id, action), (_, until) in self._failures.items() if action == Action.DISTIL and now < until]
        return self._census.take(
            Circumstances(self._policy, rates, bucket, under_way, now.timestamp(), model, how, failing)
        )

    def run(self, now: datetime, model: LocalModel | None, how: Distillation | None) -> list[Carried]:
        """Plan once, and carry the plan out. Raises InvalidArgument, before anything moves, for a clock that went back, a budget smaller
        than one block, and a policy that contradicts itself."""
        with self._lock:
            self.give_way()
            snapshot, subjects = self.look(now, model, how)
            moves = planning.moves_of(snapshot, self._policy, now)
            self._bucket = schedule.refilled(snapshot.bucket, self._policy, now)
            carried = self._texts(snapshot, [m for m in moves if m.form is Kind.PLAINTEXT], now)
            if model is not None:
                work = [m for m in moves if m.form is not Kind.PLAINTEXT]
                carried += [self._one(m, subjects[m.subject], model, how) for m in work]
                self._remember()
                self._weigh(snapshot, subjects, model, now)
                done = [c.move for c in carried if c.outcome == DONE]
                after = schedule.applied(snapshot, done, self._policy, now)
                needed = self._census.costs(model, snapshot.rates)
                self.seen(after, carried, now, needed.open / needed.run)
            self._uses.remember("planned_at", now.timestamp())  # not the later: a clock is not wrong for ever
        return carried

    def settle(self, now: datetime, model: LocalModel | None, how: Distillation | None) -> list[Carried]:
        """Plan and carry out until there is nothing left that could be done now."""
        found: list[Carried] = []
        for _ in range(_ROUNDS):
            carried = self.run(now, model, how)
            found += carried
            if not any(c.outcome == DONE for c in carried):
                break
        return found

    def make_room(self, lacking: int, model: LocalModel | None) -> None:
        """Let go of what is worth least on disk, so that so many bytes more fit: of what the scheduler made, not of what was asked for.
        The caller holds `vault.writing()`."""
        if model is None:
            return
        now = self._clock()
        snapshot, subjects = self.look(now, model, None)
        worth = self._worth(snapshot, now)
        ours = np.flatnonzero(~snapshot.pinned & snapshot.kv_blob & snapshot.rebuildable & ~snapshot.leased)
        for i in sorted(ours.tolist(), key=lambda i: (worth[i], snapshot.ids[i])):
            if lacking <= 0:
                return
            id, size = snapshot.ids[i], int(snapshot.kv_bytes[i])
            reason = (
                f"{size:,} bytes of the disk were needed for what was asked for, and it saved the least for its bytes"
            )
            move = Move(id, Action.DROP, Kind.ACTIVATION, Place.DISK, Place.NOWHERE, size, 0.0, 0.0, reason)
            if self._one(move, subjects[id], model, None).outcome == DONE:
                lacking -= size

    # --- below -----------------------------------------------------------------------------------------------------------

    def _texts(self, snapshot: Snapshot, moves: Sequence[Move], now: datetime) -> list[Carried]:
        """Memories that are archived, some at a time in the writers' turn, for which others wait too; those that have expired are expired
        with all others."""
        cold = {m.subject: m.reason for m in moves if m.action is Action.ARCHIVE}
        index = {id: i for i, id in enumerate(snapshot.ids)} if cold else {}
        quiet = {id: float(max(snapshot.last_read[index[id]], snapshot.created[index[id]])) for id in cold}
        outcomes = {m.subject: DONE if m.action is Action.EXPIRE else LATER for m in moves}
        ids = list(cold)
        for some in (ids[at : at + _AT_A_TIME] for at in range(0, len(ids), _AT_A_TIME)):
            if self.stopping.is_set():
                break
            self.give_way()
            archived = self._writer.archive_cold({id: cold[id] for id in some}, quiet, now)
            outcomes |= dict.fromkeys(some, ELSEWHERE) | dict.fromkeys(archived, DONE)
        return [Carried(m, outcomes[m.subject], "", m.subject) for m in moves]

    def _one(self, move: Move, subject: Subject, model: LocalModel, how: Distillation | None) -> Carried:
        key, now = (move.subject, str(move.action)), self._clock()
        failures, until = self._failures.get(key, (0, now))
        if self.stopping.is_set() or now < until:
            return Carried(move, LATER, subject.who, subject.told_of)
        self.give_way()
        began = time.perf_counter()
        try:
            ours, cube = self._carrier.carry(move, subject, model, how)
        except Exception as error:  # whatever it is, the other moves go on, and the log says what it was
            self._failures[key] = (failures + 1, now + min(_LONGEST, _AGAIN * 2 ** min(failures, 10)))
            log.warning("%s of %s for %s failed: %s", move.action, subject.told_of, subject.who, error)
            spent, what = time.perf_counter() - began, f"{type(error).__name__}: {error}"
            return self._told(Carried(move, FAILED, subject.who, subject.told_of, spent, what), subject, None)
        if not ours:
            return Carried(move, ELSEWHERE, subject.who, subject.told_of)
        self._failures.pop(key, None)
        if cube is not None and move.target > move.source:
            self._made[cube.id] = [link.id for link in cube.lineage]
        seconds = time.perf_counter() - began
        if move.target > move.source and self._bucket is not None:
            self._bucket = replace(self._bucket, seconds=self._bucket.seconds - seconds)
        of = subject.told_of if cube is None else cube.id
        return self._told(Carried(move, DONE, subject.who, of, seconds), subject, cube)

    def _remember(self) -> None:
        """Keep of what cubes were made, for as long as decisions about them are of interest: they may be gone by then."""
        if self._made:
            made: dict[str, list[str]] = (self._uses.recall("made") or {}) | self._made
            self._uses.remember("made", dict(list(made.items())[-_MADE:]))
            self._made.clear()

    def _told(self, carried: Carried, subject: Subject, cube: MemCube | None) -> Carried:
        words = f"{carried.move.action} {carried.move.form}: {carried.move.reason}"
        event = Event(
            str(uuid.uuid4()), self._clock(), carried.who, "schedule", carried.subject,
            outcome="ok" if carried.outcome == DONE else "failed", detail=f"{words}. {carried.detail}" if carried.detail else words,
        )  # fmt: skip
        self._vault.record([event], [self._carrier.readers(subject, cube)])
        return carried

    def _worth(self, snapshot: Snapshot, now: datetime) -> Floats:
        """Seconds that each subject's keys and values save for each second and byte."""
        rate = heat.rate(snapshot.scales, snapshot.heat, snapshot.heat_at, now.timestamp())
        return np.asarray(rate * snapshot.tokens / snapshot.rates.prefill / np.maximum(snapshot.kv_bytes, 1), float)

    def _weigh(self, snapshot: Snapshot, subjects: Subjects, model: LocalModel, now: datetime) -> None:
        """Tell the shelf what a passage's blocks are worth. What is there only because it is expected goes first."""
        worth, said = self._worth(snapshot, now), dict[str, float]()
        for i, subject in enumerate(subjects.values(), len(snapshot.ids) - len(subjects)):  # they come behind the texts
            said |= dict.fromkeys(self._carrier.keys(subject, model), float(worth[i]) or -1.0)
        model.shelf.value(said)
