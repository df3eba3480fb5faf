"""A dump taken in inside a transaction counts with the rest of it, or not at all, also for who searched meanwhile and after a kill."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path

import pytest

from memos_core import Access, MemOS, NotFound, Sensitivity, grant
from tests.conftest import Clock
from tests.test_crash import stopped
from tests.test_sensitivity import digits
from tests.test_transactions import elsewhere, taken_back, texts


@pytest.fixture
def dump(open_store: Callable[..., MemOS], tmp_path: Path) -> Path:
    """Of a changed and a new memory; the first version of the changed one is in the test's store."""
    with open_store() as memory:
        [tea] = memory.add("green tea", key="tea")
    with open_store(path=tmp_path / "there") as there:
        memory = open_store()
        memory.dump(tmp_path / "first")
        there.load(tmp_path / "first")
        there.update(tea.id, "white tea")
        there.add("black tea")
        there.dump(tmp_path / "dump")
        memory.close()
    return tmp_path / "dump"


def test_a_load_counts_with_the_rest_of_its_transaction(dump: Path, open_store: Callable[..., MemOS]) -> None:
    memory, other = open_store(), open_store()
    assert texts(memory) == texts(other) == ["green tea"]
    with memory.transaction():
        memory.add("tea before")
        report = memory.load(dump)
        assert (report.added, report.updated) == (1, 1)
        memory.add("tea after")
        assert texts(memory) == ["black tea", "tea after", "tea before", "white tea"]
        for reader in (other, memory):
            assert elsewhere(lambda reader=reader: texts(reader)) == ["green tea"]
    for reader in (memory, other, open_store()):
        assert texts(reader) == ["black tea", "tea after", "tea before", "white tea"]
    assert memory.verify().sound


def test_a_load_is_taken_back_with_its_transaction_and_can_be_done_again(
    dump: Path, open_store: Callable[..., MemOS]
) -> None:
    memory, other = open_store(), open_store()
    [tea] = memory.search("tea")
    assert texts(other) == ["green tea"]
    with taken_back(memory):
        memory.load(dump)
        assert texts(memory) == ["black tea", "white tea"]
    for reader in (memory, other, open_store()):
        assert texts(reader) == ["green tea"]
        assert [c.text for c in reader.history(tea.cube.id)] == ["green tea"]
    assert memory.verify().sound
    assert memory.load(dump).added == 1
    assert texts(memory) == texts(other) == ["black tea", "white tea"]


@pytest.mark.parametrize("commits", [2, 3, 4, 5])
def test_a_load_that_dies_in_a_transaction_is_taken_back_by_the_next_writer(
    commits: int, dump: Path, open_store: Callable[..., MemOS]
) -> None:
    memory = open_store()
    begun = memory._vault.db.transactions.begin()

    def work() -> None:
        begun.__enter__()  # and nobody leaves it: the process is dead
        memory.load(dump)

    assert copy_context().run(stopped, commits, work) == (commits < 5)
    memory._vault.db._turn.release()
    memory._vault.db.site.turn("compact").release()
    with open_store() as again:
        assert texts(again) == ["green tea"]
        again.add("milk tea")
        assert texts(again) == ["green tea", "milk tea"]
        assert again.verify().sound
        assert again.load(dump).added == 1
        assert texts(again) == ["black tea", "milk tea", "white tea"]
        with pytest.raises(NotFound):
            again.get("nothing")


def test_what_is_taken_in_is_kept_as_the_rules_here_say(
    open_store: Callable[..., MemOS], clock: Clock, tmp_path: Path
) -> None:
    with open_store(path=tmp_path / "there") as there:
        [shared] = there.add("tea of 42", access=Access("ann", frozenset({grant("bob", purpose="support")})))
        there.add("tea")
        there.dump(tmp_path / "dump")
    memory = open_store(sensitivity=Sensitivity(digits))
    memory.retain((), timedelta(days=1))
    memory.load(tmp_path / "dump", as_they_are=True)
    assert memory.get(shared.id).sensitivity == ("number",)
    assert memory._vault.by_ids([shared.id])[0].cube.sensitivity == ("number",)
    with memory.acting(purpose="support"):
        assert [h.cube.text for h in memory.search("tea", actor="bob")] == ["tea of [number]"]
    assert memory.search("tea", actor="bob") == []
    clock.forward(days=1)
    assert memory.search("tea") == []
    assert memory.tick().expired == 2
    assert memory.stats().memories == 0
