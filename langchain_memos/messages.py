"""LangChain messages: what people and the model said in them, as the engine takes it, and where a brief goes.

Knows message classes; knows no store.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from memos_core import InvalidArgument, MemCube, content_of

_NOTICE = re.compile(
    r"Model call limits exceeded: |Model call failed after \d+ attempts? with |(Tool|'[^']*' tool) call limit (exceeded|reached)"
)
"""How the notices of LangChain's own middleware begin: of the limits of calls, and of a model that failed."""
_ANSWERED = "Returning structured response: "
"""How LangChain begins the tool message by which it confirms a structured answer."""


def as_turns(messages: Sequence[AnyMessage], answers: Collection[str] = ()) -> list[dict[str, Any]]:
    """Messages with role, content, id, and name and timestamp where there are any.

    Left out: system and tool messages, calls of tools, messages without text, summaries that LangChain puts in the place of
    what was said, and notices of its middleware. A structured answer that was given as a call of a tool is said as JSON. Content
    blocks become their text, and a note such as "[image]" stands for what is no text. A time is taken from `additional_kwargs["timestamp"]` if it is an aware datetime or ISO 8601 with an
    offset; anything else there is another program's, and is left alone.

    answers: ids of calls that are known to be structured answers; others are known by LangChain's confirmation.
    """
    return [turn for _, turn in placed_turns(messages, answers)]


def placed_turns(
    messages: Sequence[AnyMessage], answers: Collection[str] = ()
) -> Iterator[tuple[AnyMessage, dict[str, Any]]]:
    """`as_turns`, each with the message that it was."""
    given = {*answers, *(m.tool_call_id for m in messages if isinstance(m, ToolMessage) and _is_confirmation(m))}
    for message in messages:
        text = (
            _answer(message, given) if isinstance(message, AIMessage) and message.tool_calls else _with_notes(message)
        )
        if text is None:
            continue
        turn = {"role": "user" if isinstance(message, HumanMessage) else "assistant", "content": text, "id": message.id,
                "name": message.name, "timestamp": _timestamp(message)}  # fmt: skip
        yield message, {name: value for name, value in turn.items() if value}


def said(message: BaseMessage) -> str | None:
    """The text of what a person or the model said, or None."""
    if not isinstance(message, HumanMessage | AIMessage) or is_summary(message):
        return None
    if is_unmarked(message) and _NOTICE.match(str(message.text)):
        return None
    text = str(message.text).encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
    return text if text.strip() else None


def _with_notes(message: BaseMessage) -> str | None:
    """What a message says, with a note in the place of each image and the like."""
    text = said(message)
    if isinstance(message.content, str) or not isinstance(message, HumanMessage | AIMessage) or is_summary(message):
        return text
    others = [p for p in message.content if not isinstance(p, str) and p.get("type") != "text"]
    try:
        notes = content_of(others).text.encode("utf-8", "replace").decode()
    except InvalidArgument:  # another program's parts: what is text is kept
        return text
    return "\n".join(filter(None, [text, notes])) or None


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


def fingerprints(messages: Sequence[AnyMessage], answers: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """For each turn of a thread (see `as_turns`) two names of what it says: by its id, and by all that the thread says up to it.

    The first is "" without an id. The second tells messages without ids from each other.
    """
    turns = {id(message): turn for message, turn in placed_turns(messages, answers)}
    so_far = sha256()
    for message in messages:
        turn = turns.get(id(message))
        words = (message.type, str(message.text) if turn is None else turn["content"])
        so_far.update(repr(words).encode("utf-8", "replace"))
        if turn is not None:
            named = sha256(repr((message.id, *words)).encode("utf-8", "replace")).hexdigest()[:16]
            yield (named if message.id else ""), so_far.hexdigest()[:16]


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
    seen = {turn["content"] for turn in as_turns(messages)}
    return lambda cube: cube.text in seen


def appended(system: SystemMessage | None, text: str) -> SystemMessage:
    """A system message with a text behind it. What was there stays first and as it was, so that prefix caches hit."""
    if system is None:
        return SystemMessage(text)
    if isinstance(system.content, str):
        return system.model_copy(update={"content": f"{system.content}\n\n{text}"})
    return system.model_copy(update={"content": [*system.content, {"type": "text", "text": f"\n\n{text}"}]})


def is_unmarked(message: BaseMessage) -> bool:
    """Whether it is a message of the assistant without a mark of the model that made it: written by a program. LangChain gives all
    that a chat model says an id of its own kind, if the provider gave it none; graphs give the rest a UUID."""
    if not isinstance(message, AIMessage) or message.tool_calls or message.response_metadata or message.usage_metadata:
        return False
    try:
        return message.id is None or str(uuid.UUID(message.id)) == message.id
    except ValueError:
        return False


def _is_asked(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and not is_summary(message)


def _is_confirmation(message: ToolMessage) -> bool:
    return message.status != "error" and str(message.text).startswith(_ANSWERED)


def _answer(message: AIMessage, answers: Collection[str]) -> str | None:
    """What the model said with its calls: its words, and the calls that are structured answers."""
    given = [as_json(call["args"]) for call in message.tool_calls if call["id"] in answers]
    return "\n".join(filter(None, [_with_notes(message), *given])) or None


def as_json(value: Any) -> str:
    """A structured answer as text, and such that it can be stored."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()


def is_summary(message: BaseMessage) -> bool:
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
