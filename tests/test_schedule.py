"""What the scheduler decides: properties over any state, and each rule by an example worked out by hand."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import heat
from memos_core.bench import rivals, traces
from memos_core.bench.simulator import Machine, scheduled
from memos_core.cli import main
from memos_core.errors import InvalidArgument
from memos_core.schedule import (
    Action,
    Bucket,
    Budgets,
    Place,
    Rates,
    SchedulePolicy,
    Snapshot,
    applied,
    plan,
    refilled,
    snapshot,
    spent,
)
from memos_core.types import Kind
from memos_core.worth import first_fit

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AT = NOW.timestamp()
RATES = Rates(prefill=100, disk=5_000, host=30_000, device=1e6, write=10_000, distil=0.1, distil_start=1)
STEADY = heat.Scales(totals=(100.0,) * 5, at=AT, subjects=50)
SEEDS = st.integers(0, 2**32 - 1)


def some(count: int = 1, **given) -> Snapshot:
    """Memories of 100 tokens, whose keys and values are 1,000 bytes, read now and then."""
    settings = {
        "rates": RATES, "budgets": Budgets(10_000, 10_000, 100_000), "bucket": Bucket(60, AT), "scales": STEADY, "tokens": 100,
        "kv_bytes": 1_000, "heat": 1.0, "heat_at": AT, "reads": 1, "last_read": AT, "created": AT,
    }  # fmt: skip
    return snapshot([f"m{i}" for i in range(count)], **(settings | given))


def anything(seed: int) -> tuple[Snapshot, SchedulePolicy]:
    """A state that nobody would think of."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 60))
    size = draw.integers(1, 50, n) * 100
    place = draw.integers(0, 4, n)
    adapter_bytes = draw.integers(0, 20, n) * 50
    adapter_place = np.where((draw.random(n) < 0.2) & (adapter_bytes > 0), draw.integers(1, 4, n), 0)
    leased = draw.random(n) < 0.1
    total = float(size.sum())
    there = snapshot(
        [f"m{i}" for i in range(n)],
        tokens=size // 10, kv_bytes=size, kv_place=place, kv_blob=(draw.random(n) < 0.4) & (place > 0),
        at_hand=(draw.random(n) < 0.2) & (place < 3), captured=draw.random(n) < 0.5,
        adapter_bytes=adapter_bytes, adapter_place=adapter_place, adapter_blob=adapter_place > 0,
        heat=draw.exponential(1, (n, 5)) * (draw.random((n, 1)) < 0.7), heat_at=AT - draw.exponential(100, n),
        reads=draw.integers(0, 10, n), last_read=AT - draw.exponential(1e7, n), created=AT - draw.exponential(1e7, n),
        expires_at=np.where(draw.random(n) < 0.1, AT + draw.normal(0, 100, n), np.inf), priority=draw.random(n),
        pinned=draw.random(n) < 0.05, frozen=draw.random(n) < 0.1, archived=draw.random(n) < 0.05,
        rebuildable=draw.random(n) >= 0.05, asked=draw.random(n) < 0.1, distillable=draw.random(n) < 0.3,
        expected=np.where(draw.random(n) < 0.2, draw.random(n), 0), leased=leased,
        leased_to=np.where(leased, draw.integers(0, 4, n), 0),
        rates=replace(RATES, disk=float(draw.choice([1e3, 5e3, 2e4])), write=float(draw.choice([1e3, 1e4])), attention=float(draw.choice([0, 1e-4]))),
        budgets=Budgets(
            int(draw.random() * total), int(draw.integers(0, 2) * draw.random() * total), int(draw.integers(0, 3) * draw.random() * total),
            adapters=int(draw.random() * 2000), window=800,
        ),
        bucket=Bucket(float(draw.choice([-5, 0, 1, 10, 60])), AT),
        scales=heat.Scales(tuple(draw.dirichlet(np.ones(5)).tolist()), tuple((draw.random(5) * 100).tolist()), AT, 50),
        planned_at=AT - 10,
    )  # fmt: skip
    return there, SchedulePolicy(
        keep=float(draw.choice([0.5, 0.8, 1])),
        break_even=float(draw.choice([0.3, 1, 2])),
        archive_after=timedelta(days=90),
    )


