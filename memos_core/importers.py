"""What other systems export, as memories to take in: plain JSONL, LangGraph's stores, LlamaIndex's chat stores, mem0, Letta. Knows their files.

Each reader takes a file or what `json.load` makes of it, needs none of these systems, and gives memories one by one; `MemOS.bring_in` takes
them. A memory keeps the id that it had, as the id of its message, so that bringing it in twice is once. A time that says no timezone
is kept in the words of its system (attribute `created_at`), because whose clock it was cannot be guessed.

    jsonl        one object a line: text (or content, memory), and any of id, role, name, session, timestamp, namespace, tags, attributes,
                 semantic_type, source; what else is in it becomes attributes
    langgraph    items of a BaseStore, as `Item.dict()` gives them: namespace, key, value
    llamaindex   what SimpleChatStore persists: {"store": {key: [message, ...]}}; a key becomes a session
    mem0         {"results": [{id, memory, user_id, metadata, categories, created_at, ...}]}, or just the list
    letta        an agent file (.af), of one agent or several: memory blocks and messages; and passages of archival memory, if they are there
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from .content_parts import CALLS, content_of
from .errors import InvalidArgument
from .types import Item, Namespace

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "ai": "assistant", "agent": "assistant", "model": "assistant"}  # fmt: skip
log = logging.getLogger("memos_core")
_LARGEST = 1 << 30  # bytes of a file that is read whole

Source = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A memory from elsewhere. `id` is the one that it had there; `session` the conversation that it is a turn of, `position` which."""

    text: str
    id: str
    source: str
    namespace: Namespace = ()
    role: str | None = None
    speaker: str | None = None
    session: str | None = None
    position: int | None = None
    occurred_at: datetime | None = None
    semantic_type: str | None = None
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


def jsonl(source: Source | Iterable[Mapping[str, Any]]) -> Iterator[Foreign]:
    """Objects, one a line. Messages that only call tools are left out, and counted in the log. Raises InvalidArgument, naming the line,
    for what has no text."""
    known = {
        "text",
        "content",
        "memory",
        "id",
        "role",
        "name",
        "session",
        "timestamp",
        "namespace",
        "tags",
        "attributes",
        "semantic_type",
        "source",
    }
    places, calls = dict[str, int](), 0
    for number, said in enumerate(_lines(source), 1):
        where = f"line {number}"
        text = _text(said.get("text") or said.get("content") or said.get("memory"))
        if not text and any(said.get(name) for name in CALLS):
            calls += 1
            continue
        if not text:
            raise InvalidArgument(f"{where}: there is no text in it")
        when, kept = _when(said.get("timestamp"))
        attributes = {
            **{k: v for k, v in said.items() if k not in known},
            **_mapping(said.get("attributes"), where),
            **kept,
        }
        session = _word(said.get("session"))
        position = None
        if session is not None:
            position = places[session] = places.get(session, -1) + 1
        yield Foreign(
            text, _word(said.get("id")) or _named(said), _word(said.get("source")) or "jsonl", _labels(said.get("namespace")), _role(said.get("role")),
            _word(said.get("name")), session, position, when, _word(said.get("semantic_type")), _words(said.get("tags")), attributes,
        )  # fmt: skip
    if calls:
        log.warning("jsonl: %d messages that only call tools were left out", calls)


def langgraph(source: Source | Iterable[Mapping[str, Any]]) -> Iterator[Item]:
    """Items of a LangGraph store, found by all of their value, as its stores do by default."""
    for number, said in enumerate(_listed(source, "items")):
        value = _mapping(said.get("value"), f"item {number}")
        namespace, key = _labels(said.get("namespace")), _word(said.get("key"))
        if key is None:
            raise InvalidArgument(f"item {number}: it has no key")
        yield Item(namespace, key, value, (json.dumps(value, ensure_ascii=False),))


def llamaindex(source: Source | Mapping[str, Any]) -> Iterator[Foreign]:
    """Messages of a LlamaIndex chat store; those without words (calls of tools) are left out."""
    store = _mapping(_mapping(_whole(source), "chat store").get("store"), "store")
    for key, messages in store.items():
        position = 0
        for said in messages if isinstance(messages, Sequence) else ():
            text = _text(said.get("blocks") or said.get("content"))
            if not text:
                continue
            extra = said.get("additional_kwargs") or {}
            yield Foreign(
                text, _word(extra.get("id")) or f"{key}:{position}", "llamaindex", role=_role(said.get("role")), session=key,
                position=position, attributes={"additional_kwargs": extra} if extra else {},
            )  # fmt: skip
            position += 1


