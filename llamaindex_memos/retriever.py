"""Memories as LlamaIndex nodes. Translates; ranking and access are the engine's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from memos_core import Hit, InvalidArgument, MemOS


class MemOSRetriever(BaseRetriever):  # type: ignore[misc]  # the framework's classes are untyped for the checker
    """Retrieves what an actor may read, best first.

    Args:
        memory: a `MemOS`, or the path of a store.
        embed: the embedder, for a path: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        actor: who asks; what it may not read is never fetched. None: the engine's own actor.
        namespace: at or below it; () is everything that the actor may read.
        k: how many memories at the most.

    Example:
        >>> retriever = MemOSRetriever("memories", actor="alice")          # doctest: +SKIP
        >>> ContextChatEngine.from_defaults(retriever=retriever, llm=llm)  # doctest: +SKIP
    """

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        actor: str | None = None,
        namespace: Sequence[str] = (),
        k: int = 10,
    ) -> None:
        if isinstance(memory, MemOS) and embed is not None:
            raise InvalidArgument("embed: the MemOS that was given has its embedder; give a path, or no embed")
        # LlamaIndex's embeddings are objects with a method, the engine's are callables
        by_texts = getattr(embed, "get_text_embedding_batch", embed)
        self._memory = memory if isinstance(memory, MemOS) else MemOS(memory, embed=by_texts)
        self._actor = actor
        self._namespace = namespace  # the engine checks it
        self._k = k
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._memory.search(query_bundle.query_str, namespace=self._namespace, actor=self._actor, k=self._k)
        return [_node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(hit: Hit) -> NodeWithScore:
    cube, origin = hit.cube, hit.cube.origin
    about = {
        "happened_at": origin.happened_at.isoformat(),
        "speaker": origin.speaker or origin.role,
        "session": origin.session,
        "why": "; ".join(hit.why),
    }
    node = TextNode(id_=cube.id, text=cube.text, metadata={k: v for k, v in about.items() if v})
    node.excluded_embed_metadata_keys = node.excluded_llm_metadata_keys = ["session", "why"]
    return NodeWithScore(node=node, score=hit.score)
