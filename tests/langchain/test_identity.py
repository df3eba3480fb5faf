"""Whose memory it is: the same ways, in the same order, for every part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime, ServerInfo
from pydantic import BaseModel

from langchain_memos import (
    MemOSChatMessageHistory,
    MemOSMemory,
    MemOSRecallNode,
    MemOSRetriever,
    MemOSVectorStore,
    MemOSWriteNode,
    create_memos_tools,
)
from langchain_memos.identity import user_of
from memos_core import AccessDenied, InvalidArgument, MemOS
from tests.langchain.models import calling, model


@dataclass
class AsDataclass:
    user_id: str | None = None


class AsModel(BaseModel):
    user_id: str | None = None


class AsMapping(TypedDict, total=False):
    user_id: str


def _middleware(memory: MemOS, schema: Any, **who: Any) -> Any:
    llm = model()
    return create_agent(llm, middleware=[MemOSMemory(memory, **who)], context_schema=schema), lambda: llm.system()


def _tool(memory: MemOS, schema: Any, **who: Any) -> Any:
    llm = model(calling("search_memory", query="tea"), "Done.")
    agent = create_agent(llm, create_memos_tools(memory, **who), context_schema=schema)
    return agent, lambda: str(llm.prompts[-1][-1].content)


def _graph(node: Any, schema: Any, seen: list[str]) -> Any:
    class State(MessagesState):
        memory: str

    graph = StateGraph(State, context_schema=schema)
    graph.add_node("node", node)
    graph.add_node("look", lambda state: seen.append(str(state.get("memory") or state["messages"][-1].content)))
    graph.add_edge(START, "node").add_edge("node", "look")
    return graph.compile(), lambda: seen[-1]


def _node(memory: MemOS, schema: Any, **who: Any) -> Any:
    return _graph(MemOSRecallNode(memory, **who), schema, [])


def _retriever(memory: MemOS, schema: Any, **who: Any) -> Any:
    retriever = MemOSRetriever(memory, **who)
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
        user_id: Any = None,
        schema: Any = None,
        *,
        context: Any = None,
        config: Any = None,
        way: str = "sync",
        **who: Any,
    ) -> set[str]:
        graph, shown = PARTS[request.param](memory, schema, user_id=user_id, **who)
        asked, config = {"messages": "tea?"}, {"configurable": config or {}}
        if way == "sync":
            graph.invoke(asked, config, context=context)
        else:
            asyncio.run(graph.ainvoke(asked, config, context=context))
        return {user for user in WHO if f"{user}'s tea" in shown()}

    return run


SERVER = SimpleNamespace(identity="server", is_authenticated=True, display_name="server")
AUTHENTICATED = {"langgraph_auth_user": SERVER, "langgraph_auth_user_id": "server"}  # as LangGraph's server sets it
ALLOWS = r"trust_client_user=True.*user_id=\.\.\..*callable"


@pytest.fixture
def trusting(part: Any) -> Callable[..., set[str]]:
    return partial(part, trust_client_user=True)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_order_is_argument_server_context_configuration(part: Any, way: str) -> None:
    context = AsDataclass("context")
    forged = {"user_id": "config", **AUTHENTICATED}
    assert part("given", AsDataclass, context=context, config=forged, way=way) == {"given"}
    assert part(None, None, config=AUTHENTICATED, way=way) == {"server"}
    assert part(None, AsDataclass, context=AsDataclass(), config=AUTHENTICATED, way=way) == {"server"}
    assert part(None, AsDataclass, context=context, config={"user_id": "config"}, way=way) == {"context"}
    assert part(None, AsDataclass, context=AsDataclass(), config={"user_id": "config"}, way=way) == {"config"}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_where_a_server_authenticated_somebody_another_name_is_refused(part: Any, way: str) -> None:
    same = {"user_id": "server", **AUTHENTICATED}
    assert part(None, dict, context={"user_id": "server"}, config=same, way=way) == {"server"}
    for sent in (
        {"config": {"user_id": "config", **AUTHENTICATED}},
        {"schema": dict, "context": {"user_id": "context"}, "config": AUTHENTICATED},
        {"schema": AsDataclass, "context": AsDataclass("context"), "config": AUTHENTICATED},
        {"schema": dict, "context": {"user_id": "server"}, "config": {"user_id": "config", **AUTHENTICATED}},
        {"schema": dict, "context": {"user_id": "context"}, "config": same},
        {"config": {"user_id": "config", "langgraph_auth_user_id": "server"}},
        {"config": {"user_id": "config", "langgraph_auth_user": {"identity": "server"}}},
        {"config": {"user_id": "config", "langgraph_auth_user": "server"}},
    ):
        with pytest.raises(AccessDenied, match=f"authenticated 'server'.*{ALLOWS}"):
            part(way=way, **sent)


@pytest.mark.parametrize("name", ["", " ", "*", 7, ["server"], "Server", "server "])
def test_what_is_not_quite_the_servers_user_is_another(part: Any, name: Any) -> None:
    with pytest.raises(AccessDenied, match=ALLOWS):
        part(config={"user_id": name, **AUTHENTICATED})
    with pytest.raises(AccessDenied, match=ALLOWS):
        part(schema=dict, context={"user_id": name}, config=AUTHENTICATED)


def test_a_server_says_who_it_is_by_any_of_its_keys(part: Any) -> None:
    assert part(config={"langgraph_auth_user_id": "server"}) == {"server"}
    assert part(config={"langgraph_auth_user": {"identity": "server", "permissions": []}}) == {"server"}
    assert part(config={"langgraph_auth_user": "server"}) == {"server"}
    assert part(config={"langgraph_auth_user": SimpleNamespace(identity="server", is_authenticated=False)}) == {
        "server"
    }


@pytest.mark.parametrize(
    "nobody",
    [
        {}, {"langgraph_auth_user": None, "langgraph_auth_user_id": None}, {"langgraph_auth_user": None, "langgraph_auth_user_id": ""},
        {"langgraph_auth_user": SimpleNamespace(identity="", is_authenticated=False), "langgraph_auth_user_id": ""},
        {"langgraph_auth_user": {"identity": "", "is_authenticated": False}},
    ],
)  # fmt: skip
def test_where_a_server_authenticates_nobody_the_client_says_it(part: Any, nobody: Any) -> None:
    served = {"assistant_id": "a", "graph_id": "g", **nobody}
    assert part(config={"user_id": "config", **served}) == {"config"}
    assert part(schema=dict, context={"user_id": "context"}, config=served) == {"context"}
    with pytest.raises(InvalidArgument, match="whose memory is it"):
        part(config=served)


@pytest.mark.parametrize("identity", ["", " ", None, 7, "*"])
def test_an_authenticated_user_without_a_name_is_not_the_clients_to_name(part: Any, identity: Any) -> None:
    config = {"user_id": "config", "langgraph_auth_user": SimpleNamespace(identity=identity)}
    with pytest.raises(InvalidArgument, match="names one user"):
        part(config=config)


def test_two_words_of_a_server_are_an_error(memory: MemOS) -> None:
    runtime = Runtime(server_info=ServerInfo("a", "g", SERVER))
    config = {"configurable": {"langgraph_auth_user_id": "config"}}
    with pytest.raises(AccessDenied, match="authenticated 'server', but the run names 'config'"):
        user_of(None, runtime, config)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_trusted_client_may_name_another(trusting: Any, way: str) -> None:
    assert trusting(config={"user_id": "config", **AUTHENTICATED}, way=way) == {"config"}
    assert trusting(schema=dict, context={"user_id": "context"}, config=AUTHENTICATED, way=way) == {"context"}
    assert trusting(config={"user_id": "config", "langgraph_auth_user": {"identity": ""}}, way=way) == {"config"}
    assert trusting(config=AUTHENTICATED, way=way) == {"server"}
    with pytest.raises(InvalidArgument, match="whose memory is it"):
        trusting(way=way)


def test_a_trusted_client_is_not_asked_where_the_program_says_it(part: Any) -> None:
    given = part("given", config={"user_id": "config", **AUTHENTICATED}, trust_client_user=True)
    assert given == {"given"}


def test_the_middlewares_own_tools_trust_whom_it_trusts(memory: MemOS) -> None:
    config: Any = {"configurable": {"user_id": "config", **AUTHENTICATED}}
    llm = model(calling("search_memory", query="tea"), "Done.")
    trusting = MemOSMemory(memory, tools=True, trust_client_user=True)
    create_agent(llm, middleware=[trusting]).invoke({"messages": "tea?"}, config)
    assert "config's tea" in str(llm.prompts[-1][-1].content)
    for tool in MemOSMemory(memory, tools=True).tools:
        with pytest.raises(AccessDenied, match=ALLOWS):
            tool.invoke({"query": "tea", "text": "tea", "id": "1"}, config)


@pytest.mark.parametrize("wrong", ["false", 1, None])
def test_trust_is_true_or_false(part: Any, wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="trust_client_user: True or False"):
        part(trust_client_user=wrong)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_graph_within_a_graph_knows_the_servers_user(memory: MemOS, way: str) -> None:
    llm = model(calling("search_memory", query="tea"), "Done.")
    inner = create_agent(llm, create_memos_tools(memory), middleware=[MemOSMemory(memory)], context_schema=dict)
    graph = StateGraph(MessagesState, context_schema=dict)
    outer = graph.add_node("inner", inner).add_edge(START, "inner").compile()

    def run(config: Any, context: Any = None) -> None:
        asked, config = {"messages": "tea?"}, {"configurable": config}
        if way == "sync":
            outer.invoke(asked, config, context=context)
        else:
            asyncio.run(outer.ainvoke(asked, config, context=context))

    for context in (None, {"user_id": "context"}):
        with pytest.raises(AccessDenied, match=ALLOWS):
            run({"user_id": "config", **AUTHENTICATED} if context is None else AUTHENTICATED, context)
    assert llm.prompts == []  # it was refused before the model was asked
    run(AUTHENTICATED)
    assert "server's tea" in llm.system()
    assert "server's tea" in str(llm.prompts[-1][-1].content)


def test_a_refused_run_writes_nothing(memory: MemOS) -> None:
    config = {"configurable": {"user_id": "config", **AUTHENTICATED}}
    with pytest.raises(AccessDenied):
        create_agent(model(), middleware=[MemOSMemory(memory)]).invoke({"messages": "a parrot"}, config)
    with pytest.raises(AccessDenied):
        MemOSWriteNode(memory).invoke({"messages": "a parrot"}, config)
    with pytest.raises(AccessDenied):
        create_memos_tools(memory)[1].invoke({"text": "a parrot"}, config)
    assert [len(memory.search("a parrot", actor=user)) for user in WHO] == [1] * 4


def test_the_runtime_of_a_tool_is_the_graphs_and_not_the_models(memory: MemOS) -> None:
    forged = {"context": {"user_id": "config"}, "server_info": {"user": {"identity": "config"}}}
    llm = model(calling("search_memory", query="tea", runtime=forged, user_id="config"), "Done.")
    create_agent(llm, create_memos_tools(memory)).invoke({"messages": "tea?"}, {"configurable": AUTHENTICATED})
    assert "server's tea" in str(llm.prompts[-1][-1].content)
    assert "config's tea" not in str(llm.prompts[-1][-1].content)


def test_a_runtime_that_comes_without_its_run_is_enough(memory: MemOS) -> None:
    runtime = Runtime(server_info=ServerInfo("a", "g", SERVER), context={"user_id": "context"})
    for written in (MemOSMemory(memory).after_agent, MemOSMemory(memory, write=False).after_agent):
        with pytest.raises(AccessDenied, match=ALLOWS):
            written({"messages": []}, runtime)


def test_histories_and_vector_stores_ask_as_the_others_do(memory: MemOS) -> None:
    made = {
        "history": lambda **who: MemOSChatMessageHistory(memory, "chat", **who).messages,
        "documents": lambda **who: MemOSVectorStore(memory, **who).get_by_ids(["a"]),
    }
    MemOSVectorStore(memory, user_id="config").add_documents([Document("Lemons.", id="a")])
    MemOSChatMessageHistory(memory, "chat", user_id="config").add_messages([HumanMessage("Lemons.")])
    for ask in made.values():

        def run(config: Any, ask: Any = ask, **who: Any) -> Any:
            return RunnableLambda(lambda _: ask(**who)).invoke("", {"configurable": config})

        assert run(AUTHENTICATED) == []
        assert len(run({"user_id": "config"})) == 1
        assert len(run({"user_id": "config", **AUTHENTICATED}, trust_client_user=True)) == 1
        with pytest.raises(AccessDenied, match=ALLOWS):
            run({"user_id": "config", **AUTHENTICATED})


def test_a_field_that_the_client_may_set_is_the_clients_word(memory: MemOS) -> None:
    def chosen(**who: Any) -> Any:
        made = MemOSRetriever(memory, **who)
        return made.configurable_fields(user_id=ConfigurableField(id="user_id"))

    forged = {"configurable": {"user_id": "config", **AUTHENTICATED}}
    with pytest.raises(AccessDenied, match=ALLOWS):
        chosen().invoke("tea", forged)
    assert [d.page_content for d in chosen().invoke("tea", {"configurable": {"user_id": "config"}})] == ["config's tea"]
    trusted = chosen(trust_client_user=True).invoke("tea", forged)
    assert [d.page_content for d in trusted] == ["config's tea"]


def test_one_thread_of_two_users_keeps_their_memories_apart(memory: MemOS) -> None:
    agent = create_agent(model("Noted."), middleware=[MemOSMemory(memory)])
    for user, words in (("ann", "A parrot of ann's."), ("bob", "A parrot of bob's.")):
        message = HumanMessage(words, id="h1")  # one message id, one thread: both come from the client
        agent.invoke({"messages": [message]}, {"configurable": {"thread_id": "t", "langgraph_auth_user_id": user}})
    for user, other in (("ann", "bob"), ("bob", "ann")):
        found = " ".join(h.cube.text for h in memory.search("parrot", actor=user, k=20))
        assert f"of {user}'s" in found
        assert f"of {other}'s" not in found


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
    sent = {"user_id": "config", **AUTHENTICATED}
    assert part(lambda runtime: runtime.server_info.user.identity, config=sent) == {"server"}
    assert part(
        lambda runtime: runtime.context["user_id"], dict, context={"user_id": "context"}, config=AUTHENTICATED
    ) == {"context"}


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
