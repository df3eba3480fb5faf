"""ChatMemOS in agents, and with memory: whose is shown, and what is read only once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")
pytest.importorskip("torch", reason="needs the extra local")
pytest.importorskip("llguidance", reason="needs the extra local")

from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver

from langchain_memos import ChatMemOS, MemOSMemory
from memos_core import AccessDenied, InvalidArgument, MemOS, StoreClosed
from tests.langchain.speaking import SUM, Person, add, chat, each_way
from tests.networks import Recorder, random_model, reciting_model

# --- agents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_agent_calls_tools_streams_and_reads_nothing_twice(way: str) -> None:
    model, said = chat(SUM, "It is three.", "Glad to hear it.")
    agent = create_agent(model, [add], system_prompt="Be kind.", checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    asked = {"messages": "How much is 1 + 2?"}
    if way == "sync":
        tokens = [c for c, _ in agent.stream(asked, config, stream_mode="messages")]
        second = agent.invoke({"messages": "Thanks!"}, config)
    else:

        async def run() -> Any:
            seen = [c async for c, _ in agent.astream(asked, config, stream_mode="messages")]
            return seen, await agent.ainvoke({"messages": "Thanks!"}, config)

        tokens, second = asyncio.run(run())
    assert "".join(t.text for t in tokens if isinstance(t, AIMessageChunk)) == "It is three."
    assert [m.text for m in second["messages"]] == [
        "How much is 1 + 2?", "", "3", "It is three.", "Thanks!", "Glad to hear it.",
    ]  # fmt: skip
    assert "<|im_start|>tool\n3<|im_end|>" in said.prompts[1]
    took = second["messages"][-1].usage_metadata
    assert took["input_tokens"] - took["input_token_details"]["cache_read"] < 60  # of some five hundred


def test_an_agent_with_a_middleware_of_memories_reads_its_conversation_once(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.", actor="ann")
    model, said = chat("With lemon.", "You are welcome.")
    agent = create_agent(
        model, [], middleware=[MemOSMemory(memory, user_id="ann", on_error="raise")], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": "How do I take my tea?"}, config)
    second = agent.invoke({"messages": "Thanks!"}, config)["messages"][-1]
    assert "I take my tea with lemon." in said.prompts[0]
    assert second.text == "You are welcome."
    assert second.usage_metadata["input_token_details"]["cache_read"] > 0


def test_an_agent_answers_in_a_form_by_itself() -> None:
    model, said = chat(SUM, '{"name": "Ann", "age": 3}')
    found = create_agent(model, [add], response_format=Person).invoke({"messages": "How old is Ann?"})
    assert found["structured_response"] == Person(name="Ann", age=3)
    assert len(said.prompts) == 2


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
    found = ask(
        ChatMemOS(memory=memory, user_id="ann"), [SystemMessage("Be kind."), HumanMessage("How do I take my tea?")]
    )
    assert found.text == "With lemon."
    assert said.prompts[0].startswith("<|im_start|>system\nBe kind.\n\n<recalled")
    assert "with lemon" in said.prompts[0]
    assert "with salt" not in said.prompts[0]
    [tea] = [hit.cube.id for hit in memory.search("tea", actor="ann")]
    assert found.response_metadata["memories"] == [tea]
    assert len(memory.search("tea", actor="ann")) == 1  # nothing was written


def test_who_the_user_is_says_the_call_the_model_or_the_run(remembering: tuple[MemOS, Recorder]) -> None:
    memory, said = remembering
    model = ChatMemOS(memory=memory)
    with pytest.raises(InvalidArgument, match="whose memory"):
        model.invoke("How do I take my tea?")
    model.invoke("How do I take my tea?", user_id="bob")
    assert "salt" in said.prompts[-1]
    chosen = model.configurable_fields(user_id=ConfigurableField(id="user_id"))
    chosen.invoke("How do I take tea?", {"configurable": {"user_id": "ann"}})
    assert "lemon" in said.prompts[-1]
    list(chosen.stream("How do I take the tea?", {"configurable": {"user_id": "bob"}}))
    assert "salt" in said.prompts[-1]
    agent = create_agent(model, [])
    agent.invoke({"messages": "How do you think I take my tea?"}, {"configurable": {"user_id": "ann"}})
    assert "lemon" in said.prompts[-1]
    assert len(said.prompts) == 4


def test_where_a_server_authenticated_somebody_another_name_is_refused(remembering: tuple[MemOS, Recorder]) -> None:
    memory, said = remembering
    ann: Any = {"configurable": {"langgraph_auth_user_id": "ann"}}
    forged: Any = {"configurable": {"langgraph_auth_user_id": "ann", "user_id": "bob"}}

    def ask(config: Any, model: Any) -> str:
        RunnableLambda(lambda words: model.invoke(words)).invoke("How do I take my tea?", config)
        return said.prompts[-1]

    model = ChatMemOS(memory=memory)
    chosen = model.configurable_fields(user_id=ConfigurableField(id="user_id"))
    assert "lemon" in ask(ann, model)
    assert "salt" not in said.prompts[-1]
    for refusing in (model, chosen, ChatMemOS(model=memory.model)):  # the last has no memory, but a cache
        with pytest.raises(AccessDenied, match="trust_client_user=True"):
            ask(forged, refusing)
    assert len(said.prompts) == 1
    assert "salt" in ask(forged, ChatMemOS(memory=memory, trust_client_user=True))
    assert "salt" in ask(ann, ChatMemOS(memory=memory, user_id="bob"))
    assert "salt" in ask(ann, model.bind(user_id="bob"))


def test_other_namespaces_are_left_alone(remembering: tuple[MemOS, Recorder]) -> None:
    memory, said = remembering
    ChatMemOS(memory=memory, user_id="ann", namespace=("work",)).invoke("How do I take my tea?")
    assert "lemon" not in said.prompts[0]
    ChatMemOS(memory=memory, user_id="ann", namespace=("home",)).invoke("How do I take my tea?")
    assert "lemon" in said.prompts[1]


def test_a_memory_is_opened_by_its_path_when_it_is_needed_and_closed(
    open_store: Any, embed: Any, tmp_path: Any
) -> None:
    with open_store() as store:
        store.add("I take my tea with lemon.", actor="ann")
    said = Recorder("With lemon.")
    model = ChatMemOS(model=reciting_model(said), memory=tmp_path / "store", embed=embed, user_id="ann")
    assert model.invoke("How do I take my tea?").text == "With lemon."
    assert "lemon" in said.prompts[0]
    model.close()
    assert model.invoke("How do I take my tea?").text == "With lemon."
    model.close()


@each_way
def test_a_memory_that_was_closed_is_an_error(ask: Any, remembering: tuple[MemOS, Recorder]) -> None:
    memory, _ = remembering
    model = ChatMemOS(memory=memory, user_id="ann")
    memory.close()
    with pytest.raises(StoreClosed):
        ask(model, "How do I take my tea?")


def test_a_memory_with_another_model_is_refused(remembering: tuple[MemOS, Recorder]) -> None:
    with pytest.raises(InvalidArgument, match="another model"):
        ChatMemOS(model=random_model(), memory=remembering[0])


def test_what_was_read_for_one_user_answers_no_other() -> None:
    model = ChatMemOS(model=random_model(), max_tokens=1)
    asked = "The same long question, word for word, of everybody."
    took = [
        model.invoke(asked, user_id=u).usage_metadata["input_token_details"]["cache_read"]
        for u in ("ann", "bob", "ann")
    ]
    assert took[:2] == [0, 0]
    assert took[2] > 0


@pytest.fixture
def llm_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("llm_cache")
def test_langchains_cache_keeps_no_answers_of_memory_and_none_of_another_model(
    remembering: tuple[MemOS, Recorder],
) -> None:
    memory, said = remembering
    model = ChatMemOS(memory=memory)
    for user in ("ann", "bob"):
        model.invoke("How do I take my tea?", user_id=user)
    assert len(said.prompts) == 2
    with pytest.raises(InvalidArgument, match="cache"):
        ChatMemOS(memory=memory, cache=True)
    answers = {ChatMemOS(model=random_model(seed=s), max_tokens=9).invoke("Hello.").text for s in (0, 1)}
    assert len(answers) == 2
