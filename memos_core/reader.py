"""MemReader: what a caller hands in, as turns; turns as statements, by a language model; questions, as a time window.

Knows messages, prompts and dates; knows no store. The verbatim turns are always kept: a language model only adds to them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from .codec import checked_text
from .content_parts import CALLS, content_of, fields_of
from .errors import InvalidArgument
from .types import Draft, Link, MemCube, Reading
from .words import STOP, tokenize

ROLES = {"user": "user", "human": "user", "assistant": "assistant", "ai": "assistant", "model": "assistant", "chatbot": "assistant",
         "system": "system", "developer": "system", "tool": "tool", "function": "tool"}  # fmt: skip
TYPES = ("fact", "preference", "event")
_CONTENTS = ("content", "parts", "blocks")  # where the frameworks have what a message says
_STARTS = 8  # brackets at which the JSON of an answer may begin
_WINDOW = 12  # turns put before a model at once: enough for references to resolve, small enough for a small model


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing said or noted. `role` is None for a bare string."""

    text: str
    role: str | None = None
    speaker: str | None = None
    message_id: str | None = None
    occurred_at: datetime | None = None


def turns(content: Any, occurred_at: datetime | None = None) -> list[Turn]:
    """A string, a message or a sequence of either, checked, in order; see `heard`."""
    return heard(content, occurred_at)[0]


def heard(content: Any, occurred_at: datetime | None = None) -> tuple[list[Turn], str]:
    """The turns in a string, a message or a sequence of either, in order; and what was left out of them, in words, or "".

    A message is a mapping with `role` and `content`, and optionally `name` (who speaks), `id` and `timestamp` (aware
    datetime or ISO 8601 with an offset; `occurred_at` stands in where it is missing). A content is text or a list of parts: their
    text is taken, and a note such as "[image]" stands for what is no text. Messages of a conversation that say nothing (calls of tools,
    thoughts, empty ones) are left out. Raises InvalidArgument naming the place, also if nothing is left.
    """
    when = aware(occurred_at, "occurred_at")
    content = fields_of(content)
    if isinstance(content, str | Mapping):
        return _told([_turn(content, "content", when)])
    if not isinstance(content, Iterable) or isinstance(content, bytes):
        raise InvalidArgument(
            f"content: text, a message or a sequence of either is needed, not {type(content).__name__}"
        )
    found = [_turn(fields_of(item), f"content[{i}]", when) for i, item in enumerate(content)]
    if not found:
        raise InvalidArgument("content: there is nothing in it")
    return _told(found)


def _told(found: Sequence[tuple[Turn | None, Counter[str]]]) -> tuple[list[Turn], str]:
    kept = [turn for turn, _ in found if turn is not None]
    kinds: Counter[str] = sum((kinds for _, kinds in found), Counter())
    words = ", ".join(f"{number} x {kind}" for kind, number in sorted(kinds.items()))
    if not kept:
        raise InvalidArgument(f"content: there is no text in it, nothing can be stored (it holds {words})")
    return kept, words


