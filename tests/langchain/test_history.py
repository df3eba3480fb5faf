"""MemOSChatMessageHistory: the messages of a chat, whole and in order; and MemOSVectorStore beyond LangChain's own tests."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_memos import MemOSChatMessageHistory, MemOSRetriever, MemOSVectorStore
from memos_core import InvalidArgument, MemOS, StoreClosed
from tests.langchain.models import kept, texts
from tests.words import WordsEmbedder

CALL = AIMessage(
    "One moment.", tool_calls=[{"name": "look", "args": {"at": [1, None]}, "id": "1", "type": "tool_call"}]
)
SAID: list[BaseMessage] = [
    HumanMessage("I take my tea with lemon.", id="m1", name="Ann"), CALL, ToolMessage("nothing", tool_call_id="1"),
    HumanMessage([{"type": "text", "text": "And?"}, {"type": "image", "url": "https://example.org/cat.png"}]), AIMessage(""),
]  # fmt: skip


def history(memory: Any, session: str = "s1", **options: Any) -> MemOSChatMessageHistory:
    return MemOSChatMessageHistory(memory, session, **{"user_id": "ann", **options})


def test_messages_come_back_whole_and_in_order(memory: MemOS) -> None:
    history(memory).add_messages(SAID[:3])
    history(memory).add_messages(SAID[3:])
    assert history(memory).messages == SAID
    assert asyncio.run(history(memory).aget_messages()) == SAID


def test_more_messages_than_a_page_come_back_too(memory: MemOS) -> None:
    many = [HumanMessage(f"message {i}") for i in range(1_001)]
    history(memory, learn=False).add_messages(many)
    assert [m.text for m in history(memory).messages] == [m.text for m in many]


def test_what_was_said_is_remembered_for_other_chats_and_stays_when_this_one_is_cleared(memory: MemOS) -> None:
    chat = history(memory)
    chat.add_messages(SAID)
    chat.clear()
    assert chat.messages == []
    said = kept(memory)
    assert {c.text for c in said} == {"I take my tea with lemon.", "One moment.", "And?\n[image]"}
    assert {(c.origin.session, c.origin.role) for c in said} == {("s1", "user"), ("s1", "assistant")}
    assert "lemon" in memory.brief("tea?", actor="ann").text


def test_chats_and_users_are_kept_apart(memory: MemOS) -> None:
    history(memory).add_messages([HumanMessage("one")])
    history(memory, "s2").add_messages([HumanMessage("two")])
    history(memory, user_id="bob").add_messages([HumanMessage("three")])
    history(memory, "s2").clear()
    assert [m.text for m in history(memory).messages] == ["one"]
    assert history(memory, "s2").messages == []
    assert [m.text for m in history(memory, user_id="bob").messages] == ["three"]


def test_with_learn_off_nothing_is_recalled(memory: MemOS) -> None:
    history(memory, learn=False).add_messages(SAID)
    assert texts(memory) == []


def test_a_message_that_comes_again_under_its_id_takes_its_place(memory: MemOS) -> None:
    chat = history(memory)
    chat.add_messages(SAID)
    chat.add_messages([HumanMessage("I take my tea with milk.", id="m1")])
    assert [m.text for m in chat.messages][:2] == ["I take my tea with milk.", "One moment."]
    assert len(chat.messages) == len(SAID)


def test_a_chain_with_history_has_the_user_of_its_run(memory: MemOS) -> None:
    seen: list[int] = []

    def answer(messages: list[BaseMessage]) -> AIMessage:
        seen.append(len(messages))
        return AIMessage("All right.")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain has deprecated it
        chain = RunnableWithMessageHistory(
            RunnableLambda(answer), lambda session_id: MemOSChatMessageHistory(memory, session_id)
        )
        config: Any = {"configurable": {"session_id": "s1", "user_id": "ann"}}
        for said in ("first", "second"):
            chain.invoke([HumanMessage(said)], config)
    assert seen == [1, 3]
    assert [m.text for m in history(memory).messages] == ["first", "All right.", "second", "All right."]


def test_nobodys_chat_a_wrong_name_and_a_closed_engine_say_so(memory: MemOS) -> None:
    with pytest.raises(InvalidArgument, match="user_id="):
        _ = history(memory, user_id=None).messages
    with pytest.raises(InvalidArgument, match="session_id"):
        history(memory, "")
    memory.close()
    with pytest.raises(StoreClosed, match="closed"):
        _ = history(memory).messages


# --- the vector store --------------------------------------------------------------------------------------------------


def test_documents_are_found_by_their_metadata_and_by_the_other_parts(memory: MemOS) -> None:
    store = MemOSVectorStore(memory, user_id="ann")
    store.add_texts(["lemons are sour", "limes are sour"], [{"page": 1}, {"page": 3}], ids=["a", "b"])
    assert [d.id for d in store.similarity_search("sour", filter={"page": {"$gte": 2}})] == ["b"]
    found = store.as_retriever(search_kwargs={"k": 1}).invoke("limes are sour")
    assert found == [Document("limes are sour", id="b", metadata={"page": 3})]
    [(_, score)] = store.similarity_search_with_relevance_scores("limes are sour", k=1)
    assert score == pytest.approx(1.0)
    assert {d.page_content for d in MemOSRetriever(memory, user_id="ann").invoke("sour")} == {
        "lemons are sour",
        "limes are sour",
    }
    assert MemOSVectorStore(memory, user_id="bob").similarity_search("sour") == []


def test_a_document_without_text_is_kept_and_not_found(memory: MemOS) -> None:
    store = MemOSVectorStore(memory, user_id="ann")
    assert store.add_documents([Document("", id="a"), Document("sour", id="b")]) == ["a", "b"]
    assert [d.id for d in store.get_by_ids(["a", "b", "a", "c"])] == ["a", "b"]
    assert [d.id for d in store.similarity_search("sour")] == ["b"]


def test_a_store_is_made_from_texts_at_a_path(tmp_path: Path) -> None:
    class Words(WordsEmbedder):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[float(x) for x in v] for v in self(texts)]

    store = MemOSVectorStore.from_texts(["sour", "sweet"], Words(), memory=tmp_path / "store", user_id="ann")
    assert [d.page_content for d in asyncio.run(store.asimilarity_search("sweet", k=1))] == ["sweet"]
    store.close()


def test_ids_that_do_not_fit_are_refused(memory: MemOS) -> None:
    with pytest.raises(InvalidArgument, match="ids: 1 documents need as many ids, not 2"):
        MemOSVectorStore(memory, user_id="ann").add_documents([Document("sour")], ids=["a", "b"])
    with pytest.raises(InvalidArgument, match="user_id="):
        MemOSVectorStore(memory).similarity_search("sour")
