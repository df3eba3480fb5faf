"""Ticks: what the scheduler plans is carried out, told of and not done twice; what fails does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import (
    Adapter,
    Carried,
    Distillation,
    InvalidArgument,
    Kind,
    KVCache,
    Lesson,
    MemCube,
    MemOS,
    Policy,
    Rates,
    Recipe,
    SchedulePolicy,
    State,
    StoreUnavailable,
)
from memos_core.distil import adapter_bytes
from tests.conftest import Clock
from tests.networks import random_model

QUESTION = "Which colour does house 3 have?"
SLOW = Rates(prefill=10.0, disk=1e9)  # a model that takes its time: what is asked twice is worth keeping


def told(memory: MemOS, count: int = 12, **options: Any) -> list[MemCube]:
    return [memory.add(f"The colour of house {i} is number {i * 7}.", **options)[0] for i in range(count)]


def ask(memory: MemOS, clock: Clock, times: int = 3, **options: Any) -> str:
    text = ""
    for _ in range(times):
        clock.forward(seconds=20)
        text = memory.generate(QUESTION, max_tokens=4, **options).text
    return text


def kept(memory: MemOS, **options: Any) -> list[MemCube]:
    rows = memory._vault.rows("kind = 'activation' AND state = 'activated'")
    return [r.cube for r in rows]


def done(moves: tuple[Carried, ...]) -> list[str]:
    return [f"{c.move.action} {c.move.form}" for c in moves if c.outcome == "done"]


@pytest.fixture
def open_slow(open_store: Callable[..., MemOS]) -> Callable[..., MemOS]:
    return lambda **options: open_store(**{"model": random_model(), "rates": SLOW, **options})


@pytest.fixture
def memory(open_slow: Callable[..., MemOS]) -> MemOS:
    return open_slow()


# --- keys and values ------------------------------------------------------------------------------------------------------


def test_what_is_asked_again_and_again_is_kept_and_opened_and_the_answer_is_the_same(
    memory: MemOS, open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    told(memory)
    before = ask(memory, clock)
    report = memory.tick()
    assert done(report.moves) == ["build activation"]
    [cube] = kept(memory)
    assert len(cube.lineage) == 12
    fresh = open_slow()
    reply = fresh.generate(QUESTION, max_tokens=4)
    assert reply.usage.cached > 100
    assert reply.text == before
    [event] = memory.log(subject=cube.id, verb="schedule")
    assert event.outcome == "ok"
    assert "reads without it have cost" in event.detail


def test_a_second_tick_finds_nothing_to_do(memory: MemOS, clock: Clock) -> None:
    told(memory)
    ask(memory, clock)
    assert memory.tick().moves
    assert memory.tick().moves == ()


def test_what_is_asked_once_is_not_kept(memory: MemOS, clock: Clock) -> None:
    told(memory)
    ask(memory, clock, times=1)
    assert memory.tick().moves == ()


def test_a_passage_that_grew_takes_over_what_was_made_and_the_one_before_goes(
    memory: MemOS, clock: Clock, tmp_path: Path
) -> None:
    first = told(memory)
    ask(memory, clock)
    memory.tick()
    [before] = kept(memory)
    new = memory.add("The colour of house 99 is red, as everybody in the street can see from far away.")[0]
    ask(memory, clock, times=8)
    assert done(memory.tick().moves) == ["build activation"]
    [after] = kept(memory)
    assert {link.id for link in after.lineage} == {c.id for c in (*first, new)}
    assert [link.id for link in after.lineage][:12] == [link.id for link in before.lineage]
    assert len(list((tmp_path / "store" / "blobs").iterdir())) == 1
    assert memory.generate(QUESTION, max_tokens=4).usage.cached > 100


def test_a_passage_is_made_for_who_asks_and_only_of_what_he_may_read(memory: MemOS, clock: Clock) -> None:
    shared, own = told(memory, 6), told(memory, 3, actor="bob")
    for cube in shared[:3]:
        memory.share(cube.id, readers=["bob"])
    ask(memory, clock, actor="bob")
    memory.tick()
    [cube] = kept(memory)
    assert cube.access.owner == "bob"
    assert {link.id for link in cube.lineage} == {c.id for c in (*shared[:3], *own)}
    assert memory.log(subject=cube.id) == []  # to ann it does not exist
    memory.share(shared[0].id)
    assert kept(memory) == []


def test_what_is_given_is_let_go_for_what_was_asked_for(open_slow: Callable[..., MemOS], clock: Clock) -> None:
    memory = open_slow(policy=Policy(kv_disk_bytes=900_000))
    told(memory)
    ask(memory, clock)
    memory.tick()
    [made] = kept(memory)
    assert isinstance(made.payload, KVCache)
    assert made.payload.bytes > 450_000
    cubes = told(memory, 11, namespace=("other",))
    [asked] = memory.convert([c.id for c in cubes], Kind.ACTIVATION)
    assert kept(memory) == [asked]
    [event] = memory.log(subject=made.id, verb="schedule", limit=1)
    assert "were needed for what was asked for" in event.detail


def test_room_is_made_for_an_adapter_that_was_asked_for_too(open_slow: Callable[..., MemOS], clock: Clock) -> None:
    memory = open_slow(policy=Policy(kv_disk_bytes=900_000))
    source = told(memory)[0]
    ask(memory, clock)
    memory.tick()
    [made] = kept(memory)
    draft = memory._derived.draft("ann", [source], Adapter("b" * 64, "m", (), 1, 700_000), "lora", State.ACTIVATED, "m")
    asked = memory._derived.keep("ann", draft, [source], [bytes(700_000)])
    assert kept(memory) == []
    assert memory._derived.there(asked.id) == asked
    assert memory.log(subject=made.id, verb="schedule", limit=1)[0].outcome == "ok"


def test_what_was_converted_by_hand_stays(memory: MemOS) -> None:
    [cube] = memory.convert([c.id for c in told(memory, 3)], Kind.ACTIVATION)
    memory.tick()
    memory.tick(memory._clock() + timedelta(days=400))
    assert kept(memory) == [cube]


def test_what_was_converted_by_hand_of_memories_whose_time_is_over_holds_no_room_that_others_need(
    open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    memory = open_slow(policy=Policy(kv_disk_bytes=900_000))  # room for one
    lapses = told(memory, namespace=("other",), ttl=3_600)
    [asked] = memory.convert([c.id for c in lapses], Kind.ACTIVATION)
    told(memory)
    ask(memory, clock)
    assert memory.tick().moves == ()
    assert kept(memory) == [asked]
    clock.forward(hours=2)
    ask(memory, clock, times=8)
    assert {"drop activation", "build activation"} <= set(done(memory.tick().moves))
    assert [c.namespace for c in kept(memory)] == [("default",)]


def test_the_shelf_is_filled_ahead_of_a_conversation_and_the_disk_is_not_read_for_it(
    memory: MemOS, open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    told(memory)
    ask(memory, clock)
    memory.tick()
    fresh = open_slow(rates=Rates(prefill=10.0, disk=1e6))
    report = fresh.tick()
    assert {(c.move.action, c.outcome) for c in report.moves} <= {("prefetch", "done"), ("load", "done")}
    assert report.moves
    assert fresh._model is not None
    assert fresh._model.shelf.held().blocks > 0
    read = fresh._tiers.opener(fresh._model).loading.value
    reply = fresh.generate(QUESTION, max_tokens=4)
    assert reply.usage.cached > 100
    assert fresh._tiers.opener(fresh._model).loading.value == read


def test_without_a_model_nothing_is_built(open_slow: Callable[..., MemOS], clock: Clock) -> None:
    told(memory := open_slow())
    ask(memory, clock)
    memory.close()
    plain = open_slow(model=None)
    assert plain.tick().moves == ()


# --- memories of text -----------------------------------------------------------------------------------------------------


@pytest.fixture
def archiving(open_store: Callable[..., MemOS]) -> MemOS:
    return open_store(schedule=SchedulePolicy(archive_after=timedelta(days=90)))


def test_what_nobody_reads_is_archived_where_that_is_asked_for_and_told_of_with_its_reason(
    archiving: MemOS, clock: Clock
) -> None:
    memory = archiving
    cold, named = memory.add("The spare key is under the blue pot.")[0], memory.add("Ann is ill.", key="health")[0]
    clock.forward(days=80)
    warm = memory.add("The train to Lyon leaves at 7:40.")[0]
    clock.forward(days=20)
    report = memory.tick()
    assert done(report.moves) == ["archive plaintext"]
    assert memory.get(cold.id).state is State.ARCHIVED
    assert memory.get(warm.id).state is memory.get(named.id).state is State.GENERATED
    [event] = memory.log(subject=cold.id, verb="archive")
    assert "not read for" in event.detail
    assert memory.tick().moves == ()


def test_reading_keeps_a_memory_and_so_does_freezing_it(archiving: MemOS, clock: Clock) -> None:
    memory = archiving
    read, frozen = memory.add("The spare key is under the blue pot.")[0], memory.add("Ann is ill.")[0]
    memory.freeze(frozen.id)
    clock.forward(days=80)
    memory.search("Where is the spare key?", k=1)
    clock.forward(days=20)
    assert memory.tick().moves == ()
    assert memory.get(read.id).state is State.GENERATED
    assert memory.get(frozen.id).state is State.FROZEN


def test_a_read_that_could_not_be_written_down_is_written_down_by_the_next_tick(
    open_store: Callable[..., MemOS],
) -> None:
    memory, other = open_store(policy=Policy(lock_seconds=0.05)), open_store()
    [cube] = memory.add("The spare key is under the blue pot.")
    memory.search("Where is the spare key?")
    with other._vault.writing(), pytest.raises(StoreUnavailable):
        memory.tick()
    memory.search("Where is the spare key?")
    memory.tick()
    assert memory.get(cube.id).usage.reads == 2


def test_what_was_changed_or_read_since_it_was_found_cold_is_not_archived(archiving: MemOS, clock: Clock) -> None:
    memory = archiving
    cubes = [memory.add(text)[0] for text in ("The key is under the pot.", "Ann is ill.", "The train is late.")]
    then = clock.now.timestamp()
    clock.forward(days=100)
    memory.update(cubes[0].id, "The key is under the mat.")
    assert memory.search("Ann is ill.", k=1)[0].cube.id == cubes[1].id
    memory._upkeep.flush()
    ids = [c.id for c in cubes]
    archived = memory._writer.archive_cold(dict.fromkeys(ids, "cold"), dict.fromkeys(ids, then), clock.now)
    assert archived == [cubes[2].id]


def test_many_that_are_cold_are_archived_some_at_a_time_so_that_who_writes_gets_a_turn(
    archiving: MemOS, clock: Clock
) -> None:
    memory, turns = archiving, list[str]()
    cubes = memory.add([f"The colour of house {i} is number {i * 7}." for i in range(501)])
    clock.forward(days=100)

    def write() -> None:
        turns.append(memory.add(f"This is written in turn {len(turns)}.")[0].id)

    memory._scheduler.give_way = write
    report = memory.tick()
    assert sorted(c.subject for c in report.moves) == sorted(c.id for c in cubes)
    assert {c.outcome for c in report.moves} == {"done"}
    assert len(turns) == 3  # before it looks, and before each part
    assert memory.stats().by_state["archived"] == 501


def test_nothing_is_archived_unless_a_policy_says_so(open_store: Callable[..., MemOS], clock: Clock) -> None:
    memory = open_store()
    memory.add("The spare key is under the blue pot.")
    clock.forward(days=4_000)
    assert memory.tick().moves == ()
    assert memory.search("Where is the spare key?")


def test_what_has_lapsed_is_expired_as_planned(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.add("The meeting is at four.", ttl=60)
    clock.forward(minutes=2)
    report = memory.tick()
    assert done(report.moves) == ["expire plaintext"]
    assert report.expired == 1
    assert [e.detail for e in memory.log(subject=cube.id, verb="delete")] == ["its time was over"]


# --- what goes wrong ------------------------------------------------------------------------------------------------------


def test_a_move_that_fails_is_told_of_and_does_not_stop_the_others(
    open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    def phrasing(texts: Any) -> Lesson:
        raise OSError("the phrasing's service is down")

    memory = open_slow(
        distillation=Distillation(phrasing=phrasing), schedule=SchedulePolicy(context_share=0.2),
        rates=Rates(prefill=100.0, disk=1e9, distil=0.001, distil_start=0.1),
    )  # fmt: skip
    told(memory, 12, namespace=("much",))
    told(memory, 3, namespace=("little",))
    for label in ("much", "little") * 3:
        ask(memory, clock, times=1, namespace=(label,))
    report = memory.tick()
    found = {str(c.move.action): c for c in report.moves}
    assert found["build"].outcome == "done"
    assert found["distil"].outcome == "failed"
    assert "service is down" in found["distil"].detail
    assert found["distil"].move.bytes == adapter_bytes(random_model(), Recipe(), 12)  # of what all twelve tell
    [event] = [e for e in memory.log(verb="schedule") if e.outcome == "failed"]
    assert "OSError: the phrasing's service is down" in event.detail
    assert "even after" in event.detail  # the arithmetic
    assert "build activation" in done(memory.tick().moves)  # the next best, meanwhile
    assert memory.tick().moves == ()


def test_a_clock_that_went_back_moves_nothing(memory: MemOS, clock: Clock) -> None:
    told(memory)
    ask(memory, clock)
    memory.tick()
    before = memory.log(limit=1000)
    with pytest.raises(InvalidArgument, match="clock went back"):
        memory.tick(clock.now - timedelta(hours=1))
    assert memory.log(limit=1000) == before


def test_a_clock_that_was_wrong_once_is_set_right_by_a_policy_that_lets_it(
    open_store: Callable[..., MemOS], clock: Clock
) -> None:
    memory = open_store()
    memory.tick(clock.now + timedelta(days=40_000))
    with pytest.raises(InvalidArgument, match=r"one tick with a SchedulePolicy\.clock_back as long"):
        memory.tick()
    open_store(schedule=SchedulePolicy(clock_back=timedelta(days=50_000))).tick()
    assert memory.tick().moves == ()


def test_a_tick_that_is_interrupted_in_a_build_gives_it_back_and_the_next_one_makes_it(
    open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    with open_slow() as before:
        told(before)
        ask(before, clock)
    model = random_model()  # on whose shelf there is nothing: the build must run it
    assert model.token_bytes  # which is found by running it, once
    memory = open_slow(model=model)

    def interrupt(module: Any, args: Any) -> None:
        assert memory._scheduler.leases.under_way()
        raise KeyboardInterrupt

    hook = model.network.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        memory.tick()
    hook.remove()
    assert memory._scheduler.leases.under_way() == []
    assert kept(memory) == []
    assert done(memory.tick().moves)[0] == "build activation"
    assert len(kept(memory)) == 1


def test_a_budget_smaller_than_a_block_is_refused_before_anything_moves(
    open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    memory = open_slow(policy=Policy(kv_disk_bytes=1_000))
    told(memory)
    ask(memory, clock)
    for verb in (memory.tick, memory.start):
        with pytest.raises(InvalidArgument, match=r"Budgets\.disk: 1,000 bytes hold no block"):
            verb()
    assert kept(memory) == []


def test_a_policy_that_contradicts_itself_is_refused_by_name_when_the_store_is_opened(
    open_store: Callable[..., MemOS],
) -> None:
    with pytest.raises(InvalidArgument, match=r"SchedulePolicy\.keep"):
        open_store(schedule=SchedulePolicy(keep=2.0))
    with pytest.raises(InvalidArgument, match="schedule: a SchedulePolicy is needed"):
        open_store(schedule=True)
    with pytest.raises(InvalidArgument, match=r"Rates\.prefill"):
        open_store(rates=Rates(prefill=-1.0, disk=1e9))
    with pytest.raises(InvalidArgument, match="rates: Rates are needed"):
        open_store(rates=5)
