"""What a tick says that it did, and what is told of the scheduler. Records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .holdings import Move
from .types import Event, Kind, Namespace, State, Usage

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
    """What a tick did: usage records written, memories removed because their time was over, whether the tables were compacted, and what became of each move of the
    plan."""

    at: datetime
    used: int
    expired: int
    compacted: bool
    moves: tuple[Carried, ...] = ()


@dataclass(frozen=True, slots=True)
class Counted:
    """Prompts, their tokens, those of them that were held, and seconds to the first token (half of the last ones took no longer than
    `p50`, 95 of 100 no longer than `p95`)."""

    requests: int = 0
    tokens: int = 0
    cached: int = 0
    p50: float = 0.0
    p95: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """How much is held where (bytes), at a time (POSIX seconds), and how many moves were carried out just before."""

    at: float
    disk: int
    host: int
    device: int
    adapters: int
    moves: int


@dataclass(frozen=True, slots=True)
class Process:
    """What a process that ticks says of itself: when; its model's fingerprint; bytes on its shelf and what may be there; what may be on
    disk; tokens a second and bytes a second that it measured; the share of a scope's requests that a memory needs for a place in the
    passage; what it answered, in all and to each actor; and what bytes save: pairs of bytes on disk and seconds saved an hour."""

    id: str
    at: float
    model: str
    device: int
    device_budget: int
    host: int
    host_budget: int
    disk_budget: int
    prefill: float
    load: float
    needed: float
    answered: Counted
    by_actor: tuple[tuple[str, Counted], ...]
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a memory stands with one scope of an actor: the share of its requests that wanted the memory (of `requests`, fading), the share
    that a place in the passage needs (None before a scheduler with a model looked), and whether it is in it."""

    namespace: Namespace
    requests: float
    share: float
    needed: float | None
    kept: bool


@dataclass(frozen=True, slots=True)
class Why:
    """Why a memory is held as it is: how often and when it was read, how it stands with the actor's scopes, and what was decided about it
    and about what was made from it, newest first."""

    id: str
    kind: Kind
    state: State
    usage: Usage
    standings: tuple[Standing, ...]
    decisions: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """A store as the scheduler sees it, for one actor. forms: memories and bytes, by form, of what he may read. warm: memories of his
    scopes and the share of their requests that wanted them, the warmest first. under_way: ids and words of moves that are carried out for him just now. decisions: of his. processes, samples: of the
    machines, which say nothing about whose memories are held."""

    at: datetime
    forms: tuple[tuple[str, int, int], ...]
    processes: tuple[Process, ...]
    samples: tuple[Sample, ...]
    under_way: tuple[tuple[str, str], ...]
    decisions: tuple[Event, ...]
    warm: tuple[tuple[str, float], ...]
