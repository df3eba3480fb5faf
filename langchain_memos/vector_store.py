"""A user's documents as a LangChain vector store, on the engine's items."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from memos_core import InvalidArgument, Item, MemCube, MemOS

from .engine import Engine, OnEngine, checked_namespace
from .identity import User, checked_given, user_of


class MemOSVectorStore(OnEngine, VectorStore):  # type: ignore[misc]  # LangChain is untyped to this checker
    """Keeps documents of a user beside what was said, for code that wants a vector store.

    Setup:
        ``pip install 'memos-adapters[offline,langchain]'``

    Instantiate:
        >>> from langchain_memos import MemOSVectorStore
        >>> store = MemOSVectorStore("memories", user_id="ann")                         # doctest: +SKIP

    Invoke:
        >>> store.add_documents([Document("Lemons are sour.", metadata={"page": 3})])   # doctest: +SKIP
        >>> store.similarity_search("sour fruit", k=1, filter={"page": {"$gte": 2}})    # doctest: +SKIP

    Async:
        ``await store.asimilarity_search("sour fruit")``; the engine works in a thread.

    Use in a chain:
        >>> chain = {"context": store.as_retriever(), "question": RunnablePassthrough()} | prompt | model   # doctest: +SKIP

    A document is one memory, found by cosine alone, as the framework expects it. `MemOSMemory` and `MemOSRetriever` recall it too,
    where they look at or above its namespace. A document of an id that is there makes a new version.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        user_id: whose documents, as in `MemOSRetriever`.
        trust_client_user: whether a run may name somebody else than its server authenticated, as in `MemOSMemory`.
        namespace: where they are kept.

    Raises:
        InvalidArgument: for an argument, or metadata that is not plain JSON; of a call, if nobody says who the user is.
        AccessDenied: of a call, if the client names somebody else than whom the server authenticated.
        StoreClosed: of a call, if the `MemOS` was closed.
    """

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        user_id: User = None,
        trust_client_user: bool = False,
        namespace: Sequence[str] = ("documents",),
    ) -> None:
        self._engine = Engine(memory, embed)
        self._user_id = checked_given(user_id, trust_client_user)
        self._namespace = checked_namespace(namespace)

    def add_documents(self, documents: list[Document], *, ids: Sequence[str] | None = None) -> list[str]:
        """Keep documents; their ids: those given, or else their own, or else new ones."""
        own = [document.id for document in documents]
        chosen = [id or str(uuid.uuid4()) for id in (own if ids is None else ids)]
        if len(chosen) != len(documents):
            raise InvalidArgument(f"ids: {len(documents)} documents need as many ids, not {len(chosen)}")
        items = [Item(self._namespace, id, d.metadata, _texts(d)) for id, d in zip(chosen, documents, strict=True)]
        self.memory.items.put(items, actor=self._user())
        return chosen

    def delete(self, ids: Sequence[str] | None = None) -> bool:
        """Delete documents for good; of an id that there is not, nothing."""
        self.memory.items.delete([(self._namespace, id) for id in ids or ()], actor=self._user())
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of those ids that there are, each once."""
        names = [(self._namespace, id) for id in dict.fromkeys(ids)]
        return [_document(cube) for cube in self.memory.items.get(names, actor=self._user()) if cube is not None]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k nearest documents, nearest first."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None
    ) -> list[tuple[Document, float]]:
        """The k nearest documents with their cosine. filter: conditions on the metadata, as `MemOS.items` takes them."""
        hits = self.memory.items.search(query, self._namespace, actor=self._user(), filter=filter, limit=k)
        return [(_document(hit.cube), hit.score) for hit in hits]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: max(cosine, 0.0)

    @classmethod
    def from_texts(
        cls, texts: list[str], embedding: Embeddings, metadatas: list[dict[str, Any]] | None = None, *,
        ids: list[str] | None = None, memory: MemOS | str | os.PathLike[str], **kwargs: Any,
    ) -> Self:  # fmt: skip
        """A store at a path, with an embedder, that holds texts; or, with embedding=None, in a `MemOS`."""
        made = cls(memory, embed=embedding, **kwargs)
        made.add_texts(texts, metadatas, ids=ids)
        return made

    def _user(self) -> str:
        return user_of(self._user_id)


def _texts(document: Document) -> tuple[str, ...]:
    return (document.page_content,) if document.page_content.strip() else ()  # an empty one is kept, and not found


def _document(cube: MemCube) -> Document:
    return Document(page_content=cube.text, metadata=dict(cube.attributes), id=cube.key)
