"""The engine behind every class of this package: a `MemOS`, or the path of one; and what happens when it fails.

Knows how a store is opened and closed; knows nothing of agents, graphs and messages.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from memos_core import InvalidArgument, MemOS, MemOSError, Namespace, StoreClosed

from .embedders import as_embedder

log = logging.getLogger("langchain_memos")

T = TypeVar("T")
OnError = Literal["warn", "raise"]


class Engine:
    """A `MemOS` that was given, or one opened here, by its path, at first use.

    Args:
        memory: a `MemOS`, or the path of one.
        embed: the embedder, for a path: what `as_embedder` takes.
        model: the `LocalModel`, for a path; a `MemOS` that was given must have been opened with it.
        on_error: what `attempt` does with a failure.
        schedule: whether the memory is to tick by itself (`MemOS.start`) from the first use on.

    Raises:
        InvalidArgument: for an argument; a `MemOS` brings its embedder, so one with an `embed` is refused.
    """

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        embed: Any = None,
        *,
        model: Any = None,
        on_error: OnError = "raise",
        schedule: bool = False,
    ) -> None:
        if not isinstance(memory, MemOS | str | os.PathLike) or memory == "":
            raise InvalidArgument(f"memory: a MemOS or the path of one is needed, not {memory!r}")
        if isinstance(memory, MemOS) and embed is not None:
            raise InvalidArgument("embed: the MemOS that was given has its embedder; give a path, or no embed")
        if isinstance(memory, MemOS) and model is not None and memory.model is not model:
            raise InvalidArgument(
                "memory: the MemOS that was given answers with another model, or none: MemOS(..., model=model)"
            )
        if on_error not in ("warn", "raise"):
            raise InvalidArgument(f"on_error: 'warn' or 'raise' is needed, not {on_error!r}")
        self._path = None if isinstance(memory, MemOS) else memory
        self._opened = memory if isinstance(memory, MemOS) else None
        self._opening, self._process = threading.Lock(), os.getpid()
        self._embed = as_embedder(embed)
        self._model = model
        self._schedule = schedule
        self._on_error = on_error
        self._starts = schedule

    @property
    def memory(self) -> MemOS:
        """The `MemOS`, opened now if it was not yet."""
        with self._lock:
            if self._opened is None:
                assert self._path is not None
                self._opened = MemOS(self._path, embed=self._embed, model=self._model)
            if self._starts:
                self._opened.start()
                self._starts = False
            return self._opened

    @property
    def _lock(self) -> threading.Lock:
        if self._process != os.getpid():  # a fork: whoever held the parent's is not here to give it back
            self._opening, self._process = threading.Lock(), os.getpid()
        return self._opening

    def close(self) -> None:
        """Let go of the store if it was opened here; the next use opens it again."""
        with self._lock:
            if self._opened is not None and self._path is not None:
                self._starts = self._schedule
                self._opened.close()
                self._opened = None

    def attempt(self, verb: str, user: str, work: Callable[[], T], otherwise: T) -> T:
        """What the work returns. If it fails: what stands in for it, and a warning in the log; or, as was asked for, the failure.

        Raises StoreClosed (and ForkedProcess, which is one) in either case: that is no failure of the memory, but of the program that
        goes on using it.
        """
        try:
            return work()
        except StoreClosed:
            raise
        except Exception as error:  # whatever it is: on_error="warn" promises that the caller goes on
            if self._on_error == "raise":
                raise
            log.warning(
                "memory could not %s for %s, the agent goes on without: %s",
                verb, user, error, exc_info=not isinstance(error, MemOSError),
            )  # fmt: skip
            return otherwise


class OnEngine:
    """What every class of this package that holds an engine offers."""

    _engine: Engine

    @property
    def memory(self) -> MemOS:
        """The `MemOS`, opened now if it was not yet."""
        return self._engine.memory

    def close(self) -> None:
        """Let go of the store if it was opened here, by its path; the next use opens it again."""
        self._engine.close()


def checked_namespace(namespace: Any, *, root: bool = False) -> Namespace:
    """A tuple of labels; the empty one only where everything may be meant. Checked here so that a wrong one is refused when an
    adapter is made, and not in the middle of a conversation."""
    good = not isinstance(namespace, str) and isinstance(namespace, Sequence) and (root or len(namespace) > 0)
    if not good or not all(isinstance(label, str) and label for label in namespace):
        raise InvalidArgument(f"namespace: a tuple of labels is needed, such as ('app',), not {namespace!r}")
    return tuple(namespace)


def checked_count(value: Any, argument: str) -> int:
    """A whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(f"{argument}: a whole number from 1 is needed, not {value!r:.80}")
    return value
