"""MemOSChatStore does what core's own SQL store does; and core's `Memory` on it outlives its process."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import Memory
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from sqlalchemy.ext.asyncio import create_async_engine

from llamaindex_memos import MemOSChatStore, MemOSMemoryBlock
from memos_core import InvalidArgument, MemOS
from tests.llamaindex.conftest import contents, texts
from tests.llamaindex.llms import calling

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


def said(*words: str) -> list[ChatMessage]:
    return [ChatMessage(role="user" if i % 2 == 0 else "assistant", content=word) for i, word in enumerate(words)]


def words(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


@pytest.fixture(params=["core's", "ours"])
def using(request: pytest.FixtureRequest, engine: MemOS) -> Callable[..., None]:
    """Runs what a test does with a store, on core's SQL store and on ours."""

    def run(test: Any) -> None:
        async def running() -> None:
            if request.param == "ours":
                await test(MemOSChatStore(engine, user_id="ann"))
                return
            database = create_async_engine("sqlite+aiosqlite:///:memory:")
            await test(SQLAlchemyChatStore("messages", async_engine=database))
            await database.dispose()

        asyncio.run(running())

    return run


def test_messages_are_kept_by_session_in_order_as_they_were(using: Any) -> None:
    async def test(store: AsyncDBChatStore) -> None:
        assert await store.get_messages("s") == []
        await store.add_message("s", said("one")[0])
        await store.add_messages("s", [calling("look"), *said("two", "three")])
        await store.add_messages("other", said("else"))
        found = await store.get_messages("s")
        assert found == [said("one")[0], calling("look"), *said("two", "three")]
        assert await store.count_messages("s") == 4
        assert words(await store.get_messages("s", limit=2, offset=2)) == ["two", "three"]
        assert words(await store.get_messages("s", limit=1)) == ["one"]
        assert sorted(await store.get_keys()) == ["other", "s"]

    using(test)


def test_a_session_is_set_and_emptied(using: Any) -> None:
    async def test(store: AsyncDBChatStore) -> None:
        await store.add_messages("s", said("one", "two"))
        await store.add_messages("s", said("three"), status=ARCHIVED)
        await store.set_messages("s", said("new", "newer"))
        assert words(await store.get_messages("s", status=None)) == ["new", "newer"]
        await store.add_messages("s", said("old"), status=ARCHIVED)
        await store.delete_messages("s", status=ARCHIVED)
        assert words(await store.get_messages("s", status=None)) == ["new", "newer"]
        await store.delete_messages("s")
        assert await store.get_messages("s", status=None) == []
        assert await store.get_keys() == []

    using(test)


def test_the_oldest_are_archived_and_deleted(using: Any) -> None:
    async def test(store: AsyncDBChatStore) -> None:
        await store.add_messages("s", said("one", "two", "three", "four"))
        assert words(await store.archive_oldest_messages("s", 2)) == ["one", "two"]
        assert words(await store.get_messages("s")) == ["three", "four"]
        assert words(await store.get_messages("s", status=ARCHIVED)) == ["one", "two"]
        assert words(await store.get_messages("s", status=None)) == ["one", "two", "three", "four"]
        assert (await store.count_messages("s"), await store.count_messages("s", status=None)) == (2, 4)
        assert words(await store.delete_oldest_messages("s", 1)) == ["three"]
        assert words(await store.delete_oldest_messages("s", 9)) == ["four"]
        assert await store.delete_oldest_messages("s", 1) == await store.archive_oldest_messages("s", 1) == []
        assert words(await store.get_messages("s", status=None)) == ["one", "two"]

    using(test)


def test_a_message_is_deleted_at_its_place(engine: MemOS) -> None:
    async def test() -> None:  # core's counts rows of all sessions, from 1
        store = MemOSChatStore(engine, user_id="ann")
        await store.add_messages("s", said("one", "two", "three"))
        deleted = await store.delete_message("s", 1)
        assert deleted is not None
        assert deleted.content == "two"
        assert words(await store.get_messages("s")) == ["one", "three"]
        assert await store.delete_message("s", 2) is None
        assert await store.delete_message("s", -1) is None

    asyncio.run(test())


@pytest.mark.skipif(
    "chat_store" not in inspect.signature(Memory.from_defaults).parameters,
    reason="this LlamaIndex takes its own store only",
)
def test_cores_memory_goes_on_where_it_was_and_shares_the_store_with_what_is_learnt(engine: MemOS) -> None:
    def memory() -> Memory:
        return Memory.from_defaults(
            session_id="s",
            chat_store=MemOSChatStore(engine, user_id="ann"),
            memory_blocks=[MemOSMemoryBlock(engine, user_id="ann", on_error="raise")],
        )

    async def talk() -> list[ChatMessage]:
        await memory().aput_messages(said("I take my tea with lemon.", "I see."))
        await memory().aget()
        return await memory().aget_all()

    assert contents(asyncio.run(talk())) == [("user", "I take my tea with lemon."), ("assistant", "I see.")]
    assert texts(engine) == ["I take my tea with lemon.", "I see."]


def test_others_have_other_messages_and_nobody_has_none(engine: MemOS) -> None:
    anns, toms = MemOSChatStore(engine, user_id="ann"), MemOSChatStore(engine, user_id="tom")
    asyncio.run(anns.add_messages("s", said("one")))
    assert asyncio.run(toms.get_messages("s")) == asyncio.run(toms.get_keys()) == []
    assert MemOSChatStore.class_name() == "MemOSChatStore"
    for arguments, named in (({"user_id": None}, "user_id"), ({"namespace": "x"}, "namespace"), ({"usr": 1}, "usr")):
        with pytest.raises(InvalidArgument, match=rf"^{named}:"):
            MemOSChatStore(engine, **{"user_id": "ann", **arguments})
    with pytest.raises(InvalidArgument, match=r"^key:"):
        asyncio.run(anns.get_messages(""))
