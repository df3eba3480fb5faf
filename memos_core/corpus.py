"""Memories held ready for ranking: postings, vectors, who stands beside whom, and what the whole store looks like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidArgument
from .words import DATES, OTHER, SELF, count, tokenize

Vector = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Weights:
    """The numbers of the ranking. Those in log-odds were fitted together on conversations and on stored preferences,
    then rounded: with each conversation left out in turn, recall falls by half a point. The others are flat optima."""

    wording: float = 0.56  # log-odds per nat of query likelihood; below 1, because words come in clumps
    blind: float = 0.4  # share of the wording that is kept where no place covers any of the question's words
    window_words: float = 50.0  # a turn borrows this many words from the turns around, so that a short one leans more,
    session_words: float = 10.0  # this many from its session,
    store_words: float = 40.0  # and this many from the store, which sets how much a single match is worth
    kernel: tuple[float, ...] = (0.6, 0.3, 0.15)  # what a turn 1, 2, 3 places away weighs against the turn itself
    meaning: float = 9.0  # log-odds per unit of cosine
    around: float = 4.5  # the same for what the neighbours' mean has over the turn itself
    answer: float = 3.0  # the same for a question just before: what follows it is the answer
    speaker: float = 1.15  # the one whom the question names speaks
    asks: float = -0.4  # a turn that ends as a question seldom answers one
    full: float = 4.5  # a long turn, against an empty one: "Wow, thanks!" says little
    brief: float = 10.0  # words that make a turn half full, and as good as a note
    dated: float = 2.1  # a turn with a time word, where the question asks when
    inside: float = 6.0  # said in the time that the question names,
    near_days: float = 7.0  # fading by e in so many days outside it: people tell of what was last week
    priority: float = 1.0  # per unit of the caller's own priority
    manner: float = 0.5  # share of the way of asking ("Can you recommend ...") taken out of the question's vector
    sharpness: float = 20.0  # how strictly the ways of asking nearest to the question are chosen
    centre: float = 0.5  # share of the store's mean taken out of the question's vector; from the memories', all of it
    lively: float = 0.16  # by how much turns side by side are nearer than turns three apart where people converse
    believed: float = 10.0  # pairs of turns for which a session is taken for a conversation before they are looked at
    even: float = 12.5  # log-odds, as summed here, at which a memory is as likely right as wrong
    among: float = 600.0  # memories in a store for which that holds
    slope: float = 0.45  # of the true log-odds against those summed


WEIGHTS = Weights()
REACH = len(WEIGHTS.kernel)
_PAIRS = 512  # pairs of turns looked at to measure coherence: a standard error of about .01


@dataclass(frozen=True, slots=True)
class Passage:
    """What ranking needs of a memory. Session labels are unique per conversation; positions count its turns."""

    id: str
    text: str
    vector: Vector
    speaker: str | None = None
    session: str | None = None
    position: int | None = None
    occurred_at: datetime | None = None
    priority: float = 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a whole store looks like, so that a few candidates drawn from it can be ranked as if all were there. If a
    sample speaks for the store, let it be of whole sessions: coherence is not seen in scattered turns."""

    count: int
    words: int  # tokens in all texts, without the commonest
    frequencies: Mapping[str, int]  # how often each token occurs in all
    mean: Vector
    coherence: float  # by how much centred cosine falls from neighbours to turns three apart; 0 without sessions


_FACTS = 9
LENGTH, ASKS, DATED, MOMENT, PRIORITY, ALIVE, SESSION, SPEAKER, POSITION = range(_FACTS)
_NOTHING = (0.0, 0.0, 0.0, math.nan, 0.0, 0.0, -1.0, -1.0, math.nan)


