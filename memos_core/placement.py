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
    """A name for a conversation handed in without one: from its content, so that it is the same the next time."""
    digest = sha256()
    for turn in turns:
        digest.update(repr(_content(turn)).encode())
    return f"conversation-{digest.hexdigest()[:16]}"


def once_each(turns: Sequence[Turn]) -> list[Turn]:
    """Turns without those that come again under an id: the last words said under an id count, at its first place."""
    last = {t.message_id: t for t in turns if t.message_id is not None}
    seen: set[str] = set()
    found: list[Turn] = []
    for turn in turns:
        if turn.message_id is None:
            found.append(turn)
        elif turn.message_id not in seen:
            seen.add(turn.message_id)
            found.append(last[turn.message_id])
    return found


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
    stored = _overlap(turns, first, last) if session is not None else []
    following = last[-1].origin.position if last else None
    position = 0 if following is None else following + 1
    placed: list[Placed] = []
    for i, (turn, id) in enumerate(zip(turns, ids, strict=True)):
        known = by_id.get(id) if id is not None else stored[i] if i < len(stored) else None
        if known is not None:
            placed.append(Placed(turn, known.id, known.origin.position, known))
            continue
        placed.append(Placed(turn, id or str(uuid.uuid4()), position if session is not None else None))
        position += 1
    return placed


def _overlap(turns: Sequence[Turn], first: Sequence[MemCube], last: Sequence[MemCube]) -> list[MemCube]:
    """The stored turns that the handed-in ones begin with. One equal turn at the very beginning proves nothing ("hi")."""
    new = [_content(t) for t in turns]
    start = [_stored(c) for c in first]
    from_start = next(
        (i for i, (a, b) in enumerate(zip(new, start, strict=False)) if a != b), min(len(new), len(start))
    )
    end = [_stored(c) for c in last]
    over_end = next((n for n in range(min(len(new), len(end)), 0, -1) if end[-n:] == new[:n]), 0)
    if from_start >= 2 and from_start >= over_end:
        return list(first[:from_start])
    return list(last[-over_end:]) if over_end else []


def _content(turn: Turn) -> tuple[object, ...]:
    if turn.message_id is not None:
        return (turn.message_id,)
    return (turn.role, turn.speaker, turn.text, turn.occurred_at)


def _stored(cube: MemCube) -> tuple[object, ...]:
    origin = cube.origin
    if origin.message_id is not None:
        return (origin.message_id,)
    return (origin.role, origin.speaker, cube.text, origin.occurred_at)
