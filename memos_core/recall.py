"""Ranks memories against a question: hybrid, hierarchical, aware of the conversation, without a language model.

It knows words, vectors, sessions, speakers and times, and nothing of databases, embedders, clocks or access: the
caller embeds, filters and passes records. Evidence is added up as log-odds: how much likelier the question's words
are here than anywhere (query likelihood smoothed by window, session and store: Zhai & Lafferty 2001), how near
the meaning is, who speaks, when it was said, and what kind of turn it is.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Weights:
    """The numbers of the ranking, in log-odds where nothing else is said."""

    window_words: float = 20.0  # a turn borrows this many words from the turns around it
    session_words: float = 20.0  # and this many from its session
    store_words: float = 20.0  # and is smoothed by this many words of the whole store
    kernel: tuple[float, ...] = (0.5, 0.25, 0.12)  # weight of a neighbour 1, 2, 3 turns away, relative to the turn
    wording: float = 0.3  # per nat of query likelihood
    meaning: float = 8.0  # per unit of centred cosine
    around: float = 0.45  # share of the meaning taken from the neighbours in a coherent store
    coherence: float = 0.2  # centred cosine of adjacent turns in a lively conversation
    speaker: float = 0.9
    asks: float = 0.6
    length: float = 2.0
    times: float = 0.8
    inside: float = 1.0
    prior: float = 0.5


WEIGHTS = Weights()

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
_TIME = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|week|weekend|month|year|day|morning|evening|night|recently"
    r"|january|february|march|april|may|june|july|august|september|october|november|december|monday|tuesday"
    r"|wednesday|thursday|friday|saturday|sunday|summer|winter|spring|autumn|fall|\d{4}|birthday|anniversary)s?\b",
    re.IGNORECASE,
)
_WHEN = re.compile(r"\bwhen\b|\bhow long\b|\bwhat (?:date|day|month|year|time)\b", re.IGNORECASE)
_COMMON = frozenset(
    "a an the and or of to for in on at by with from as is are was were be been being am do does did done have has had"
    " can could would should will shall may might must i me my mine we us our you your he him his she her they them"
    " their it its this that these those there here what which who whom whose when where why how some any so if but"
    " not no than then too very also about into".split()
)
_ENDINGS = ("ation", "ment", "ness", "ion", "ful", "iti", "ist", "ous", "iv", "abl", "al")


def tokenize(text: str) -> list[str]:
    """The words of a text, case and accents folded, lightly stemmed; scripts without spaces as character bigrams."""
    folded = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    words: list[str] = []
    for run in _WORD.findall(unicodedata.normalize("NFC", folded)):
        if _CJK.search(run):
            words.extend(_characters(run))
        else:
            words.append(_stem(run))
    return words


def _characters(run: str) -> list[str]:
    words: list[str] = []
    end = 0
    for match in _CJK.finditer(run):
        if match.start() > end:
            words.append(_stem(run[end : match.start()]))
        part, end = match.group(), match.end()
        words.extend([part] if len(part) == 1 else [part[i : i + 2] for i in range(len(part) - 1)])
    return words + ([_stem(run[end:])] if end < len(run) else [])


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    """Cuts English inflections; a light cut, because a wrong merger costs more than a missed one."""
    word = word.replace("’", "'")
    word = word[:-2] if word.endswith("'s") else word.replace("'", "")
    if len(word) < 4 or not word.isascii() or word.isdigit():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word[-1] == "s" and word[-2] not in "su":
        word = word[:-1]
    for ending in ("ing", "ed", "ly"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) >= 3 and any(c in "aeiouy" for c in rest):
            word = rest[:-1] if rest[-1] == rest[-2] and rest[-1] not in "lsz" and len(rest) > 3 else rest
            break
    word = word[:-1] if len(word) > 3 and word[-1] == "e" else word
    word = word[:-1] + "i" if len(word) > 3 and word[-1] == "y" else word
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


_STOP = frozenset(_stem(word) for word in _COMMON)


@dataclass(frozen=True, slots=True)
class Passage:
    """What ranking needs of a memory. Session labels are unique per conversation; `vector` has any length but zero."""

    id: str
    text: str
    vector: Vector
    speaker: str | None = None
    session: str | None = None
    position: int | None = None
    occurred_at: datetime | None = None
    priority: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, its vector, and a time window if one was found in it: a preference, not a filter."""

    text: str
    vector: Vector
    now: datetime | None = None
    window: tuple[datetime | None, datetime | None] | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a whole store looks like, so that a few candidates drawn from it can be ranked as if all were there."""

    count: int
    words: int  # tokens in all texts, the commonest words left out
    frequencies: Mapping[str, int]  # how often each token occurs in all
    mean: Vector
    coherence: float  # centred cosine of turns next to each other, 0 where there are none


@dataclass(frozen=True, slots=True)
class Ranked:
    """One memory found: score in [0, 1], and the reasons in words."""

    id: str
    score: float
    why: tuple[str, ...]


class Corpus:
    """Passages held ready for ranking; `put` and `remove` cost what they touch. Not safe for concurrent writers."""

    def __init__(self, passages: Iterable[Passage] = ()) -> None:
        self._passages: list[Passage | None] = []
        self._row: dict[str, int] = {}
        self._free: list[int] = []
        self._tokens: list[dict[str, int]] = []
        self._postings: dict[str, dict[int, int]] = {}
        self._frequencies: dict[str, int] = {}
        self._sessions: dict[str, list[int]] = {}
        self._session_number: dict[str, int] = {}
        self._speakers: dict[str, dict[int, None]] = {}
        self._words = 0
        self._view: _View | None = None
        self._pairs = 0
        self._adjacent = 0.0
        self._sum: NDArray[np.float64] | None = None
        self._vectors: Vector = np.zeros((0, 0), np.float32)
        self._facts: Vector = np.zeros((0, _FACTS), np.float32)
        self._near: Rows = np.zeros((0, 2 * _REACH), np.int64)
        self._session_of: Rows = np.zeros(0, np.int64)
        self.put(passages)

    def __len__(self) -> int:
        return len(self._row)

    def put(self, passages: Iterable[Passage]) -> None:
        """Insert passages, or replace those whose id is here already."""
        self._view = None
        for passage in passages:
            if passage.id in self._row:
                self._drop(passage.id)
            self._place(passage)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget passages; ids that are not here are passed over."""
        self._view = None
        for id in ids:
            if id in self._row:
                self._drop(id)

    def statistics(self) -> Statistics:
        """A copy of what describes the whole corpus, fit to outlive it."""
        live = self._background()
        return Statistics(live.count, live.words, dict(live.frequencies), live.mean.copy(), live.coherence)

    def _background(self) -> Statistics:
        count = max(len(self._row), 1)
        total = self._sum if self._sum is not None else np.zeros(self._vectors.shape[1])
        mean = (total / count).astype(np.float32)
        spread = float(mean @ mean)
        coherence = (self._adjacent / self._pairs - spread) / max(1.0 - spread, 1e-6) if self._pairs else 0.0
        return Statistics(
            len(self._row), self._words, MappingProxyType(self._frequencies), mean, float(min(max(coherence, 0.0), 1.0))
        )

    def _place(self, passage: Passage) -> None:
        vector = _unit(passage.vector)
        if self._free:
            row = self._free.pop()
        else:
            row = len(self._passages)
            self._passages.append(None)
            self._tokens.append({})
            self._grow(row + 1, len(vector))
        counts: dict[str, int] = {}
        for token in tokenize(passage.text):
            if token not in _STOP:
                counts[token] = counts.get(token, 0) + 1
        for token, times in counts.items():
            self._postings.setdefault(token, {})[row] = times
            self._frequencies[token] = self._frequencies.get(token, 0) + times
        self._passages[row], self._tokens[row], self._row[passage.id] = passage, counts, row
        self._vectors[row], self._facts[row] = vector, _facts(passage, sum(counts.values()))
        self._near[row], self._session_of[row] = -1, -1
        self._words += sum(counts.values())
        self._sum = vector.astype(np.float64) if self._sum is None else self._sum + vector
        if passage.speaker:
            self._speakers.setdefault(passage.speaker, {})[row] = None
        if passage.session is not None:
            number = self._session_number.setdefault(passage.session, len(self._session_number))
            self._session_of[row] = number
            line = self._sessions.setdefault(passage.session, [])
            index = bisect_right(line, self._order(row), key=self._order)
            line.insert(index, row)
            self._link(line, index)

    def _drop(self, id: str) -> None:
        row = self._row.pop(id)
        passage = self._passages[row]
        assert passage is not None
        for token, times in self._tokens[row].items():
            del self._postings[token][row]
            self._frequencies[token] -= times
            if not self._postings[token]:
                del self._postings[token], self._frequencies[token]
        self._words -= sum(self._tokens[row].values())
        assert self._sum is not None
        self._sum = self._sum - self._vectors[row]
        if passage.speaker:
            del self._speakers[passage.speaker][row]
            if not self._speakers[passage.speaker]:
                del self._speakers[passage.speaker]
        if passage.session is not None:
            self._leave(passage.session, row)
        self._passages[row], self._tokens[row] = None, {}
        self._vectors[row], self._facts[row], self._session_of[row] = 0.0, 0.0, -1
        self._free.append(row)

    def _leave(self, session: str, row: int) -> None:
        line = self._sessions[session]
        index = line.index(row)
        for step in range(_REACH):
            before, after = int(self._near[row, 2 * step]), int(self._near[row, 2 * step + 1])
            if before >= 0:
                self._part(before, row, step)
            if after >= 0:
                self._part(row, after, step)
        del line[index]
        if line:
            self._link(line, min(index, len(line) - 1))
        else:
            del self._sessions[session]

    def _grow(self, rows: int, width: int) -> None:
        if rows <= len(self._vectors):
            return
        room = max(64, rows, 2 * len(self._vectors))
        for name, shape, fill in (
            ("_vectors", (room, width), 0.0), ("_facts", (room, _FACTS), 0.0),
            ("_near", (room, 2 * _REACH), -1), ("_session_of", (room,), -1),
        ):  # fmt: skip
            old = getattr(self, name)
            new = np.full(shape, fill, old.dtype)
            if len(old):
                new[: len(old)] = old
            setattr(self, name, new)

    def _link(self, line: list[int], index: int) -> None:
        """Renew who stands beside whom around one place of a session's line of rows."""
        low, high = max(index - _REACH, 0), min(index + _REACH + 1, len(line))
        pairs = [(i, j) for i in range(low, high) for j in range(i + 1, min(i + _REACH, high - 1) + 1)]
        for i, j in pairs:
            for step in range(_REACH):
                if self._near[line[i], 2 * step + 1] == line[j]:
                    self._part(line[i], line[j], step)
        for i, j in sorted(pairs, key=lambda pair: pair[0] - pair[1]):
            first, second = self._order(line[i])[1], self._order(line[j])[1]
            step = max(second - first, j - i) - 1
            if step < _REACH:
                for row, column in ((line[i], 2 * step + 1), (line[j], 2 * step)):
                    other = int(self._near[row, column])
                    if other >= 0:
                        self._part(*((row, other) if column % 2 else (other, row)), step)
                self._near[line[i], 2 * step + 1], self._near[line[j], 2 * step] = line[j], line[i]
                if step == 0:
                    self._adjacent += float(self._vectors[line[i]] @ self._vectors[line[j]])
                    self._pairs += 1

    def _part(self, before: int, after: int, step: int) -> None:
        self._near[before, 2 * step + 1] = self._near[after, 2 * step] = -1
        if step == 0:
            self._adjacent -= float(self._vectors[before] @ self._vectors[after])
            self._pairs -= 1

    def _order(self, row: int) -> tuple[bool, int, float, str]:
        passage = self._passages[row]
        assert passage is not None
        moment = passage.occurred_at.timestamp() if passage.occurred_at else 0.0
        return passage.position is None, passage.position or 0, moment, passage.id


