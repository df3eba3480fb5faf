"""A MemOS, or the path of one: opened at first use, once in a process, however many adapters name it.

LlamaIndex makes a memory for each conversation and writes it down by its fields: so what an adapter keeps of its engine is a path,
and whoever comes with that path finds the engine that is open.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from memos_core import PUBLIC, EmbedderMismatch, InvalidArgument, MemOS


class Engine:
    """The engine behind one adapter.

    Args:
        memory: a `MemOS`, which stays its giver's to close, or the path of one. A path finds the `MemOS` of that path that another
            adapter of this process was given or has opened, with whatever embedder that has: a store keeps to one.
        embed: the embedder to open a path with: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        model: the `LocalModel` to open a path with, for one who answers by `answering`.

    Raises:
        InvalidArgument: neither a MemOS nor a path, or an embedder beside a MemOS.
    """

    def __init__(
        self, memory: MemOS | str | os.PathLike[str], embed: Any = None, model: Any = None, schedule: bool = False
    ) -> None:
        if not isinstance(memory, MemOS | str | os.PathLike) or memory == "":
            raise InvalidArgument(f"memory: a MemOS or the path of one is needed, not {memory!r}")
        self._embed = embed
        self._model = model
        self._schedule = schedule
        self._opened: _Opened | None = None
        if not isinstance(memory, MemOS):
            self.path = _whole(memory)
            return
        if embed is not None:
            raise InvalidArgument("embed: the MemOS that was given has its embedder; give a path, or no embed")
        self.path = _whole(memory.path)
        self._opened = _Opened(memory)
        with _lock:
            _given[self.path] = memory

    @property
    def memory(self) -> MemOS:
        """The engine, found or opened now if it was not yet."""
        opened = self._opened
        if opened is None:
            with _lock:
                opened = self._opened = self._opened or self._found() or self._open()
                opened.holders.add(self)
        if self._schedule and not opened.started:
            opened.started = True
            opened.memory.start()
        return opened.memory

    @property
    def answering(self) -> MemOS:
        """The engine, which answers with the model. Raises InvalidArgument if it has another one, or none."""
        memory = self.memory
        if memory.model is not self._model:
            raise InvalidArgument(
                f"memory: the MemOS at {self.path} answers with another model, or none: MemOS(..., model=model)"
            )
        return memory

    def close(self) -> None:
        """Let go of the engine; if it was opened by its path, and this was the last adapter to let go, close it. The next use
        opens it again."""
        with _lock:
            opened = self._opened
            if opened is None or not opened.ours:
                return
            self._opened = None
            opened.holders.discard(self)
            if opened.holders:
                return
            _ours.pop(self.path, None)
            opened.memory.close()

    def _found(self) -> _Opened | None:
        given = _given.get(self.path)
        if given is not None and not given.closed:
            return _Opened(given)
        return _ours.get(self.path)

    def _open(self) -> _Opened:
        # LlamaIndex's embeddings are objects with a method, the engine's are callables; ours holds one of those
        embed = getattr(self._embed, "embedder", getattr(self._embed, "get_text_embedding_batch", self._embed))
        try:
            memory = MemOS(self.path, embed=embed, model=self._model)
        except EmbedderMismatch as error:
            if embed is not None:
                raise
            raise EmbedderMismatch(
                f"{error}. To a memory that LlamaIndex made or restored, attach(MemOS({self.path!r}, embed=...)); once an "
                "adapter in this process has that MemOS, others find it by its path"
            ) from error
        _ours[self.path] = opened = _Opened(memory, ours=True)
        return opened


class _Opened:
    """An open engine, and who uses it."""

    def __init__(self, memory: MemOS, ours: bool = False) -> None:
        self.memory = memory
        self.ours = ours
        self.started = False
        self.holders: WeakSet[Engine] = WeakSet()


class OwnLock:
    """A lock of this process that its holder may take again. A fork has one of its own: who held the parent's is not there to give it
    back."""

    def __init__(self) -> None:
        self._held, self._process = threading.RLock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._held, self._process = threading.RLock(), os.getpid()
        self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


_lock = OwnLock()
_given: WeakValueDictionary[str, MemOS] = WeakValueDictionary()
_ours: dict[
    str, _Opened
] = {}  # open until somebody closes them: a server that makes a memory for each request loads its models once


def engine_of(memory: Any, embed: Any, fields: dict[str, Any], known: Mapping[str, Any]) -> Engine:
    """The engine that a component's arguments name, by a MemOS, a path, or the field `path`, which is filled in.

    fields: what the component was given. known: what stands in for what it was not (a subclass may have a default).
    """
    if unknown := sorted(set(fields) - set(known)):
        raise InvalidArgument(f"{unknown[0]}: there is no such argument; there are {', '.join(sorted(known))}")
    path = fields.get("path")
    if memory is not None and path is not None:
        raise InvalidArgument("memory, path: give one of them")
    engine = Engine(
        memory if memory is not None else path if path is not None else known["path"],
        embed,
        schedule=bool(fields.get("schedule")),
    )
    fields["path"] = engine.path
    return engine


def defaults(component: Any) -> dict[str, Any]:
    """What the fields of a component's class are if nobody says, None for those that somebody has to."""
    fields = component.model_fields.items()
    return {name: None if field.is_required() else field.get_default() for name, field in fields}


def _whole(path: str | os.PathLike[str]) -> str:
    """A path as it is from any folder; a URL as it is."""
    words = os.fspath(path)
    return words if "://" in words else os.path.abspath(words)


def checked_user(user: Any) -> str:
    """Who the memories belong to. Raises InvalidArgument: there is no default user."""
    if user is None:
        raise InvalidArgument(
            'user_id: whose memory is it? Say it by user_id="ann"; where LlamaIndex makes the memory (memory_cls=), by a subclass '
            'that has `user_id: str = "ann"`'
        )
    if user == PUBLIC or not checked_label(user, "user_id").strip():
        raise InvalidArgument(f"user_id: a name of one user is needed, not {user!r}")
    return user  # type: ignore[no-any-return]  # a label


def checked_label(value: Any, argument: str) -> str:
    """A non-empty string that can be stored. Checked here so that a wrong one is refused when an adapter is made, and not in the
    middle of a conversation. Raises InvalidArgument."""
    if not isinstance(value, str) or not value or any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidArgument(f"{argument}: a non-empty string is needed, not {value!r:.80}")
    return value


def checked_labels(namespace: Any) -> tuple[str, ...]:
    """A namespace to write to. Raises InvalidArgument."""
    if isinstance(namespace, str) or not isinstance(namespace, Sequence) or not namespace:
        raise InvalidArgument(f"namespace: a tuple of labels is needed, such as ('app',), not {namespace!r:.80}")
    return tuple(checked_label(label, "namespace") for label in namespace)


def checked_count(value: Any, argument: str) -> int:
    """A whole number from 1. Raises InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(f"{argument}: a whole number from 1 is needed, not {value!r:.80}")
    return value


def checked_choice(value: Any, argument: str, *choices: str) -> Any:
    """One of some words. Raises InvalidArgument."""
    if value not in choices:
        raise InvalidArgument(f"{argument}: {' or '.join(map(repr, choices))} is needed, not {value!r:.80}")
    return value
