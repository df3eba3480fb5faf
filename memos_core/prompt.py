"""Messages as a model's tokens, and where in them a cache may be cut. Knows chat templates; runs no model.

A prompt is tokenised whole, once, whether or not any of it is cached: what is cached is recognised by its tokens, so a seam in the
text can never change them.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import InvalidArgument, Unsupported


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text as token ids. `starts[i]` is the character at which token i begins; `boundaries` are the indices of the tokens before
    which a line or a message has just ended, ascending, len(ids) among them if it ends with one. `stable` is the one behind the
    system message, 0 if there is none."""

    text: str
    ids: tuple[int, ...]
    starts: tuple[int, ...]
    boundaries: tuple[int, ...]
    stable: int = 0

    def token_at(self, character: int) -> int:
        """The index of the token that holds a character of the text."""
        return max(0, bisect_right(self.starts, character) - 1)


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    answering: bool,
    name: str,
) -> Prompt:
    """See `LocalModel.prompt`."""
    if not getattr(tokenizer, "chat_template", None):
        raise Unsupported(
            f"{name}: it has no chat template, so it cannot be given messages; give it a prompt made by `encode`"
        )
    if tools and "tools" not in template(tokenizer, tools):
        raise Unsupported(f"{name}: its chat template knows no tools, so the model would never see them")
    merged = one_system(messages)
    if not merged:
        raise InvalidArgument("messages: there is none")
    options = {"tokenize": False, "add_generation_prompt": answering}
    try:
        text = tokenizer.apply_chat_template(merged, tools=list(tools) if tools else None, **options)
    except Exception as error:  # a template is a program of the model's: it raises what it likes
        if merged[0]["role"] != "system" or len(merged) < 2:
            raise InvalidArgument(f"messages: the chat template of {name} refuses them: {error}") from error
        return render(tokenizer, _without_system(merged), tools, answering, name)
    found = encode(tokenizer, text)
    system = merged[0]["content"].strip() if merged[0]["role"] == "system" else ""
    if not system or (at := text.find(system)) < 0:
        return found
    last = found.token_at(at + len(system) - 1)
    return replace(found, stable=next((b for b in found.boundaries if b > last), 0))


def template(tokenizer: Any, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The text of the chat template: of several, the one for tools or the other; "" without one."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        found = found.get("tool_use" if tools and "tool_use" in found else "default")
    return found or ""


def encode(tokenizer: Any, text: str) -> Prompt:
    """A text as tokens; nothing is added to it, since a template writes its own first token."""
    if not isinstance(text, str):
        raise InvalidArgument(f"text: a string is needed, not {type(text).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidArgument("text: there is half a surrogate pair in it, which is no character")
    if tokenizer.is_fast:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = found["input_ids"], found["offset_mapping"]
    else:  # without places in the text, a prompt can be cut behind special tokens only
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        spans = [(0, 0)] * len(ids)
    if not ids:
        raise InvalidArgument("text: there is no token in it")
    special = set(tokenizer.all_special_ids)
    ends = (
        i + 1
        for i, (id, (_, end)) in enumerate(zip(ids, spans, strict=True))
        if id in special or text[end - 1 : end] == "\n"
    )
    return Prompt(text, tuple(ids), tuple(start for start, _ in spans), tuple(ends))


def one_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with all system messages as one in front, content blocks as their text, and tool calls as templates take them.

    Raises InvalidArgument for what is no message.
    """
    system: list[str] = []
    rest: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidArgument(f"messages: a mapping with role and content is needed, not {message!r:.100}")
        plain = {**message, "content": _text(message.get("content"))}
        if plain["role"] in ("system", "developer"):
            system.append(plain["content"])
        else:
            if calls := plain.get("tool_calls"):
                plain["tool_calls"] = [_call(c) for c in calls]
            rest.append(plain)
    joined = "\n\n".join(part for part in system if part)
    return [{"role": "system", "content": joined}, *rest] if joined else rest


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        found = [c if isinstance(c, str) else c.get("text") if isinstance(c, Mapping) else None for c in content]
        parts = [part for part in found if isinstance(part, str)]
        if len(parts) == len(found):
            return "".join(parts)
    raise InvalidArgument(f"messages: content is text or blocks of text, not {content!r:.100}")


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as an object: templates write them as JSON themselves."""
    function = dict(call.get("function", call))
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except ValueError:
            raise InvalidArgument(
                f"messages: arguments of a tool call are no JSON: {function['arguments']!r:.100}"
            ) from None
    return {"type": "function", **{k: v for k, v in call.items() if k == "id"}, "function": function}


def _without_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *map(dict, rest)]
