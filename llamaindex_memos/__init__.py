"""Long-term memory for LlamaIndex, on the memos_core engine.

`MemOSRetriever` puts memories where an application has a retriever: chat engines, query engines, agents' tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .retriever import MemOSRetriever

__all__ = ["MemOSRetriever"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import retriever
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "llama_index":
            raise
        from memos_core import MissingPackage

        raise MissingPackage("llamaindex_memos needs LlamaIndex: pip install 'memos-adapters[llamaindex]'") from error
    return getattr(retriever, name)
