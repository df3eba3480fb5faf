"""LlamaIndex messages: what people and the model said in them, what of them fits a budget, and where a recalled text goes.

Knows message classes; knows no store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock

from memos_core import content_of

Insert = Literal["auto", "system", "user"]

_SPEAKERS = {
    MessageRole.USER: "user", MessageRole.ASSISTANT: "assistant", MessageRole.MODEL: "assistant", MessageRole.CHATBOT: "assistant",
}  # fmt: skip
_SYSTEM = (MessageRole.SYSTEM, MessageRole.DEVELOPER)
_RESULTS = (MessageRole.TOOL, MessageRole.FUNCTION)
_BYTES = {"image", "audio", "video", "data"}  # of a block: nothing that is read
_MEDIA_TOKENS = {"image": 256, "audio": 256, "video": 256, "document": 2048}  # as core's Memory estimates them


def said(message: ChatMessage) -> str | None:
    """The text of what a person or the model said, or None: system and tool messages, calls of tools, messages without text.
    Of a ReAct agent's reasoning, the answer."""
    if message.role not in _SPEAKERS:
        return None
    text = _mended("\n".join(b.text for b in message.blocks if isinstance(b, TextBlock) and b.text))
    if message.role != MessageRole.USER:
        text = _answer(text)
    return text if text.strip() else None


def noted(message: ChatMessage) -> str | None:
    """What was said, with a note in the place of each image and the like."""
    text = said(message)
    if message.role not in _SPEAKERS or all(isinstance(b, TextBlock) for b in message.blocks):
        return text
    parts = [b.model_dump(exclude=_BYTES) for b in message.blocks if not isinstance(b, TextBlock)]
    notes = content_of(parts).text
    return "\n".join(filter(None, [text, _mended(notes)])) or None


def as_turn(message: ChatMessage, id: str | None = None) -> dict[str, Any] | None:
    """What was said, as the engine takes it, or None if nothing was.

    The speaker's name and the time are taken from `additional_kwargs`, `name` if it is a string and `timestamp` if it is an aware
    datetime or ISO 8601 with an offset; anything else there is another program's, and is left alone.
    """
    text = noted(message)
    if text is None:
        return None
    name = message.additional_kwargs.get("name")
    turn = {"role": _SPEAKERS[message.role], "content": text, "id": id,
            "name": _mended(name) if isinstance(name, str) else None, "timestamp": _timestamp(message)}  # fmt: skip
    return {key: value for key, value in turn.items() if value}


def asked(messages: Sequence[ChatMessage], input: Any = None) -> tuple[str | None, int | None]:
    """The question to recall for, and at which message it stands, if it does: `input`, or else the last message of a person."""
    at = next((i for i in reversed(range(len(messages))) if messages[i].role == MessageRole.USER), None)
    last = None if at is None else said(messages[at])
    given = said(input if isinstance(input, ChatMessage) else ChatMessage(content=str(input or "")))
    if given is not None and given != last:
        return given, None
    return last, at if last is not None else None


def same(body: str) -> str:
    """What makes a packed message the same as another: who said which words; without words, or if it cannot be read, all of it."""
    try:
        message = unpacked(body)
    except ValueError:
        return body
    words = said(message)
    return body if words is None else f"{_SPEAKERS[message.role]}: {' '.join(words.split())}"


# --- as text -----------------------------------------------------------------------------------------------------------


def packed(message: ChatMessage) -> str:
    """A message as ASCII JSON, from which `unpacked` makes an equal one. What no JSON can hold becomes its string."""
    more = {k: v for k, v in message.additional_kwargs.items() if k != "images"}  # these are blocks already
    message = message.model_copy(update={"additional_kwargs": more})
    try:
        return json.dumps(message.model_dump(mode="json"))
    except ValueError:  # pydantic's, for an object that it does not know
        plain = json.loads(json.dumps(more, default=str, skipkeys=True))
        return json.dumps(message.model_copy(update={"additional_kwargs": plain}).model_dump(mode="json"))


def unpacked(text: str) -> ChatMessage:
    """The message in a `packed` text, a new object each time: agents change what they are given."""
    return ChatMessage.model_validate(json.loads(text))


# --- a budget ------------------------------------------------------------------------------------------------------------


