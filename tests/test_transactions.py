"""transaction(): all of it or nothing, for who is inside, who is beside, and who comes after a crash."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from memos_core import Conflict, InvalidArgument, Item, MemOS, NotFound, Policy, StoreUnavailable
from memos_core.blobs import Blobs, digest
from tests.test_crash import assert_explained, contents, everything, stopped
from tests.words import WordsEmbedder


class Refused(Exception):
    """What goes wrong in the middle."""


def texts(memory: MemOS, actor: str = "ann") -> list[str]:
    return sorted(h.cube.text for h in memory.search("tea", k=100, actor=actor))


def elsewhere(work: Callable[[], Any]) -> Any:
    """What another thread finds, which is in no transaction of ours."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


@contextmanager
def taken_back(memory: MemOS) -> Iterator[None]:
    """A transaction that fails at the end of the block."""
    with pytest.raises(Refused), memory.transaction():  # noqa: PT012 - the block is the test's
        yield
        raise Refused


# --- inside and beside -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resident", [20_000, 0])
def test_inside_one_reads_what_one_wrote_and_beside_what_was_before(
    resident: int, open_store: Callable[..., MemOS]
) -> None:
    policy = Policy(resident_memories=resident)
    memory, other = open_store(policy=policy), open_store(policy=policy)
    [green], [coffee] = memory.add("green tea"), memory.add("black coffee")
    before = texts(memory)
    assert texts(other) == before
    with memory.transaction():
        assert texts(memory) == before
        memory.update(green.id, "white tea")
        memory.delete(coffee.id)
        memory.add("new milk")
        assert texts(memory) == ["new milk", "white tea"]
        assert memory.get(green.id).version == 2
        assert memory.stats().memories == 2
        assert [e.verb for e in memory.log(limit=3)] == ["add", "delete", "update"]
        for reader in (other, memory):
            assert elsewhere(lambda reader=reader: texts(reader)) == before
            assert elsewhere(lambda reader=reader: reader.get(coffee.id).text) == "black coffee"
            assert elsewhere(lambda reader=reader: len(reader.history(green.id))) == 1
            assert elsewhere(lambda reader=reader: len(reader.log())) == 2
        assert texts(other) == before  # the same thread: another `MemOS` is somebody else
    for reader in (other, memory):
        assert texts(reader) == ["new milk", "white tea"]
        assert [c.text for c in reader.history(green.id)] == ["green tea", "white tea"]
        with pytest.raises(NotFound):
            reader.get(coffee.id)


def test_an_error_takes_all_of_it_back(memory: MemOS, open_store: Callable[..., MemOS]) -> None:
    other = open_store()
    [green], [coffee] = memory.add("green tea"), memory.add("black coffee")
    memory.items.put([Item(("box",), "k", {"n": 1}, ("tea box",))])
    before = contents(memory)
    assert contents(other) == before
    with taken_back(memory):
        memory.update(green.id, "white tea")
        memory.share(green.id, readers=["bob"])
        memory.delete(coffee.id)
        memory.items.put([Item(("box",), "k", {"n": 2}, ("coffee box",))])
        memory.add([{"role": "user", "content": c} for c in ("one", "two")], session="s")
        assert len(texts(memory)) == 4
    assert contents(memory) == contents(other) == before
    assert texts(memory, "bob") == []
    [item] = memory.items.get([(("box",), "k")])
    assert item is not None
    assert item.attributes == {"n": 1}
    [cube] = memory.add("oolong tea")
    assert contents(other) == contents(memory)
    assert cube.text in texts(memory)
    assert_explained(memory, [h.cube for h in everything(memory)])


def test_the_log_tells_who_did_what_that_was_rolled_back_and_to_nobody_else(memory: MemOS) -> None:
    [green] = memory.add("green tea")
    memory.share(green.id, readers=["bob"])
    with taken_back(memory):
        memory.update(green.id, "white tea")
        memory.delete(green.id)
    told = [(e.verb, e.outcome) for e in memory.log()]
    assert told == [("delete", "rolled back"), ("update", "rolled back"), ("share", "ok"), ("add", "ok")]
    assert [(e.verb, e.outcome) for e in memory.log(actor="bob")] == [("share", "ok")]


