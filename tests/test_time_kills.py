"""A transaction and a rollback are whole or not there at all: for who is killed in the middle, and for who reads meanwhile."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from memos_core import MemOS
from tests.test_crash import assert_explained
from tests.time_writer import BASE, KEYS, POLICY
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
WORK = ("transactions", "rollbacks")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("work", WORK)
def test_three_kills_leave_all_of_a_change_or_nothing(work: str, tmp_path: Path) -> None:
    live_through(tmp_path / "store", work, kills=3, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("work", WORK)
def test_fifty_kills_leave_all_of_a_change_or_nothing(work: str, tmp_path: Path) -> None:
    live_through(tmp_path / "store", work, kills=50, seed=50)


def live_through(path: Path, work: str, *, kills: int, seed: int) -> None:
    """Start a writer, read beside it, kill it at a random moment, look at what it left, and again."""
    rng = random.Random(seed)
    with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=POLICY) as memory:
        with memory.transaction():
            for key in KEYS:
                memory.add(BASE, key=key)
            memory.add(BASE, tags=["guest"])
        memory.snapshot("base")
    current, begun, last = 0, 0, 0
    with ExitStack() as processes:
        working = writer(processes)
        for _ in range(kills):
            warming = writer(processes)  # imports while the other one works
            said = run_and_kill(working, f"{path}\t{work}\t{last + 1}\n", path, rng)
            for line in said:
                current, begun = line.get("done", current), line.get("begin", begun)
                last = max(last, begun)
            with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=POLICY) as memory:
                found = said_by(memory, work)
                assert found in (words(current), words(begun)), f"neither round {current} nor round {begun}"
                current = begun if found == words(begun) else current
                assert_explained(memory, [h.cube for h in memory.search("round", k=1000)])
                assert memory.add("and it can be written", key="after")
            working = warming
    assert last >= kills


def run_and_kill(process: subprocess.Popen[bytes], line: str, path: Path, rng: random.Random) -> list[dict[str, int]]:
    """What it said until it was killed. Whoever reads beside it never sees a part of a round."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["ready"]
    process.stdin.write(line.encode())
    process.stdin.flush()
    said = []
    with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=POLICY) as beside:
        for _ in range(rng.randint(1, 6)):
            heard = process.stdout.readline()
            assert heard, "the writer stopped by itself"
            said.append(json.loads(heard))
            said_by(beside, line.split("\t")[1])
        with pytest.raises(subprocess.TimeoutExpired):  # goes on for a random moment, unobserved
            process.wait(timeout=rng.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        said += [json.loads(heard) for heard in process.stdout if heard.endswith(b"\n")]
        assert process.wait() == -signal.SIGKILL
        said_by(beside, line.split("\t")[1])  # a reader needs nobody to tidy up
    return said


def said_by(memory: MemOS, work: str) -> str:
    """What all memories of the writer say: the same."""
    hits = [h.cube for h in memory.search("round", k=1000) if h.cube.key != "after"]
    texts = {c.text for c in hits if work == "transactions" or c.key is not None}
    assert len(texts) == 1, texts
    assert len(hits) == len(KEYS) + 1
    return texts.pop()


def words(number: int) -> str:
    return f"round {number}" if number else BASE


def writer(processes: ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.time_writer"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    processes.enter_context(process)  # waits for it and closes its pipes
    processes.callback(process.kill)
    return process
