"""Killed at any point, a dump is the one before or the one after, and a load is wholly here or not at all; and both are gone on with."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from memos_core import DumpRefused, MemOS, NotFound
from tests.dumps import files_of
from tests.test_crash import stopped
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
MANY = 3_000


def opened(path: Path) -> MemOS:
    return MemOS(path, embed=WordsEmbedder(), actor="ann")


def state(memory: MemOS) -> dict[str, Any]:
    """Every memory with its versions, and which of these the log tells of."""
    rows = [r.cube for r in memory._vault.rows("version > 0")]
    past = {c.id: [p.version for p in memory.history(c.id)] if c.version > 1 else [1] for c in rows}
    told = {(e.subject, e.version) for e in memory._vault.events("subject IS NOT NULL", 1_000_000)}
    return {c.id: (c, past[c.id], [v for v in past[c.id] if (c.id, v) in told]) for c in rows}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of thousands, of which some have several versions, and a dump of it."""
    folder = tmp_path_factory.mktemp("full")
    with opened(folder / "store") as memory:
        cubes = memory.add([f"tea number {n}" for n in range(MANY)])
        for cube in cubes[:40]:
            memory.update(cube.id, cube.text + " again")
        memory.dump(folder / "dump")
    return folder


# --- killed by the system, at random moments ----------------------------------------------------------------------------------


