"""Ranks memories against a question: hybrid, hierarchical, aware of the conversation, without a language model.

It knows words, vectors, sessions, speakers and times, and nothing of databases, embedders, clocks or access: the
caller embeds, filters and hands over records. Evidence is added up as log-odds, so that each kind counts as far as
it discriminates: how much likelier the question's words are here than anywhere (query likelihood, smoothed by the
turns around, the session and the store: Zhai & Lafferty 2001), how near the meaning is, who speaks, when it was said
and what kind of turn it is. Three measurements fit the sum to the case: how coherent neighbouring turns are in this
store, how much of the question's words the best place covers, and how the store's vectors lie around their mean.

What to embed: "speaker: text" where a speaker is known, else the text.
"""

from __future__ import annotations

import math
import re
import unicodedata
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
    """The numbers of the ranking. Those in log-odds were fitted together, on conversations and on stored preferences
    at once, and rounded; leaving each conversation out in turn costs half a point. The others are flat optima."""

    wording: float = 0.55  # log-odds per nat of query likelihood; well below 1, because words come in clumps
    blind_faith: float = 0.3  # share of the wording kept when the store has none of the question's words together
    window_words: float = 50.0  # a turn borrows this many words from the turns around it, a long one feels it less,
    session_words: float = 10.0  # this many from its session,
    store_words: float = 40.0  # and this many from the store, which sets how much one match is worth
    kernel: tuple[float, ...] = (0.6, 0.3, 0.15)  # what a turn 1, 2, 3 places away weighs against the turn itself
    meaning: float = 9.5  # log-odds per unit of cosine
    around: float = 4.5  # the same for what the neighbours' mean has over the turn itself
    topic: float = 2.0  # and for what the best turns of the session have over it
    answer: float = 3.0  # and for the meaning of a question just before: what follows it is the answer
    speaker: float = 1.15  # the one named in the question speaks, against another
    asks: float = -0.45  # a turn that ends as a question seldom answers one
    length: float = 4.5  # a full turn against an empty one: "Wow, thanks!" is short; half of it at `brief` words
    brief: float = 10.0
    dated: float = 2.1  # a turn with a time word, where the question asks when
    inside: float = 6.0  # said in the time the question names; fades by e in `near_days`
    near_days: float = 7.0
    priority: float = 1.0  # per unit of the caller's own priority
    manner: float = 0.5  # share of the way of asking ("Can you recommend ...") taken out of the question's vector
    sharpness: float = 20.0  # how strictly the nearest ways of asking are chosen
    centre: float = 0.5  # share of the store's mean taken out of the question's vector; all of it from the memories'
    lively: float = 0.16  # by how much turns side by side are nearer than turns three apart, where people converse
    believed: float = 10.0  # pairs of turns for which we take a session for a conversation before looking
    offset: float = -14.0  # log-odds at which a memory is as likely right as wrong
    slope: float = 0.8


WEIGHTS = Weights()
_REACH = len(WEIGHTS.kernel)
_PAIRS = 512  # pairs of turns looked at to measure coherence: enough for a standard error of .01

