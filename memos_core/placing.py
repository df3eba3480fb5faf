"""Who gets the room: rows into places, the fastest first, each by first fit in the order of worth, within every budget at once. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .holdings import Column, Place, SchedulePolicy, Snapshot
from .rows import Rows
from .worth import Flags, Floats, break_even, first_fit, places_below

_SCATTER = (
    0x9E3779B1  # the golden ratio of 2 ** 32: neighbours come far apart (Knuth, The Art of Computer Programming, 6.4)
)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where each row should be: the fastest place [r], and whether on disk as well [r]; and the seconds left in the bucket."""

    place: Column
    blob: Flags
    seconds: float


def placed(rows: Rows, s: Snapshot, policy: SchedulePolicy) -> Placed:
    """The places of all rows, after as much building and loading as the bucket allows."""
    still = rows.still | (
        rows.fixed & ~rows.blob & (rows.place > Place.DISK)
    )  # it has no other copy, nor can one be made
    kept = rows.fixed & rows.blob & ~still
    place = np.where(still, rows.place, np.where(kept, Place.DISK, Place.NOWHERE))
    blob = (still & rows.blob) | kept
    movable = ~still & ~rows.dead & (rows.size > 0) & ~(rows.fixed & (rows.place == Place.NOWHERE))
    room, seconds = _room(rows, s, still, kept), s.bucket.seconds
    waits = np.zeros(len(place), bool)
    for target in (Place.DEVICE, Place.HOST, Place.DISK):
        if room[target] <= 0:
            continue
        offer = _offer(rows, s, policy, target)
        free = ~blob & ((place == Place.NOWHERE) | rows.blob) if target is Place.DISK else place <= Place.DISK
        up = rows.place < target
        candidates = np.flatnonzero(movable & free & offer.wanted & ~(waits & up))
        order = _order(candidates, offer, policy, of_the_last=target is s.budgets.last_place)
        taken, seconds = _fit(rows, s, policy, target, order, (room[target], seconds))
        out = np.zeros(len(place), bool)
        out[candidates] = True
        out[taken] = False
        refused = np.flatnonzero(out)
        spends = np.minimum(rows.cost[refused, target], policy.build_burst)
        waits[refused] |= up[refused] & ~rows.at_hand[refused] & (spends > seconds)  # for the next minute's seconds
        place[taken] = np.maximum(place[taken], target)
        if target is Place.DISK:
            blob[taken] = True
    return Placed(place, blob, seconds)


@dataclass(frozen=True, slots=True)
class _Offer:
    """Whether a place is wanted for each row, seconds saved there for each second and byte, and whether it is held there."""

    wanted: Flags
    worth: Floats
    held: Flags


def _order(candidates: Column, offer: _Offer, policy: SchedulePolicy, *, of_the_last: bool) -> Column:
    """Who comes first: by worth. In the last place, from where what goes is gone, worth counts in steps of the hysteresis, since less of a
    difference says nothing; of equals those that are there stay, and others take turns: no order of theirs is safe from a walk through
    all of them in just that order, and a scattered one is (Fiat, Karp, Luby, McGeoch, Sleator & Young 1991, Competitive paging algorithms)."""
    worth = offer.worth[candidates]
    if not of_the_last or policy.keep == 1:
        return np.asarray(candidates[np.argsort(-worth, kind="stable")])
    steps = np.full(len(worth), -np.inf)
    steps[worth > 0] = np.floor(np.log(worth[worth > 0]) / -np.log(policy.keep))
    scattered = candidates * _SCATTER % (1 << 32)
    return np.asarray(candidates[np.lexsort((scattered, ~offer.held[candidates], -steps))])


def _offer(rows: Rows, s: Snapshot, policy: SchedulePolicy, target: Place) -> _Offer:
    below = places_below(s.budgets.by_place)[target]
    held = rows.blob if target is Place.DISK else rows.place >= target
    price, factor = rows.price[:, target], policy.break_even
    saved = rows.read[np.arange(len(rows.place)), np.minimum(rows.place, target)] - rows.read[:, target]
    # where a read brings it all the same, having it before then saves that one read, if it comes
    reads = np.where(rows.captured & ~rows.at_hand, rows.chance, rows.prospect)
    made = break_even(rows.reads, saved, price, factor) & (reads * saved >= factor * price)
    likely = np.where(rows.ahead, rows.likely, made & (rows.chance >= policy.prefetch_from))
    made = np.where((rows.ahead | (rows.captured & ~rows.at_hand)) & (rows.place >= Place.DISK), likely, made)
    down = rows.prospect * (rows.read[:, Place.NOWHERE] - rows.read[:, target]) >= factor * price
    wanted = held | np.where(rows.place < target, made, down)
    extra = np.where(held, 0.0, np.maximum(price - rows.price[:, below], 0.0))
    each = rows.read[:, below] - rows.read[:, target] - factor * extra / np.maximum(rows.prospect, 1e-12)
    gain = (rows.lasting if target is s.budgets.last_place else rows.rate) * each
    worth = np.where(held, gain / policy.keep, gain) / np.maximum(rows.size, 1)
    return _Offer(wanted & (held | (worth > 0)), np.where(rows.first & held, np.inf, worth), held)


def _fit(
    rows: Rows, s: Snapshot, policy: SchedulePolicy, target: Place, order: Column, limits: tuple[float, float]
) -> tuple[Column, float]:
    """Those of `order` that get in within the place's room and the bucket's seconds (`limits`), and the seconds left."""
    fast = target is not Place.DISK
    budget = s.budgets.by_place[target]
    size = rows.size[order].astype(float)
    spends = np.where((rows.place < target) & ~rows.at_hand, rows.cost[:, target], 0.0)[order]
    uses = np.stack([
        size,
        spends,
        np.where(rows.ahead[order] & fast, size, 0.0),
        np.where(rows.adapter[order] & (target is Place.DEVICE), size, 0.0),
    ], axis=1)  # fmt: skip
    needs = np.where(uses > 0, uses, -np.inf)
    needs[:, 1] = np.where(
        spends > 0, np.minimum(spends, policy.build_burst), -np.inf
    )  # what takes longer than all, once there is all
    most = np.array([*limits, policy.prefetch_share * budget, s.budgets.adapters], float)
    taken, left = first_fit(np.arange(len(order)), uses, most, needs)
    return order[taken], float(left[1])


def _room(rows: Rows, s: Snapshot, still: Flags, kept: Flags) -> tuple[float, ...]:
    """Bytes of each place that can be given away: the budget without what does not move, and without what leases will bring."""
    coming = np.where(s.leased & (s.kv_place < s.leased_to), s.kv_bytes, 0)
    coming += np.where(s.leased & (s.adapter_place < s.leased_to) & (s.asked | s.distillable), s.adapter_bytes, 0)
    room = []
    for place in Place:
        there = still & (rows.place == place)
        if place is Place.DISK:
            there |= (still & rows.blob) | kept
        room.append(float(s.budgets.by_place[place] - rows.size[there].sum() - coming[s.leased_to == place].sum()))
    return tuple(room)
