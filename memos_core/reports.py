"""What a tick says that it did. Records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .holdings import Move

DONE, FAILED, ELSEWHERE, LATER = "done", "failed", "elsewhere", "later"


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of a move: `outcome` is "done", "failed" (and `detail` says of what), "elsewhere" (another worker is at it) or "later"
    (it failed before and is tried again after a while, or the scheduler was stopped). `who` is for whom, `subject` the memory that the
    log tells it of, `seconds` what it took."""

    move: Move
    outcome: str
    who: str
    subject: str
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TickReport:
    """What a tick did: usage records written, memories expired, whether the tables were compacted, and what became of each move of the
    plan."""

    at: datetime
    used: int
    expired: int
    compacted: bool
    moves: tuple[Carried, ...] = ()
