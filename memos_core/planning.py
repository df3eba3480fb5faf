"""The plan of a store whose memory is filled from its disk: first what lies on disk, then what of that is held in memory. Pure.

`schedule.plan` knows places of which each may hold what the others do not. Here what is in memory is a copy of a blob: it is opened by the
cube that names the blob, and without it nobody would find it. So the disk is planned as if there were no memory, and then the memory, for
what the disk has then; what the second plan would make without room on disk for it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from .holdings import Action, Move, Place, SchedulePolicy, Snapshot, check
from .schedule import applied, plan
from .types import Kind


def moves_of(snapshot: Snapshot, policy: SchedulePolicy, now: datetime) -> list[Move]:
    """What to do, in the order in which to do it; nothing, once it is done. Raises InvalidArgument as `plan` does."""
    check(snapshot, policy, now.timestamp())  # before it is taken apart
    distilled = (
        [m for m in plan(snapshot, policy, now) if m.action is Action.DISTIL] if snapshot.distillable.any() else []
    )
    on_disk = _as_on_disk(snapshot, distilled)
    first = plan(on_disk, policy, now)
    after = applied(on_disk, first, policy, now)
    # what was dropped from the disk is no longer in memory either
    place = np.where(after.kv_place == Place.NOWHERE, Place.NOWHERE, np.maximum(after.kv_place, snapshot.kv_place))
    adapter = np.where(
        after.adapter_place == Place.NOWHERE, Place.NOWHERE, np.maximum(after.adapter_place, snapshot.adapter_place)
    )
    whole = replace(
        after, kv_place=place.astype(np.int8), adapter_place=adapter.astype(np.int8), kv_blob=place > Place.NOWHERE,
        adapter_blob=adapter > Place.NOWHERE, budgets=snapshot.budgets, planned_at=snapshot.planned_at,
    )  # fmt: skip
    second = [m for m in plan(whole, policy, now) if m.source > Place.NOWHERE and m.form is not Kind.PLAINTEXT]
    return [
        *(m for m in first if m.target <= m.source),
        *distilled,
        *(m for m in first if m.target > m.source),
        *second,
    ]


def _as_on_disk(s: Snapshot, distilled: Sequence[Move]) -> Snapshot:
    """The snapshot as if there were no memory. Nothing is distilled for want of that, and of what is distilled anyway nothing else is
    made."""
    soon = {m.subject for m in distilled}
    made = (
        np.array([id in soon for id in s.ids], bool) & (s.kv_place == Place.NOWHERE)
        if soon
        else np.zeros(len(s.ids), bool)
    )
    spent = sum(m.seconds for m in distilled)
    return replace(
        s, kv_bytes=np.where(made, 0, s.kv_bytes), bucket=replace(s.bucket, seconds=s.bucket.seconds - spent), kv_place=np.minimum(s.kv_place, Place.DISK), adapter_place=np.minimum(s.adapter_place, Place.DISK),
        kv_blob=s.kv_place > Place.NOWHERE, adapter_blob=s.adapter_place > Place.NOWHERE, at_hand=np.zeros_like(s.at_hand),
        distillable=np.zeros_like(s.distillable), budgets=replace(s.budgets, device=0, host=0),
    )  # fmt: skip
