"""The store where graphs use it: injected into nodes and tools, and under LangMem's tools, which know nothing of it."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.messages import AIMessage
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore

from langchain_memos import MemOSMemory, MemOSStore
from memos_core import MemOS
from tests.langchain.models import model

USER = {"configurable": {"langgraph_user_id": "ann"}}
WHERE = ("memories", "{langgraph_user_id}")
RUNS: dict[str, Callable[..., Any]] = {
    "sync": lambda graph, *args, **kw: graph.invoke(*args, **kw),
    "async": lambda graph, *args, **kw: asyncio.run(graph.ainvoke(*args, **kw)),
}


@pytest.fixture
def store(memory: MemOS) -> MemOSStore:
    return MemOSStore(memory)


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return RUNS[request.param]


def tools(namespace: tuple[str, ...] = WHERE) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of LangMem's own imports
        langmem = pytest.importorskip("langmem", reason="LangMem's tools are tried where it is installed")
        return [
            langmem.create_manage_memory_tool(namespace=namespace),
            langmem.create_search_memory_tool(namespace=namespace),
        ]


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "call-1"}])


def answer(state: dict[str, Any]) -> str:
    """What the last tool said."""
    return str([m for m in state["messages"] if m.type == "tool"][-1].content)


def test_langmems_tools_run_unchanged_in_an_agent(store: MemOSStore, run: Callable[..., Any]) -> None:
    def agent(*replies: Any) -> Any:
        return create_agent(model(*replies, "Done."), tools(), store=store)

    asked = {"messages": "I take my tea with lemon."}
    run(agent(calling("manage_memory", action="create", content="Ann takes her tea with lemon.")), asked, USER)
    run(agent(calling("manage_memory", action="create", content="Ann has a blue bicycle.")), asked, USER)
    [tea] = store.search(("memories", "ann"), query="tea with lemon", limit=1)
    assert tea.value == {"content": "Ann takes her tea with lemon."}
    found = run(
        agent(calling("search_memory", query="How does she take her tea?", limit=1)), {"messages": "tea?"}, USER
    )
    assert "with lemon" in answer(found)
    assert "bicycle" not in answer(found)
    run(
        agent(calling("manage_memory", action="update", id=tea.key, content="Ann takes her tea with milk.")),
        asked,
        USER,
    )
    after = store.get(("memories", "ann"), tea.key)
    assert after is not None
    assert (after.value, after.created_at) == ({"content": "Ann takes her tea with milk."}, tea.created_at)
    run(agent(calling("manage_memory", action="delete", id=tea.key)), asked, USER)
    assert [i.value for i in store.search(())] == [{"content": "Ann has a blue bicycle."}]


def test_langmems_tools_run_unchanged_in_a_plain_graph(store: MemOSStore, run: Callable[..., Any]) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(tools()))
    graph.add_edge(START, "tools")
    compiled = graph.compile(store=store)
    for user, word in (("ann", "lemon"), ("bob", "milk")):
        call = calling("manage_memory", content=f"{user} takes tea with {word}.")
        run(compiled, {"messages": [call]}, {"configurable": {"langgraph_user_id": user}})
    found = run(compiled, {"messages": [calling("search_memory", query="tea")]}, USER)
    assert "lemon" in answer(found)
    assert "milk" not in answer(found)
    assert store.list_namespaces() == [("memories", "ann"), ("memories", "bob")]


def test_a_namespace_of_the_servers_user_is_not_the_clients_to_choose(
    store: MemOSStore, run: Callable[..., Any]
) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(tools(("memories", "{langgraph_auth_user_id}"))))
    compiled = graph.add_edge(START, "tools").compile(store=store)
    sent = {"langgraph_user_id": "bob", "user_id": "bob", "langgraph_auth_user_id": "ann"}  # the last one by the server
    run(compiled, {"messages": [calling("manage_memory", content="Tea with lemon.")]}, {"configurable": sent})
    assert store.list_namespaces() == [("memories", "ann")]


def test_what_langmem_wrote_is_recalled_by_the_middleware(memory: MemOS, store: MemOSStore) -> None:
    """One memory for both: the store's items are the actor's memories."""
    writer = create_agent(
        model(calling("manage_memory", content="Ann takes her tea with lemon."), "Noted."), tools(), store=store
    )
    writer.invoke({"messages": "Remember this."}, USER)
    llm = model("With lemon.")
    reader = create_agent(llm, middleware=[MemOSMemory(memory, user_id="ann", namespace=("memories",))])
    reader.invoke({"messages": "How do I take my tea?"})
    assert "Ann takes her tea with lemon." in llm.system()


def test_the_very_store_reaches_nodes_and_tools(store: MemOSStore, run: Callable[..., Any]) -> None:
    seen: dict[str, Any] = {}

    @tool
    def remember(fact: str, runtime: ToolRuntime = None) -> str:  # type: ignore[assignment]
        """Keep a fact."""
        seen["tool"] = runtime.store
        runtime.store.put(("facts",), str(uuid.uuid4()), {"content": fact})  # type: ignore[union-attr]
        return "kept"

    def by_runtime(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        seen["runtime"] = runtime.store
        return {}

    def by_keyword(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
        seen["keyword"], seen["function"] = store, get_store()
        return {"messages": [calling("remember", fact="tea with lemon")]}

    graph = StateGraph(MessagesState)
    graph.add_sequence([by_runtime, by_keyword, ("tools", ToolNode([remember]))])
    graph.add_edge(START, "by_runtime")
    run(graph.compile(store=store), {"messages": []})
    assert seen == dict.fromkeys(("tool", "runtime", "keyword", "function"), store)
    assert [i.value for i in store.search(("facts",), query="lemon")] == [{"content": "tea with lemon"}]


def test_an_async_node_uses_the_async_methods(store: MemOSStore) -> None:
    async def node(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
        await store.aput(("facts",), "k", {"content": "tea with lemon"})
        found = await store.asearch(("facts",), query="tea")
        return {"messages": [("ai", found[0].value["content"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    state = asyncio.run(graph.compile(store=store).ainvoke({"messages": []}))
    assert state["messages"][-1].content == "tea with lemon"
