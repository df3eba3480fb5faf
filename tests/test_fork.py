"""A store that was open before a fork: its children are told so at every verb, and neither they nor the parent lose, hang or block anything.

The children are real ones. Each has its time; one that does not come back in it is killed, and the test fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from memos_core import ForkedProcess, MemOS, StoreClosed
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
SECONDS = 60  # that a child may take on a slow machine; it needs less than one
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here"),
    pytest.mark.filterwarnings("ignore:.*fork.*"),
]


def begun(work: Callable[[], object]) -> int:
    """A child that does the work and is gone: 0, or 1 if it raised; its traceback is in the test's output."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """What a child ended with; it is killed if it does not."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work: Callable[[], object]) -> int:
    return ended(begun(work))


def refused(verb: Callable[[], object]) -> None:
    with pytest.raises(ForkedProcess, match="fork") as caught:
        verb()
    assert "post_fork" in str(caught.value)


VERBS: dict[str, Callable[[MemOS], object]] = {
    "add": lambda m: m.add("I take my tea with lemon."),
    "update": lambda m: m.update("id", "coffee"),
    "share": lambda m: m.share("id", readers=["bob"]),
    "archive": lambda m: m.archive("id"),
    "freeze": lambda m: m.freeze("id"),
    "delete": lambda m: m.delete("id"),
    "purge": lambda m: m.purge(),
    "forget": lambda m: m.forget(),
    "search": lambda m: m.search("tea"),
    "brief": lambda m: m.brief("tea"),
    "get": lambda m: m.get("id"),
    "history": lambda m: m.history("id"),
    "lineage": lambda m: m.lineage("id"),
    "log": lambda m: m.log(),
    "stats": lambda m: m.stats(),
    "verify": lambda m: m.verify(),
    "tick": lambda m: m.tick(),
    "flush": lambda m: m.flush(),
    "start": lambda m: m.start(),
    "stop": lambda m: m.stop(),
    "snapshot": lambda m: m.snapshot("now"),
    "transaction": lambda m: m.transaction().__enter__(),
    "branch": lambda m: m.branch("trial").__enter__(),
    "dump": lambda m: m.dump("dump.zip"),
    "load": lambda m: m.load("dump.zip"),
    "items": lambda m: m.items,
    "group": lambda m: m.group("friends", ["bob"]),
    "generate": lambda m: m.generate("tea?"),
}


