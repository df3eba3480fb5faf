"""What a caller's reader makes of new turns, stored; whatever goes wrong with it is an event, and the turns stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from . import reader as readers
from .errors import MemOSError
from .types import Hit, MemCube, Reader, Reading
from .writing import Writer


class Statements:
    """Has one reader make statements of turns. `search` is the engine's."""

    def __init__(
        self, reader: Reader, writer: Writer, search: Callable[..., list[Hit]], clock: Callable[[], datetime]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._search = search
        self._clock = clock

    def of(self, who: str, draft: MemCube, turns: Sequence[MemCube]) -> list[MemCube]:
        """The statements in turns that were just stored under a draft's header."""

        def similar(text: str) -> list[MemCube]:
            of_types = {"semantic_type": {"$in": list(readers.TYPES)}}
            hits = self._search(text, namespace=draft.namespace, actor=who, k=20, filter=of_types)
            return [h.cube for h in hits if h.cube.access.owner == who]

        try:
            reading = self._reader.read(turns, similar)
        except Exception as error:  # the reader is the caller's code: the turns, which are stored, must not pay for it
            self._writer.failed(who, "read", type(error).__name__)
            return []
        if not isinstance(reading, Reading):
            self._writer.failed(who, "read", f"the reader returned {type(reading).__name__} and not a Reading")
            return []
        for problem in reading.problems:
            self._writer.failed(who, "read", problem)
        kept = []
        for statement in reading.drafts:
            try:
                kept.append(self._writer.add_statement(who, draft, statement))
            except MemOSError as error:  # nor for one statement
                self._writer.failed(who, "read", f"a statement was left out: {type(error).__name__}")
        return kept
