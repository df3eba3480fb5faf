"""LangChain messages as a local model's prompt, and its answer as LangChain's message.

Knows message classes and the ways in which callers ask for tools and forms; knows no model.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from memos_core import Answer, Generation, InvalidArgument, Reply

_ROLES = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}
_ELSEWHERE = ("tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "function_call", "input_json_delta")
"""Blocks that say what stands in `tool_calls` too."""
_THOUGHTS = ("reasoning", "thinking", "redacted_thinking", "reasoning_content")


def as_prompt(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates take them, text only.

    A tool's failure says that it is one. A model's broken call is put back into its words. Raises InvalidArgument for what is not text.
    """
    return [_turn(message) for message in messages]


def _turn(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, ChatMessage):
        role: str | None = message.role
    else:
        role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), None)
    if role is None:
        raise InvalidArgument(f"messages: a model cannot take a {type(message).__name__}")
    turn: dict[str, Any] = {"role": role, "content": _said(message)}
    if isinstance(message, AIMessage):
        turn["content"] += "".join(str(c["args"] or "") for c in message.invalid_tool_calls)
        if thoughts := _thoughts(message):
            turn["reasoning_content"] = thoughts
        if message.tool_calls:
            turn["tool_calls"] = [
                {"type": "function", "id": c["id"], "function": {"name": c["name"], "arguments": c["args"]}}
                for c in message.tool_calls
            ]
    if isinstance(message, ToolMessage):
        turn["tool_call_id"] = message.tool_call_id
        if message.status == "error" and not turn["content"].lower().startswith("error"):
            turn["content"] = f"Error: {turn['content']}"
    if message.name:
        turn["name"] = message.name
    return turn


def _said(message: BaseMessage) -> str:
    parts = []
    for block in [message.content] if isinstance(message.content, str) else message.content:
        if isinstance(block, str):
            parts.append(block)
        elif block.get("type") in ("text", "text-plain") and isinstance(block.get("text"), str):
            parts.append(block["text"])
        elif block.get("type") == "json":
            parts.append(json.dumps(block.get("json"), ensure_ascii=False))
        elif block.get("type") not in (*_ELSEWHERE, *_THOUGHTS):
            raise InvalidArgument(f"messages: the model takes text, not a block of type {block.get('type')!r:.40}")
    return "".join(parts)


def _thoughts(message: AIMessage) -> str:
    kept = message.additional_kwargs.get("reasoning_content")
    if isinstance(kept, str):
        return kept
    blocks = message.content if isinstance(message.content, list) else []
    return "".join(str(b.get("reasoning", "")) for b in blocks if isinstance(b, dict) and b.get("type") == "reasoning")


# --- what is asked for -------------------------------------------------------------------------------------------------


