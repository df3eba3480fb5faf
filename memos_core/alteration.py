"""What changes a network for a while: steering vectors, adapters. A change is made for single passes and undone after each.

So nobody else's pass is ever changed, no lock is held between passes, and an answer that was begun with a change is ended with it,
wherever its pieces are asked for. What a change does to keys and values is part of their identity (`key`), or it is kept away from
those that outlive the answer (`positions`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

P = ParamSpec("P")
Piece = TypeVar("Piece")
Result = TypeVar("Result")
Positions = Literal["all", "generated"]


@dataclass(frozen=True, slots=True, eq=False)
class Alteration:
    """A change of one model's network.

    key: names the change with all that its effect depends on. Keys and values computed with it answer only prompts run with it.
    positions: at all tokens, or only at those that generate: the prompt's last, from which the answer's first is drawn, and the answer's.
    made: changes the network until the end of its block.
    """

    model: Any
    key: str
    positions: Positions
    made: Callable[[Any], AbstractContextManager[Any]]


_active: ContextVar[tuple[Alteration, ...]] = ContextVar("alterations", default=())


@contextmanager
def altered(alteration: Alteration) -> Iterator[None]:
    """What this thread (or task) begins in the block is run with the change, after those that are in effect."""
    _active.set((*_active.get(), alteration))
    try:
        yield
    finally:
        _active.set(tuple(a for a in _active.get() if a is not alteration))


@contextmanager
def plain() -> Iterator[None]:
    """What is run in the block is run without any change: what is made of it outlives them."""
    with _as_of(()):
        yield


def lasting(begin: Callable[P, Generator[Piece, None, Result]]) -> Callable[P, Generator[Piece, None, Result]]:
    """Let a generator go on with the changes that are in effect where it is made, wherever its pieces are asked for."""

    @wraps(begin)
    def made(*args: P.args, **options: P.kwargs) -> Generator[Piece, None, Result]:
        return _lasting(begin(*args, **options), _active.get())

    return made


def _lasting(pieces: Generator[Piece, None, Result], changes: tuple[Alteration, ...]) -> Generator[Piece, None, Result]:
    try:
        while True:
            with _as_of(changes):
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # a generator's value is untyped here
            yield piece
    finally:
        with _as_of(changes):
            pieces.close()


@contextmanager
def _as_of(changes: tuple[Alteration, ...]) -> Iterator[None]:
    before = _active.get()
    _active.set(changes)
    try:
        yield
    finally:
        _active.set(before)


def active(model: Any) -> tuple[Alteration, ...]:
    """The changes of a model that are in effect here, in their order."""
    return tuple(a for a in _active.get() if a.model is model)


def identity(model: Any) -> str:
    """What they add to the identity of a prompt's keys and values, "" for nothing: see `chain.root`."""
    return " ".join(a.key for a in active(model) if a.positions == "all")


def apart(model: Any) -> bool:
    """Whether tokens run at generated positions come out otherwise than the same tokens would in a prompt."""
    return any(a.positions == "generated" for a in active(model))
