"""MemOSRecallNode and MemOSWriteNode in graphs of all kinds of state."""

from __future__ import annotations

import asyncio
import logging
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_memos import MemOSRecallNode, MemOSWriteNode
from memos_core import InvalidArgument, MemOS, StoreClosed
from tests.conftest import Clock
from tests.langchain.models import kept, texts, thread
from tests.words import WordsEmbedder


class Chat(MessagesState):
    memory: str


@dataclass
class ChatAsDataclass:
    messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)
    memory: str = ""


class ChatAsModel(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = []
    memory: str = ""


WAYS: dict[str, Callable[..., Any]] = {
    "sync": lambda graph, asked, *args, **kw: graph.invoke(asked, *args, **kw),
    "async": lambda graph, asked, *args, **kw: asyncio.run(graph.ainvoke(asked, *args, **kw)),
    "stream": lambda graph, asked, *args, **kw: list(graph.stream(asked, *args, stream_mode="values", **kw))[-1],
}


@pytest.fixture(params=sorted(WAYS))
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return WAYS[request.param]


@pytest.fixture
def memory(open_store: Callable[..., MemOS], clock: Clock) -> MemOS:
    return open_store(clock=lambda: clock.forward(seconds=1))


def chat(
    memory: MemOS, state: Any = Chat, answer: Any = None, saver: Any = None, schema: Any = None, **options: Any
) -> Any:
    """recall -> answer -> write."""

    def say(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage("All right.")]}

    graph = StateGraph(state, context_schema=schema)
    options = {"user_id": None if schema else "ann", "on_error": "raise", **options}
    graph.add_node("recall", MemOSRecallNode(memory, **options))
    graph.add_node("answer", answer or say)
    graph.add_node("write", MemOSWriteNode(memory, **options))
    graph.add_edge(START, "recall").add_edge("recall", "answer").add_edge("answer", "write")
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("state", [Chat, ChatAsDataclass, ChatAsModel])
def test_what_one_run_writes_a_later_one_recalls_in_a_state_of_any_form(memory: MemOS, ask: Any, state: Any) -> None:
    graph = chat(memory, state)
    first = ask(graph, {"messages": [HumanMessage("I take my tea with lemon.")]})
    assert [m.text for m in first["messages"]] == ["I take my tea with lemon.", "All right."]
    assert first["memory"] == ""
    second = ask(graph, {"messages": [HumanMessage("How do I take my tea?")]})
    assert second["memory"].startswith("<recalled-memories>")
    assert "user: I take my tea with lemon." in second["memory"]
    assert [m.text for m in second["messages"]] == ["How do I take my tea?", "All right."]


def test_in_a_thread_each_message_is_written_once_with_its_place(memory: MemOS, ask: Any) -> None:
    graph = chat(memory, saver=InMemorySaver())
    for said in ("first", "second", "third"):
        result = ask(graph, {"messages": [HumanMessage(said)]}, thread("t1"))
    assert len(result["messages"]) == 6
    cubes = kept(memory)
    assert [c.text for c in cubes][::2] == ["first", "second", "third"]
    assert [(c.origin.session, c.origin.position) for c in cubes] == [("t1", i) for i in range(6)]
    assert [c.origin.message_id for c in cubes] == [m.id for m in result["messages"]]


def test_what_is_in_the_state_is_not_recalled_beside_it(memory: MemOS) -> None:
    graph = chat(memory, saver=InMemorySaver())
    graph.invoke({"messages": [HumanMessage("I take my tea with lemon.")]}, thread("1"))
    assert graph.invoke({"messages": [HumanMessage("tea?")]}, thread("1"))["memory"] == ""
    assert "lemon" in graph.invoke({"messages": [HumanMessage("tea?")]}, thread("2"))["memory"]


def test_what_was_recalled_for_the_turn_before_does_not_stay(memory: MemOS) -> None:
    [lemon] = memory.add("Ann takes her tea with lemon.", actor="ann")
    graph = chat(memory, saver=InMemorySaver())
    assert "lemon" in graph.invoke({"messages": [HumanMessage("tea?")]}, thread("1"))["memory"]
    memory.delete(lemon.id, actor="ann")
    assert graph.invoke({"messages": [HumanMessage("tea?")]}, thread("1"))["memory"] == ""


def test_a_deleted_memory_does_not_come_back_with_the_next_turn(memory: MemOS) -> None:
    graph = chat(memory, saver=InMemorySaver())
    graph.invoke({"messages": [HumanMessage("my secret")]}, thread("1"))
    memory.delete([c.id for c in kept(memory)], actor="ann")
    graph.invoke({"messages": [HumanMessage("hello")]}, thread("1"))
    assert texts(memory) == ["hello", "All right."]


