"""From what is decided to moves, each with a reason in numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import amounts
from .holdings import Action, Move, Place, SchedulePolicy, Snapshot
from .parameters import Distilling, arithmetic
from .placing import Placed
from .rows import Rows
from .types import Kind
from .worth import Flags, Floats

_TO = {
    Place.NOWHERE: "the text alone",
    Place.DISK: "the disk",
    Place.HOST: "the host's memory",
    Place.DEVICE: "the device",
}


def altered(s: Snapshot, gone: Flags, cold: Flags, patience: Floats, now: float) -> list[Move]:
    """Memories that have expired (`gone` [n]) and those that are archived (`cold` [n]) after so many seconds (`patience` [n])."""
    found = []
    for i in np.flatnonzero(gone).tolist():
        reason = f"its time was over {amounts.time(now - float(s.expires_at[i]))} ago"
        found.append(_of_memory(s.ids[i], Action.EXPIRE, reason))
    for i in np.flatnonzero(cold & ~gone).tolist():
        quiet = amounts.time(now - max(float(s.last_read[i]), float(s.created[i])))
        reason = f"not read for {quiet}: at priority {s.priority[i]:g} {amounts.time(float(patience[i]))} are the limit"
        found.append(_of_memory(s.ids[i], Action.ARCHIVE, reason))
    return found


def _of_memory(id: str, action: Action, reason: str) -> Move:
    return Move(id, action, Kind.PLAINTEXT, Place.NOWHERE, Place.NOWHERE, 0, 0.0, 0.0, reason)


def distilled(s: Snapshot, policy: SchedulePolicy, chosen: Sequence[int], wish: Distilling) -> list[Move]:
    """Adapters to be made of the subjects `chosen`."""
    build = (Action.DISTIL, Kind.PARAMETRIC, Place.NOWHERE, Place.DISK)
    return [
        Move(s.ids[i], *build, int(s.adapter_bytes[i]), float(wish.seconds[i]), 0.0, arithmetic(s, policy, wish, i))
        for i in chosen
    ]


def moved(s: Snapshot, rows: Rows, placed: Placed, gone: Flags) -> tuple[list[Move], list[Move]]:
    """What makes room, from the slowest place to the fastest, and what takes it, from the fastest to the slowest."""
    stays = gone[rows.subject]  # its forms go with it
    down = np.flatnonzero((placed.place < rows.place) & ~stays)
    up = np.flatnonzero((placed.place > rows.place) & ~stays)
    spare = rows.blob & ~placed.blob & (placed.place > Place.DISK) & ~stays
    room = [
        _downward(s, rows, r, Place.DISK, Place.NOWHERE)
        for r in np.flatnonzero(spare & (rows.place > Place.DISK)).tolist()
    ]
    room += [
        _downward(s, rows, r, Place(int(rows.place[r])), Place(int(placed.place[r])))
        for r in down[np.argsort(rows.place[down], kind="stable")].tolist()
    ]
    taking = []
    for target in (Place.DEVICE, Place.HOST, Place.DISK):
        taking += [_upward(s, rows, r, target) for r in up[placed.place[up] == target].tolist()]
        if target is Place.HOST:  # once they are loaded
            loaded = np.flatnonzero(spare & (rows.place == Place.DISK))
            taking += [_downward(s, rows, r, Place.DISK, Place.NOWHERE) for r in loaded.tolist()]
    return room, taking


def let_go(s: Snapshot, rows: Rows, r: int) -> Move:
    """Row `r`, dropped for want of room."""
    return _downward(s, rows, r, Place(int(rows.place[r])), Place.NOWHERE)


def _downward(s: Snapshot, rows: Rows, r: int, source: Place, target: Place) -> Move:
    size, each = int(rows.size[r]), float(rows.rate[r])
    lost = each * float(rows.read[r, target] - rows.read[r, source])
    if rows.dead[r]:
        reason = f"its memory is not searched; it frees {amounts.size(size)}"
    else:
        reason = (
            f"{amounts.rate(each)} would each take {amounts.time(float(rows.read[r, target]))} instead of {amounts.time(float(rows.read[r, source]))}: "
            f"{amounts.size(size)} of {_TO[source]} are worth more to others"
        )
    action = Action.DROP if target is Place.NOWHERE else Action.DEMOTE
    seconds = 0.0 if action is Action.DROP else float(rows.cost[r, target])
    return Move(_id(s, rows, r), action, _form(rows, r), source, target, size, seconds, -lost, reason)


def _upward(s: Snapshot, rows: Rows, r: int, target: Place) -> Move:
    source, size = Place(int(rows.place[r])), int(rows.size[r])
    seconds, each, reads = float(rows.cost[r, target]), float(rows.rate[r]), int(rows.reads[r])
    without, with_ = float(rows.read[r, source]), float(rows.read[r, target])
    action = Action.BUILD if source is Place.NOWHERE else Action.PREFETCH if rows.ahead[r] else Action.LOAD
    saving = (
        f"{amounts.time(without)} for a read become {amounts.time(with_)} on {_TO[target]}, with {amounts.rate(each)}"
    )
    if action is Action.PREFETCH:
        chance = float(s.expected[int(rows.subject[r])])
        reason = f"expected with a chance of {chance:.2f}: {saving}; {amounts.time(seconds)} for {amounts.size(size)}"
    elif rows.at_hand[r]:
        reason = f"a request has just had it: keeping it is a copy of {amounts.size(size)}, {amounts.time(seconds)}; {saving}"
    else:
        paid = amounts.time(reads * (without - with_))
        reason = f"{reads} reads without it have cost {paid}, having it costs {amounts.time(seconds)}; {saving}"
    return Move(
        _id(s, rows, r), action, _form(rows, r), source, target, size, seconds, each * (without - with_), reason
    )


def _id(s: Snapshot, rows: Rows, r: int) -> str:
    return s.ids[int(rows.subject[r])]


def _form(rows: Rows, r: int) -> Kind:
    return Kind.PARAMETRIC if rows.adapter[r] else Kind.ACTIVATION
