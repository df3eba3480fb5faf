"""Ranks memories against a question: hybrid, hierarchical, aware of the conversation, without a language model.

It knows words, vectors, sessions, speakers and times, and nothing of databases, embedders, clocks or access: the
caller embeds, filters and hands over records. Evidence adds up as log-odds, each kind counting as far as it tells
memories apart: how much likelier the question's words are here than anywhere (query likelihood, smoothed by the turns
around, the session and the store: Zhai & Lafferty 2001), how near the meaning is, who speaks, when it was said, what
kind of turn it is. Three measurements fit the sum to the case: how coherent neighbouring turns are in this store, how
much of the question's words the best place covers, and where the store's vectors lie.

What to embed: "speaker: text" where a speaker is known, else the text; ASKING once, to tell manner from matter.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidArgument

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
    slope: float = 0.45  # of the true log-odds against those summed


WEIGHTS = Weights()
_REACH = len(WEIGHTS.kernel)
_PAIRS = 512  # pairs of turns looked at to measure coherence: a standard error of about .01

ASKING = (
    "Can you recommend something for me?", "What are some good options?", "Could you suggest a few ideas?",
    "What would you advise me to do?", "I am looking for something new. What do you recommend?",
    "Do you have any tips?", "How can I do this?", "Can you help me find it?", "Please tell me about it.",
    "What did they say?", "When did that happen?", "Where was it?", "Who was there?", "Why did they do it?",
    "Which one was it?", "How did it go?", "What is it called?", "What do you know about it?", "How many were there?",
    "Did they like it?", "Would they want to?",
)  # fmt: skip
"""Questions about nothing in particular; what a question's vector shares with theirs is its manner."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_UNSPACED = re.compile(r"([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+)")
_WHEN = re.compile(r"\bwhen\b|\bhow long\b|\bwhat (?:date|day|month|year|time)\b", re.IGNORECASE)
_COMMON = (
    "a an the and or of to for in on at by with from as is are was were be been being am do does did done have has had"
    " can could would should will shall might must i me my mine we us our you your he him his she her they them"
    " their it its this that these those there here what which who whom whose when where why how some any so if but"
    " not no than then too very also about into don didn doesn isn aren wasn weren won wouldn couldn shouldn haven"
    " hasn hadn ain"
)
_MOMENTS = (
    "yesterday today tonight tomorrow ago last next week weekend month year day morning evening night recently since"
    " just soon january february march april may june july august september october november december monday tuesday"
    " wednesday thursday friday saturday sunday summer winter spring autumn fall birthday anniversary"
)
_REQUEST = (
    "suggest suggestion recommendation tip advice idea option good best great nice help need want like look looking"
    " find try new kind sort thing way"
)


def tokenize(text: str) -> list[str]:
    """The words of a text, case and accents folded, lightly stemmed; scripts without spaces as character bigrams."""
    return [token for token, _ in _readings(text)]


def _readings(text: str) -> list[tuple[str, str]]:
    """Tokens with the words that they stand for."""
    found: list[tuple[str, str]] = []
    for word in _WORD.findall(text):
        plain = word.lower()
        if plain.isascii():
            found.append((_stem(plain), word))
            continue
        letters = unicodedata.normalize("NFKD", word.casefold())
        plain = unicodedata.normalize("NFC", "".join(c for c in letters if not unicodedata.combining(c)))
        for odd, part in enumerate(_UNSPACED.split(plain)):
            if odd % 2:
                found.extend((part[i : i + 2], part) for i in range(max(len(part) - 1, 1)))
            elif part:
                found.append((_stem(part), word))
    return found


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    """Cuts English inflections, lightly, and long words: "adoption", "adopted" and "adopt" are one."""
    head, *rest = word.replace("’", "'").split("'")
    word = head if len(head) > 1 or head == "i" else head + "".join(rest)
    if len(word) < 4 or not word.isascii() or word.isdigit():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word[-1] == "s" and word[-2] not in "su":
        word = word[:-1]
    for ending in ("ing", "ed", "ly", "ion"):
        root = word[: -len(ending)]
        if word.endswith(ending) and len(root) >= 3 and any(c in "aeiouy" for c in root):
            word = root[:-1] if len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz" else root
            break
    word = word[:-1] if len(word) > 3 and word[-1] == "e" else word
    return (word[:-1] + "i" if len(word) > 3 and word[-1] == "y" else word)[:7]


