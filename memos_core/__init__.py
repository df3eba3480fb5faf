"""A memory operating system for LLM applications: the engine.

Importing this loads neither torch nor LanceDB nor a framework; `MemOS` brings LanceDB with its first use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .errors import (
    AccessDenied,
    AuditKeyRequired,
    Conflict,
    ContextTooLong,
    Damaged,
    DumpRefused,
    EmbedderFailed,
    EmbedderMismatch,
    ForkedProcess,
    IllegalTransition,
    Ineffective,
    InvalidArgument,
    MemOSError,
    MissingPackage,
    ModelError,
    ModelMismatch,
    ModelTimeout,
    ModelUnavailable,
    NotAStore,
    NotFound,
    OutOfMemory,
    SchemaMismatch,
    StoreClosed,
    StoreError,
    StoreUnavailable,
    Unsupported,
    WorkersUnavailable,
)  # fmt: skip
from .types import (
    PUBLIC,
    Access,
    Adapter,
    Ancestry,
    Answer,
    Brief,
    BrokenCall,
    Decoding,
    Draft,
    Event,
    Generation,
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
    Reply,
    SourceKind,
    State,
    Stats,
    Steering,
    Text,
    TokenUsage,
    ToolCall,
    Usage,
)  # fmt: skip

if TYPE_CHECKING:
    from .audit import Audit
    from .content_parts import content_of
    from .curriculum import Plan
    from .distillation import Distillation
    from .dumping import DumpReport
    from .embed import LocalEmbedder
    from .gate import Gate, Scores
    from .grants import grant
    from .holdings import Move, Rates, SchedulePolicy
    from .importers import Foreign
    from .items import Items
    from .loading import LoadReport
    from .memos import MemOS
    from .merging import Merge
    from .model import LocalModel
    from .phrasing import Lesson, Point
    from .publishing import Offer, PullReport
    from .reader import LLMReader
    from .recipe import Recipe
    from .reports import Carried, TickReport
    from .sensitivity import Sensitivity, checked_forms
    from .signing import new_key, public_key
    from .subscriptions import Subscription
    from .telling import AnswerStream
    from .timeline import Changed, Difference, Rollback, Snapshot
    from .toolcalls import AnswerReader, read_answer
    from .validate import checked_decoding
    from .verification import verify_store

os.environ.setdefault(
    "LANCEDB_LOG", "error"
)  # before its import: else each lost race of a compaction is on the user's screen

__version__ = "0.1.0"

__all__ = [
    "PUBLIC",
    "Access",
    "AccessDenied",
    "Adapter",
    "Ancestry",
    "Answer",
    "AnswerReader",
    "AnswerStream",
    "Audit",
    "AuditKeyRequired",
    "Brief",
    "BrokenCall",
    "Carried",
    "Changed",
    "Conflict",
    "ContextTooLong",
    "Damaged",
    "Decoding",
    "Difference",
    "Distillation",
    "Draft",
    "DumpRefused",
    "DumpReport",
    "EmbedderFailed",
    "EmbedderMismatch",
    "Event",
    "Foreign",
    "ForkedProcess",
    "Gate",
    "Generation",
    "Hit",
    "IllegalTransition",
    "Ineffective",
    "InvalidArgument",
    "Item",
    "Items",
    "KVCache",
    "Kind",
    "LLMReader",
    "Lesson",
    "Lifespan",
    "Link",
    "LoadReport",
    "LocalEmbedder",
    "LocalModel",
    "MemCube",
    "MemOS",
    "MemOSError",
    "Merge",
    "MissingPackage",
    "ModelError",
    "ModelMismatch",
    "ModelTimeout",
    "ModelUnavailable",
    "Move",
    "Namespace",
    "NotAStore",
    "NotFound",
    "Offer",
    "Origin",
    "OutOfMemory",
    "Plan",
    "Point",
    "Policy",
    "PullReport",
    "Rates",
    "Reading",
    "Receipt",
    "Recipe",
    "Reply",
    "Rollback",
    "SchedulePolicy",
    "SchemaMismatch",
    "Scores",
    "Sensitivity",
    "Snapshot",
    "SourceKind",
    "State",
    "Stats",
    "Steering",
    "StoreClosed",
    "StoreError",
    "StoreUnavailable",
    "Subscription",
    "Text",
    "TickReport",
    "TokenUsage",
    "ToolCall",
    "Unsupported",
    "Usage",
    "WorkersUnavailable",
    "checked_decoding",
    "checked_forms",
    "content_of",
    "grant",
    "new_key",
    "public_key",
    "read_answer",
    "verify_store",
]  # fmt: skip

_LAZY = {
    "DumpReport": "dumping", "Foreign": "importers", "LoadReport": "loading", "Offer": "publishing", "PullReport": "publishing",
    "Subscription": "subscriptions", "new_key": "signing", "public_key": "signing",
    "Distillation": "distillation", "Gate": "gate", "Lesson": "phrasing", "Plan": "curriculum", "Point": "phrasing", "Recipe": "recipe", "Scores": "gate",
    "AnswerReader": "toolcalls", "AnswerStream": "telling", "Items": "items", "LLMReader": "reader", "LocalEmbedder": "embed",
    "LocalModel": "model", "MemOS": "memos", "Merge": "merging", "Changed": "timeline", "Difference": "timeline", "Rollback": "timeline", "Snapshot": "timeline",
    "Carried": "reports", "Move": "holdings", "Rates": "holdings", "SchedulePolicy": "holdings",
    "TickReport": "reports", "checked_decoding": "validate", "grant": "grants", "Audit": "audit", "Sensitivity": "sensitivity", "checked_forms": "sensitivity", "read_answer": "toolcalls", "verify_store": "verification", "content_of": "content_parts",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