def test_a_write_node_in_several_places_writes_once(memory: MemOS, ask: Any) -> None:
    write = MemOSWriteNode(memory, user_id="ann")
    graph = StateGraph(MessagesState)
    graph.add_node("asked", write)
    graph.add_node("answer", lambda state: {"messages": [AIMessage("One moment."), AIMessage("Noon.")]})
    graph.add_node("answered", write)
    graph.add_node("again", write)
    graph.add_edge(START, "asked").add_edge("asked", "answer").add_edge("answer", "answered").add_edge(
        "answered", "again"
    )
    result = ask(graph.compile(), {"messages": [HumanMessage("What time is it?")]})
    assert texts(memory) == ["What time is it?", "One moment.", "Noon."]
    assert len({c.origin.session for c in kept(memory)}) == 1
    assert len(result["messages"]) == 3


def test_a_caller_who_keeps_the_history_has_only_the_new_turn_written(memory: MemOS, ask: Any) -> None:
    graph = chat(memory)
    history = ask(graph, {"messages": [HumanMessage("first")]})["messages"]
    ask(graph, {"messages": [*history, HumanMessage("second")]})
    ask(graph, {"messages": [("user", "first"), ("ai", "one"), ("user", "third")]})
    assert texts(memory) == ["first", "All right.", "second", "All right.", "third", "All right."]


def test_only_what_people_and_the_model_said_is_written(memory: MemOS) -> None:
    def answer(state: Any) -> dict[str, Any]:
        call = {"name": "look", "args": {}, "id": "1"}
        return {
            "messages": [
                AIMessage("", tool_calls=[call]),
                ToolMessage("tool output", tool_call_id="1"),
                AIMessage("Noon."),
            ]
        }

    chat(memory, answer=answer).invoke({"messages": [HumanMessage("What time is it?")]})
    assert texts(memory) == ["What time is it?", "Noon."]


def test_the_keys_are_the_callers(memory: MemOS, ask: Any) -> None:
    class Workflow(TypedDict, total=False):
        question: str
        answer: str
        known: str
        sources: list[Document]

    memory.add("Ann takes her tea with lemon.", actor="ann", tags=["drinks"])
    graph = StateGraph(Workflow)
    graph.add_node(
        "recall",
        MemOSRecallNode(memory, user_id="ann", messages_key="question", memory_key="known", documents_key="sources"),
    )
    graph.add_node("reply", lambda state: {"answer": f"With {'lemon' if 'lemon' in state['known'] else 'nothing'}."})
    graph.add_node("write", MemOSWriteNode(memory, user_id="ann", messages_key="question", answer_key="answer"))
    graph.add_edge(START, "recall").add_edge("recall", "reply").add_edge("reply", "write")
    result = ask(graph.compile(), {"question": "How do I take my tea?"})
    assert [(d.page_content, d.metadata["tags"]) for d in result["sources"]] == [
        ("Ann takes her tea with lemon.", ["drinks"])
    ]
    assert [(c.text, c.origin.role) for c in kept(memory)][1:] == [
        ("How do I take my tea?", "user"),
        ("With lemon.", "assistant"),
    ]
    assert set(result) == {"question", "answer", "known", "sources"}


def test_messages_without_ids_and_of_other_forms_are_taken_too(memory: MemOS, ask: Any) -> None:
    class Plain(TypedDict):
        messages: Annotated[list[Any], operator.add]
        memory: str

    graph = chat(
        memory,
        Plain,
        answer=lambda state: {"messages": [{"role": "assistant", "content": "All right."}]},
        saver=InMemorySaver(),
    )
    for said in ("first", "second"):
        ask(graph, {"messages": [("user", said)]}, thread("1"))
    assert texts(memory) == ["first", "All right.", "second", "All right."]
    assert [c.origin.position for c in kept(memory)] == [0, 1, 2, 3]


def test_an_interrupted_run_is_written_once_and_goes_on(memory: MemOS, ask: Any) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")

    def answer(state: Any) -> dict[str, Any]:
        return {
            "messages": [
                AIMessage(f"{interrupt('may I?')}, with {'lemon' if 'lemon' in state['memory'] else 'nothing'}.")
            ]
        }

    graph = chat(memory, answer=answer, saver=InMemorySaver())
    ask(graph, {"messages": [HumanMessage("Order my tea")]}, thread("1"))
    ask(graph, Command(resume="Ordered"), thread("1"))
    assert texts(memory) == ["Ann takes her tea with lemon.", "Order my tea", "Ordered, with lemon."]


