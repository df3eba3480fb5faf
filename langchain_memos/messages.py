"""LangChain messages: what people and the model said in them, as the engine takes it, and where a brief goes.

Knows message classes; knows no store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
)

from memos_core import MemCube


def as_turns(messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
    """Messages with role, content, id, and name and timestamp where there are any.

    Left out: system and tool messages, calls of tools, messages without text, and summaries that LangChain puts in the place of
    what was said. Content blocks become their text. A time is taken from `additional_kwargs["timestamp"]` if it is an aware
    datetime or ISO 8601 with an offset; anything else there is another program's, and is left alone.
    """
    turns = []
    for message in messages:
        text = said(message)
        if text is None:
            continue
        turn = {"role": "user" if isinstance(message, HumanMessage) else "assistant", "content": text, "id": message.id,
                "name": message.name, "timestamp": _timestamp(message)}  # fmt: skip
        turns.append({name: value for name, value in turn.items() if value})
    return turns


def said(message: BaseMessage) -> str | None:
    """The text of what a person or the model said, or None."""
    if not isinstance(message, HumanMessage | AIMessage) or _is_summary(message):
        return None
    text = str(message.text).encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
    return text if text.strip() else None


def question(messages: Sequence[AnyMessage]) -> AnyMessage | None:
    """The last message of a person."""
    return next((m for m in reversed(messages) if _is_asked(m)), None)


def last_turn(messages: Sequence[AnyMessage]) -> Sequence[AnyMessage]:
    """From the last message of a person on, with those of people right before it; all if nobody spoke earlier."""
    asked = question(messages)
    start = 0 if asked is None else max(i for i, m in enumerate(messages) if m is asked)
    while start and _is_asked(messages[start - 1]):
        start -= 1
    return messages if question(messages[:start]) is None else messages[start:]


def messages_in(value: Any) -> list[BaseMessage]:
    """What a graph keeps under a key of its state, as messages: a list of them in any form that LangChain takes, one, or the
    text of one, which is a person's."""
    if value is None or value == "":
        return []
    return list(convert_to_messages(value if isinstance(value, list | tuple) else [value]))


def session_of(messages: Sequence[AnyMessage], thread: Any, otherwise: str | None = None) -> str | None:
    """The session that a turn belongs to: its thread, or, of a run without one, a session named after what was asked: the same
    for all agents that answer it."""
    if thread is not None:
        return str(thread)
    asked = question(messages)
    if asked is None or asked.id is None:
        return otherwise
    # with its words: some programs number their messages anew in each conversation
    return f"run-{sha256(repr((asked.id, said(asked))).encode()).hexdigest()[:16]}"


def seen_in(messages: Sequence[BaseMessage]) -> Callable[[MemCube], bool]:
    """Whether a memory says what one of these messages says: the model that sees them need not be reminded of it. By the words,
    because a caller who keeps the history himself hands it in under new ids each time."""
    seen = {said(m) for m in messages}
    return lambda cube: cube.text in seen


def appended(system: SystemMessage | None, text: str) -> SystemMessage:
    """A system message with a text behind it. What was there stays first and as it was, so that prefix caches hit."""
    if system is None:
        return SystemMessage(text)
    if isinstance(system.content, str):
        return system.model_copy(update={"content": f"{system.content}\n\n{text}"})
    return system.model_copy(update={"content": [*system.content, {"type": "text", "text": f"\n\n{text}"}]})


def _is_asked(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and not _is_summary(message)


def _is_summary(message: BaseMessage) -> bool:
    """Whether LangChain's summarisation wrote it: a person's message by its class only."""
    return bool(message.additional_kwargs.get("lc_source") == "summarization")


def _timestamp(message: BaseMessage) -> datetime | None:
    moment = message.additional_kwargs.get("timestamp")
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    return moment if isinstance(moment, datetime) and moment.utcoffset() is not None else None
