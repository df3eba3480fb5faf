"""Which memories belong in the passage that is opened before all else in a scope's prompts, and in which order. Pure.

A passage is one piece of keys and values: with every request all of it is opened, whatever is asked. So a memory is worth its place if
its share of the scope's requests, times the seconds that running it takes, is more than opening it costs each time (rent or buy, with the
requests that do not need it as the price). Keys and values depend on all that stands before them: what stays keeps its place, what is new
comes behind, so that a passage that grew is made by running what is new.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

LEAVES = 0.5
"""A memory that is in stays until its share falls below this part of what a newcomer needs (hysteresis)."""

LEAST = 1.5
"""Faded uses that a newcomer needs: the first one says nothing about a second."""


@dataclass(frozen=True, slots=True)
class Member:
    """A memory that a scope's requests recalled: `tokens` of its line, `uses` (requests that wanted it, fading as the scope's do), and
    `since` when it says what it says (POSIX seconds)."""

    id: str
    tokens: int
    uses: float
    since: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds for one token: to run it in a prompt, and to open it with a passage. tokens: that a passage may have; frame: that it has
    beside its memories, as what is recalled has."""

    run: float
    open: float
    tokens: int
    frame: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A passage: `ids` in its order. tokens: of all of it. spared: tokens that a request need not run, on average. fresh: tokens to be
    run to make it, behind what it has in common with the one that is held. saves: seconds for each request, over the one that is held."""

    ids: tuple[str, ...]
    tokens: int
    spared: float
    fresh: int
    saves: float


def choose(members: Collection[Member], requests: float, held: Sequence[str], costs: Costs) -> Choice:
    """The passage for a scope.

    requests: of the scope, faded. held: the memories of the passage that there is, in its order; () without one. One that is no longer
    among the members cannot stay.
    """
    by_id = {m.id: m for m in members if m.tokens > 0}
    kept = set(held)

    def gain(member: Member, factor: float = 1.0) -> float:
        return member.tokens * (factor * _share(member, requests) * costs.run - costs.open)

    wanted = [
        m for m in by_id.values()
        if (gain(m, 1 / LEAVES) > 0 if m.id in kept else m.uses >= LEAST and gain(m) > 0)
    ]  # fmt: skip
    chosen, room = set[str](), costs.tokens - costs.frame
    # what is in counts as much more as it is allowed to fall, or two of one size would push each other out for ever
    for member in sorted(
        wanted, key=lambda m: (-gain(m, 1 / LEAVES if m.id in kept else 1.0) / m.tokens, m.since, m.id)
    ):
        if member.tokens <= room:
            chosen.add(member.id)
            room -= member.tokens
    stay = [id for id in held if id in chosen]
    # the hottest first, then the oldest: neither moves much, and what stands in front of a change need not be run again
    new = sorted((by_id[id] for id in chosen - kept), key=lambda m: (-round(4 * _share(m, requests)), m.since, m.id))
    return _choice([*stay, *(m.id for m in new)], by_id, requests, held, costs)


def is_due(choice: Choice, held: Sequence[str], requests: float, costs: Costs, break_even: float = 1.0) -> bool:
    """Whether a passage should take the place of the one that is held: once doing without has cost as much as making it does, by the
    requests that there were."""
    if not choice.ids or choice.ids == tuple(held):
        return False
    return requests * choice.saves >= break_even * choice.fresh * costs.run


def _choice(ids: Sequence[str], by_id: dict[str, Member], requests: float, held: Sequence[str], costs: Costs) -> Choice:
    there = [id for id in held if id in by_id]
    opened = (costs.frame if there else 0) + sum(by_id[id].tokens for id in there)
    before = _spared(there, by_id, requests, costs) * costs.run - opened * costs.open
    same = 0
    while same < min(len(ids), len(held)) and ids[same] == held[same]:
        same += 1
    spared = _spared(ids, by_id, requests, costs)
    tokens = (costs.frame if ids else 0) + sum(by_id[id].tokens for id in ids)
    return Choice(
        ids=tuple(ids),
        tokens=tokens,
        spared=spared,
        fresh=sum(by_id[id].tokens for id in ids[same:]) + (0 if same else costs.frame if ids else 0),
        saves=spared * costs.run - tokens * costs.open - before,
    )


def _spared(ids: Sequence[str], by_id: dict[str, Member], requests: float, costs: Costs) -> float:
    """Tokens that a passage spares each request: of each memory by its share, and the frame of those that want any of it."""
    shares = [_share(by_id[id], requests) for id in ids]
    return costs.frame * max(shares, default=0.0) + sum(
        share * by_id[id].tokens for id, share in zip(ids, shares, strict=True)
    )


def _share(member: Member, requests: float) -> float:
    return min(1.0, member.uses / requests) if requests > 0 else 0.0
