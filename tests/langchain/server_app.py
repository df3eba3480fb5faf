"""What the LangGraph server of `test_server` serves: every part of the package as a graph of its own, and who may come in.

The server loads this file by its path; an environment variable names the store.
"""

from __future__ import annotations

import os
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph_sdk import Auth

from langchain_memos import MemOSMemory, MemOSRecallNode, MemOSRetriever, MemOSWriteNode, create_memos_tools
from memos_core import MemOS
from tests.langchain.models import Model, calling
from tests.words import WordsEmbedder

auth = Auth()


@auth.authenticate
async def authenticate(authorization: str | None) -> dict[str, Any]:
    """Whoever gives a name is believed: the name is what a token would be."""
    if not authorization:
        raise Auth.exceptions.HTTPException(status_code=401, detail="who are you?")
    return {"identity": authorization}


class Echo(Model):
    """Answers with what stands before it as the system message: so the caller sees what was recalled."""

    replies: list[Any] = []  # noqa: RUF012  # a pydantic field
    prompts: list[list[BaseMessage]] = []  # noqa: RUF012  # the same

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        words = "".join(str(m.content) for m in messages if m.type == "system")
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"Recalled: {words}"))])


class State(MessagesState):
    memory: str


def _answer(state: State) -> dict[str, Any]:
    return {"messages": [AIMessage(f"Recalled: {state['memory']}")]}


def _middleware(memory: MemOS, **who: Any) -> Any:
    return create_agent(Echo(), middleware=[MemOSMemory(memory, **who)], context_schema=dict)


def _tools(memory: MemOS, **who: Any) -> Any:
    graph = StateGraph(MessagesState, context_schema=dict)
    graph.add_node("call", lambda state: {"messages": [calling("search_memory", query="tea")]})
    graph.add_node("tools", ToolNode(create_memos_tools(memory, **who), handle_tool_errors=False))
    return graph.add_edge(START, "call").add_edge("call", "tools").compile()


def _nodes(memory: MemOS, **who: Any) -> Any:
    graph = StateGraph(State, context_schema=dict)
    graph.add_node("recall", MemOSRecallNode(memory, **who))
    graph.add_node("answer", _answer)
    graph.add_node("write", MemOSWriteNode(memory, **who))
    return graph.add_edge(START, "recall").add_edge("recall", "answer").add_edge("answer", "write").compile()


def _retriever(memory: MemOS, **who: Any) -> Any:
    retriever = MemOSRetriever(memory, **who)

    async def look(state: State) -> dict[str, Any]:
        return {"memory": "\n".join(d.page_content for d in await retriever.ainvoke("tea"))}

    graph = StateGraph(State, context_schema=dict)
    graph.add_node("look", look)
    graph.add_node("answer", _answer)
    return graph.add_edge(START, "look").add_edge("look", "answer").compile()


def _below(memory: MemOS) -> Any:
    """The agent as a part of another graph."""
    graph = StateGraph(MessagesState, context_schema=dict)
    return graph.add_node("agent", _middleware(memory)).add_edge(START, "agent").compile()


_memory = MemOS(os.environ["TEST_STORE"], embed=WordsEmbedder())
middleware, tools, nodes, retriever = _middleware(_memory), _tools(_memory), _nodes(_memory), _retriever(_memory)
below = _below(_memory)
trusting = _middleware(_memory, trust_client_user=True)
