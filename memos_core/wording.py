"""The words of questions that are only their form, questions with some of these missing, and questions made of the other words of two.
Knows tokens, words, exercises and points.

Nine phrasings are not all that there are. So a question is also practised with words of its form left out, put in or exchanged, and its
answer is the same: what is learned then hangs on the words that it is about, and a phrasing that nobody taught is answered as well (word
dropout, arXiv 1511.06349). Which words those are is seen from the phrasings: what it is about stands in all of them.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import Any

from .exercises import Exercise
from .phrasing import Point, taught

_LEFT_OUT, _EXCHANGED, _PUT_IN = 0.35, 0.25, 0.3  # shares of the words of the form
_CROSSED = 3  # words in which two questions differ that are crossed, at most
_COMPARED = 50_000  # pairs of questions, of one length each: all of a few hundred


def form(points: Sequence[Sequence[Sequence[Any]]]) -> tuple[Any, ...]:
    """The tokens of which questions are formed. points: of each the phrasings, as token ids, or as words.

    They are those that at half of the points or more stand in some phrasings and not in all. A name stands in all phrasings of its point,
    and a template in all of every point; of one phrasing each, nothing can be told, and there are none.
    """
    some = Counter(token for phrasings in points for token in set().union(*phrasings))
    every = Counter(token for phrasings in points for token in set.intersection(*(set(p) for p in phrasings)))
    return tuple(sorted(t for t, n in some.items() if 2 * (n - every[t]) >= len(points)))


def loosened(one: Exercise, words: Sequence[int], rng: random.Random) -> Exercise:
    """The exercise with tokens of the form left out of its prompt, put into it or exchanged, by chance. What is to be said stays."""
    known = frozenset(words)
    prompt = one.ids[: one.at[0] + 1]
    found: list[int] = []
    for token in prompt[:-1]:  # the last is where the answer begins
        if token not in known:
            found.append(token)
            continue
        chance = rng.random()
        if chance >= _LEFT_OUT:
            found.append(rng.choice(words) if chance < _LEFT_OUT + _EXCHANGED else token)
            if rng.random() < _PUT_IN:
                found.append(rng.choice(words))
    found.append(prompt[-1])
    more = len(found) - len(prompt)
    return replace(one, ids=(*found, *one.ids[len(prompt) :]), at=tuple(i + more for i in one.at))


@dataclass(frozen=True, slots=True)
class Crossing:
    """A question made of the words of two, and those of its words in which it differs from one of them (as `spoken`)."""

    question: str
    words: frozenset[str]


Crossings = Mapping[tuple[str, ...], Crossing]
"""By their words, as `spoken`."""


def spoken(text: str) -> tuple[str, ...]:
    """The words of a text, in small letters and without what stands between them."""
    return tuple(piece.casefold() for piece in _pieces(text) if _in_word(piece[0]))


def formed(points: Sequence[Point]) -> frozenset[str]:
    """The words that the taught phrasings of points are formed of."""
    phrasings = [[spoken(q) for q in taught(p, len(p.questions))] for p in points]
    return frozenset(form([some for some in phrasings if some]))


def crossings(points: Sequence[Point], forms: int) -> dict[tuple[str, ...], Crossing]:
    """Questions with words of two that are taught, by their own words: of what is told of two, nobody told the crossing.

    Two questions of as many words, of two points, are crossed if they differ in two or three words, and not in words that questions are
    only formed of. What any of the points is asked by is no crossing. Text without spaces is not crossed. forms: phrasings of each point
    that are taught, at most.
    """
    told = {spoken(q) for p in points for q in (*p.questions, *p.held_out)}
    frame = formed(points)
    lengths: dict[int, list[_Asked]] = defaultdict(list)
    for number, point in enumerate(points):
        for question in taught(point, forms):
            pieces = _pieces(question)
            at = [i for i, piece in enumerate(pieces) if _in_word(piece[0])]
            lengths[len(at)].append(_Asked(number, spoken(question), pieces, at))
    found: dict[tuple[str, ...], Crossing] = {}
    for some in lengths.values():
        random.Random(0).shuffle(some)  # where there are too many pairs, not only neighbours are crossed
        reach = max(1, _COMPARED // len(some))
        for i, one in enumerate(some):
            for other in some[i + 1 : i + 1 + reach]:
                apart = [k for k, (a, b) in enumerate(zip(one.words, other.words, strict=True)) if a != b]
                mine, theirs = ({asked.words[k] for k in apart} for asked in (one, other))
                if one.point == other.point or not 1 < len(apart) <= _CROSSED or (mine | theirs) & frame:
                    continue
                for count in range(1, len(apart)):
                    for mixed in combinations(apart, count):
                        key = tuple(other.words[k] if k in mixed else word for k, word in enumerate(one.words))
                        if key not in told and key not in found:
                            put = {one.at[k]: other.pieces[other.at[k]] for k in mixed}
                            text = "".join(put.get(k, piece) for k, piece in enumerate(one.pieces))
                            found[key] = Crossing(text, frozenset(key[k] for k in apart))
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question: the number of the point that it asks for, its words, and its pieces and which of them are words."""

    point: int
    words: tuple[str, ...]
    pieces: list[str]
    at: list[int]


def _pieces(text: str) -> list[str]:
    """Its words, and what stands between them, in their order."""
    return ["".join(some) for _, some in groupby(text, _in_word)]


def _in_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LNM"  # marks: vowels of many scripts are some
