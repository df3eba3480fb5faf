"""MemOSMemoryBlock: long-term memory as a block of core's `Memory`. Knows what `Memory` hands to its blocks, and when."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.memory import BaseMemoryBlock

from memos_core import MemOS

from .engine import Engine, OwnLock, defaults, engine_of
from .longterm import LongTerm, OnError, Turn, checked
from .messages import as_turn, asked, noted, said

_SESSIONS = 1_000  # of which it is known what they said last; of others the engine is asked


@dataclass(slots=True)
class _Session:
    """What a session said that is learnt, as it was last seen, and what was recalled for it."""

    window: list[Turn] = field(default_factory=list)
    learnt: set[tuple[str, str]] = field(default_factory=set)
    recalled: tuple[tuple[int, str], str] | None = None
    lock: OwnLock = field(default_factory=OwnLock)


class MemOSMemoryBlock(BaseMemoryBlock[str]):  # type: ignore[misc]  # LlamaIndex is untyped to this checker
    """Recalls into a `Memory` what is known about the question, and learns what its conversations say.

    `Memory` hands a block only what no longer fits its queue (by default after 21,000 tokens). This block learns when it is asked
    already, from the messages that it is shown, so that short chats are learnt too; what is flushed later is known by then. The
    model's last answer of a conversation is learnt with the next question, or by `Memory`'s flush: `MemOSMemory` learns it at once.

    One block may serve any number of sessions, of one user. Like all blocks it is given to one `Memory` after the other or to
    several at once; nothing of one session is kept for another.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        path: what `memory` would be, as a field.
        user_id: whose memories. There is no default user.
        namespace: where memories are written, and at or below which they are recalled.
        max_tokens: of what is recalled for a question.
        on_error: what to do if the engine fails: "warn" logs it and lets the chat go on, "raise" raises.
        name, description, priority, accept_short_term_memory: as for every block. The priority is 1: where the limit is exceeded, the
            recalled text goes before the conversation does; 0 keeps it.

    Raises:
        InvalidArgument: nobody says whose memory it is, or an argument is wrong.

    Examples:
        ```python
        from llama_index.core.memory import Memory
        from llamaindex_memos import MemOSMemoryBlock

        block = MemOSMemoryBlock("memories", user_id="ann")
        memory = Memory.from_defaults(session_id="monday", memory_blocks=[block])
        ```
    """

    name: str = Field(default="memos", description="The name of the block.")
    description: str | None = Field(default="What is known from earlier conversations.", description="What it holds.")
    priority: int = Field(default=1, description="1: dropped when the limit is exceeded; 0: never.")
    path: str = Field(description="Where the store is.")
    user_id: str = Field(description="Whose memories.")
    namespace: tuple[str, ...] = Field(default=("default",), description="Where memories are written and recalled.")
    max_tokens: int = Field(default=1_500, description="Tokens of what is recalled.")
    on_error: OnError = Field(default="warn", description="What to do if the engine fails.")

    _engine: Engine = PrivateAttr()
    _longterm: LongTerm = PrivateAttr()
    _sessions: OrderedDict[str, _Session] = PrivateAttr(default_factory=OrderedDict)
    _lock: Any = PrivateAttr(default_factory=OwnLock)

    def __init__(self, memory: MemOS | str | Any = None, *, embed: Any = None, **fields: Any) -> None:
        fields = {name: value for name, value in fields.items() if value is not None}
        known = defaults(type(self))
        engine = engine_of(memory, embed, fields, known)
        checked({**known, **fields})
        super().__init__(**fields)
        self._engine = engine
        self._longterm = LongTerm(engine, self.user_id, self.namespace, self.on_error)

    @property
    def memory(self) -> MemOS:
        """The engine, opened now if it was not yet."""
        return self._engine.memory

    def close(self) -> None:
        """Let go of the store if it was opened by its path; the next use opens it again."""
        self._engine.close()

    async def _aget(self, messages: list[ChatMessage] | None = None, **kwargs: Any) -> str:
        return await asyncio.to_thread(self._remind, list(messages or ()), _named(kwargs.get("session_id")))

    async def _aput(self, messages: list[ChatMessage]) -> None:
        named = (m.additional_kwargs.get("session_id") for m in messages)
        await asyncio.to_thread(self._take_over, list(messages), _named(next((s for s in named if s), None)))

    # --- beside the event loop -----------------------------------------------------------------------------------------------

    def _remind(self, messages: list[ChatMessage], name: str) -> str:
        """Learn what is new in what is shown; what is known about its last question."""
        messages = _without_repeated_question(messages)
        session = self._session(name)
        with session.lock:
            self._capture(messages, session, name)
            question, _ = asked(messages)
            return "" if question is None else self._recall(question, messages, session)

    def _capture(self, messages: list[ChatMessage], session: _Session, name: str) -> None:
        window = [turn for m in messages if (turn := as_turn(m))]
        # laid over what the engine has of the session: it knows where this window of it goes on
        if window != session.window and self._longterm.did("learn", lambda: self._longterm.learn(window, name)):
            session.window = window
            session.learnt |= {(turn["role"], turn["content"]) for turn in window}

    def _recall(self, question: str, messages: list[ChatMessage], session: _Session) -> str:
        """Once for each question, however often an agent comes back to it."""
        asking = (sum(m.role == MessageRole.USER for m in messages), question)
        if session.recalled is None or session.recalled[0] != asking:
            shown = {noted(m) or "" for m in messages}
            text = self._longterm.attempt(
                "recall", lambda: self._longterm.recall(question, self.max_tokens, shown), None
            )
            if text is None:
                return ""
            session.recalled = (asking, text)
        return session.recalled[1]

    def _take_over(self, messages: list[ChatMessage], name: str) -> None:
        """Learn what left the queue and was never shown."""
        session = self._session(name)
        with session.lock:
            turns = [turn for m in messages if (turn := as_turn(m))]
            turns = [turn for turn in turns if (turn["role"], turn["content"]) not in session.learnt]
            if not turns:
                return

            def learn() -> None:
                known = self._longterm.said_in(name)
                new = [turn for turn in turns if not known[turn["role"], turn["content"]]]
                self._longterm.learn(new, name)
                session.learnt |= {(turn["role"], turn["content"]) for turn in turns}

            self._longterm.attempt("learn", learn, None)

    def _session(self, name: str) -> _Session:
        with self._lock:
            session = self._sessions.setdefault(name, _Session())
            self._sessions.move_to_end(name)
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
            return session


def _without_repeated_question(messages: list[ChatMessage]) -> list[ChatMessage]:
    """`Memory` puts the question that an agent comes back with behind the history that ends with it."""
    if (
        len(messages) > 1
        and all(m.role == MessageRole.USER for m in messages[-2:])
        and said(messages[-2]) == said(messages[-1])
    ):
        return messages[:-1]
    return messages


def _named(session: Any) -> str:
    return str(session) if session else "default"
