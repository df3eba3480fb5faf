"""A memory operating system for LLM applications: the engine.

Importing this loads neither torch nor LanceDB nor a framework; `MemOS` brings LanceDB with its first use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .errors import (
    AccessDenied,
    Conflict,
    Damaged,
    EmbedderFailed,
    EmbedderMismatch,
    IllegalTransition,
    InvalidArgument,
    MemOSError,
    MissingPackage,
    NotAStore,
    NotFound,
    SchemaMismatch,
    StoreClosed,
    StoreError,
    StoreUnavailable,
)  # fmt: skip
from .types import (
    PUBLIC,
    Access,
    Adapter,
    Ancestry,
    Brief,
    Draft,
    Event,
    Hit,
    Item,
    Kind,
    KVCache,
    Lifespan,
    Link,
    MemCube,
    Namespace,
    Origin,
    Policy,
    Reading,
    Receipt,
    SourceKind,
    State,
    Stats,
    Steering,
    Text,
    TickReport,
    Usage,
)  # fmt: skip

if TYPE_CHECKING:
    from .embed import LocalEmbedder
    from .items import Items
    from .memos import MemOS
    from .reader import LLMReader

os.environ.setdefault(
    "LANCEDB_LOG", "error"
)  # before its import: else each lost race of a compaction is on the user's screen

__version__ = "0.1.0"

__all__ = [
    "PUBLIC", "Access", "AccessDenied", "Adapter", "Ancestry", "Brief", "Conflict", "Damaged", "Draft", "EmbedderFailed",
    "EmbedderMismatch", "Event", "Hit", "IllegalTransition", "InvalidArgument", "Item", "Items", "KVCache", "Kind", "LLMReader", "Lifespan",
    "Link", "LocalEmbedder", "MemCube", "MemOS", "MemOSError", "MissingPackage", "Namespace", "NotAStore", "NotFound",
    "Origin", "Policy", "Reading", "Receipt", "SchemaMismatch", "SourceKind", "State", "Stats", "Steering", "StoreClosed",
    "StoreError", "StoreUnavailable", "Text", "TickReport", "Usage",
]  # fmt: skip

_LAZY = {"Items": "items", "MemOS": "memos", "LLMReader": "reader", "LocalEmbedder": "embed"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
