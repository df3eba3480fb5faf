"""In a forked child a chat says that its memory cannot be used there: a wrong set-up is no failure that passes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra llamaindex")

from llama_index.core.llms import ChatMessage

from llamaindex_memos import MemOSMemory
from llamaindex_memos.engine import _lock
from memos_core import MemOS
from tests.test_fork import in_child, refused
from tests.words import WordsEmbedder

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here"),
    pytest.mark.filterwarnings("ignore:.*fork.*"),
]
SAID = ChatMessage(role="user", content="I take my tea with lemon.")


def test_a_chat_that_goes_on_without_memory_does_not_in_a_fork(memory: MemOS) -> None:
    adapter = MemOSMemory(memory, user_id="ann", session_id="monday", on_error="warn")
    adapter.put(SAID)

    def use() -> None:
        refused(lambda: adapter.put(ChatMessage(role="user", content="And with milk.")))
        refused(lambda: adapter.get("tea?"))

    assert in_child(use) == 0
    assert memory.search("tea", actor="ann")


def test_locks_that_other_threads_hold_at_the_fork_stop_nobody(memory: MemOS, tmp_path: Path) -> None:
    adapter = MemOSMemory(memory, user_id="ann", session_id="monday", on_error="warn")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with adapter._lock, _lock:
            held.set()
            over.wait()

    def use() -> None:
        refused(lambda: adapter.put(SAID))
        refused(lambda: MemOSMemory(tmp_path / "other", embed=WordsEmbedder(), user_id="ann", session_id="s").put(SAID))

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_child(use) == 0
    finally:
        over.set()
        holder.join()
