"""Long-term memory for LlamaIndex, on the memos_core engine.

`MemOSMemory` for chat engines and agents; `MemOSMemoryBlock` and `MemOSChatStore` for core's `Memory`; `MemOSRetriever` wherever there
is a retriever; `MemOSToolSpec` for a model that is to search and remember by itself; `MemOSEmbedding` for one embedder everywhere;
`MemOSLLM` for a model on this machine. Importing this loads neither LlamaIndex nor torch; the first touch of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .block import MemOSMemoryBlock
    from .chat_store import MemOSChatStore
    from .embedding import MemOSEmbedding
    from .llm import MemOSLLM
    from .memory import MemOSMemory
    from .retriever import MemOSRetriever
    from .tools import MemOSToolSpec

__all__ = [
    "MemOSChatStore", "MemOSEmbedding", "MemOSLLM", "MemOSMemory", "MemOSMemoryBlock", "MemOSRetriever", "MemOSToolSpec",
]  # fmt: skip

_LAZY = {
    "MemOSChatStore": "chat_store", "MemOSEmbedding": "embedding", "MemOSLLM": "llm", "MemOSMemory": "memory", "MemOSMemoryBlock": "block",
    "MemOSRetriever": "retriever", "MemOSToolSpec": "tools",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "llama_index":
            raise
        from memos_core import MissingPackage

        raise MissingPackage(
            f"{name} needs LlamaIndex, which is not installed: pip install 'memos-adapters[llamaindex]'"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
