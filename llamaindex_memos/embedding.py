"""MemOSEmbedding: the engine's embedder as LlamaIndex's, so that documents and memories share one model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from memos_core import InvalidArgument, LocalEmbedder

_DEFAULT = "all-MiniLM-L6-v2"


class MemOSEmbedding(BaseEmbedding):  # type: ignore[misc]  # LlamaIndex is untyped to this checker
    """Embeds with the engine's default model on this machine, or another one of sentence-transformers.

    Args:
        embed: an embedder as `MemOS` takes one: a model's name or folder, or a callable from texts to vectors. None: all-MiniLM-L6-v2.
        device: "cuda", "cpu" ...; None takes a GPU when there is one.

    Examples:
        ```python
        from llama_index.core import Settings
        from llamaindex_memos import MemOSEmbedding

        Settings.embed_model = MemOSEmbedding()
        ```
    """

    _embed: Callable[[Sequence[str]], Any] = PrivateAttr()

    def __init__(self, embed: Any = None, *, device: str | None = None, **fields: Any) -> None:
        if embed is not None and not isinstance(embed, str) and not callable(embed):
            raise InvalidArgument(f"embed: a model's name or a callable is needed, not {type(embed).__name__}")
        is_name = embed is None or isinstance(embed, str)
        name = str(embed or _DEFAULT) if is_name else str(getattr(embed, "__qualname__", type(embed).__qualname__))
        super().__init__(**{"model_name": name, **fields})
        self._embed = LocalEmbedder(embed, device=device) if is_name else embed

    @classmethod
    def class_name(cls) -> str:
        """The class's name in serialised form."""
        return "MemOSEmbedding"

    @property
    def embedder(self) -> Callable[[Sequence[str]], Any]:
        """What embeds, as `MemOS` takes it."""
        return self._embed

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [[float(number) for number in vector] for vector in self._embed(texts)]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
