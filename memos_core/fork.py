"""Forks: what was open before one refuses in the child, by name and at every use, and nothing of it is touched there.

LanceDB (0.40) does not survive a fork. Its threads are gone in the child, but the queues in which they waited are not, and are walked: of 120
children of an idle process in which it had run, 95 died of a segmentation fault and 4 hung, with new connections as with old ones, and every one hung at its end. So
once a database is open, or was, no child of this process may open one. A process that has only imported it forks as it likes.

Knows processes; knows no store.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from .errors import ForkedProcess

_STOP = "shutdown_runtime"
_INSTEAD = (
    "Open the store in the child alone, and none before the fork: give adapters its path, which they open at first use; open it in "
    "gunicorn's post_fork or Celery's worker_process_init; or start processes by 'spawn' or 'forkserver'"
)


class Inherited(Protocol):
    """What learns, right after a fork, that it is in the child."""

    def forked(self) -> None:
        """Set right what no longer holds. Takes no lock, and calls nothing that may: its holder may be gone."""


class Refusing:
    """What cannot be used in a forked child: there it has nothing any more, and says so. `path` is how it is called."""

    path: str
    _refusal = f"the database does not survive a fork. {_INSTEAD}"

    def forked(self) -> None:
        """Let go of everything, and destroy nothing: destructors would give back the parent's locks, or wait for threads that are gone."""
        state = dict(self.__dict__)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(state))  # for ever: else the end of the process would destroy it
        self.__dict__.clear()
        self.__dict__ |= {
            "path": state.get("path") or state.get("name", ""),
            "closed": state.get("closed", False),
            "_parent": os.getppid(),
        }

    @property
    def _is_left_behind(self) -> bool:
        return "_parent" in self.__dict__

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if not self._is_left_behind or name.startswith("__"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise ForkedProcess(
                f"{self.path} was opened in process {self._parent}, of which this one is a fork, and cannot be used here: {self._refusal}"
            )


def watch(one: Inherited) -> None:
    """Tell it when it finds itself in a forked child."""
    _watched.add(one)


def begin(path: str) -> None:
    """The database is about to run in this process. Raises ForkedProcess if it ran in the one that this is a fork of."""
    if _state["inherited"]:
        raise ForkedProcess(
            f"{path} cannot be opened here: this process is a fork of one that had a store open, and the database does not survive a "
            f"fork. {_INSTEAD}"
        )
    _state["runs"] = True


def _in_child() -> None:
    if _state["runs"] and not _state["inherited"]:
        _state["inherited"] = True
        atexit.register(_leave_threads)  # what is registered last is called first
    for one in list(_watched):
        one.forked()


def _leave_threads() -> None:
    """At its end LanceDB stops its threads, and in a fork would wait for ever for those of its parent. It has no name for what does that."""
    for one in gc.get_objects():
        if isinstance(one, BuiltinFunctionType) and (one.__module__, one.__name__) == ("lancedb._lancedb", _STOP):
            atexit.unregister(one)


_watched: WeakSet[Inherited] = WeakSet()
_state = {"runs": False, "inherited": False}  # of the database: in this process; in one that this is a fork of
if hasattr(os, "register_at_fork"):  # elsewhere nobody forks
    os.register_at_fork(after_in_child=_in_child)
