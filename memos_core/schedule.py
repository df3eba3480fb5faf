"""Which memory should be held in which form and where: `plan(snapshot, policy, now)`. Pure.

The same input gives the same moves, and none once they are carried out (`applied` says what is there then). What is held is decided
by seconds saved for each byte; what is made, by whether doing without has cost as much as making it. Places are filled from the
fastest down, each by first fit in the order of worth. That is why a second plan finds nothing to do: what got in counts for more now
that it is in, what did not counts for less, so each finds before it at least what stood before it the first time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from .holdings import Action, Bucket, Budgets, Move, Place, Rates, SchedulePolicy, Snapshot, check, snapshot
from .moves import altered, distilled, let_go, moved
from .parameters import Distilling, distilling
from .placing import placed
from .rows import rows_of
from .types import Kind
from .worth import Flags, Floats

__all__ = [
    "Action", "Bucket", "Budgets", "Move", "Place", "Rates", "SchedulePolicy", "Snapshot",
    "applied", "plan", "refilled", "snapshot", "spent",
]  # fmt: skip


def plan(snapshot: Snapshot, policy: SchedulePolicy, now: datetime) -> list[Move]:
    """What to do, in the order in which to do it: first what makes room.

    Budgets hold once all of it is done. Building, loading and distilling are kept within the bucket's seconds, as of `now`; the copy of
    what is at hand is free of that. Raises InvalidArgument, before anything is decided, as `holdings.check` does.
    """
    time = now.timestamp()
    check(snapshot, policy, time)
    gone, patience = lapsed(snapshot, time), _patience(snapshot, policy)
    cold = idle(snapshot, patience, time)
    there = replace(snapshot, bucket=refilled(snapshot.bucket, policy, now))
    wish = distilling(there, policy, gone | cold | there.archived)
    chosen: list[int] = []
    refused: set[int] = set()
    dropped: dict[int, Move] = {}
    while True:  # again for each adapter that comes or goes, since it takes the place of keys and values
        trial = _with_adapters(there, chosen, list(dropped), wish)
        rows = rows_of(trial, policy, time, gone=gone, cold=cold)
        found = placed(rows, trial, policy)
        homeless = np.flatnonzero(rows.adapter & ~rows.dead & (found.place == Place.NOWHERE)).tolist()
        if homeless:
            lost = {int(rows.subject[r]): r for r in homeless}
            refused |= lost.keys() & set(chosen)
            chosen = [i for i in chosen if i not in refused]
            dropped |= {i: let_go(there, rows, r) for i, r in lost.items() if i not in refused}
        elif more := wish.allowed(found.seconds, policy, {*chosen, *refused}):
            chosen += more
        else:
            break
    room, taking = moved(trial, rows, found, gone)
    return [
        *altered(there, gone, cold, patience, time), *dropped.values(), *room, *distilled(there, policy, chosen, wish), *taking,
    ]  # fmt: skip


def applied(snapshot: Snapshot, moves: Sequence[Move], policy: SchedulePolicy, now: datetime) -> Snapshot:
    """The snapshot once the moves have been carried out at `now`, each as it says."""
    index = {id: i for i, id in enumerate(snapshot.ids)} if moves else {}
    names = (
        "kv_place", "kv_blob", "at_hand", "adapter_place", "adapter_blob", "reads", "expires_at", "archived",
    )  # fmt: skip
    columns: dict[str, Any] = {name: getattr(snapshot, name).copy() for name in names}
    for move in moves:
        i = index[move.subject]
        if move.form is Kind.PLAINTEXT:
            columns["archived"][i] = True
            if move.action is Action.EXPIRE:
                columns["expires_at"][i] = np.inf
                for form in ("kv", "adapter"):
                    columns[f"{form}_place"][i], columns[f"{form}_blob"][i] = Place.NOWHERE, False
            continue
        form = "kv" if move.form is Kind.ACTIVATION else "adapter"
        _relocate(columns, form, i, move)
    bucket = refilled(snapshot.bucket, policy, now)
    bucket = replace(bucket, seconds=bucket.seconds - spent(snapshot, moves))
    return replace(snapshot, bucket=bucket, planned_at=now.timestamp(), **columns)


def _relocate(columns: dict[str, Any], form: str, i: int, move: Move) -> None:
    place, blob = columns[f"{form}_place"], columns[f"{form}_blob"]
    if move.action is Action.DROP and move.source is Place.DISK and place[i] > Place.DISK:
        blob[i] = False  # the copy in memory stays
        return
    on_disk = bool(blob[i]) or place[i] == Place.DISK
    place[i], blob[i] = move.target, move.target is not Place.NOWHERE and (on_disk or move.target is Place.DISK)
    if form == "kv":
        columns["at_hand"][i] &= move.target < move.source
        if move.target < move.source:
            columns["reads"][i] = 0


def spent(snapshot: Snapshot, moves: Sequence[Move]) -> float:
    """Seconds that moves take from the bucket: those of building, loading and distilling, but for copies of what is at hand."""
    at_hand = {snapshot.ids[i] for i in np.flatnonzero(snapshot.at_hand).tolist()}
    return sum(
        move.seconds
        for move in moves
        if move.target > move.source and not (move.form is Kind.ACTIVATION and move.subject in at_hand)
    )


def refilled(bucket: Bucket, policy: SchedulePolicy, now: datetime) -> Bucket:
    """The bucket at `now`: `build_seconds` have come in for each minute, up to `build_burst`."""
    time = max(now.timestamp(), bucket.at)
    return Bucket(min(policy.build_burst, bucket.seconds + (time - bucket.at) * policy.build_seconds / 60), time)


def lapsed(s: Snapshot, now: float) -> Flags:
    """Memories whose time is over [n]. Pinned and frozen ones stay, and those that somebody is at work on wait."""
    return np.asarray((s.expires_at <= now) & ~s.pinned & ~s.frozen & ~s.leased)


def idle(s: Snapshot, patience: Floats, now: float) -> Flags:
    """Memories to be archived: not read for longer than their `patience` [n], in seconds."""
    free = ~s.archived & ~s.pinned & ~s.frozen & ~s.leased & (s.expected == 0)
    return np.asarray(free & (now - np.maximum(s.last_read, s.created) > patience))


def _patience(s: Snapshot, policy: SchedulePolicy) -> Floats:
    if policy.archive_after is None:
        return np.full(len(s.ids), np.inf)
    return np.asarray(
        policy.archive_after.total_seconds() * (0.5 + s.priority)
    )  # priority 0: half as long, 1: half as long again


def _with_adapters(s: Snapshot, made: list[int], dropped: list[int], wish: Distilling) -> Snapshot:
    """The snapshot after some adapters were made and some dropped."""
    if not made and not dropped:
        return s
    place, blob = s.adapter_place.copy(), s.adapter_blob.copy()
    place[made], blob[made] = Place.DISK, True
    place[dropped], blob[dropped] = Place.NOWHERE, False
    seconds = s.bucket.seconds - float(wish.seconds[made].sum())
    return replace(s, adapter_place=place, adapter_blob=blob, bucket=replace(s.bucket, seconds=seconds))
