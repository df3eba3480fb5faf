"""The chain over the events: each says with its link what came before it. Pure: knows what is told, not where it is kept.

The link of an event is the SHA-256 of the link before it and of everything that is stored of the event: change, remove, insert or
reorder one and its link, or that of the next, no longer fits. The `Head` says how far the chain reaches, so that a lost end shows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC
from hashlib import sha256

from .types import Event

GENESIS = "0" * 64
"""The link before the first event."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: the number of the last event, its link, and how many rows there are (fewer, if some were taken away)."""

    number: int = 0
    link: str = GENESIS
    rows: int = 0

    def __str__(self) -> str:
        return f"{self.number}:{self.link}"


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it is stored: who besides its actor may see it, which write a deletion takes back, its number from 1, and its link."""

    event: Event
    readers: tuple[str, ...]
    seq: int | None
    number: int
    link: str
    checksum: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What a verification found: how many events there are, the head (to be kept elsewhere, and given to the next verification),
    and each thing that is not as it was written, with its place."""

    events: int
    head: str
    faults: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every event is there as it was written."""
        return not self.faults


def checksum(event: Event) -> int:
    """CRC-32 of what an event says."""
    return zlib.crc32(repr(tuple(str(getattr(event, name)) for name in Event.__slots__)).encode())


def linked(previous: str, told: Told) -> str:
    """The link of an event that comes after another one with this link."""
    event = told.event
    said = [
        told.number, event.id, event.at.astimezone(UTC).isoformat(), event.actor, event.verb, event.subject, event.version, event.outcome,
        event.detail, told.readers, told.seq,
    ]  # fmt: skip
    return sha256(f"{previous}{json.dumps(said)}".encode()).hexdigest()


def chained(
    events: Sequence[Event], readers: Sequence[Iterable[str]], seqs: Sequence[int | None], head: Head
) -> tuple[list[Told], Head]:
    """Events as they are to be stored behind a head, and the head after them."""
    link, found = head.link, []
    for number, (event, seen_by, seq) in enumerate(zip(events, readers, seqs, strict=True), head.number + 1):
        told = Told(event, tuple(sorted(seen_by)), seq, number, "", checksum(event))
        link = linked(link, told)
        found.append(Told(event, told.readers, seq, number, link, told.checksum))
    return found, Head(head.number + len(found), link, head.rows + len(found))


def caught_up(head: Head, after: Sequence[Told]) -> Head:
    """The head after events that were stored behind it by a process that was killed before it could say so."""
    return Head(after[-1].number, after[-1].link, head.rows + len(after)) if after else head


def examined(told: Iterable[Told], head: Head | None, expected: str | None = None) -> Audit:
    """Hold all that is stored, in the order of its numbers, against its links and the head (None: there is none where one must be).
    expected: a head that was kept elsewhere, as text; the chain must have reached exactly that once."""
    faults: list[str] = []
    last, link, count, known = 0, GENESIS, 0, {0: GENESIS}
    anchor = head or Head()
    for one in told:
        count += 1
        if one.number == last:
            faults.append(f"event {one.number} is there more than once")
            continue
        if one.number != last + 1:
            faults.append(f"{_some(last + 1, one.number - 1)} missing")
        elif linked(link, one) != one.link or checksum(one.event) != one.checksum:
            faults.append(f"event {one.number} is not as it was written, or the one before it is not")
        last, link = one.number, one.link
        if str(last) in (str(anchor.number), (expected or "").split(":")[0]):
            known[last] = link
    if head is None:
        faults.append("the head of the chain is missing: whether its last events are there cannot be said")
    if anchor.number > last:
        faults.append(f"{_some(last + 1, anchor.number)} missing")
    elif known.get(anchor.number, anchor.link) != anchor.link:
        faults.append(f"event {anchor.number} is not the one that the head of the chain names")
    if expected is not None and expected not in (f"{n}:{told_link}" for n, told_link in known.items()):
        faults.append(f"the chain did not come by the head {expected}")
    return Audit(count, f"{last}:{link}", tuple(faults))


def _some(first: int, last: int) -> str:
    return f"event {first} is" if first == last else f"events {first} to {last} are"
