"""Which turns of a conversation are new, and where they stand in their session. Pure.

A turn with an id is the same turn wherever its session is handed in again. A turn without one is known by its content at its
place: what a caller hands in is laid over what is stored, either from the session's beginning (a transcript handed in again,
longer or not) or over its end (a call repeated after a time-out, a sliding window of recent turns).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from .reader import Turn
from .types import MemCube, Namespace

_SPACE = uuid.UUID("5f0c9a52-6a3f-5d0e-9d63-8e2f6f6f6d31")


@dataclass(frozen=True, slots=True)
class Placed:
    """A turn with its place. `stored` is the memory that already holds it, if there is one."""

    turn: Turn
    id: str
    position: int | None
    stored: MemCube | None = None


def stable_id(owner: str, namespace: Namespace, *parts: str) -> str:
    """The id of a memory that its owner has a name for: the same name, the same id. Length-prefixed, so that no two
    different lists of labels read alike."""
    labels = [owner, str(len(namespace)), *namespace, *parts]
    return str(uuid.uuid5(_SPACE, "".join(f"{len(label)}:{label}" for label in labels)))


def message_key(owner: str, namespace: Namespace, session: str | None, message_id: str) -> str:
    """The id of a message that carries one."""
    return stable_id(owner, namespace, "message", session or "", message_id)


def session_label(turns: Sequence[Turn]) -> str:
    """A name for a conversation handed in without one: from its first message's id, which it keeps while it grows, or else
    from its whole content, so that at least the same conversation has the same name the next time."""
    known: tuple[object, ...] = tuple((digest(t), t.occurred_at) for t in turns)
    if turns[0].message_id is not None:
        known = (turns[0].message_id, digest(turns[0]))
    return f"conversation-{sha256(repr(known).encode()).hexdigest()[:16]}"


def rounds(turns: Sequence[Turn]) -> tuple[list[Turn], list[Turn]]:
    """The turns in which each message id comes once, and those that come again (edits of the first, in order)."""
    seen: set[str] = set()
    once: list[Turn] = []
    again: list[Turn] = []
    for turn in turns:
        (again if turn.message_id in seen else once).append(turn)
        if turn.message_id is not None:
            seen.add(turn.message_id)
    return once, again


def place(
    turns: Sequence[Turn],
    session: str | None,
    by_id: Mapping[str, MemCube],
    ids: Sequence[str | None],
    first: Sequence[MemCube],
    last: Sequence[MemCube],
) -> list[Placed]:
    """Turns in their places.

    ids: for each turn the id that its message id gives it, or None. by_id: which of these are stored. first, last: the stored
    turns of the session at its beginning and its end, in order, at least as many as there are turns (or all there are).
    """
    stored = _laid_over(turns, first, last) if session is not None else {}
    following = last[-1].origin.position if last else None
    position = 0 if following is None else following + 1
    placed: list[Placed] = []
    for i, (turn, id) in enumerate(zip(turns, ids, strict=True)):
        known = by_id.get(id) if id is not None else stored.get(i)
        if known is not None:
            placed.append(Placed(turn, known.id, known.origin.position, known))
            continue
        placed.append(Placed(turn, id or str(uuid.uuid4()), position if session is not None else None))
        position += 1
    return placed


def _laid_over(turns: Sequence[Turn], first: Sequence[MemCube], last: Sequence[MemCube]) -> dict[int, MemCube]:
    """Which stored turns the handed-in ones are, by index.

    From the beginning: at their positions, if none of them says something else. Turns deleted since leave a gap, and
    turns changed since count as what they were. One equal turn at the very beginning proves nothing ("hi"). Over the end:
    the longest run with which the stored turns end and the handed-in ones begin.
    """
    start: dict[int, MemCube] = {}
    at = {c.origin.position: c for c in first}
    for i, turn in enumerate(turns):
        if (cube := at.get(i)) is not None:
            if not _same(
                turn, cube
            ):  # another conversation that began alike: nothing lost is worth more than nothing twice
                start = {}
                break
            start[i] = cube
    longest = min(len(turns), len(last))
    over = next((n for n in range(longest, 0, -1) if all(map(_same, turns[:n], last[-n:]))), 0)
    end = dict(enumerate(last[-over:])) if over else {}
    return start if len(start) >= max(2, len(end)) else end


def _same(turn: Turn, cube: MemCube) -> bool:
    """Whether a stored turn is this one, whatever was made of its words since."""
    origin = cube.origin
    if turn.message_id is not None or origin.message_id is not None:
        return turn.message_id == origin.message_id
    return turn.occurred_at == origin.occurred_at and digest(turn) == origin.digest


def digest(turn: Turn) -> str:
    """The hash of who said what, as it was handed in."""
    return sha256(repr((turn.role, turn.speaker, turn.text)).encode()).hexdigest()[:16]
