"""Answers of models as text, reasoning and calls: each family's way of writing them, whole and in pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import Answer, AnswerReader, AnswerStream, BrokenCall, ToolCall, read_answer
from tests.networks import CHATML, reciting_model


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


ADD = tool("add", a={"type": "integer"}, b={"type": "integer"})
NOTE = tool(
    "note", text={"type": "string"}, tags={"type": "array"}, about={"anyOf": [{"type": "string"}, {"type": "null"}]}
)
TOOLS = [ADD, NOTE]
SUM = ToolCall("add", {"a": 1, "b": 2})


def in_pieces(text: str, size: int) -> Answer:
    reader = AnswerReader(TOOLS)
    let_go = [reader.feed(text[i : i + size]) for i in range(0, len(text), size)] + [reader.end()]
    assert "".join(t for t, _ in let_go) == reader.answer.text
    assert "".join(r for _, r in let_go) == reader.answer.reasoning
    return reader.answer


WAYS = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
    "hermes, not closed, since a token ended it": '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}',
    "arguments as a string": '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}</tool_call>',
    "a brace too few": '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}</tool_call>',
    "python's quotes": "<tool_call>{'name': 'add', 'arguments': {'a': 1, 'b': 2}}</tool_call>",
    "openai's": '<tool_call>{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}</tool_call>',
    "llama": '{"name": "add", "parameters": {"a": 1, "b": 2}}',
    "llama's typed": '{"type": "function", "name": "add", "parameters": {"a": 1, "b": 2}}',
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}}]',
    "mistral without its token": '[{"name": "add", "arguments": {"a": 1, "b": 2}}]',
    "fenced": '```json\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n```',
    "in tags": "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>",
    "in tags, bare": "<function=add><parameter=a>1</parameter><parameter=b>2</parameter></function>",
}


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_each_way_of_writing_a_call_is_read_whole_and_in_pieces(way: str, size: int) -> None:
    assert in_pieces(WAYS[way], size) == Answer("", calls=(SUM,))


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_text_reasoning_and_several_calls_come_apart(size: int) -> None:
    said = f"<think>\nTwo sums.\n</think>\n\nLet me add.\n{WAYS['hermes']}\n{WAYS['in tags']}\nDone."
    assert in_pieces(said, size) == Answer("Let me add.Done.", "Two sums.", (SUM, SUM))


def test_several_calls_may_stand_between_one_pair_of_tags_and_in_one_list() -> None:
    one = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
    for said in (f"<tool_call>\n{one}\n{one}\n</tool_call>", f"<tool_call>[{one}, {one}]</tool_call>", f"{one}; {one}"):
        assert read_answer(said, TOOLS).calls == (SUM, SUM)


def test_characters_of_any_script_stay_what_they_are() -> None:
    call = json.dumps({"name": "note", "arguments": {"text": "你好 “ß” \U0001f600\n"}}, ensure_ascii=False)
    assert read_answer(f"<tool_call>{call}</tool_call>", TOOLS).calls[0].arguments == {"text": "你好 “ß” \U0001f600\n"}


def test_a_parameter_in_tags_is_text_where_the_schema_says_so_and_json_elsewhere() -> None:
    said = "<function=note><parameter=text>\n12\n</parameter><parameter=tags>[1]</parameter><parameter=about>null</parameter></function>"
    assert read_answer(said, TOOLS).calls == (ToolCall("note", {"text": "12", "tags": [1], "about": None}),)


def test_without_tools_nothing_is_a_call() -> None:
    for said in WAYS.values():
        assert read_answer(said) == Answer(said)


@pytest.mark.parametrize(
    "said",
    ['{"name": "Ann", "age": 3}', '{"name": "Ann"}', "[1] says so.", "[]", "{}", "```json\n{}\n```", '{"name": "add", "parameters": {"a": 1',
     "<function=add><parameter=a>1", "Use <tool> or <tool_cal", "  two  ", ""],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_no_call_of_a_tool_stays_text(said: str, size: int) -> None:
    assert in_pieces(said, size) == Answer(said)


def test_a_call_of_a_tool_that_there_is_not_is_a_call_between_tags_and_text_without() -> None:
    call = '{"name": "sub", "arguments": {}}'
    assert read_answer(f"<tool_call>{call}</tool_call>", TOOLS).calls == (ToolCall("sub", {}),)
    assert read_answer(call, TOOLS) == Answer(call)


@pytest.mark.parametrize(
    ("body", "name", "problem"),
    [('{"name": "add", "arguments": {"a": 1', "add", "cut off"), ('{"name": "add", "argu', None, "cut off"), ("", None, "cut off"),
     ('{"name": "add", "arguments": [1]}', "add", "no object"), ('{"arguments": {}}', None, "no name"), ("[3]", None, "an object")],
)  # fmt: skip
def test_a_broken_call_is_told_with_the_models_words(body: str, name: str | None, problem: str) -> None:
    text = f"<tool_call>{body}" + ("" if problem == "cut off" else "</tool_call>")
    found = read_answer(text, TOOLS)
    assert (found.text, found.calls) == ("", ())
    [broken] = found.broken
    assert broken == BrokenCall(broken.name, text, broken.problem)
    assert problem in broken.problem
    assert broken.name in (name, None)


def test_a_call_inside_reasoning_is_none() -> None:
    said = f"<think>{WAYS['hermes']}</think>Three."
    assert read_answer(said, TOOLS).calls == ()
    assert read_answer(said, TOOLS).text == "Three."
    assert read_answer("<think>Hm, let me", TOOLS) == Answer("", "Hm, let me")


def test_reasoning_that_the_template_began_is_begun_in_the_answer_too() -> None:
    model = reciting_model(
        "Easy.</think>\n\nFour.",
        template=CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif"),
    )
    asked = [{"role": "user", "content": "2 + 2?"}]
    assert model.prompt(asked).text.endswith("<think>\n")
    said = model.generate(asked)
    assert read_answer(said.text) == Answer("Four.", "Easy.")
    assert "".join(model.stream(asked)) == said.text


def test_text_is_let_go_of_as_soon_as_it_can_be_nothing_else() -> None:
    reader = AnswerReader(TOOLS)
    assert [reader.feed(p) for p in ("Hel", "lo <", "b> ", "you")] == [
        ("Hel", ""),
        ("lo", ""),
        (" <b>", ""),
        (" you", ""),
    ]


@given(st.text(max_size=60), st.integers(1, 20))
def test_any_text_is_read_alike_whole_and_in_pieces(text: str, size: int) -> None:
    assert in_pieces(text, size) == read_answer(text, TOOLS)
    assert read_answer(text).text == text or text.lstrip().startswith("<think>")


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.one_of(st.text(max_size=30), st.integers(), st.booleans(), st.none()), max_size=4),
    st.text(alphabet="abc <>\n", max_size=12), st.integers(1, 20),
)  # fmt: skip
def test_any_arguments_come_back_as_they_were_written(arguments: dict[str, Any], before: str, size: int) -> None:
    call = json.dumps({"name": "add", "arguments": arguments}, ensure_ascii=False)
    if "</tool_call>" not in call:
        assert in_pieces(f"{before}<tool_call>\n{call}\n</tool_call>", size).calls == (ToolCall("add", arguments),)


def drawn(*pieces: str) -> Generator[str, None, int]:
    yield from pieces
    return len(pieces)


def test_an_answer_is_read_on_the_way_and_then_is_there() -> None:
    with AnswerStream(drawn("<think>Sum.", "</think>I ad", "d.", WAYS["hermes"], WAYS["hermes"]), TOOLS) as told:
        assert list(told) == [("", "Sum."), ("I ad", ""), ("d.", "")]
    assert told.answer == Answer("I add.", "Sum.", (SUM, SUM))
    assert told.result == 5
    first = AnswerStream(drawn(WAYS["hermes"] * 2), TOOLS, parallel=False).read()
    assert first.answer.calls == (SUM,)


def test_closing_stops_the_model_and_whoever_reads() -> None:
    steps: list[int] = []

    def on_and_on() -> Generator[str, None, None]:
        try:
            for i in itertools.count():
                steps.append(i)
                yield "word "
        finally:
            steps.append(-1)

    told = AnswerStream(on_and_on())
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(told.read)
        while not steps:
            pass
        told.close()
        assert reading.result(timeout=20) is told
    assert steps[-1] == -1
    assert list(told) == []
    told.close()


def test_what_the_model_raises_arrives_where_it_is_read() -> None:
    def failing() -> Generator[str, None, None]:
        yield "word"
        raise ValueError("no more")

    told = AnswerStream(failing())
    assert next(told) == ("word", "")
    with pytest.raises(ValueError, match="no more"):
        next(told)
