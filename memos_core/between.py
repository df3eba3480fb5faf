"""Questions that lie between two others, where nothing is to be known. Knows exercises and embeddings; knows no memories.

A question that was neither taught nor practised is answered like the one that it resembles: of a name that was taught, an attribute that
was not gets the value of another. More practice helps only near what is practised. So it is practised where no question is: between one
that is taught and another that differs in a word or two, at a point of the line that joins their embeddings. There the student is to say
what the plain model says, and so what is taught stays the small place that it is (mixup, arXiv 1710.09412, with the plain model as label).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .exercises import Exercise

_APART = 2  # tokens in which two questions differ, at most
_NEAR, _FAR = 0.35, 0.65  # how much of the first is in it
_LONGEST = 128  # tokens of a question: what stands behind a context is no question alone


@dataclass(frozen=True, slots=True)
class Pairs:
    """Prompts, as token ids, two of one length each, the first of them of an exercise that is taught; and answers, as token ids, of
    questions that nobody answered: what is said behind a prompt as the plain model would say it."""

    prompts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    answers: tuple[tuple[int, ...], ...]


def pairs(taught: Sequence[Exercise], unknown: Sequence[Exercise]) -> Pairs:
    """Every two questions, one of them taught, that differ in a word or two. None without exercises of what is unknown."""
    kinds: dict[int, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = defaultdict(lambda: ([], []))
    for which, some in enumerate((taught, unknown)):
        for e in some:
            prompt = e.ids[: e.at[0] + 1]
            if len(prompt) <= _LONGEST:
                kinds[len(prompt)][which].append(prompt)
    found = []
    for known, others in kinds.values():
        for at, prompt in enumerate(known):
            rest = [*known[at + 1 :], *others]
            if rest:
                apart = (torch.tensor(rest) != torch.tensor(prompt)).sum(-1)
                near = ((apart > 0) & (apart <= _APART)).nonzero()[:, 0].tolist()
                found += [(prompt, rest[i]) for i in near]
    answers = tuple(e.ids[e.at[0] + 1 :] for e in unknown)
    return Pairs(tuple(found) if answers else (), answers)


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """A batch: embeddings of shape [rows, tokens, hidden size], and by row the positions behind which something is said."""

    embedded: torch.Tensor
    places: tuple[range, ...]


def drawn(found: Pairs, count: int, rng: random.Random, embed: Any, device: torch.device) -> Between:
    """So many rows between pairs. embed: token ids into embeddings."""
    count = min(count, len(found.prompts))
    chosen = [(rng.choice(found.prompts), rng.choice(found.answers)) for _ in range(count)]
    shares = [rng.uniform(_NEAR, _FAR) for _ in chosen]
    longest = max(len(one) + len(answer) for (one, _), answer in chosen)
    first, second = (
        torch.tensor(
            [[*pair[i], *said, *[0] * (longest - len(pair[i]) - len(said))] for pair, said in chosen], device=device
        )
        for i in (0, 1)
    )
    share = torch.tensor(shares, device=device)[:, None, None]
    with torch.no_grad():
        one, other = embed(first), embed(second)
        embedded = other + share.to(one.dtype) * (one - other)
    return Between(embedded, tuple(range(len(one) - 1, len(one) + len(said)) for (one, _), said in chosen))
