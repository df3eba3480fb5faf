"""An archived memory is kept and costs no index: no vector, no word in the index of words; and has both again when it comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memos_core import MemOS, Policy, State


def indexed(memory: MemOS) -> tuple[int, int]:
    """How many memories the store finds by a word, whoever asks, and how many have a vector."""
    vault = memory._vault
    return len(vault.worded("walnut", "true", 1000)), vault.count("vector IS NOT NULL")


@pytest.mark.parametrize("resident", [20_000, 0])
def test_what_is_archived_costs_no_index_and_gets_it_back(resident: int, open_store: Callable[..., MemOS]) -> None:
    memory = open_store(policy=Policy(resident_memories=resident, index_from=8))
    cubes = memory.add([f"walnut tea {n}" for n in range(20)])
    memory.tick()
    assert indexed(memory) == (20, 20)
    for cube in cubes[:15]:
        memory.archive(cube.id)
    memory.tick()
    assert indexed(memory) == (5, 5)
    rows = memory._vault.db.cubes.search().where("state = 'archived'").select(["text", "vector"]).to_arrow()
    assert (rows.num_rows, rows["text"].null_count, rows["vector"].null_count) == (15, 15, 15)
    assert {c.text for c in memory.archived(limit=99)} == {f"walnut tea {n}" for n in range(15)}
    assert [memory.get(c.id).text for c in cubes] == [c.text for c in cubes]
    assert memory.update(cubes[0].id, "walnut tea, and milk").text == "walnut tea, and milk"
    assert indexed(memory) == (5, 5)
    for cube in cubes[:3]:
        memory.restore(cube.id, 1)
    memory.freeze(cubes[3].id)
    assert indexed(memory) == (9, 9)
    vectors = {r.cube.id: r.vector for r in memory._vault.by_ids([c.id for c in cubes[:4]], vectors=True)}
    for cube in cubes[:4]:
        assert np.allclose(vectors[cube.id], memory._embedding.one(cube.text))
        assert cube.id in {h.cube.id for h in memory.search(cube.text, k=4)}
    again = open_store(policy=Policy(resident_memories=resident, index_from=8))
    assert len(again.search("walnut", k=100)) == 9
    memory.delete(cubes[4].id)
    memory.purge()
    assert indexed(memory) == (9, 9)
    assert {c.text for c in memory.history(cubes[5].id)} == {"walnut tea 5"}


def test_what_is_archived_is_carried_branched_rolled_back_and_taken_back_whole(
    memory: MemOS, open_store: Callable[..., MemOS], tmp_path: Path
) -> None:
    [cube], [other] = memory.add('walnut tea, "quoted"\nin two lines'), memory.add("walnut bread")
    memory.snapshot("before")
    memory.archive(cube.id)
    memory.dump(tmp_path / "dump")
    with open_store(path=tmp_path / "there") as there:
        there.load(tmp_path / "dump")
        assert indexed(there) == (1, 1)
        assert there.get(cube.id).text == cube.text
        assert there.restore(cube.id, 1).text == cube.text
        assert indexed(there) == (2, 2)
    with memory.branch("try") as branch:
        branch.restore(cube.id, 1)
        assert indexed(branch) == (2, 2)
        branch.archive(other.id)
        assert indexed(branch) == (1, 1)
        memory.merge(branch)
    assert indexed(memory) == (1, 1)
    assert memory.get(other.id).state is State.ARCHIVED
    memory.archive(cube.id)
    memory.restore(other.id, 1)
    with pytest.raises(KeyError), memory.transaction():  # noqa: PT012 - the block is the test's
        memory.restore(cube.id, 1)
        assert indexed(memory) == (2, 2)
        raise KeyError
    assert indexed(memory) == (1, 1)
    memory.rollback("before")
    assert indexed(memory) == (2, 2)
    assert memory.get(cube.id).text == cube.text
    assert memory.verify().sound