ASKING = (
    "Can you recommend something for me?", "What are some good options?", "Could you suggest a few ideas?",
    "What would you advise me to do?", "I am looking for something new. What do you recommend?",
    "Do you have any tips?", "How can I do this?", "Can you help me find it?", "Please tell me about it.",
    "What did they say?", "When did that happen?", "Where was it?", "Who was there?", "Why did they do it?",
    "Which one was it?", "How did it go?", "What is it called?", "What do you know about it?", "How many were there?",
    "Did they like it?", "Would they want to?",
)  # fmt: skip
"""Questions about nothing. Embedded once by the caller, they show which part of a question's vector is its manner."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
_TIME = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|week|weekend|month|year|day|morning|evening|night|recently"
    r"|since|just|soon|january|february|march|april|may|june|july|august|september|october|november|december|monday"
    r"|tuesday|wednesday|thursday|friday|saturday|sunday|summer|winter|spring|autumn|fall|birthday|anniversary"
    r"|\d{4})s?\b",
    re.IGNORECASE,
)
_WHEN = re.compile(r"\bwhen\b|\bhow long\b|\bwhat (?:date|day|month|year|time)\b", re.IGNORECASE)
_COMMON = (
    "a an the and or of to for in on at by with from as is are was were be been being am do does did done have has had"
    " can could would should will shall may might must i me my mine we us our you your he him his she her they them"
    " their it its this that these those there here what which who whom whose when where why how some any so if but"
    " not no than then too very also about into don didn doesn isn aren wasn weren won wouldn couldn shouldn haven"
    " hasn hadn ain"
)
_REQUEST = (
    "suggest suggestion recommendation tip advice idea option good best great nice help need want like look looking"
    " find try new kind sort thing way"
)
_SELF, _OTHER = frozenset({"user", "human"}), frozenset({"assistant", "ai", "bot", "model"})
_ENDINGS = ("ation", "ment", "ness", "ion", "ful", "iti", "ist", "ous", "iv", "abl", "al")


def tokenize(text: str) -> list[str]:
    """The words of a text, case and accents folded, lightly stemmed; scripts without spaces as character bigrams."""
    return [token for token, _ in _pairs(text)]


def _pairs(text: str) -> list[tuple[str, str]]:
    """Tokens with the words that they stand for."""
    found: list[tuple[str, str]] = []
    for word in _WORD.findall(text):
        plain = word.lower()
        if not plain.isascii():
            parts = unicodedata.normalize("NFKD", word.casefold())
            plain = unicodedata.normalize("NFC", "".join(c for c in parts if not unicodedata.combining(c)))
        if plain.isascii() or not _CJK.search(plain):
            found.append((_stem(plain), word))
        else:
            found.extend((token, token) for token in _characters(plain))
    return found


def _characters(run: str) -> list[str]:
    tokens: list[str] = []
    for part in re.split(f"({_CJK.pattern})", run):
        if not _CJK.match(part):
            tokens.extend([_stem(part)] if part else [])
        else:
            tokens.extend([part] if len(part) == 1 else [part[i : i + 2] for i in range(len(part) - 1)])
    return tokens


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    """Cuts English inflections, lightly: a wrong merger costs more than a missed one."""
    head, *rest = word.replace("’", "'").split("'")
    word = head if len(head) > 1 or head == "i" or not rest else head + "".join(rest)
    if len(word) < 4 or not word.isascii() or word.isdigit():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word[-1] == "s" and word[-2] not in "su":
        word = word[:-1]
    for ending in ("ing", "ed", "ly"):
        root = word[: -len(ending)]
        if word.endswith(ending) and len(root) >= 3 and any(c in "aeiouy" for c in root):
            word = root[:-1] if len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz" else root
            break
    word = word[:-1] if len(word) > 3 and word[-1] == "e" else word
    word = word[:-1] + "i" if len(word) > 3 and word[-1] == "y" else word
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


_STOP = frozenset(tokenize(_COMMON))
_ASKED = _STOP | frozenset(tokenize(_REQUEST)) | frozenset(token for asking in ASKING for token in tokenize(asking))


@dataclass(frozen=True, slots=True)
class Passage:
    """What ranking needs of a memory. Session labels are unique per conversation; positions count turns in it."""

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
    """What is asked and its vector; the time it names, if it does, as a preference and not as a filter."""

    text: str
    vector: Vector
    now: datetime | None = None
    window: tuple[datetime | None, datetime | None] | None = None
    asking: Vector | None = None  # the vectors of ASKING by the same embedder, (questions, width)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a whole store looks like, so that a few candidates drawn from it can be ranked as if all were there.
    Taken from a sample, the sample should be whole sessions, or coherence cannot be seen."""

    count: int
    words: int  # tokens in all texts, without the commonest
    frequencies: Mapping[str, int]  # how often each token occurs in all
    mean: Vector
    coherence: float  # by how much centred cosine falls from neighbours to turns three apart; 0 without sessions


@dataclass(frozen=True, slots=True)
class Ranked:
    """One memory found: score in [0, 1], and the reasons in words."""

    id: str
    score: float
    why: tuple[str, ...]


