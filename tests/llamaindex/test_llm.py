"""MemOSLLM: what reaches the model, what comes back, in chat engines and agents, and whose memory it is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest

pytest.importorskip("torch", reason="needs the extra local")
pytest.importorskip("llguidance", reason="needs the extra local")

from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import CondensePlusContextChatEngine, SimpleChatEngine
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_memos import MemOSLLM, MemOSMemory, MemOSRetriever
from memos_core import (
    ContextTooLong,
    InvalidArgument,
    LocalModel,
    MemOS,
    ModelTimeout,
    ModelUnavailable,
    StoreClosed,
    Unsupported,
)
from tests.networks import Recorder, random_model, reciting_model

# LlamaIndex's agents look at all attributes of their own classes, pydantic's deprecated ones among them, and use a deprecated one of
# their workflows
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

SUM = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


ADD = FunctionTool.from_defaults(add)


class Pet(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]


def llm(*replies: str, **options: Any) -> tuple[MemOSLLM, Recorder]:
    said = Recorder(*replies)
    return MemOSLLM(reciting_model(said), **options), said


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def _streamed(model: MemOSLLM, messages: list[ChatMessage], **options: Any) -> ChatResponse:
    responses = list(model.stream_chat(messages, **options))
    assert "".join(r.delta or "" for r in responses) == (responses[-1].message.content or "")
    return responses[-1]


def _astreamed(model: MemOSLLM, messages: list[ChatMessage], **options: Any) -> ChatResponse:
    async def all_of_it() -> list[ChatResponse]:
        return [r async for r in await model.astream_chat(messages, **options)]

    responses = asyncio.run(all_of_it())
    assert "".join(r.delta or "" for r in responses) == (responses[-1].message.content or "")
    return responses[-1]


WAYS: dict[str, Callable[..., ChatResponse]] = {
    "chat": lambda model, messages, **o: model.chat(messages, **o),
    "achat": lambda model, messages, **o: asyncio.run(model.achat(messages, **o)),
    "stream_chat": _streamed,
    "astream_chat": _astreamed,
}
each_way = pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)


@pytest.fixture(scope="module")
def noise() -> LocalModel:
    return random_model()


# --- what reaches the model --------------------------------------------------------------------------------------------


def test_each_kind_of_message_reaches_the_model_in_its_role() -> None:
    model, said = llm()
    call = ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs={"a": 1, "b": "é"})
    model.chat(
        [
            ChatMessage(role="system", content="Be kind."),
            ChatMessage(role="user", blocks=[TextBlock(text="1 +"), TextBlock(text="2?"), CachePoint(cache_control={"type": "x"})]),
            ChatMessage(role="assistant", blocks=[ThinkingBlock(content="hm"), call]),
            ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "1"}),
            ChatMessage(role="model", content="Three."), ChatMessage(role="developer", content="Be brief."), user("And now?"),
        ]
    )  # fmt: skip
    assert said.prompts == [
        "<|im_start|>system\nBe kind.\n\nBe brief.<|im_end|>\n<|im_start|>user\n1 +\n2?<|im_end|>\n"
        '<|im_start|>assistant\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ]


def test_calls_that_other_models_made_are_told_too() -> None:
    model, said = llm()
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    model.chat([user("Go."), ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": calls})])
    assert '{"name": "add", "arguments": {"a": 1}}' in said.prompts[0]


def test_what_a_model_of_text_cannot_take_is_refused() -> None:
    model, said = llm()
    for message in (ChatMessage(role="user", blocks=[ImageBlock(url="https://example.org/a.png")]), user("\ud800")):
        with pytest.raises(InvalidArgument):
            model.chat([message])
    assert said.prompts == []


def test_a_completion_is_a_persons_message_or_a_prompt_of_the_models_own() -> None:
    model, said = llm("Yes.")
    assert model.complete("Really?").text == "Yes."
    own = "<|im_start|>user\nReally, really?<|im_end|>\n<|im_start|>assistant\n"
    assert model.complete(own, formatted=True).text == "Yes."
    assert said.prompts == ["<|im_start|>user\nReally?<|im_end|>\n<|im_start|>assistant\n", own]
    assert asyncio.run(model.acomplete("Really?")).text == "Yes."
    assert [r.delta for r in model.stream_complete("Really?")] == ["Y", "e", "s", ".", ""]

    async def streamed() -> list[str | None]:
        return [r.delta async for r in await model.astream_complete("Really?")]

    assert asyncio.run(streamed()) == ["Y", "e", "s", ".", ""]


# --- what comes back ---------------------------------------------------------------------------------------------------


@each_way
def test_an_answer_is_the_models_with_what_it_took(ask: Callable[..., ChatResponse], noise: LocalModel) -> None:
    model = MemOSLLM(noise, max_tokens=30, temperature=1.0, seed=7)
    wanted = noise.generate([{"role": "user", "content": "Say it."}], max_tokens=30, temperature=1.0, seed=7)
    found = ask(model, [user("Say it.")])
    assert found.message.content == wanted.text
    assert found.message.role == MessageRole.ASSISTANT
    usage = found.raw["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (wanted.usage.input, wanted.usage.output)
    assert 0 < usage["cached_tokens"] < usage["prompt_tokens"]
    assert found.additional_kwargs == usage
    assert found.raw["finish_reason"] == wanted.finish
    json.dumps(found.raw)


@each_way
def test_text_reasoning_and_calls_come_apart(ask: Callable[..., ChatResponse]) -> None:
    model, _ = llm(f"<think>\nA sum.\n</think>\n\nI add.\n{SUM}\n{SUM}")
    options = model._prepare_chat_with_tools([ADD], "1 + 2?", allow_parallel_tool_calls=True)
    found = ask(model, options.pop("messages"), **options)
    assert found.message.content == "I add."
    assert found.message.blocks[0] == ThinkingBlock(content="A sum.")
    calls = model.get_tool_calls_from_response(found)
    assert [(c.tool_name, c.tool_kwargs) for c in calls] == [("add", {"a": 1, "b": 2})] * 2
    assert len({c.tool_id for c in calls}) == 2
    assert found.raw["finish_reason"] == "tool_calls"


def test_reasoning_is_streamed_as_such() -> None:
    model, _ = llm("<think>A sum.</think>Three.")
    responses = list(model.stream_chat([user("1 + 2?")]))
    assert "".join(r.additional_kwargs.get("thinking_delta") or "" for r in responses) == "A sum."
    assert "".join(r.delta or "" for r in responses) == "Three."


@each_way
def test_a_call_that_was_cut_off_is_not_run_and_stays_among_the_words(ask: Callable[..., ChatResponse]) -> None:
    model, _ = llm(SUM)
    options = model._prepare_chat_with_tools([ADD], "1 + 2?")
    found = WAYS["chat"](model, options["messages"], tools=options["tools"], max_tokens=50)
    assert found.message.content.startswith('<tool_call>\n{"name": "add"')
    assert found.raw["broken_calls"] == ["cut off"]
    assert model.get_tool_calls_from_response(found, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="at least one tool call"):
        model.get_tool_calls_from_response(found)


@each_way
def test_what_is_given_to_a_call_holds_for_it(ask: Callable[..., ChatResponse]) -> None:
    model, _ = llm("One, two, three.", stop=[", three"])
    assert ask(model, [user("Count.")]).message.content == "One, two"
    assert ask(model, [user("Count.")], stop=" two").message.content == "One,"
    assert ask(model, [user("Count.")], max_tokens=3).raw["usage"]["completion_tokens"] == 3
    held = ask(MemOSLLM(random_model(), temperature=1.0), [user("Pet?")], schema=Pet.model_json_schema())
    assert Pet.model_validate_json(held.message.content)


def test_many_are_answered_at_once_each_with_his_own() -> None:
    model = MemOSLLM(reciting_model(lambda prompt: "You said " + prompt.split("user\n")[-1].split("<")[0]))
    asked = [f"number {i} of them" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert [r.text for r in pool.map(model.complete, asked * 2)] == [f"You said {a}" for a in asked * 2]

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(model.acomplete(a) for a in asked))

    assert [r.text for r in asyncio.run(all_of_them())] == [f"You said {a}" for a in asked]


# --- tools -------------------------------------------------------------------------------------------------------------


def test_a_required_call_is_held_to_the_tool_and_one_only(noise: LocalModel) -> None:
    model = MemOSLLM(noise, temperature=1.0, seed=1)
    pet, other = (FunctionTool.from_defaults(lambda **k: str(k), name=n, fn_schema=Pet) for n in ("a pet", "another"))
    found = model.chat_with_tools([pet, other], "Which?", tool_required=True)
    [call] = model.get_tool_calls_from_response(found)
    assert Pet.model_validate(call.tool_kwargs)
    for choice in ("a pet", {"type": "function", "function": {"name": "a pet"}}):
        chosen = model.chat_with_tools([pet, other], "Which?", tool_choice=choice)
        assert [c.tool_name for c in model.get_tool_calls_from_response(chosen)] == ["a pet"]
    free = model.chat_with_tools([pet], "Which?", tool_choice="none", max_tokens=9)
    assert model.get_tool_calls_from_response(free, error_on_no_tool_call=False) == []
    with pytest.raises(InvalidArgument, match="tool_choice"):
        model.chat_with_tools([pet], "Which?", tool_choice="unknown")


def test_objects_are_predicted_by_a_network_without_wits(noise: LocalModel) -> None:
    model = MemOSLLM(noise, temperature=1.0, seed=1)
    asked = PromptTemplate("Which pet has {name}?")
    assert isinstance(model.structured_predict(Pet, asked, name="Ann"), Pet)
    assert isinstance(asyncio.run(model.astructured_predict(Pet, asked, name="Ann")), Pet)
    assert isinstance(list(model.stream_structured_predict(Pet, asked, name="Ann"))[-1], BaseModel)
    assert isinstance(model.as_structured_llm(Pet).complete("Which pet?").raw, Pet)


def test_a_tool_is_called_with_what_the_model_says() -> None:
    model, said = llm(SUM)
    assert model.predict_and_call([ADD], "1 + 2?").response == "3"
    assert asyncio.run(model.apredict_and_call([ADD], "1 + 2?")).response == "3"
    assert '"name": "add"' in said.prompts[0]


def test_a_model_that_would_never_see_tools_says_so() -> None:
    plain = MemOSLLM(random_model(template="{% for m in messages %}{{ m.content }}{% endfor %}"))
    assert not plain.metadata.is_function_calling_model
    with pytest.raises(Unsupported):
        plain.chat_with_tools([ADD], "1 + 2?")


# --- chat engines and agents -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["chat", "achat", "stream_chat", "astream_chat"])
def test_a_chat_engine_talks_and_reads_nothing_twice(way: str, memory: MemOS) -> None:
    model, said = llm("Hello, Ann.", "You are Ann.")
    buffer = MemOSMemory(memory, user_id="ann", write=False)
    engine = SimpleChatEngine.from_defaults(llm=model, system_prompt="Be kind.", memory=buffer)

    async def ask(text: str) -> str:
        if way == "chat":
            return str(await asyncio.to_thread(engine.chat, text))
        if way == "achat":
            return str(await engine.achat(text))
        if way == "stream_chat":
            return "".join(await asyncio.to_thread(lambda: list(engine.stream_chat(text).response_gen)))
        return "".join([t async for t in (await engine.astream_chat(text)).async_response_gen()])

    async def talk() -> list[str]:
        return [await ask("I am Ann."), await ask("Who am I?")]

    assert asyncio.run(talk()) == ["Hello, Ann.", "You are Ann."]
    assert said.prompts[1].startswith(said.prompts[0] + "Hello, Ann.<|im_end|>\n")
    took = model.complete(said.prompts[1], formatted=True, max_tokens=1).raw["usage"]
    assert took["prompt_tokens"] - took["cached_tokens"] == 1


def test_recalled_passages_and_a_system_prompt_reach_the_model_as_one(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.", actor="ann")
    model, said = llm("With lemon.")
    retriever = MemOSRetriever(memory, actor="ann")
    buffer = MemOSMemory(memory, user_id="ann", write=False)
    engine = CondensePlusContextChatEngine.from_defaults(retriever, llm=model, system_prompt="Be kind.", memory=buffer)
    assert str(engine.chat("How do I take my tea?")) == "With lemon."
    assert said.prompts[-1].count("<|im_start|>system") == 1
    assert "I take my tea with lemon." in said.prompts[-1]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("kind", ["FunctionAgent", "AgentWorkflow"])
def test_agents_call_functions_through_the_template(kind: str, streaming: bool, memory: MemOS) -> None:
    model, said = llm(SUM, "It is three.", "Glad to hear it.")
    agent: Any = FunctionAgent(llm=model, tools=[ADD], system_prompt="Be kind.", streaming=streaming)
    run = agent if kind == "FunctionAgent" else AgentWorkflow(agents=[agent])
    remembered = MemOSMemory(memory, user_id="ann", on_error="raise")

    async def talk() -> tuple[str, str, str]:
        handler = run.run("How much is 1 + 2?", memory=remembered)
        heard = [e.delta async for e in handler.stream_events() if isinstance(e, AgentStream)]
        return str(await handler), "".join(heard), str(await run.run("Thanks!", memory=remembered))

    first, heard, second = asyncio.run(talk())
    assert (first, second) == ("It is three.", "Glad to hear it.")
    assert heard == ("It is three." if streaming else "")
    assert "<|im_start|>tool\n3<|im_end|>" in said.prompts[1]
    assert said.prompts[2].count("<|im_start|>system") == 1


def test_a_react_agent_needs_no_template_for_tools(memory: MemOS) -> None:
    thoughts = (
        'Thought: I add.\nAction: add\nAction Input: {"a": 1, "b": 2}',
        "Thought: I can answer without using any more tools.\nAnswer: It is three.",
    )
    model, said = llm(*thoughts)

    async def run() -> str:
        buffer = MemOSMemory(memory, user_id="ann", write=False)
        return str(await ReActAgent(llm=model, tools=[ADD]).run("How much is 1 + 2?", memory=buffer))

    assert asyncio.run(run()) == "It is three."
    assert "Observation: 3" in said.prompts[1]


# --- threads, time, and ends -------------------------------------------------------------------------------------------


async def test_the_loops_thread_is_never_the_models() -> None:
    model, said = llm("A few words.")
    await model.achat([user("Hello.")])
    async for _ in await model.astream_chat([user("Hello again.")]):
        pass
    await model.acomplete("Hello?")
    async for _ in await model.astream_complete("Hello there?"):
        pass
    assert len(said.prompts) == 4
    assert threading.get_ident() not in said.threads


async def test_a_task_that_is_cancelled_stops_the_model() -> None:
    begun = threading.Event()
    steps: list[int] = []

    def say(_: str) -> str:
        begun.set()
        steps.append(1)
        return "word " * 500

    model = MemOSLLM(reciting_model(say), max_tokens=2000)
    task = asyncio.create_task(model.achat([user("Hello.")]))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = len(steps)
    assert (await model.acomplete("Hello.", max_tokens=3)).text == "wor"
    assert len(steps) < before + 10 < 2000


async def test_a_stream_that_is_left_stops_the_model() -> None:
    model, said = llm("word " * 200, max_tokens=1000)
    stream = await model.astream_chat([user("Hello.")])
    await anext(stream)
    await stream.aclose()
    for left in model.stream_chat([user("Hello.")]):
        assert left.delta == "w"
        break
    assert (await model.acomplete("Hello.", max_tokens=3)).text == "wor"
    assert said.steps < 20


@each_way
def test_errors_of_the_engine_arrive_as_they_are(ask: Callable[..., ChatResponse]) -> None:
    model, _ = llm("word " * 50)
    with pytest.raises(ModelTimeout):
        ask(model, [user("Hello.")], timeout=1e-9)
    with pytest.raises(ContextTooLong):
        ask(MemOSLLM(random_model(window=100)), [user("x" * 100)])


WRONG: dict[str, Callable[[LocalModel], Any]] = {
    "temperature": lambda m: MemOSLLM(m, temperature=-1),
    "max_tokens": lambda m: MemOSLLM(m, max_tokens=0),
    "stop": lambda m: MemOSLLM(m, stop=[""]),
    "namespace": lambda m: MemOSLLM(m, namespace="app"),
    "memory_tokens": lambda m: MemOSLLM(m, memory_tokens=0),
    "user_id": lambda m: MemOSLLM(m, user_id=""),
    "embed": lambda m: MemOSLLM(m, embed=len),
    "temprature: there is no": lambda m: MemOSLLM(m, temprature=1),
    "a LocalModel, or": lambda _: MemOSLLM(),
    "memory: a MemOS": lambda m: MemOSLLM(m, memory=3),
    "no temprature": lambda m: MemOSLLM(m).complete("x", temprature=1),
}


@pytest.mark.parametrize("message", sorted(WRONG))
def test_wrong_arguments_are_named(message: str, noise: LocalModel) -> None:
    with pytest.raises(InvalidArgument, match=message):
        WRONG[message](noise)


def test_a_model_that_there_is_not_is_named(tmp_path: Any) -> None:
    with pytest.raises(ModelUnavailable):
        MemOSLLM(tmp_path)


# --- memory ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def remembering(open_store: Callable[..., MemOS]) -> tuple[MemOS, Recorder]:
    said = Recorder("With lemon.")
    memory = open_store(model=reciting_model(said))
    memory.add("I take my tea with lemon.", actor="ann", namespace=("home",))
    memory.add("I take my tea with salt.", actor="bob", namespace=("home",))
    return memory, said


@each_way
def test_what_is_remembered_of_the_user_is_put_before_the_model(ask: Any, remembering: tuple[MemOS, Recorder]) -> None:
    memory, said = remembering
    model = MemOSLLM(memory=memory, user_id="ann")
    found = ask(model, [ChatMessage(role="system", content="Be kind."), user("How do I take my tea?")])
    assert found.message.content == "With lemon."
    assert said.prompts[0].startswith("<|im_start|>system\nBe kind.\n\n<recalled")
    assert "with lemon" in said.prompts[0]
    assert "with salt" not in said.prompts[0]
    [tea] = [hit.cube.id for hit in memory.search("tea", actor="ann")]
    assert found.raw["memories"] == [tea]
    ask(model, [user("How do I take my tea?")], user_id="bob")
    assert "with salt" in said.prompts[1]


def test_a_memory_of_nobodys_is_asked_nothing(remembering: tuple[MemOS, Recorder]) -> None:
    memory, said = remembering
    with pytest.raises(InvalidArgument, match="whose memory"):
        MemOSLLM(memory=memory).complete("How do I take my tea?")
    MemOSLLM(memory=memory, user_id="ann", namespace=("work",)).complete("How do I take my tea?")
    assert "lemon" not in said.prompts[0]


def test_a_memory_is_opened_by_its_path_and_closed(open_store: Any, embed: Any, tmp_path: Any) -> None:
    with open_store() as store:
        store.add("I take my tea with lemon.", actor="ann")
    said = Recorder("With lemon.")
    model = MemOSLLM(reciting_model(said), memory=tmp_path / "store", embed=embed, user_id="ann")
    assert model.complete("How do I take my tea?").text == "With lemon."
    assert "lemon" in said.prompts[0]
    other = MemOSLLM(random_model(), memory=tmp_path / "store", embed=embed, user_id="ann")
    with pytest.raises(
        InvalidArgument, match="another model"
    ):  # the one that is open at this path answers with the first
        other.complete("How do I take my tea?")
    other.close()
    model.close()
    assert model.complete("How do I take my tea?").text == "With lemon."
    model.close()


def test_a_memory_that_was_closed_or_has_another_model_is_an_error(remembering: tuple[MemOS, Recorder]) -> None:
    memory, _ = remembering
    with pytest.raises(InvalidArgument, match="another model"):
        MemOSLLM(random_model(), memory=memory)
    model = MemOSLLM(memory=memory, user_id="ann")
    memory.close()
    with pytest.raises(StoreClosed):
        model.complete("How do I take my tea?")


def test_what_was_read_for_one_user_answers_no_other() -> None:
    model = MemOSLLM(random_model(), max_tokens=1)
    asked = "The same long question, word for word, of everybody."
    took = [model.complete(asked, user_id=u).raw["usage"]["cached_tokens"] for u in ("ann", "bob", "ann")]
    assert took[:2] == [0, 0]
    assert took[2] > 0


# --- what it is --------------------------------------------------------------------------------------------------------


def test_it_says_what_it_is(noise: LocalModel) -> None:
    model = MemOSLLM(noise, max_tokens=77)
    about = model.metadata
    assert (about.context_window, about.num_output, about.model_name) == (noise.window, 77, "random-qwen3")
    assert about.is_chat_model
    assert about.is_function_calling_model
    assert "FunctionCallingLLM" in [c.__name__ for c in type(model).__mro__]
    assert isinstance(model, FunctionCallingLLM)
    assert model.class_name() == "MemOSLLM"
    assert json.loads(model.to_json())["max_tokens"] == 77
    json.dumps(model.to_payload())


def test_tokens_are_counted_by_what_the_model_says() -> None:
    model, _ = llm("Hello.")
    counter = TokenCountingHandler()
    model.callback_manager = CallbackManager([counter])
    took = model.chat([user("Hi.")]).raw["usage"]
    assert counter.total_llm_token_count == took["total_tokens"]
