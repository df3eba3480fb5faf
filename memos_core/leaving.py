"""What may leave a store in a dump: the words of each memory as a redaction leaves them, and which memories in other forms than text.

Two redactions meet: the caller's own, a callable from text to text, and the store's, which asks who is given what.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from . import grants
from .redaction import Redaction
from .types import MemCube, Text

Redact = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Leaving:
    """words: makes of a memory what may leave of it. forms: given memories in other forms than text, each with what it was made from, the ids
    of those that may leave."""

    words: Callable[[MemCube], MemCube]
    forms: Callable[[Mapping[str, Sequence[MemCube]]], Collection[str]]


def as_said(redact: Redact) -> Leaving:
    """As a callable leaves texts, and the strings among attributes. Tensors hold the words that they were made from: none leave."""

    def words(cube: MemCube) -> MemCube:
        payload = Text(redact(cube.text)) if isinstance(cube.payload, Text) else cube.payload
        return replace(cube, payload=payload, attributes={n: _each(v, redact) for n, v in cube.attributes.items()})

    return Leaving(words, lambda sources: ())


def to_actor(redaction: Redaction, who: str) -> Leaving:
    """As an actor is given memories."""

    def forms(sources: Mapping[str, Sequence[MemCube]]) -> Collection[str]:
        return [
            id for id, made in sources.items() if all(redaction.is_raw(who, c) or redaction.is_plain(c) for c in made)
        ]

    return Leaving(lambda cube: redaction.leaving(who, cube), forms)


def to_all_of(redaction: Redaction, readers: Collection[str]) -> Leaving | None:
    """As all of some readers may be given memories; None if each of them is given them as they are."""
    if all(grants.holds(redaction.raw, one) for one in readers):
        return None

    def forms(sources: Mapping[str, Sequence[MemCube]]) -> Collection[str]:
        return [id for id, made in sources.items() if all(redaction.is_plain(c) for c in made)]

    return Leaving(lambda cube: redaction.leaving(None, cube), forms)


def both(first: Leaving | None, then: Leaving | None) -> Leaving | None:
    """One redaction after the other."""
    if first is None or then is None:
        return first or then
    return Leaving(
        lambda cube: then.words(first.words(cube)), lambda sources: set(first.forms(sources)) & set(then.forms(sources))
    )


def _each(value: object, redact: Redact) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _each(inner, redact) for name, inner in value.items()}
    if isinstance(value, list):
        return [_each(inner, redact) for inner in value]
    return value
