"""Whatever LangChain and LangGraph take for an embedder, as the callable that the engine takes.

Knows coroutines; knows no store.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from langgraph.store.base import ensure_embeddings

from memos_core import InvalidArgument


def as_embedder(embed: Any) -> Any:
    """An embedder for `MemOS(embed=...)`.

    Args:
        embed: LangChain `Embeddings`, a function from texts to vectors, an async one, "provider:model" as
            `langchain.embeddings.init_embeddings` takes it, or what `MemOS` takes: the name or folder of a
            sentence-transformers model; None for its default.

    Raises:
        InvalidArgument: for what is none of these. ValueError, ImportError: a provider's package is not installed.
    """
    if isinstance(embed, str) and ":" in embed and not os.path.exists(embed):
        embed = ensure_embeddings(embed)
    if embed is None or isinstance(embed, str | os.PathLike):
        return embed
    if isinstance(embed, Embeddings):
        # LangGraph wraps an async function in an object whose blocking half only raises
        return AsyncEmbedder(embed.aembed_documents) if _is_async_only(embed) else embed.embed_documents
    if _is_async(embed):
        return AsyncEmbedder(embed)
    if not callable(embed):
        raise InvalidArgument(
            f"embed: Embeddings, a function from texts to vectors or a name is needed, not {type(embed).__name__}"
        )
    return embed


class AsyncEmbedder:
    """An async embedding function as a blocking one, for any thread, also one in which an event loop runs.

    The function runs on one event loop of its own, in a thread that is started with the first texts and lasts as long as the
    process: clients of model services keep connections, and those belong to the loop on which they were opened.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Awaitable[Any]]) -> None:
        self._embed = embed
        self._starting, self._process = threading.Lock(), os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, texts: Sequence[str], /) -> Any:
        """One vector a text."""
        return asyncio.run_coroutine_threadsafe(self._vectors(texts), self._started()).result()

    async def _vectors(self, texts: Sequence[str]) -> Any:
        return await self._embed(list(texts))

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._process != os.getpid():  # a fork: the loop's thread is not here
            self._starting, self._process, self._loop = threading.Lock(), os.getpid(), None
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="memos-embedder", daemon=True).start()
            return self._loop


def _is_async(embed: Any) -> bool:
    return inspect.iscoroutinefunction(embed) or inspect.iscoroutinefunction(getattr(embed, "__call__", None))  # noqa: B004


def _is_async_only(embed: Embeddings) -> bool:
    return hasattr(embed, "afunc") and not hasattr(embed, "func")
