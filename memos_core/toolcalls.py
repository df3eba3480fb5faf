"""A model's words as text, reasoning and calls of tools. Pure.

Each family writes its calls in a way of its own, which its chat template teaches. Read are: JSON between `<tool_call>` tags (Hermes,
Qwen 2.5 and 3), functions and parameters in tags (Qwen3-Coder, Qwen 3.5), and a bare JSON object or list (Llama 3, Mistral). What
small models write as JSON often is none, and is mended; but what was cut off is never completed to a call that nobody asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import json_repair

from .types import Answer, BrokenCall, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, THOUGHT = "<think>", "</think>"
_BARE = ("{", "[", "```", "<function=")  # an answer that begins so may be calls as a whole
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


class AnswerReader:
    """Reads an answer piece by piece, and lets go of text as soon as it can be nothing else.

    Args:
        tools: the functions that the model was shown, as JSON schemas. Without any, nothing is taken for a call.

    Example:
        >>> reader = AnswerReader()
        >>> reader.feed("<think>Easy.</think>"), reader.feed("Four."), reader.end()
        (('', 'Easy.'), ('Four.', ''), ('', ''))
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._tools = dict(map(_described, tools or ()))
        self._held = ""  # not let go of yet
        self._mode = "start"
        self._text, self._reasoning = "", ""
        self._calls: list[ToolCall] = []
        self._broken: list[BrokenCall] = []

    def feed(self, piece: str) -> tuple[str, str]:
        """The text and the reasoning that a further piece of the answer lets go of."""
        self._held += piece
        text, reasoning = len(self._text), len(self._reasoning)
        while self._advance():
            pass
        return self._text[text:], self._reasoning[reasoning:]

    def end(self) -> tuple[str, str]:
        """The same for the end of the answer."""
        text, reasoning = len(self._text), len(self._reasoning)
        if self._mode == "call":
            self._read(self._held, closed=False)
        elif self._mode == "reasoning":
            self._reasoning += self._held
        elif self._mode == "bare" and (calls := self._bare(self._held)):
            self._calls += calls
        else:
            self._text += self._held
        self._held, self._mode = "", "text"
        return self._text[text:], self._reasoning[reasoning:]

    @property
    def answer(self) -> Answer:
        """What was read so far. Calls that make up the whole answer are among it after `end`."""
        return Answer(self._text, self._reasoning, tuple(self._calls), tuple(self._broken))

    # --- below -----------------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Let go of what is at the head of what is held; whether there may be more to let go of."""
        if self._mode == "start":
            return self._begin()
        if self._mode == "bare":
            return False
        if self._mode == "reasoning":
            if not self._reasoning:
                self._held = self._held.lstrip()
            thought, found = self._until(THOUGHT)
            self._reasoning += thought
            self._mode = "start" if found else "reasoning"
            return found
        if self._mode == "call":
            at = self._held.find(CLOSE)
            if at < 0:
                return False
            self._read(self._held[:at], closed=True)
            self._held, self._mode = self._held[at + len(CLOSE) :].lstrip(), "after"
            return True
        if self._mode == "after":  # white space between calls, or behind the last, says nothing
            self._held = self._held.lstrip()
        if not self._tools:
            self._text, self._held = self._text + self._held, ""
            return False
        said, found = self._until(OPEN)
        self._text += said
        self._mode = "call" if found else "text" if said else self._mode
        return found

    def _begin(self) -> bool:
        """Decide what the answer begins with, once there is enough of it."""
        begun = self._held.lstrip()
        tags = [THINK, *((OPEN, *_BARE) if self._tools else ())]
        for tag in tags:
            if begun.startswith(tag):
                self._mode = "reasoning" if tag == THINK else "bare" if tag in _BARE else "text"
                self._held = begun[len(tag) :].lstrip() if tag == THINK else begun
                return True
        if not begun or any(tag.startswith(begun) for tag in tags):
            return False
        if self._reasoning:
            self._held = begun
        self._mode = "text"
        return True

    def _until(self, tag: str) -> tuple[str, bool]:
        """What is held before a tag, and whether the tag is there: both are taken out. What may become the tag, or white space
        before it, stays."""
        said, found, rest = self._held.partition(tag)
        if found:
            self._held = rest
            return said.rstrip(), True
        most = min(len(tag) - 1, len(said))
        keep = next((n for n in range(most, 0, -1) if tag.startswith(said[-n:])), 0)
        said = said[: len(said) - keep].rstrip()
        self._held = self._held[len(said) :]
        return said, False

    def _read(self, body: str, *, closed: bool) -> None:
        """The calls between two tags, or behind one that is not closed: because that ended the answer, or because it was cut off."""
        raw = f"{OPEN}{body}{CLOSE if closed else ''}"
        if "<function=" in body:
            if closed or body.rstrip().endswith("</function>"):
                self._calls += self._tagged(body)
                return
            values: list[Any] = []
        else:
            values = list(_values(body, mend=closed or _balanced(body)))
        found = [_call(value) for value in values]
        if found and all(isinstance(f, ToolCall) for f in found):
            self._calls += [f for f in found if isinstance(f, ToolCall)]
            return
        named = next((v.get("name") for v in values if isinstance(v, Mapping)), None)
        problem = next(
            (f for f in found if isinstance(f, str)), "no JSON with name and arguments" if closed else "cut off"
        )
        self._broken.append(BrokenCall(named if isinstance(named, str) else None, raw, problem))

    def _bare(self, text: str) -> list[ToolCall]:
        """The calls that an answer consists of; none if it is anything else, or names a tool that there is not."""
        body = text.strip().removeprefix("[TOOL_CALLS]")
        if body.startswith("<function="):
            found: list[ToolCall | str] = [*self._tagged(body)] if body.endswith("</function>") else []
        else:
            fenced = _FENCE.match(body)
            body = fenced[1] if fenced else body
            found = [_call(value) for value in _values(body, mend=_balanced(body))]
        calls = [f for f in found if isinstance(f, ToolCall) and f.name in self._tools]
        return calls if len(calls) == len(found) else []

    def _tagged(self, body: str) -> Iterator[ToolCall]:
        """Calls whose parameters stand in tags of their own. A value is text where the tool's schema says so, else JSON."""
        for name, inside in _FUNCTION.findall(body):
            schemas = self._tools.get(name, {}).get("properties") or {}
            yield ToolCall(name, {k: _value(v, schemas.get(k) or {}) for k, v in _PARAMETER.findall(inside)})


