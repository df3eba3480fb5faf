"""MemOSMemory and the tools in what people build: kept in SQLite, interrupted, streamed, nested, traced, many at once."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware, ModelRetryMiddleware, omit_payload
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent, tools_condition
from langgraph.types import Command, TracePolicy, interrupt

from langchain_memos import MemOSMemory, MemOSRecallNode, MemOSWriteNode, create_memos_tools
from memos_core import InvalidArgument, MemOS, StoreClosed
from tests.conftest import Clock
from tests.langchain.models import Model, calling, kept, model, texts, thread

LEMON = "Ann takes her tea with lemon."


@pytest.fixture
def memory(open_store: Callable[..., MemOS], clock: Clock) -> MemOS:
    """A store that knows one thing about ann, and whose clock goes on with each look at it."""
    memory = open_store(clock=lambda: clock.forward(seconds=1))
    memory.add(LEMON, actor="ann")
    return memory


@tool
def approve() -> str:
    """Ask a person."""
    return str(interrupt("may I?"))


@tool
def look() -> str:
    """Look."""
    return "nothing"


def agent(llm: Model, memory: MemOS, *tools: Any, **options: Any) -> Any:
    others = options.pop("middleware", [])
    remembering = options.pop("remembering", None) or MemOSMemory(memory, user_id="ann", on_error="raise")
    return create_agent(llm, list(tools), middleware=[*others, remembering], **options)


# --- kept in SQLite ----------------------------------------------------------------------------------------------------


@contextmanager
def sqlite(path: Path) -> Iterator[Any]:
    saver = pytest.importorskip("langgraph.checkpoint.sqlite", reason="needs langgraph-checkpoint-sqlite")
    with saver.SqliteSaver.from_conn_string(str(path)) as opened:
        opened.serde = JsonPlusSerializer(allowed_msgpack_modules=None)  # nothing but what LangGraph knows itself
        yield opened


@asynccontextmanager
async def async_sqlite(path: Path) -> AsyncIterator[Any]:
    saver = pytest.importorskip("langgraph.checkpoint.sqlite.aio", reason="needs langgraph-checkpoint-sqlite")
    async with saver.AsyncSqliteSaver.from_conn_string(str(path)) as opened:
        opened.serde = JsonPlusSerializer(allowed_msgpack_modules=None)
        yield opened


def test_interrupted_and_resumed_from_sqlite_by_another_process(memory: MemOS, tmp_path: Path) -> None:
    llm = model(calling("approve", "One moment."), "Ordered.")
    with sqlite(tmp_path / "threads.db") as saver:
        assert agent(llm, memory, approve, checkpointer=saver).invoke({"messages": "Order my tea"}, thread("1"))[
            "__interrupt__"
        ]
    assert texts(memory) == [LEMON, "Order my tea"]
    with sqlite(tmp_path / "threads.db") as saver:  # nothing is left of the first but the files
        result = agent(llm, memory, approve, checkpointer=saver).invoke(Command(resume="yes"), thread("1"))
    assert [m.text for m in result["messages"]] == ["Order my tea", "One moment.", "yes", "Ordered."]
    assert LEMON in llm.system(0)
    assert llm.system(1) == llm.system(0)
    assert texts(memory) == [LEMON, "Order my tea", "One moment.", "Ordered."]
    kept_there = (tmp_path / "threads.db").read_bytes()
    assert b"Order my tea" in kept_there
    assert LEMON.encode() not in kept_there


async def test_interrupted_and_resumed_from_sqlite_asynchronously(memory: MemOS, tmp_path: Path) -> None:
    llm = model(calling("approve", "One moment."), "Ordered.", "With lemon.")
    async with async_sqlite(tmp_path / "threads.db") as saver:
        paused = await agent(llm, memory, approve, checkpointer=saver).ainvoke(
            {"messages": "Order my tea"}, thread("1")
        )
        assert paused["__interrupt__"]
    async with async_sqlite(tmp_path / "threads.db") as saver:
        again = agent(llm, memory, approve, checkpointer=saver)
        await again.ainvoke(Command(resume="yes"), thread("1"))
        await again.ainvoke({"messages": "How?"}, thread("1"))
    assert LEMON in llm.system(1)
    assert texts(memory) == [LEMON, "Order my tea", "One moment.", "Ordered.", "How?", "With lemon."]
    assert {c.origin.session for c in kept(memory)[1:]} == {"1"}
    kept_there = (tmp_path / "threads.db").read_bytes()
    assert b"Order my tea" in kept_there
    assert LEMON.encode() not in kept_there


def test_what_changed_while_a_run_was_interrupted_is_recalled_as_it_is_now(memory: MemOS) -> None:
    llm, saver = model(calling("approve"), "Ordered."), InMemorySaver()
    chat = agent(llm, memory, approve, checkpointer=saver)
    chat.invoke({"messages": "Order my tea"}, thread("1"))
    [lemon] = [c for c in kept(memory) if c.text == LEMON]
    memory.update(lemon.id, "Ann takes her tea with milk.", actor="ann")
    chat.invoke(Command(resume="yes"), thread("1"))
    assert "with milk" in llm.system(1)
    assert "lemon" not in llm.system(1)


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_person_who_decides_on_the_tools_of_the_memory(memory: MemOS, decision: str) -> None:
    llm = model(calling("remember", text="Ann has a cat."), "All right.")
    remembering = MemOSMemory(memory, user_id="ann", tools=("remember",), on_error="raise")
    asking = HumanInTheLoopMiddleware(interrupt_on={"remember": True})
    chat = agent(llm, memory, middleware=[asking], remembering=remembering, checkpointer=InMemorySaver())
    chat.invoke({"messages": "I have a cat."}, thread("1"))
    assert "Ann has a cat." not in texts(memory)
    chat.invoke(Command(resume={"decisions": [{"type": decision}]}), thread("1"))
    noted = ["Ann has a cat."] if decision == "approve" else []
    assert sorted(texts(memory)) == sorted([LEMON, "I have a cat.", *noted, "All right."])


def test_the_run_that_nobody_resumes_loses_nothing_and_the_next_goes_on(memory: MemOS) -> None:
    llm = model(calling("approve", "One moment."), "Never mind.")
    chat = agent(llm, memory, approve, checkpointer=InMemorySaver())
    chat.invoke({"messages": "Order my tea"}, thread("1"))
    chat.invoke({"messages": [ToolMessage("cancelled", tool_call_id="call-1"), HumanMessage("Leave it.")]}, thread("1"))
    assert texts(memory) == [LEMON, "Order my tea", "One moment.", "Leave it.", "Never mind."]


# --- streamed ----------------------------------------------------------------------------------------------------------

MODES = ("values", "updates", "messages", "custom", "debug", "checkpoints", "tasks")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_streamed_in_any_mode_it_works_as_ever_and_shows_no_memory(memory: MemOS, mode: str, way: str) -> None:
    llm = model(calling("look"), "With lemon it is.")
    chat = agent(llm, memory, look, checkpointer=InMemorySaver())
    asked: Any = {"messages": "tea?"}

    async def streamed() -> list[Any]:
        return [part async for part in chat.astream(asked, thread("1"), stream_mode=mode)]

    parts = asyncio.run(streamed()) if way == "async" else list(chat.stream(asked, thread("1"), stream_mode=mode))
    assert parts or mode == "custom"
    assert LEMON in llm.system(0)
    assert llm.system(1) == llm.system(0)
    assert LEMON not in str(parts)
    assert [t.strip() for t in texts(memory)] == [LEMON, "tea?", "With lemon it is."]
    if mode == "messages":
        assert "".join(m.text for m, _ in parts if m.type == "AIMessageChunk").split() == ["With", "lemon", "it", "is."]


async def test_streamed_as_events_only_the_models_own_show_its_prompt(memory: MemOS) -> None:
    llm = model("With lemon it is.")
    events = [e async for e in agent(llm, memory).astream_events({"messages": "tea?"}, version="v2")]
    telling = {(e["event"], e["name"]) for e in events if LEMON in str(e)}
    assert telling == {("on_chat_model_start", "Model"), ("on_chat_model_end", "Model")}
    assert [t.strip() for t in texts(memory)] == [LEMON, "tea?", "With lemon it is."]


async def test_streamed_by_the_third_protocol(memory: MemOS) -> None:
    llm = model("With lemon it is.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangGraph calls it experimental
        run = await agent(llm, memory).astream_events({"messages": "tea?"}, version="v3")
        words = "".join([word async for message in run.messages async for word in message.text])
        result = await run.output()
    assert words.split() == ["With", "lemon", "it", "is."]
    assert LEMON not in str(result)
    assert LEMON in llm.system()
    assert [t.strip() for t in texts(memory)] == [LEMON, "tea?", "With lemon it is."]


def test_a_stream_that_is_left_early_keeps_what_was_asked(memory: MemOS) -> None:
    stream = agent(model("a b c d"), memory).stream({"messages": "Remember the milk."}, stream_mode="messages")
    next(stream)
    stream.close()
    assert texts(memory) == [LEMON, "Remember the milk."]


# --- when something raises ---------------------------------------------------------------------------------------------


class _Failed(Exception):
    pass


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_model_that_fails_after_its_tools_loses_what_it_said_to_no_kept_thread(memory: MemOS, way: str) -> None:
    llm = model(calling("look", "One moment."), _Failed(), "Here I am again.")
    chat = agent(llm, memory, look, checkpointer=InMemorySaver())

    def run(asked: str) -> None:
        if way == "sync":
            chat.invoke({"messages": asked}, thread("1"))
        else:
            asyncio.run(chat.ainvoke({"messages": asked}, thread("1")))

    with pytest.raises(_Failed):
        run("tea?")
    assert texts(memory) == [LEMON, "tea?"]
    run("Still there?")
    assert texts(memory) == [LEMON, "tea?", "One moment.", "Still there?", "Here I am again."]


@pytest.mark.parametrize("first", ["memory", "retry"])
def test_a_model_call_that_is_tried_again_is_one_turn(memory: MemOS, first: str) -> None:
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False)
    remembering = MemOSMemory(memory, user_id="ann", on_error="raise")
    order = [remembering, retry] if first == "memory" else [retry, remembering]
    llm = model(_Failed(), _Failed(), "Third time lucky.")
    create_agent(llm, middleware=order).invoke({"messages": "tea?"})
    assert [LEMON in llm.system(i) for i in range(3)] == [True] * 3
    assert [llm.system(i).count("recalled-memories") for i in range(3)] == [2] * 3
    assert texts(memory) == [LEMON, "tea?", "Third time lucky."]


def test_a_closed_engine_says_so_also_where_failures_are_only_logged(memory: MemOS) -> None:
    chat = agent(model(), memory, remembering=MemOSMemory(memory, user_id="ann"))
    memory.close()
    with pytest.raises(StoreClosed, match="closed"):
        chat.invoke({"messages": "tea?"})


def test_a_resumed_run_has_to_say_its_user_too(memory: MemOS) -> None:
    chat = agent(
        model(calling("approve"), "Ordered."),
        memory,
        approve,
        remembering=MemOSMemory(memory),
        checkpointer=InMemorySaver(),
    )
    chat.invoke({"messages": "Order my tea"}, thread("1", user_id="ann"))
    with pytest.raises(InvalidArgument, match="user_id="):
        chat.invoke(Command(resume="yes"), thread("1"))


# --- nested ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saver", [None, "checkpointer"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_agents_that_share_the_memory_in_one_graph_write_each_message_once(memory: MemOS, saver: Any, way: str) -> None:
    remembering = MemOSMemory(memory, user_id="ann", on_error="raise")
    researcher, writer = model("Found.", "Found more."), model("Written.", "Written again.")
    graph = StateGraph(MessagesState)
    graph.add_node("researcher", agent(researcher, memory, remembering=remembering))
    graph.add_node("writer", agent(writer, memory, remembering=remembering))
    graph.add_edge(START, "researcher").add_edge("researcher", "writer")
    team = graph.compile(checkpointer=InMemorySaver() if saver else None)
    config = thread("1") if saver else {}
    for asked in ("tea?", "And now?"):
        asked_now: Any = {"messages": [HumanMessage(asked)]}
        team.invoke(asked_now, config) if way == "sync" else asyncio.run(team.ainvoke(asked_now, config))
    assert texts(memory) == [LEMON, "tea?", "Found.", "Written.", "And now?", "Found more.", "Written again."]
    assert len({c.origin.session for c in kept(memory)[1:]}) == (1 if saver else 2)
    assert LEMON in researcher.system(0)
    assert LEMON in writer.system(0)


def test_an_agent_in_a_graph_does_not_bring_back_what_was_deleted(memory: MemOS) -> None:
    graph = StateGraph(MessagesState).add_node("agent", agent(model(), memory)).add_edge(START, "agent")
    team = graph.compile(checkpointer=InMemorySaver())
    team.invoke({"messages": [HumanMessage("my secret")]}, thread("1"))
    memory.delete([c.id for c in kept(memory)], actor="ann")
    team.invoke({"messages": [HumanMessage("hello")]}, thread("1"))
    assert texts(memory) == ["hello", "All right."]


def test_an_agent_in_a_graph_that_keeps_its_own_thread_goes_on_in_it(memory: MemOS) -> None:
    own = agent(model("one", "two"), memory, checkpointer=True)
    team = (
        StateGraph(MessagesState).add_node("agent", own).add_edge(START, "agent").compile(checkpointer=InMemorySaver())
    )
    for asked in ("first", "second"):
        team.invoke({"messages": [HumanMessage(asked)]}, thread("1"))
    assert texts(memory) == [LEMON, "first", "one", "second", "two"]


def test_an_interrupt_within_an_agent_within_a_graph(memory: MemOS) -> None:
    llm = model(calling("approve"), "Ordered.")
    graph = StateGraph(MessagesState).add_node("agent", agent(llm, memory, approve)).add_edge(START, "agent")
    team = graph.compile(checkpointer=InMemorySaver())
    team.invoke({"messages": [HumanMessage("Order my tea")]}, thread("1"))
    team.invoke(Command(resume="yes"), thread("1"))
    assert LEMON in llm.system(1)
    assert texts(memory) == [LEMON, "Order my tea", "Ordered."]


def test_an_agent_that_another_one_calls_as_its_tool_has_its_user(memory: MemOS) -> None:
    helper_llm = model("Lemon tea.")
    helper = agent(helper_llm, memory, remembering=MemOSMemory(memory, write=False, on_error="raise"))

    @tool
    def ask_helper(question: str) -> str:
        """Ask the helper."""
        return str(helper.invoke({"messages": question})["messages"][-1].text)

    llm = model(calling("ask_helper", question="tea?"), "Lemon.")
    chat = agent(
        llm, memory, ask_helper, remembering=MemOSMemory(memory, on_error="raise"), checkpointer=InMemorySaver()
    )
    chat.invoke({"messages": "What do I drink with my tea?"}, thread("1", user_id="ann"))
    assert LEMON in helper_llm.system()
    assert texts(memory) == [LEMON, "What do I drink with my tea?", "Lemon."]


# --- graphs of LangGraph's own making ----------------------------------------------------------------------------------


def _by_hand(llm: Model, memory: MemOS) -> Any:
    """The loop of model and tools that everybody has built once, with a node before it and one behind it."""

    class State(MessagesState):
        memory: str

    def call_model(state: State) -> dict[str, Any]:
        return {"messages": [llm.invoke([("system", f"Be brief.\n{state['memory']}"), *state["messages"]])]}

    graph = StateGraph(State)
    graph.add_node("recall", MemOSRecallNode(memory, on_error="raise"))
    graph.add_node("model", call_model)
    graph.add_node("tools", ToolNode(create_memos_tools(memory, on_error="raise")))
    graph.add_node("write", MemOSWriteNode(memory, on_error="raise"))
    graph.add_edge(START, "recall").add_edge("recall", "model").add_edge("tools", "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", "__end__": "write"})
    return graph.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_loop_of_model_and_tools_built_by_hand(memory: MemOS, way: str) -> None:
    llm = model(calling("remember", text="Ann has a cat."), "Noted.")
    graph = _by_hand(llm, memory)
    asked: Any = {"messages": [HumanMessage("I have a cat, and how do I take my tea?")]}
    config = thread("1", user_id="ann")
    graph.invoke(asked, config) if way == "sync" else asyncio.run(graph.ainvoke(asked, config))
    assert LEMON in llm.system(0)
    assert texts(memory) == [LEMON, "Ann has a cat.", "I have a cat, and how do I take my tea?", "Noted."]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_older_prebuilt_agent_takes_the_tools(memory: MemOS, way: str) -> None:
    llm = model(calling("search_memory", query="tea"), "With lemon.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangGraph has moved it to LangChain, where it is create_agent
        react = create_react_agent(llm, create_memos_tools(memory, on_error="raise"))
    asked: Any = {"messages": "tea?"}
    config = {"configurable": {"user_id": "ann"}}
    result = react.invoke(asked, config) if way == "sync" else asyncio.run(react.ainvoke(asked, config))
    [found] = [m for m in result["messages"] if isinstance(m, ToolMessage)]
    assert LEMON in found.content


# --- traced ------------------------------------------------------------------------------------------------------------


class _Tracer(BaseTracer):
    """Keeps all spans of a run, the outer one last."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self._keep(run)

    def _keep(self, run: Run) -> None:
        for child in run.child_runs:
            self._keep(child)
        self.spans.append(run)

    def of(self, hook: str) -> list[Run]:
        return [s for s in self.spans if hook in s.name]


