"""How many requests use a model just now, and work that lets them go first. Knows threads; knows no model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

PIECE = 128
"""Tokens that work which can wait runs at once: a request that comes meanwhile waits for no more."""

PATIENCE = 0.25
"""Seconds that such work waits for requests before each piece."""

MOMENT = 0.05
"""Seconds that a step on the database waits for them: a search is over by then, an answer's stream need not be."""


class Requests:
    """The requests of one model. Safe for many threads."""

    def __init__(self) -> None:
        self._count = 0
        self._none = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """One is under way until the end of the block."""
        with self._none:
            self._count += 1
        try:
            yield
        finally:
            with self._none:
                self._count -= 1
                if not self._count:
                    self._none.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until none is under way, so long at most; whether there is none."""
        with self._none:
            return self._none.wait_for(lambda: not self._count, seconds)


def counted(stream: Callable[..., Generator[Any, None, Any]]) -> Callable[..., Generator[Any, None, Any]]:
    """A generator method of what has `requests`, counted as one of them from its first step to its end."""

    @wraps(stream)
    def counting(self: Any, *args: Any, **options: Any) -> Generator[Any, None, Any]:
        with self.requests.one():
            return (yield from stream(self, *args, **options))

    return counting


def patiently(requests: Requests, run: Callable[[Sequence[int], Any], Any], ids: Sequence[int], cache: Any) -> Any:
    """Run tokens behind a cache a piece at a time, each when no request is under way, or when it has waited for long enough."""
    found = None
    for start in range(0, len(ids), PIECE):
        requests.wait(PATIENCE)
        found = run(ids[start : start + PIECE], cache)
    return found
