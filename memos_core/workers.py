"""Workers: processes that carry out what the plan of a store asks for, one on a machine or many. Knows `MemOS.tick`; and Ray, where asked.

A worker keeps nothing that must not be lost. The plan follows from the store, and a lease on the store for each piece of work sees to it
that nobody does what another one is doing. So workers are started, killed and added at any time: what a dead one held lapses and is done
by another, a distillation from its last checkpoint on.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .errors import Conflict, InvalidArgument, MissingPackage, StoreUnavailable, WorkersUnavailable
from .holdings import Rates, SchedulePolicy
from .memos import MemOS
from .reports import DONE, FAILED
from .types import Embedder, Policy

if TYPE_CHECKING:
    from .distil import Progress
    from .distillation import Distillation
    from .model import LocalModel

log = logging.getLogger("memos_core")
_PATIENCE = 5  # ticks in a row that may fail before a worker gives up
_AGAIN = 2.0  # seconds after which a worker that cannot be reached is asked again
_GRACE = 60.0  # seconds for which workers are waited for at the end
_LOOK = 0.2  # seconds between two looks at whether to stop
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # how a gRPC client begins
_ADDRESS = re.compile(r"\[?(?P<host>[^\[\]]+)\]?:(?P<port>[0-9]{1,5})")  # brackets: of IPv6
_ROUND = 1e-9  # ten tenths are one
_SETTINGS, _ALERT = 4, 0x15  # how a server goes on: in its fourth byte; or, where it wants TLS, in its first


class _Interrupted(BaseException):
    """Work is given back: no failure, so that what catches failures lets it pass."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a worker opens its store: said and not given, since it does so in a process of its own, maybe on another machine.

    path, storage_options, embed, policy, schedule, distillation, rates, actor, audit_key: as for `MemOS`. Without a distillation no adapter
        is made but those that are wanted again. On Ray the key goes to the workers' nodes as the rest of it does.
    model: the name or folder of the one that it keeps resident, or what makes a `LocalModel`; without one it only does the upkeep.
    """

    path: str
    storage_options: Mapping[str, str] | None = None
    embed: Embedder | str | None = None
    model: str | Callable[[], LocalModel] | None = None
    distillation: Distillation | None = None
    policy: Policy = Policy()
    schedule: SchedulePolicy = SchedulePolicy()
    rates: Rates | None = None
    actor: str = "local"
    audit_key: bytes | Sequence[bytes] | None = field(default=None, repr=False)

    def open(self, stop: threading.Event) -> MemOS:
        """Open it; once `stop` is set, a distillation under way is given back. Raises as `MemOS` and `LocalModel` do."""
        return MemOS(
            self.path, storage_options=self.storage_options, embed=self.embed, model=self._model(), policy=self.policy,
            distillation=self._interruptible(stop), schedule=self.schedule, rates=self.rates, actor=self.actor,
            audit_key=self.audit_key,
        )  # fmt: skip

    def _model(self) -> LocalModel | None:
        if isinstance(self.model, str):
            from .model import LocalModel

            return LocalModel(self.model)
        return None if self.model is None else self.model()

    def _interruptible(self, stop: threading.Event) -> Distillation | None:
        how = self.distillation
        if how is None:
            return None

        def progress(step: Progress) -> None:
            if stop.is_set():
                raise _Interrupted
            how.progress(step)

        return replace(how, progress=progress)


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick of a worker came to: how many moves it carried out and how many failed, each in words too. `where` is its host and process."""

    worker: int
    where: str
    seconds: float
    done: tuple[str, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Worked:
    """What a worker did in all; `restarts` is how often it died and was begun again."""

    worker: int
    where: str = ""
    ticks: int = 0
    done: int = 0
    failed: int = 0
    restarts: int = 0

    def after(self, tick: Ticked, *, again: bool = False) -> Worked:
        """The same after another tick; `again`: of one that was begun again."""
        return Worked(
            self.worker, tick.where, self.ticks + 1, self.done + len(tick.done), self.failed + len(tick.failed),
            self.restarts + again,
        )  # fmt: skip


class Worker:
    """One worker, with its store open and its model resident. Safe for two threads: one ticks, another one interrupts."""

    def __init__(self, opening: Opening, number: int = 0, stop: threading.Event | None = None) -> None:
        self._number = number
        self._stop = stop or threading.Event()
        self._where = f"{socket.gethostname()}:{os.getpid()}"
        self._memory = opening.open(self._stop)

    def tick(self) -> Ticked:
        """Look what there is to do, and do it. Raises as `MemOS.tick` does."""
        began = time.monotonic()
        moves: Sequence[Any] = ()
        try:
            if not self._stop.is_set():
                moves = self._memory.tick().moves
        except _Interrupted:
            log.info("worker %d gave back what it was at", self._number)
        done = tuple(f"{c.move.action} {c.move.form} of {c.subject}" for c in moves if c.outcome == DONE)
        failed = tuple(
            f"{c.move.action} {c.move.form} of {c.subject}: {c.detail}" for c in moves if c.outcome == FAILED
        )
        return Ticked(self._number, self._where, time.monotonic() - began, done, failed)

    def interrupt(self) -> None:
        """Let a tick that is under way end: after its present move, or, in a distillation, at its last checkpoint."""
        self._stop.set()
        self._memory.interrupt()

    def close(self) -> None:
        """Let go of the store."""
        self._memory.close()


def work(
    opening: Opening,
    *,
    every: float = 30.0,
    stop: threading.Event | None = None,
    told: Callable[[Ticked], None] = lambda tick: None,
) -> Worked:
    """Be a worker until `stop` is set: tick, at once again where something was done, else after `every` seconds.

    Raises as opening does, as `MemOS.tick` does, and StoreUnavailable if the store could not be reached several times in a row, or Conflict
    if others kept changing it.
    """
    stop = stop or threading.Event()
    checked_every(every)
    worker = Worker(opening, stop=stop)
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(worker, stop, over), name="memos-stop", daemon=True)
    watch.start()
    found, failures = Worked(0), 0
    try:
        while not stop.is_set():
            try:
                tick = worker.tick()
            except (
                StoreUnavailable,
                Conflict,
            ) as error:  # the store is away, or others write all the time: it may pass
                failures += 1
                if failures == _PATIENCE:
                    raise
                log.warning("tick %d in a row that failed: %s", failures, error)
                stop.wait(every)
                continue
            failures, found = 0, found.after(tick)
            told(tick)
            if not tick.done:
                stop.wait(every)
    finally:
        over.set()
        watch.join()
        worker.close()
    return found


