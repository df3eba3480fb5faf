"""Rule 6: a kill at any point loses nothing acknowledged, leaves nothing half there, and the store opens."""

from __future__ import annotations

import json
import random
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
def test_twenty_kills_lose_nothing_acknowledged_and_leave_nothing_half_there(tmp_path: Path) -> None:
    live_through(tmp_path / "store", kills=20, seed=20)


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


# --- stopped before each step that the vault takes ------------------------------------------------------------------------


class Stopped(BaseException):
    """Comes from outside and is caught by nobody."""


def stop_before(step: int) -> Callable[[Any, str, Any], None]:
    """A profiler that ends the thread's work before its n-th call of a function of the vault."""
    calls = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        if event == "call" and frame.f_code.co_filename.endswith("vault.py"):
            calls += 1
            if calls == step:
                sys.setprofile(None)
                raise Stopped

    return profile


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("verb", CHANGES)
def test_stopped_before_any_step_the_store_opens_with_the_old_or_the_new(
    verb: str, tmp_path: Path, embed: WordsEmbedder
) -> None:
    for step in range(1, 200):
        path = tmp_path / f"{step}"
        with MemOS(path, embed=embed, actor="ann") as memory:
            [cube] = memory.add("the first version")
            cube = memory.update(cube.id, "the second version")
            memory.add("tea", key=KEYS[0])
            before = contents(memory)
        memory = MemOS(path, embed=embed, actor="ann")
        sys.setprofile(stop_before(step))
        try:
            CHANGES[verb](memory, cube)
            finished = True
        except Stopped:
            finished = False
        finally:
            sys.setprofile(None)
        with MemOS(path, embed=embed, actor="ann") as again:
            after = contents(again)
            assert_explained(again, [h.cube for h in everything(again)])
            CHANGES["add"](again, cube)  # and it can be written
        with MemOS(tmp_path / f"{step} whole", embed=embed, actor="ann") as other:
            [same] = other.add("the first version")
            same = other.update(same.id, "the second version")
            other.add("tea", key=KEYS[0])
            CHANGES[verb](other, same)
            assert after in (before, contents(other)), f"half done before step {step}"
        memory.close()
        if finished:
            return
    raise AssertionError("never finished")


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
    for step in range(1, 100):
        sys.setprofile(stop_before(step))
        try:
            MemOS(tmp_path / f"{step}", embed=embed).close()
            finished = True
        except Stopped:
            finished = False
        finally:
            sys.setprofile(None)
        with MemOS(tmp_path / f"{step}", embed=embed) as memory:
            memory.add("hello")
            assert [h.cube.text for h in memory.search("hello")] == ["hello"]
        if finished:
            return
    raise AssertionError("never finished")
