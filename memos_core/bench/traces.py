"""What is read when, for trying schedulers on: traces that are drawn, and conversations that are replayed.

Each has a shape that some simple rule fails at: steady popularity, popularity that moves, scans that would flush a cache, bursts with
long silence between them, and people who come back to what they talked about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..words import tokenize

if TYPE_CHECKING:
    from .locomo import Turn

Array = np.ndarray[Any, np.dtype[Any]]

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Trace:
    """Reads in order: `times` [m] in seconds and `subjects` [m], of subjects with `tokens` [n] and `groups` [n], whose members are
    read together (a person's conversations; -1 for none)."""

    name: str
    times: Array
    subjects: Array
    tokens: Array
    groups: Array


def zipf(seed: int, reads: int) -> Trace:
    """Popularity by rank, the same all the time; a read a second."""
    draw = np.random.default_rng(seed)
    return _trace("zipf", draw, draw.choice(800, reads, p=_popularity(800)), 800, pace=1.0)


def shifting(seed: int, reads: int) -> Trace:
    """As `zipf`, but every fifth of the trace half of the subjects change their ranks."""
    draw = np.random.default_rng(seed)
    ranks, found = draw.permutation(800), []
    for part in np.array_split(np.arange(reads), 5):
        found.append(ranks[draw.choice(800, len(part), p=_popularity(800))])
        moving = draw.choice(800, 400, replace=False)
        ranks[moving] = ranks[draw.permutation(moving)]
    return _trace("shifting", draw, np.concatenate(found), 800, pace=1.0)


def scanning(seed: int, reads: int) -> Trace:
    """Two thirds as `zipf` over 300 subjects; between them, in runs of 50, a walk through 700 others that starts over at the end."""
    draw = np.random.default_rng(seed)
    found: list[int] = []
    step = 0
    while len(found) < reads:
        found += draw.choice(300, 100, p=_popularity(300)).tolist()
        found += [300 + (step + i) % 700 for i in range(50)]
        step += 50
    return _trace("scanning", draw, np.array(found[:reads]), 1000, pace=1.0)


def bursty(seed: int, reads: int) -> Trace:
    """Subjects wake up, are read about ten times some seconds apart, and sleep; which wakes up is by rank."""
    draw = np.random.default_rng(seed)
    times: list[float] = []
    subjects: list[int] = []
    start = 0.0
    while len(times) < 1.2 * reads:
        start += draw.exponential(10.0)
        subject, count = int(draw.choice(800, p=_popularity(800, 0.6))), int(draw.geometric(0.1))
        times += (start + np.cumsum(draw.exponential(15.0, count))).tolist()
        subjects += [subject] * count
    order = np.argsort(times, kind="stable")[:reads]
    return Trace("bursty", np.array(times)[order], np.array(subjects)[order], _tokens(draw, 800), np.full(800, -1))


def conversation(seed: int, reads: int) -> Trace:
    """Forty people, each with a profile and twenty topics, who talk at their own time of day for some minutes about two or three
    topics, most of them those of the last days; a turn each half a minute reads the profile or a topic."""
    draw = np.random.default_rng(seed)
    people, topics = 40, 20
    hours = draw.uniform(7, 23, people)
    times: list[float] = []
    subjects: list[int] = []
    day = 0
    while len(times) < reads:
        for person in np.flatnonzero(draw.random(people) < 0.7).tolist():
            if day == 0:
                continue
            at = day * DAY + hours[person] * 3600 + draw.normal(0, 900)
            fresh = (day // 3 + np.arange(4)) % topics  # what is talked about moves on
            about = draw.choice(np.concatenate([fresh, fresh, draw.integers(0, topics, 2)]), 3)
            for _ in range(int(draw.integers(5, 25))):
                at += draw.exponential(30.0)
                each = [0] if draw.random() < 0.3 else [1 + int(draw.choice(about))]
                times.append(at)
                subjects.append(person * (topics + 1) + each[0])
        day += 1
    order = np.argsort(times, kind="stable")[:reads]
    count = people * (topics + 1)
    return Trace(
        "conversation", np.array(times)[order], np.array(subjects)[order], _tokens(draw, count), np.arange(count) // (topics + 1)
    )  # fmt: skip


DRAWN: tuple[Callable[[int, int], Trace], ...] = (zipf, shifting, scanning, bursty, conversation)


def replayed(file: Path, seed: int, reads: int, copies: int = 8) -> Trace:
    """LoCoMo's conversations (Maharana et al. 2024), each held by `copies` pairs of people who began on different days. A memory is a
    past session; a turn, some half a minute after the one before, reads the two past sessions that share most of its rare words."""
    from .locomo import conversation as parsed

    draw = np.random.default_rng(seed)
    times: list[float] = []
    subjects: list[int] = []
    tokens: list[int] = []
    groups: list[int] = []
    for raw in json.loads(file.read_text()):
        turns = parsed(raw).turns
        sessions = list(dict.fromkeys(t.session for t in turns))
        reading = list(_reading(turns, sessions))
        sizes = [sum(len(t.text.split()) for t in turns if t.session == s) * 4 // 3 for s in sessions]
        for _ in range(copies):
            shift, first = float(draw.integers(0, 60)) * DAY + draw.normal(0, 3600), len(tokens)
            begun = turns[0].at.timestamp()
            at, session = 0.0, ""
            for turn, found in zip(turns, reading, strict=True):
                if turn.session != session:
                    session, at = turn.session, turn.at.timestamp() - begun + shift
                at += draw.exponential(30.0)
                times += [at] * len(found)
                subjects += [first + s for s in found]
            groups += [max(groups, default=-1) + 1] * len(sessions)
            tokens += sizes
    order = np.argsort(times, kind="stable")
    order = order[:reads] if reads else order
    return Trace("locomo", np.array(times)[order], np.array(subjects)[order], np.array(tokens), np.array(groups))


def _reading(turns: Sequence[Turn], sessions: Sequence[str]) -> Iterator[list[int]]:
    """For each turn, the past sessions that it reads."""
    words = [set(tokenize(t.text)) for t in turns]
    spread = Counter(w for said in words for w in said)
    known = {s: set().union(*(w for w, t in zip(words, turns, strict=True) if t.session == s)) for s in sessions}
    for turn, said in zip(turns, words, strict=True):
        past = range(sessions.index(turn.session))
        likeness = [sum(1 / spread[w] for w in sorted(said & known[sessions[p]])) for p in past]
        yield sorted(past, key=lambda p: (-likeness[p], p))[:2]


def _popularity(count: int, steepness: float = 0.9) -> Array:
    weights = 1 / np.arange(1, count + 1) ** steepness
    return np.asarray(weights / weights.sum())


def _tokens(draw: np.random.Generator, count: int) -> Array:
    return np.clip(draw.lognormal(np.log(1000), 0.7, count), 100, 4000).astype(np.int64)


def _trace(name: str, draw: np.random.Generator, subjects: Array, count: int, pace: float) -> Trace:
    times = np.cumsum(draw.exponential(pace, len(subjects)))
    return Trace(name, times, subjects, _tokens(draw, count), np.full(count, -1))
