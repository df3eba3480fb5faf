"""Many processes of many threads on one store: nothing lost, nothing double, no reader fails."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from memos_core import Conflict, MemOS, NotFound, Policy, StoreClosed, StoreUnavailable
from tests.concurrent_writer import CONVERSATION, ROUNDS, THREADS
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
PROCESSES = 4
EVERYTHING = 1_000_000


@pytest.mark.timeout(240)
def test_four_processes_of_four_threads_lose_nothing_and_double_nothing(tmp_path: Path, embed: WordsEmbedder) -> None:
    told = write_together(tmp_path / "store")
    writes = PROCESSES * THREADS * ROUNDS
    assert len(told) == writes
    with MemOS(tmp_path / "store", embed=embed, actor="ann") as memory:
        cubes = {h.cube.id: h.cube for h in memory.search("note", k=EVERYTHING)}
        assert len(cubes) == memory.stats().memories == writes + len(CONVERSATION) + 1
        assert Counter(c.text for c in cubes.values()).most_common(1)[0][1] == 1
        # each process saw its own write at once
        assert all(line["seen"] for line in told)
        assert all(line["hits"] for line in told)
        # notes: each there, in the acknowledged version
        for line in told:
            assert cubes[line["note"][0]].version == line["note"][1] == 2
        # one key: every write is a version of its own, and the history has them all
        keyed = dict(line["keyed"] for line in told)
        [ours] = [c for c in cubes.values() if c.key == "shared"]
        assert sorted(keyed) == list(range(1, writes + 1))
        assert {c.version: c.text for c in memory.history(ours.id)} == keyed
        # one conversation: stored once, at the same places, whoever handed it in
        assert len({tuple(line["talk"]) for line in told}) == 1
        assert [cubes[id].origin.position for id in told[0]["talk"]] == list(range(len(CONVERSATION)))
        # and the log told of each version once
        events = Counter((e.subject, e.version) for e in memory.log(limit=EVERYTHING))
        assert set(events.values()) == {1}
        assert len(events) == 2 * writes + writes + len(CONVERSATION)


def write_together(path: Path) -> list[dict[str, Any]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.concurrent_writer", str(path), str(number)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        out = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [p.returncode for p in processes] == [0] * PROCESSES
    return [line for some in out for line in json.loads(some)]


def together(work: Callable[[int], Any], count: int = 8) -> list[Any]:
    """Run it in threads that begin at the same moment."""
    barrier = Barrier(count)

    def begin(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_opening_at_the_same_time_makes_one_store(tmp_path: Path, embed: WordsEmbedder) -> None:
    def open_and_add(number: int) -> str:
        with MemOS(tmp_path / "new", embed=embed) as memory:
            return memory.add(f"from {number}")[0].id

    ids = together(open_and_add)
    with MemOS(tmp_path / "new", embed=embed) as memory:
        assert {h.cube.id for h in memory.search("from", k=100)} == set(ids)


def test_threads_that_race_for_a_key_get_a_version_each(memory: MemOS) -> None:
    versions = together(lambda n: memory.add(f"text {n}", key="k")[0].version)
    assert sorted(versions) == list(range(1, 9))
    assert memory.stats().memories == 1


def test_threads_that_hand_in_the_same_turns_store_them_once(memory: MemOS) -> None:
    talk = [{"role": "user", "content": word} for word in ("one", "two", "three")]
    found = together(lambda _: tuple(c.id for c in memory.add(talk, session="s")))
    assert len(set(found)) == 1
    assert memory.stats().memories == 3


def test_turns_of_one_session_from_many_threads_get_a_place_each(memory: MemOS) -> None:
    together(lambda n: memory.add({"role": "user", "content": f"turn {n}"}, session="s"))
    assert sorted(h.cube.origin.position for h in memory.search("turn", k=100)) == list(range(8))


def test_updates_that_race_all_count_or_say_that_they_did_not(memory: MemOS) -> None:
    [cube] = memory.add("start")

    def append(number: int) -> int:
        try:
            memory.update(cube.id, f"line {number}", mode="append")
        except Conflict:
            return 0
        return 1

    done = sum(together(append))
    assert memory.get(cube.id).version == 1 + done
    assert len(memory.get(cube.id).text.splitlines()) == 1 + done
    assert [c.version for c in memory.history(cube.id)] == list(range(1, done + 2))


def test_one_delete_wins_and_the_others_find_nothing(memory: MemOS) -> None:
    [cube] = memory.add("short-lived")

    def delete(_: int) -> bool:
        try:
            memory.delete(cube.id)
        except NotFound:
            return False
        return True

    assert sum(together(delete)) == 1
    assert [e.verb for e in memory.log(subject=cube.id)] == ["delete", "add"]


@pytest.mark.parametrize("resident", [20_000, 5])
def test_readers_never_fail_while_others_write_and_compact(resident: int, tmp_path: Path, embed: WordsEmbedder) -> None:
    policy = Policy(compact_every=6, resident_memories=resident)
    over = Event()
    with (
        MemOS(tmp_path / "store", embed=embed, policy=policy) as writing,
        MemOS(tmp_path / "store", embed=embed, policy=policy) as reading,
        ThreadPoolExecutor(4) as pool,
    ):
        [kept] = writing.add("the one that stays")

        def read(number: int) -> int:
            rounds = 0
            while not over.is_set() or not rounds:
                [reading.get, reading.history, reading.lineage][number](kept.id)
                assert "the one that stays" in [h.cube.text for h in reading.search("the one that stays", k=3)]
                assert reading.stats().memories
                rounds += 1
            return rounds

        readers = [pool.submit(read, number) for number in range(3)]
        try:
            for number in range(25):
                [cube] = writing.add(f"passing {number}")
                writing.update(cube.id, f"passing by {number}")
                writing.delete(cube.id)
        finally:
            over.set()
        assert all(reader.result() for reader in readers)


def test_anothers_write_is_seen_at_once(open_store: Callable[..., MemOS]) -> None:
    one, other = open_store(), open_store()
    [first] = one.add("green tea")
    assert [h.cube.text for h in other.search("tea")] == ["green tea"]  # resident from here on
    one.update(first.id, "black tea")
    assert [h.cube.text for h in other.search("tea")] == ["black tea"]
    [second] = one.add("more tea")
    assert {h.cube.text for h in other.search("tea")} == {"black tea", "more tea"}
    one.delete(first.id)
    assert [h.cube.text for h in other.search("tea")] == ["more tea"]
    one.archive(second.id)
    assert other.search("tea") == []
    assert other.get(second.id).state == "archived"


def test_a_memory_that_left_and_one_that_came_in_between_are_told_apart(open_store: Callable[..., MemOS]) -> None:
    """As many as before, but not the same: counting is not enough."""
    one, other = open_store(), open_store()
    [mine] = one.add("ann's tea")
    one.share(mine.id, readers=["bob"])
    assert len(other.search("tea", actor="bob")) == 1
    one.share(mine.id, readers=[])
    one.add("bob's tea", actor="bob")
    assert [h.cube.text for h in other.search("tea", actor="bob")] == ["bob's tea"]


def test_closing_takes_no_lock_from_a_thread_that_still_writes(tmp_path: Path, embed: WordsEmbedder) -> None:
    writing, go_on = Event(), Event()
    closed = MemOS(tmp_path / "store", embed=embed, actor="ann")

    def write_for_long() -> None:
        with closed.transaction():
            writing.set()
            go_on.wait()
            closed.add("too late")

    with (
        MemOS(tmp_path / "store", embed=embed, actor="ann", policy=Policy(lock_seconds=0.05)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(write_for_long)
        writing.wait()
        closed.close()
        try:
            with pytest.raises(StoreUnavailable):
                other.add("at the same time")
        finally:
            go_on.set()
        assert isinstance(running.exception(), StoreClosed)
        other.add("afterwards")
        assert [h.cube.text for h in other.search("afterwards")] == ["afterwards"]


def test_memories_that_others_change_each_time_are_fused_at_last(open_store: Callable[..., MemOS]) -> None:
    words, changes = WordsEmbedder(), iter(range(5))

    def embed(texts: list[str]) -> Any:
        """Somebody is quicker, as often as fusing is tried beside others."""
        if any("\n" in text for text in texts) and (change := next(changes, None)) is not None:
            memory.update(milk.id, f"milk {change}")
        return words(texts)

    memory = open_store(embed=embed)
    [tea], [milk] = memory.add("tea"), memory.add("milk")
    assert memory.fuse([tea.id, milk.id]).text == "tea\nmilk 4"


@pytest.mark.parametrize("verb", ["update", "share", "archive and restore", "put"])
def test_processes_that_change_one_memory_in_a_tight_loop_are_never_refused(verb: str, memory: MemOS) -> None:
    [cube], count = memory.add("tea"), 40
    words = [sys.executable, "-m", "tests.updating_writer", memory.path, cube.id, verb, str(count)]
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        writers = [stack.enter_context(subprocess.Popen(words, **pipes)) for _ in range(2)]  # type: ignore[call-overload]
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.stdout.readline() for writer in writers] == ["0\n", "0\n"]
    if verb == "update":
        assert len(memory.get(cube.id).text.split("\n")) == 1 + 2 * count
        assert len(memory.history(cube.id)) == 1 + 2 * count
    assert memory.verify().sound
