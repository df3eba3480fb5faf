"""What all tests share: an embedder of hashed words, a clock that stands still until told, and a store in a new folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from memos_core import MemOS
from tests.buckets import Server, serving
from tests.words import WordsEmbedder

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tests run two at once; more threads would wait for each other, in what they start too

settings.register_profile(
    "tests", deadline=None, derandomize=True, max_examples=40, print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
settings.load_profile("tests")

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Clock:
    """Stands at `now` until moved."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> datetime:
        """Move by timedelta(**span); the new time."""
        self.now += timedelta(**span)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def embed() -> WordsEmbedder:
    return WordsEmbedder()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Object storage on loopback."""
    with serving() as found:
        yield found


@pytest.fixture
def open_store(tmp_path: Path, embed: WordsEmbedder, clock: Clock) -> Iterator[Callable[..., MemOS]]:
    """Opens the test's store, as often as asked; all are closed at the end."""
    opened: list[MemOS] = []

    def open_one(**options: Any) -> MemOS:
        path = options.pop("path", tmp_path / "store")
        opened.append(MemOS(path, **{"embed": embed, "clock": clock, "actor": "ann", **options}))
        return opened[-1]

    yield open_one
    for memory in opened:
        memory.close()


@pytest.fixture
def memory(open_store: Callable[..., MemOS]) -> MemOS:
    """An empty store; who acts is ann unless said otherwise."""
    return open_store()
