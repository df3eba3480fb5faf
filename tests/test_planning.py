"""The plan of a store whose memory is filled from its disk: nothing is in memory that is not on disk, and once it is done it is done."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import InvalidArgument
from memos_core.heat import HALF_LIVES
from memos_core.holdings import Action, Bucket, Budgets, Move, Place, Rates, SchedulePolicy, Snapshot, snapshot
from memos_core.planning import moves_of
from memos_core.types import Kind

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TIME = NOW.timestamp()
POLICY = SchedulePolicy(archive_after=None, build_burst=1e6)


def having(count: int, *, reads: Any = 10, budgets: Budgets = Budgets(1_000, 0, 1_000), **columns: Any) -> Snapshot:
    """Subjects of 100 bytes and 100 tokens, each read now and then."""
    heat = np.broadcast_to(np.asarray(reads, float)[..., None], (count, len(HALF_LIVES)))
    return snapshot(
        [f"s{i}" for i in range(count)], rates=Rates(prefill=10.0, disk=1e6), budgets=budgets, bucket=Bucket(1e6, TIME),
        **{"tokens": 100, "kv_bytes": 100, "heat": heat, "heat_at": TIME, "reads": reads, "frozen": True, "created": TIME, **columns},
    )  # fmt: skip


def carried(s: Snapshot, moves: list[Move]) -> Snapshot:
    """What there is once the moves are carried out: what leaves the disk is gone."""
    place, index = s.kv_place.copy(), {id: i for i, id in enumerate(s.ids)}
    reads = s.reads.copy()
    for move in moves:
        gone = move.action is Action.DROP and move.source is Place.DISK
        place[index[move.subject]] = Place.NOWHERE if gone else move.target
        if move.target < move.source:
            reads[index[move.subject]] = 0
    return replace(s, kv_place=place, kv_blob=place > Place.NOWHERE, reads=reads)


def test_what_is_made_is_made_on_disk_and_loaded_from_there() -> None:
    moves = moves_of(having(1), POLICY, NOW)
    assert [(m.action, m.source, m.target) for m in moves] == [
        (Action.BUILD, Place.NOWHERE, Place.DISK), (Action.LOAD, Place.DISK, Place.DEVICE),
    ]  # fmt: skip


def test_nothing_is_made_in_memory_for_want_of_disk() -> None:
    assert moves_of(having(1, budgets=Budgets(1_000, 0, 50)), POLICY, NOW) == []


def test_what_falls_from_the_disk_is_not_kept_in_memory() -> None:
    s = having(
        2, reads=[0, 10], budgets=Budgets(1_000, 0, 150), kv_place=[Place.DEVICE, Place.NOWHERE], kv_blob=[True, False]
    )
    moves = moves_of(s, POLICY, NOW)
    assert [(m.subject, m.action) for m in moves] == [
        ("s0", Action.DROP), ("s1", Action.BUILD), ("s1", Action.LOAD),
    ]  # fmt: skip
    assert moves_of(carried(s, moves), POLICY, NOW) == []


def test_what_is_distilled_is_not_built_as_well() -> None:
    s = having(2, distillable=[True, False], adapter_bytes=10, budgets=Budgets(1_000, 0, 1_000, window=100))
    s = replace(s, rates=replace(s.rates, distil=0.001, distil_start=0.1))
    moves = [(m.subject, m.action, m.form) for m in moves_of(s, POLICY, NOW)]
    assert ("s0", Action.DISTIL, Kind.PARAMETRIC) in moves
    assert not [m for m in moves if m[0] == "s0" and m[2] is Kind.ACTIVATION]
    assert ("s1", Action.BUILD, Kind.ACTIVATION) in moves


@pytest.mark.parametrize(
    "budgets", [Budgets(10, 0, 1_000, block=64), Budgets(0, 10, 1_000, block=64), Budgets(0, 0, 10, block=64)]
)
def test_a_budget_smaller_than_a_block_is_refused_wherever_it_is(budgets: Budgets) -> None:
    with pytest.raises(InvalidArgument, match="hold no block"):
        moves_of(having(1, budgets=budgets), POLICY, NOW)


subjects = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 300), st.sampled_from([Place.NOWHERE, Place.DISK, Place.DEVICE]), st.booleans()),
    min_size=1, max_size=12,
)  # fmt: skip


@given(subjects, st.integers(0, 1_500), st.integers(0, 1_500))
def test_budgets_hold_what_is_in_memory_is_on_disk_and_a_second_plan_is_empty(
    found: list[tuple[int, int, Place, bool]], device: int, disk: int
) -> None:
    reads, size, place, pinned = (list(column) for column in zip(*found, strict=True))
    held = sum(s for s, p in zip(size, place, strict=True) if p)
    s = having(
        len(found), reads=reads, budgets=Budgets(device, 0, max(disk, held)), kv_bytes=size, tokens=size, kv_place=place,
        kv_blob=[p > Place.NOWHERE for p in place], pinned=pinned,
    )  # fmt: skip
    moves = moves_of(s, POLICY, NOW)
    after = carried(s, moves)
    assert after.kv_bytes[after.kv_place >= Place.DISK].sum() <= max(disk, held)
    assert after.kv_bytes[after.kv_place == Place.DEVICE].sum() <= device
    assert moves_of(after, POLICY, NOW) == []
