"""What the LlamaIndex tests share: a store whose clock goes on with each look at it, and memories of ann's on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memos_core import MemCube, MemOS
from tests.conftest import Clock

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed")

from llamaindex_memos import MemOSMemory


@pytest.fixture
def engine(open_store: Callable[..., MemOS], clock: Clock) -> MemOS:
    """An empty store; what came first is stored first."""
    return open_store(clock=lambda: clock.forward(seconds=1))


@pytest.fixture
def remembering(engine: MemOS) -> Callable[..., MemOSMemory]:
    """Makes a memory on the store: ann's, in a new session, unless said otherwise."""
    return lambda **fields: MemOSMemory(engine, **{"user_id": "ann", "on_error": "raise", **fields})


def learnt(engine: MemOS, user: str = "ann", **options: Any) -> list[MemCube]:
    """All that is known of a user, as it came."""
    cubes = [hit.cube for hit in engine.search("what was said", actor=user, k=10_000, **options)]
    return sorted(cubes, key=lambda c: (c.origin.stored_at, c.origin.position or 0))


def texts(engine: MemOS, user: str = "ann", **options: Any) -> list[str]:
    """The words of it."""
    return [cube.text for cube in learnt(engine, user, **options)]


def contents(messages: Any) -> list[tuple[str, str | None]]:
    """Who says what."""
    return [(m.role.value, m.content) for m in messages]