def aware(moment: Any, argument: str) -> datetime | None:
    """A time in UTC. A naive one is refused: whose clock it was cannot be guessed."""
    if moment is None:
        return None
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise InvalidArgument(f"{argument}: {moment!r} is not an ISO 8601 time") from None
    if not isinstance(moment, datetime):
        raise InvalidArgument(f"{argument}: a datetime is needed, not {type(moment).__name__}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidArgument(
            f"{argument}: {moment.isoformat()} has no timezone; say e.g. .replace(tzinfo=timezone.utc)"
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidArgument(f"{argument}: {moment.isoformat()} is outside the years 1 to 9999 in UTC") from None


def _turn(item: Any, where: str, occurred_at: datetime | None) -> tuple[Turn | None, Counter[str]]:
    """The turn in an item, if it says something, and what of it is not text, by kind."""
    if isinstance(item, str):
        return Turn(_text(item, where), occurred_at=occurred_at), Counter()
    if not isinstance(item, Mapping):
        raise InvalidArgument(f"{where}: text or a message with role and content is needed, not {type(item).__name__}")
    if item.get("role") is None and (other := _without_role(item)) is not None:
        item = other
        if "role" not in item:
            return None, content_of([item], where).left_out
    role = _role(item)
    if role is None:
        raise InvalidArgument(f"{where}: role {item.get('role')!r} is none of {', '.join(sorted(ROLES))}")
    said = content_of(next((item[n] for n in _CONTENTS if item.get(n) is not None), None), f"{where}.content")
    left_out, text = said.left_out.copy(), said.text
    if calls := sum(_many(item.get(name)) for name in CALLS):
        left_out["call of a tool"] += calls
    if not text.strip() and isinstance(item.get("refusal"), str):
        text = item["refusal"]
    if not text.strip() and isinstance(item.get("audio"), Mapping):  # an answer that was spoken
        spoken = content_of([{"type": "audio", **item["audio"]}])
        text, left_out = spoken.text, left_out + spoken.left_out
    if not text.strip() and said.results:  # a message that only brings results of tools, whoever it is put down to
        role, text = "tool", said.results
        del left_out["tool result"]
    if not text.strip():
        return None, left_out or Counter({"empty message": 1})
    return Turn(
        _text(text, f"{where}.content"),
        role=role,
        speaker=_label(item.get("name"), f"{where}.name"),
        message_id=_label(item.get("id"), f"{where}.id"),
        occurred_at=aware(item.get("timestamp"), f"{where}.timestamp") or occurred_at,
    ), left_out


def _role(item: Mapping[str, Any]) -> str | None:
    role = item.get("role")
    return ROLES.get(str(getattr(role, "value", role)).lower()) if isinstance(role, str) else None


def _without_role(item: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """An item that names a type instead of a role: a message of LangChain's, a result of a tool or another item of OpenAI's Responses."""
    kind = item.get("type")
    if not isinstance(kind, str):
        return None
    if kind in ROLES:
        return {**item, "role": kind}
    if kind.endswith("call_output"):
        return {"role": "tool", "content": item.get("output")}
    return item if kind == "reasoning" or kind.endswith("_call") else None


def _many(calls: Any) -> int:
    return len(calls) if isinstance(calls, Sequence) and not isinstance(calls, str) else int(bool(calls))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{where}: text is needed, not {type(value).__name__}")
    if not value.strip():
        raise InvalidArgument(f"{where}: the text is empty")
    return checked_text(value, where)


def _label(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{where}: a non-empty string is needed, not {value!r}")
    return checked_text(value, where)


# --- statements, by a language model -----------------------------------------------------------------------------------

_PROMPT = """You keep the long-term memory of an assistant. From the conversation below, list what is worth remembering for
months: facts about the speakers, their preferences, and events, each as one full sentence that can be understood alone
(names instead of pronouns). Use only what is said. Answer with a JSON list and nothing else; an empty list is fine.

Each item: {{"text": "...", "type": "fact" | "preference" | "event", "turns": [numbers of the turns that say it],
"decision": "add" | "update" | "supersede", "memory": number or null}}
"update": the same statement as a known memory, said more exactly. "supersede": a known memory has stopped being true.
Both name that memory's number.

Known memories:
{known}

Conversation:
{conversation}
"""
_AGAIN = "\nYour last answer could not be read ({problem}). Answer with the JSON list alone.\n"


class LLMReader:
    """Extracts facts, preferences and events from turns with any language model.

    Args:
        complete: prompt in, text out. Called once for each dozen turns, and once more if its answer cannot be read.
        name: which model it is, for the record.

    A statement counts only if it shares a word with a turn that it names, so that a small model's inventions stay out. What could not
    be read is reported in `Reading.problems`; the turns themselves were stored before this reader saw them.
    """

    def __init__(self, complete: Callable[[str], str], *, name: str | None = None) -> None:
        if not callable(complete):
            raise InvalidArgument(f"complete: a callable from prompt to text is needed, not {type(complete).__name__}")
        self._complete = complete
        self._name = name

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        """The statements in the turns, and what could not be read."""
        drafts: list[Draft] = []
        problems: list[str] = []
        for start in range(0, len(turns), _WINDOW):
            batch = turns[start : start + _WINDOW]
            found, wrong = self._read(batch, list(similar("\n".join(t.text for t in batch))))
            drafts += found
            problems += wrong
        return Reading(tuple(drafts), tuple(problems))

    def _read(self, batch: Sequence[MemCube], known: Sequence[MemCube]) -> tuple[list[Draft], list[str]]:
        prompt = _PROMPT.format(
            known="\n".join(f"{i}. {c.text}" for i, c in enumerate(known)) or "(none)",
            conversation="\n".join(
                f"{i}. {c.origin.speaker or c.origin.role or 'note'}: {c.text}" for i, c in enumerate(batch)
            ),
        )
        problem = ""
        for attempt in range(2):
            try:
                items = _items(self._complete(prompt + _AGAIN.format(problem=problem) if attempt else prompt))
            except Exception as error:  # the model is the caller's code: whatever it raises must not cost the turns
                problem = type(error).__name__  # its text may quote the prompt, and with it the memories
                continue
            results = [self._draft(item, batch, known) for item in items]
            return [r for r in results if isinstance(r, Draft)], [r for r in results if isinstance(r, str)]
        return [], [f"turns {batch[0].id} to {batch[-1].id}: {problem}"]

    def _draft(self, item: Any, batch: Sequence[MemCube], known: Sequence[MemCube]) -> Draft | str:
        if not isinstance(item, Mapping) or not isinstance(item.get("text"), str) or not item["text"].strip():
            return "an item without a text was left out"
        try:
            text = _text(item["text"].strip(), "a statement")
        except InvalidArgument:
            return "a statement that is not valid text was left out"
        sources = _sources(item, batch)
        if not sources:
            return "a statement that no turn supports was left out"
        decision, target = str(item.get("decision")), item.get("memory")
        revised: str | None = None
        if decision in ("update", "supersede") and type(target) is int and 0 <= target < len(known):
            revised = known[target].id
        return Draft(
            text=text,
            semantic_type=item["type"] if item.get("type") in TYPES else "fact",
            speaker=sources[0].origin.speaker,
            occurred_at=max((s.origin.occurred_at for s in sources if s.origin.occurred_at), default=None),
            parents=tuple(Link(s.id, s.version) for s in sources),
            decision=decision if revised is not None else "add",
            revises=revised,
            model=self._name,
        )


def _items(answer: str) -> list[Any]:
    import json_repair  # small models wrap, cut and mis-quote JSON in many ways

    answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    for start in [m.start() for m in re.finditer(r"[\[{]", answer)][:_STARTS]:
        found = _listed(json_repair.loads(answer[start:]))
        if any(isinstance(item, Mapping) and isinstance(item.get("text"), str) for item in found):
            return found
    if re.search(r"\[\s*\]", answer):
        return []
    raise ValueError("no JSON list of statements in the answer")


def _listed(found: Any) -> list[Any]:
    """The list in what was parsed: itself, the one under a name, or a single statement."""
    if isinstance(found, Mapping):
        lists = [v for v in found.values() if isinstance(v, list) and any(isinstance(i, Mapping) for i in v)]
        return [found] if "text" in found else lists[0] if lists else []
    return found if isinstance(found, list) else []


def _sources(item: Mapping[str, Any], batch: Sequence[MemCube]) -> list[MemCube]:
    """The turns that a statement names and shares a word with; if it names none, those that share the most words."""
    words = _words(item["text"])
    named = item.get("turns")
    numbers = [n for n in (named if isinstance(named, list) else [named]) if type(n) is int and 0 <= n < len(batch)]
    if numbers:
        return [
            batch[n] for n in dict.fromkeys(numbers) if words & _words(f"{batch[n].origin.speaker} {batch[n].text}")
        ]
    best = max(batch, key=lambda c: len(words & _words(c.text)))
    return [best] if words & _words(best.text) else []


def _words(text: str) -> set[str]:
    return set(tokenize(text)) - STOP


# --- times in questions --------------------------------------------------------------------------------------------------

_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_TIMES = re.compile(
    rf"\b(?:yesterday|today|last night|(?:\d+|two|three|four|five|six) (?:days?|weeks?|months?|years?) ago"
    rf"|(?:last|this|past) (?:week|month|year|monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
    rf"|\d{{4}}-\d{{2}}-\d{{2}}|{_DAY}(?: of)? {_MONTH},?(?: \d{{4}})?|{_MONTH} {_DAY}\b,?(?: \d{{4}})?|{_MONTH},? \d{{4}}"
    rf"|(?:in|during|since|last) (?:(?:early|mid|late) )?{_MONTH}(?:,? \d{{4}})?(?= |$|[?.,!])|(?:in|during|of) (?:19|20)\d\d)\b",
    re.IGNORECASE,
)


def window(question: str, now: datetime) -> tuple[datetime, datetime] | None:
    """The time that a question (in English) speaks of, as [start, end) in UTC, or None. Relative to `now`, in the past.

    "last week" is the calendar week before this one, "in May 2023" the month; a month without a year is the last one that began.
    """
    found = _TIMES.search(question[:1000])
    if found is None:
        return None
    from dateparser.date import DateDataParser  # slow to import, and few questions speak of a time

    settings = {
        "RELATIVE_BASE": now.replace(tzinfo=None),
        "PREFER_DATES_FROM": "past",
        "RETURN_AS_TIMEZONE_AWARE": False,
    }
    words = re.sub(
        r"^(?:in|during|since|of|last)\s+(?:(?:early|mid|late)\s+)?(?=\w*\d|\W*" + _MONTH + ")",
        "",
        found[0],
        flags=re.I,
    )
    parsed = DateDataParser(languages=["en"], settings=settings).get_date_data(words)
    try:
        return None if parsed.date_obj is None else _period(parsed.date_obj.date(), parsed.period)
    except (OverflowError, ValueError):  # the last day that there is
        return None


def _period(day: date, unit: str) -> tuple[datetime, datetime]:
    if unit == "year":
        start, end = day.replace(month=1, day=1), date(day.year + 1, 1, 1)
    elif unit == "month":
        start = day.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    elif unit == "week":
        start = day - timedelta(days=day.weekday())
        end = start + timedelta(days=7)
    else:
        start, end = day, day + timedelta(days=1)
    return _midnight(start), _midnight(end)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