_STOP = frozenset(tokenize(_COMMON))
_SELF, _OTHER = frozenset(tokenize("user human")), frozenset(tokenize("assistant ai"))
_PRONOUNS = frozenset({"i", "my", "me", "you", "your"})
_DATES = frozenset(tokenize(_MOMENTS)) | {str(year) for year in range(1900, 2100)}
_ASKED = _STOP | frozenset(tokenize(_REQUEST)) | frozenset(token for asking in ASKING for token in tokenize(asking))


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
class Question:
    """What is asked, its vector, and the time that it names, if it does: a preference and not a filter."""

    text: str
    vector: Vector
    now: datetime | None = None
    window: tuple[datetime | None, datetime | None] | None = None
    asking: Vector | None = None  # the vectors of ASKING by the same embedder, (questions, width); None leaves it out


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a whole store looks like, so that a few candidates drawn from it can be ranked as if all were there. If a
    sample speaks for the store, let it be of whole sessions: coherence is not seen in scattered turns."""

    count: int
    words: int  # tokens in all texts, without the commonest
    frequencies: Mapping[str, int]  # how often each token occurs in all
    mean: Vector
    coherence: float  # by how much centred cosine falls from neighbours to turns three apart; 0 without sessions


@dataclass(frozen=True, slots=True)
class Ranked:
    """One memory found: the chance in [0, 1] that it is what was asked for, and the reasons in words."""

    id: str
    score: float
    why: tuple[str, ...]


_FACTS = 9
_LENGTH, _ASKS, _DATED, _MOMENT, _PRIORITY, _ALIVE, _SESSION, _SPEAKER, _POSITION = range(_FACTS)
_NOTHING = (0.0, 0.0, 0.0, math.nan, 0.0, 0.0, -1.0, -1.0, math.nan)


class Corpus:
    """Passages held ready for ranking; changing a few costs little. Keeping writers apart is the caller's job."""

    def __init__(self, passages: Iterable[Passage] = ()) -> None:
        self._passages: list[Passage | None] = []
        self._counts: list[dict[str, int]] = []
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
        self._view: _View | None = None
        self.put(passages)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, id: str) -> bool:
        return id in self._row

    def put(self, passages: Iterable[Passage]) -> None:
        """Insert passages, or replace those whose id is here already. Raises InvalidArgument for a vector of another
        length than those here; the passages before it are in."""
        for passage in passages:
            vector, counts = _unit(passage.vector), _count(passage.text)
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
        live = _look(self).store
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
            not _DATES.isdisjoint(counts),
            passage.occurred_at.timestamp() / 86400 if passage.occurred_at else math.nan,
            passage.priority,
            1.0,
            -1 if session is None else self._sessions.setdefault(session, len(self._sessions)),
            -1 if not speaker else self._speakers.setdefault(speaker, len(self._speakers)),
            math.nan if position is None else position,
        )