def test_a_transaction_within_one_is_a_part_of_it(memory: MemOS) -> None:
    with memory.transaction():
        memory.add("outer tea")
        with memory.transaction():
            memory.add("inner tea")
        assert elsewhere(lambda: texts(memory)) == []
    assert texts(memory) == ["inner tea", "outer tea"]


def test_an_error_of_an_inner_part_takes_the_outer_one_with_it_also_if_it_is_caught(memory: MemOS) -> None:
    def inner() -> None:
        with memory.transaction():
            memory.add("inner tea")
            raise Refused("inner")

    with pytest.raises(Refused, match="inner"), memory.transaction():  # noqa: PT012 - the catching is what is tested
        memory.add("outer tea")
        with pytest.raises(Refused):
            inner()
    assert texts(memory) == []


def test_a_verb_that_refuses_and_is_caught_leaves_the_rest(memory: MemOS) -> None:
    with memory.transaction():
        memory.add("green tea")
        with pytest.raises(NotFound):
            memory.update("no such id", "tea")
    assert texts(memory) == ["green tea"]


def test_one_that_only_reads_changes_nothing(memory: MemOS) -> None:
    memory.add("green tea")
    with memory.transaction():
        assert texts(memory) == ["green tea"]
    assert len(memory.log()) == 1


# --- threads, tasks, writers ---------------------------------------------------------------------------------------------


def test_a_copy_of_the_context_is_inside_and_a_new_thread_is_not(memory: MemOS) -> None:
    with ThreadPoolExecutor(4) as pool, memory.transaction():
        copies = [copy_context() for _ in range(4)]
        for done in [pool.submit(c.run, memory.add, f"tea {n}") for n, c in enumerate(copies)]:
            done.result(timeout=60)
        assert len(texts(memory)) == 4
        assert pool.submit(texts, memory).result(timeout=60) == []
    assert len(texts(memory)) == 4


def test_what_a_task_runs_in_threads_belongs_to_its_transaction_and_another_task_is_outside(memory: MemOS) -> None:
    async def writes(begun: asyncio.Event, looked: asyncio.Event) -> None:
        with memory.transaction():
            await asyncio.to_thread(memory.add, "green tea")
            assert await asyncio.to_thread(texts, memory) == ["green tea"]
            begun.set()
            await looked.wait()

    async def looks(begun: asyncio.Event, looked: asyncio.Event) -> None:
        await begun.wait()
        try:
            assert texts(memory) == []  # readers never wait
            with pytest.raises(StoreUnavailable, match="another task of this thread"):
                memory.add("black tea")  # waiting would be for ever: the loop would stand still
        finally:
            looked.set()

    async def both() -> None:
        begun, looked = asyncio.Event(), asyncio.Event()
        await asyncio.gather(writes(begun, looked), looks(begun, looked))

    asyncio.run(both())
    assert texts(memory) == ["green tea"]


def test_other_writers_wait_until_the_end(memory: MemOS, open_store: Callable[..., MemOS]) -> None:
    other = open_store()
    began = threading.Event()

    def write(to: MemOS, text: str) -> int:
        began.set()
        to.add(text)
        return len(texts(to))

    with ThreadPoolExecutor(2) as pool:
        with memory.transaction():
            memory.add("first tea")
            waiting = [pool.submit(write, memory, "second tea"), pool.submit(write, other, "third tea")]
            assert began.wait(60)
            memory.add("fourth tea")
            assert not any(w.done() for w in waiting)
        assert max(w.result(timeout=60) for w in waiting) == 4


def test_a_writer_that_waited_too_long_says_so_and_wrote_nothing(open_store: Callable[..., MemOS]) -> None:
    memory, other = open_store(policy=Policy(lock_seconds=0.05)), open_store(policy=Policy(lock_seconds=0.05))
    with memory.transaction():
        memory.add("green tea")
        for writer in (memory, other):
            with pytest.raises(StoreUnavailable, match=r"0\.05 s"):
                elsewhere(lambda writer=writer: writer.add("black tea"))
            with pytest.raises(StoreUnavailable, match=r"0\.05 s"):
                elsewhere(lambda writer=writer: writer.transaction().__enter__())
    assert texts(memory) == ["green tea"]


