"""An answer as it is drawn, read on the way: for those who hand it on piece by piece, from whichever thread."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from .toolcalls import AnswerReader
from .types import Answer


class AnswerStream:
    """Iterates over (text, reasoning) as soon as the words can be nothing else. Then `answer` and `result` are there.

    Safe for threads that take turns. A context manager; closing it stops the model after the token that it is at.

    Args:
        pieces: from `LocalModel.stream` or its like. What that returns becomes `result`.
        tools: that the model was shown; see `AnswerReader`.
        parallel: whether an answer may hold more than one call; False keeps the first.
    """

    def __init__(
        self,
        pieces: Generator[str, None, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        parallel: bool = True,
    ) -> None:
        self._pieces = pieces
        self._reader = AnswerReader(tools)
        self._parallel = parallel
        self._turn = threading.Lock()
        self._ended = False
        self.result: Any = None

    @property
    def answer(self) -> Answer:
        """What was read so far."""
        found = self._reader.answer
        return found if self._parallel else replace(found, calls=found.calls[:1])

    def read(self) -> Self:
        """Iterate to the end, or until somebody closes it."""
        for _ in self:
            pass
        return self

    def close(self) -> None:
        """Stop. Waits for the token that is being drawn."""
        self._ended = True  # before the lock: else one who reads on and on would hold it
        with self._turn:
            self._pieces.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, str]:
        with self._turn:
            while not self._ended:
                try:
                    said = self._reader.feed(next(self._pieces))
                except StopIteration as end:
                    self._ended, self.result = True, end.value
                    said = self._reader.end()
                if any(said):
                    return said
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
