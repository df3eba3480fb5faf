"""Several processes that tick on one store: nothing is built twice, and what a killed one was at is done by another."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memos_core import MemOS
from tests.conftest import Clock
from tests.networks import random_model
from tests.test_tick import ask, told
from tests.tick_worker import SLOW

ROOT = Path(__file__).parent.parent
SCOPES = ("a", "b", "c", "d")


@pytest.fixture
def store(open_store: Callable[..., MemOS], clock: Clock) -> MemOS:
    """A store whose scopes each deserve a passage."""
    memory = open_store(model=random_model(), rates=SLOW)
    for label in SCOPES:
        told(memory, 6, namespace=(label,))
    for label in SCOPES * 4:
        ask(memory, clock, times=1, namespace=(label,))
    memory._upkeep.flush()
    return memory


@pytest.fixture
def worker(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that ticks once it is told to; all are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.tick_worker", str(tmp_path / "store"), clock.now.isoformat(), *how]
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def built(memory: MemOS, verb: str) -> Counter[str | None]:
    return Counter(e.subject for e in memory.log(verb=verb, limit=10_000) if "activation" in e.detail)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_build_each_passage_once(
    store: MemOS, worker: Callable[..., subprocess.Popen[str]], count: int
) -> None:
    workers = [worker() for _ in range(count)]
    assert [says(w) for w in workers] == ["ready"] * count
    for each in workers:
        tell(each, "go")
    done = [move for each in workers for move in says(each).split() if move.startswith("build")]
    assert len(done) == len(set(done))
    assert set(built(store, "convert").values()) == {1}
    assert len(built(store, "convert")) == len(SCOPES)
    assert not [e for e in store.log(limit=10_000) if e.outcome != "ok"]
    assert store.tick().moves == ()


@pytest.mark.timeout(240)
def test_what_a_killed_process_was_building_another_one_builds_once_its_lease_is_over(
    store: MemOS, worker: Callable[..., subprocess.Popen[str]], clock: Clock
) -> None:
    victim = worker("hang")
    assert says(victim) == "ready"
    tell(victim, "go")
    assert says(victim) == "building"
    victim.kill()
    victim.wait()
    [lease] = store._scheduler.leases.under_way()
    store.flush()
    assert len(built(store, "convert")) == len(SCOPES) - 1
    assert lease.id not in built(store, "convert")
    clock.forward(seconds=61)
    store.flush()
    assert built(store, "convert")[lease.id] == 1
    assert len(built(store, "convert")) == len(SCOPES)
    assert store._scheduler.leases.under_way() == []
