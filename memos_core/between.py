"""Questions that lie between two others, where nothing is to be known. Knows exercises and embeddings; knows no memories.

A question that was neither taught nor practised is answered like the one that it resembles: of a name that was taught, an attribute that
was not gets the value of another. More practice helps only near what is practised. So it is practised where no question is: between one
that is taught and another that differs in a word or two, at a point of the line that joins their embeddings. There the student is to say
what the plain model says, and so what is taught stays the small place that it is (mixup, arXiv 1710.09412, with the plain model as label).
And between a taught question and the same with some words of another taught one: of what was told of two, nobody told the crossing.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .exercises import Exercise

_APART = 2  # tokens in which two questions differ, at most
_CROSSED = 3  # and two that are taught, of which not all that differ is mixed
_OF_CROSSED = 0.4  # of the rows
_NEAR, _FAR = 0.35, 0.65  # how much of the first is in it
_LONGEST = 128  # tokens of a question: what stands behind a context is no question alone


@dataclass(frozen=True, slots=True)
class Pairs:
    """Prompts, as token ids, two of one length each, the first of them of an exercise that is taught; and answers, as token ids, of
    questions that nobody answered: what is said behind a prompt as the plain model would say it. crossed: both of them taught; some
    of the words in which they differ, and not all, are to be mixed."""

    prompts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    answers: tuple[tuple[int, ...], ...]
    crossed: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()


def pairs(taught: Sequence[Exercise], unknown: Sequence[Exercise], form: Sequence[int] = ()) -> Pairs:
    """Every two questions, one of them taught, that differ in a word or two. None without exercises of what is unknown.
    form: tokens that questions are formed of; two that differ in these are not crossed."""
    formed = frozenset(form)
    kinds: dict[int, tuple[list[Exercise], list[Exercise]]] = defaultdict(lambda: ([], []))
    for which, some in enumerate((taught, unknown)):
        for e in some:
            if e.at[0] < _LONGEST:
                kinds[e.at[0]][which].append(e)
    found, crossed = [], []
    for known, others in kinds.values():
        for at, one in enumerate(known):
            prompt = one.ids[: one.at[0] + 1]
            mine = [e for e in known[at + 1 :] if not torch.equal(e.likely[:, 0], one.likely[:, 0])]
            for rest, most in ((mine, _CROSSED), (others, _APART)):
                prompts = [e.ids[: e.at[0] + 1] for e in rest]
                apart = (torch.tensor(prompts) != torch.tensor(prompt)).sum(-1).tolist() if prompts else []
                for other, count in zip(prompts, apart, strict=True):
                    if 0 < count <= _APART:
                        found.append((prompt, other))
                    if 1 < count <= most and rest is mine:
                        words = {t for pair in zip(prompt, other, strict=True) if pair[0] != pair[1] for t in pair}
                        if not words & formed:
                            crossed += [(prompt, other), (other, prompt)]
    answers = tuple(e.ids[e.at[0] + 1 :] for e in unknown)
    return Pairs(tuple(found), answers, tuple(crossed)) if answers else Pairs((), ())


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """A batch: embeddings of shape [rows, tokens, hidden size], and by row the positions behind which something is said."""

    embedded: torch.Tensor
    places: tuple[range, ...]


def drawn(found: Pairs, count: int, rng: random.Random, embed: Any, device: torch.device) -> Between:
    """So many rows between pairs. embed: token ids into embeddings."""
    rows = []
    for _ in range(min(count, len(found.prompts))):
        crossed = found.crossed and rng.random() < _OF_CROSSED
        one, other = rng.choice(found.crossed if crossed else found.prompts)
        if crossed:
            differing = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
            mixed = set(rng.sample(differing, rng.randint(1, len(differing) - 1)))
            other = tuple(b if i in mixed else a for i, (a, b) in enumerate(zip(one, other, strict=True)))
        rows.append((one, other, rng.choice(found.answers), rng.uniform(_NEAR, _FAR)))
    longest = max(len(one) + len(said) for one, _, said, _ in rows)

    def table(some: Iterable[tuple[Sequence[int], Sequence[int]]]) -> torch.Tensor:
        return torch.tensor(
            [[*ids, *said, *[0] * (longest - len(ids) - len(said))] for ids, said in some], device=device
        )

    first, second = table((one, said) for one, _, said, _ in rows), table((other, said) for _, other, said, _ in rows)
    share = torch.tensor([share for *_, share in rows], device=device)[:, None, None]
    with torch.no_grad():
        left, right = embed(first), embed(second)
        embedded = right + share.to(left.dtype) * (left - right)
    return Between(embedded, tuple(range(len(one) - 1, len(one) + len(said)) for one, _, said, _ in rows))
