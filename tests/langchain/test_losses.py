"""Nothing that a person or the model said is lost in silence, and nothing that they did not say is remembered as said by them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel
from typing_extensions import TypedDict

from langchain_memos import MemOSMemory
from memos_core import MemOS
from tests.conftest import Clock
from tests.langchain.models import Model, calling, kept, model, texts, thread

LEMON = "Ann takes her tea with lemon."


@pytest.fixture
def memory(open_store: Callable[..., MemOS], clock: Clock) -> MemOS:
    """A store that knows one thing about ann, and whose clock goes on with each look at it."""
    memory = open_store(clock=lambda: clock.forward(seconds=1))
    memory.add(LEMON, actor="ann")
    return memory


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def run(agent: Any, content: Any, *args: Any) -> Any:
        if request.param == "sync":
            return agent.invoke({"messages": content}, *args)
        return asyncio.run(agent.ainvoke({"messages": content}, *args))

    return run


def remembering(memory: MemOS) -> MemOSMemory:
    return MemOSMemory(memory, user_id="ann", on_error="raise")


class Appended(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]


@tool
def look() -> str:
    """Look."""
    return "nothing"


# --- messages without ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [[HumanMessage("How is my tea?")], [("user", "How is my tea?")], [{"role": "user", "content": "How is my tea?"}]],
)
def test_a_message_without_an_id_is_recalled_for_and_written_before_the_model_is_called(
    content: Any, memory: MemOS, ask: Any
) -> None:
    class Seeing(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            written.append("How is my tea?" in texts(memory))
            return handler(request)

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            written.append("How is my tea?" in texts(memory))
            return await handler(request)

    written: list[bool] = []
    llm = model("With lemon.")
    chat = create_agent(llm, [], middleware=[remembering(memory), Seeing()], state_schema=Appended)
    if not isinstance(content[0], HumanMessage):
        from langchain_core.messages import convert_to_messages

        content = convert_to_messages(content)
    ask(chat, content)
    assert LEMON in llm.system()
    assert written == [True]
    assert texts(memory) == [LEMON, "How is my tea?", "With lemon."]


def test_a_kept_thread_without_ids_is_written_once(memory: MemOS, ask: Any) -> None:
    llm = model("one", "two", "one")
    chat = create_agent(llm, [], middleware=[remembering(memory)], state_schema=Appended, checkpointer=InMemorySaver())
    for content in ("tea?", "cake?", "tea?"):
        ask(chat, [HumanMessage(content)], thread("1"))
    assert texts(memory) == [LEMON, "tea?", "one", "cake?", "two", "tea?", "one"]
    assert LEMON in llm.system()


def test_each_question_without_an_id_is_recalled_for_anew(memory: MemOS, ask: Any) -> None:
    memory.add("Ann's cake is Sacher.", actor="ann")
    llm = model(calling("look"), "With lemon.", calling("look"), "Sacher.")
    chat = create_agent(llm, [look], middleware=[remembering(memory)], state_schema=Appended)
    ask(chat, [HumanMessage("tea?")])
    ask(chat, [HumanMessage("cake?")])
    assert llm.system(0) == llm.system(1) != llm.system(2) == llm.system(3)


# --- edited and removed ---------------------------------------------------------------------------------------------------


def test_an_edited_message_is_a_new_version_of_its_memory(memory: MemOS, ask: Any) -> None:
    chat = create_agent(model("Noted."), [], middleware=[remembering(memory)], checkpointer=InMemorySaver())
    ask(chat, [HumanMessage("I live in Porto", id="h1")], thread("1"))
    ask(chat, [HumanMessage("I live in Braga", id="h1")], thread("1"))
    [home] = [c for c in kept(memory) if c.text.startswith("I live")]
    assert home.text == "I live in Braga"
    assert [c.text for c in memory.history(home.id, actor="ann")] == ["I live in Porto", "I live in Braga"]
    ask(chat, [HumanMessage("I live in Braga", id="h1")], thread("1"))
    assert len(memory.history(home.id, actor="ann")) == 2


def test_a_message_that_is_removed_from_a_thread_stays_remembered(memory: MemOS, ask: Any) -> None:
    chat = create_agent(model("Noted."), [], middleware=[remembering(memory)], checkpointer=InMemorySaver())
    ask(chat, [HumanMessage("I live in Porto", id="h1")], thread("1"))
    ask(chat, [RemoveMessage("h1"), HumanMessage("And now?", id="h2")], thread("1"))
    assert "I live in Porto" in texts(memory)
    assert texts(memory).count("And now?") == 1


# --- beside other middleware -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_a_summary_in_mid_turn_takes_neither_the_brief_nor_what_was_said(first: bool, memory: MemOS, ask: Any) -> None:
    llm = model(*[calling("look", f"step {n}") for n in range(4)], "Done with the tea.")
    shorten = SummarizationMiddleware(model("A summary."), trigger=("messages", 4), keep=("messages", 2))
    middleware: list[Any] = [remembering(memory), shorten]
    ask(create_agent(llm, [look], middleware=middleware if first else middleware[::-1]), "How is my tea?")
    assert any("A summary." in str(m.content) for m in llm.prompts[-1])
    assert all(LEMON in llm.system(call) for call in range(5))
    assert texts(memory) == [LEMON, "How is my tea?", "step 0", "step 1", "step 2", "step 3", "Done with the tea."]


class Weather(BaseModel):
    """What the weather is."""

    city: str
    degrees: int


def test_a_structured_answer_is_remembered(memory: MemOS, ask: Any) -> None:
    answer = AIMessage("", tool_calls=[{"name": "Weather", "args": {"city": "Porto", "degrees": 21}, "id": "call-1"}])
    chat = create_agent(model(answer), [], middleware=[remembering(memory)], response_format=ToolStrategy(Weather))
    assert ask(chat, "How warm is it?")["structured_response"] == Weather(city="Porto", degrees=21)
    [said] = [c for c in kept(memory) if "Porto" in c.text]
    assert (said.text, said.origin.role) == ('{"city": "Porto", "degrees": 21}', "assistant")
    assert not any("Returning structured response" in text for text in texts(memory))


@pytest.mark.parametrize(
    "limit",
    [
        ModelCallLimitMiddleware(run_limit=1, exit_behavior="end"),
        ToolCallLimitMiddleware(run_limit=1, exit_behavior="end"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_notice_of_a_limit_is_nothing_that_the_assistant_said(
    limit: Any, first: bool, memory: MemOS, ask: Any
) -> None:
    llm: Model = model(calling("look", "Let me see."), calling("look", "Once more."))
    middleware = [remembering(memory), limit] if first else [limit, remembering(memory)]
    ask(create_agent(llm, [look], middleware=middleware), "How is my tea?")
    assert not any("limit" in text for text in texts(memory))
    assert texts(memory)[:3] == [LEMON, "How is my tea?", "Let me see."]


# --- what is no text ---------------------------------------------------------------------------------------------------------


def test_a_note_stands_for_what_is_no_text(memory: MemOS, ask: Any) -> None:
    picture = {"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"}
    chat = create_agent(model("A teapot."), [], middleware=[remembering(memory)], checkpointer=InMemorySaver())
    ask(
        chat, [HumanMessage([{"type": "text", "text": "What is this?"}, picture]), HumanMessage([picture])], thread("1")
    )
    assert texts(memory) == [LEMON, "What is this?\n[image]", "[image]", "A teapot."]
