"""branch and merge: trying changes on a copy, throwing them away without a trace, or keeping them where nothing conflicts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from memos_core import Conflict, InvalidArgument, Item, Link, MemOS, NotFound, Policy, State
from memos_core.branches import copied
from tests.test_crash import assert_explained, everything


def texts(memory: MemOS, actor: str = "ann") -> list[str]:
    return sorted(h.cube.text for h in memory.search("tea", k=100, actor=actor))


def files(memory: MemOS) -> dict[str, str]:
    """Hashes of the store's files, without its locks and without what any reading appends to (usage)."""
    root = Path(memory.path)
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and not p.name.endswith(".lock")
    }


def test_everything_works_on_a_branch_and_nothing_of_it_is_left(memory: MemOS) -> None:
    [tea], [coffee] = memory.add("green tea", key="tea"), memory.add("black coffee")
    before = files(memory)
    with memory.branch("what if") as trial:
        assert texts(trial) == ["black coffee", "green tea"]
        trial.update(tea.id, "white tea")
        trial.delete(coffee.id)
        trial.items.put([Item(("box",), "k", {"n": 1}, ("tea box",))])
        with trial.transaction():
            trial.add("new milk")
        trial.share(tea.id, readers=["bob"])
        trial.tick()
        assert texts(trial) == ["new milk", "tea box", "white tea"]
        found = trial.diff("what if")
        assert [len(found.added), len(found.removed), len(found.changed)] == [2, 1, 1]
        trial.rollback("what if")
        assert texts(trial) == ["green tea"]
        assert texts(memory) == ["black coffee", "green tea"]
        assert texts(memory, "bob") == []
    assert trial.closed
    assert not Path(trial.path).exists()
    assert not (Path(memory.path) / ".branches").exists()
    assert files(memory) == before


def test_a_branch_costs_no_room(memory: MemOS) -> None:
    memory.add([{"role": "user", "content": f"turn {n}"} for n in range(50)], session="s")
    with copied(memory._vault.db) as path:
        shared = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
        assert len(shared) > 10
        assert all(p.stat().st_nlink == 2 for p in shared)


def test_the_store_may_change_and_be_compacted_meanwhile(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(policy=Policy(compact_every=3))
    [tea] = memory.add("green tea")
    with memory.branch("what if") as trial:
        for n in range(10):
            memory.update(tea.id, f"tea {n}")
        memory.delete(tea.id)
        memory.tick()
        assert texts(trial) == ["green tea"]
        trial.update(tea.id, "white tea")
        trial.tick()
        assert [c.text for c in trial.history(tea.id)] == ["green tea", "white tea"]
    assert texts(memory) == []


def test_merge_brings_each_memory_back_as_one_version_with_the_name_of_who_changed_it(memory: MemOS) -> None:
    [tea], [coffee] = memory.add("green tea"), memory.add("black coffee")
    [his] = memory.add("bob's tea", actor="bob")
    memory.update(tea.id, "greener tea")
    with memory.branch("what if") as trial:
        trial.update(tea.id, "white tea")
        trial.update(tea.id, "whiter tea", attributes={"n": 1})
        trial.delete(coffee.id)
        [milk] = trial.add("new milk")
        trial.update(milk.id, "newer milk")
        [passing] = trial.add("passing")
        trial.delete(passing.id)
        trial.update(his.id, "bob's own tea", actor="bob")
        memory.add("meanwhile")
        done = memory.merge(trial)
    assert done.added == (milk.id,)
    assert set(done.changed) == {tea.id, his.id}
    assert done.removed == (coffee.id,)
    assert done.left == {}
    assert texts(memory) == ["meanwhile", "newer milk", "whiter tea"]
    assert texts(memory, "bob") == ["bob's own tea"]
    assert [c.text for c in memory.history(tea.id)] == ["green tea", "greener tea", "whiter tea"]
    assert memory.get(tea.id).attributes == {"n": 1}
    assert memory.get(milk.id).version == 1
    assert [e.actor for e in memory.log(actor="bob", subject=his.id)] == ["bob", "bob"]
    with pytest.raises(NotFound):
        memory.get(coffee.id)
    assert memory.snapshots() == []
    assert_explained(memory, [h.cube for h in everything(memory)])
    assert memory.search("whiter", k=1)[0].cube.id == tea.id


@pytest.mark.parametrize("change", ["update", "delete", "share", "take the key"])
def test_merge_brings_back_nothing_where_the_store_changed_too(change: str, memory: MemOS) -> None:
    [tea] = memory.add("green tea")
    with memory.branch("what if") as trial:
        trial.update(tea.id, "white tea")
        trial.add("new milk", key="milk")
        if change == "update":
            memory.update(tea.id, "black tea")
        elif change == "delete":
            memory.delete(tea.id)
        elif change == "share":
            memory.share(tea.id, readers=["bob"])
        else:
            memory.add("old milk", key="milk")
        before = texts(memory)
        with pytest.raises(Conflict, match="1 memories changed"):
            memory.merge(trial)
        assert texts(memory) == before
        assert texts(trial) == ["new milk", "white tea"]


def test_merge_refuses_what_was_made_from_a_memory_that_changed_here(memory: MemOS) -> None:
    """Its readers may be fewer now, or its words others."""
    [source] = memory.add("green tea")
    memory.share(source.id, readers=["bob"])
    with memory.branch("what if") as trial:
        [made] = trial.add("made from tea")
        cube = trial.get(made.id)
        trial._vault.replace([cube], [_derived(cube, source.id, 2)], [None])
        trial._writer.tell("ann", "update", [_derived(cube, source.id, 2)], cube.updated_at)
        memory.share(source.id)
        with pytest.raises(Conflict):
            memory.merge(trial)
    assert texts(memory) == ["green tea"]


def _derived(cube, source, version):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(cube, version=cube.version + 1, lineage=(Link(source, version),))


def test_only_a_branch_of_this_store_is_merged(memory: MemOS, open_store: Callable[..., MemOS], tmp_path: Path) -> None:
    other = open_store(path=tmp_path / "other")
    with pytest.raises(InvalidArgument):
        memory.merge(other)
    with other.branch("what if") as trial, pytest.raises(InvalidArgument):
        memory.merge(trial)


def test_a_name_that_is_a_snapshot_and_a_transaction_are_refused(memory: MemOS) -> None:
    memory.add("tea")
    memory.snapshot("then")
    with pytest.raises(InvalidArgument, match="then"):
        memory.branch("then").__enter__()
    with memory.transaction(), pytest.raises(InvalidArgument, match="transaction"):
        memory.branch("what if").__enter__()
    assert not (Path(memory.path) / ".branches").exists()


def test_two_branches_at_a_time_and_a_branch_of_a_branch(memory: MemOS) -> None:
    [tea] = memory.add("green tea")
    with memory.branch("one") as one, memory.branch("two") as two:
        one.update(tea.id, "white tea")
        with two.branch("three") as three:
            three.freeze(tea.id)
            two.merge(three)
        assert two.get(tea.id).state is State.FROZEN
        memory.merge(one)
        with pytest.raises(Conflict):
            memory.merge(two)
    assert texts(memory) == ["white tea"]


def test_what_a_killed_process_left_is_swept_and_what_is_in_use_is_not(memory: MemOS) -> None:
    memory.add("tea")
    folder = Path(memory.path) / ".branches"
    with memory.branch("what if") as trial:
        shutil.copytree(trial.path, folder / "left")
        memory.tick()
        assert [p.name for p in folder.iterdir()] == [Path(trial.path).name]
        assert texts(trial) == ["tea"]
    assert not folder.exists()
