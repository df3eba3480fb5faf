"""Memories as LangChain documents. Plain values only: checkpointers and traces keep them."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document

from memos_core import Hit, MemCube


def as_document(found: Hit | MemCube) -> Document:
    """A memory's text under its id, and what is known about it: when it happened, who said it and where, and, of a hit, its
    score in [0, 1] and why it was found. What is unknown is left out."""
    cube = found.cube if isinstance(found, Hit) else found
    origin = cube.origin
    about: dict[str, Any] = {
        "score": found.score if isinstance(found, Hit) else None,
        "why": "; ".join(found.why) if isinstance(found, Hit) else None,
        "happened_at": origin.happened_at.isoformat(),
        "speaker": origin.speaker,
        "role": origin.role,
        "session": origin.session,
        "source": origin.source,
        "namespace": list(cube.namespace),
        "owner": cube.access.owner,
        "kind": cube.kind.value,
        "key": cube.key,
        "semantic_type": cube.semantic_type,
        "tags": list(cube.tags),
        "attributes": dict(cube.attributes),
    }
    return Document(
        page_content=cube.text, id=cube.id, metadata={k: v for k, v in about.items() if v not in (None, [], {})}
    )