def chosen(choice: Any, tools: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """The tools to show, and "any", a tool's name or None: of LangChain's and the providers' ways to choose.

    Raises InvalidArgument for a tool that there is not.
    """
    if isinstance(choice, Mapping):  # as OpenAI's and Anthropic's users write it
        choice = (choice.get("function") or choice).get("name") or choice.get("type")
    if choice in (None, "auto"):
        return tools, None
    if choice in (False, "none"):
        return (), None
    names = [tool["function"]["name"] for tool in tools]
    if choice in (True, "any", "required"):
        choice = "any"
    elif choice not in names:
        raise InvalidArgument(f"tool_choice: {choice!r:.80} is none of {', '.join(names) or 'no tools'}")
    if not tools:
        raise InvalidArgument("tool_choice: a call is wanted, and there are no tools")
    return tools, choice


def schema_of(response_format: Any) -> Mapping[str, Any] | None:
    """The JSON schema that a `response_format` asks for, as OpenAI's users write it; None for plain text."""
    kind = response_format.get("type") if isinstance(response_format, Mapping) else response_format
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return {"type": "object"}
    schema = (response_format.get("json_schema") or {}).get("schema") if kind == "json_schema" else None
    if not isinstance(schema, Mapping):
        raise InvalidArgument(
            f'response_format: {{"type": "json_schema", "json_schema": {{"schema": ...}}}} is needed, not {response_format!r:.100}'
        )
    return schema


def json_schema_of(schema: Any) -> Mapping[str, Any]:
    """The JSON schema of a pydantic class, a TypedDict, an OpenAI function, or of one that it is already."""
    if isinstance(schema, type) and is_basemodel_subclass(
        schema
    ):  # whole: LangChain's conversion has no room for recursion
        of_class: Any = schema
        return (getattr(of_class, "model_json_schema", None) or of_class.schema)()  # type: ignore[no-any-return]
    if isinstance(schema, Mapping) and schema.keys() & {"type", "$ref", "anyOf", "oneOf"} and "function" not in schema:
        return schema
    return convert_to_json_schema(schema)  # type: ignore[no-any-return]


def form_of(schema: Mapping[str, Any]) -> str:
    """What tells a model that its answer is to fit a schema."""
    return f"Answer with JSON that fits this JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"


# --- answers -----------------------------------------------------------------------------------------------------------


def as_message(answer: Answer, made: Generation | Reply, model_name: str) -> AIMessage:
    """A whole answer."""
    return AIMessage(
        answer.text,
        additional_kwargs=_reasoned(answer.reasoning),
        tool_calls=[tool_call(name=c.name, args=dict(c.arguments), id=_id()) for c in answer.calls],
        invalid_tool_calls=[
            invalid_tool_call(name=b.name, args=b.text, id=_id(), error=b.problem) for b in answer.broken
        ],
        usage_metadata=_usage(made),
        response_metadata=_metadata(answer, made, model_name),
    )


def as_chunk(text: str, reasoning: str) -> AIMessageChunk:
    """What was let go of of an answer."""
    return AIMessageChunk(text, additional_kwargs=_reasoned(reasoning))


def last_chunks(answer: Answer, made: Generation | Reply, model_name: str) -> Iterator[AIMessageChunk]:
    """What comes at the end of an answer: its calls, one a chunk, and what it took."""
    before = bool(answer.reasoning) + bool(answer.text)  # a call's index is its place among the content's blocks
    calls = [(c.name, json.dumps(c.arguments, ensure_ascii=False)) for c in answer.calls]
    broken = [
        (b.name, b.text) for b in answer.broken
    ]  # no JSON, so that it is not taken for a call when chunks are added
    for index, (name, arguments) in enumerate([*calls, *broken], before):
        yield AIMessageChunk("", tool_call_chunks=[tool_call_chunk(name=name, args=arguments, id=_id(), index=index)])
    yield AIMessageChunk(
        "", usage_metadata=_usage(made), response_metadata=_metadata(answer, made, model_name),
        chunk_position="last",
    )  # fmt: skip


def whole(messages: Iterator[AIMessage]) -> Iterator[AIMessage]:
    """Messages as they come. LangChain's parsers complete what was cut off, and so make of it what nobody said: this raises."""
    yield from map(_ended, messages)


async def awhole(messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    """The same for those who wait."""
    async for message in messages:
        yield _ended(message)


def _ended(message: AIMessage) -> AIMessage:
    if message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException("the answer was cut off before its end: give the model more max_tokens")
    return message


def _reasoned(reasoning: str) -> dict[str, Any]:
    return {"reasoning_content": reasoning} if reasoning else {}


def _usage(made: Generation | Reply) -> dict[str, Any]:
    took = made.usage
    return {
        "input_tokens": took.input, "output_tokens": took.output, "total_tokens": took.input + took.output,
        "input_token_details": {"cache_read": took.cached},
    }  # fmt: skip


def _metadata(answer: Answer, made: Generation | Reply, model_name: str) -> dict[str, Any]:
    found = {
        "model_name": model_name, "finish_reason": "tool_calls" if answer.calls else made.finish,
        "seconds_to_first": made.usage.seconds_to_first,
    }  # fmt: skip
    if isinstance(made, Reply):
        found["memories"] = [cube.id for cube in made.brief.cubes]
    elif made.trouble:
        found["trouble"] = made.trouble
    return found


def _id() -> str:
    return f"call_{uuid.uuid4().hex}"