def test_a_message_that_was_taken_out_of_the_state_does_no_harm(memory: MemOS) -> None:
    graph = chat(memory, saver=InMemorySaver())
    first = graph.invoke({"messages": [HumanMessage("first")]}, thread("1"))
    graph.update_state(thread("1"), {"messages": [RemoveMessage(first["messages"][-1].id)]}, as_node="write")
    graph.invoke({"messages": [HumanMessage("second")]}, thread("1"))
    assert texts(memory) == ["first", "All right.", "second", "All right."]


def test_users_of_one_graph_are_kept_apart_by_its_context(memory: MemOS, ask: Any) -> None:
    graph = chat(memory, schema=dict)
    for user in ("ann", "bob"):
        ask(graph, {"messages": [HumanMessage(f"The code word of {user}.")]}, context={"user_id": user})
    recalled = ask(graph, {"messages": [HumanMessage("code word?")]}, context={"user_id": "bob"})["memory"]
    assert "code word of bob" in recalled
    assert "code word of ann" not in recalled


def test_a_question_without_text_recalls_nothing_and_an_empty_state_writes_nothing(memory: MemOS) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    recall, write = MemOSRecallNode(memory, user_id="ann"), MemOSWriteNode(memory, user_id="ann")
    for state in (
        {},
        {"messages": []},
        {"messages": None},
        {"messages": ""},
        {"messages": [AIMessage("tea")]},
        {"messages": [HumanMessage(" ")]},
    ):
        assert recall.invoke(state) == {"memory": ""}
    for state in ({}, {"messages": []}, {"messages": [HumanMessage(" ")]}):
        assert write.invoke(state) == {}
    assert len(texts(memory)) == 1


def test_asynchronously_the_engine_does_not_work_on_the_event_loops_thread(open_store: Any) -> None:
    threads: set[threading.Thread] = set()

    class Watched(WordsEmbedder):
        def __call__(self, texts: Sequence[str], /) -> Any:
            threads.add(threading.current_thread())
            return super().__call__(texts)

    graph = chat(open_store(embed=Watched()))
    threads.clear()
    asyncio.run(graph.ainvoke({"messages": [HumanMessage("hello")]}))
    assert threads
    assert threading.current_thread() not in threads


class _Broken(WordsEmbedder):
    failing = False

    def __call__(self, texts: Any, /) -> Any:
        if self.failing:
            raise OSError("the embedder is away")
        return super().__call__(texts)


def test_a_graph_goes_on_without_a_memory_that_fails(
    open_store: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    embed = _Broken()
    memory = open_store(embed=embed)
    embed.failing = True
    with caplog.at_level(logging.WARNING, "langchain_memos"):
        result = ask(chat(memory, on_error="warn"), {"messages": [HumanMessage("hello")]})
    assert result["messages"][-1].text == "All right."
    assert "could not recall for ann" in caplog.text
    assert "could not write for ann" in caplog.text
    with pytest.raises(Exception, match="the embedder is away"):
        ask(chat(memory, on_error="raise"), {"messages": [HumanMessage("hello")]})


def test_a_closed_engine_says_so(memory: MemOS) -> None:
    recall, write = MemOSRecallNode(memory, user_id="ann"), MemOSWriteNode(memory, user_id="ann")
    memory.close()
    for node in (recall, write):
        with pytest.raises(StoreClosed, match="closed"):
            node.invoke({"messages": "tea"})


def test_a_path_is_opened_at_first_use_and_closed_by_close(tmp_path: Path, embed: WordsEmbedder) -> None:
    node = MemOSWriteNode(tmp_path / "memories", embed=embed, user_id="ann", on_error="raise")
    assert not (tmp_path / "memories").exists()
    node.invoke({"messages": "hello"})
    assert texts(node.memory) == ["hello"]
    node.close()
    node.invoke({"messages": "again"})
    node.close()


@pytest.mark.parametrize("node", [MemOSRecallNode, MemOSWriteNode])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"memory": ""}, "memory"), ({"embed": len}, "embed"), ({"user_id": " "}, "user_id"), ({"namespace": "app"}, "namespace"),
        ({"messages_key": ""}, "messages_key"), ({"messages_key": 5}, "messages_key"), ({"on_error": "ignore"}, "on_error"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_name(memory: MemOS, node: Any, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}:"):
        node(**{"memory": memory, **arguments})
