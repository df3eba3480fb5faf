"""Rule 6: a kill at any point loses nothing acknowledged, leaves nothing half there, and the store opens."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from memos_core import MemCube, MemOS, NotFound
from tests.crash_writer import KEYS, POLICY
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
EVERYTHING = 1_000_000


# --- killed by the system, at random moments ---------------------------------------------------------------------------


@pytest.mark.timeout(200)
def test_ten_kills_lose_nothing_acknowledged_and_leave_nothing_half_there(tmp_path: Path) -> None:
    live_through(tmp_path / "store", kills=10, seed=20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_kills_lose_nothing_acknowledged_and_leave_nothing_half_there(tmp_path: Path, seed: int) -> None:
    live_through(tmp_path / "store", kills=20, seed=1000 + seed)


class Witness:
    """What a store must hold: what was acknowledged, and what may or may not be there because nobody heard."""

    def __init__(self) -> None:
        self.current: dict[str, tuple[int, str]] = {}  # id: version, text
        self.said: dict[tuple[str, int], str] = {}  # every acknowledged version
        self.gone: set[str] = set()
        self.pending: dict[str, Any] | None = None
        self.acknowledged = 0
        self.touched: set[str] = set()

    def hear(self, line: dict[str, Any]) -> None:
        if "begin" in line:
            self.pending = line
            self.touched |= {line["id"]} if "id" in line else set()
            return
        for id, version, text in line.get("done", ()):
            self.current[id] = (version, text)
            self.said[id, version] = text
            self.touched.add(id)
        if "gone" in line:
            del self.current[line["gone"]]
            self.gone.add(line["gone"])
        self.pending = None
        self.acknowledged += 1

    def check(self, memory: MemOS, *, whole: bool = False) -> None:
        """All of what is current; of history and log what belongs to memories changed since the last check, or the whole."""
        found = {hit.cube.id: hit.cube for hit in everything(memory)}
        assert memory.stats().memories == len(found)  # nothing twice, nothing that search does not see
        self._settle(found)
        assert {id: (c.version, c.text) for id, c in found.items()} == self.current
        touched = [cube for id, cube in found.items() if whole or id in self.touched]
        assert_explained(memory, touched)
        for cube in touched:
            for past in memory.history(cube.id) if cube.version > 1 else ():
                assert self.said.get((cube.id, past.version), past.text) == past.text
        for id in self.touched & self.gone:
            with pytest.raises(NotFound):
                memory.get(id)
        self.touched.clear()

    def _settle(self, found: dict[str, MemCube]) -> None:
        """The one change nobody heard of is wholly there or not at all; either is right from now on."""
        begun, self.pending = self.pending, None
        if begun is None:
            return
        if begun["begin"] == "delete":
            if begun["id"] not in found:
                del self.current[begun["id"]]
                self.gone.add(begun["id"])
            return
        there = [c for c in found.values() if c.text in begun["texts"]]
        assert len(there) in (0, len(begun["texts"])), f"half of it: {begun} {there}"
        for cube in there:
            self.current[cube.id] = (cube.version, cube.text)
            self.said[cube.id, cube.version] = cube.text
            self.touched.add(cube.id)


def live_through(path: Path, *, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    witness = Witness()
    with ExitStack() as processes:
        working = writer(processes)
        for kill in range(kills):
            warming = writer(processes)  # imports while the other one works
            run_and_kill(working, path, rng, witness)
            with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=POLICY) as memory:
                witness.check(memory)
                if kill % 10 == 9:
                    memory.tick()
                    witness.check(memory, whole=True)
            working = warming
    assert witness.acknowledged > kills


def run_and_kill(process: subprocess.Popen[bytes], path: Path, rng: random.Random, witness: Witness) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["ready"]
    process.stdin.write(f"{path}\t{rng.getrandbits(32)}\n".encode())
    process.stdin.flush()
    for _ in range(rng.randint(1, 40)):
        line = process.stdout.readline()
        assert line, "the writer stopped by itself"
        witness.hear(json.loads(line))
    with pytest.raises(subprocess.TimeoutExpired):  # goes on for a random moment, unobserved
        process.wait(timeout=rng.random() * 0.03)
    process.send_signal(signal.SIGKILL)
    for line in process.stdout:
        if line.endswith(b"\n"):
            witness.hear(json.loads(line))
    assert process.wait() == -signal.SIGKILL


def writer(processes: ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash_writer"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    processes.enter_context(process)  # waits for it and closes its pipes
    processes.callback(process.kill)
    return process


# --- stopped after each commit ---------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """Comes from outside and is caught by nobody."""


def stop_after(commits: int) -> Callable[[Any, str, Any], None]:
    """A profiler that ends the thread's work at the n-th commit, before anything else is done."""
    left = commits

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal left
        if event == "call" and frame.f_code.co_name.strip("_") == "committed":
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise Stopped

    return profile