def test_every_verb_names_the_fork_in_a_child(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.")
    assert in_child(lambda: [refused(lambda verb=verb: verb(memory)) for verb in VERBS.values()]) == 0
    assert memory.search("tea")


def test_four_children_of_twenty_five_adds_lose_nothing_that_was_acknowledged(memory: MemOS) -> None:
    def add_all() -> None:
        for n in range(25):
            refused(lambda n=n: memory.add(f"note {n} of {os.getpid()}"))

    children = [begun(add_all) for _ in range(4)]
    stored = [memory.add(f"note {n} of the parent")[0].id for n in range(25)]
    assert [ended(child) for child in children] == [0] * 4
    assert {hit.cube.id for hit in memory.search("note", k=200)} == set(stored)
    assert memory.verify().sound


def ran(*words: str, **environment: str) -> list[str]:
    """What the children of a new process ended with: in this one a database has run."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.fork_writer", *words]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=4 * SECONDS, env={**os.environ, **environment}
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_children_of_a_process_that_opened_nothing_write_all_they_add(tmp_path: Path) -> None:
    """As adapters do, which are given a path and open it at first use."""
    assert ran(str(tmp_path / "store"), "4", "25") == ["0"] * 4
    with MemOS(tmp_path / "store", embed=WordsEmbedder(), actor="ann") as memory:
        assert memory.stats().memories == 100
        assert memory.verify().sound


def test_children_of_a_process_that_had_it_open_come_to_their_end(tmp_path: Path) -> None:
    """That of the interpreter, where LanceDB by itself waits for threads that are gone."""
    assert ran(str(tmp_path / "store"), "8", "1", "open") == ["3"] * 8


@pytest.mark.slow
def test_an_embedder_that_had_embedded_before_the_fork_goes_on_in_the_children(tmp_path: Path) -> None:
    """With one thread: those of OpenMP are gone, and torch would wait for them."""
    pytest.importorskip("sentence_transformers", reason="the default embedder needs it")
    assert ran(str(tmp_path / "store"), "4", "5", "local", OMP_NUM_THREADS="2") == ["0"] * 4


def test_a_child_may_not_open_another_store_either(memory: MemOS, tmp_path: Path) -> None:
    assert in_child(lambda: refused(lambda: MemOS(tmp_path / "other", embed=WordsEmbedder()))) == 0


def test_closing_it_in_a_child_leaves_it_to_the_parent(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.")
    memory.search("tea")

    def close() -> None:
        memory.close()
        assert memory.closed
        memory.close()
        with pytest.raises(StoreClosed, match="fork"):
            memory.search("tea")

    assert in_child(close) == 0
    assert not memory.closed
    assert memory.tick().used == 1  # what was read is counted here, and once
    assert memory.add("It is green tea.")


def test_what_was_taken_from_it_before_the_fork_refuses_too(memory: MemOS) -> None:
    items, database = memory.items, memory._vault.db
    items.put([])

    def use() -> None:
        refused(lambda: items.get([(("default",), "key")]))
        refused(lambda: database.table("cubes"))

    assert in_child(use) == 0


def test_a_lock_that_another_thread_holds_at_the_fork_stops_nobody(memory: MemOS) -> None:
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with memory._vault.db.writing(), memory._working_set._lock, memory._upkeep._lock, memory._requests._none:
            held.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_child(lambda: [refused(lambda verb=verb: verb(memory)) for verb in VERBS.values()]) == 0
    finally:
        over.set()
        holder.join()
    assert memory.add("I take my tea with lemon.")


def test_a_child_that_leaves_a_transaction_takes_nothing_back(memory: MemOS, open_store: Callable[..., MemOS]) -> None:
    other = open_store(policy=memory._policy.__class__(lock_seconds=0.1))

    def leave() -> None:
        refused(lambda: transaction.__exit__(None, None, None))

    transaction = memory.transaction()
    transaction.__enter__()
    memory.add("I take my tea with lemon.")
    assert in_child(leave) == 0
    assert other.search("tea") == []  # it is still under way, and still the parent's
    with pytest.raises(Exception, match="another process has been writing"):
        other.add("no")
    transaction.__exit__(None, None, None)
    assert other.search("tea")


def test_a_child_that_leaves_a_branch_does_not_end_it(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.")
    branch = memory.branch("trial")
    trial = branch.__enter__()

    def leave() -> None:
        with suppress(ForkedProcess):
            branch.__exit__(None, None, None)

    assert in_child(leave) == 0
    assert trial.add("It is green tea.")
    branch.__exit__(None, None, None)


def test_a_thread_that_ticks_goes_on_in_the_parent_and_is_none_of_the_childs(memory: MemOS) -> None:
    memory.start(every=0.01)
    try:
        assert [in_child(lambda: refused(lambda: memory.add("tea"))) for _ in range(5)] == [0] * 5
        assert memory.add("I take my tea with lemon.")
    finally:
        memory.stop()


@pytest.mark.parametrize("children", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_no_child_crashes_or_hangs_while_threads_of_the_parent_write_and_search(memory: MemOS, children: int) -> None:
    stop = threading.Event()

    def work() -> None:
        n = 0
        while not stop.is_set():
            memory.add(f"note {(n := n + 1)} of thread {threading.get_ident()}")
            memory.search("note")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        found = [in_child(lambda: refused(lambda: memory.add("tea"))) for _ in range(children)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert found == [0] * children
    assert memory.verify().sound


def test_a_model_that_was_loaded_before_the_fork_refuses_in_a_child(memory: MemOS) -> None:
    pytest.importorskip("torch", reason="needs the extra local")
    from tests.networks import random_model

    model = random_model()
    model.generate([{"role": "user", "content": "tea?"}], max_tokens=1)

    def use() -> None:
        with pytest.raises(ForkedProcess, match="fork"):
            model.generate([{"role": "user", "content": "tea?"}], max_tokens=1)

    assert in_child(use) == 0
    assert model.generate([{"role": "user", "content": "tea?"}], max_tokens=1)