def read_answer(text: str, tools: Sequence[Mapping[str, Any]] | None = None) -> Answer:
    """A whole answer; see `AnswerReader`.

    Example:
        >>> tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
        >>> read_answer('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', [tool]).calls
        (ToolCall(name='add', arguments={'a': 1}),)
    """
    reader = AnswerReader(tools)
    reader.feed(text)
    reader.end()
    return reader.answer


def _described(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    function = tool.get("function", tool)
    return str(function.get("name", "")), function.get("parameters") or {}


def _values(body: str, *, mend: bool) -> Iterator[Any]:
    """The JSON values that a text consists of, lists taken apart. Nothing if it is no JSON, or, to be mended, not nearly."""
    found: list[Any] = []
    rest = body.strip()
    while rest:
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(rest)
        except ValueError:
            mended = json_repair.loads(body) if mend else None
            found = [mended] if isinstance(mended, dict | list) else []
            break
        found.append(value)
        rest = rest[end:].lstrip(" \t\r\n;,")
    for value in found:
        yield from value if isinstance(value, list) else [value]


def _balanced(body: str) -> bool:
    """Whether a text has as many brackets that close as brackets that open: one that was cut off has not."""
    return all(body.count(opening) == body.count(closing) for opening, closing in ("{}", "[]"))


def _call(value: Any) -> ToolCall | str:
    """A call, or what is wrong with it."""
    if not isinstance(value, Mapping):
        return "a call is an object with name and arguments"
    function = value.get("function")
    inner = function if isinstance(function, Mapping) else value
    name = inner.get("name") or (function if isinstance(function, str) else None)
    if not isinstance(name, str) or not name:
        return "it has no name"
    arguments: Any = next((inner[k] for k in ("arguments", "parameters", "args") if k in inner), {})
    if isinstance(arguments, str):
        arguments = json_repair.loads(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    return ToolCall(name, arguments) if isinstance(arguments, Mapping) else "its arguments are no object"


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """A parameter's value: JSON, unless the schema takes text and nothing else but null."""
    kinds: Iterable[Any] = [
        schema.get("type"),
        *(s.get("type") for s in schema.get("anyOf", ()) if isinstance(s, Mapping)),
    ]
    said = {k for kind in kinds for k in (kind if isinstance(kind, list) else [kind]) if k}
    if said and said <= {"string", "null"}:
        return None if text == "null" and "null" in said else text
    try:
        return json.loads(text)
    except ValueError:
        return text
