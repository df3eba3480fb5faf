"""What agents say and are told is remembered, in whatever form messages come, and nothing else is."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelResponse,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
    ToolCallLimitMiddleware,
    hook_config,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    RemoveMessage,
    convert_to_messages,
)
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_memos import MemOSMemory
from memos_core import MemOS
from tests.conftest import Clock
from tests.langchain.models import calling, kept, model, texts, thread


@pytest.fixture
def memory(open_store: Callable[..., MemOS], clock: Clock) -> MemOS:
    """An empty store whose clock goes on with each look at it, so that what came first is stored first."""
    return open_store(clock=lambda: clock.forward(seconds=1))


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs an agent, in both ways."""

    def sync(agent: Any, given: Any, *config: Any) -> Any:
        return agent.invoke(given, *config)

    def not_sync(agent: Any, given: Any, *config: Any) -> Any:
        return asyncio.run(agent.ainvoke(given, *config))

    return sync if request.param == "sync" else not_sync


def agent(llm: Any, memory: MemOS, *before: Any, after: Sequence[Any] = (), **options: Any) -> Any:
    mine = MemOSMemory(memory, user_id="ann", on_error="raise")
    return create_agent(llm, options.pop("tools", []), middleware=[*before, mine, *after], **options)


def look() -> str:
    """Look."""
    return "nothing"


# --- messages without ids ----------------------------------------------------------------------------------------------


class Added(AgentState):
    messages: Annotated[list[Any], operator.add]


def _as_they_come(left: Sequence[Any], writes: Sequence[Any]) -> list[Any]:
    """As deepagents' reducer: forms become messages, none is given an id."""
    found = list(left)
    for write in writes:
        found += convert_to_messages(write if isinstance(write, list) else [write])
    return found


class Delta(AgentState):
    messages: Annotated[list[Any], DeltaChannel(_as_they_come)]


FORMS = {
    "message": lambda text: [HumanMessage(text)],
    "tuple": lambda text: [("user", text)],
    "dictionary": lambda text: [{"role": "user", "content": text}],
    "text": lambda text: [text],
}


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("state", [Added, Delta])
def test_a_message_without_an_id_is_recalled_for_and_written(memory: MemOS, run: Any, state: Any, form: str) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    llm = model(calling("look"), "With lemon.")
    run(agent(llm, memory, tools=[look], state_schema=state), {"messages": FORMS[form]("How do I take my tea?")})
    assert ["lemon" in llm.system(call) for call in range(2)] == [True, True]
    assert texts(memory) == ["Ann takes her tea with lemon.", "How do I take my tea?", "With lemon."]
    assert len({c.origin.session for c in kept(memory)[1:]}) == 1


def test_bare_text_is_a_message_where_the_state_takes_it(memory: MemOS, run: Any) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    llm = model("With lemon.")
    run(agent(llm, memory, state_schema=Delta), {"messages": "tea?"})
    assert "lemon" in llm.system()
    assert texts(memory)[1:] == ["tea?", "With lemon."]


class _ModelFailed(Exception):
    pass


@pytest.mark.parametrize("state", [Added, Delta])
def test_a_message_without_an_id_is_written_before_the_model_is_called(memory: MemOS, run: Any, state: Any) -> None:
    chat = agent(model(_ModelFailed()), memory, state_schema=state)
    with pytest.raises(_ModelFailed):
        run(chat, {"messages": [("user", "My train leaves at nine.")]})
    assert texts(memory) == ["My train leaves at nine."]


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("state", [Added, Delta])
def test_a_thread_of_messages_without_ids_is_written_once_with_its_repetitions(
    memory: MemOS, run: Any, state: Any, form: str
) -> None:
    llm = model("Noted.", "Fine.", "Noted.", "Noted.")
    chat = agent(llm, memory, state_schema=state, checkpointer=InMemorySaver())
    for text in ("ok", "I live in Porto", "ok", "ok"):
        run(chat, {"messages": FORMS[form](text)}, thread("1"))
    assert texts(memory) == ["ok", "Noted.", "I live in Porto", "Fine.", "ok", "Noted.", "ok", "Noted."]
    assert [c.origin.position for c in kept(memory)] == list(range(8))


def test_each_question_without_an_id_is_recalled_for(memory: MemOS, run: Any) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    memory.add("Miso is Ann's cat.", actor="ann")
    llm = model()
    chat = agent(llm, memory, state_schema=Added, checkpointer=InMemorySaver())
    run(chat, {"messages": [("user", "tea?")]}, thread("1"))
    run(chat, {"messages": [("user", "cat?")]}, thread("1"))
    assert "lemon" in llm.system(0)
    assert "Miso" in llm.system(1)


