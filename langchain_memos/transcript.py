"""Recorded conversations: LoCoMo's JSON, or JSONL of role, content and timestamp. Standard library only.

Knows the two formats; knows neither agents nor stores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
}


class UnreadableTranscript(Exception):
    """The file, the line, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Said:
    """One turn. `name` is the speaker's, `when` in UTC; `id` is the same each time that the file is read."""

    id: str
    session: str
    role: str
    text: str
    name: str | None = None
    when: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask about a transcript, and the answer that the file expects, if it holds one."""

    text: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """Turns in order, what to ask about them, and in words what of the file this is."""

    turns: tuple[Said, ...]
    questions: tuple[Question, ...]
    title: str

    def sessions(self) -> dict[str, list[Said]]:
        """The turns of each session, in order."""
        found: dict[str, list[Said]] = {}
        for turn in self.turns:
            found.setdefault(turn.session, []).append(turn)
        return found


def read(path: Path, conversation: int = 1) -> Transcript:
    """A transcript file. `conversation` counts from 1, for a file that holds several. Raises UnreadableTranscript."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UnreadableTranscript(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise UnreadableTranscript(f"{path}: not UTF-8 at byte {error.start}") from None
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    several = whole if isinstance(whole, list) else [whole]
    if all(isinstance(c, Mapping) and isinstance(c.get("conversation"), Mapping) for c in several) and several:
        if not 1 <= conversation <= len(several):
            raise UnreadableTranscript(
                f"{path}: it holds {len(several)} conversations, there is no number {conversation}"
            )
        return _locomo(several[conversation - 1], path, conversation, len(several))
    return _jsonl(text, path)


# --- JSONL -------------------------------------------------------------------------------------------------------------


def _jsonl(text: str, path: Path) -> Transcript:
    turns = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            turns.append(_line(line, number, f"{path}, line {number}"))
    if not any(turn.role == "user" for turn in turns):
        raise UnreadableTranscript(f"{path}: nobody says anything in it")
    return Transcript(tuple(turns), (), path.name)


def _line(line: str, number: int, where: str) -> Said:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UnreadableTranscript(f"{where}: not JSON ({reason})") from None
    if not isinstance(item, Mapping):
        raise UnreadableTranscript(f"{where}: an object with role and content is needed")
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise UnreadableTranscript(f"{where}: role {role!r} is none of {', '.join(ROLES)}")
    if not isinstance(content, str) or not _storable(content):
        raise UnreadableTranscript(f"{where}: content must be text")
    name, session = item.get("name") or None, item.get("session", "1")
    if not isinstance(name, str | None) or not isinstance(session, str | int) or session == "":
        raise UnreadableTranscript(f"{where}: name and session must be text")
    return Said(f"line-{number}", str(session), ROLES[role], content, name, _moment(item.get("timestamp"), where))


def _moment(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.utcoffset() is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise UnreadableTranscript(f"{where}: timestamp {value!r} is not an ISO 8601 time") from None


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return bool(text.strip())


# --- LoCoMo ------------------------------------------------------------------------------------------------------------


def _locomo(item: Mapping[str, Any], path: Path, number: int, of: int) -> Transcript:
    try:
        turns = tuple(_locomo_turns(item["conversation"]))
        questions = _locomo_questions(item.get("qa", []))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableTranscript(f"{path}: not LoCoMo's format ({type(error).__name__}: {error})") from None
    if not turns:
        raise UnreadableTranscript(f"{path}: conversation {number} holds no session_N with turns")
    which = f", conversation {number} of {of}" if of > 1 else ""
    return Transcript(turns, questions, f"{path.name}{which}")


def _locomo_turns(conversation: Mapping[str, Any]) -> Iterator[Said]:
    """Both speakers are people. A picture stands in as its caption."""
    sessions = [k for k in conversation if k.startswith("session_") and isinstance(conversation[k], list)]
    for session in sorted(sessions, key=lambda k: int(k.split("_")[1])):
        spoken = conversation[f"{session}_date_time"].strip()
        when = datetime.strptime(spoken, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for turn in conversation[session]:
            caption = turn.get("blip_caption")
            text = " ".join(p for p in (turn["text"].strip(), f"[shares a picture: {caption}]" if caption else "") if p)
            if text:
                yield Said(turn["dia_id"], session, "user", text, turn["speaker"], when)


def _locomo_questions(qa: Sequence[Mapping[str, Any]], count: int = 4) -> tuple[Question, ...]:
    """Some that one turn answers, from all over the conversation; category 5 asks for what was never said."""
    good = [q for q in qa if q.get("category") == 4 and q.get("answer")] or [q for q in qa if q.get("category") != 5]
    return tuple(
        Question(str(q["question"]), str(q.get("answer"))) for q in good[:: max(1, len(good) // count)][:count]
    )