def test_none_begins_while_old_versions_may_be_dropped(open_store: Callable[..., MemOS]) -> None:
    memory, other = open_store(policy=Policy(lock_seconds=0.05)), open_store()
    with other._vault.db.uncompacted(), pytest.raises(StoreUnavailable, match="compacted"):
        memory.transaction().__enter__()
    with memory.transaction():
        memory.add("green tea")
    assert texts(other) == ["green tea"]


def test_one_may_open_the_store_and_read_while_it_lasts(memory: MemOS, open_store: Callable[..., MemOS]) -> None:
    memory.add("green tea")
    with memory.transaction():
        memory.add("black tea")
        late = elsewhere(open_store)
        assert texts(late) == ["green tea"]
    assert texts(late) == ["black tea", "green tea"]


def lacks_links(memory: MemOS) -> None:
    memory._vault.db.table("events").drop_columns(["link"])
    (Path(memory.path) / "audit" / "head").unlink()


def lacks_rules(memory: MemOS) -> None:
    memory._vault.db.drop("rules")


def lacks_head(memory: MemOS) -> None:
    (Path(memory.path) / "audit" / "head").unlink()


def has_begun_a_deletion(memory: MemOS) -> None:
    memory._vault.rules.put({"deleting": "x"})


def has_not_told(memory: MemOS) -> None:
    memory._vault.db.table("events").delete("true")


@pytest.mark.parametrize("state", [lacks_links, lacks_rules, lacks_head, has_begun_a_deletion, has_not_told])
def test_opening_and_reading_wait_for_no_writer_whatever_there_is_to_mend(
    state: Callable[[MemOS], None], memory: MemOS, open_store: Callable[..., MemOS]
) -> None:
    [green] = memory.add("green tea")
    state(memory)
    with memory._vault.db.writing():
        late = elsewhere(open_store)
        assert elsewhere(lambda: texts(late)) == ["green tea"]
        assert elsewhere(lambda: late.get(green.id).text) == "green tea"
        assert elsewhere(lambda: late.stats().memories) == 1
        assert elsewhere(late.log) is not None
    late.add("black tea")  # what was put off is done first
    assert texts(late) == texts(memory) == ["black tea", "green tea"]
    assert "link" in late._vault.db.table("events").schema.names
    assert late._vault.db.has("rules")
    assert "deleting" not in late._vault.rules.all()
    assert late.log(verb="add", limit=5)[-1].subject == green.id


def test_compaction_leaves_the_versions_of_the_beginning(open_store: Callable[..., MemOS]) -> None:
    policy = Policy(compact_every=4, keep_versions=timedelta(seconds=1))
    memory, other = open_store(policy=policy), open_store(policy=policy)
    [green] = memory.add("green tea")
    with taken_back(memory):
        for n in range(10):
            memory.update(green.id, f"tea {n}")
        assert not memory.tick().compacted
        assert not other._vault.db.compact()
        assert texts(other) == ["green tea"]
    assert texts(memory) == texts(other) == ["green tea"]
    assert [c.version for c in memory.history(green.id)] == [1]
    assert other._vault.db.compact(wait=60)


def test_a_search_never_mixes_what_was_before_with_what_came_after(open_store: Callable[..., MemOS]) -> None:
    policy = Policy(resident_memories=2)
    memory, readers = open_store(), [open_store(), open_store(policy=policy)]
    ids = [c.id for c in memory.add([{"role": "user", "content": f"round 0 of {n}"} for n in range(6)], session="s")]
    over = threading.Event()

    def read(reader: MemOS) -> int:
        seen: set[str] = set()
        while not over.is_set() or not seen:
            rounds = {h.cube.text.split(" of")[0] for h in reader.search("round", k=100)}
            assert len(rounds) == 1, rounds
            seen |= rounds
        return len(seen)

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read, r) for r in (*readers, memory)]
        try:
            for number in range(1, 7):
                with memory.transaction():
                    for n, id in enumerate(ids):
                        memory.update(id, f"round {number} of {n}")
        finally:
            over.set()
        assert all(r.result(timeout=60) for r in reading)