# --- edited and removed ------------------------------------------------------------------------------------------------


def test_an_edited_message_is_a_new_version_of_its_memory(memory: MemOS, run: Any) -> None:
    llm = model("Porto, noted.", "Braga, noted.", "In Braga.")
    chat = agent(llm, memory, checkpointer=InMemorySaver())
    run(chat, {"messages": [HumanMessage("I live in Porto", id="h1")]}, thread("1"))
    run(chat, {"messages": [HumanMessage("I live in Braga", id="h1")]}, thread("1"))
    assert texts(memory) == ["I live in Braga", "Porto, noted.", "Braga, noted."]
    [home] = [c for c in kept(memory) if c.origin.message_id == "h1"]
    assert [c.text for c in memory.history(home.id, actor="ann")] == ["I live in Porto", "I live in Braga"]
    run(agent(llm, memory), {"messages": "Where do I live?"})
    assert "I live in Braga" in llm.system()
    assert "I live in Porto" not in llm.system()


def test_a_message_further_up_that_is_edited_is_a_new_version_too(memory: MemOS, run: Any) -> None:
    chat = agent(model("one", "two", "three"), memory, checkpointer=InMemorySaver())
    run(chat, {"messages": [HumanMessage("I live in Porto", id="h1")]}, thread("1"))
    run(chat, {"messages": [HumanMessage("I have a cat", id="h2")]}, thread("1"))
    edited = [HumanMessage("I live in Braga", id="h1"), HumanMessage("Well?", id="h3")]
    run(chat, {"messages": edited}, thread("1"))
    assert sorted(texts(memory)) == sorted(["I live in Braga", "one", "I have a cat", "two", "Well?", "three"])


def test_one_id_in_two_threads_is_two_messages(memory: MemOS) -> None:
    chat = agent(model(), memory, checkpointer=InMemorySaver())
    chat.invoke({"messages": [HumanMessage("I live in Porto", id="h1")]}, thread("1"))
    chat.invoke({"messages": [HumanMessage("I live in Braga", id="h1")]}, thread("2"))
    assert [t for t in texts(memory) if "live" in t] == ["I live in Porto", "I live in Braga"]


def test_another_users_edit_of_the_thread_leaves_the_memory_as_it_is(memory: MemOS) -> None:
    mine = MemOSMemory(memory, on_error="raise")
    chat = create_agent(model(), middleware=[mine], checkpointer=InMemorySaver())
    chat.invoke({"messages": [HumanMessage("I live in Porto", id="h1")]}, thread("1", user_id="ann"))
    chat.invoke({"messages": [HumanMessage("I live in Braga", id="h1")]}, thread("1", user_id="bob"))
    assert texts(memory, "ann")[0] == "I live in Porto"
    assert "I live in Braga" in texts(memory, "bob")
    assert "I live in Porto" not in texts(memory, "bob")


def test_a_removed_message_stays_remembered_until_its_memory_is_deleted(memory: MemOS, run: Any) -> None:
    llm = model("one", "two", "three")
    chat = agent(llm, memory, checkpointer=InMemorySaver())
    run(chat, {"messages": [HumanMessage("I live in Porto", id="h1")]}, thread("1"))
    run(chat, {"messages": [RemoveMessage("h1"), HumanMessage("Where do I live?")]}, thread("1"))
    assert "I live in Porto" in llm.system()
    [home] = [c for c in kept(memory) if c.origin.message_id == "h1"]
    memory.delete(home.id, actor="ann")
    run(chat, {"messages": "And now?"}, thread("1"))
    assert "Porto" not in llm.system()
    assert texts(memory) == ["one", "Where do I live?", "two", "And now?", "three"]


def test_a_deleted_memory_does_not_come_back_when_the_last_message_is_removed(memory: MemOS) -> None:
    chat = agent(model(), memory, checkpointer=InMemorySaver())
    chat.invoke({"messages": [HumanMessage("my secret", id="h1")]}, thread("1"))
    [answer] = [m for m in chat.get_state(thread("1")).values["messages"] if isinstance(m, AIMessage)]
    memory.delete([c.id for c in kept(memory)], actor="ann")
    chat.invoke({"messages": [RemoveMessage(answer.id), HumanMessage("hello")]}, thread("1"))
    assert texts(memory) == ["hello", "All right."]