_REACH = len(WEIGHTS.kernel)
_FACTS = 6
_LENGTH, _ASKS, _TIMES, _MOMENT, _PRIORITY, _ALIVE = range(_FACTS)


def _facts(passage: Passage, words: int) -> Vector:
    moment = passage.occurred_at.timestamp() / 86400.0 if passage.occurred_at else math.nan
    asks = passage.text.rstrip().endswith(("?", "？", "؟"))
    return np.array([words, asks, bool(_TIME.search(passage.text)), moment, passage.priority, 1.0], np.float32)


def _unit(vector: NDArray[np.floating]) -> Vector:
    plain = np.nan_to_num(np.asarray(vector, np.float32).ravel(), posinf=0.0, neginf=0.0)
    return plain / max(float(np.linalg.norm(plain)), 1e-9)


@dataclass(frozen=True, slots=True)
class _View:
    """Arrays over all rows that change only when the corpus does; N rows, the dead among them."""

    vectors: Vector  # (N, width)
    near: Rows  # (N, 2 * reach), -1 where nobody stands
    session: Rows  # (N,), a row without session is a session of its own
    length: Vector  # (N,)
    around: Vector  # (N,) length of the window
    whole: Vector  # (N,) length of the session
    facts: Vector  # (N, facts)
    kernel: Vector  # (2 * reach,)