def rank(
    question: Question, corpus: Corpus, k: int, *, statistics: Statistics | None = None, among: Set[str] | None = None
) -> list[Ranked]:
    """The k passages that answer the question best, best first, ties by id; all of them if there are fewer.

    With `among`, only passages of these ids are found; the others still speak for their neighbours.
    """
    k = min(k, len(corpus) if among is None else sum(id in corpus for id in among))
    if k < 1:
        return []
    view = _look(corpus)
    store = statistics if statistics and statistics.count else view.store
    trust = min(max(store.coherence / WEIGHTS.lively, 0.0), 1.0)
    terms = _terms(question.text, view)
    cosine, around, answer = _meaning(question, view, store, trust)
    spoken, inside = _speaking(question, view), _inside(question, view)
    score = WEIGHTS.meaning * cosine + WEIGHTS.around * around + WEIGHTS.answer * answer
    score += WEIGHTS.wording * _wording(terms, corpus, view, store, trust)
    score += WEIGHTS.speaker * spoken + WEIGHTS.inside * inside + _manner(question, view, trust)
    if among is None:
        score[view.facts[:, _ALIVE] == 0] = -np.inf
    else:
        wanted = [corpus._row[id] for id in among if id in corpus]
        score, every = np.full_like(score, -np.inf), score
        score[wanted] = every[wanted]
    floor = np.partition(score, -k)[-k]
    found = [(-float(score[row]), _at(corpus, row).id, row) for row in np.flatnonzero(score >= floor).tolist()]
    evidence = {"cosine": cosine, "around": around, "answer": answer, "spoken": spoken, "inside": inside}
    return [
        Ranked(id, _chance(-negative), _why(corpus, row, terms, {name: float(x[row]) for name, x in evidence.items()}))
        for negative, id, row in sorted(found)[:k]
    ]


@dataclass(frozen=True, slots=True)
class _View:
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


def _look(corpus: Corpus) -> _View:
    if corpus._view is None:
        n = len(corpus._passages)
        facts, vectors = corpus._facts[:n], corpus._vectors[:n]
        near, mean = _neighbours(facts), (corpus._sum / max(len(corpus), 1)).astype(np.float32)
        store = Statistics(
            len(corpus), corpus._words, MappingProxyType(corpus._frequencies), mean, _coherence(vectors, near, mean)
        )
        kernel, length = np.repeat(np.array(WEIGHTS.kernel, np.float32), 2), facts[:, _LENGTH].astype(np.float32)
        session = facts[:, _SESSION].astype(np.int64)
        session[session < 0] = len(corpus._sessions) + np.flatnonzero(session < 0)
        session = np.unique(session, return_inverse=True)[1]
        window_length, session_length = length + _beside(length, near) @ kernel, np.bincount(session, length)[session]
        corpus._view = _View(
            store, facts, vectors, near, kernel, session, length,
            np.maximum(window_length, 1), np.maximum(session_length, 1).astype(np.float32),
            _names(corpus._speakers, set(np.unique(facts[:, _SPEAKER]).tolist())),
        )  # fmt: skip
    return corpus._view


def _names(speakers: Mapping[str, int], present: set[float]) -> dict[str, frozenset[int]]:
    names: dict[str, frozenset[int]] = {}
    for speaker, number in speakers.items():
        for token in tokenize(speaker) if number in present else ():
            # A role is named by "I" and "you": "user" in a question is any user, of a program say.
            for name in ("i", "my", "me") if token in _SELF else ("you", "your") if token in _OTHER else (token,):
                names[name] = names.get(name, frozenset()) | {number}
    return names


def _beside(values: Vector, near: Rows) -> Vector:
    """The values of each row's neighbours, 0 where there is none: (N,) to (N, 2 * reach)."""
    return np.append(values, np.float32(0))[near]


def _neighbours(facts: NDArray[np.float64]) -> Rows:
    """Who stands beside whom: by position, else by time, else by arrival; a missing turn keeps its place."""
    near = np.full((len(facts), 2 * _REACH), len(facts), np.int64)
    position, session = facts[:, _POSITION], facts[:, _SESSION]
    line = np.lexsort((np.nan_to_num(facts[:, _MOMENT]), np.nan_to_num(position, nan=np.inf), session))
    line = line[session[line] >= 0]
    for step in range(min(_REACH, len(line) - 1), 0, -1):  # the nearest last, so that they win a contested place
        before, after = line[:-step], line[step:]
        gap = np.fmax(position[after] - position[before], step)
        fits = (session[before] == session[after]) & (gap <= _REACH)
        before, after, slot = before[fits], after[fits], 2 * (gap[fits].astype(np.int64) - 1)
        near[after, slot], near[before, slot + 1] = before, after
    return near