def test_a_thread_begun_anew_is_written(memory: MemOS) -> None:
    chat = agent(model(), memory, checkpointer=InMemorySaver())
    chat.invoke({"messages": "one"}, thread("1"))
    chat.invoke({"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("two")]}, thread("1"))
    assert texts(memory) == ["one", "All right.", "two", "All right."]


# --- summaries ---------------------------------------------------------------------------------------------------------


def shorten(messages: int = 3) -> SummarizationMiddleware:
    return SummarizationMiddleware(model("A summary."), trigger=("messages", messages), keep=("messages", 1))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("is_kept", [True, False])
def test_the_brief_stays_when_the_question_is_summarised_away(
    memory: MemOS, run: Any, is_first: bool, is_kept: bool
) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    llm = model(calling("look", "Let me look."), calling("look", "Once more."), "With lemon.")
    order = {"after": [shorten()]} if is_first else {}
    options = {"checkpointer": InMemorySaver()} if is_kept else {}
    chat = agent(llm, memory, *([] if is_first else [shorten()]), tools=[look], **order, **options)
    run(chat, {"messages": "How do I take my tea?"}, *([thread("1")] if is_kept else []))
    assert "A summary." in str(llm.prompts[1])
    assert ["lemon" in llm.system(call) for call in range(3)] == [True, True, True]
    assert len({llm.system(call) for call in range(3)}) == 1
    said = ["How do I take my tea?", "Let me look.", "Once more.", "With lemon."]
    assert texts(memory)[1:] == said
    assert len({c.origin.session for c in kept(memory)[1:]}) == 1


def test_the_brief_comes_back_after_an_interrupt_that_follows_a_summary(memory: MemOS, run: Any) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")

    def approve() -> str:
        """Ask a person."""
        return str(interrupt("may I?"))

    llm, saver = model(calling("look"), calling("approve"), "Ordered."), InMemorySaver()
    chat = agent(llm, memory, shorten(), tools=[look, approve], checkpointer=saver)
    run(chat, {"messages": "Order my tea"}, thread("1"))
    chat = agent(llm, memory, shorten(), tools=[look, approve], checkpointer=saver)  # as in another process
    run(chat, Command(resume="yes"), thread("1"))
    assert not any(isinstance(m, HumanMessage) and "tea" in m.content for m in llm.prompts[2])
    assert "lemon" in llm.system(2)
    assert "user: Order my tea" not in llm.system(2)
    assert "Order my tea" not in str(chat.get_state(thread("1")).values)
    assert texts(memory)[1:] == ["Order my tea", "Ordered."]


# --- structured answers ------------------------------------------------------------------------------------------------


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("confirmation", [None, "Thank you."])
def test_a_structured_answer_given_as_a_call_is_remembered(memory: MemOS, run: Any, confirmation: str | None) -> None:
    replies = [
        calling("Weather", city="Porto"),  # no degrees: it is asked again
        calling("Weather", city="Porto", degrees=20),
        calling("Weather", "Here:", city="Évora", degrees=30),
    ]
    for number, reply in enumerate(replies):
        reply.tool_calls[0]["id"] = f"call-{number}"
    llm = model(*replies)
    form = ToolStrategy(Weather, tool_message_content=confirmation)
    chat = agent(llm, memory, response_format=form, checkpointer=InMemorySaver())
    found = run(chat, {"messages": "How warm is it in Porto?"}, thread("1"))
    assert found["structured_response"] == Weather(city="Porto", degrees=20)
    run(chat, {"messages": "And in Évora?"}, thread("1"))
    assert [(c.origin.role, c.text) for c in kept(memory)] == [
        ("user", "How warm is it in Porto?"), ("assistant", '{"city": "Porto", "degrees": 20}'),
        ("user", "And in Évora?"), ("assistant", 'Here:\n{"city": "Évora", "degrees": 30}'),
    ]  # fmt: skip


def test_a_structured_answer_of_the_provider_is_remembered(memory: MemOS, run: Any) -> None:
    llm = model('{"city":"Porto","degrees":20}')
    run(agent(llm, memory, response_format=ProviderStrategy(Weather)), {"messages": "How warm is it?"})
    assert texts(memory) == ["How warm is it?", '{"city":"Porto","degrees":20}']


# --- what other middleware says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("state", [AgentState, Added])
def test_the_notice_of_a_limit_of_model_calls_is_not_something_said(
    memory: MemOS, run: Any, is_first: bool, state: Any
) -> None:
    limit = ModelCallLimitMiddleware(thread_limit=2, exit_behavior="end")
    llm = model(calling("look", "Let me look."), calling("look"), "Never.")
    chat = agent(
        llm, memory, *([] if is_first else [limit]), after=[limit] if is_first else [], tools=[look],
        state_schema=state, checkpointer=InMemorySaver(),
    )  # fmt: skip
    found = run(chat, {"messages": [("user", "tea?")]}, thread("1"))
    assert "limits exceeded" in found["messages"][-1].content
    run(chat, {"messages": [("user", "And now?")]}, thread("1"))  # the model is not called at all
    assert texts(memory) == ["tea?", "Let me look.", "And now?"]
    run(chat, {"messages": [("user", "Still?")]}, thread("1"))
    assert texts(memory) == ["tea?", "Let me look.", "And now?", "Still?"]


def test_the_notice_of_a_limit_of_tool_calls_is_not_something_said(memory: MemOS, run: Any) -> None:
    limit = ToolCallLimitMiddleware(tool_name="look", run_limit=1, exit_behavior="end")
    llm = model(calling("look"), calling("look"), "Never.")
    found = run(agent(llm, memory, limit, tools=[look]), {"messages": "tea?"})
    assert "call limit reached" in found["messages"][-1].content
    assert texts(memory) == ["tea?"]


@pytest.mark.parametrize("is_first", [True, False])
def test_the_notice_of_a_model_that_failed_is_not_something_said(memory: MemOS, run: Any, is_first: bool) -> None:
    retry = ModelRetryMiddleware(max_retries=0, on_failure="continue")
    order = {"after": [retry]} if is_first else {}
    found = run(agent(model(_ModelFailed()), memory, *([] if is_first else [retry]), **order), {"messages": "tea?"})
    assert "Model call failed" in found["messages"][-1].content
    assert texts(memory) == ["tea?"]


class Refuse(AgentMiddleware):
    """Ends a run before the model is called, as guard rails do."""

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> Any:
        return {"messages": [AIMessage("I cannot talk about this.")], "jump_to": "end"}


def test_what_answers_in_the_place_of_a_model_that_is_not_called_is_the_answer(memory: MemOS, run: Any) -> None:
    run(agent(model(), memory, Refuse()), {"messages": "tea?"})
    assert texts(memory) == ["tea?", "I cannot talk about this."]


class Rewrite(AgentMiddleware):
    """Puts another message in the place of the model's, as LangChain's documentation does."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return ModelResponse(result=[AIMessage(handler(request).result[0].text.upper())])

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return ModelResponse(result=[AIMessage((await handler(request)).result[0].text.upper())])


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("state", [AgentState, Added])
def test_an_answer_that_is_rewritten_is_remembered_as_it_was_given(
    memory: MemOS, run: Any, is_first: bool, state: Any
) -> None:
    order = {"after": [Rewrite()]} if is_first else {}
    chat = agent(model("With lemon."), memory, *([] if is_first else [Rewrite()]), state_schema=state, **order)
    run(chat, {"messages": [("user", "tea?")]})
    assert texts(memory) == ["tea?", "WITH LEMON."]


def test_the_answer_of_another_model_is_remembered(memory: MemOS, run: Any) -> None:
    fallback = ModelFallbackMiddleware(model("From the other one."))
    run(agent(model(_ModelFailed()), memory, fallback), {"messages": "tea?"})
    assert texts(memory) == ["tea?", "From the other one."]


@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_redacted_in_the_thread_is_remembered_redacted(memory: MemOS, run: Any, is_first: bool) -> None:
    pii = PIIMiddleware("email", strategy="redact", apply_to_input=True, apply_to_output=True)
    order = {"after": [pii]} if is_first else {}
    llm = model("Writing to bob@example.org")
    chat = agent(llm, memory, *([] if is_first else [pii]), checkpointer=InMemorySaver(), **order)
    run(chat, {"messages": "I am ann@example.org"}, thread("1"))
    run(chat, {"messages": "hello"}, thread("1"))
    assert texts(memory) == [
        "I am [REDACTED_EMAIL]", "Writing to [REDACTED_EMAIL]", "hello", "Writing to [REDACTED_EMAIL]",
    ]  # fmt: skip
    assert all(c.version == 1 for c in kept(memory))


def test_a_rejected_call_and_a_list_of_tasks_are_not_something_said(memory: MemOS, run: Any) -> None:
    person = HumanInTheLoopMiddleware(interrupt_on={"look": True})
    todo = calling("write_todos", todos=[{"content": "Look", "status": "pending"}])
    llm = model(todo, calling("look", "May I?"), "Then not.")
    chat = agent(llm, memory, TodoListMiddleware(), person, tools=[look], checkpointer=InMemorySaver())
    run(chat, {"messages": "tea?"}, thread("1"))
    run(chat, Command(resume={"decisions": [{"type": "reject", "message": "No."}]}), thread("1"))
    assert texts(memory) == ["tea?", "May I?", "Then not."]


def test_a_history_handed_in_with_answers_of_any_kind_is_written(memory: MemOS, run: Any) -> None:
    history = [("user", "one"), ("assistant", "two"), ("user", "three")]
    run(agent(model("four"), memory, checkpointer=InMemorySaver()), {"messages": history}, thread("1"))
    assert texts(memory) == ["one", "two", "three", "four"]
