"""ChatMemOS: what reaches the model, what comes back, and who else is let in on it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypedDict

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")
pytest.importorskip("torch", reason="needs the extra local")
pytest.importorskip("llguidance", reason="needs the extra local")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from pydantic import BaseModel

from langchain_memos import ChatMemOS
from memos_core import (
    ContextTooLong,
    InvalidArgument,
    LocalModel,
    ModelTimeout,
    ModelUnavailable,
    Unsupported,
)
from tests.langchain.speaking import SUM, Person, add, chat, each_way, streamed
from tests.networks import random_model, reciting_model


@pytest.fixture(scope="module")
def noise() -> LocalModel:
    return random_model()


# --- what reaches the model --------------------------------------------------------------------------------------------


def test_each_kind_of_message_reaches_the_model_in_its_role() -> None:
    model, said = chat()
    call = {"name": "add", "args": {"a": 1, "b": "é"}, "id": "1", "type": "tool_call"}
    model.invoke(
        [
            SystemMessage("Be kind."), HumanMessage([{"type": "text", "text": "1 + "}, "2?"]), AIMessage("", tool_calls=[call]),
            ToolMessage([{"type": "text", "text": "3"}], tool_call_id="1"), AIMessage([{"type": "thinking", "thinking": "hm"}, "Three."]),
            SystemMessage("Be brief."), ChatMessage("And now?", role="user"),
        ]
    )  # fmt: skip
    assert said.prompts == [
        "<|im_start|>system\nBe kind.\n\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 2?<|im_end|>\n"
        '<|im_start|>assistant\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ]


def test_a_tools_failure_says_so_and_a_broken_call_is_put_back_into_words() -> None:
    model, said = chat()
    failed = [ToolMessage(text, tool_call_id="1", status="error") for text in ("no such file", "Error: full")]
    broken = AIMessage(
        "Well.",
        invalid_tool_calls=[
            {"name": "add", "args": "<tool_call>{", "id": "2", "error": None, "type": "invalid_tool_call"}
        ],
    )
    model.invoke([HumanMessage("Go."), *failed, broken])
    assert "tool\nError: no such file<" in said.prompts[0]
    assert "tool\nError: full<" in said.prompts[0]
    assert "assistant\nWell.<tool_call>{<" in said.prompts[0]


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage([{"type": "image", "url": "https://example.org/a.png"}]),
        RemoveMessage(id="1"),
        HumanMessage("\ud800"),
    ],
)
def test_what_a_model_of_text_cannot_take_is_refused(message: Any) -> None:
    model, said = chat()
    with pytest.raises(InvalidArgument, match=r"messages|text"):
        model.invoke([message])
    assert said.prompts == []


def test_tools_reach_the_model_through_its_template_however_they_are_given() -> None:
    class Adder(TypedDict):
        """Adds."""

        a: int

    def plain(a: int) -> int:
        """Adds plainly."""
        return a

    schema = {"title": "schemed", "description": "Adds.", "type": "object", "properties": {"a": {"type": "integer"}}}
    model, said = chat()
    model.bind_tools([add, Person, Adder, plain, schema]).invoke("Hello.")
    shown = [
        json.loads(line)["function"]["name"] for line in said.prompts[0].splitlines() if line.startswith('{"type"')
    ]
    assert shown == ["add", "Person", "Adder", "plain", "schemed"]
    model.bind_tools([add], tool_choice="none").invoke("Hello again.")
    assert "add" not in said.prompts[1]


# --- what comes back ---------------------------------------------------------------------------------------------------


@each_way
def test_an_answer_is_the_models_with_what_it_took(ask: Callable[..., AIMessage], noise: LocalModel) -> None:
    model = ChatMemOS(model=noise, max_tokens=30, temperature=1.0, seed=7)
    wanted = noise.generate([{"role": "user", "content": "Say it."}], max_tokens=30, temperature=1.0, seed=7)
    found = ask(model, "Say it.")
    assert found.text == wanted.text
    assert found.usage_metadata["output_tokens"] == wanted.usage.output
    assert found.usage_metadata["input_tokens"] == wanted.usage.input
    assert found.usage_metadata["total_tokens"] == wanted.usage.input + wanted.usage.output
    assert 0 < found.usage_metadata["input_token_details"]["cache_read"] < wanted.usage.input
    assert found.response_metadata["model_name"] == "random-qwen3"
    assert found.response_metadata["finish_reason"] == wanted.finish


@each_way
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_text_reasoning_and_calls_come_apart(ask: Callable[..., AIMessage], version: str) -> None:
    model, _ = chat(f"<think>\nA sum.\n</think>\n\nI add.\n{SUM}\n{SUM}", output_version=version)
    found = ask(model.bind_tools([add]), "1 + 2?")
    assert found.text == "I add."
    assert [c["args"] for c in found.tool_calls] == [{"a": 1, "b": 2}] * 2
    assert len({c["id"] for c in found.tool_calls} - {None}) == 2
    assert [b["type"] for b in found.content_blocks] == ["reasoning", "text", "tool_call", "tool_call"]
    assert found.content_blocks[0]["reasoning"] == "A sum."
    assert found.response_metadata["finish_reason"] == "tool_calls"
    assert len(ask(model.bind_tools([add], parallel_tool_calls=False), "1 + 2?").tool_calls) == 1


@each_way
def test_a_call_that_was_cut_off_is_invalid_and_none_that_could_be_run(ask: Callable[..., AIMessage]) -> None:
    model, _ = chat(SUM)
    found = ask(model.bind_tools([add]), "1 + 2?", max_tokens=len(SUM) - 20)
    assert found.tool_calls == []
    [broken] = found.invalid_tool_calls
    assert broken["args"].startswith('<tool_call>\n{"name": "add"')
    assert found.response_metadata["finish_reason"] == "length"
    again, said = chat()
    again.invoke([HumanMessage("1 + 2?"), found])
    assert broken["args"] in said.prompts[0]


def test_chunks_come_as_they_are_drawn_and_one_says_what_it_took(noise: LocalModel) -> None:
    heard: list[Any] = []

    class Listener(BaseCallbackHandler):
        def on_llm_new_token(self, token: Any, *, chunk: Any = None, **_: Any) -> None:
            heard.append((token, chunk.message))

    chunks = streamed(ChatMemOS(model=noise, max_tokens=30), "Say it.", config={"callbacks": [Listener()]})
    assert len([c for c in chunks if c.text]) > 5
    assert [message for _, message in heard] == chunks
    assert [c.usage_metadata is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [c.chunk_position for c in chunks] == [None] * (len(chunks) - 1) + ["last"]


def test_who_calls_for_tokens_by_hand_is_told_of_each() -> None:
    tokens: list[str] = []

    class Manager:
        def on_llm_new_token(self, token: str, *, chunk: Any) -> None:
            tokens.append(token)

        def get_sync(self) -> Any:
            return self

    model, _ = chat("One two.")
    list(model._stream([HumanMessage("Go.")], run_manager=Manager()))
    assert "".join(tokens) == "One two."


@each_way
def test_stop_strings_end_an_answer_and_are_not_in_it(ask: Callable[..., AIMessage]) -> None:
    model, _ = chat("One, two, three.", stop=[", three"])
    assert ask(model, "Count.").text == "One, two"
    assert ask(model, "Count.", stop=[" two"]).text == "One,"
    assert ask(model, "Count.", stop=[" four"]).text == "One, two, three."
    assert ask(model, "Count.", stop=["two"]).response_metadata["finish_reason"] == "stop"
    assert ask(ChatMemOS(model=model.model, stop="two"), "Count.").text == "One, "


@each_way
def test_what_is_given_to_a_call_holds_for_it(ask: Callable[..., AIMessage], noise: LocalModel) -> None:
    model = ChatMemOS(model=noise, max_tokens=40, temperature=1.0, seed=1)
    first = ask(model, "Say it.")
    assert ask(model, "Say it.", max_tokens=5).usage_metadata["output_tokens"] == 5
    assert ask(model.bind(seed=2), "Say it.").text != first.text
    assert ask(model, "Say it.", temperature=0).text == ask(model, "Say it.", temperature=0, seed=9).text
    assert ask(model, "Say it.").text == first.text


def test_many_are_answered_at_once_each_with_his_own() -> None:
    model = ChatMemOS(model=reciting_model(lambda prompt: "You said " + prompt.split("user\n")[-1].split("<")[0]))
    asked = [f"number {i} of them" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert [m.text for m in pool.map(model.invoke, asked * 2)] == [f"You said {a}" for a in asked * 2]
    assert [m.text for m in model.batch(asked)] == [f"You said {a}" for a in asked]
    assert [m.text for m in asyncio.run(model.abatch(asked))] == [f"You said {a}" for a in asked]


# --- threads, time, and ends -------------------------------------------------------------------------------------------


async def test_the_loops_thread_is_never_the_models() -> None:
    model, said = chat("A few words.")
    await model.ainvoke("Hello.")
    async for _ in model.astream("Hello again."):
        pass
    assert threading.get_ident() not in said.threads
    assert said.threads


async def test_a_stream_that_is_left_stops_the_model() -> None:
    model, said = chat("word " * 200, max_tokens=1000)
    stream = model.astream("Hello.")
    await anext(stream)
    await stream.aclose()
    steps = said.steps
    assert (await model.ainvoke("Hello.", max_tokens=3)).text == "wor"  # the model is free at once
    assert said.steps < steps + 10 < 200


async def test_a_task_that_is_cancelled_stops_the_model() -> None:
    begun = threading.Event()

    def say(_: str) -> str:
        begun.set()
        said.append(1)
        return "word " * 500

    said: list[int] = []
    model = ChatMemOS(model=reciting_model(say), max_tokens=2000)
    task = asyncio.create_task(model.ainvoke("Hello."))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    steps = len(said)
    assert (await model.ainvoke("Hello.", max_tokens=3)).text == "wor"
    assert len(said) < steps + 10 < 2000


def test_a_stream_that_is_left_keeps_what_was_read() -> None:
    model, _ = chat("word " * 50)
    for _ in model.stream("Hello, hello, hello."):
        break
    assert model.invoke("Hello, hello, hello.", max_tokens=1).usage_metadata["input_token_details"]["cache_read"] > 20


@each_way
def test_an_answer_that_takes_too_long_is_an_error(ask: Callable[..., AIMessage]) -> None:
    model, _ = chat("word " * 50, timeout=1e-9)
    with pytest.raises(ModelTimeout):
        ask(model, "Hello.")
    assert ask(model, "Hello.", timeout=60, max_tokens=4).text == "word"


@each_way
def test_a_prompt_that_is_too_long_is_an_error(ask: Callable[..., AIMessage]) -> None:
    model = ChatMemOS(model=random_model(window=100))
    with pytest.raises(ContextTooLong):
        ask(model, "x" * 100)


WRONG: dict[str, Callable[[LocalModel], Any]] = {
    "temperature": lambda m: ChatMemOS(model=m, temperature=-1),
    "max_tokens": lambda m: ChatMemOS(model=m, max_tokens=0),
    "top_p": lambda m: ChatMemOS(model=m, top_p=2),
    "stop": lambda m: ChatMemOS(model=m, stop=[""]),
    "timeout": lambda m: ChatMemOS(model=m, timeout=-3),
    "namespace": lambda m: ChatMemOS(model=m, namespace="app"),
    "memory_tokens": lambda m: ChatMemOS(model=m, memory_tokens=0),
    "user_id": lambda m: ChatMemOS(model=m, user_id=""),
    "embed": lambda m: ChatMemOS(model=m, embed=len),
    "model: a LocalModel": lambda _: ChatMemOS(model=3),
    "a LocalModel, or": lambda _: ChatMemOS(),
    "memory: a MemOS": lambda m: ChatMemOS(model=m, memory=3),
    "no temprature": lambda m: ChatMemOS(model=m).invoke("x", temprature=1),
    "is loaded": lambda m: ChatMemOS(model=m).invoke("x", model="another"),
    "tool_choice: 'sub'": lambda m: ChatMemOS(model=m).bind_tools([add], tool_choice="sub"),
    "there are no tools": lambda m: ChatMemOS(model=m).bind_tools([], tool_choice="any"),
    "response_format": lambda m: ChatMemOS(model=m).invoke("x", response_format={"type": "xml"}),
    "method": lambda m: ChatMemOS(model=m).with_structured_output(Person, method="xml"),
}


@pytest.mark.parametrize("message", sorted(WRONG))
def test_wrong_arguments_are_named(message: str, noise: LocalModel) -> None:
    with pytest.raises(InvalidArgument, match=message):
        WRONG[message](noise)


def test_an_argument_that_there_is_not_and_a_model_that_there_is_not(noise: LocalModel, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="temprature"):
        ChatMemOS(model=noise, temprature=1)
    with pytest.raises(ModelUnavailable):
        ChatMemOS(model=tmp_path)


def test_tools_are_refused_where_the_model_would_never_see_them() -> None:
    plain = ChatMemOS(model=random_model(template="{% for m in messages %}{{ m.content }}{% endfor %}"))
    with pytest.raises(Unsupported):
        plain.bind_tools([add])
    assert not plain.profile["tool_calling"]


# --- forms -------------------------------------------------------------------------------------------------------------


class Pet(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]


class PetDict(TypedDict):
    """An animal."""

    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]


SCHEMAS = {"class": Pet, "typed dict": PetDict, "json schema": Pet.model_json_schema()}


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", sorted(SCHEMAS))
def test_a_network_without_wits_is_held_to_a_schema(method: str, schema: str, noise: LocalModel) -> None:
    held = ChatMemOS(model=noise, temperature=1.0, seed=5).with_structured_output(SCHEMAS[schema], method=method)
    found = held.invoke("Which pet?")
    assert isinstance(found, Pet) == (schema == "class")
    pet = found if isinstance(found, Pet) else Pet.model_validate(found, strict=True)
    last = list(held.stream("Which pet?"))[-1]
    assert (last if isinstance(last, Pet) else Pet.model_validate(last)) == pet


def test_the_model_is_shown_the_schema() -> None:
    model, said = chat('{"name": "Ann", "age": 30}')
    assert model.with_structured_output(Person).invoke("Who?") == Person(name="Ann", age=30)
    assert '"age"' in said.prompts[0].split("user\n")[0]
    assert model.with_structured_output(Person, method="json_mode").invoke("Who, as JSON?") == Person(
        name="Ann", age=30
    )
    assert '"age"' not in said.prompts[1]


def test_an_answer_that_was_cut_off_is_told_beside_the_raw_one() -> None:
    model, _ = chat('{"name": "Ann", "age": 30}')
    short = ChatMemOS(model=model.model, max_tokens=24)
    found = short.with_structured_output(Person, include_raw=True).invoke("Who?")
    assert found["raw"].text == '{"name": "Ann", "age": 3'  # LangChain's parser would complete it
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)
    with pytest.raises(OutputParserException, match="cut off"):
        short.with_structured_output(Person).invoke("Who?")
    with pytest.raises(OutputParserException, match="cut off"):
        list(short.with_structured_output(Person).stream("Who?"))
    with pytest.raises(OutputParserException, match="cut off"):
        asyncio.run(short.with_structured_output(Person, method="json_mode").ainvoke("Who?"))
    whole = model.with_structured_output(Person, include_raw=True).invoke("Who?")
    assert (whole["parsed"], whole["parsing_error"]) == (Person(name="Ann", age=30), None)


def test_a_schema_that_contains_itself_is_held_to() -> None:
    class Tree(BaseModel):
        name: str
        parts: list[Tree] = []

    model, _ = chat('{"name": "a", "parts": [{"name": "b", "parts": []}]}')
    assert model.with_structured_output(Tree).invoke("?").parts == [Tree(name="b")]


# --- what it is --------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_as_the_model_counts_them() -> None:
    model, _ = chat()
    assert model.get_num_tokens("é") == 2
    assert model.get_num_tokens("") == 0
    assert (
        model.get_num_tokens_from_messages([HumanMessage("Hello.")])
        == model.invoke("Hello.").usage_metadata["input_tokens"]
    )
    assert model.get_num_tokens_from_messages([HumanMessage("Hello.")], [add]) > 100
    messages = [HumanMessage("x" * 50), AIMessage("y"), HumanMessage("z")]
    assert trim_messages(messages, max_tokens=30, token_counter=model) == [HumanMessage("z")]


def test_it_says_what_it_is(noise: LocalModel) -> None:
    model = ChatMemOS(model=noise, temperature=0.5, stop=["x"])
    assert model.profile["max_input_tokens"] == noise.window
    traced = model._get_ls_params()
    assert (traced["ls_provider"], traced["ls_model_name"], traced["ls_temperature"]) == ("memos", "random-qwen3", 0.5)
    assert traced["ls_stop"] == ["x"]
    told = model.asdict()
    assert (told["model_name"], told["_type"], told["fingerprint"]) == ("random-qwen3", "memos", noise.fingerprint)
    json.dumps(told)
