"""A chat's messages, for code that still uses LangChain's chat message histories."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict

from memos_core import InvalidArgument, Item, MemCube, MemOS

from .engine import Engine, OnEngine, checked_namespace
from .identity import User, checked_given, user_of
from .messages import as_turns

_PAGE = 1_000


class MemOSChatMessageHistory(OnEngine, BaseChatMessageHistory):  # type: ignore[misc]  # LangChain is untyped to this checker
    """Keeps the messages of one chat, whole and in order; and remembers what was said in it for other chats.

    LangChain has deprecated the interface: new code has a checkpointer keep its messages, and `MemOSMemory` remember.

    Setup:
        ``pip install 'memos-adapters[offline,langchain]'``

    Instantiate:
        >>> from langchain_memos import MemOSChatMessageHistory
        >>> history = MemOSChatMessageHistory("memories", "chat-7", user_id="ann")      # doctest: +SKIP

    Invoke:
        >>> history.add_messages([HumanMessage("I take my tea with lemon.")])           # doctest: +SKIP
        >>> history.messages                                                            # doctest: +SKIP

    Async:
        ``await history.aget_messages()``; the engine works in a thread.

    Use in a chain:
        >>> RunnableWithMessageHistory(chain, lambda session: MemOSChatMessageHistory(memory, session))   # doctest: +SKIP

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        session_id: which chat of the user's.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        user_id: whose chat, as in `MemOSRetriever`.
        trust_client_user: whether a run may name somebody else than its server authenticated, as in `MemOSMemory`.
        namespace: where what is said is written; the messages themselves are kept below it.
        learn: False to keep the messages alone.

    Raises:
        InvalidArgument: for an argument, or a message that is not plain JSON; of a call, if nobody says who the user is.
        AccessDenied: of a call, if the client names somebody else than whom the server authenticated.
        StoreClosed: of a call, if the `MemOS` was closed.
    """

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        session_id: str,
        *,
        embed: Any = None,
        user_id: User = None,
        trust_client_user: bool = False,
        namespace: Sequence[str] = ("default",),
        learn: bool = True,
    ) -> None:
        if not isinstance(session_id, str) or not session_id:
            raise InvalidArgument(f"session_id: a non-empty string is needed, not {session_id!r:.80}")
        self._engine = Engine(memory, embed)
        self._session = session_id
        self._user_id = checked_given(user_id, trust_client_user)
        self._namespace = checked_namespace(namespace)
        self._below = (*self._namespace, "chat history", session_id)
        self._learn = learn

    @property
    def messages(self) -> list[BaseMessage]:
        """All messages, oldest first."""
        return list(messages_from_dict([dict(cube.attributes) for cube in self._kept(user_of(self._user_id))]))

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages. One whose id is there already takes its place."""
        user = user_of(self._user_id)
        items = [Item(self._below, message.id or str(uuid.uuid4()), message_to_dict(message)) for message in messages]
        self.memory.items.put(items, actor=user)
        turns = as_turns(messages) if self._learn else []
        if turns:
            self.memory.add(turns, namespace=self._namespace, actor=user, session=self._session)

    def clear(self) -> None:
        """Forget the messages. What was said in them stays remembered."""
        user = user_of(self._user_id)
        self.memory.items.delete([(self._below, cube.key or "") for cube in self._kept(user)], actor=user)

    def _kept(self, user: str) -> list[MemCube]:
        kept: list[MemCube] = []
        while page := self.memory.items.list(self._below, actor=user, limit=_PAGE, offset=len(kept), oldest_first=True):
            kept += page
        return kept
