"""What the scheduler decides about, as records: what is held where, what it costs, what there is room for, and the moves. Pure.

A *subject* is whatever is held as one: a memory, or memories that are opened together. Its text always stays. Beside the text it may
have keys and values (KV) and an adapter, each in at most one place in memory and, as a blob, on disk. Times are POSIX seconds (UTC) in
the columns and aware datetimes at the door.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np

from .errors import InvalidArgument
from .heat import HALF_LIVES, Scales
from .types import Kind

Column = np.ndarray[Any, np.dtype[Any]]


class Place(IntEnum):
    """Where keys and values or an adapter are, the farthest first: a greater place is a faster one."""

    NOWHERE = 0
    DISK = 1
    HOST = 2
    DEVICE = 3


class Action(StrEnum):
    """What a move does. `Move.form` says to which form of the subject."""

    BUILD = "build"  # keys and values out of the text, by a prefill or, where one has just been, by a copy
    LOAD = "load"  # to a faster place
    PREFETCH = "prefetch"  # a load ahead of a read that is expected
    DEMOTE = "demote"  # to a slower place
    DROP = "drop"  # the copy at `source` goes; what is rebuildable can be built again
    DISTIL = "distil"  # an adapter out of the text
    ARCHIVE = "archive"  # the memory itself: no longer searched
    EXPIRE = "expire"  # the memory itself: its time has come


@dataclass(frozen=True, slots=True)
class Rates:
    """What things cost on this machine, measured at start-up and refined as it runs.

    prefill: tokens a second. attention: seconds for each squared token, on top (0: a prefill costs the same for every token).
    disk, host, device: bytes a second from there to where a model can use them. write: bytes a second to disk.
    distil: seconds for each token of text; distil_start: seconds for any distillation.
    """

    prefill: float
    disk: float
    host: float = 20e9
    device: float = 1e12
    write: float = 1e9
    attention: float = 0.0
    distil: float = 1.0
    distil_start: float = 10.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bytes that may be held: of KV and adapters on the device, on the host and on disk; `adapters` of adapters on the device, within
    that. block: bytes of the smallest unit of KV. window: tokens that the model can read at once."""

    device: int
    host: int = 0
    disk: int = 64 << 30
    adapters: int = 1 << 30
    block: int = 0
    window: int = 32_768

    @property
    def by_place(self) -> tuple[int, ...]:
        """Bytes for each `Place`."""
        return (0, self.disk, self.host, self.device)

    @property
    def last_place(self) -> Place:
        """The slowest place with room for anything, from where what goes is gone; NOWHERE without any."""
        return min((p for p in Place if self.by_place[p] > 0), default=Place.NOWHERE)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Seconds of building that may be spent, as of `at` (POSIX seconds). Below 0 after a build that took more than was there."""

    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class SchedulePolicy:
    """The numbers of the scheduler; the defaults suit a chat as well as an archive, since heat finds its own time scale.

    break_even: a form is made when what its lack has cost since it was last let go reaches this many times the cost of making it.
    keep: what is held stays until its gain falls below this share of what a newcomer must have (hysteresis; 1 is none); in the last place,
    from where what goes is gone, gains are told apart by whole steps of it.
    build_seconds: of building, loading and distilling for each minute; build_burst: seconds that can be saved up.
    archive_after: without a read, a memory of neutral priority is archived, which a search does not find. None: never, unless it is said.
    prefetch_share: of a place's bytes, at most, for what is there only because it is expected.
    prefetch_within: how far ahead `Snapshot.expected` looks. prefetch_from: the chance of a read from which on something is loaded
    before it: at 0.7, less than a third of it in vain.
    idle: what a second of copying or loading in the background counts against one for which somebody waits. Prefills count in full.
    context_share: of the window; text that takes more of it argues for an adapter.
    clock_back: how far the clock may be behind the last plan (machines differ); further is refused.
    """

    break_even: float = 1.0
    keep: float = 0.7
    build_seconds: float = 15.0
    build_burst: float = 60.0
    archive_after: timedelta | None = None
    prefetch_share: float = 0.2
    prefetch_within: timedelta = timedelta(minutes=1)
    prefetch_from: float = 0.7
    idle: float = 0.15
    context_share: float = 0.25
    clock_back: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is, as columns over n subjects, and what it is decided by. Made with `snapshot`; checked by `plan`.

    ids [n]: names. tokens [n]: of the text. kv_bytes, adapter_bytes [n]: what the form takes, or would take.
    kv_place, adapter_place [n]: the fastest `Place` with a copy. kv_blob, adapter_blob [n]: whether there is one on disk as well.
    at_hand [n]: a request has just run or loaded the KV, so that keeping it costs only a copy. captured [n]: any read that has to run or
    load it leaves it at hand, so that making it in the background saves no more than the next read.
    heat [n, scales], heat_at [n]: faded reads and their time, see `heat`. reads [n]: since the KV was last demoted or dropped, or ever.
    last_read, created, expires_at [n]: POSIX seconds; -inf for never read, inf for no expiry. priority [n]: 0.5 is neutral.
    pinned, frozen, archived, rebuildable [n]. asked [n]: the user wants an adapter. distillable [n]: one can be made.
    expected [n]: chance that the subject is read within `SchedulePolicy.prefetch_within`.
    leased [n]: somebody is at work on it; leased_to [n]: the place where room is kept for what comes of it.
    planned_at: when `plan` was last carried out, or None.
    """

    ids: Sequence[str]
    tokens: Column
    kv_bytes: Column
    kv_place: Column
    kv_blob: Column
    at_hand: Column
    captured: Column
    adapter_bytes: Column
    adapter_place: Column
    adapter_blob: Column
    heat: Column
    heat_at: Column
    reads: Column
    last_read: Column
    created: Column
    expires_at: Column
    priority: Column
    pinned: Column
    frozen: Column
    archived: Column
    rebuildable: Column
    asked: Column
    distillable: Column
    expected: Column
    leased: Column
    leased_to: Column
    rates: Rates
    budgets: Budgets
    bucket: Bucket
    scales: Scales = Scales()
    planned_at: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """One thing to do: to which form of which subject, between which places.

    bytes: moved, made or freed. seconds: that it takes, by the rates. gain: seconds that it is expected to save for each second that
    passes (0 where it only makes room or follows a rule). reason: why, with the numbers.
    """

    subject: str
    action: Action
    form: Kind
    source: Place
    target: Place
    bytes: int
    seconds: float
    gain: float
    reason: str


