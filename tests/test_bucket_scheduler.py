"""The scheduler on a store in a bucket: what one machine builds another one opens, once, within the budget that both keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memos_core import MemOS, Policy
from tests.buckets import Server
from tests.conftest import Clock
from tests.networks import random_model
from tests.test_tick import QUESTION, SLOW, ask, done, kept

Open = Callable[..., MemOS]


@pytest.fixture
def machine(server: Server, tmp_path: Path, open_store: Open) -> Open:
    """Opens the store as one more machine does, with a model of its own whose shelf is empty."""
    here = {"path": server.url(tmp_path), "storage_options": server.options, "rates": SLOW}
    return lambda **options: open_store(**{**here, "model": random_model(), **options})


def told(memory: MemOS, *namespace: str) -> None:
    memory.add([f"The colour of house {i} is number {i * 7}." for i in range(12)], namespace=namespace or ("default",))


def test_what_a_dead_machine_was_building_another_one_builds_once_and_a_third_opens(
    machine: Open, clock: Clock
) -> None:
    one = machine()
    told(one)
    before = ask(one, clock)
    one._upkeep.flush()
    dead = machine(model=None)
    snapshot, _ = one._scheduler.look(clock.now, one._model, None)
    [subject] = [snapshot.ids[i] for i in snapshot.kv_bytes.nonzero()[0]]
    assert dead._scheduler.leases.claim(subject, who="ann", what="build activation nowhere disk")
    assert one.tick().moves == ()
    clock.forward(seconds=61)
    assert done(one.tick().moves) == ["build activation"]
    third = machine()
    assert {c.move.action for c in third.tick().moves} <= {"load", "prefetch"}
    reply = third.generate(QUESTION, max_tokens=4)
    assert reply.text == before
    assert reply.usage.cached > 100
    assert [c.id for c in kept(third)] == [subject]
    assert len(third.log(verb="convert")) == 1
    assert third._scheduler.leases.under_way() == []


@pytest.mark.slow  # each tick asks the tests' server for seconds
def test_what_lies_in_the_bucket_is_within_the_budget_when_what_is_asked_for_changes(
    machine: Open, clock: Clock
) -> None:
    budget = 900_000  # room for one passage
    memory = machine(policy=Policy(kv_disk_bytes=budget))
    told(memory, "before")
    told(memory, "after")
    ask(memory, clock, namespace=("before",))
    memory.tick()
    assert [c.namespace for c in kept(memory)] == [("before",)]
    clock.forward(days=1)
    ask(memory, clock, times=9, namespace=("after",))
    memory.tick()
    assert [c.namespace for c in kept(memory)] == [("after",)]
    [size] = memory._blobs.sizes().values()
    assert budget / 2 < size <= budget