class Corpus:
    """Passages held ready for ranking; changing a few costs little. Keeping writers apart is the caller's job."""

    def __init__(self, passages: Iterable[Passage] = ()) -> None:
        self._passages: list[Passage | None] = []
        self._counts: list[Mapping[str, int]] = []
        self._row: dict[str, int] = {}
        self._free: list[int] = []
        self._postings: dict[str, dict[int, int]] = {}
        self._frequencies: dict[str, int] = {}
        self._sessions: dict[str, int] = {}
        self._speakers: dict[str, int] = {}
        self._words = 0
        self._vectors: Vector = np.zeros((0, 0), np.float32)
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._facts: NDArray[np.float64] = np.zeros((0, _FACTS))
        self._view: View | None = None
        self.put(passages)

    def copy(self) -> Corpus:
        """One of its own with the same passages: changing either leaves the other as it is."""
        new = Corpus()
        new._passages, new._counts, new._free = self._passages[:], self._counts[:], self._free[:]
        new._row, new._frequencies = dict(self._row), dict(self._frequencies)
        new._postings = {token: dict(rows) for token, rows in self._postings.items()}
        new._sessions, new._speakers = dict(self._sessions), dict(self._speakers)
        new._words, new._sum = self._words, self._sum.copy()
        new._vectors, new._facts = self._vectors.copy(), self._facts.copy()
        return new

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, id: str) -> bool:
        return id in self._row

    def put(self, passages: Iterable[Passage]) -> None:
        """Insert passages, or replace those whose id is here already. Raises InvalidArgument for a vector of another
        length than those here; the passages before it are in."""
        for passage in passages:
            vector, counts = unit(passage.vector), count(passage.text)
            if self._passages and len(vector) != self._vectors.shape[1]:
                raise InvalidArgument(f"vector of {passage.id}: {len(vector)} numbers among vectors of another length")
            self.remove((passage.id,))
            row = self._free.pop() if self._free else self._grow(len(vector))
            for token, times in counts.items():
                self._postings.setdefault(token, {})[row] = times
                self._frequencies[token] = self._frequencies.get(token, 0) + times
            self._passages[row], self._counts[row], self._row[passage.id] = passage, counts, row
            self._vectors[row], self._facts[row] = vector, self._describe(passage, counts)
            self._words += sum(counts.values())
            self._sum = self._sum + vector
            self._view = None

    def remove(self, ids: Iterable[str]) -> None:
        """Forget passages; ids that are not here are passed over."""
        for id in ids:
            row = self._row.pop(id, None)
            if row is None:
                continue
            for token, times in self._counts[row].items():
                del self._postings[token][row]
                self._frequencies[token] -= times
                if not self._postings[token]:
                    del self._postings[token], self._frequencies[token]
            self._words -= sum(self._counts[row].values())
            self._sum = self._sum - self._vectors[row]
            self._passages[row], self._counts[row] = None, {}
            self._vectors[row], self._facts[row] = 0.0, _NOTHING
            self._free.append(row)
            self._view = None

    def statistics(self) -> Statistics:
        """A copy of what describes the whole corpus, fit to outlive it."""
        live = look(self).store
        return Statistics(live.count, live.words, dict(live.frequencies), live.mean.copy(), live.coherence)

    def _grow(self, width: int) -> int:
        row = len(self._passages)
        if row == len(self._vectors):
            more = max(64, row)
            self._vectors = np.concatenate([self._vectors.reshape(row, width), np.zeros((more, width), np.float32)])
            self._facts = np.concatenate([self._facts, np.full((more, _FACTS), _NOTHING)])
            self._sum = self._sum if row else np.zeros(width)
        self._passages.append(None)
        self._counts.append({})
        return row

    def _describe(self, passage: Passage, counts: Mapping[str, int]) -> tuple[float, ...]:
        session, speaker, position = passage.session, passage.speaker, passage.position
        return (
            sum(counts.values()),
            passage.text.rstrip().endswith(("?", "？", "؟")),
            not DATES.isdisjoint(counts),
            passage.occurred_at.timestamp() / 86400 if passage.occurred_at else math.nan,
            passage.priority,
            1.0,
            -1 if session is None else self._sessions.setdefault(session, len(self._sessions)),
            -1 if not speaker else self._speakers.setdefault(speaker, len(self._speakers)),
            math.nan if position is None else position,
        )


@dataclass(frozen=True, slots=True)
class View:
    """Arrays over all N rows, the empty among them, that change only when the corpus does."""

    store: Statistics
    facts: NDArray[np.float64]  # (N, facts)
    vectors: Vector  # (N, width)
    near: Rows  # (N, 2 * reach): who stands 1, 2, 3 turns before and after by turns; N where nobody does
    kernel: Vector  # (2 * reach,)
    session: Rows  # (N,): a row without session is a session of its own
    length: Vector  # (N,) words of the turn, (N,) of the turns around by their weight, (N,) of the session
    window_length: Vector
    session_length: Vector
    names: Mapping[str, frozenset[int]]  # which speakers a token of the question names