_DEFAULTS: dict[str, tuple[Any, type]] = {
    "kv_place": (Place.NOWHERE, np.int8), "kv_blob": (False, np.bool_), "at_hand": (False, np.bool_), "captured": (False, np.bool_),
    "adapter_bytes": (0, np.int64), "adapter_place": (Place.NOWHERE, np.int8), "adapter_blob": (False, np.bool_),
    "heat_at": (0.0, np.float64), "reads": (0, np.int64), "last_read": (-np.inf, np.float64), "created": (0.0, np.float64),
    "expires_at": (np.inf, np.float64), "priority": (0.5, np.float64), "pinned": (False, np.bool_), "frozen": (False, np.bool_),
    "archived": (False, np.bool_), "rebuildable": (True, np.bool_), "asked": (False, np.bool_), "distillable": (False, np.bool_),
    "expected": (0.0, np.float64), "leased": (False, np.bool_), "leased_to": (Place.NOWHERE, np.int8),
    "tokens": (0, np.int64), "kv_bytes": (0, np.int64),
}  # fmt: skip


def snapshot(
    ids: Sequence[str],
    *,
    rates: Rates,
    budgets: Budgets,
    bucket: Bucket,
    scales: Scales = Scales(),
    planned_at: float | None = None,
    **columns: Any,
) -> Snapshot:
    """A snapshot out of the columns that are known (arrays, sequences or one value for all); the others are as for a memory of text
    that was never read. Raises InvalidArgument for a column that does not exist or does not fit."""
    n = len(ids)
    if unknown := sorted(set(columns) - set(_DEFAULTS) - {"heat"}):
        raise InvalidArgument(f"{unknown[0]}: a snapshot has no such column")
    made = {name: _column(name, columns.get(name, value), (n,), kind) for name, (value, kind) in _DEFAULTS.items()}
    made["heat"] = _column("heat", columns.get("heat", 0.0), (n, len(HALF_LIVES)), np.float64)
    return Snapshot(ids=ids, rates=rates, budgets=budgets, bucket=bucket, scales=scales, planned_at=planned_at, **made)


