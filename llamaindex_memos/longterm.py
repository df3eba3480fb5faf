"""What is known of one user, for the adapters that recall and learn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar

from memos_core import MemOSError, Namespace, StoreClosed

from .engine import Engine, checked_choice, checked_count, checked_label, checked_labels, checked_user

log = logging.getLogger("llamaindex_memos")

OnError = Literal["warn", "raise"]
Turn = dict[str, Any]  # as `messages.as_turn` makes it
T = TypeVar("T")

_MOST = 100_000  # turns of one session that are looked through
_ALIKE = 5  # memories that may be the words of a turn, besides one for each turn
_WORDS = 5  # of a turn that nobody says a second time by chance


def checked(fields: Mapping[str, Any]) -> None:
    """Refuse a component's fields that cannot be. Raises InvalidArgument."""
    checked_user(fields["user_id"])
    checked_labels(fields["namespace"])
    for name in ("max_tokens", "token_limit"):
        if name in fields:
            checked_count(fields[name], name)
    checked_choice(fields["on_error"], "on_error", "warn", "raise")
    checked_choice(fields.get("insert", "auto"), "insert", "auto", "system", "user")
    if fields.get("session_id"):
        checked_label(fields["session_id"], "session_id")


class LongTerm:
    """The memories of a user at or below a namespace."""

    def __init__(self, engine: Engine, user: str, namespace: Namespace, on_error: OnError) -> None:
        self._engine = engine
        self._user = user
        self._namespace = namespace
        self._on_error = on_error

    def recall(self, question: str, max_tokens: int, shown: Collection[str]) -> str:
        """What is known about a question, without the words that are shown anyway."""
        brief = self._engine.memory.brief(
            question, namespace=self._namespace, actor=self._user, max_tokens=max_tokens,
            leave_out=lambda cube: cube.text in shown,
        )  # fmt: skip
        return brief.text

    def learn(self, turns: Sequence[Turn], session: str) -> None:
        """Store what was said."""
        if turns:
            self._engine.memory.add(turns, namespace=self._namespace, actor=self._user, session=session)

    def said_in(self, session: str) -> Counter[tuple[str, str]]:
        """How often who said what in a session."""
        hits = self._engine.memory.search(
            "what was said", namespace=self._namespace, actor=self._user, k=_MOST, filter={"session": session}
        )
        return Counter((hit.cube.origin.role or "", hit.cube.text) for hit in hits)

    def known_in(self, turns: Sequence[Turn]) -> set[int]:
        """Which turns of a history are known, from whichever sessions: those over which a stored session can be laid so that the two
        say the same wherever both say something, in two turns at least or in one that nobody says by chance. What was deleted of
        such a session is known, too."""
        said = [(turn["role"], turn["content"]) for turn in turns]
        known = set[int]()
        sessions = sorted((self._turns_of(session) for session in self._sessions_with(said)), key=len, reverse=True)
        for stored in sessions:  # each once: what was said again is another turn
            places = (_same_from(said, stored, start) for start in range(1 - len(stored), len(said)))
            known |= max(places, key=lambda found: len(found - known), default=set())
        return known

    def _sessions_with(self, said: Sequence[tuple[str, str]]) -> list[str]:
        """The sessions in which somebody said something of it."""
        sessions = dict[str, None]()
        for role, content in dict.fromkeys(said):
            hits = self._engine.memory.search(
                content, namespace=self._namespace, actor=self._user, k=_ALIKE + len(said), filter={"role": role}
            )
            found = (hit.cube.origin.session for hit in hits if hit.cube.text == content)
            sessions |= dict.fromkeys(session for session in found if session)
        return list(sessions)

    def _turns_of(self, session: str) -> list[tuple[str, str] | None]:
        """What was said in a session, in order; None for what was deleted of it."""
        by_place = {
            hit.cube.origin.position: (hit.cube.origin.role or "", hit.cube.text)
            for hit in self._engine.memory.search(
                "what was said", namespace=self._namespace, actor=self._user, k=_MOST, filter={"session": session}
            )
            if hit.cube.origin.position is not None
        }
        return [by_place.get(place) for place in range(max(by_place) + 1)] if by_place else []

    def did(self, verb: str, work: Callable[[], object]) -> bool:
        """Whether `work` could be done; see `attempt`."""

        def working() -> bool:
            work()
            return True

        return self.attempt(verb, working, False)

    def attempt(self, verb: str, work: Callable[[], T], otherwise: T) -> T:
        """What `work` returns; if it fails, `otherwise`, and a warning in the log, unless errors are to be raised.

        Raises StoreClosed in either case: that is no failure of the memory, but of the program that goes on using it.
        """
        try:
            return work()
        except StoreClosed:
            raise
        except Exception as error:  # whatever it is: on_error="warn" promises that the chat goes on
            if self._on_error == "raise":
                raise
            log.warning(
                "memory could not %s for %s, the chat goes on without: %s",
                verb, self._user, error, exc_info=not isinstance(error, MemOSError),
            )  # fmt: skip
            return otherwise


def _same_from(said: Sequence[tuple[str, str]], stored: Sequence[tuple[str, str] | None], start: int) -> set[int]:
    """The places of a history over which a session lies that begins at `start` of it, if the two nowhere say different things."""
    places = range(max(0, start), min(len(said), start + len(stored)))
    same = [place for place in places if stored[place - start] is not None]
    if any(stored[place - start] != said[place] for place in same):
        return set()
    is_certain = len(same) > 1 or any(len(said[place][1].split()) >= _WORDS for place in same)
    return set(places) if is_certain else set()
