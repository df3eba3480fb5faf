"""In a forked child an agent says that its memory cannot be used there: a wrong set-up is no failure that passes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent

from langchain_memos import MemOSMemory
from langchain_memos.embedders import AsyncEmbedder
from memos_core import MemOS
from tests.langchain.models import model
from tests.test_fork import in_child, refused
from tests.words import WordsEmbedder

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here"),
    pytest.mark.filterwarnings("ignore:.*fork.*"),
]


def invoke(memory: MemOSMemory) -> object:
    return create_agent(model(), middleware=[memory]).invoke({"messages": "I take my tea with lemon."})


def test_an_agent_that_goes_on_without_memory_does_not_in_a_fork(memory: MemOS) -> None:
    adapter = MemOSMemory(memory, user_id="ann", on_error="warn")
    invoke(adapter)
    assert in_child(lambda: refused(lambda: invoke(adapter))) == 0
    assert memory.search("tea", actor="ann")


def test_an_agent_of_a_path_that_was_in_use_says_so_too(tmp_path: Path) -> None:
    adapter = MemOSMemory(tmp_path / "store", embed=WordsEmbedder(), user_id="ann", on_error="warn")
    invoke(adapter)
    assert in_child(lambda: refused(lambda: invoke(adapter))) == 0
    adapter.close()


def test_a_thread_that_is_opening_the_store_at_the_fork_stops_nobody(memory: MemOS, tmp_path: Path) -> None:
    """A store is open already, so that the child is refused one of its own; it is not to wait for the thread to find that out."""
    adapter = MemOSMemory(tmp_path / "store", embed=WordsEmbedder(), user_id="ann")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with adapter._engine._opening:
            held.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_child(lambda: refused(lambda: adapter.memory)) == 0
    finally:
        over.set()
        holder.join()


def test_an_async_embedder_has_a_loop_of_its_own_in_a_child() -> None:
    words = WordsEmbedder()

    async def embed(texts: list[str]) -> object:
        return words(texts)

    embedder = AsyncEmbedder(embed)
    embedder(["tea"])
    assert in_child(lambda: embedder(["tea"])) == 0
    assert (embedder(["tea"]) == words(["tea"])).all()
