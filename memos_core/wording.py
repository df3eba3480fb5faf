"""The words of questions that are only their form, questions with some of these missing, and questions made of the other words of two.
Knows tokens, words, exercises and points.

Nine phrasings are not all that there are. So a question is also practised with words of its form left out, put in or exchanged, and its
answer is the same: what is learned then hangs on the words that it is about, and a phrasing that nobody taught is answered as well (word
dropout, arXiv 1511.06349). Which words those are is seen from the phrasings: what it is about stands in all of them.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from .exercises import Exercise
from .phrasing import Point, taught

_LEFT_OUT, _EXCHANGED, _PUT_IN = 0.35, 0.25, 0.3  # shares of the words of the form
_WORDS = re.compile(r"\w+|\W+")  # and what is between them
_CROSSED = 3  # words in which two questions differ that are crossed, at most
_COMPARED = 200_000  # pairs of questions, of one length each: all of a few hundred


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


def crossings(points: Sequence[Point], forms: int) -> dict[str, tuple[Point, Point]]:
    """Questions with words of two that are taught, and the points that those ask for: of what is told of two, nobody told the crossing.

    Two questions of one length are crossed if they differ in two or three words, and not in words that questions are only formed of.
    What any of the points is asked by is no crossing. forms: phrasings of each point that are taught, at most.
    """
    told = {q for p in points for q in (*p.questions, *p.held_out)}
    words = [[_WORDS.findall(q) for q in taught(p, forms)] for p in points]
    formed = frozenset(form([some for some in words if some]))
    lengths: dict[int, list[tuple[list[str], Point]]] = defaultdict(list)
    for point, phrasings in zip(points, words, strict=True):
        for question in phrasings:
            lengths[len(question)].append((question, point))
    found: dict[str, tuple[Point, Point]] = {}
    for some in lengths.values():
        for at, (one, point) in enumerate(some):
            for other, beside in some[at + 1 : at + 1 + max(1, _COMPARED // len(some))]:
                apart = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
                if not 1 < len(apart) <= _CROSSED or any({one[i], other[i]} & formed for i in apart):
                    continue
                for count in range(1, len(apart)):
                    for mixed in combinations(apart, count):
                        crossing = "".join(other[i] if i in mixed else word for i, word in enumerate(one))
                        if crossing not in told:
                            found.setdefault(crossing, (point, beside))
    return found