def held(s: Snapshot, place: Place) -> int:
    """Bytes in a place."""
    kv, adapter = s.kv_place == place, s.adapter_place == place
    if place is Place.DISK:
        kv, adapter = kv | s.kv_blob, adapter | s.adapter_blob
    return int(s.kv_bytes[kv].sum() + s.adapter_bytes[adapter].sum())


# properties over any state


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_the_same_state_gives_the_same_moves_and_none_once_they_are_carried_out(seed: int) -> None:
    there, policy = anything(seed)
    moves = plan(there, policy, NOW)
    assert plan(there, policy, NOW) == moves
    assert plan(applied(there, moves, policy, NOW), policy, NOW) == []


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_no_budget_is_exceeded_but_by_what_was_there_and_may_not_go(seed: int) -> None:
    there, policy = anything(seed)
    after = applied(there, plan(there, policy, NOW), policy, NOW)
    budgets = {Place.DEVICE: there.budgets.device, Place.HOST: there.budgets.host, Place.DISK: there.budgets.disk}
    for place, budget in budgets.items():
        stays = there.leased | ~there.rebuildable
        fixed = replace(
            there, kv_bytes=np.where(stays, there.kv_bytes, 0), adapter_bytes=np.where(stays, there.adapter_bytes, 0)
        )
        assert held(after, place) <= max(budget, held(fixed, place))
    loaded = after.adapter_bytes[(after.adapter_place == Place.DEVICE) & ~there.leased & there.rebuildable].sum()
    assert loaded <= there.budgets.adapters


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_what_may_not_be_touched_is_not(seed: int) -> None:
    there, policy = anything(seed)
    moves = plan(there, policy, NOW)
    after = applied(there, moves, policy, NOW)
    index = {id: i for i, id in enumerate(there.ids)}
    for move in moves:
        i = index[move.subject]
        assert not there.leased[i]
        assert any(c.isdigit() for c in move.reason)
        if move.form is Kind.PLAINTEXT:
            assert move.action in (Action.ARCHIVE, Action.EXPIRE)
            assert not there.pinned[i]
            assert not there.frozen[i]
    expired = {m.subject for m in moves if m.action is Action.EXPIRE}
    for i in np.flatnonzero(~there.rebuildable & (there.kv_place > Place.NOWHERE)).tolist():
        assert after.kv_place[i] > Place.NOWHERE or there.ids[i] in expired


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_building_stays_within_the_bucket_but_for_one_that_takes_longer_than_it_holds(seed: int) -> None:
    there, policy = anything(seed)
    moves = plan(there, policy, NOW)
    longest = max((m.seconds for m in moves if m.target > m.source), default=0.0)
    assert spent(there, moves) <= max(there.bucket.seconds, 0) + max(longest - policy.build_burst, 0) + 1e-6


