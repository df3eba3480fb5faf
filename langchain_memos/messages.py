"""LangChain messages as the engine's: what was said by people and by the model, and nothing else.

Knows message classes; knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage


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
    if not isinstance(message, HumanMessage | AIMessage) or is_summary(message):
        return None
    text = str(message.text).encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
    return text if text.strip() else None


def is_summary(message: BaseMessage) -> bool:
    """Whether LangChain's summarisation wrote it: a person's message by its class only."""
    return message.additional_kwargs.get("lc_source") == "summarization"


def _timestamp(message: BaseMessage) -> datetime | None:
    moment = message.additional_kwargs.get("timestamp")
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    return moment if isinstance(moment, datetime) and moment.utcoffset() is not None else None
