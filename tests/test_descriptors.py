"""How many files a process holds open stays bounded, whatever it does and for how long; closed, it holds none of the store's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memos_core import MemCube, MemOS, Policy, StoreClosed
from tests.descriptor_writer import files
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
SMALL = Policy(resident_memories=10)  # what is more is found by the indexes of words and vectors
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")


def run(path: Path, limit: int, rounds: int, adds: int) -> list[list[str]]:
    """What the process said, line by line; whatever failed is in the test's output."""
    command = [sys.executable, "-m", "tests.descriptor_writer", str(path), *map(str, (limit, rounds, adds))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return [line.split() for line in ended.stdout.splitlines()]


def open_in(store: str) -> list[str]:
    """The files of a store that this process holds open."""
    there = (Path(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd"))
    return [found for one in there if one.is_symlink() and store in (found := os.readlink(one))]


def test_searches_and_ticks_hold_no_more_files_open_the_longer_they_go_on(tmp_path: Path) -> None:
    *_, last, purged, closed = run(tmp_path / "store", 64, 30, 33)
    assert last[:2] == ["at", "990"]
    assert int(purged[1]) <= int(last[2]) < 40
    assert int(closed[1]) <= int(purged[1])


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_five_thousand_adds_with_ticks_and_searches_fit_a_hundred_descriptors(tmp_path: Path) -> None:
    first, last, *_ = run(tmp_path / "store", 100, 250, 20)
    assert (first[1], last[1]) == ("500", "5000")
    assert int(last[2]) < 50
    assert int(last[3]) <= 1.2 * int(first[3])


def filled(memory: MemOS) -> list[MemCube]:
    """Memories that are found by their index."""
    cubes = memory.add([f"tea {n}" for n in range(40)])
    memory._vault.db.compact()
    assert memory.search("tea 5")
    return cubes


def test_a_reader_lets_go_of_the_indexes_that_another_process_replaces(open_store: Callable[..., MemOS]) -> None:
    reader, writer = open_store(policy=SMALL), open_store()
    for _ in range(30):
        filled(writer)
        writer.purge()
        assert reader.search("tea 5")
    assert len(open_in(reader.path)) < 25


def test_a_closed_store_holds_no_file_open_though_somebody_keeps_it(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(policy=SMALL)
    filled(memory)
    assert open_in(memory.path)
    memory.close()
    assert open_in(memory.path) == []
    with pytest.raises(StoreClosed):
        memory._vault.db.names()


def test_a_purge_holds_no_removed_file_open(open_store: Callable[..., MemOS]) -> None:
    """Or its words would stay on the disk until the process ends."""
    memory = open_store(policy=SMALL)
    cubes = filled(memory)
    memory.delete(cubes[0].id)
    memory.purge()
    assert memory.search("tea 5")
    assert [path for path in open_in(memory.path) if path.endswith("(deleted)")] == []


def test_stores_that_are_opened_and_closed_leave_no_file_open(tmp_path: Path) -> None:
    before = files()
    for turn in range(3):
        with MemOS(tmp_path / "store", embed=WordsEmbedder(), actor="ann", policy=SMALL) as memory:
            filled(memory)
            with memory.branch("trial") as branch:
                branch.add("coffee")
            with memory.transaction():
                memory.add("in a transaction")
            memory.dump(tmp_path / f"dump{turn}.zip")
        with MemOS(tmp_path / f"other{turn}", embed=WordsEmbedder(), actor="ann") as other:
            other.load(tmp_path / f"dump{turn}.zip")
        assert open_in(str(tmp_path)) == []
    assert files() <= before + 10  # of the database's own threads