@pytest.mark.timeout(280)
@pytest.mark.parametrize("do", ["dump", "load"])
def test_three_kills_leave_all_or_nothing(do: str, full: Path, tmp_path: Path) -> None:
    survive(do, full, tmp_path, kills=3, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("do", ["dump", "dump.zip", "load"])
def test_fifty_kills_leave_all_or_nothing(do: str, full: Path, tmp_path: Path) -> None:
    survive(do, full, tmp_path, kills=50, seed=50)


def survive(do: str, full: Path, tmp_path: Path, *, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    with opened(full / "store") as memory:
        whole = state(memory)
    seconds, outcomes = 0.6, {"nothing": 0, "all": 0}
    with ExitStack() as processes:
        warm = worker(processes)
        for kill in range(kills):
            process, warm = warm, worker(processes)
            store, place = (
                (tmp_path / f"s{kill}", full / "dump") if do == "load" else (full / "store", tmp_path / f"d{kill}.{do}")
            )
            finished = run_and_kill(
                process, {"do": do[:4], "store": str(store), "place": str(place)}, rng.random() * seconds
            )
            if do == "load":
                with opened(store) as memory:
                    found = state(memory)
                    assert found in ({}, whole), f"half of it: {len(found)}"
                    outcomes["all" if found else "nothing"] += 1
                    memory.load(full / "dump")
                    assert state(memory) == whole
            else:
                with opened(tmp_path / f"check{kill}") as memory:
                    try:
                        memory.load(place)
                        outcomes["all"] += 1
                        assert {i: c[0] for i, c in state(memory).items()} == {i: c[0] for i, c in whole.items()}
                    except DumpRefused as error:
                        assert "memos.json" in str(error) or "ZIP" in str(error)  # noqa: PT017 - either outcome is right
                        outcomes["nothing"] += 1
                        assert state(memory) == {}
                with opened(full / "store") as memory:
                    memory.dump(place)
                with opened(tmp_path / f"again{kill}") as memory:
                    assert memory.load(place).added + memory.load(place).kept >= len(whole)
                shutil.rmtree(tmp_path / f"again{kill}")
            seconds = min(
                6.0, max(0.2, seconds * (0.9 if finished else 1.1))
            )  # to where about half of them are cut off
    assert kills < 50 or outcomes["nothing"]  # how many of a few kills come in time is the machine's matter


def worker(processes: ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.carry_worker"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    processes.enter_context(process)
    processes.callback(process.kill)
    return process


def run_and_kill(process: subprocess.Popen[bytes], what: dict[str, str], seconds: float) -> bool:
    """Let it begin, and kill it after so long; whether it was done by then."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdin.write(json.dumps(what).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"begun\n"
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait()
    return b"done" in rest


# --- stopped after each commit ---------------------------------------------------------------------------------------------------


def prepared(tmp_path: Path) -> tuple[Path, Path]:
    """A store that has some memories in an old version, and a dump that has others, and newer ones of these."""
    with opened(tmp_path / "there") as there:
        known = there.add(["tea one", "tea two", "tea three"])
        there.dump(tmp_path / "first")
        with opened(tmp_path / "start") as here:
            here.load(tmp_path / "first")
        for _ in range(2):
            for cube in known[:2]:
                there.update(cube.id, there.get(cube.id).text + " and more")
        fresh = there.add(["tea four", "tea five"])
        there.update(fresh[0].id, "tea four, changed")
        there.dump(tmp_path / "second")
    return tmp_path / "start", tmp_path / "second"


def test_stopped_after_any_commit_a_load_is_there_or_not_and_is_gone_on_with(tmp_path: Path) -> None:
    start, dump = prepared(tmp_path)
    with opened(start) as memory:
        before = state(memory)
    shutil.copytree(start, tmp_path / "whole")
    with opened(tmp_path / "whole") as memory:
        assert memory.load(dump).updated == 2
        whole = state(memory)
    assert all(told == versions for _, versions, told in whole.values())
    for commits in range(1, 12):
        path = tmp_path / f"{commits}"
        shutil.copytree(start, path)
        memory = opened(path)
        reached = stopped(commits, lambda memory=memory: memory.load(dump))
        with opened(path) as again:
            found = state(again)
            assert found in (before, whole), f"half done after commit {commits}"
            again.load(dump)
            assert {i: c[:2] for i, c in state(again).items()} == {i: c[:2] for i, c in whole.items()}
        memory.close()
        if not reached:
            assert commits > 3  # history, memories, events
            return
    raise AssertionError("never finished")


def test_after_a_load_that_was_cut_off_a_change_here_has_a_history_of_its_own(tmp_path: Path) -> None:
    """The versions that came for nothing are gone before anybody writes, also where the store was open all the time."""
    start, dump = prepared(tmp_path)
    here = opened(start)
    other = opened(start)
    assert stopped(1, lambda: other.load(dump))  # its versions before are written, and it is not
    [cube] = [h.cube for h in here.search("tea one", k=1)]
    assert len(here.history(cube.id)) == 1
    for n in range(3):
        here.update(cube.id, f"mine {n}")
    assert [c.text for c in here.history(cube.id)] == ["tea one", "mine 0", "mine 1", "mine 2"]
    with pytest.raises(NotFound):
        here.get("00000000-0000-4000-8000-000000000000")
    here.close()
    other.close()


def test_a_dump_that_was_cut_off_leaves_the_one_before_and_goes_on(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    with opened(tmp_path / "store") as memory:
        memory.add([f"tea {n}" for n in range(5_000)])
        memory.dump(tmp_path / "dump")
        before = files_of(tmp_path / "dump")
        memory.add([f"more tea {n}" for n in range(5_000)])

        def stop(done: int, total: int) -> None:
            if done > total / 2:
                raise Stop

        with pytest.raises(Stop):
            memory.dump(tmp_path / "dump", progress=stop)
        half = files_of(tmp_path / "dump")
        assert {n: half[n] for n in before} == before
        with opened(tmp_path / "old") as other:
            assert other.load(tmp_path / "dump").added == 5_000
        done = memory.dump(tmp_path / "dump")
        assert done.memories == 10_000
        assert done.reused  # how many were whole by then depends on the ids that the buckets are cut by
        with opened(tmp_path / "new") as other:
            assert other.load(tmp_path / "dump").added == 10_000


def test_a_load_that_was_cut_off_does_not_embed_again_what_it_had(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as memory:
        memory.add([f"tea {n}" for n in range(1_000)])
        memory.dump(tmp_path / "dump")

    class Failing(WordsEmbedder):
        def __call__(self, texts: Any, /) -> Any:
            if self.texts > 500:
                raise KeyboardInterrupt
            return super().__call__(texts)

    embed = Failing(32)
    with MemOS(tmp_path / "other", embed=embed, actor="ann") as memory, pytest.raises(KeyboardInterrupt):
        memory.load(tmp_path / "dump")
    again = WordsEmbedder(32)
    with MemOS(tmp_path / "other", embed=again, actor="ann") as memory:
        assert memory.load(tmp_path / "dump").added == 1_000
    assert again.texts == 1_000 - 512
