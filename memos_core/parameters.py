"""When a memory should become an adapter. Pure.

An adapter costs seconds to minutes of the device and saves milliseconds at a read, as keys and values do at once. So it is made where
they cannot be the answer and doing without has cost as much as distilling: where the text takes much of the model's window, or its keys
and values do not fit into memory at all; or where the user asks for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from . import amounts
from .holdings import Column, Place, SchedulePolicy, Snapshot
from .worth import Flags, Floats, break_even, prefill_seconds, read_seconds


@dataclass(frozen=True, slots=True)
class Distilling:
    """Subjects of which an adapter should be made, the most worthwhile first [m]; seconds for distilling each and seconds that it saves
    at each read [n]."""

    subjects: Column
    seconds: Floats
    saved: Floats

    def allowed(self, seconds: float, policy: SchedulePolicy, but: Collection[int]) -> list[int]:
        """Those that the bucket's `seconds` allow, in their order. What takes longer than the bucket holds waits until it is full."""
        found = []
        for i in self.subjects.tolist():
            if i not in but and seconds >= min(float(self.seconds[i]), policy.build_burst):
                found.append(i)
                seconds -= float(self.seconds[i])
        return found


def distilling(s: Snapshot, policy: SchedulePolicy, dead: Flags) -> Distilling:
    """What should be distilled, asked for or not, of memories that are searched (not `dead` [n])."""
    r = s.rates
    seconds = r.distil_start + r.distil * np.asarray(s.tokens, float)
    able = (
        s.distillable & (s.adapter_place == Place.NOWHERE) & (s.adapter_bytes > 0) & ~s.leased & ~dead & (s.tokens > 0)
    )
    able &= s.rebuildable & (s.adapter_bytes <= s.budgets.adapters)
    wide = s.tokens > policy.context_share * s.budgets.window
    large = s.kv_bytes > s.budgets.device + s.budgets.host
    read = read_seconds(r, prefill_seconds(r, s.tokens), s.kv_bytes)[np.arange(len(s.ids)), s.kv_place]
    saved = read - np.minimum(read, s.adapter_bytes / r.device)
    due = break_even(s.reads, saved, seconds, policy.break_even)
    found = np.flatnonzero(able & (s.asked | ((wide | large) & due)))
    paid = s.reads[found] * saved[found] / seconds[found]
    found = found[np.lexsort((found, -paid, ~s.asked[found]))]
    return Distilling(found, seconds, saved)


def arithmetic(s: Snapshot, policy: SchedulePolicy, wish: Distilling, i: int) -> str:
    """Why subject `i` is distilled, in a sentence with its numbers."""
    tokens, reads, saved, seconds = int(s.tokens[i]), int(s.reads[i]), float(wish.saved[i]), float(wish.seconds[i])
    even = f"even after {seconds / saved:,.0f} reads" if saved > 0 else "which no read repays"
    sums = (
        f"it takes {amounts.time(seconds)} and saves {amounts.time(saved)} for each read, {even}; there were {reads:,}"
    )
    if s.asked[i]:
        return f"asked for: {sums}"
    if tokens > policy.context_share * s.budgets.window:
        return f"{tokens:,} tokens are {tokens / s.budgets.window:.0%} of the window of {s.budgets.window:,}: {sums}"
    memory = amounts.size(s.budgets.device + s.budgets.host)
    return f"its keys and values, {amounts.size(int(s.kv_bytes[i]))}, do not fit into {memory} of memory: {sums}"
