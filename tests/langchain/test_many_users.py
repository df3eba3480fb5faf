"""Many users in one process, asynchronously, through one middleware; and an event loop that is not kept waiting for it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_memos import MemOSMemory, MemOSRecallNode, MemOSRetriever, MemOSWriteNode, create_memos_tools
from memos_core import MemOS
from tests.langchain.models import Model, calling, kept, model, texts, thread
from tests.words import WordsEmbedder

LATE = 0.050  # seconds by which nobody may keep the loop waiting


@pytest.fixture(autouse=True)
def nothing_old_to_collect() -> Iterator[None]:
    """What other tests left behind is not walked through while the loop is watched."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Watched(WordsEmbedder):
    """Notes on which threads it works, and takes its time if asked to."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.threads: set[threading.Thread] = set()
        self._seconds = seconds
        self._never = threading.Event()

    def __call__(self, texts: Sequence[str], /) -> Any:
        self.threads.add(threading.current_thread())
        self._never.wait(self._seconds)  # as a call to a GPU or to another machine does: without the interpreter lock
        return super().__call__(texts)


class Echo(Model):
    """Answers each question in its own words, so that whose answer it is can be told."""

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        self.prompts.append(messages)
        return AIMessage(f"Heard: {messages[-1].content}")


async def lags_during(work: Any) -> list[float]:
    """Seconds by which a heartbeat beside the work came late."""
    lags: list[float] = []

    async def heartbeat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - before - 0.005)

    beating = asyncio.create_task(heartbeat())
    await work
    beating.cancel()
    return lags


@pytest.mark.parametrize("turns", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_fifty_users_at_once_lose_no_turn_and_see_nobody_elses(open_store: Callable[..., MemOS], turns: int) -> None:
    users = [f"user{i}" for i in range(50)]
    embed = Watched()
    memory = open_store(embed=embed)
    llm = Echo(replies=[], prompts=[])
    chat = create_agent(llm, middleware=[MemOSMemory(memory, on_error="raise")], checkpointer=InMemorySaver())

    async def converse(user: str) -> None:
        for turn in range(turns):
            said = f"The code word of {user} is {user}x{turn}."  # each in a thread of its own: only the memory connects them
            await chat.ainvoke({"messages": said}, thread(f"{user}-{turn}", user_id=user))

    async def all_of_them() -> list[float]:
        return await lags_during(asyncio.gather(*map(converse, users)))

    embed.threads.clear()
    lags = sorted(asyncio.run(all_of_them()))
    assert threading.current_thread() not in embed.threads  # asyncio.run loops on this one
    # the stragglers are LangGraph's own: all the users begin in one round of the loop
    assert lags[int(len(lags) * 0.95)] < LATE
    for user in users:
        said = [f"The code word of {user} is {user}x{turn}." for turn in range(turns)]
        assert sorted(texts(memory, user)) == sorted([*said, *(f"Heard: {s}" for s in said)])
        assert all(c.version == 1 and c.access.owner == user for c in kept(memory, user))
    for prompt in llm.prompts:
        [me] = [u for u in users if f"word of {u} is" in prompt[-1].content]
        mentioned = {u for u in users if f"word of {u} is" in str(prompt)}
        assert mentioned == {me}
    recalled = sum("recalled-memories" in str(prompt[0].content) for prompt in llm.prompts)
    assert recalled == len(users) * (turns - 1)


def _agent(memory: MemOS) -> Any:
    llm = model(calling("search_memory", query="tea"), calling("remember", text="Ann has a cat."), "Done.")
    return create_agent(
        llm, middleware=[MemOSMemory(memory, tools=True, on_error="raise")], checkpointer=InMemorySaver()
    )


def _tools(memory: MemOS) -> Any:
    return create_agent(
        model(calling("search_memory", query="tea"), "Done."), create_memos_tools(memory, on_error="raise")
    )


def _nodes(memory: MemOS) -> Any:
    class State(MessagesState):
        memory: str

    graph = StateGraph(State)
    graph.add_node("recall", MemOSRecallNode(memory, on_error="raise"))
    graph.add_node("write", MemOSWriteNode(memory, on_error="raise"))
    return graph.add_edge(START, "recall").add_edge("recall", "write").compile()


def _retriever(memory: MemOS) -> Any:
    retriever = MemOSRetriever(memory)

    async def look(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(str(await retriever.ainvoke("tea")))]}

    return StateGraph(MessagesState).add_node("look", look).add_edge(START, "look").compile()


@pytest.mark.parametrize("part", [_agent, _tools, _nodes, _retriever])
def test_an_embedder_that_takes_its_time_keeps_nobody_waiting(open_store: Callable[..., MemOS], part: Any) -> None:
    embed = Watched(seconds=0.15)
    memory = open_store(embed=embed)
    memory.add("Ann takes her tea with lemon.", actor="ann")

    async def longest() -> float:
        graph = part(memory)
        return max(await lags_during(graph.ainvoke({"messages": [HumanMessage("tea?")]}, thread("1", user_id="ann"))))

    embed.threads.clear()
    # a machine that is busy with other things may be late once; a loop that waits for the embedder is late each time
    assert min(asyncio.run(longest()) for _ in range(3)) < LATE
    assert embed.threads
    assert threading.current_thread() not in embed.threads