def _view(corpus: Corpus) -> _View:
    if corpus._view is None:
        n = len(corpus._passages)
        near, facts = corpus._near[:n], corpus._facts[:n]
        length = facts[:, _LENGTH]
        session = corpus._session_of[:n].copy()
        alone = session < 0
        session[alone] = len(corpus._session_number) + np.arange(int(alone.sum()))
        kernel = np.repeat(np.array(WEIGHTS.kernel, np.float32), 2)
        around = length + _beside(length, near) @ kernel
        whole = np.bincount(session, length).astype(np.float32)[session]
        corpus._view = _View(corpus._vectors[:n], near, session, length, around, whole, facts, kernel)
    return corpus._view


def _beside(values: Vector, near: Rows, absent: float = 0.0) -> Vector:
    """Each row's neighbours' values: (N,) -> (N, 2 * reach)."""
    return np.append(values, np.float32(absent))[near]


def rank(question: Question, corpus: Corpus, k: int, *, statistics: Statistics | None = None) -> list[Ranked]:
    """The k passages that answer the question best, best first; ties by id. Shapes: vectors as in the corpus."""
    if k < 1 or not len(corpus):
        return []
    store = statistics or corpus._background()
    view = _view(corpus)
    trust = min(1.0, store.coherence / WEIGHTS.coherence)
    terms = _terms(question.text, corpus)
    meaning = _meaning(question, view, store, trust)
    score = WEIGHTS.meaning * meaning + WEIGHTS.wording * _wording(terms, corpus, view, store, trust)
    score += WEIGHTS.speaker * _speaking(question, corpus, len(score))
    score += _manner(question, view, trust)
    score[view.facts[:, _ALIVE] == 0] = -np.inf
    return [
        Ranked(_id(corpus, row), float(1 / (1 + math.exp(-min(max(float(score[row]), -50.0), 50.0)))), ())
        for row in _best(score, corpus, k)
    ]


