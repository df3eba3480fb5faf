"""Compaction leaves alone what nobody wrote to, drops old versions all the same, and gives way to requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from memos_core import MemOS, Policy
from memos_core.compaction import TABLES

BRIEFLY = Policy(keep_versions=timedelta(seconds=1))


def versions(memory: MemOS) -> int:
    return len(memory._vault.db.table(memory._vault.manifest.cubes).list_versions())


def most_versions(memory: MemOS) -> int:
    db = memory._vault.db
    return max(len(db.table(n).list_versions()) for n in (memory._vault.manifest.cubes, *TABLES) if db.has(n))


def settled(memory: MemOS) -> list[str]:
    """Compact until nothing is left to do; a list that is longer by one for each table that is compacted from then on."""
    compacted = ["all of them"]
    memory._vault.db.give_way = lambda: compacted.append("a table")
    while most_versions(memory) > 1 or compacted:
        compacted.clear()
        assert memory._vault.db.compact()
        if most_versions(memory) > 1:  # they are too young
            compacted.append("not yet")
    return compacted


def test_what_nobody_wrote_to_is_left_alone_and_what_another_process_wrote_is_not(
    open_store: Callable[..., MemOS],
) -> None:
    memory, other = open_store(policy=BRIEFLY), open_store()
    memory.add("green tea")
    compacted = settled(memory)
    assert memory._vault.db.compact()
    assert compacted == []
    other.add("white tea")
    assert memory._vault.db.compact()
    assert compacted
    settled(memory)
    assert {h.cube.text for h in memory.search("tea")} == {"green tea", "white tea"}


def test_a_request_goes_before_a_step_of_a_tick_which_does_not_wait_for_ever(open_store: Callable[..., MemOS]) -> None:
    memory = open_store()
    with memory._going_first():
        assert not memory._scheduler.give_way()
    assert memory._scheduler.give_way()
    assert memory._vault.db.give_way()
