"""Chat models over a network that says what it is told to, and each way to ask one: shared by the tests of ChatMemOS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_memos import ChatMemOS
from tests.networks import Recorder, reciting_model


def chat(*replies: str, **options: Any) -> tuple[ChatMemOS, Recorder]:
    said = Recorder(*replies)
    return ChatMemOS(model=reciting_model(said), **options), said


@tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


SUM = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def streamed(model: Any, question: Any, **options: Any) -> list[AIMessageChunk]:
    return list(model.stream(question, **options))


def astreamed(model: Any, question: Any, **options: Any) -> list[AIMessageChunk]:
    async def all_of_it() -> list[AIMessageChunk]:
        return [chunk async for chunk in model.astream(question, **options)]

    return asyncio.run(all_of_it())


def added(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


WAYS: dict[str, Callable[..., AIMessage]] = {
    "invoke": lambda model, *a, **o: model.invoke(*a, **o),
    "ainvoke": lambda model, *a, **o: asyncio.run(model.ainvoke(*a, **o)),
    "stream": lambda model, *a, **o: added(streamed(model, *a, **o)),
    "astream": lambda model, *a, **o: added(astreamed(model, *a, **o)),
}
each_way = pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