def mem0(source: Source | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Iterator[Foreign]:
    """Memories that mem0 returns or exports. Whose they are there (user, agent, run) becomes namespace labels and attributes."""
    for number, said in enumerate(_listed(source, "results", "memories")):
        text = _text(said.get("memory") or said.get("text") or said.get("data"))
        if not text:
            raise InvalidArgument(f"memory {number}: there is no text in it")
        when, kept = _when(said.get("created_at"))
        who = {n: str(said[n]) for n in ("user_id", "agent_id", "app_id", "run_id") if said.get(n)}
        more = {n: said[n] for n in ("updated_at", "expiration_date") if said.get(n)}
        yield Foreign(
            text, str(said.get("id") or _named(said)), "mem0", tuple(v for n, v in who.items() if n in ("user_id", "agent_id")), occurred_at=when,
            semantic_type="fact", tags=_words(said.get("categories")),
            attributes={**_mapping(said.get("metadata") or {}, f"memory {number}"), **who, **more, **kept},
        )  # fmt: skip


def letta(source: Source | Mapping[str, Any]) -> Iterator[Foreign]:
    """An agent file: its blocks, its messages in order, and passages of archival memory."""
    said = _mapping(_whole(source), "agent file")
    agents = said.get("agents") if isinstance(said.get("agents"), Sequence) else [said]
    for number, block in enumerate([*(said.get("blocks") or ()), *(said.get("core_memory") or ())]):
        if text := _text(block.get("value")):
            label = _word(block.get("label")) or str(number)
            yield Foreign(
                text, str(block.get("id") or f"block:{label}"), "letta", semantic_type="block", tags=(label,),
                attributes={"description": block["description"]} if block.get("description") else {},
            )  # fmt: skip
    for at, agent in enumerate(agents or ()):
        name = _word(agent.get("name")) or _word(agent.get("id")) or str(at)
        position = 0
        for message in agent.get("messages") or ():
            text, role = _text(message.get("content") or message.get("text")), _role(message.get("role"))
            if not text or role is None:  # what the system and tools said is no memory of a conversation
                continue
            when, kept = _when(message.get("created_at"))
            yield Foreign(
                text, str(message.get("id") or f"{name}:{position}"), "letta", (name,), role, _word(message.get("name")), name, position, when,
                attributes=kept,
            )  # fmt: skip
            position += 1
    for number, passage in enumerate([*(said.get("passages") or ()), *(said.get("archival_memory") or ())]):
        if text := _text(passage.get("text") or passage.get("content")):
            when, kept = _when(passage.get("created_at"))
            extra = _mapping(passage.get("metadata") or passage.get("metadata_") or {}, f"passage {number}")
            yield Foreign(
                text, str(passage.get("id") or _named(passage)), "letta", semantic_type="passage", occurred_at=when,
                tags=_words(passage.get("tags")), attributes={**extra, **kept},
            )  # fmt: skip


READERS = {"jsonl": jsonl, "langgraph": langgraph, "llamaindex": llamaindex, "mem0": mem0, "letta": letta}
"""By the names that `memosctl load --from` takes."""


# --- below ---------------------------------------------------------------------------------------------------------------


def _whole(source: Any) -> Any:
    if not isinstance(source, str | os.PathLike):
        return source
    file = Path(source)
    try:
        if file.stat().st_size > _LARGEST:
            raise InvalidArgument(f"{file}: more than {_LARGEST:,} bytes; split it, or give it as JSONL")
        return json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidArgument(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{file}: not readable as JSON: {error}") from None


def _lines(source: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(source, str | os.PathLike):
        yield from source
        return
    try:
        with Path(source).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _mapping(json.loads(line), f"line {number}")
    except OSError as error:
        raise InvalidArgument(f"{os.fspath(source)}: {error.strerror or error}") from None
    except InvalidArgument:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{os.fspath(source)}: not readable as JSONL: {error}") from None


def _listed(source: Any, *names: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(source, str | os.PathLike) and str(source).endswith(".jsonl"):
        yield from _lines(source)
        return
    found = _whole(source)
    if isinstance(found, Mapping):
        found = next((found[n] for n in names if n in found), None)
    if found is None or isinstance(found, str | Mapping) or not isinstance(found, Iterable):
        raise InvalidArgument(f"source: a list is needed, or an object with {' or '.join(names)}")
    for number, entry in enumerate(found):
        yield _mapping(entry, f"entry {number}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None and where.startswith("line"):
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{where}: an object is needed, not {value!r:.80}")
    return value


def _text(value: Any) -> str:
    """The words of a content: a string, or parts, with a note in the place of what is no text."""
    try:
        return content_of(value).text.strip()
    except InvalidArgument:
        return ""


def _role(value: Any) -> str | None:
    return _ROLES.get(str(value).lower().rpartition(".")[2])


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _words(value: Any) -> tuple[str, ...]:
    several = [value] if isinstance(value, str) else value if isinstance(value, Iterable) else ()
    return tuple(dict.fromkeys(v for v in several if isinstance(v, str) and v))


def _labels(value: Any) -> Namespace:
    if isinstance(value, str):
        return tuple(v for v in value.split("/") if v)
    return _words(value)


def _when(value: Any) -> tuple[datetime | None, dict[str, Any]]:
    """A time in UTC, or its words where they say no timezone."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        if found.utcoffset() is not None:
            return found.astimezone(UTC), {}
    except (ValueError, OverflowError):
        pass
    return None, {"created_at": str(value)} if value else {}


def _named(said: Mapping[str, Any]) -> str:
    """A name for what came without one: the same for the same."""
    return sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:32]
