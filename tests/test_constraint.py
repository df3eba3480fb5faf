"""Answers of a given form: a network that knows nothing still writes what can be read, and only that."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from memos_core import InvalidArgument, LocalModel, ModelTimeout, Unsupported, read_answer
from memos_core.constraint import closed
from tests.networks import random_model

pytest.importorskip("llguidance", reason="needs the extra local")

ASKED = [{"role": "user", "content": "Go on."}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                   "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2}},
    "required": ["name", "age"],
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "greet", "description": "Greets.", "parameters": PERSON}},
    {"type": "function", "function": {"name": "wait", "description": "Waits.", "parameters": {"type": "object", "properties": {}}}},
]  # fmt: skip
LLAMA = (
    '{% if tools %}{{ \'Answer {"name": function name, "parameters": object}\' }}{% endif %}'
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return random_model()


def written(model: LocalModel, **options: Any) -> str:
    found = model.generate(ASKED, **{"max_tokens": 300, "temperature": 1.0, **options})
    assert found.finish == "stop"
    return found.text


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_with_a_schema_is_json_that_fits_it(model: LocalModel, seed: int) -> None:
    found = json.loads(written(model, schema=PERSON, seed=seed))
    assert set(found) - {"tags"} == {"name", "age"}
    assert 0 <= found["age"] <= 150
    assert len(found["name"]) <= 12


def test_without_the_schema_it_is_none(model: LocalModel) -> None:
    with pytest.raises(ValueError, match=r".+"):
        json.loads(model.generate(ASKED, max_tokens=300, temperature=1.0, seed=0).text)


def test_greedy_answers_are_held_too_and_the_same_each_time(model: LocalModel) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    one = written(model, schema=schema, temperature=0)
    assert json.loads(one)["n"] in (True, False)
    assert written(model, schema=schema, temperature=0) == one


@pytest.mark.parametrize("template", ["chatml", "llama"])
@pytest.mark.parametrize("choice", ["any", "greet", "wait"])
def test_a_forced_call_is_one_call_of_a_chosen_tool_in_the_models_own_form(template: str, choice: str) -> None:
    model = random_model() if template == "chatml" else random_model(template=LLAMA)
    said = written(model, tools=TOOLS, tool_choice=choice, seed=1)
    assert said.startswith("<tool_call>\n{" if template == "chatml" else '{"name": "')
    assert ('"arguments": ' if template == "chatml" else '"parameters": ') in said
    found = read_answer(said, TOOLS)
    assert found.text == ""
    [call] = found.calls
    assert call.name in (("greet", "wait") if choice == "any" else (choice,))
    assert call.name == "greet" or call.arguments == {}


def test_a_tag_that_is_one_token_is_drawn_as_one() -> None:
    model = random_model(words=("<tool_call>", "</tool_call>"), seed=1)
    hot = {"tools": TOOLS, "tool_choice": "wait", "temperature": 50.0, "max_tokens": 200}
    firsts = {model.generate(ASKED, seed=s, **hot).ids[0] for s in range(4)}
    assert firsts == {model.tokenizer.convert_tokens_to_ids("<tool_call>")}


def test_what_is_cut_off_says_so_and_is_no_call(model: LocalModel) -> None:
    found = model.generate(ASKED, tools=TOOLS, tool_choice="greet", max_tokens=50, temperature=1.0, seed=0)
    assert found.finish == "length"
    assert read_answer(found.text, TOOLS).calls == ()
    assert read_answer(found.text, TOOLS).broken


def test_each_answer_of_a_batch_is_held_by_itself(model: LocalModel) -> None:
    asked = [ASKED, [{"role": "user", "content": "And now another one, please."}]]
    found = model.generate_batch(asked, schema=PERSON, max_tokens=300, temperature=1.0, seed=1)
    assert [set(json.loads(f.text)) - {"tags"} for f in found] == [{"name", "age"}] * 2
    assert found[0].text != found[1].text


def test_objects_hold_nothing_that_the_schema_does_not_name_unless_it_says_so(model: LocalModel) -> None:
    named = {"type": "object", "properties": {"in": {"type": "object", "properties": {}}}, "required": ["in"]}
    assert {written(model, schema=named, seed=s) for s in range(3)} == {'{"in": {}}'}
    free = {"type": "object", "properties": {"all": {"type": "object", "additionalProperties": {"type": "integer"}}}}
    assert closed(free) == {**free, "additionalProperties": False}
    says_so = {
        "$defs": {"A": {"properties": {}, "additionalProperties": True}},
        "items": {"anyOf": [{"properties": {}}]},
    }
    assert closed(says_so)["$defs"] == says_so["$defs"]
    assert closed(says_so)["items"] == {"anyOf": [{"properties": {}, "additionalProperties": False}]}


def test_with_tools_and_a_schema_the_answer_is_json_or_a_call(model: LocalModel) -> None:
    said = [written(model, tools=TOOLS, schema=PERSON, seed=s, temperature=20.0) for s in range(8)]
    calls = [read_answer(s, TOOLS).calls for s in said]
    assert any(calls)
    assert [json.loads(s)["age"] for s, called in zip(said, calls, strict=True) if not called]


def test_the_answer_does_not_depend_on_what_is_held(model: LocalModel) -> None:
    answers = [random_model().generate(ASKED, schema=PERSON, max_tokens=300, temperature=1.0, seed=3) for _ in range(2)]
    warm = random_model()
    warm.generate(ASKED, max_tokens=1)
    answers.append(warm.generate(ASKED, schema=PERSON, max_tokens=300, temperature=1.0, seed=3))
    assert answers[2].usage.cached > 0
    assert len({a.text for a in answers}) == 1


WRONG: dict[str, Callable[[LocalModel], Any]] = {
    "tool_choice: 'sing' is none of greet, wait": lambda m: m.generate(ASKED, tools=TOOLS, tool_choice="sing"),
    "tool_choice: 'any' is none of no tools": lambda m: m.generate(ASKED, tool_choice="any"),
    "give one of them": lambda m: m.generate(ASKED, tools=TOOLS, tool_choice="any", schema=PERSON),
    "no grammar": lambda m: m.generate(ASKED, schema={"type": "nothing"}),
    "schema: a JSON schema is needed": lambda m: m.generate(ASKED, schema="object"),
    "seconds": lambda m: m.generate(ASKED, timeout=0),
}


@pytest.mark.parametrize("message", sorted(WRONG))
def test_a_form_that_cannot_be_is_refused(model: LocalModel, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        WRONG[message](model)


def test_tools_are_refused_by_a_model_that_would_never_see_them() -> None:
    plain = random_model(template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert not plain.calls_tools
    assert random_model().calls_tools
    with pytest.raises(Unsupported, match="knows no tools"):
        plain.generate(ASKED, tools=TOOLS)


def test_an_answer_that_takes_too_long_is_broken_off(model: LocalModel) -> None:
    pieces = model.stream(ASKED, timeout=1e-9, max_tokens=500, temperature=1.0)
    with pytest.raises(ModelTimeout, match="no end"):
        list(pieces)
    with pytest.raises(TimeoutError):
        model.generate(ASKED, timeout=1e-9, max_tokens=500, temperature=1.0)
