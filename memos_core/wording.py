"""The words of questions that are only their form, and questions with some of these missing. Knows tokens and exercises.

Nine phrasings are not all that there are. So a question is also practised with words of its form left out, put in or exchanged, and its
answer is the same: what is learned then hangs on the words that it is about, and a phrasing that nobody taught is answered as well (word
dropout, arXiv 1511.06349). Which words those are is seen from the phrasings: what it is about stands in all of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .exercises import Exercise

_LEFT_OUT, _EXCHANGED, _PUT_IN = 0.35, 0.25, 0.3  # shares of the words of the form


def form(points: Sequence[Sequence[Sequence[int]]]) -> tuple[int, ...]:
    """The tokens of which questions are formed. points: of each the phrasings, as token ids.

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