def interrupted(name: str, times: int, work: Callable[[], Any], read: Callable[[], Any]) -> Any:
    """What a reading finds in the middle of which, when it calls a function for the n-th time, something happens elsewhere."""
    left = times

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal left
        if event == "call" and frame.f_code.co_name == name:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                elsewhere(work)

    sys.setprofile(profile)
    try:
        found = read()
    finally:
        sys.setprofile(None)
    assert left <= 0
    return found


def test_a_reading_in_the_middle_of_which_a_transaction_is_kept_has_all_or_nothing_of_it(
    memory: MemOS, open_store: Callable[..., MemOS]
) -> None:
    other = open_store()
    memory.add("green tea")

    def work() -> None:
        with memory.transaction():
            memory.archive(memory.add("black tea")[0].id)
            memory.add("red tea")

    stats = interrupted("column", 2, work, other.stats)  # between counting kinds and counting states
    assert sum(stats.by_state.values()) == stats.memories == 3


def test_a_reading_that_began_before_a_transaction_sees_nothing_of_what_is_not_kept_yet(
    memory: MemOS, open_store: Callable[..., MemOS]
) -> None:
    other = open_store()
    [green] = memory.add("green tea")
    under_way = memory.transaction()

    def begin() -> None:
        context.run(under_way.__enter__)
        context.run(memory.update, green.id, "black tea")

    context = copy_context()
    with ThreadPoolExecutor(1) as pool:  # whoever begins it ends it
        read = partial(interrupted, "to_arrow", 1, lambda: pool.submit(begin).result(timeout=60))
        assert read(lambda: other.get(green.id)).text == "green tea"
        assert other.get(green.id).text == "green tea"
        pool.submit(context.run, under_way.__exit__, None, None, None).result(timeout=60)
    assert other.get(green.id).text == "black tea"


# --- payloads, caches ------------------------------------------------------------------------------------------------------


def test_blobs_made_in_it_go_and_blobs_removed_in_it_stay_if_it_is_not_kept(memory: MemOS) -> None:
    blobs = Blobs(memory._vault.db.site.files)
    blobs.inside = lambda: memory._vault.db.transactions.inside
    memory._blobs = blobs
    old, new = digest(b"old"), digest(b"new")
    blobs.write([b"old"], old)
    with taken_back(memory):
        blobs.write([b"new"], new)
        blobs.remove([old])
        assert blobs.sweep([]) == 0
    assert list(blobs.sizes()) == [old]
    with memory.transaction():
        blobs.write([b"new"], new)
        blobs.remove([old])
        assert set(blobs.sizes()) == {old, new}
    assert list(blobs.sizes()) == [new]
    with memory.transaction():
        blobs.remove([new])
        blobs.write([b"new"], new)
    assert list(blobs.sizes()) == [new]


def test_usage_of_what_never_was_is_not_counted(memory: MemOS) -> None:
    with taken_back(memory):
        memory.add("green tea")
        memory.search("tea")
    assert memory.tick().used == 0


# --- crashes -----------------------------------------------------------------------------------------------------------------


def several(memory: MemOS) -> None:
    """Many verbs as one."""
    [tea] = memory.add("white tea", key="tea")
    with memory.transaction():
        memory.update(tea.id, "green tea")
        memory.add("milk", key="milk")
        memory.share(tea.id, readers=["bob"])
        [sugar] = memory.add("sugar")
        memory.delete(sugar.id)
        memory.archive(memory.add("salt")[0].id)


