"""`schedule=True`: the memory ticks by itself from its first use on, until it is closed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain", reason="the adapter's framework")

from langchain_memos import ChatMemOS, MemOSMemory
from memos_core import MemOS
from tests.networks import random_model
from tests.words import WordsEmbedder


def ticking() -> int:
    return [t.name for t in threading.enumerate()].count("memos-tick")


def adapter(kind: str, memory: Any, **options: Any) -> Any:
    if kind == "memory":
        return MemOSMemory(memory, user_id="ann", schedule=True, **options)
    return ChatMemOS(random_model(), memory=memory, user_id="ann", schedule=True, **options)


@pytest.mark.parametrize("kind", ["memory", "chat"])
def test_what_is_opened_by_its_path_ticks_from_the_first_use_until_it_is_closed(tmp_path: Path, kind: str) -> None:
    made = adapter(kind, tmp_path / "store", embed=WordsEmbedder())
    assert ticking() == 0
    assert made.memory is made.memory
    assert ticking() == 1
    made.close()
    assert ticking() == 0
    assert made.memory
    assert ticking() == 1
    made.close()


def test_a_memory_that_is_given_is_started_once(tmp_path: Path) -> None:
    with MemOS(tmp_path / "store", embed=WordsEmbedder()) as memory:
        assert MemOSMemory(memory, user_id="ann").memory is memory
        assert ticking() == 0
        for _ in range(2):
            assert adapter("memory", memory).memory is memory
        assert ticking() == 1
    assert ticking() == 0
