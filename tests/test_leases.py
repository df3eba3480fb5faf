"""Leases: one holder at a time, among threads and among processes, and another one when a holder is gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memos_core import MemOS
from memos_core.leases import Leases
from tests.conftest import Clock

ROOT = Path(__file__).parent.parent


def leases(memory: MemOS, clock: Clock, seconds: float = 60) -> Leases:
    return Leases(memory._vault.db, clock, seconds=seconds)


def test_one_takes_it_and_the_other_does_not(memory: MemOS, open_store: Callable[..., MemOS], clock: Clock) -> None:
    first, second = leases(memory, clock), leases(open_store(), clock)
    lease = first.claim("build", who="ann", what="keys and values")
    assert lease is not None
    assert lease.attempt == 1
    assert second.claim("build") is None
    assert second.claim("another") is not None
    found = {each.id: (each.who, each.what) for each in second.under_way()}
    assert found == {"build": ("ann", "keys and values"), "another": ("", "")}


def test_what_is_given_back_can_be_taken_again(memory: MemOS, clock: Clock) -> None:
    all = leases(memory, clock)
    lease = all.claim("build")
    assert lease is not None
    assert all.give_back(lease)
    again = all.claim("build")
    assert again is not None
    assert again.attempt == 2
    assert not all.give_back(lease)


def test_a_lease_that_is_not_renewed_lapses_and_its_former_holder_is_told(memory: MemOS, clock: Clock) -> None:
    all = leases(memory, clock)
    slow = all.claim("build")
    assert slow is not None
    clock.forward(seconds=59)
    assert all.claim("build") is None
    clock.forward(seconds=2)
    assert all.holds(slow)
    quick = all.claim("build")
    assert quick is not None
    assert quick.attempt == 2
    assert not all.holds(slow)
    assert all.renew(slow) is None
    assert not all.give_back(slow)
    assert all.holds(quick)


def test_a_renewed_lease_goes_on(memory: MemOS, clock: Clock) -> None:
    all = leases(memory, clock)
    lease = all.claim("build")
    assert lease is not None
    clock.forward(seconds=50)
    renewed = all.renew(lease)
    assert renewed is not None
    assert renewed.until == clock.now + timedelta(seconds=60)
    clock.forward(seconds=50)
    assert all.claim("build") is None


def test_a_block_holds_it_to_its_end_whatever_happens(memory: MemOS, clock: Clock) -> None:
    all = leases(memory, clock)
    try:
        with all.held("build") as lease, all.held("build") as other:
            assert lease is not None
            assert other is None
            raise KeyError("work")
    except KeyError:
        pass
    assert all.under_way() == []
    assert all.claim("build") is not None


def test_of_many_threads_one_wins_each(memory: MemOS, clock: Clock) -> None:
    all = leases(memory, clock)
    with ThreadPoolExecutor(4) as pool:
        for name in ("a", "b", "c"):
            won = list(pool.map(lambda _, name=name: all.claim(name), range(4)))
            assert sum(lease is not None for lease in won) == 1
        clock.forward(minutes=2)
        won = list(pool.map(lambda _: all.claim("a"), range(4)))
    assert [lease.attempt for lease in won if lease is not None] == [2]


CLAIMS = """
import sys
from datetime import UTC, datetime
from memos_core import MemOS
from memos_core.leases import Leases
from tests.words import WordsEmbedder

with MemOS(sys.argv[1], embed=WordsEmbedder()) as memory:
    all = Leases(memory._vault.db, lambda: datetime.now(UTC))
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[name for name in "abcdefgh" if all.claim(name)], flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_of_many_processes_one_wins_each_and_a_killed_ones_lapse(
    memory: MemOS, tmp_path: Path, clock: Clock, count: int
) -> None:
    command = [sys.executable, "-c", CLAIMS, str(tmp_path / "store")]
    runs = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for run in runs:
            assert run.stdout
            assert run.stdout.readline() == "ready\n"
        for run in runs:
            assert run.stdin
            run.stdin.write("go\n")
            run.stdin.flush()
        won = [name for run in runs if run.stdout for name in run.stdout.readline().split()]
        assert sorted(won) == list("abcdefgh")
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    mine = Leases(memory._vault.db, clock)
    assert mine.claim("a") is None  # its holder is dead, and its lease is not over
    clock.now = datetime.now(UTC) + timedelta(hours=1)
    taken = mine.claim("a")
    assert taken is not None
    assert taken.attempt == 2


def test_rows_that_nobody_holds_for_a_day_go(memory: MemOS, clock: Clock) -> None:
    all = leases(memory, clock)
    old = all.claim("old")
    assert old is not None
    all.give_back(old)
    clock.forward(days=2)
    assert all.claim("new") is not None
    all.sweep()
    assert memory._vault.db.table("leases").count_rows() == 1


def test_compaction_takes_them_in(memory: MemOS, clock: Clock) -> None:
    assert leases(memory, clock).claim("build") is not None
    assert memory.tick().compacted
    assert leases(memory, clock).claim("build") is None