def test_killed_at_any_commit_the_store_is_as_before_or_as_after(tmp_path: Path, embed: WordsEmbedder) -> None:
    """What a kill leaves is the files as they are at that moment: they are copied at each commit."""
    store, left = tmp_path / "store", []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "committed":
            left.append(tmp_path / f"killed {len(left)}")
            sys.setprofile(None)
            shutil.copytree(store, left[-1])
            sys.setprofile(profile)

    with MemOS(store, embed=embed, actor="ann") as memory:
        memory.add("white tea", key="tea")
        before = contents(memory)
        sys.setprofile(profile)
        try:
            several(memory)
        finally:
            sys.setprofile(None)
        after = contents(memory)
    assert len(left) > 15
    found = []
    for path in left:
        with MemOS(path, embed=embed, actor="ann") as reading, MemOS(path, embed=embed, actor="ann") as memory:
            assert reading.stats().memories
            found.append(contents(memory))
            assert_explained(memory, [h.cube for h in everything(memory)])
            memory.add("and it can be written")
            assert contents(reading) == contents(memory)
    between = next(c for c in found if c != before)  # the first verb stands alone
    assert all(c in (before, between, after) for c in found)
    assert found == sorted(found, key=[before, between, after].index)
    assert found.count(between) > 10
    assert found[-1] == after


def begin_and_die(memory: MemOS) -> None:
    """Leave what a process leaves that is killed in a transaction."""
    vault = memory._vault
    with vault.writing():
        vault.db.write_manifest(replace(vault.manifest, pinned=vault.db.versions()))
        memory.add("black tea")


@pytest.mark.parametrize("who", ["writer", "compaction", "opening"])
def test_readers_keep_to_the_state_before_until_somebody_takes_it_back(
    who: str, memory: MemOS, open_store: Callable[..., MemOS]
) -> None:
    memory.add("green tea")
    other, reader = open_store(), open_store()
    begin_and_die(memory)
    for _ in range(2):
        assert texts(reader) == texts(other) == ["green tea"]
        assert len(reader.log()) == 1
    if who == "writer":
        other.archive(other.add("milk")[0].id)
    elif who == "compaction":
        assert other._vault.db.compact(wait=60)
    else:
        assert texts(open_store()) == ["green tea"]
    assert not reader._vault.db.fresh().pinned
    assert texts(reader) == texts(memory) == ["green tea"]
    assert [e.outcome for e in reader.log(verb="add")][-2:] == ["rolled back", "ok"]


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_taking_back_may_itself_be_killed(kept: int, tmp_path: Path, embed: WordsEmbedder) -> None:
    with MemOS(tmp_path / "store", embed=embed, actor="ann") as memory:
        [tea] = memory.add("green tea")
        with memory.transaction():
            memory.update(tea.id, "black tea")
            memory.add("milk")
            shutil.copytree(tmp_path / "store", tmp_path / "killed")
    assert stopped(kept + 1, lambda: MemOS(tmp_path / "killed", embed=embed, actor="ann")) or kept == 5
    with MemOS(tmp_path / "killed", embed=embed, actor="ann") as memory:
        assert texts(memory) == ["green tea"]
        assert_explained(memory, [h.cube for h in everything(memory)])
        assert {e.outcome for e in memory.log()} <= {"ok", "rolled back"}
        assert len(memory.add("milk")) == 1


def test_stopped_in_the_middle_it_is_taken_back(tmp_path: Path, embed: WordsEmbedder) -> None:
    with MemOS(tmp_path / "store", embed=embed, actor="ann") as memory:
        for commits in range(4, 40):
            reached = stopped(commits, lambda: several(memory))
            found = {h.cube.text for h in everything(memory)}
            if found != {"white tea"}:  # stopped right after the commit that made all of it count
                assert found == {"green tea", "milk"}
                assert commits > 15
                return
            assert reached
        raise AssertionError("never finished")


def test_a_conflict_with_oneself_is_none(memory: MemOS) -> None:
    """A change in a transaction reads what the transaction wrote."""
    [tea] = memory.add("green tea")
    with memory.transaction():
        for n in range(8):
            memory.update(tea.id, f"and {n}", mode="append")
    assert memory.get(tea.id).version == 9
    with pytest.raises((Conflict, InvalidArgument)):
        memory.update(tea.id)
