"""What other systems export becomes memories: all of it that is one, once, with what was known of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memos_core import InvalidArgument, MemOS, SourceKind, importers
from tests.conftest import Clock

MEM0 = {
    "results": [
        {"id": "a1", "memory": "Likes green tea", "user_id": "dev", "metadata": {"type": "preference"}, "categories": ["food"],
         "created_at": "2025-07-01T10:00:00-07:00", "updated_at": None, "hash": "x"},
        {"id": "a2", "memory": "Works at night", "user_id": "dev", "agent_id": "bot", "metadata": None, "created_at": "2025-07-02T10:00:00"},
    ]
}  # fmt: skip
LETTA = {
    "agents": [
        {"id": "agent-0", "name": "Ada", "block_ids": ["block-0"], "messages": [
            {"id": "message-0", "role": "system", "content": [{"type": "text", "text": "You are Ada."}]},
            {"id": "message-1", "role": "user", "content": [{"type": "text", "text": "I take my tea black."}], "created_at": "2025-05-01T09:00:00+00:00"},
            {"id": "message-2", "role": "assistant", "content": [{"type": "text", "text": "Noted."}], "created_at": "2025-05-01T09:00:05+00:00"},
            {"id": "message-3", "role": "tool", "content": "{}"},
        ]},
    ],
    "blocks": [{"id": "block-0", "label": "human", "value": "Name: Sam", "description": "about the user"}],
    "passages": [{"id": "passage-0", "text": "Sam was born in Rome.", "tags": ["life"], "created_at": "2025-05-02T09:00:00Z"}],
}  # fmt: skip
OLD_LETTA = {
    "agent_type": "memgpt_agent", "name": "Old", "core_memory": [{"label": "persona", "value": "I am kind."}],
    "messages": [{"role": "user", "text": "Hello there", "created_at": "2024-01-01T00:00:00"}],
}  # fmt: skip
CHATS = {
    "store": {
        "monday": [
            {"role": "user", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": "Is tea good?"}]},
            {"role": "assistant", "additional_kwargs": {"tool_calls": []}, "blocks": []},
            {"role": "assistant", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": "It is."}]},
        ],
        "tuesday": [{"role": "MessageRole.USER", "content": "An older form"}],
    },
    "class_name": "SimpleChatStore",
}  # fmt: skip
ITEMS = [
    {"namespace": ["users", "ann"], "key": "food", "value": {"likes": "tea"}, "created_at": "2025-01-01T00:00:00+00:00", "score": None},
    {"namespace": ["users", "bob"], "key": "food", "value": {"likes": "coffee", "n": 3}},
]  # fmt: skip
LINES = [
    {"text": "I like tea", "id": 1, "tags": ["drink"], "mood": "good"},
    {"content": "Hello", "role": "user", "name": "Sam", "session": "s", "timestamp": "2025-01-01T00:00:00+01:00"},
    {"content": "Hi", "role": "assistant", "session": "s", "namespace": "a/b", "attributes": {"x": 1}, "source": "chatlog"},
]  # fmt: skip


def brought(memory: MemOS, memories: Any, **how: Any) -> dict[str, Any]:
    memory.bring_in(memories, **how)
    return {r.cube.text: r.cube for r in memory._vault.rows("version > 0")}


def test_mem0s_memories_keep_whose_they_were_and_what_was_said_of_them(memory: MemOS) -> None:
    found = brought(memory, importers.mem0(MEM0))
    tea, night = found["Likes green tea"], found["Works at night"]
    assert tea.namespace == ("default", "dev")
    assert tea.attributes == {"type": "preference", "user_id": "dev"}
    assert tea.tags == ("food",)
    assert tea.origin.occurred_at == datetime(2025, 7, 1, 17, tzinfo=UTC)
    assert (tea.origin.kind, tea.origin.source, tea.access.owner) == (SourceKind.IMPORT, "mem0", "ann")
    assert night.namespace == ("default", "dev", "bot")
    assert night.origin.occurred_at is None  # whose clock it was is not said
    assert night.attributes["created_at"] == "2025-07-02T10:00:00"
    assert memory.search("green tea")[0].cube == tea


def test_an_agent_file_gives_blocks_turns_in_order_and_passages(memory: MemOS) -> None:
    found = brought(memory, importers.letta(LETTA))
    assert set(found) == {"I take my tea black.", "Noted.", "Name: Sam", "Sam was born in Rome."}
    first, second = found["I take my tea black."], found["Noted."]
    assert [(c.origin.role, c.origin.session, c.origin.position) for c in (first, second)] == [
        ("user", "Ada", 0),
        ("assistant", "Ada", 1),
    ]
    assert (found["Name: Sam"].semantic_type, found["Name: Sam"].tags) == ("block", ("human",))
    assert found["Sam was born in Rome."].tags == ("life",)
    assert set(brought(memory, importers.letta(OLD_LETTA))) == {*found, "I am kind.", "Hello there"}


def test_a_chat_store_gives_its_sessions(memory: MemOS) -> None:
    found = brought(memory, importers.llamaindex(CHATS))
    assert set(found) == {"Is tea good?", "It is.", "An older form"}
    assert (found["It is."].origin.session, found["It is."].origin.position) == ("monday", 1)
    assert found["An older form"].origin.role == "user"


def test_items_of_a_store_are_items_under_their_names(memory: MemOS) -> None:
    assert memory.bring_in(importers.langgraph(ITEMS), namespace=("shelf",)) == (2, 2)
    [item] = memory.items.get([(("shelf", "users", "bob"), "food")])
    assert item is not None
    assert item.attributes == {"likes": "coffee", "n": 3}
    assert memory.items.search("tea", ("shelf",))[0].cube.attributes == {"likes": "tea"}
    assert memory.bring_in(importers.langgraph(ITEMS), namespace=("shelf",)) == (2, 0)


def test_lines_of_json_give_what_they_say_and_what_else_is_in_them(memory: MemOS, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    found = brought(memory, importers.jsonl(file))
    assert found["I like tea"].attributes == {"mood": "good"}
    assert found["Hello"].origin.occurred_at == datetime(2024, 12, 31, 23, tzinfo=UTC)
    assert (found["Hello"].origin.speaker, found["Hello"].origin.position, found["Hi"].origin.position) == ("Sam", 0, 1)
    assert (found["Hi"].namespace, found["Hi"].attributes, found["Hi"].origin.source) == (
        ("default", "a", "b"),
        {"x": 1},
        "chatlog",
    )


@pytest.mark.parametrize(
    ("reader", "export"),
    [("mem0", MEM0), ("letta", LETTA), ("llamaindex", CHATS), ("jsonl", LINES), ("langgraph", ITEMS)],
)
def test_bringing_in_twice_is_once(reader: str, export: Any, memory: MemOS, tmp_path: Path) -> None:
    file = tmp_path / "export.json"
    file.write_text("\n".join(map(json.dumps, export)) if reader == "jsonl" else json.dumps(export))
    read = importers.READERS[reader]
    count, new = memory.bring_in(read(file))
    assert count == new > 1
    before = memory.stats().memories, memory.log(limit=1000)
    assert memory.bring_in(read(file)) == (count, 0)
    assert (memory.stats().memories, memory.log(limit=1000)) == before


def test_what_says_something_else_there_gets_a_version_and_what_was_changed_here_stays(
    memory: MemOS, clock: Clock
) -> None:
    tea = brought(memory, importers.mem0(MEM0))["Likes green tea"]
    clock.forward(hours=1)
    changed = [{**MEM0["results"][0], "memory": "Likes black tea"}]
    assert memory.bring_in(importers.mem0(changed)) == (1, 1)
    assert [c.text for c in memory.history(tea.id)] == ["Likes green tea", "Likes black tea"]
    memory.update(tea.id, "Likes no tea")
    assert memory.bring_in(importers.mem0(MEM0)) == (2, 0)
    assert memory.get(tea.id).text == "Likes no tea"


def test_memories_are_the_actors_who_brought_them_in(memory: MemOS) -> None:
    memory.bring_in(importers.mem0(MEM0), actor="bob")
    assert memory.search("tea") == []
    assert len(memory.search("tea", actor="bob")) == 2


@pytest.mark.parametrize(
    ("reader", "export"),
    [
        ("mem0", {"nothing": []}), ("mem0", [{"id": 1}]), ("mem0", "[1]"), ("mem0", '{"results": "x"}'), ("letta", "[]"), ("llamaindex", "{}"),
        ("langgraph", [{"namespace": ["a"], "value": {}}]), ("langgraph", [{"namespace": ["a"], "key": "k", "value": 3}]), ("jsonl", [{"id": 1}]),
        ("mem0", "{"), ("jsonl", "{"), ("jsonl", "[" * 100_000), ("mem0", "[" * 100_000),
    ],
)  # fmt: skip
def test_what_is_no_export_is_refused_and_nothing_is_written(
    reader: str, export: Any, memory: MemOS, tmp_path: Path
) -> None:
    if isinstance(export, str):
        (tmp_path / "export").write_text(export)
        export = tmp_path / "export"
    with pytest.raises(InvalidArgument):
        memory.bring_in(importers.READERS[reader](export))
    with pytest.raises(InvalidArgument):
        memory.bring_in(importers.READERS[reader](tmp_path / "absent"))
    assert memory.stats().memories == 0


def test_many_come_in_few_commits(memory: MemOS) -> None:
    lines = ({"text": f"tea number {n}", "id": f"n{n}"} for n in range(1_200))
    heard: list[int] = []
    assert memory.bring_in(importers.jsonl(lines), progress=lambda done, total: heard.append(done)) == (1_200, 1_200)
    assert heard == [500, 1_000, 1_200]
    assert memory.stats().memories == 1_200


def test_lines_that_only_call_tools_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "tea?"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "model", "content": "With lemon."},
    ]
    with caplog.at_level("WARNING", "memos_core"):
        assert [(m.role, m.text) for m in importers.jsonl(lines)] == [
            ("user", "tea?\n[image]"),
            ("assistant", "With lemon."),
        ]
    assert "1 messages that only call tools" in caplog.text