def stopped(commits: int, work: Callable[[], object]) -> bool:
    """Do it until the n-th commit; whether it got that far."""
    sys.setprofile(stop_after(commits))
    try:
        work()
    except Stopped:
        return True
    finally:
        sys.setprofile(None)
    return False


CHANGES: dict[str, Callable[[MemOS, MemCube], object]] = {
    "add": lambda memory, _: memory.add("a new note"),
    "batch": lambda memory, _: memory.add([{"role": "user", "content": c * 3} for c in "abcd"], session="s"),
    "keyed": lambda memory, _: memory.add("green tea now", key="tea"),
    "update": lambda memory, cube: memory.update(cube.id, "changed"),
    "delete": lambda memory, cube: memory.delete(cube.id),
    "delete namespace": lambda memory, cube: memory.delete(cube.namespace),
    "share": lambda memory, cube: memory.share(cube.id, readers=["bob"]),
    "freeze": lambda memory, cube: memory.freeze(cube.id),
    "restore": lambda memory, cube: memory.restore(cube.id, 1),
}


@pytest.mark.parametrize("verb", CHANGES)
def test_stopped_after_any_commit_the_store_opens_with_the_old_or_the_new(
    verb: str, tmp_path: Path, embed: WordsEmbedder
) -> None:
    with MemOS(tmp_path / "start", embed=embed, actor="ann") as memory:
        [cube] = memory.add("the first version")
        cube = memory.update(cube.id, "the second version")
        memory.add("tea", key=KEYS[0])
        before = contents(memory)
    with copied(tmp_path / "start", tmp_path / "whole", embed) as memory:
        CHANGES[verb](memory, cube)
        whole = contents(memory)
    assert whole != before
    for commits in range(1, 30):
        memory = copied(tmp_path / "start", tmp_path / f"{commits}", embed)
        reached = stopped(commits, lambda memory=memory: CHANGES[verb](memory, cube))
        with MemOS(tmp_path / f"{commits}", embed=embed, actor="ann") as again:
            assert contents(again) in (before, whole), f"half done after commit {commits}"
            assert_explained(again, [h.cube for h in everything(again)])
            assert again.add("and it can be written")
        memory.close()
        if not reached:
            assert commits > 2  # one commit to memories, one to the log, at least
            return
    raise AssertionError("never finished")


def copied(path: Path, to: Path, embed: WordsEmbedder) -> MemOS:
    shutil.copytree(path, to)
    return MemOS(to, embed=embed, actor="ann")


def contents(memory: MemOS) -> list[tuple[Any, ...]]:
    cubes = [h.cube for h in everything(memory)]
    return sorted((c.text, c.version, c.state, c.access, tuple(p.text for p in memory.history(c.id))) for c in cubes)


def everything(memory: MemOS) -> list[Any]:
    return memory.search("note", k=EVERYTHING)


def assert_explained(memory: MemOS, cubes: Any) -> None:
    """Rule 8: history has every version, and the log who made each."""
    told: dict[str, set[int | None]] = {}
    for event in memory.log(limit=EVERYTHING):
        if event.subject is not None and event.outcome == "ok":
            told.setdefault(event.subject, set()).add(event.version)
    for cube in cubes:
        versions = list(range(1, cube.version + 1))
        assert cube.version == 1 or [c.version for c in memory.history(cube.id)] == versions
        assert told.get(cube.id, set()) == set(versions), f"log of {cube.id}"


def test_a_store_killed_while_it_was_made_is_finished_by_the_next_opening(tmp_path: Path, embed: WordsEmbedder) -> None:
    """Made step by step: any prefix of the tables may be there."""
    MemOS(tmp_path / "whole", embed=embed).close()
    tables = sorted(p.name for p in (tmp_path / "whole").iterdir() if p.suffix == ".lance" and p.name != "meta.lance")
    for some in range(len(tables) + 1):
        path = tmp_path / f"{some}"
        path.mkdir()
        for name in tables[:some]:
            shutil.copytree(tmp_path / "whole" / name, path / name)
        with MemOS(path, embed=embed) as memory:
            memory.add("hello")
            assert [h.cube.text for h in memory.search("hello")] == ["hello"]
