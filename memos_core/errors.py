"""Everything that memos_core raises on purpose, each naming what failed and what to do next.

    MemOSError
    ├── InvalidArgument (ValueError)     an argument that no store could accept; nothing was written
    ├── NotFound (LookupError)           no such memory or version *for this actor*: what may not be read does not exist
    ├── AccessDenied                     readable, but the actor may not do this to it
    ├── IllegalTransition                the memory's state does not allow this (frozen, for example)
    ├── Conflict                         somebody else changed it between the read and the write, repeatedly
    ├── EmbedderFailed                   the embedder raised, or returned something that is not one vector a text
    ├── DumpRefused (ValueError)         a dump that is not what it says, or that may not be loaded; nothing of it was
    ├── MissingPackage (ImportError)     an optional package is not installed; the message holds the command
    ├── WorkersUnavailable               workers on other machines: no cluster there, or one that cannot begin
    ├── ModelError                       a language model on this machine
    │   ├── ModelUnavailable             it cannot be found or loaded
    │   ├── ModelMismatch                a cache or adapter was made for another model, tokenizer, template or dtype
    │   ├── ModelTimeout (TimeoutError)  the answer was not there in the time that was given
    │   ├── ContextTooLong               prompt and answer do not fit the model's window
    │   ├── OutOfMemory                  the device has no room; nothing was changed
    │   ├── Ineffective                  what was made for it was measured and does not do what it is for; the message has the figures
    │   └── Unsupported                  this kind of model cannot do it; the message says what it lacks
    └── StoreError
        ├── StoreUnavailable             the path cannot be used: a file, read-only, full, locked for too long
        ├── NotAStore                    the folder holds something else
        ├── SchemaMismatch               written by another schema of this project
        ├── EmbedderMismatch             its vectors come from another embedder
        ├── AuditKeyRequired             its log is signed with a key that was not given; nothing was written
        ├── Damaged                      a file or a record is not what was written; the message names it
        └── StoreClosed                  used after close()
            └── ForkedProcess            used in a fork of the process that opened it

None derives from RuntimeError: frameworks catch that type for purposes of their own.
"""

from __future__ import annotations


class MemOSError(Exception):
    """Base of all errors raised by the engine."""


class InvalidArgument(MemOSError, ValueError):
    """An argument was refused before anything was written; the message names it."""


class NotFound(MemOSError, LookupError):
    """There is no such memory or version for this actor."""


class AccessDenied(MemOSError):
    """The actor can read the memory but lacks the right that the verb needs; or a client names another user than it came in as."""


class IllegalTransition(MemOSError):
    """The memory's state does not allow the verb."""


class Conflict(MemOSError):
    """The memory kept changing under the verb; nothing was written by it."""


class EmbedderFailed(MemOSError):
    """The embedder raised or broke its contract of one finite vector a text."""


class DumpRefused(MemOSError, ValueError):
    """What was to be loaded was refused whole; the message names the file and the reason."""


class MissingPackage(MemOSError, ImportError):
    """An optional package is missing; the message names the command that installs it."""


class WorkersUnavailable(MemOSError):
    """There is no cluster to run workers on, or a worker cannot begin its work."""


class ModelError(MemOSError):
    """Base of what concerns a language model on this machine."""


class ModelUnavailable(ModelError):
    """The model cannot be found or loaded."""


class ModelMismatch(ModelError):
    """A cache or an adapter was made for another model than this one."""


class ModelTimeout(ModelError, TimeoutError):
    """The answer was not there in the time that was given."""


class ContextTooLong(ModelError):
    """Prompt and answer do not fit the model's window."""


class OutOfMemory(ModelError):
    """The device has no room for what was asked."""


class Ineffective(ModelError):
    """What was made for a model, a steering vector for one, was measured and does not do what it is for."""


class Unsupported(ModelError):
    """This kind of model cannot do what was asked."""


class StoreError(MemOSError):
    """Base of what concerns the store as a whole."""


class StoreUnavailable(StoreError):
    """The path cannot be read or written; what was acknowledged before stays."""


class NotAStore(StoreError):
    """The path holds files, but no store."""


class SchemaMismatch(StoreError):
    """The store was written by a schema that this version cannot read."""


class EmbedderMismatch(StoreError):
    """The store's vectors were made by another embedder."""


class AuditKeyRequired(StoreError):
    """The store's log is signed with a key that this process was not given; it may read, and wrote nothing."""


class Damaged(StoreError):
    """Stored data is not what was written; the message names file or record."""


class StoreClosed(StoreError):
    """The engine was closed."""


class ForkedProcess(StoreClosed):
    """The store was opened before this process was forked, which the database does not survive; the message says what to do."""
