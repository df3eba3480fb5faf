"""MemOSRetriever: what it finds, for whom, and in what form."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langgraph.graph import START, MessagesState, StateGraph

from langchain_memos import MemOSRetriever
from memos_core import InvalidArgument, MemOS, StoreClosed
from tests.words import WordsEmbedder

BOB = {"configurable": {"user_id": "bob"}}


def found(documents: Sequence[Document]) -> list[str]:
    return [d.page_content for d in documents]


def test_a_memory_comes_as_a_document_with_what_is_known_of_it(memory: MemOS) -> None:
    [cube] = memory.add(
        {"role": "user", "content": "I take my tea with lemon.", "name": "Ann", "timestamp": "2026-01-05T10:00:00+01:00"},
        actor="ann", session="s1", namespace=("app", "chat"), tags=["drinks"], attributes={"hot": True}, source="chat.txt",
    )  # fmt: skip
    [document] = MemOSRetriever(memory, user_id="ann").invoke("tea?")
    assert (document.page_content, document.id) == ("I take my tea with lemon.", cube.id)
    about = document.metadata
    assert 0 < about.pop("score") <= 1
    assert "tea" in about.pop("why")
    assert about == {
        "happened_at": "2026-01-05T09:00:00+00:00", "speaker": "Ann", "role": "user", "session": "s1", "source": "chat.txt",
        "namespace": ["app", "chat"], "owner": "ann", "kind": "plaintext", "tags": ["drinks"], "attributes": {"hot": True},
    }  # fmt: skip
    json.dumps(document.metadata)


def test_a_call_may_differ_in_each_argument_from_what_was_made(memory: MemOS) -> None:
    for day, (text, where, city) in enumerate(
        [("tea one", "a", "Rome"), ("tea two", "b", "Oslo"), ("tea three", "a", "Oslo")], start=1
    ):
        memory.add(
            text,
            actor="ann",
            namespace=(where,),
            attributes={"city": city},
            occurred_at=datetime(2026, 1, day, tzinfo=UTC),
        )
    memory.add("Bob's tea", actor="bob")
    retriever = MemOSRetriever(memory, user_id="ann", k=2)
    assert len(retriever.invoke("tea")) == 2
    assert len(retriever.invoke("tea", k=3)) == 3
    assert set(found(retriever.invoke("tea", namespace=("a",)))) == {"tea one", "tea three"}
    assert set(found(retriever.invoke("tea", filter={"city": "Oslo"}))) == {"tea two", "tea three"}
    assert found(retriever.invoke("tea", since="2026-01-02T00:00:00Z", until="2026-01-03T00:00:00Z")) == ["tea two"]
    assert found(retriever.invoke("tea", kinds=["parametric"])) == []
    assert found(retriever.invoke("tea", user_id="bob")) == ["Bob's tea"]
    made = MemOSRetriever(
        memory,
        user_id="ann",
        namespace=["a"],
        filter={"city": "Oslo"},
        since="2026-01-02T00:00:00Z",
        kinds=("plaintext",),
    )
    assert found(made.invoke("tea")) == ["tea three"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_user_is_the_calls_then_the_arguments_then_the_configurations(memory: MemOS, way: str) -> None:
    for user in ("ann", "bob", "cid"):
        memory.add(f"{user}'s tea", actor=user)

    def ask(retriever: MemOSRetriever, config: Any = None, **call: Any) -> list[str]:
        if way == "sync":
            return found(retriever.invoke("tea", config, **call))
        return found(asyncio.run(retriever.ainvoke("tea", config, **call)))

    assert ask(MemOSRetriever(memory, user_id="ann"), BOB, user_id="cid") == ["cid's tea"]
    assert ask(MemOSRetriever(memory, user_id="ann"), BOB) == ["ann's tea"]
    assert ask(MemOSRetriever(memory), BOB) == ["bob's tea"]
    with pytest.raises(InvalidArgument, match=r"user_id=.*context.*configurable"):
        ask(MemOSRetriever(memory))


def test_in_a_chain_and_in_a_batch_each_run_has_its_user(memory: MemOS) -> None:
    memory.add("Ann's tea", actor="ann")
    memory.add("Bob's tea", actor="bob")
    chain = {"context": MemOSRetriever(memory), "question": RunnablePassthrough()} | RunnableLambda(
        lambda x: found(x["context"])
    )
    assert chain.invoke("tea?", BOB) == ["Bob's tea"]
    ann = {"configurable": {"user_id": "ann"}}
    assert chain.batch(["tea?", "tea?"], [ann, BOB]) == [["Ann's tea"], ["Bob's tea"]]
    assert asyncio.run(chain.abatch(["tea?", "tea?"], [ann, BOB])) == [["Ann's tea"], ["Bob's tea"]]


def test_its_fields_can_be_made_configurable(memory: MemOS) -> None:
    for i in range(3):
        memory.add(f"tea {i}", actor="ann")
    retriever = MemOSRetriever(memory, k=3).configurable_fields(k=ConfigurableField(id="how_many"))
    assert len(retriever.invoke("tea", {"configurable": {"user_id": "ann"}})) == 3
    assert len(retriever.invoke("tea", {"configurable": {"user_id": "ann", "how_many": 1}})) == 1


def test_in_a_node_it_takes_the_user_of_the_graphs_context(memory: MemOS) -> None:
    memory.add("Ann's tea", actor="ann")
    memory.add("Bob's tea", actor="bob")
    retriever = MemOSRetriever(memory)
    graph = StateGraph(MessagesState, context_schema=dict)
    graph.add_node("look", lambda state: {"messages": found(retriever.invoke("tea"))})
    look = graph.add_edge(START, "look").compile()
    assert [m.text for m in look.invoke({"messages": []}, context={"user_id": "bob"})["messages"]] == ["Bob's tea"]


def test_as_a_tool_of_langchains_own_making(memory: MemOS) -> None:
    memory.add("Ann's tea", actor="ann")
    tool = create_retriever_tool(MemOSRetriever(memory), "look", "Look into the memory.")
    assert tool.invoke({"query": "tea"}, {"configurable": {"user_id": "ann"}}) == "Ann's tea"


def test_asynchronously_the_engine_does_not_work_on_the_event_loops_thread(open_store: Any) -> None:
    threads: set[threading.Thread] = set()

    class Watched(WordsEmbedder):
        def __call__(self, texts: Sequence[str], /) -> Any:
            threads.add(threading.current_thread())
            return super().__call__(texts)

    retriever = MemOSRetriever(open_store(embed=Watched()), user_id="ann")
    threads.clear()
    asyncio.run(retriever.ainvoke("tea"))
    assert threads
    assert threading.current_thread() not in threads


def test_callbacks_hear_of_it(memory: MemOS) -> None:
    memory.add("Ann's tea", actor="ann")
    heard: list[Any] = []

    class Listener(BaseCallbackHandler):
        def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
            heard.append((query, kwargs["name"], kwargs["metadata"]["ls_retriever_name"]))

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            heard.append(found(documents))

    MemOSRetriever(memory, user_id="ann").invoke("tea", {"callbacks": [Listener()]})
    assert heard == [("tea", "MemOSRetriever", "memos"), ["Ann's tea"]]


def test_a_path_is_opened_at_first_use_and_closed_by_close(tmp_path: Path) -> None:
    class Words(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[float(x) for x in v] for v in WordsEmbedder()(texts)]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    path = tmp_path / "memories"
    retriever = MemOSRetriever(path, embed=Words(), user_id="ann")
    assert not path.exists()
    retriever.memory.add("Ann's tea", actor="ann")
    assert found(retriever.invoke("tea")) == ["Ann's tea"]
    retriever.close()
    assert found(retriever.invoke("tea")) == ["Ann's tea"]
    retriever.close()


def test_a_closed_engine_says_so(memory: MemOS) -> None:
    retriever = MemOSRetriever(memory, user_id="ann")
    memory.close()
    with pytest.raises(StoreClosed, match="closed"):
        retriever.invoke("tea")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"memory": None}, "memory"), ({"embed": len}, "embed"), ({"k": 0}, "k"), ({"k": "3"}, "k"), ({"user_id": ""}, "user_id"),
        ({"namespace": "app"}, "namespace"), ({"namespace": ("",)}, "namespace"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_name(memory: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}:"):
        MemOSRetriever(arguments.pop("memory", memory), **arguments)


def test_a_question_without_words_is_refused_by_the_engine(memory: MemOS) -> None:
    with pytest.raises(InvalidArgument, match="query"):
        MemOSRetriever(memory, user_id="ann").invoke(" ")
