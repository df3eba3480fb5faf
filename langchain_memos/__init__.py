"""Long-term memory for LangChain and LangGraph, on the memos_core engine.

Importing this loads neither LangChain's agents nor torch; the first touch of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat import ChatMemOS
    from .embeddings import MemOSEmbeddings
    from .history import MemOSChatMessageHistory
    from .memory import MemOSMemory
    from .nodes import MemOSRecallNode, MemOSWriteNode
    from .retriever import MemOSRetriever
    from .store import MemOSStore
    from .tools import create_memos_tools
    from .vector_store import MemOSVectorStore

__all__ = [
    "ChatMemOS",
    "MemOSChatMessageHistory",
    "MemOSEmbeddings",
    "MemOSMemory",
    "MemOSRecallNode",
    "MemOSRetriever",
    "MemOSStore",
    "MemOSVectorStore",
    "MemOSWriteNode",
    "create_memos_tools",
]

_LAZY = {
    "ChatMemOS": "chat",
    "MemOSChatMessageHistory": "history",
    "MemOSEmbeddings": "embeddings",
    "MemOSMemory": "memory",
    "MemOSRecallNode": "nodes",
    "MemOSRetriever": "retriever",
    "MemOSStore": "store",
    "MemOSVectorStore": "vector_store",
    "MemOSWriteNode": "nodes",
    "create_memos_tools": "tools",
}
_FRAMEWORK = ("langchain", "langchain_core", "langgraph")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _FRAMEWORK:
            raise
        from memos_core import MissingPackage

        raise MissingPackage(
            f"{name} needs {error.name}, which is not installed: pip install 'memos-adapters[langchain]'"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