def _watch(worker: Worker, stop: threading.Event, over: threading.Event) -> None:
    while not over.wait(_LOOK):
        if stop.is_set():
            worker.interrupt()
            return


def ray(
    opening: Opening,
    *,
    address: str,
    replicas: int,
    every: float = 30.0,
    cpus: float = 1.0,
    gpus: float | None = None,
    stop: threading.Event | None = None,
    told: Callable[[Ticked], None] = lambda tick: None,
) -> list[Worked]:
    """Run so many workers on a Ray cluster (extra `ray`) until `stop` is set; what each did.

    Each is an actor with a model of its own resident, spread over the nodes, and begun again elsewhere when it or its node dies. They end
    with this process. Nodes need this package, the store's path or URL, and for a bucket the credentials.

    Args:
        address: of the head, HOST:PORT, or "auto" for one on this machine.
        cpus, gpus: that a worker takes; gpus None: one, if the cluster has any.

    Raises:
        WorkersUnavailable: no Ray at that address, or a worker that cannot open its store or model.
        InvalidArgument: more workers than the cluster has room for. MissingPackage.
    """
    checked_every(every)
    _check_taken(replicas, cpus, gpus)
    stop = stop or threading.Event()
    with _connected(address) as cluster:
        nodes = [node["Resources"] for node in cluster.nodes() if node["Alive"]]
        need = placed(nodes, replicas, cpus, gpus)
        if "://" not in opening.path and len(nodes) > 1:
            log.warning("%s: a folder, so each node of the cluster must have the same one there", opening.path)
        crew = _Crew(cluster, opening, need, [Worked(n) for n in range(replicas)])
        try:
            while not stop.is_set():
                crew.step(every, told)
        finally:
            crew.end()
    return crew.worked


class _Crew:
    """Workers that are actors: one call of each is always under way, or due."""

    def __init__(self, cluster: Any, opening: Opening, need: Mapping[str, Any], worked: list[Worked]) -> None:
        self.worked = worked
        self._cluster = cluster
        self._opening = opening
        # two calls at once: one ticks, another one interrupts. A call is not made again by Ray: what was not done is in the next plan
        self._kind = cluster.remote(Worker).options(
            max_restarts=-1, max_task_retries=0, max_concurrency=2, scheduling_strategy="SPREAD", **need
        )
        self._actors = [self._kind.remote(opening, w.worker) for w in worked]
        self._under_way: dict[Any, int] = {}
        self._due = dict.fromkeys(range(len(worked)), 0.0)
        self._away = set[int]()
        self._failures = dict.fromkeys(range(len(worked)), 0)

    def step(self, every: float, told: Callable[[Ticked], None]) -> None:
        """Ask those that are due, and take what comes in a moment."""
        now = time.monotonic()
        for n in [n for n, due in self._due.items() if due <= now]:
            del self._due[n]
            self._under_way[self._actors[n].tick.remote()] = n
        if not self._under_way:
            time.sleep(_LOOK)
            return
        ready, _ = self._cluster.wait(list(self._under_way), num_returns=1, timeout=_LOOK)
        for call in ready:
            n = self._under_way.pop(call)
            tick = self._taken(call, n)
            if tick is not None:
                self.worked[n] = self.worked[n].after(tick, again=n in self._away)
                self._failures[n] = 0
                self._away.discard(n)
                told(tick)
            soon = 0.0 if tick is not None and tick.done else every if tick is not None else min(every, _AGAIN)
            self._due[n] = time.monotonic() + soon

    def end(self) -> None:
        """Let them end what they are at or give it back, and let go of them."""
        for actor in self._actors:
            actor.interrupt.remote()
        if self._under_way:
            self._cluster.wait(list(self._under_way), num_returns=len(self._under_way), timeout=_GRACE)
        closed = [actor.close.remote() for actor in self._actors]
        self._cluster.wait(closed, num_returns=len(closed), timeout=_AGAIN)
        for actor in self._actors:
            self._cluster.kill(actor)

    def _taken(self, call: Any, n: int) -> Ticked | None:
        """What a call came to; None if its worker could not do it just now."""
        errors = self._cluster.exceptions
        try:
            return self._cluster.get(call)  # type: ignore[no-any-return]  # Ray is untyped to this checker
        except errors.ActorDiedError as error:  # it could not be begun: Ray leaves it at that
            if not self.worked[n].ticks or self._fails(n):
                raise WorkersUnavailable(f"worker {n} cannot be begun: {_last(error)}") from error
            self._actors[n] = self._kind.remote(self._opening, n)
            self._away.add(n)
        except errors.ActorUnavailableError as error:  # it died, and is begun again somewhere
            if n not in self._away:
                log.warning("worker %d is away: %s", n, _last(error))
            self._away.add(n)
        except errors.RayTaskError as error:
            if self._fails(n):
                raise WorkersUnavailable(f"worker {n} failed {_PATIENCE} times in a row: {_last(error)}") from error
            log.warning("worker %d: %s", n, _last(error))
        return None

    def _fails(self, n: int) -> bool:
        self._failures[n] += 1
        return self._failures[n] >= _PATIENCE


