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

    def holds(self, turn: Turn) -> bool:
        """Whether somebody's very words are known, from whichever session."""
        of = {"role": turn["role"]}
        hits = self._engine.memory.search(turn["content"], namespace=self._namespace, actor=self._user, k=5, filter=of)
        return any(hit.cube.text == turn["content"] for hit in hits)

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
