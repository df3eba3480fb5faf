"""What changes a network for a while: steering vectors, adapters. A change is made for single passes and undone after each.

So nobody else's pass is ever changed, no lock is held between passes, and an answer that was begun with a change is ended with it,
wherever its pieces are asked for. What a change does to keys and values is part of their identity (`key`), or it is kept away from
those that outlive the answer (`positions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

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


Altered = Sequence[Alteration]

_active: ContextVar[tuple[Alteration, ...]] = ContextVar("alterations", default=())


@contextmanager
def altered(alteration: Alteration) -> Iterator[None]:
    """What this thread (or task) begins in the block is run with the change, after those that are in effect."""
    _active.set((*_active.get(), alteration))
    try:
        yield
    finally:
        _active.set(tuple(a for a in _active.get() if a is not alteration))


def active(model: Any) -> tuple[Alteration, ...]:
    """The changes of a model that are in effect here, in their order."""
    return tuple(a for a in _active.get() if a.model is model)


def identity(alterations: Altered) -> str:
    """What they add to the identity of a prompt's keys and values: see `chain.root`."""
    return " ".join(a.key for a in alterations if a.positions == "all")


def apart(alterations: Altered) -> bool:
    """Whether tokens run at generated positions come out otherwise than the same tokens would in a prompt."""
    return any(a.positions == "generated" for a in alterations)