def size(message: ChatMessage, tokenize: Callable[[str], Sequence[Any]]) -> int:
    """Tokens of a message: its texts and tool calls by the tokenizer, images and the like by core's estimates."""
    kinds = [str(block.block_type) for block in message.blocks]
    texts = [
        str(b.model_dump(exclude={"block_type"}))
        for b, kind in zip(message.blocks, kinds, strict=True)
        if kind == "tool_call"
    ]
    texts += [b.text for b in message.blocks if isinstance(b, TextBlock)]
    if message.additional_kwargs:
        texts.append(str(message.additional_kwargs))
    return sum(len(tokenize(text)) for text in texts if text) + sum(_MEDIA_TOKENS.get(kind, 0) for kind in kinds)


def fitting(messages: Sequence[ChatMessage], sizes: Sequence[int], room: int) -> list[int]:
    """Which messages fit: all, or the newest from a person's message on, with the system message in front.

    If not even the last turn fits, its question and the newest answers that do, each call of a tool with its results; at the
    least the question and what came last, so that it is the model that says what is too long.
    """
    everything = range(len(messages))
    if sum(sizes) <= room:
        return list(everything)
    front = [i for i in everything if all(m.role in _SYSTEM for m in messages[: i + 1])]
    room -= sum(sizes[i] for i in front)
    asking = [i for i in everything if messages[i].role == MessageRole.USER]
    for start in asking:
        if sum(sizes[start:]) <= room:
            return [*front, *everything[start:]]
    question = asking[-1:]
    room -= sum(sizes[i] for i in question)
    kept: list[int] = []
    for step in reversed(_steps(messages, question[0] + 1 if question else len(front))):
        if kept and sum(sizes[i] for i in [*step, *kept]) > room:
            break
        kept = [*step, *kept]
    return [*front, *question, *kept]


def _steps(messages: Sequence[ChatMessage], start: int) -> list[list[int]]:
    """Messages from `start` on, each with the results of its tool calls."""
    steps: list[list[int]] = []
    for i in range(start, len(messages)):
        if messages[i].role in _RESULTS and steps:
            steps[-1].append(i)
        else:
            steps.append([i])
    return steps


# --- a recalled text -------------------------------------------------------------------------------------------------------


def reminded(
    messages: Sequence[ChatMessage], text: str, at: int | None, insert: Insert, alone: bool
) -> list[ChatMessage]:
    """Messages with a recalled text put into one of them, never as a second system message.

    Args:
        at: the message that asks, if it is among them.
        insert: "system": into the system message, which is made if there is none. "user": in front of the words of the message that
            asks. "auto": into the system message that is there; else, as "user".
        alone: the caller is known to put no system message of his own in front: then "auto" makes one.
    """
    if not text:
        return list(messages)
    block = TextBlock(text=text)
    has_system = bool(messages) and messages[0].role in _SYSTEM
    if insert == "system" or (insert == "auto" and (has_system or alone)):
        if not has_system:
            return [ChatMessage(role=MessageRole.SYSTEM, blocks=[block]), *messages]
        return [_with(messages[0], [*messages[0].blocks, block]), *messages[1:]]
    if at is None:  # the question comes behind these: at the end of what was asked before
        at = asked(messages)[1]
    if at is None:
        return [*messages, ChatMessage(role=MessageRole.USER, blocks=[block])]
    return [*messages[:at], _with(messages[at], [block, *messages[at].blocks]), *messages[at + 1 :]]


def _with(message: ChatMessage, blocks: list[Any]) -> ChatMessage:
    return message.model_copy(update={"blocks": blocks})


def _mended(text: str) -> str:
    """The text as it can be stored: half a surrogate pair cannot."""
    return text.encode("utf-8", "replace").decode()


def _answer(text: str) -> str:
    """What a ReAct agent's last thought led to, or the whole text if it is none's."""
    if not text.startswith("Thought: "):
        return text
    for reasoning in (text.rpartition("\nThought: ")[2], text):
        _, found, answer = reasoning.partition("\nAnswer: ")
        if found:
            return answer
    return text


def _timestamp(message: ChatMessage) -> datetime | None:
    moment = message.additional_kwargs.get("timestamp")
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    return moment if isinstance(moment, datetime) and moment.utcoffset() is not None else None
