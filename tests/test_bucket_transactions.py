"""Transactions of a store in a bucket: seen whole or not at all, and taken back by whoever takes the turn over."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memos_core import Conflict, InvalidArgument, MemOS, StoreError, StoreUnavailable
from tests.buckets import Server
from tests.test_bucket import take_away_the_turn
from tests.test_transactions import begin_and_die, taken_back, texts

Open = Callable[..., MemOS]


@pytest.fixture
def open_here(server: Server, tmp_path: Path, open_store: Open) -> Open:
    return lambda **options: open_store(**{"path": server.url(tmp_path), "storage_options": server.options, **options})


def test_all_of_it_or_nothing(open_here: Open) -> None:
    memory, other = open_here(), open_here()
    [green] = memory.add("green tea")
    with ThreadPoolExecutor(1) as pool:
        with memory.transaction():
            memory.update(green.id, "black tea")
            memory.add("red tea")
            assert texts(memory) == ["black tea", "red tea"]
            assert texts(other) == pool.submit(texts, memory).result(timeout=60) == ["green tea"]
        assert texts(memory) == texts(other) == ["black tea", "red tea"]
        with taken_back(memory):
            memory.delete(green.id)
            assert texts(memory) == ["red tea"]
            assert texts(other) == ["black tea", "red tea"]
    assert texts(memory) == texts(other) == ["black tea", "red tea"]
    assert other.log(limit=1)[0].outcome == "rolled back" or memory.log(limit=1)[0].outcome == "rolled back"


def test_what_a_killed_process_began_is_taken_back_by_the_next_writer(open_here: Open) -> None:
    memory, other = open_here(), open_here()
    memory.add("green tea")
    begin_and_die(memory)
    assert texts(other) == ["green tea"]
    other.add("milk tea")
    assert texts(other) == texts(memory) == ["green tea", "milk tea"]


def test_one_that_slept_while_its_turn_was_taken_over_is_taken_back_and_takes_nothing_back(open_here: Open) -> None:
    asleep, awake = open_here(), open_here()
    [green] = asleep.add("green tea")

    def work() -> None:
        with asleep.transaction():
            asleep.update(green.id, "black tea")
            take_away_the_turn(asleep)  # as if it had lapsed
            assert awake.update(green.id, "white tea").version == 2
            asleep.add("red tea")

    with pytest.raises((Conflict, StoreUnavailable, StoreError)):
        work()
    assert texts(awake) == texts(asleep) == ["white tea"]
    assert [c.text for c in awake.history(green.id)] == ["green tea", "white tea"]
    assert asleep.update(green.id, "oolong tea").version == 3
    assert texts(awake) == ["oolong tea"]


def test_a_branch_is_refused(open_here: Open) -> None:
    memory = open_here()
    with pytest.raises(InvalidArgument, match="bucket"):
        memory.branch("what if").__enter__()


def test_snapshots_and_rollbacks_work(open_here: Open) -> None:
    memory = open_here()
    [green] = memory.add("green tea")
    memory.snapshot("then")
    memory.update(green.id, "black tea")
    assert len(memory.diff("then").changed) == 1
    memory.rollback("then")
    assert texts(memory) == ["green tea"]
