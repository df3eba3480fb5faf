"""A message's content as text: the parts of the providers' forms, notes of what is no text, and names of what is left out. Pure.

Knows the forms of OpenAI (Chat and Responses), Anthropic, Gemini, Bedrock, LangChain and LlamaIndex, by their field names only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidArgument

_TEXT = {"text", "inputtext", "outputtext", "textplain", "refusal", "summarytext"}
_MEDIA = {
    "image": "image", "imageurl": "image", "inputimage": "image", "imagefile": "image", "imagegenerationcall": "image",
    "audio": "audio", "inputaudio": "audio", "outputaudio": "audio", "audiourl": "audio",
    "video": "video", "videourl": "video", "inputvideo": "video",
    "file": "file", "inputfile": "file", "document": "file", "documenturl": "file", "filedata": "file", "inlinedata": "file",
    "containerupload": "file",
}  # fmt: skip
_THOUGHTS = {"thinking", "redactedthinking", "reasoning", "reasoningcontent", "thought"}
_SILENT = {"cachepoint", "cache", "signature", "thoughtsignature"}  # marks for a provider: nobody said them
_RESULTS = re.compile(
    r"(toolresult|functionresponse|functioncalloutput|toolcalloutput|calloutput|codeexecutionresult)$"
)
_CALLS = re.compile(r"(call|calls|tooluse|callchunk|executablecode|inputjsondelta)$")
_NAMES = ("filename", "file_name", "display_name", "displayName", "name", "title")
CALLS = ("tool_calls", "function_call", "toolCalls", "functionCall")
"""Fields of a message that call tools."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a content says. `text` has notes such as "[image]" in it, `words` has not; `left_out` counts, by kind, what became a note
    or was left out; `results` is the text of tool results among the parts."""

    text: str
    words: str
    left_out: Counter[str]
    results: str = ""


def content_of(value: Any, where: str = "content") -> Content:
    """The text of a content: a string, a part, or a sequence of both. Raises InvalidArgument for what is none of these."""
    if value is None:
        return Content("", "", Counter())
    if isinstance(value, str):
        return Content(value, value, Counter())
    parts = value if isinstance(value, Sequence) and not isinstance(value, bytes) else [value]
    texts: list[str] = []
    words: list[str] = []
    results: list[str] = []
    left_out: Counter[str] = Counter()
    for number, given in enumerate(parts):
        part = fields_of(given)
        if isinstance(part, str):
            text, note, gone = part, "", ""
        elif isinstance(part, Mapping):
            text, note, gone = _part(part)
        else:
            raise InvalidArgument(f"{where}[{number}]: text or a part is needed, not {type(given).__name__}")
        if gone == "tool result":
            inner = content_of(_result(part), f"{where}[{number}]")
            left_out += inner.left_out
            if inner.text.strip():
                results.append(inner.text)
        if gone:
            left_out[gone] += 1
        texts += [t for t in (note, text) if t.strip()]
        words += [text] if text.strip() else []
    return Content("\n".join(texts), "\n".join(words), left_out, "\n".join(results))


def fields_of(value: Any) -> Any:
    """A provider's object (a pydantic model) as a mapping; anything else as it is."""
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) and not isinstance(value, type) else value


def _part(part: Mapping[str, Any]) -> tuple[str, str, str]:
    """The text of a part, the note that stands for it, and the kind that is left out."""
    kind, body = _kind(part)
    name = _plain(kind)
    if part.get("thought") is True or name in _THOUGHTS:
        return "", "", "thought"
    if name in _SILENT:
        return "", "", ""
    if name in _TEXT:
        found = part.get("refusal") if name == "refusal" else part.get("text")
        return (found, "", "") if isinstance(found, str) else ("", "", "")
    if name in _MEDIA:
        return _media(_MEDIA[name], part, body)
    if _RESULTS.search(name):
        return "", "", "tool result"
    if _CALLS.search(name):
        return "", "", "call of a tool"
    if isinstance(part.get("text"), str):
        return part["text"], "", ""
    if isinstance(part.get("content"), str | Sequence):  # a citable block, a search result
        inner = content_of(part["content"])
        return inner.text, "", next(iter(inner.left_out), "")
    label = _label(kind) or "part"
    return "", f"[{label}]", label


def _kind(part: Mapping[str, Any]) -> tuple[str, Any]:
    """The kind of a part, from its type, or from its only telling field (as Gemini and Bedrock have it); and what is below it."""
    for field in ("type", "block_type"):
        if isinstance(kind := part.get(field), str) and kind:
            return kind, part.get(kind)
    for field, body in part.items():
        name = _plain(str(field))
        if body is not None and (name in _MEDIA or name in _THOUGHTS or _RESULTS.search(name) or _CALLS.search(name)):
            return str(field), body
    return ("text", None) if "text" in part else (str(next(iter(part), "")), None)


def _media(kind: str, part: Mapping[str, Any], body: Any) -> tuple[str, str, str]:
    fields = [f for f in (part, body, part.get("source"), part.get("file")) if isinstance(f, Mapping)]
    for said in fields:
        transcript = said.get("transcript")
        if kind == "audio" and isinstance(transcript, str) and transcript.strip():
            return transcript, "[audio]", "audio"
        words = said.get("text") if kind == "file" else None
        if kind == "file" and said.get("type") == "text" and words is None:
            words = said.get("data")
        if isinstance(words, str) and words.strip():  # a document of plain text
            return words, _note("file", fields), "file"
    media = next(
        (m for f in fields for n in ("mime_type", "mimeType", "media_type") if isinstance(m := f.get(n), str)), ""
    )
    if kind == "file" and media.partition("/")[0] in ("image", "audio", "video"):
        kind = media.partition("/")[0]
    return "", _note(kind, fields), kind


def _note(kind: str, fields: Sequence[Mapping[str, Any]]) -> str:
    names = (_label(f.get(n)) for f in fields for n in _NAMES) if kind == "file" else ()
    name = next((n for n in names if n), "")
    return f"[{kind}: {name}]" if name else f"[{kind}]"


def _result(part: Mapping[str, Any]) -> Any:
    """What a tool's result says, wherever it stands."""
    _, body = _kind(part)
    for found in (part.get("content"), part.get("output"), body):
        while isinstance(found, Mapping):
            found = next(
                (found[n] for n in ("content", "output", "result", "response") if found.get(n) is not None), None
            )
        if isinstance(found, str) or (isinstance(found, Sequence) and not isinstance(found, bytes)):
            return found
    return None


def _plain(kind: str) -> str:
    return re.sub(r"[^a-z]", "", kind.lower())


def _label(name: Any) -> str:
    """A name that can stand in a note."""
    if not isinstance(name, str):
        return ""
    name = name.encode("utf-8", "replace").decode()
    return " ".join("".join(c if c.isprintable() and c not in "[]" else " " for c in name).split())[:100]
