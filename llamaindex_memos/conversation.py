"""The messages of one session, durable: an item of the engine each, so that a put is one small write.

Knows keys and order; what is in a message is its caller's. Keys sort as the messages stand. A message that is put is named by the
time and by chance, so that two processes never name theirs alike; one that comes in a whole history by its place and its content, so
that two processes that are handed the same history write the same.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from hashlib import sha256

from memos_core import Item, Namespace

from .engine import Engine

_STEP = 1_000  # between the numbers of neighbours, so that there is room for what is put in between
_FIRST = 10**9  # the number of the first message of a history, with room before it
_ALL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Kept:
    """A message in its place: its key, and its packed form."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class Change:
    """What replaces a conversation: all of it as it is then, what of that is to be written, which keys are to go, and which
    messages were not there before."""

    after: tuple[Kept, ...]
    written: tuple[Kept, ...]
    gone: tuple[str, ...]
    new: tuple[Kept, ...]


class Conversation:
    """One session of one user, at a namespace of its own."""

    def __init__(self, engine: Engine, user: str, namespace: Namespace, session: str) -> None:
        self._engine = engine
        self._user = user
        self._namespace = (*namespace, "conversation", session)

    def read(self) -> list[Kept]:
        """All messages, in order."""
        items = self._engine.memory.items
        cubes = items.list(self._namespace, actor=self._user, limit=_ALL, oldest_first=True)
        return sorted((Kept(c.key or "", str(c.attributes["message"])) for c in cubes), key=lambda kept: kept.key)

    def write(self, kept: Sequence[Kept]) -> None:
        """Store messages under their keys, in one commit."""
        if kept:
            items = [Item(self._namespace, k.key, {"message": k.body}) for k in kept]
            self._engine.memory.items.put(items, actor=self._user)

    def remove(self, keys: Sequence[str]) -> None:
        """Forget messages."""
        if keys:
            self._engine.memory.items.delete([(self._namespace, key) for key in keys], actor=self._user)


def following(last: Kept | None, bodies: Sequence[str]) -> list[Kept]:
    """Messages that are said now, behind the last one."""
    number = max(time.time_ns(), 0 if last is None else _number(last) + _STEP)
    return [Kept(_key(number + i * _STEP, uuid.uuid4().hex[:12]), body) for i, body in enumerate(bodies)]


def replaced(before: Sequence[Kept], bodies: Sequence[str], same: Callable[[str], str]) -> Change:
    """How a conversation becomes another one with the least writing: what is the same keeps its key.

    same: what makes a body the same message as another, though it may differ in more than that.
    """
    matcher = SequenceMatcher(None, [same(k.body) for k in before], [same(b) for b in bodies], autojunk=False)
    at = {j + n: before[i + n].key for i, j, size in matcher.get_matching_blocks() for n in range(size)}
    after = _numbered([Kept(at.get(j, ""), body) for j, body in enumerate(bodies)])
    there, here = set(before), {k.key for k in after}
    return Change(
        tuple(after),
        tuple(k for k in after if k not in there),
        tuple(k.key for k in before if k.key not in here),
        tuple(k for j, k in enumerate(after) if j not in at),
    )


def _numbered(messages: list[Kept]) -> list[Kept]:
    """Messages with keys for those without one, such that they sort as they stand."""
    done: list[Kept] = []
    start = 0
    while start < len(messages):
        end = next((j for j in range(start, len(messages)) if messages[j].key), len(messages))
        low = _number(done[-1]) if done else None
        high = _number(messages[end]) if end < len(messages) else None
        numbers = _between(low, high, end - start)
        if numbers is None:  # no room: what follows gets new numbers too
            messages = [*messages[:end], *(Kept("", m.body) for m in messages[end:])]
            continue
        done += [_named(m, number) for m, number in zip(messages[start:end], numbers, strict=True)]
        done += messages[end : end + 1]
        start = end + 1
    return done


def _between(low: int | None, high: int | None, count: int) -> list[int] | None:
    """So many numbers between two, or None if there is no room."""
    if high is None:
        first = _FIRST if low is None else low + _STEP
        return [first + i * _STEP for i in range(count)]
    low = 0 if low is None else low
    gap = (high - low) // (count + 1)
    return [low + gap * (i + 1) for i in range(count)] if gap or not count else None


def _named(message: Kept, number: int) -> Kept:
    return Kept(_key(number, sha256(message.body.encode()).hexdigest()[:12]), message.body)


def _key(number: int, tag: str) -> str:
    return f"{number:020d}-{tag}"


def _number(kept: Kept) -> int:
    return int(kept.key.partition("-")[0])