def _id(corpus: Corpus, row: int) -> str:
    passage = corpus._passages[row]
    assert passage is not None
    return passage.id


def _best(score: Vector, corpus: Corpus, k: int) -> list[int]:
    k = min(k, len(corpus))
    floor = np.partition(score, len(score) - k)[len(score) - k]
    rows = np.flatnonzero((score >= floor) & (score > -np.inf))
    return sorted(rows.tolist(), key=lambda row: (-float(score[row]), _id(corpus, row)))[:k]


def _terms(text: str, corpus: Corpus) -> list[str]:
    names = {token for speaker in corpus._speakers for token in tokenize(speaker)}
    return [t for t in dict.fromkeys(tokenize(text)) if t not in _STOP and t not in names]


def _meaning(question: Question, view: _View, store: Statistics, trust: float) -> Vector:
    """Cosine around the store's mean, shared with the neighbours as far as the store is coherent. (N,)"""
    asked = _unit(_unit(question.vector) - store.mean)
    raw = view.vectors @ asked - float(store.mean @ asked)
    spread = np.sqrt(np.maximum(1.0 - 2.0 * (view.vectors @ store.mean) + float(store.mean @ store.mean), 1e-6))
    cosine = (raw / spread).astype(np.float32)
    share = WEIGHTS.around * trust
    if not share:
        return cosine
    beside = np.where(view.near < 0, cosine[:, None], _beside(cosine, view.near))
    return (1 - share) * cosine + share * (beside @ view.kernel) / view.kernel.sum()


def _wording(terms: list[str], corpus: Corpus, view: _View, store: Statistics, trust: float) -> Vector:
    """Log-odds that the question's words come from here and not from anywhere. (N,)"""
    total = np.zeros(len(view.length), np.float32)
    window, whole = WEIGHTS.window_words * trust, WEIGHTS.session_words * trust
    base = WEIGHTS.store_words / (view.length + window + whole + WEIGHTS.store_words)
    for term in terms:
        postings = corpus._postings.get(term)
        often = store.frequencies.get(term, 0)
        if not postings and not often:
            continue
        rate = max(often, 0.5) / max(store.words, 1)
        here = np.zeros(len(total), np.float32)
        near = np.zeros(len(total) + 1, np.float32)
        if postings:
            rows = np.fromiter(postings.keys(), np.int64, len(postings))
            times = np.fromiter(postings.values(), np.float32, len(postings))
            here[rows] = times
            near[:-1] = here
            for column, weight in enumerate(view.kernel):
                near[view.near[rows, column]] += weight * times
            session = np.bincount(view.session[rows], times, int(view.session.max()) + 1).astype(np.float32)
            here += window * near[:-1] / np.maximum(view.around, 1) + whole * session[view.session] / np.maximum(view.whole, 1)
        total += np.log1p(here / (WEIGHTS.store_words * rate)) + np.log(base)
    return total


def _speaking(question: Question, corpus: Corpus, rows: int) -> Vector:
    """1 where the one speaker named in the question speaks, -1 where another does, 0 elsewhere. (N,)"""
    asked = set(tokenize(question.text))
    named = [s for s in corpus._speakers if asked.intersection(tokenize(s))]
    spoken = np.zeros(rows, np.float32)
    if len(named) == 1:
        for speaker, turns in corpus._speakers.items():
            spoken[list(turns)] = 1.0 if speaker == named[0] else -1.0
    return spoken


def _manner(question: Question, view: _View, trust: float) -> Vector:
    facts = view.facts
    score = -WEIGHTS.asks * facts[:, _ASKS] + WEIGHTS.length * facts[:, _LENGTH] / (facts[:, _LENGTH] + 10.0)
    if _WHEN.search(question.text):
        score += WEIGHTS.times * facts[:, _TIMES]
    return score + WEIGHTS.prior * facts[:, _PRIORITY]
