"""What this process answered: prompts, tokens that were held, seconds to the first token, by who asked. Counts; decides nothing."""

from __future__ import annotations

import threading
from collections import deque

from .reports import Counted
from .types import TokenUsage

_LAST = 1_000  # times to the first token that are kept


class Tally:
    """The answers of one process. Safe for many threads."""

    def __init__(self) -> None:
        self._by_actor: dict[str, tuple[int, int, int]] = {}
        self._first: deque[float] = deque(maxlen=_LAST)
        self._lock = threading.Lock()

    def note(self, who: str, usage: TokenUsage) -> None:
        """Take in an answer."""
        with self._lock:
            requests, tokens, cached = self._by_actor.get(who, (0, 0, 0))
            self._by_actor[who] = (requests + 1, tokens + usage.input, cached + usage.cached)
            self._first.append(usage.seconds_to_first)

    def counted(self, who: str | None = None) -> Counted:
        """What was answered: to one actor, or to all."""
        with self._lock:
            some = [n for actor, n in self._by_actor.items() if who is None or actor == who]
            requests, tokens, cached = (sum(column) for column in zip(*some, strict=True)) if some else (0, 0, 0)
            times = sorted(self._first)
        at = [times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.95)] if times else [0.0, 0.0]
        return Counted(requests, tokens, cached, *at)

    def actors(self) -> list[str]:
        """Who asked."""
        with self._lock:
            return sorted(self._by_actor)
