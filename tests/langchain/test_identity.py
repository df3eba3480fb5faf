"""Whose memory it is: the same ways, in the same order, for every part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime, ServerInfo
from pydantic import BaseModel

from langchain_memos import MemOSMemory, MemOSRecallNode, MemOSRetriever, MemOSWriteNode, create_memos_tools
from memos_core import InvalidArgument, MemOS
from tests.langchain.models import calling, model


@dataclass
class AsDataclass:
    user_id: str | None = None


class AsModel(BaseModel):
    user_id: str | None = None


class AsMapping(TypedDict, total=False):
    user_id: str


def _middleware(memory: MemOS, user_id: Any, schema: Any) -> Any:
    llm = model()
    return create_agent(
        llm, middleware=[MemOSMemory(memory, user_id=user_id)], context_schema=schema
    ), lambda: llm.system()


def _tool(memory: MemOS, user_id: Any, schema: Any) -> Any:
    llm = model(calling("search_memory", query="tea"), "Done.")
    agent = create_agent(llm, create_memos_tools(memory, user_id=user_id), context_schema=schema)
    return agent, lambda: str(llm.prompts[-1][-1].content)


def _graph(node: Any, schema: Any, seen: list[str]) -> Any:
    class State(MessagesState):
        memory: str

    graph = StateGraph(State, context_schema=schema)
    graph.add_node("node", node)
    graph.add_node("look", lambda state: seen.append(str(state.get("memory") or state["messages"][-1].content)))
    graph.add_edge(START, "node").add_edge("node", "look")
    return graph.compile(), lambda: seen[-1]


def _node(memory: MemOS, user_id: Any, schema: Any) -> Any:
    return _graph(MemOSRecallNode(memory, user_id=user_id), schema, [])


def _retriever(memory: MemOS, user_id: Any, schema: Any) -> Any:
    retriever = MemOSRetriever(memory, user_id=user_id)
    return _graph(lambda state: {"memory": str(retriever.invoke("tea"))}, schema, [])


PARTS = {"middleware": _middleware, "tool": _tool, "node": _node, "retriever": _retriever}
WHO = ("given", "context", "config", "server")


@pytest.fixture
def memory(memory: MemOS) -> MemOS:
    for user in WHO:
        memory.add(f"{user}'s tea", actor=user)
    return memory


@pytest.fixture(params=sorted(PARTS))
def part(request: pytest.FixtureRequest, memory: MemOS) -> Callable[..., set[str]]:
    """Runs one of the parts in a graph; whose tea it found."""

    def run(
        user_id: Any = None, schema: Any = None, *, context: Any = None, config: Any = None, way: str = "sync"
    ) -> set[str]:
        graph, shown = PARTS[request.param](memory, user_id, schema)
        asked, config = {"messages": "tea?"}, {"configurable": config or {}}
        if way == "sync":
            graph.invoke(asked, config, context=context)
        else:
            asyncio.run(graph.ainvoke(asked, config, context=context))
        return {user for user in WHO if f"{user}'s tea" in shown()}

    return run


SERVER = SimpleNamespace(identity="server", is_authenticated=True, display_name="server")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_order_is_argument_context_configuration_server(part: Any, way: str) -> None:
    configured = {"user_id": "config", "langgraph_auth_user": SERVER}
    context = AsDataclass("context")
    assert part("given", AsDataclass, context=context, config=configured, way=way) == {"given"}
    assert part(None, AsDataclass, context=context, config=configured, way=way) == {"context"}
    assert part(None, AsDataclass, context=AsDataclass(), config=configured, way=way) == {"config"}
    assert part(None, None, config={"langgraph_auth_user": SERVER}, way=way) == {"server"}


@pytest.mark.parametrize(
    ("schema", "context"),
    [
        (AsDataclass, AsDataclass("context")), (AsDataclass, {"user_id": "context"}), (AsModel, AsModel(user_id="context")),
        (AsMapping, {"user_id": "context"}), (dict, {"user_id": "context"}),
    ],
)  # fmt: skip
def test_a_context_of_any_form_says_it(part: Any, schema: Any, context: Any) -> None:
    assert part(None, schema, context=context) == {"context"}


def test_a_callable_is_given_the_runs_runtime(part: Any) -> None:
    assert part(lambda runtime: runtime.context["who"], dict, context={"who": "given"}) == {"given"}
    trusted = {"user_id": "config", "langgraph_auth_user": SERVER}
    assert part(lambda runtime: runtime.server_info.user.identity, config=trusted) == {"server"}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_nobody_is_an_error_that_says_the_ways(part: Any, way: str) -> None:
    with pytest.raises(InvalidArgument, match=r"user_id=\.\.\..*run's context.*\"configurable\": {\"user_id\""):
        part(way=way)


@pytest.mark.parametrize("user", ["", "  ", "*", 7, b"ann", "half \ud83d", ["ann"]])
def test_what_is_no_name_is_an_error_wherever_it_comes_from(part: Any, user: Any) -> None:
    for say in (
        {"user_id": lambda runtime: user},
        {"schema": dict, "context": {"user_id": user}},
        {"config": {"user_id": user}},
    ):
        with pytest.raises(InvalidArgument, match="names one user"):
            part(**say)
    with pytest.raises(InvalidArgument, match="names one user"):
        part(user)


def test_the_write_node_asks_as_the_others_do(memory: MemOS) -> None:
    with pytest.raises(InvalidArgument, match=r"user_id=.*context.*configurable"):
        MemOSWriteNode(memory).invoke({"messages": "hi"})
    MemOSWriteNode(memory).invoke({"messages": "hi"}, {"configurable": {"user_id": "config"}})
    assert memory.search("hi", actor="config")[0].cube.text == "hi"


def test_a_server_that_knows_nobody_says_nobody(memory: MemOS) -> None:
    nobody = Runtime(server_info=ServerInfo(assistant_id="a", graph_id="g", user=None))
    with pytest.raises(InvalidArgument, match="user_id="):
        MemOSMemory(memory).after_agent({"messages": []}, nobody)
