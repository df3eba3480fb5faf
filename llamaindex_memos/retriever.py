"""Memories as LlamaIndex nodes. Translates; ranking and access are the engine's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from memos_core import Hit, Kind, MemOS

from .engine import Engine, checked_count


class MemOSRetriever(BaseRetriever):  # type: ignore[misc]  # the framework's classes are untyped for the checker
    """Retrieves what an actor may read, best first.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        actor: who asks; what it may not read is never fetched. None: the engine's own actor.
        namespace: at or below it; () is everything that the actor may read.
        k: how many memories at the most. `similarity_top_k`, as LlamaIndex's retrievers call it, reads and sets it.
        filter: conditions on attributes and header fields, such as `{"city": "Rome", "age": {"$gte": 18}}`.
        since, until: only what happened in [since, until): aware datetimes or ISO 8601.
        kinds: only memories of these kinds.

    Examples:
        ```python
        from llama_index.core.chat_engine import ContextChatEngine
        from llamaindex_memos import MemOSRetriever

        retriever = MemOSRetriever("memories", actor="ann", k=5, since="2026-01-01T00:00:00Z")
        chat = ContextChatEngine.from_defaults(retriever=retriever, llm=llm)
        ```
    """

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        actor: str | None = None,
        namespace: Sequence[str] = (),
        k: int = 10,
        filter: Mapping[str, Any] | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        kinds: Iterable[Kind | str] | None = None,
    ) -> None:
        self._engine = Engine(memory, embed)
        # the engine checks these, each time
        self._where: dict[str, Any] = {
            "actor": actor, "namespace": namespace, "filter": filter, "since": since, "until": until, "kinds": kinds
        }  # fmt: skip
        self.similarity_top_k = k
        super().__init__()

    @property
    def similarity_top_k(self) -> int:
        """How many memories at the most."""
        return self._k

    @similarity_top_k.setter
    def similarity_top_k(self, k: int) -> None:
        self._k = checked_count(k, "k")

    def close(self) -> None:
        """Let go of the store if it was opened by its path; the next use opens it again."""
        self._engine.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if not query_bundle.query_str.strip():
            return []
        hits = self._engine.memory.search(query_bundle.query_str, k=self._k, **self._where)
        return [_node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(hit: Hit) -> NodeWithScore:
    cube, origin = hit.cube, hit.cube.origin
    about = {
        **cube.attributes,
        "happened_at": origin.happened_at.isoformat(),
        "speaker": origin.speaker or origin.role,
        "session": origin.session,
        "why": "; ".join(hit.why),
    }
    node = TextNode(id_=cube.id, text=cube.text, metadata={k: v for k, v in about.items() if v})
    hidden = [name for name in node.metadata if name not in ("happened_at", "speaker")]
    node.excluded_embed_metadata_keys = node.excluded_llm_metadata_keys = hidden
    return NodeWithScore(node=node, score=hit.score)
