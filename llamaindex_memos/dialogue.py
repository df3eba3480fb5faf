"""LlamaIndex messages as a local model's prompt, and its answer as LlamaIndex's response.

Knows message classes; knows no model.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import BaseTool

from memos_core import Answer, Generation, InvalidArgument, Reply

_ROLES = {
    MessageRole.SYSTEM: "system", MessageRole.DEVELOPER: "system", MessageRole.USER: "user", MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant", MessageRole.MODEL: "assistant", MessageRole.TOOL: "tool", MessageRole.FUNCTION: "tool",
}  # fmt: skip


def as_prompt(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates take them, text only. Raises InvalidArgument for what is not text."""
    return [_turn(message) for message in messages]


def _turn(message: ChatMessage) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": _ROLES[message.role], "content": "\n".join(_texts(message.blocks))}
    if thoughts := "".join(b.content or "" for b in message.blocks if isinstance(b, ThinkingBlock)):
        turn["reasoning_content"] = thoughts
    if calls := calls_in(message):
        turn["tool_calls"] = [_call(b.tool_call_id, b.tool_name, b.tool_kwargs) for b in calls]
    elif others := message.additional_kwargs.get("tool_calls"):  # other models' messages have them there
        turn["tool_calls"] = [_others(call) for call in others]
    for key in ("tool_call_id", "name"):
        if isinstance(value := message.additional_kwargs.get(key), str):
            turn[key] = value
    return turn


def _texts(blocks: Sequence[Any]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, TextBlock):
            yield block.text
        elif isinstance(block, CitableBlock):
            yield from _texts(block.content)
        elif isinstance(block, CitationBlock):
            yield from _texts([block.cited_content])
        elif not isinstance(block, ThinkingBlock | ToolCallBlock | CachePoint):
            raise InvalidArgument(f"messages: the model takes text, not a block of type {block.block_type!r}")


def _call(id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments or {}}}


def _others(call: Any) -> dict[str, Any]:
    found = call.model_dump() if hasattr(call, "model_dump") else call
    if not isinstance(found, Mapping):
        raise InvalidArgument(f"messages: a tool call is an object, not {found!r:.80}")
    function = found.get("function") or found
    return _call(found.get("id"), function.get("name"), function.get("arguments"))


# --- what is asked for -------------------------------------------------------------------------------------------------


def described(tool: BaseTool) -> dict[str, Any]:
    """A tool as chat templates take it. Its name stays as it is, so that a call of it finds it."""
    about = tool.metadata
    function = {"name": about.get_name(), "description": about.description, "parameters": about.get_parameters_dict()}
    return {"type": "function", "function": function}


def chosen(choice: Any, tools: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """The tools to show, and "any", a tool's name or None, of a choice as OpenAI's users write it.

    Raises InvalidArgument for a tool that there is not.
    """
    if isinstance(choice, Mapping):
        choice = (choice.get("function") or choice).get("name")
    if choice in (None, "auto"):
        return tools, None
    if choice == "none":
        return (), None
    names = [tool["function"]["name"] for tool in tools]
    if choice not in ("any", "required", *names) or not names:
        raise InvalidArgument(f"tool_choice: {choice!r:.80} is none of {', '.join(names) or 'no tools'}")
    return tools, choice if choice in names else "any"


# --- answers -----------------------------------------------------------------------------------------------------------


def as_response(answer: Answer, made: Generation | Reply, model_name: str, delta: str | None = None) -> ChatResponse:
    """A whole answer. A call that could not be read stays among its words."""
    words = answer.text + "".join(broken.text for broken in answer.broken)
    calls = [
        ToolCallBlock(tool_call_id=f"call_{uuid.uuid4().hex}", tool_name=c.name, tool_kwargs=dict(c.arguments))
        for c in answer.calls
    ]
    took = made.usage
    usage = {
        "prompt_tokens": took.input, "completion_tokens": took.output, "total_tokens": took.input + took.output,
        "cached_tokens": took.cached,
    }  # fmt: skip
    raw: dict[str, Any] = {
        "model": model_name, "usage": usage, "finish_reason": "tool_calls" if calls else made.finish,
        "seconds_to_first": took.seconds_to_first,
    }  # fmt: skip
    if isinstance(made, Reply):
        raw["memories"] = [cube.id for cube in made.brief.cubes]
    elif made.trouble:
        raw["trouble"] = made.trouble
    if answer.broken:
        raw["broken_calls"] = [broken.problem for broken in answer.broken]
    message = _message(words, answer.reasoning, calls)
    return ChatResponse(message=message, raw=raw, delta=delta, additional_kwargs=usage)


def so_far(answer: Answer, text: str, reasoning: str) -> ChatResponse:
    """An answer up to now, and what was just let go of of it."""
    more = {"thinking_delta": reasoning} if reasoning else {}
    return ChatResponse(message=_message(answer.text, answer.reasoning, []), delta=text, additional_kwargs=more)


def calls_in(message: ChatMessage) -> list[ToolCallBlock]:
    """The calls of an answer."""
    return [block for block in message.blocks if isinstance(block, ToolCallBlock)]


def _message(text: str, reasoning: str, calls: Sequence[ToolCallBlock]) -> ChatMessage:
    blocks: list[Any] = [ThinkingBlock(content=reasoning)] if reasoning else []
    if text or not calls:  # who reads `content` wants a string
        blocks.append(TextBlock(text=text))
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*blocks, *calls])