class Corpus:
    """Passages held ready for ranking; changing a few costs little. Keeping writers apart is the caller's job."""

    def __init__(self, passages: Iterable[Passage] = ()) -> None:
        self._passages: list[Passage | None] = []
        self._counts: list[dict[str, int]] = []
        self._row: dict[str, int] = {}
        self._free: list[int] = []
        self._postings: dict[str, dict[int, int]] = {}
        self._frequencies: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._words = 0
        self._sum: NDArray[np.float64] | None = None
        self._vectors: Vector = np.zeros((0, 0), np.float32)
        self._facts: NDArray[np.float64] = np.zeros((0, _FACTS))
        self._view: _View | None = None
        self.put(passages)

    def __len__(self) -> int:
        return len(self._row)

    def put(self, passages: Iterable[Passage]) -> None:
        """Insert passages, or replace those whose id is here already."""
        for passage in passages:
            self.remove((passage.id,))
            self._place(passage, _unit(passage.vector))
            self._view = None

    def remove(self, ids: Iterable[str]) -> None:
        """Forget passages; ids that are not here are passed over."""
        for id in ids:
            row = self._row.pop(id, None)
            if row is not None:
                self._clear(row)
                self._view = None

    def statistics(self) -> Statistics:
        """A copy of what describes the whole corpus, fit to outlive it."""
        live = _look(self).store
        return Statistics(live.count, live.words, dict(live.frequencies), live.mean.copy(), live.coherence)

    def _place(self, passage: Passage, vector: Vector) -> None:
        row = self._free.pop() if self._free else len(self._passages)
        if row == len(self._passages):
            self._passages.append(None)
            self._counts.append({})
            self._grow(row + 1, len(vector))
        counts: dict[str, int] = {}
        for token in tokenize(passage.text):
            if token not in _STOP:
                counts[token] = counts.get(token, 0) + 1
        for token, times in counts.items():
            self._postings.setdefault(token, {})[row] = times
            self._frequencies[token] = self._frequencies.get(token, 0) + times
        self._passages[row], self._counts[row], self._row[passage.id] = passage, counts, row
        self._words += sum(counts.values())
        self._vectors[row] = vector
        self._facts[row] = self._describe(passage, sum(counts.values()))
        self._sum = vector.astype(np.float64) if self._sum is None else self._sum + vector

    def _clear(self, row: int) -> None:
        for token, times in self._counts[row].items():
            del self._postings[token][row]
            self._frequencies[token] -= times
            if not self._postings[token]:
                del self._postings[token], self._frequencies[token]
        self._words -= sum(self._counts[row].values())
        self._sum = None if self._sum is None else self._sum - self._vectors[row]
        self._passages[row], self._counts[row] = None, {}
        self._vectors[row], self._facts[row] = 0.0, (0, 0, 0, math.nan, 0, 0, -1, -1, math.nan)
        self._free.append(row)

    def _grow(self, rows: int, width: int) -> None:
        if rows > len(self._vectors):
            room = max(64, 2 * rows)
            more = room - len(self._vectors)
            self._vectors = np.concatenate([self._vectors.reshape(-1, width), np.zeros((more, width), np.float32)])
            self._facts = np.concatenate([self._facts, np.zeros((more, _FACTS))])

    def _describe(self, passage: Passage, words: int) -> tuple[float, ...]:
        labels = (passage.session and f"session {passage.session}", passage.speaker and f"speaker {passage.speaker}")
        session, speaker = (-1 if not x else self._labels.setdefault(x, len(self._labels)) for x in labels)
        return (
            words,
            passage.text.rstrip().endswith(("?", "？", "؟")),
            _TIME.search(passage.text) is not None,
            passage.occurred_at.timestamp() / 86400 if passage.occurred_at else math.nan,
            passage.priority,
            1.0,
            session,
            speaker,
            math.nan if passage.position is None else passage.position,
        )


_FACTS = 9
_LENGTH, _ASKS, _TIMES, _MOMENT, _PRIORITY, _ALIVE, _SESSION, _SPEAKER, _POSITION = range(_FACTS)


@dataclass(frozen=True, slots=True)
class _View:
    """Arrays over all N rows, the cleared among them, which change only when the corpus does."""

    store: Statistics
    facts: NDArray[np.float64]  # (N, facts)
    vectors: Vector  # (N, width)
    near: Rows  # (N, 2 * reach): who stands 1, 2, 3 before and after, in turns; N where nobody does
    kernel: Vector  # (2 * reach,)
    session: Rows  # (N,) a row without session is a session of its own
    window_length: Vector  # (N,)
    session_length: Vector  # (N,)
    speakers: Mapping[str, int]  # those who speak here


