"""Conversations as the providers write them: their text is stored, a note stands for what is no text, and what is left out is told."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import IllegalTransition, InvalidArgument, MemOS
from memos_core.content_parts import content_of
from memos_core.reader import heard

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
OPENAI: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "a teapot"},
    {"role": "function", "name": "look", "content": "a blue teapot"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
    {"role": "assistant", "content": None, "refusal": "I cannot say whose it is."},
    {"role": "model", "content": "A blue teapot."},
]  # fmt: skip


def test_an_openai_conversation_is_stored_without_its_calls_and_says_so(
    memory: MemOS, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "memos_core"):
        cubes = memory.add(OPENAI)
    assert [(c.origin.role, c.text) for c in cubes] == [
        ("system", "Be brief."), ("user", "What is this?\n[image]"), ("tool", "a teapot"), ("tool", "a blue teapot"),
        ("assistant", "I cannot say whose it is."), ("assistant", "A blue teapot."),
    ]  # fmt: skip
    told = "3 x call of a tool, 1 x image"
    assert told in caplog.text
    assert [e.detail.rpartition(": ")[2] for e in memory.log(verb="add") if e.detail] == [told]
    assert "data:x" not in repr([cubes, caplog.text, memory.log()])
    assert [c.id for c in memory.add(OPENAI)] == [c.id for c in cubes]


@pytest.mark.parametrize(
    ("content", "text", "left_out"),
    [
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "a\nb", ""),
        ([{"type": "input_image", "image_url": "x"}], "[image]", "1 x image"),
        ([{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}], "[audio]", "1 x audio"),
        ([{"type": "file", "file": {"filename": "tea.pdf", "file_data": "x"}}], "[file: tea.pdf]", "1 x file"),
        ([{"type": "input_file", "file_id": "x"}], "[file]", "1 x file"),
        ([{"type": "refusal", "refusal": "No."}], "No.", ""),
        ([{"type": "image", "source": {"type": "base64", "data": "x"}}, {"type": "text", "text": "a"}], "[image]\na", "1 x image"),
        ([{"type": "document", "title": "tea", "source": {"type": "text", "data": "Tea is hot."}}], "[file: tea]\nTea is hot.", "1 x file"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "tool_use", "name": "x", "input": {}}], "a", "1 x call of a tool, 1 x thought"),
        ([{"text": "a", "thought": True}, {"text": "b"}, {"inline_data": {"mime_type": "image/png", "data": "x"}}], "b\n[image]", "1 x image, 1 x thought"),
        ([{"fileData": {"mimeType": "application/pdf", "displayName": "b.pdf"}}], "[file: b.pdf]", "1 x file"),
        ([{"functionCall": {"name": "x"}}, {"text": "a"}], "a", "1 x call of a tool"),
        ([{"image": {"format": "png", "source": {"bytes": "x"}}}, {"text": "a"}], "[image]\na", "1 x image"),
        ([{"block_type": "text", "text": "a"}, {"block_type": "video", "url": "x"}], "a\n[video]", "1 x video"),
        ([{"type": "hologram", "data": "x"}], "[hologram]", "1 x hologram"),
        (["a", {"type": "text", "text": ""}, "b"], "a\nb", ""),
        ({"type": "text", "text": "a"}, "a", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["content", "parts"])
def test_parts_are_text_and_notes(content: Any, text: str, left_out: str, field: str) -> None:
    [turn], told = heard([{"role": "user", field: content}])
    assert (turn.text, told) == (text, left_out)


def test_a_message_of_tool_results_is_the_tools(memory: MemOS) -> None:
    result = {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "21 degrees"}]}
    said = [
        {"role": "user", "content": [result]},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
        {"type": "function_call", "name": "x", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "x", "output": "22 degrees"},
        {"role": "user", "parts": [{"functionResponse": {"name": "x", "response": {"output": "23 degrees"}}}]},
        {"type": "reasoning", "summary": []},
    ]
    turns, told = heard(said)
    assert [(t.role, t.text) for t in turns] == [
        ("tool", "21 degrees"), ("user", "So?"), ("tool", "22 degrees"), ("tool", "23 degrees"),
    ]  # fmt: skip
    assert told == "1 x call of a tool, 1 x thought, 1 x tool result"


@pytest.mark.parametrize(
    "nothing",
    [{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "user", "content": ""}, {"role": "user"}, {"role": "ai", "content": []}],
)  # fmt: skip
def test_what_holds_nothing_to_store_is_refused_whole(memory: MemOS, nothing: dict[str, Any]) -> None:
    for content in (nothing, [nothing, nothing]):
        with pytest.raises(InvalidArgument, match="no text"):
            memory.add(content)
    assert memory.log() == []


@pytest.mark.parametrize(
    "bad", [{"role": "user", "content": 7}, {"role": "user", "content": [7]}, {"role": "pirate", "content": "x"}]
)
def test_what_is_no_message_is_refused_by_its_place(memory: MemOS, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"content\[1\]"):
        memory.add(["fine", bad])


part = st.recursive(
    st.dictionaries(st.sampled_from(["type", "text", "content", "source", "image", "name", "functionCall", "output"]),
                    st.one_of(st.none(), st.sampled_from(["text", "image", "tool_result", "tool_use", "thinking", "odd"]), st.text(max_size=5))),
    lambda inner: st.dictionaries(st.sampled_from(["type", "content", "source", "file", "output"]), st.one_of(inner, st.lists(inner, max_size=2))),
    max_leaves=4,
)  # fmt: skip


@given(st.lists(st.one_of(st.text(max_size=5), part), max_size=4))
def test_every_part_is_text_or_counted(parts: list[Any]) -> None:
    try:
        said = content_of(parts)
    except InvalidArgument:
        return
    assert all(p in said.text for p in parts if isinstance(p, str) and p.strip())
    assert set(said.words.split()) <= set(said.text.split())


def test_a_frozen_message_that_comes_with_other_words_costs_the_others_nothing(memory: MemOS) -> None:
    [home] = memory.add({"role": "user", "content": "I live in Porto", "id": "h1"}, session="s")
    memory.freeze(home.id)
    said = [
        {"role": "user", "content": "I live in Braga", "id": "h1"},
        {"role": "user", "content": "And now?", "id": "h2"},
    ]
    assert [c.text for c in memory.add(said, session="s")] == ["I live in Porto", "And now?"]
    assert [e.outcome for e in memory.log(verb="update")] == ["failed"]
    twice = [said[0], {**said[0], "content": "I live in Faro"}, {"role": "user", "content": "And later?", "id": "h3"}]
    assert [c.text for c in memory.add(twice, session="s")][-1] == "And later?"
    assert memory.get(home.id).text == "I live in Porto"
    with pytest.raises(IllegalTransition):
        memory.add(said[0], session="s")


def test_an_archived_message_that_comes_with_other_words_is_found_again(memory: MemOS) -> None:
    [home] = memory.add({"role": "user", "content": "I live in Porto", "id": "h1"}, session="s")
    memory.share(home.id, readers=["bob"])
    memory.archive(home.id)
    memory.add({"role": "user", "content": "I live in Braga", "id": "h1"}, session="s")
    for actor in ("ann", "bob"):
        assert [h.cube.text for h in memory.search("Where do I live?", actor=actor)] == ["I live in Braga"]