@pytest.mark.parametrize("policy", [None, TracePolicy(process_inputs=omit_payload, process_outputs=omit_payload)])
def test_traces_show_the_hook_by_name_and_of_it_what_the_policy_lets_through(memory: MemOS, policy: Any) -> None:
    tracer = _Tracer()
    remembering = MemOSMemory(memory, user_id="ann", trace_policy=policy, on_error="raise")
    agent(model(), memory, remembering=remembering).invoke({"messages": "tea?"}, {"callbacks": [tracer]})
    [span] = tracer.of("MemOSMemory.after_agent")
    assert ("tea?" in str(span.inputs)) is (policy is None)
    telling = {s.name for s in tracer.spans if LEMON in str(s.inputs) + str(s.outputs)}
    assert telling <= {"Model"}


# --- beside other middleware -------------------------------------------------------------------------------------------


def test_a_history_that_the_caller_keeps_is_not_recalled_beside_itself(memory: MemOS) -> None:
    llm = model("one", "two")
    chat = agent(llm, memory)
    chat.invoke({"messages": [{"role": "user", "content": "My tea is Assam."}]})
    said = [("user", "My tea is Assam."), ("ai", "one"), ("user", "Which tea?")]
    chat.invoke({"messages": said})
    assert LEMON in llm.system()
    assert "Assam" not in llm.system()


def test_a_middleware_that_answers_in_the_models_place(memory: MemOS) -> None:
    class Canned(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return AIMessage("Closed today.")

    for order in (["memory", "canned"], ["canned", "memory"]):
        parts: dict[str, Any] = {"memory": MemOSMemory(memory, user_id="ann", on_error="raise"), "canned": Canned()}
        create_agent(model(), middleware=[parts[p] for p in order]).invoke({"messages": f"{order[0]} first"})
    assert texts(memory) == [LEMON, "memory first", "Closed today.", "canned first", "Closed today."]