def _look(corpus: Corpus) -> _View:
    if corpus._view is None:
        n = len(corpus._passages)
        facts, vectors, count = corpus._facts[:n], corpus._vectors[:n], len(corpus)
        total = np.zeros(vectors.shape[1]) if corpus._sum is None else corpus._sum
        mean = (total / max(count, 1)).astype(np.float32)
        near = _neighbours(facts)
        kernel = np.repeat(np.array(WEIGHTS.kernel, np.float32), 2)
        length = facts[:, _LENGTH].astype(np.float32)
        session = facts[:, _SESSION].astype(np.int64)
        session[session < 0] = len(corpus._labels) + np.flatnonzero(session < 0)
        session = np.unique(session, return_inverse=True)[1]
        present = set(np.unique(facts[:, _SPEAKER]).astype(int).tolist())
        corpus._view = _View(
            Statistics(count, corpus._words, MappingProxyType(corpus._frequencies), mean, _coherence(vectors, near, mean)),
            facts, vectors, near, kernel, session, length + _padded(length)[near] @ kernel,
            np.bincount(session, length).astype(np.float32)[session],
            {name[8:]: number for name, number in corpus._labels.items() if name[:8] == "speaker " and number in present},
        )  # fmt: skip
    return corpus._view


def _padded(values: Vector) -> Vector:
    """With a zero at the end, for rows that have nobody beside them."""
    return np.append(values, np.float32(0))


def _neighbours(facts: NDArray[np.float64]) -> Rows:
    """Who stands beside whom: by position, else by time, else by arrival. Missing turns keep their place. (N, 2 reach)"""
    n = len(facts)
    near = np.full((n, 2 * _REACH), n, np.int64)
    position = facts[:, _POSITION]
    line = np.lexsort((np.nan_to_num(facts[:, _MOMENT]), np.nan_to_num(position, nan=np.inf), facts[:, _SESSION]))
    line = line[facts[line, _SESSION] >= 0]
    for step in range(min(_REACH, len(line) - 1), 0, -1):  # the nearest last, so that they win a contested place
        before, after = line[:-step], line[step:]
        gap = np.fmax(position[after] - position[before], step)
        fits = (facts[before, _SESSION] == facts[after, _SESSION]) & (gap <= _REACH)
        slot = 2 * (gap[fits].astype(np.int64) - 1)
        near[after[fits], slot], near[before[fits], slot + 1] = before[fits], after[fits]
    return near