@given(st.sampled_from(traces.DRAWN), SEEDS, st.floats(0.02, 0.5), st.floats(0, 0.5), st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_budgets_hold_at_every_moment_of_any_trace(draw, seed: int, device: float, host: float, disk: float) -> None:
    machine = Machine(
        "any", replace(RATES, prefill=1000, disk=2e5, host=3e6, device=1e8, write=1e5), 100, device, host, disk
    )
    trace = draw(seed, 120)
    found = scheduled(trace, machine, SchedulePolicy())
    assert found.over <= 0
    assert found.saved <= found.whole


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_nothing_saves_more_than_the_bound(seed: int) -> None:
    pytest.importorskip("scipy")
    machine = Machine(
        "any", replace(RATES, prefill=1000, disk=2e5, host=3e6, device=1e8, write=1e5), 100, 0.2, 0.2, 0.3
    )
    trace, policy = traces.DRAWN[seed % 5](seed, 100), SchedulePolicy()
    best, ahead = rivals.bound(trace, machine, policy, ahead=False), rivals.bound(trace, machine, policy)
    for rank in rivals.RULES.values():
        assert rivals.ruled(trace, machine, rank).saved <= best.saved * (1 + 1e-6)
    assert best.saved <= ahead.saved * (1 + 1e-6)
    assert scheduled(trace, machine, policy).saved <= ahead.saved * (1 + 1e-6)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_first_fit_by_stretches_is_first_fit_one_by_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    uses = draw.integers(0, 20, (30, 2)).astype(float)
    limits = draw.integers(0, 150, 2).astype(float)
    order = draw.permutation(30)[:20]
    taken, left = first_fit(order, uses, limits)
    rest, expected = limits.copy(), []
    for i in order.tolist():
        if (uses[i] <= rest).all():
            rest -= uses[i]
            expected.append(i)
    assert taken.tolist() == expected
    assert left.tolist() == rest.tolist()


# rules, by hand


def test_what_a_request_has_just_run_is_kept_for_the_price_of_a_copy() -> None:
    (move,) = plan(some(at_hand=True, reads=1), SchedulePolicy(), NOW)
    assert (move.action, move.source, move.target, move.bytes) == (Action.BUILD, Place.NOWHERE, Place.DEVICE, 1_000)
    assert move.seconds == pytest.approx(1_000 / 1e6)
    assert "copy of 1 kB, 1 ms" in move.reason
    assert spent(some(at_hand=True), [move]) == 0


def test_keys_and_values_are_built_once_doing_without_has_cost_as_much() -> None:
    policy = SchedulePolicy(break_even=3)  # a prefill takes a second, and so does building
    assert plan(some(reads=2, heat=50.0), policy, NOW) == []
    (move,) = plan(some(reads=4, heat=50.0), policy, NOW)
    assert (move.action, move.target) == (Action.BUILD, Place.DEVICE)
    assert move.reason.startswith("4 reads without it have cost 4 s, having it costs 1 s")


def test_nothing_is_built_that_the_next_read_brings_anyway() -> None:
    assert plan(some(reads=40, heat=50.0, captured=True), SchedulePolicy(), NOW) == []


def test_a_memory_that_nobody_reads_costs_nothing() -> None:
    assert plan(some(reads=0, heat=0.0, last_read=-np.inf), SchedulePolicy(), NOW) == []


def test_the_device_goes_to_what_saves_most_for_each_byte_and_the_rest_moves_down() -> None:
    there = some(
        3,
        kv_place=Place.DEVICE,
        heat=np.array([[9.0], [1.0], [5.0]]) * np.ones(5),
        budgets=Budgets(2_000, 10_000, 10_000),
    )
    (move,) = plan(there, SchedulePolicy(), NOW)
    assert (move.subject, move.action, move.target) == ("m1", Action.DEMOTE, Place.HOST)
    small = replace(there, budgets=Budgets(2_000, 0, 10_000))
    (move,) = plan(small, SchedulePolicy(), NOW)
    assert (move.subject, move.action, move.target) == ("m1", Action.DEMOTE, Place.DISK)
    bare = replace(there, budgets=Budgets(2_000, 0, 0))
    (move,) = plan(bare, SchedulePolicy(), NOW)
    assert (move.subject, move.action, move.target, move.gain < 0) == ("m1", Action.DROP, Place.NOWHERE, True)


def test_a_blob_on_disk_makes_moving_down_free() -> None:
    there = some(
        2,
        kv_place=Place.DEVICE,
        kv_blob=True,
        heat=np.array([[9.0], [1.0]]) * np.ones(5),
        budgets=Budgets(1_000, 0, 10_000),
    )
    (move,) = plan(there, SchedulePolicy(), NOW)
    assert (move.action, move.target, move.seconds) == (Action.DEMOTE, Place.DISK, 0)


def test_what_is_held_stays_until_a_newcomer_is_clearly_better() -> None:
    def rivals_of(newcomer: float) -> list:
        counts = np.array([[1.0], [newcomer]]) * np.ones(5)
        there = some(
            2, kv_place=[Place.DEVICE, Place.NOWHERE], at_hand=[False, True], heat=counts, budgets=Budgets(1_000, 0, 0)
        )
        return plan(there, SchedulePolicy(keep=0.5), NOW)

    assert rivals_of(1.8) == []
    assert [(m.subject, m.action) for m in rivals_of(4.5)] == [("m0", Action.DROP), ("m1", Action.BUILD)]


def test_a_walk_that_starts_over_does_not_flush_the_last_place() -> None:
    """Sixty subjects in a ring, room for thirty: whoever lets the earliest go serves nothing."""
    machine = Machine("any", replace(RATES, disk=1e5, host=1e6, device=1e7, write=1e5), 100, 0.05, 0.0, 0.5)
    ring, tokens = np.tile(np.arange(60), 4), np.full(60, 100)
    trace = traces.Trace("ring", np.arange(240.0), ring, tokens, np.full(60, -1))
    first = rivals.ruled(trace, machine, rivals.least_recent)
    ours = scheduled(trace, machine, SchedulePolicy())
    assert first.served[Place.DISK] == 0
    assert ours.served[Place.DISK] > 3 * 60 * 0.5 * 0.5


def test_a_burst_counts_for_less_where_room_turns_over_slowly_than_where_it_does_fast() -> None:
    scales = heat.Scales(totals=(100.0,) * len(heat.HALF_LIVES), at=AT)
    burst, steady = np.array([[8.0, 1, 1, 1, 1], [1.0, 2, 2, 2, 2]])
    counts, at = np.stack([burst, steady]), np.array([AT, AT])
    now, soon, day = (heat.rate(scales, counts, at, AT, within) for within in (0, 1.0, 86_400.0))
    assert now[0] > now[1]
    assert day[1] > day[0]
    np.testing.assert_allclose(now, soon, rtol=0.01)
    assert (day < now).all()


def test_adapters_and_keys_and_values_share_the_device_by_gain_per_byte() -> None:
    there = some(
        2, kv_place=[Place.DEVICE, Place.NOWHERE], adapter_bytes=[0, 800], adapter_place=[0, Place.DEVICE], adapter_blob=[False, True],
        heat=np.array([[2.0], [9.0]]) * np.ones(5), budgets=Budgets(1_200, 0, 10_000),
    )  # fmt: skip
    (move,) = plan(there, SchedulePolicy(), NOW)
    assert (move.subject, move.form, move.source, move.target) == ("m0", Kind.ACTIVATION, Place.DEVICE, Place.DISK)
    cold = replace(there, heat=there.heat[::-1].copy())
    (move,) = plan(cold, SchedulePolicy(), NOW)
    assert (move.subject, move.form, move.source, move.target) == ("m1", Kind.PARAMETRIC, Place.DEVICE, Place.DISK)


def test_pinned_forms_stay_and_priority_weighs() -> None:
    both = some(2, kv_place=Place.DEVICE, heat=np.array([[9.0], [1.0]]) * np.ones(5), budgets=Budgets(1_000, 0, 0))
    (move,) = plan(replace(both, pinned=np.array([False, True])), SchedulePolicy(), NOW)
    assert move.subject == "m0"
    (move,) = plan(replace(both, priority=np.array([0.05, 1.0])), SchedulePolicy(), NOW)
    assert move.subject == "m0"


def test_what_is_expected_is_loaded_ahead_within_its_share_and_goes_first() -> None:
    quiet = {"heat": 0.0, "last_read": AT - 3600, "captured": True}
    there = some(
        3, kv_place=Place.DISK, kv_blob=True, expected=[0.9, 0.2, 0.8], budgets=Budgets(10_000, 0, 10_000), **quiet
    )
    moves = plan(there, SchedulePolicy(prefetch_share=0.1), NOW)
    assert [(m.subject, m.action, m.target) for m in moves] == [("m0", Action.PREFETCH, Place.DEVICE)]
    assert "chance of 0.90" in moves[0].reason
    loaded = applied(there, moves, SchedulePolicy(), NOW)
    over = replace(loaded, expected=np.zeros(3), budgets=Budgets(900, 0, 10_000))
    (move,) = plan(over, SchedulePolicy(), NOW)
    assert (move.subject, move.action, move.target) == ("m0", Action.DEMOTE, Place.DISK)


def test_cold_memories_are_archived_and_what_was_made_of_them_goes() -> None:
    old = AT - 91 * 86_400
    there = some(
        3,
        kv_place=Place.DISK,
        kv_blob=True,
        last_read=old,
        created=old,
        heat=0.0,
        frozen=[False, True, False],
        priority=[0.5, 0.5, 0.9],
    )
    moves = plan(there, SchedulePolicy(archive_after=timedelta(days=90)), NOW)
    assert [(m.subject, m.action) for m in moves] == [("m0", Action.ARCHIVE), ("m0", Action.DROP)]
    assert moves[0].reason == "not read for 91 days: at priority 0.5 90 days are the limit"
    assert plan(there, SchedulePolicy(), NOW) == []


def test_what_has_lapsed_expires_unless_it_is_frozen_or_pinned() -> None:
    there = some(3, expires_at=AT - 60, frozen=[False, True, False], pinned=[False, False, True], heat=0.0)
    (move,) = plan(there, SchedulePolicy(), NOW)
    assert (move.subject, move.action, move.reason) == ("m0", Action.EXPIRE, "its time was over 60 s ago")


def test_an_adapter_is_made_only_where_context_or_capacity_argues_for_it_or_somebody_asks() -> None:
    able = {"distillable": True, "adapter_bytes": 500, "kv_place": Place.DEVICE, "reads": 10_000, "heat": 50.0}
    assert plan(some(**able), SchedulePolicy(), NOW) == []  # keys and values on the device do as well
    wide = some(**(able | {"kv_place": Place.NOWHERE, "kv_bytes": 30_000, "tokens": 9_000}))
    policy = SchedulePolicy(build_burst=1000)
    move = next(m for m in plan(replace(wide, bucket=Bucket(1000, AT)), policy, NOW) if m.action is Action.DISTIL)
    assert (move.form, move.target, move.seconds) == (Kind.PARAMETRIC, Place.DISK, pytest.approx(901))
    assert "9,000 tokens are 27% of the window of 32,768" in move.reason
    assert "saves 90 s for each read, even after 10 reads; there were 10,000" in move.reason
    few = replace(wide, bucket=Bucket(1000, AT), reads=np.array([9]))
    assert Action.DISTIL not in {m.action for m in plan(few, policy, NOW)}
    move = next(
        m
        for m in plan(some(**(able | {"asked": True, "reads": 0})), SchedulePolicy(), NOW)
        if m.action is Action.DISTIL
    )
    assert move.reason.startswith("asked for: it takes 11 s")


def test_an_asked_adapter_waits_for_the_bucket_and_one_that_takes_longer_than_all_for_a_full_one() -> None:
    there = some(asked=True, distillable=True, adapter_bytes=500, heat=0.0, reads=0)
    policy = SchedulePolicy(build_burst=5)  # it takes 11 seconds
    assert plan(replace(there, bucket=Bucket(4.9, AT)), policy, NOW) == []
    (move,) = plan(replace(there, bucket=Bucket(5, AT)), policy, NOW)
    after = applied(replace(there, bucket=Bucket(5, AT)), [move], policy, NOW)
    assert after.bucket.seconds == pytest.approx(5 - 11)


def test_the_bucket_fills_with_time_up_to_its_burst() -> None:
    policy = SchedulePolicy(build_seconds=15, build_burst=60)
    assert refilled(Bucket(10, AT), policy, NOW + timedelta(minutes=2)).seconds == pytest.approx(40)
    assert refilled(Bucket(10, AT), policy, NOW + timedelta(hours=1)).seconds == 60
    assert refilled(Bucket(10, AT), policy, NOW - timedelta(seconds=3)) == Bucket(10, AT)


def test_what_somebody_is_at_work_on_waits_and_its_room_is_kept() -> None:
    there = some(2, at_hand=True, leased=[True, False], leased_to=[Place.DEVICE, 0], budgets=Budgets(1_500, 0, 0))
    assert plan(there, SchedulePolicy(), NOW) == []
    (move,) = plan(replace(there, leased_to=np.array([0, 0])), SchedulePolicy(), NOW)
    assert move.subject == "m1"


# heat


def test_a_count_halves_in_each_half_life() -> None:
    counts = heat.faded(np.ones((1, 5)), np.array([AT]), AT + 480)
    assert counts[0] == pytest.approx([2.0 ** -(480 / h) for h in heat.HALF_LIVES])
    assert heat.faded(np.ones((1, 5)), np.array([AT]), AT - 480)[0] == pytest.approx(np.ones(5))


def test_the_scale_that_foretells_the_reads_gets_the_weight() -> None:
    def weights(subjects: list[int], pace: float) -> tuple[float, ...]:
        scales, counts, at = heat.Scales(), np.zeros((200, 5)), np.zeros(200)
        for step, i in enumerate(subjects):
            scales, counts[i] = heat.read(scales, counts[i], float(at[i]), step * pace)
            at[i] = step * pace
        return scales.weights

    draw = np.random.default_rng(3)
    bursts = [i for i in draw.permutation(200).tolist() for _ in range(8)]
    steady = draw.choice(200, 1600, p=np.arange(1, 201) ** 1.5 / (np.arange(1, 201) ** 1.5).sum()).tolist()
    assert np.argmax(weights(bursts, 20)) == 0
    assert np.argmax(weights(steady, 20)) >= 2


# bad input


def test_a_clock_that_went_back_moves_nothing() -> None:
    there = some(at_hand=True, planned_at=AT)
    assert plan(there, SchedulePolicy(), NOW - timedelta(seconds=4))
    with pytest.raises(InvalidArgument, match="60 s before the last plan"):
        plan(there, SchedulePolicy(), NOW - timedelta(seconds=60))


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 1.2}, {"keep": 0}, {"break_even": 0}, {"build_seconds": 61}, {"build_seconds": -1}, {"build_burst": -1}, {"build_burst": 0},
        {"prefetch_share": 1.5}, {"prefetch_from": 0}, {"idle": 0}, {"context_share": 0}, {"prefetch_within": timedelta(0)},
        {"archive_after": timedelta(seconds=30)}, {"clock_back": timedelta(seconds=-1)}, {"break_even": "often"}, {"keep": None},
        {"idle": True}, {"archive_after": 90}, {"prefetch_within": 60}, {"clock_back": None}, {"build_burst": float("nan")},
        {"break_even": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_a_policy_that_contradicts_itself_is_refused_by_name(wrong) -> None:
    with pytest.raises(InvalidArgument, match=f"SchedulePolicy.{next(iter(wrong))}"):
        plan(some(at_hand=True), SchedulePolicy(**wrong), NOW)


@pytest.mark.parametrize("place", ["device", "host", "disk"])
def test_a_budget_smaller_than_one_block_is_refused(place: str) -> None:
    budgets = Budgets(**({"device": 4096, "host": 4096, "disk": 4096, "block": 1024} | {place: 1000}))
    with pytest.raises(InvalidArgument, match=f"Budgets.{place}: 1,000 bytes hold no block of 1,024"):
        plan(some(budgets=budgets), SchedulePolicy(), NOW)
    assert plan(some(budgets=replace(budgets, **{place: 0})), SchedulePolicy(), NOW) is not None


def test_rates_and_columns_that_cannot_be_are_refused() -> None:
    endless = [(part.name, float("inf")) for part in fields(Rates)]
    wrong = [("prefill", 0), ("disk", "fast"), ("host", float("nan")), ("attention", -1), ("distil", None), *endless]
    for name, value in wrong:
        with pytest.raises(InvalidArgument, match=rf"Rates.{name}: {value!r} is no rate"):
            plan(some(rates=replace(RATES, **{name: value})), SchedulePolicy(), NOW)
    with pytest.raises(InvalidArgument, match="warmth: a snapshot has no such column"):
        some(warmth=1)
    with pytest.raises(InvalidArgument, match=r"tokens: a column of shape \(2,\)"):
        some(2, tokens=[1, 2, 3])


# cost


def test_planning_grows_no_faster_than_the_number_of_memories() -> None:
    """100,000 take a tenth of a second alone on a core; here only that no part of it is quadratic."""

    def seconds(count: int) -> float:
        draw = np.random.default_rng(0)
        there = some(
            count, kv_place=draw.choice(4, count, p=(0.4, 0.3, 0.2, 0.1)), heat=draw.exponential(1, (count, 5)), reads=draw.integers(0, 9, count),
            budgets=Budgets(100 * count, 200 * count, 500 * count), at_hand=draw.random(count) < 0.001, captured=True,
        )  # fmt: skip
        settled = applied(there, plan(there, SchedulePolicy(), NOW), SchedulePolicy(), NOW)
        found = []
        for _ in range(3):
            begun = time.process_time()
            assert plan(settled, SchedulePolicy(), NOW) == []
            found.append(time.process_time() - begun)
        return min(found)

    assert seconds(100_000) < 60 * seconds(10_000)


def test_the_bench_runs_and_says_what_it_found(tmp_path, capsys) -> None:
    pytest.importorskip("scipy")
    file = tmp_path / "schedule.json"
    words = [
        "bench",
        "schedule",
        "--reads",
        "60",
        "--seeds",
        "1",
        "--subjects",
        "500",
        "--skip-ablation",
        "--json",
        str(file),
    ]
    assert main(words) == 0
    results = json.loads(file.read_text())["results"]
    assert len(results["cells"]) == 2 * len(traces.DRAWN)
    assert all(0 < c["share"]["clairvoyant GDS"] <= 1.0001 for c in results["cells"])
    assert results["planning"]["settled_moves"] == 0
    assert "timer and top 20" in capsys.readouterr().out