def _coherence(vectors: Vector, near: Rows, mean: Vector) -> float:
    """By how much turns side by side are nearer than turns three apart: an odd distance both, so that who speaks
    changes alike and what differs is the topic. One list of unlike notes shows none, even if it is sorted by subject."""
    overall, sums, counts = float(mean @ mean), [], []
    for step in (1, _REACH):
        rows = np.flatnonzero(near[:, 2 * step - 1] < len(near))
        rows = rows[:: max(1, len(rows) // _PAIRS)]
        sums.append(float(np.einsum("ij,ij->", vectors[rows], vectors[near[rows, 2 * step - 1]])))
        counts.append(len(rows))
    if not counts[0]:
        return 0.0
    half = WEIGHTS.believed / 2
    seen = (sums[0] / counts[0] - (sums[1] + overall * half) / (counts[1] + half)) / max(1 - overall, 1e-6)
    return (seen * counts[0] + WEIGHTS.lively * WEIGHTS.believed) / (counts[0] + WEIGHTS.believed)


def _terms(text: str, view: _View) -> dict[str, str]:
    """The question's tokens that can tell memories apart, with their words; the speakers' names count elsewhere."""
    return {token: word for token, word in _readings(text) if token not in _ASKED and token not in view.names}


def _meaning(question: Question, view: _View, store: Statistics, trust: float) -> tuple[Vector, Vector, Vector]:
    """Cosine around the store's mean; what the neighbours have over it; that of a question just before. (N,) each"""
    mean = store.mean * np.float32(store.count / (store.count + 10))  # a few memories make no mean
    asked = _unit(_matter(question) - np.float32(WEIGHTS.centre) * mean)
    spread = np.sqrt(np.maximum(1 - 2 * (view.vectors @ mean) + mean @ mean, 1e-6))
    cosine = np.asarray((view.vectors @ asked - mean @ asked) / spread, np.float32)
    if not trust:
        return cosine, np.zeros_like(cosine), np.zeros_like(cosine)
    beside = _beside(cosine, view.near)
    gain = np.where(view.near < len(cosine), beside - cosine[:, None], 0) @ view.kernel / view.kernel.sum()
    asks = _beside(view.facts[:, _ASKS].astype(np.float32), view.near[:, 0])
    return cosine, np.float32(trust) * gain, np.float32(trust) * asks * beside[:, 0]


def _matter(question: Question) -> Vector:
    """The question's vector without its manner: "Can you recommend ..." is near to every request and to no memory."""
    asked = _unit(question.vector)
    if question.asking is None or not len(question.asking):
        return asked
    near = np.exp(WEIGHTS.sharpness * (question.asking @ asked))
    return _unit(asked - WEIGHTS.manner * (near / near.sum()) @ question.asking)


def _wording(terms: Iterable[str], corpus: Corpus, view: _View, store: Statistics, trust: float) -> Vector:
    """Log-odds that the question's words come from here and not from anywhere, (N,), trusted as far as the best place
    covers them: where question and memories have few words in common, those few mislead."""
    n, w = len(view.vectors), WEIGHTS
    total, covered, asked = np.zeros(n, np.float32), np.zeros(n + 1, np.float32), 0.0
    window, session = w.window_words * trust, w.session_words * trust
    base = np.log(w.store_words / (view.length + window + session + w.store_words))
    for term in terms:
        postings = corpus._postings.get(term, {})
        scale = w.store_words * max(store.frequencies.get(term, 0), 0.5) / max(store.words, 1)
        asked += math.log1p(1 / scale)
        if not postings:
            continue
        rows, times = np.array(list(postings), np.int64), np.array(list(postings.values()), np.float32)
        near = np.zeros(n + 1, np.float32)
        near[rows] = times
        for column, weight in enumerate(view.kernel if trust else ()):
            near[view.near[rows, column]] += weight * times
        covered[near > 0] += math.log1p(1 / scale)
        whole = np.bincount(view.session[rows], times, int(view.session.max()) + 1)[view.session]
        often = window * near[:n] / view.window_length + session * whole / view.session_length
        often[rows] += times
        total += np.log1p(often / scale) + base
    return total * np.float32(w.blind + (1 - w.blind) * float(covered[:n].max()) / max(asked, 1e-9))


def _speaking(question: Question, view: _View) -> Vector:
    """1 where the one speaker whom the question names speaks, -1 where another does, 0 elsewhere. (N,)

    "I" names the user and "you" the assistant, at half the weight; a question with both names neither.
    """
    asked = set(tokenize(question.text))
    plain = frozenset[int]().union(*(view.names[token] for token in asked & view.names.keys() - _PRONOUNS))
    named = plain or frozenset[int]().union(*(view.names[token] for token in asked & view.names.keys()))
    if len(named) != 1:
        return np.zeros(len(view.vectors), np.float32)
    weight, speaker = 1.0 if plain else 0.5, view.facts[:, _SPEAKER]
    return np.where(speaker < 0, 0, np.where(speaker == min(named), weight, -weight)).astype(np.float32)


def _inside(question: Question, view: _View) -> Vector:
    """1 within the time that the question names, fading by days outside it, 0 where no time is known. (N,)"""
    moment = view.facts[:, _MOMENT]
    since, until = question.window or (None, None)
    if since is None and until is None:
        return np.zeros(len(moment), np.float32)
    early = since.timestamp() / 86400 - moment if since else np.where(np.isnan(moment), np.nan, 0)
    late = moment - until.timestamp() / 86400 if until else early
    days = np.maximum(np.maximum(early, late), 0)
    return np.nan_to_num(np.exp(-days / WEIGHTS.near_days)).astype(np.float32)


def _manner(question: Question, view: _View, trust: float) -> Vector:
    """What kind of turn it is. In a conversation a short turn is a nod; a short note is a note. (N,)"""
    facts = view.facts
    full = facts[:, _LENGTH] / (facts[:, _LENGTH] + WEIGHTS.brief)
    talk = trust * (facts[:, _SESSION] >= 0) * (WEIGHTS.asks * facts[:, _ASKS] + WEIGHTS.full * (full - 0.5))
    dated = WEIGHTS.dated * facts[:, _DATED] if _WHEN.search(question.text) else 0.0
    return np.asarray(talk + dated + WEIGHTS.priority * facts[:, _PRIORITY], np.float32)


def _why(corpus: Corpus, row: int, terms: Mapping[str, str], evidence: Mapping[str, float]) -> tuple[str, ...]:
    passage = _at(corpus, row)
    words = [word for token, word in terms.items() if token in corpus._counts[row]]
    reasons = (
        (bool(words), "words: " + ", ".join(words)),
        (True, f"meaning {max(evidence['cosine'], 0.0):.2f}"),
        (evidence["answer"] > 0.2, "follows a question like it"),
        (evidence["around"] > 0.05, "beside a matching turn"),
        (evidence["spoken"] > 0, f"spoken by {passage.speaker}"),
        (evidence["inside"] > 0.3, f"said on {passage.occurred_at:%Y-%m-%d}" if passage.occurred_at else ""),
    )
    return tuple(reason for holds, reason in reasons if holds)


def _chance(odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(WEIGHTS.slope * (odds - WEIGHTS.even), -700.0), 700.0)))


def _at(corpus: Corpus, row: int) -> Passage:
    passage = corpus._passages[row]
    assert passage is not None
    return passage


def _count(text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for token in tokenize(text):
        if token not in _STOP:
            counts[token] = counts.get(token, 0) + 1
    return counts


def _unit(vector: NDArray[np.floating]) -> Vector:
    plain = np.asarray(vector, np.float32).ravel()
    length = float(np.linalg.norm(plain.astype(np.float64)))
    if not math.isfinite(length):
        return _unit(np.nan_to_num(plain, nan=0.0, posinf=0.0, neginf=0.0))
    return np.asarray(plain / max(length, 1e-9), np.float32)
