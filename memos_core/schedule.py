"""Which memory should be held in which form and where: `plan(snapshot, policy, now)`. Pure.

The same input gives the same moves, and none once they are carried out (`applied` says what is there then). What to hold is decided by
seconds saved for each byte held; what to make, by whether doing without has cost as much as making it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from .errors import InvalidArgument
from .holdings import Action, Bucket, Budgets, Move, Place, Rates, SchedulePolicy, Snapshot, snapshot
from .types import Kind

__all__ = [
    "Action", "Bucket", "Budgets", "Move", "Place", "Rates", "SchedulePolicy", "Snapshot",
    "applied", "plan", "refilled", "snapshot",
]  # fmt: skip


def plan(snapshot: Snapshot, policy: SchedulePolicy, now: datetime) -> list[Move]:
    """What to do, in the order in which to do it: first what makes room.

    Raises InvalidArgument, before anything is decided, for a policy that contradicts itself, a budget smaller than one block, and a
    clock that is behind the last plan.
    """
    time = now.timestamp()
    if snapshot.planned_at is not None and time < snapshot.planned_at - policy.clock_back.total_seconds():
        raise InvalidArgument(f"now: the clock is {snapshot.planned_at - time:.0f} s behind the last plan")
    rates, s = snapshot.rates, snapshot
    held = np.where(s.kv_place == Place.DEVICE, s.kv_bytes, 0).sum()
    moves = []
    for i in np.flatnonzero(s.at_hand & (s.kv_place < Place.DEVICE) & ~s.leased & ~s.archived).tolist():
        size = int(s.kv_bytes[i])
        if held + size <= s.budgets.device:
            held += size
            seconds, saved = size / rates.device, float(s.tokens[i] / rates.prefill)
            moves.append(
                Move(
                    s.ids[i], Action.BUILD, Kind.ACTIVATION, Place(int(s.kv_place[i])), Place.DEVICE, size, seconds, 0.0,
                    f"a prefill has just made it: a copy of {seconds:.3g} s against {saved:.3g} s for each read",
                )
            )  # fmt: skip
    return moves


def applied(snapshot: Snapshot, moves: Sequence[Move], now: datetime) -> Snapshot:
    """The snapshot once the moves have been carried out."""
    index = {id: i for i, id in enumerate(snapshot.ids)}
    place = snapshot.kv_place.copy()
    for move in moves:
        place[index[move.subject]] = move.target
    return replace(snapshot, kv_place=place, planned_at=now.timestamp())


def refilled(bucket: Bucket, policy: SchedulePolicy, now: datetime) -> Bucket:
    """The bucket at `now`: `build_seconds` have come in for each minute, up to `build_burst`."""
    time = max(now.timestamp(), bucket.at)
    return Bucket(min(policy.build_burst, bucket.seconds + (time - bucket.at) * policy.build_seconds / 60), time)