def _coherence(vectors: Vector, near: Rows, mean: Vector) -> float:
    """How much nearer turns side by side are than turns three apart: the same people, so the topic is what differs.
    Sessions about unlike things, or one list of unlike notes, show none; before we have looked, it is a conversation."""
    scale = max(1.0 - float(mean @ mean), 1e-6)
    means, counts = [], []
    for step in (1, _REACH):
        rows = np.flatnonzero(near[:, 2 * step - 1] < len(near))
        rows = rows[:: max(1, len(rows) // _PAIRS)]
        products = np.einsum("ij,ij->i", vectors[rows], vectors[near[rows, 2 * step - 1]])
        means.append(float(products.sum()))
        counts.append(len(rows))
    if not counts[0]:
        return 0.0
    apart = (means[1] + float(mean @ mean) * WEIGHTS.believed / 2) / (counts[1] + WEIGHTS.believed / 2)
    seen = (means[0] / counts[0] - apart) / scale
    return (seen * counts[0] + WEIGHTS.lively * WEIGHTS.believed) / (counts[0] + WEIGHTS.believed)


def _unit(vector: Vector) -> Vector:
    plain = np.nan_to_num(np.asarray(vector, np.float32).ravel(), posinf=0.0, neginf=0.0)
    return np.asarray(plain / max(float(np.linalg.norm(plain)), 1e-9), np.float32)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What was found for every row, kept for telling why. All (N,)."""

    cosine: Vector
    around: Vector
    answer: Vector
    wording: Vector
    own: Vector  # the part of the wording that the turn's own words carry
    spoken: Vector
    inside: Vector


def rank(question: Question, corpus: Corpus, k: int, *, statistics: Statistics | None = None) -> list[Ranked]:
    """The k passages that answer the question best, best first, ties by id; all of them if there are fewer."""
    if k < 1 or not len(corpus):
        return []
    view = _look(corpus)
    store = statistics or view.store
    trust = min(max(store.coherence / WEIGHTS.lively, 0.0), 1.0)
    cosine, around, topic, answer = _meaning(question, view, store, trust)
    wording, own = _wording(_terms(question.text, view.speakers), corpus, view, store, trust)
    spoken, inside = _speaking(question, view), _inside(question, view)
    score = WEIGHTS.meaning * cosine + WEIGHTS.around * around + WEIGHTS.topic * topic + WEIGHTS.answer * answer
    score += WEIGHTS.wording * wording + WEIGHTS.speaker * spoken + WEIGHTS.inside * inside
    score += _manner(question, view, trust)
    score[view.facts[:, _ALIVE] == 0] = -np.inf
    evidence = _Evidence(cosine, around, answer, wording, own, spoken, inside)
    return [
        Ranked(_passage(corpus, row).id, _chance(float(score[row])), _why(question, corpus, row, evidence))
        for row in _best(score, corpus, min(k, len(corpus)))
    ]


def _best(score: Vector, corpus: Corpus, k: int) -> list[int]:
    floor = np.partition(score, len(score) - k)[len(score) - k]
    rows = np.flatnonzero(score >= floor)
    return sorted(rows.tolist(), key=lambda row: (-float(score[row]), _passage(corpus, row).id))[:k]


def _chance(odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(WEIGHTS.slope * (odds - WEIGHTS.offset), -30.0), 30.0)))


def _passage(corpus: Corpus, row: int) -> Passage:
    passage = corpus._passages[row]
    assert passage is not None
    return passage


def _terms(text: str, speakers: Iterable[str]) -> dict[str, str]:
    """The question's tokens that can tell memories apart, and the words they stand for; names of speakers apart."""
    names = {token for speaker in speakers for token in tokenize(speaker)}
    return {token: word for token, word in _pairs(text) if token not in _ASKED and token not in names}


def _meaning(question: Question, view: _View, store: Statistics, trust: float) -> tuple[Vector, Vector, Vector, Vector]:
    """Cosine around the store's mean; what the neighbours, the session's best and a question before add. (N,) each"""
    mean = store.mean * np.float32(store.count / (store.count + 10.0))  # few memories do not make a mean
    asked = _unit(_subject(question) - WEIGHTS.centre * mean)
    spread = np.maximum(1.0 - 2.0 * (view.vectors @ mean) + float(mean @ mean), 1e-6)
    cosine = np.asarray((view.vectors @ asked - float(mean @ asked)) / np.sqrt(spread), np.float32)
    if not trust:
        return cosine, np.zeros_like(cosine), np.zeros_like(cosine), np.zeros_like(cosine)
    beside = _padded(cosine)[view.near]
    alone = view.near == len(cosine)
    around = np.where(alone, 0, beside - cosine[:, None]) @ view.kernel / view.kernel.sum()
    peaks = np.log(np.bincount(view.session, np.exp(WEIGHTS.sharpness * cosine))) / WEIGHTS.sharpness
    asking = _padded(view.facts[:, _ASKS].astype(np.float32))[view.near[:, 0]]
    topic = (peaks[view.session] - cosine).astype(np.float32)
    return cosine, trust * around, trust * topic, trust * asking * beside[:, 0]


def _subject(question: Question) -> Vector:
    """The question's vector without its manner: "Can you recommend ..." is near every request and no memory."""
    asked = _unit(question.vector)
    if question.asking is None or not len(question.asking):
        return asked
    near = np.exp(WEIGHTS.sharpness * (question.asking @ asked))
    return _unit(asked - WEIGHTS.manner * (near / near.sum()) @ question.asking)


def _wording(
    terms: Iterable[str], corpus: Corpus, view: _View, store: Statistics, trust: float
) -> tuple[Vector, Vector]:
    """Log-odds that the question's words come from here and not from anywhere, and the turn's own part in it. (N,)

    Words are trusted as far as the best window covers the question's: where question and memories share few words,
    those few mislead.
    """
    n, w = len(view.vectors), WEIGHTS
    total, own, covered = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n + 1, np.float32)
    window, session = w.window_words * trust, w.session_words * trust
    length = view.facts[:, _LENGTH].astype(np.float32)
    base = np.log(w.store_words / (length + window + session + w.store_words))
    asked = 0.0
    for term in terms:
        postings = corpus._postings.get(term, {})
        scale = w.store_words * max(store.frequencies.get(term, 0), 0.5) / max(store.words, 1)
        worth = math.log1p(1 / scale)
        asked += worth
        if not postings:
            continue
        rows = np.fromiter(postings.keys(), np.int64, len(postings))
        times = np.fromiter(postings.values(), np.float32, len(postings))
        near = np.zeros(n + 1, np.float32)
        near[rows] = times
        own[rows] += np.log1p(times / scale)
        for column, weight in enumerate(view.kernel if trust else ()):
            near[view.near[rows, column]] += weight * times
        near[n] = 0
        covered[near > 0] += worth
        whole = np.bincount(view.session[rows], times, int(view.session.max()) + 1).astype(np.float32)[view.session]
        tf = window * near[:n] / np.maximum(view.window_length, 1) + session * whole / np.maximum(view.session_length, 1)
        tf[rows] += times
        total += np.log1p(tf / scale) + base
    share = w.blind_faith + (1 - w.blind_faith) * float(covered.max()) / max(asked, 1e-9)
    return share * total, share * own


def _speaking(question: Question, view: _View) -> Vector:
    """1 where the one speaker that the question names speaks, -1 where another does, 0 elsewhere. (N,)

    "I" names the user and "you" the assistant, at half the weight; who asks with both names neither.
    """
    spoken = np.zeros(len(view.vectors), np.float32)
    asked = set(tokenize(question.text))
    named = {number for name, number in view.speakers.items() if asked.intersection(tokenize(name))}
    weight = 1.0
    if not named:
        first, second = bool(asked & {"i", "my", "me", "min"}), bool(asked & {"you", "your"})
        roles = _SELF if first and not second else _OTHER if second and not first else frozenset()
        named, weight = {number for name, number in view.speakers.items() if name.lower() in roles}, 0.5
    if len(named) == 1:
        speaker = view.facts[:, _SPEAKER]
        spoken[speaker >= 0] = -weight
        spoken[speaker == named.pop()] = weight
    return spoken


def _inside(question: Question, view: _View) -> Vector:
    """1 within the time that the question names, fading by days outside it, 0 where no time is known. (N,)"""
    moment = view.facts[:, _MOMENT]
    if question.window is None or question.window == (None, None):
        return np.zeros(len(moment), np.float32)
    since, until = (None if edge is None else edge.timestamp() / 86400 for edge in question.window)
    early = 0.0 if since is None else since - moment
    late = 0.0 if until is None else moment - until
    days = np.maximum(np.maximum(early, late), 0.0) + 0.0 * moment
    return np.nan_to_num(np.exp(-days / WEIGHTS.near_days), nan=0.0).astype(np.float32)


def _manner(question: Question, view: _View, trust: float) -> Vector:
    """What kind of turn it is. In a conversation a short turn is a nod; a short note is a note. (N,)"""
    facts = view.facts
    talk = trust * (facts[:, _SESSION] >= 0)
    full = facts[:, _LENGTH] / (facts[:, _LENGTH] + WEIGHTS.brief)
    score = talk * (WEIGHTS.asks * facts[:, _ASKS] + WEIGHTS.length * full) + WEIGHTS.priority * facts[:, _PRIORITY]
    if _WHEN.search(question.text):
        score = score + WEIGHTS.dated * facts[:, _TIMES]
    return np.asarray(score, np.float32)


def _why(question: Question, corpus: Corpus, row: int, evidence: _Evidence) -> tuple[str, ...]:
    view = _look(corpus)
    words = [word for token, word in _terms(question.text, view.speakers).items() if token in corpus._counts[row]]
    speaker, when = _passage(corpus, row).speaker, _passage(corpus, row).occurred_at
    reasons = (
        ("words: " + ", ".join(words), bool(words)),
        (f"meaning {max(float(evidence.cosine[row]), 0.0):.2f}", True),
        ("answers a question that matches", evidence.answer[row] > 0.2),
        ("beside a matching turn", evidence.around[row] > 0.05),
        (f"spoken by {speaker}", evidence.spoken[row] > 0),
        (f"said around {when:%Y-%m-%d}" if when else "", evidence.inside[row] > 0.3),
    )
    return tuple(reason for reason, holds in reasons if holds)