def look(corpus: Corpus) -> View:
    """The corpus as arrays, made anew after a change."""
    if corpus._view is None:
        n = len(corpus._passages)
        facts, vectors = corpus._facts[:n], corpus._vectors[:n]
        near, mean = _neighbours(facts), (corpus._sum / max(len(corpus), 1)).astype(np.float32)
        store = Statistics(
            len(corpus), corpus._words, MappingProxyType(corpus._frequencies), mean, _coherence(vectors, near, mean)
        )
        kernel, length = np.repeat(np.array(WEIGHTS.kernel, np.float32), 2), facts[:, LENGTH].astype(np.float32)
        session = facts[:, SESSION].astype(np.int64)
        session[session < 0] = len(corpus._sessions) + np.flatnonzero(session < 0)
        session = np.unique(session, return_inverse=True)[1]
        window_length, session_length = length + beside_of(length, near) @ kernel, np.bincount(session, length)[session]
        corpus._view = View(
            store, facts, vectors, near, kernel, session, length,
            np.maximum(window_length, 1), np.maximum(session_length, 1).astype(np.float32),
            _names(corpus._speakers, set(np.unique(facts[:, SPEAKER]).tolist())),
        )  # fmt: skip
    return corpus._view


def _names(speakers: Mapping[str, int], present: set[float]) -> dict[str, frozenset[int]]:
    names: dict[str, frozenset[int]] = {}
    for speaker, number in speakers.items():
        for token in tokenize(speaker) if number in present else ():
            # A role is named by "I" and "you": "user" in a question is any user, of a program say.
            for name in ("i", "my", "me") if token in SELF else ("you", "your") if token in OTHER else (token,):
                names[name] = names.get(name, frozenset()) | {number}
    return names


def beside_of(values: Vector, near: Rows) -> Vector:
    """The values of each row's neighbours, 0 where there is none: (N,) to (N, 2 * reach)."""
    return np.append(values, np.float32(0))[near]


def _neighbours(facts: NDArray[np.float64]) -> Rows:
    """Who stands beside whom: by position, else by time, else by arrival; a missing turn keeps its place."""
    near = np.full((len(facts), 2 * REACH), len(facts), np.int64)
    position, session = facts[:, POSITION], facts[:, SESSION]
    line = np.lexsort((np.nan_to_num(facts[:, MOMENT]), np.nan_to_num(position, nan=np.inf), session))
    line = line[session[line] >= 0]
    for step in range(min(REACH, len(line) - 1), 0, -1):  # the nearest last, so that they win a contested place
        before, after = line[:-step], line[step:]
        gap = np.fmax(position[after] - position[before], step)
        fits = (session[before] == session[after]) & (gap <= REACH)
        before, after, slot = before[fits], after[fits], 2 * (gap[fits].astype(np.int64) - 1)
        near[after, slot], near[before, slot + 1] = before, after
    return near


def _coherence(vectors: Vector, near: Rows, mean: Vector) -> float:
    """By how much turns side by side are nearer than turns three apart: an odd distance both, so that who speaks
    changes alike and what differs is the topic. One list of unlike notes shows none, even if it is sorted by subject."""
    overall, sums, counts = float(mean @ mean), [], []
    for step in (1, REACH):
        rows = np.flatnonzero(near[:, 2 * step - 1] < len(near))
        rows = rows[:: max(1, len(rows) // _PAIRS)]
        sums.append(float(np.einsum("ij,ij->", vectors[rows], vectors[near[rows, 2 * step - 1]])))
        counts.append(len(rows))
    if not counts[0]:
        return 0.0
    half = WEIGHTS.believed / 2
    seen = (sums[0] / counts[0] - (sums[1] + overall * half) / (counts[1] + half)) / max(1 - overall, 1e-6)
    return (seen * counts[0] + WEIGHTS.lively * WEIGHTS.believed) / (counts[0] + WEIGHTS.believed)


def at(corpus: Corpus, row: int) -> Passage:
    """The passage in a row that is not empty."""
    passage = corpus._passages[row]
    assert passage is not None
    return passage


def unit(vector: NDArray[np.floating]) -> Vector:
    """The vector at length 1; what is not finite counts as 0, and a zero vector stays one."""
    plain = np.asarray(vector, np.float32).ravel()
    length = float(np.linalg.norm(plain.astype(np.float64)))
    if not math.isfinite(length):
        return unit(np.nan_to_num(plain, nan=0.0, posinf=0.0, neginf=0.0))
    return np.asarray(plain / max(length, 1e-9), np.float32)
