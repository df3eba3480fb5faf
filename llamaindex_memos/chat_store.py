"""MemOSChatStore: where core's `Memory` keeps its messages, so that they are in the store beside what is learnt from them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus

from memos_core import Item, MemCube, MemOS, Namespace

from .conversation import Kept, following
from .engine import Engine, checked_label, checked_labels, checked_user, defaults, engine_of
from .messages import packed, unpacked

_ALL = 2**31 - 1


class MemOSChatStore(AsyncDBChatStore):  # type: ignore[misc]  # LlamaIndex is untyped to this checker
    """Keeps the messages of core's `Memory`, one item of the engine each. They are found by their session, and are not searched.
    `Memory` takes such a store from LlamaIndex 0.14.24 on.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        path: what `memory` would be, as a field.
        user_id: whose messages. There is no default user.
        namespace: below which they are kept.

    Raises:
        InvalidArgument: nobody says whose messages they are, or an argument is wrong.

    Examples:
        ```python
        from llama_index.core.memory import Memory
        from llamaindex_memos import MemOSChatStore, MemOSMemoryBlock

        memory = Memory.from_defaults(
            session_id="monday",
            chat_store=MemOSChatStore("memories", user_id="ann"),
            memory_blocks=[MemOSMemoryBlock("memories", user_id="ann")],
        )
        ```
    """

    path: str = Field(description="Where the store is.")
    user_id: str = Field(description="Whose messages.")
    namespace: tuple[str, ...] = Field(default=("default",), description="Below which they are kept.")

    _engine: Engine = PrivateAttr()

    def __init__(self, memory: MemOS | str | Any = None, *, embed: Any = None, **fields: Any) -> None:
        fields = {name: value for name, value in fields.items() if value is not None}
        known = defaults(type(self))
        engine = engine_of(memory, embed, fields, known)
        checked_user(fields.get("user_id", known["user_id"]))
        checked_labels(fields.get("namespace", known["namespace"]))
        super().__init__(**fields)
        self._engine = engine

    @classmethod
    def class_name(cls) -> str:
        """The class's name in serialised form."""
        return "MemOSChatStore"

    def close(self) -> None:
        """Let go of the store if it was opened by its path; the next use opens it again."""
        self._engine.close()

    # --- what Memory calls ---------------------------------------------------------------------------------------------------

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """The messages of a session, of one status or of all, oldest first."""
        start = offset or 0
        items = await asyncio.to_thread(self._items, key, status)
        return [_message(item) for item in items[start : None if limit is None else start + limit]]

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """How many messages a session has, of one status or of all."""
        return len(await asyncio.to_thread(self._items, key, status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        """Add a message to a session."""
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Add messages to a session, in one write."""
        await asyncio.to_thread(self._write, key, following(None, [packed(m) for m in messages]), status)

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Make these the messages of a session, those of any status replaced."""
        await self.delete_messages(key)
        await self.add_messages(key, messages, status)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the message at a place of a session, from 0, and return it; None if there is none."""
        items = (await asyncio.to_thread(self._items, key, None))[idx : idx + 1] if idx >= 0 else []
        return next(iter(await asyncio.to_thread(self._delete, items)), None)

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete the messages of a session, of one status or of all."""
        await asyncio.to_thread(lambda: self._delete(self._items(key, status)))

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Delete the n oldest active messages of a session, and return them."""
        return await asyncio.to_thread(lambda: self._delete(self._items(key, MessageStatus.ACTIVE)[:n]))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Take the n oldest messages of a session out of the active ones, and return them."""

        def archive() -> list[ChatMessage]:
            items = self._items(key, MessageStatus.ACTIVE)[:n]
            kept = [Kept(str(item.key), str(item.attributes["message"])) for item in items]
            self._write(key, kept, MessageStatus.ARCHIVED)
            return [_message(item) for item in items]

        return await asyncio.to_thread(archive)

    async def get_keys(self) -> list[str]:
        """The sessions that have messages."""
        spaces = await asyncio.to_thread(
            lambda: self._engine.memory.items.namespaces(self._below(), actor=self.user_id)
        )
        return [space[-1] for space in spaces if len(space) == len(self._below()) + 1]

    # --- beside the event loop -----------------------------------------------------------------------------------------------

    def _below(self, *session: str) -> Namespace:
        return (*self.namespace, "messages", *session)

    def _items(self, key: str, status: MessageStatus | None) -> list[MemCube]:
        where = self._below(checked_label(key, "key"))
        items = self._engine.memory.items.list(where, actor=self.user_id, limit=_ALL, oldest_first=True)
        wanted = [item for item in items if status is None or item.attributes["status"] == status.value]
        return sorted(wanted, key=lambda item: item.key or "")

    def _write(self, key: str, kept: Sequence[Kept], status: MessageStatus) -> None:
        where = self._below(checked_label(key, "key"))
        items = [Item(where, k.key, {"message": k.body, "status": status.value}) for k in kept]
        self._engine.memory.items.put(items, actor=self.user_id)

    def _delete(self, items: Sequence[MemCube]) -> list[ChatMessage]:
        names = [(item.namespace, str(item.key)) for item in items]
        self._engine.memory.items.delete(names, actor=self.user_id)
        return [_message(item) for item in items]


def _message(item: MemCube) -> ChatMessage:
    return unpacked(str(item.attributes["message"]))
