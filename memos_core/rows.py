"""A snapshot as the scheduler reckons with it: one row for each form that a subject has or could have, with what it costs and saves
at each place. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import heat
from .holdings import Column, Place, SchedulePolicy, Snapshot
from .worth import Flags, Floats, move_seconds, prefill_seconds, read_seconds


@dataclass(frozen=True, slots=True)
class Rows:
    """Keys and values of all n subjects, then the adapters that exist, as rows [r].

    subject: its index. adapter: whether the row is one. size, place, blob, at_hand, reads: as in the snapshot.
    read, cost, price [r, places]: seconds for a read from there, for having it there, and what these count for.
    rate: reads a second that are expected just now, and lasting: in the mean over the time for which the last place holds what is read,
    from where what goes is gone. prospect: how many reads before the next decision. chance: that there is one.
    ahead: they are expected because of `Snapshot.expected`, which is likely enough to load for where `likely`.
    still: somebody is at work on it. fixed: its blob is never dropped. first: pinned, or an adapter that was asked for. dead: of a memory that is not searched.
    """

    subject: Column
    adapter: Flags
    size: Column
    place: Column
    blob: Flags
    at_hand: Flags
    reads: Column
    read: Floats
    cost: Floats
    price: Floats
    rate: Floats
    lasting: Floats
    prospect: Floats
    chance: Floats
    ahead: Flags
    likely: Flags
    captured: Flags
    still: Flags
    fixed: Flags
    first: Flags
    dead: Flags


def rows_of(s: Snapshot, policy: SchedulePolicy, now: float, *, gone: Flags, cold: Flags) -> Rows:
    """The rows of a snapshot at `now` (POSIX seconds), in which the memories `gone` [n] have expired and `cold` [n] are archived."""
    dead = gone | cold | s.archived
    own = heat.rate(s.scales, s.heat, s.heat_at, now) * 2 * s.priority
    coming = s.expected / policy.prefetch_within.total_seconds()
    rate = np.where(dead, 0.0, np.maximum(own, coming))
    own_lasting = heat.rate(s.scales, s.heat, s.heat_at, now, _turnover(s, now)) * 2 * s.priority
    lasting = np.where(dead, 0.0, np.maximum(own_lasting, coming))
    ahead = (coming > own) & (
        now - s.last_read > policy.prefetch_within.total_seconds()
    )  # what was just read is there for that
    prospect = heat.prospect(s.heat, s.heat_at, now) * 2 * s.priority
    chance = np.maximum(
        prospect / (1 + prospect), s.expected
    )  # that a geometric number of reads with this mean is not 0
    prospect = np.maximum(prospect, s.expected)
    known = s.adapter_place > Place.NOWHERE
    having = np.flatnonzero(known)

    def both(kv: Column, adapter: Column) -> Column:
        return np.concatenate([kv, adapter[having]])

    none, every = np.zeros(len(s.ids), bool), np.ones(len(s.ids), bool)
    size, place = both(s.kv_bytes, s.adapter_bytes), both(s.kv_place, s.adapter_place).astype(np.intp)
    blob = both(s.kv_blob | (s.kv_place == Place.DISK), s.adapter_blob | (s.adapter_place == Place.DISK))
    at_hand = both(s.at_hand, none)
    making = prefill_seconds(s.rates, s.tokens)
    without = both(making, making)
    cost = move_seconds(s.rates, without, size, place, blob, at_hand)
    run = np.where((place == Place.NOWHERE) & ~at_hand, without, 0.0)[:, None] * (np.arange(len(Place)) > Place.NOWHERE)
    return Rows(
        subject=both(np.arange(len(s.ids)), np.arange(len(s.ids))),
        adapter=both(none, every),
        size=size,
        place=place,
        blob=blob,
        at_hand=at_hand,
        reads=both(s.reads, s.reads),
        read=read_seconds(s.rates, without, size),
        cost=cost,
        price=run + policy.idle * (cost - run),
        rate=both(np.where(known, 0.0, rate), rate),  # what an adapter knows is not opened as keys and values
        lasting=both(np.where(known, 0.0, lasting), lasting),
        prospect=both(prospect, prospect),
        chance=both(chance, chance),
        ahead=both(ahead, ahead),
        likely=both(s.expected >= policy.prefetch_from, s.expected >= policy.prefetch_from),
        captured=both(s.captured, none),
        still=both(s.leased, s.leased),
        fixed=both(~s.rebuildable & ~gone, ~s.rebuildable & ~gone),
        first=both(s.pinned, s.pinned | s.asked),
        dead=both(dead, dead),
    )


def _turnover(s: Snapshot, now: float) -> float:
    """Seconds for which the last place holds what is read, if the latest go in and the earliest out: the age of the last read of which
    all younger ones' subjects together fill it (Che, Tung & Wang 2002, Hierarchical web caching systems: the characteristic time)."""
    there = np.flatnonzero((s.kv_bytes > 0) & np.isfinite(s.last_read))
    latest = there[np.argsort(-s.last_read[there], kind="stable")]
    if not latest.size:
        return 0.0
    filled = int(np.searchsorted(np.cumsum(s.kv_bytes[latest]), s.budgets.by_place[s.budgets.last_place], side="right"))
    return max(0.0, now - float(s.last_read[latest[min(filled, latest.size - 1)]]))