def _column(name: str, values: Any, shape: tuple[int, ...], kind: type) -> Column:
    try:
        return np.array(np.broadcast_to(np.asarray(values, dtype=kind), shape))
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{name}: a column of shape {shape} is needed: {error}") from error


def check(s: Snapshot, policy: SchedulePolicy, now: float) -> None:
    """Raises InvalidArgument for a policy that contradicts itself, for budgets or rates with which nothing can be planned, and for a
    clock that is behind the last plan."""
    _check_kinds(policy)
    check_rates(s.rates)
    within = policy.prefetch_within.total_seconds()
    archive = math.inf if policy.archive_after is None else policy.archive_after.total_seconds()
    refusals = (
        (
            0 < policy.keep <= 1,
            "keep",
            "a share is above 0, and above 1 what is held would be let go while a newcomer would be taken for it",
        ),
        (
            0 < policy.break_even < math.inf,
            "break_even",
            "at 0 what costs nothing to do without would be made at once, and without an end nothing ever",
        ),
        (0 <= policy.build_seconds <= 60, "build_seconds", "a minute has 60 seconds"),
        (policy.build_burst >= 0, "build_burst", "seconds are needed"),
        (
            policy.build_seconds == 0 or policy.build_burst > 0,
            "build_burst",
            "without it build_seconds can never be spent",
        ),
        (0 <= policy.prefetch_share <= 1, "prefetch_share", "a share is between 0 and 1"),
        (0 < policy.prefetch_from <= 1, "prefetch_from", "a chance is above 0 and at most 1"),
        (
            0 < policy.idle <= 1,
            "idle",
            "a second in the background is worth something, and no more than one of waiting",
        ),
        (0 < policy.context_share <= 1, "context_share", "a share of the window is above 0 and at most 1"),
        (within > 0, "prefetch_within", "a time to come is needed"),
        (
            archive > within,
            "archive_after",
            "what is loaded because it is expected would be archived before it is read",
        ),
        (policy.clock_back.total_seconds() >= 0, "clock_back", "a length of time is needed"),
    )
    for holds, name, why in refusals:
        if not holds:
            raise InvalidArgument(f"SchedulePolicy.{name}: {getattr(policy, name)} contradicts the rest: {why}")
    for name in ("device", "host", "disk", "adapters"):
        budget = getattr(s.budgets, name)
        if budget < 0 or (0 < budget < s.budgets.block and name != "adapters"):
            raise InvalidArgument(
                f"Budgets.{name}: {budget:,} bytes hold no block of {s.budgets.block:,}: give it more, or 0 to hold nothing there"
            )
    if s.planned_at is not None and now < s.planned_at - policy.clock_back.total_seconds():
        raise InvalidArgument(
            f"now: {s.planned_at - now:,.0f} s before the last plan: the clock went back, and nothing is moved until it is set right; if it was "
            "wrong then, one tick with a SchedulePolicy.clock_back as long as that takes the time of now"
        )


def check_rates(rates: object) -> Rates:
    """The rates, if there is anything that can be reckoned with them. Raises InvalidArgument."""
    if not isinstance(rates, Rates):
        raise InvalidArgument(f"rates: Rates are needed, not {type(rates).__name__}")
    for part in fields(rates):
        value = getattr(rates, part.name)
        least = 0 if part.name in ("attention", "distil", "distil_start") else math.ulp(0.0)
        if not _is_number(value) or not least <= value < math.inf:
            raise InvalidArgument(f"Rates.{part.name}: {value!r} is no rate")
    return rates


def _check_kinds(policy: SchedulePolicy) -> None:
    """Raises InvalidArgument for a number that is none, and for a length of time that is a number: of what, it does not say."""
    for part in fields(policy):
        value = getattr(policy, part.name)
        if isinstance(part.default, timedelta) or part.name == "archive_after":
            if not isinstance(value, timedelta) and not (value is None and part.name == "archive_after"):
                raise InvalidArgument(f"SchedulePolicy.{part.name}: a timedelta is needed, not {value!r}")
        elif not _is_number(value):
            raise InvalidArgument(f"SchedulePolicy.{part.name}: a number is needed, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
