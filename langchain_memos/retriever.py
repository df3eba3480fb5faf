"""Memories as a LangChain retriever. Translates; ranking and access are the engine's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, PrivateAttr

from memos_core import Kind, MemOS

from .documents import as_document
from .engine import Engine, OnEngine, checked_count, checked_namespace
from .identity import User, checked_given, field_user_of, user_of


class MemOSRetriever(OnEngine, BaseRetriever):  # type: ignore[misc]  # LangChain is untyped to this checker
    """Retrieves what a user may read, best first, as documents.

    Setup:
        ``pip install 'memos-adapters[offline,langchain]'``

    Instantiate:
        >>> from langchain_memos import MemOSRetriever
        >>> retriever = MemOSRetriever("memories", user_id="ann", k=5)                  # doctest: +SKIP

    Invoke:
        >>> retriever.invoke("How does she take her tea?")                              # doctest: +SKIP
        >>> retriever.invoke("tea", k=1, filter={"speaker": "Ann"})                     # doctest: +SKIP

    Async:
        ``await retriever.ainvoke("tea")``; the engine works in a thread.

    Use within a chain:
        >>> chain = {"context": retriever, "question": RunnablePassthrough()} | prompt | model   # doctest: +SKIP
        >>> chain.invoke("tea?", {"configurable": {"user_id": "bob"}})                  # doctest: +SKIP

    Use in an agent:
        >>> search = create_retriever_tool(retriever, "search_memory", "What is remembered of the user.")  # doctest: +SKIP

    A document's `id` is the memory's, its `metadata` says its score in [0, 1], when it happened, who said it, and more, see
    `as_document`. There is no least score: k documents come, if there are as many.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        user_id: whose memories: a name, or a callable from the run's `Runtime` (None outside of a graph) to one. None: as in
            `MemOSMemory`, what the run's server, context or configuration says. Who makes the field configurable
            (`configurable_fields`) under an id other than "user_id" lets the client choose.
        trust_client_user: whether a run may name somebody else than its server authenticated, as in `MemOSMemory`.
        k: how many at the most.
        namespace: at or below it; () is everything that the user may read.
        filter: conditions on attributes and header fields, as `MemOS.search` takes them.
        since, until: only what happened in [since, until).
        kinds: only memories of these kinds.

    Each but the first two may also be given to `invoke`, for that call.

    Raises:
        InvalidArgument: for an argument; of a call, if nobody says who the user is.
        AccessDenied: of a call, if the client names somebody else than whom the server authenticated.
        StoreClosed: of a call, if the `MemOS` was closed.
    """

    user_id: Any = None
    trust_client_user: bool = False
    k: int = 10
    namespace: tuple[str, ...] = ()
    filter: Mapping[str, Any] | None = None
    since: datetime | str | None = None
    until: datetime | str | None = None
    kinds: tuple[Kind | str, ...] | None = None
    engine: Any = Field(
        exclude=True, repr=False
    )  # as `configurable_fields` hands it on: what is made of fields shares it
    _engine: Engine = PrivateAttr()

    def __init__(
        self, memory: MemOS | str | os.PathLike[str] | None = None, *, embed: Any = None, **fields: Any
    ) -> None:
        if not isinstance(fields.get("engine"), Engine):
            fields["engine"] = Engine(memory, embed)  # type: ignore[arg-type]  # which refuses None
        checked_given(fields.get("user_id"), fields.get("trust_client_user", False))
        if "k" in fields:
            checked_count(fields["k"], "k")
        if "namespace" in fields:
            fields["namespace"] = checked_namespace(fields["namespace"], root=True)
        super().__init__(**fields)
        self._engine = self.engine

    def invoke(self, input: str, config: Any = None, **kwargs: Any) -> list[Document]:
        """The documents for a question. kwargs: of the arguments above, those that differ for this call."""
        user = self._user(kwargs.pop("user_id", None), config)
        return super().invoke(input, config, user_id=user, **kwargs)  # type: ignore[no-any-return]

    async def ainvoke(self, input: str, config: Any = None, **kwargs: Any) -> list[Document]:
        """`invoke`, beside the event loop."""
        user = await asyncio.to_thread(self._user, kwargs.pop("user_id", None), config)
        return await super().ainvoke(input, config, user_id=user, **kwargs)  # type: ignore[no-any-return]

    def _user(self, given: User, config: Any = None) -> str:
        if given is not None:
            return user_of(given, config=config)
        return field_user_of(self.user_id, self.trust_client_user, config)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: Any,
        user_id: User = None,
        k: int | None = None,
        namespace: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        kinds: Iterable[Kind | str] | None = None,
    ) -> list[Document]:
        hits = self.memory.search(
            query,
            actor=self._user(user_id),
            k=self.k if k is None else k,
            namespace=self.namespace if namespace is None else namespace,
            filter=self.filter if filter is None else filter,
            since=self.since if since is None else since,
            until=self.until if until is None else until,
            kinds=self.kinds if kinds is None else kinds,
        )
        return [as_document(hit) for hit in hits]

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any, **kwargs: Any) -> list[Document]:
        return await asyncio.to_thread(
            partial(self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **kwargs)
        )
