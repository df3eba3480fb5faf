"""The verbs of upkeep: what `MemOS` does by itself, when it is told to or in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from . import branches, reader
from .adapters import AdapterTier
from .carrying import Carrier
from .census import Census
from .derived import Derived
from .errors import InvalidArgument, MemOSError
from .holdings import Rates, SchedulePolicy, Snapshot
from .leases import Leases
from .measuring import Measured
from .metrics import Metrics
from .reports import Carried, TickReport
from .requests import MOMENT, Requests
from .scheduler import Scheduler
from .telemetry import Telemetry
from .tiers import Tiers
from .types import Policy
from .upkeep import Upkeep
from .vault import Vault
from .writing import Writer

if TYPE_CHECKING:
    from .answering import Answering
    from .distillation import Distillation
    from .model import LocalModel

log = logging.getLogger("memos_core")


class Ticking:
    """What `MemOS` inherits: it has the store, and says what time it is."""

    _clock: Callable[[], datetime]
    _model: LocalModel | None
    _distillation: Distillation | None
    _policy: Policy
    _adapters: AdapterTier
    _derived: Derived
    _tiers: Tiers
    _upkeep: Upkeep
    _vault: Vault
    _writer: Writer
    _scheduler: Scheduler
    _telemetry: Telemetry
    _metrics: Metrics
    _answering: Answering | None
    _thread: threading.Thread | None = None
    _starting: threading.Lock
    _requests: Requests

    if TYPE_CHECKING:

        def _require_open(self) -> None: ...
        def _how(self, distillation: Distillation | None) -> Distillation: ...
        def _remove_lapsed(self, now: datetime) -> int: ...

    def tick(self, now: datetime | None = None) -> TickReport:
        """Write down buffered usage, carry out what the scheduler plans (`SchedulePolicy`), remove for good what is past its time, finish what a killed
        process began, make an adapter again that lost a source, compact the tables.

        What fails is told of in the report and in the log, and the rest is done. Raises InvalidArgument, before anything is moved, for a
        clock that went back, a budget smaller than one block, and a policy that contradicts itself.
        """
        self._require_open()
        self._vault.ledger.require_key()
        begun = time.perf_counter()
        moment = reader.aware(now, "now") or self._clock()
        used = self._upkeep.flush()
        moves = self._scheduler.run(moment, self._model, self._distillation)
        expired = self._remove_lapsed(moment)
        self._upkeep.sweep()
        self._upkeep.uses.sweep(moment)
        self._tiers.sweep()
        self._adapters.under_way.sweep()
        branches.sweep(self._vault.db.site)
        if self._vault.db.has("leases"):
            self._scheduler.leases.sweep()
        self._rebuild()
        compacted = self._vault.db.compact(wait=self._policy.lock_seconds)
        self._metrics.ticked(moves, time.perf_counter() - begun)
        return TickReport(moment, used, expired, compacted, tuple(moves))

    def start(self, every: timedelta | float = 60.0) -> None:
        """Tick in a thread of its own, off the way of requests: now, and then after each span (a timedelta or seconds) until `stop` or
        `close`. Started twice is started once. Raises InvalidArgument as `tick` does."""
        seconds = every.total_seconds() if isinstance(every, timedelta) else every
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < threading.TIMEOUT_MAX:
            raise InvalidArgument(f"every: a positive timedelta or number of seconds is needed, not {every!r}")
        self._require_open()
        self._vault.ledger.require_key()
        self._scheduler.check(self._model)
        with self._starting:
            # one that was told to end, and has not yet, is as good as gone
            if self._thread is None or not self._thread.is_alive() or self._scheduler.stopping.is_set():
                self._scheduler.stopping.clear()
                self._thread = threading.Thread(target=self._tick_on, args=(seconds,), name="memos-tick", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Tick no more by itself. A move that is under way is finished, those behind it are left to the next start. Twice is once."""
        self._scheduler.stopping.set()
        if self._thread is threading.current_thread():  # asked by what a tick calls: it ends with that tick
            self._thread = None
            return
        with self._starting:
            if self._thread is not None:
                self._thread.join()
                self._thread = None
            self._scheduler.stopping.clear()

    def interrupt(self) -> None:
        """Let a tick that is under way leave the moves behind the present one to others, and later ones all of them. Does not wait."""
        self._scheduler.stopping.set()

    def flush(self) -> None:
        """Wait until what is pending is done: buffered usage written down, and every move carried out that can be now."""
        self._require_open()
        self._vault.ledger.require_key()
        self._upkeep.wait()
        self._upkeep.flush()
        begun = time.perf_counter()
        moves = self._scheduler.settle(self._clock(), self._model, self._distillation)
        self._metrics.ticked(moves, time.perf_counter() - begun)

    def _tick_on(self, seconds: float) -> None:
        stopping, me = self._scheduler.stopping, threading.current_thread()
        while not stopping.is_set() and self._thread is me:
            try:
                self.tick()
            except MemOSError as error:  # the next one may go well, and what asks for memories goes on
                log.warning("tick of %s: %s", self._vault.path, error)
            except Exception:  # likewise, such as a device out of memory: a thread that ended would be missed by nobody
                log.exception("tick of %s", self._vault.path)
            stopping.wait(seconds)
        if self._thread is None:  # nobody else waits for its end
            stopping.clear()

    def _rebuild(self) -> None:
        self._adapters.weights.settle()
        if self._model is None or next(iter(self._adapters.rebuilds.wanted()), None) is None:
            return
        with self._scheduler.leases.held("rebuild", what="rebuild") as lease:
            if lease is not None:
                self._adapters.rebuild(self._model, self._how(None))

    def _noted(self, snapshot: Snapshot, carried: list[Carried], now: datetime, needed: float) -> None:
        tally = None if self._answering is None else self._answering.tally
        sample, process = self._telemetry.note(snapshot, carried, now, needed, self._model, tally)
        self._metrics.note(sample, process)

    def _set_up_scheduler(self, schedule: SchedulePolicy, rates: Rates | None) -> None:
        uses, leases = self._upkeep.uses, Leases(self._vault.db, self._clock, seconds=2 * self._policy.lease_seconds)
        self._scheduler = Scheduler(
            self._vault, self._writer, uses,
            Census(self._vault, self._tiers, self._adapters, uses, self._policy),
            Carrier(self._derived, self._tiers, self._adapters, uses, leases),
            leases, schedule, self._clock, Measured(self._tiers, rates),
        )  # fmt: skip
        self._telemetry, self._metrics, self._starting = Telemetry(uses), Metrics(), threading.Lock()
        self._scheduler.seen = self._noted
        self._requests = Requests() if self._model is None else self._model.requests
        self._scheduler.give_way = self._vault.db.give_way = partial(self._requests.wait, MOMENT)
        self._derived.make_room = lambda lacking: self._scheduler.make_room(lacking, self._model)