@contextmanager
def until_told(stop: threading.Event) -> Iterator[None]:
    """Set an event on SIGTERM and SIGINT, until the end of the block; the second one interrupts. For the main thread."""

    def tell(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def checked_every(every: Any) -> float:
    """Seconds between two ticks. Raises InvalidArgument."""
    if isinstance(every, bool) or not isinstance(every, int | float) or not 0 < every < threading.TIMEOUT_MAX:
        raise InvalidArgument(f"every: a positive number of seconds is needed, not {every!r}")
    return every


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray at an address, till the end of the block; a connection that was there already stays. Raises WorkersUnavailable soon."""
    try:
        import ray as cluster
    except ImportError:
        raise MissingPackage("workers on Ray need it: pip install 'memos-adapters[ray]'") from None
    if cluster.is_initialized():
        yield cluster
        return
    if address != "auto":
        _knock(address)
    try:
        cluster.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorkersUnavailable(f"there is no Ray to join at {address}: {_last(error)}") from error
    try:
        yield cluster
    finally:
        cluster.shutdown()


def _knock(address: str) -> None:
    """See whether something answers as a Ray head does, which Ray itself takes minutes to find out. Raises WorkersUnavailable."""
    found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise InvalidArgument(f"address: HOST:PORT of a Ray head or 'auto' is needed, not {address!r}")
    try:
        with socket.create_connection((found["host"], int(found["port"])), timeout=5) as line:
            line.sendall(_PREFACE)
            answer = line.recv(9)
    except (OSError, UnicodeError) as error:  # the latter for what can be nobody's name
        raise WorkersUnavailable(f"there is no Ray at {address}: {error}") from error
    if answer[3:4] != bytes([_SETTINGS]) and answer[:1] != bytes([_ALERT]):
        raise WorkersUnavailable(
            f"what answers at {address} is no Ray head: give the address that `ray start --head` printed"
        )


def _check_taken(replicas: Any, cpus: Any, gpus: Any) -> None:
    """Raises InvalidArgument for what no worker could take of any cluster."""
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise InvalidArgument(f"replicas: a whole number from 1 is needed, not {replicas!r}")
    for name, value in (("cpus", cpus), ("gpus", 0 if gpus is None else gpus)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf or (value > 1 and value != int(value)):
            raise InvalidArgument(f"{name}: a share of one, or a whole number from 0, is needed, not {value!r}")


def placed(nodes: Sequence[Mapping[str, float]], replicas: int, cpus: float, gpus: float | None) -> dict[str, Any]:
    """What each worker takes of a node, given what each node has. Raises InvalidArgument where they have no room for all: Ray would wait
    for ever."""
    some = any(node.get("GPU", 0.0) for node in nodes)
    need = {"CPU": cpus, "GPU": float(some) if gpus is None else gpus}
    taken = {name: each for name, each in need.items() if each}
    room = sum(min(int(node.get(name, 0.0) / each + _ROUND) for name, each in taken.items()) for node in nodes if taken)
    if taken and room < replicas:
        each = " and ".join(f"{number:g} {name}" for name, number in taken.items())
        raise InvalidArgument(
            f"replicas: {replicas} workers of {each} each are more than the cluster's nodes have room for, which is {room}"
        )
    return {"num_cpus": need["CPU"], "num_gpus": need["GPU"]}


def _last(error: BaseException) -> str:
    """What an error says at its end, where Ray quotes the cause."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else type(error).__name__
