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
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from .corpus import (
    ALIVE,
    ASKS,
    DATED,
    LENGTH,
    MOMENT,
    PRIORITY,
    SESSION,
    SPEAKER,
    WEIGHTS,
    Corpus,
    Passage,
    Statistics,
    Vector,
    View,
    at,
    beside_of,
    look,
    unit,
)
from .words import ASKED, ASKING, PRONOUNS, WHEN, readings, tokenize

__all__ = ["ASKING", "WEIGHTS", "Corpus", "Passage", "Question", "Ranked", "Statistics", "rank", "tokenize"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, its vector, and the time that it names, if it does: a preference and not a filter."""

    text: str
    vector: Vector
    now: datetime | None = None
    window: tuple[datetime | None, datetime | None] | None = None
    asking: Vector | None = None  # the vectors of ASKING by the same embedder, (questions, width); None leaves it out


@dataclass(frozen=True, slots=True)
class Ranked:
    """One memory found: the chance in [0, 1] that it is what was asked for, and the reasons in words."""

    id: str
    score: float
    why: tuple[str, ...]


def rank(
    question: Question, corpus: Corpus, k: int, *, statistics: Statistics | None = None, among: Set[str] | None = None
) -> list[Ranked]:
    """The k passages that answer the question best, best first, ties by id; all of them if there are fewer.

    With `among`, only passages of these ids are found; the others still speak for their neighbours.
    """
    k = min(k, len(corpus) if among is None else sum(id in corpus for id in among))
    if k < 1:
        return []
    view = look(corpus)
    store = statistics if statistics and statistics.count else view.store
    trust = min(max(store.coherence / WEIGHTS.lively, 0.0), 1.0)
    terms = _terms(question.text, view)
    cosine, around, answer = _meaning(question, view, store, trust)
    spoken, inside = _speaking(question, view), _inside(question, view)
    score = WEIGHTS.meaning * cosine + WEIGHTS.around * around + WEIGHTS.answer * answer
    score += WEIGHTS.wording * _wording(terms, corpus, view, store, trust)
    score += WEIGHTS.speaker * spoken + WEIGHTS.inside * inside + _manner(question, view, trust)
    if among is None:
        score[view.facts[:, ALIVE] == 0] = -np.inf
    else:
        wanted = [corpus._row[id] for id in among if id in corpus]
        score, every = np.full_like(score, -np.inf), score
        score[wanted] = every[wanted]
    floor = np.partition(score, -k)[-k]
    found = [(-float(score[row]), at(corpus, row).id, row) for row in np.flatnonzero(score >= floor).tolist()]
    evidence = {"cosine": cosine, "around": around, "answer": answer, "spoken": spoken, "inside": inside}
    return [
        Ranked(
            id,
            _chance(-negative, store.count),
            _why(corpus, row, terms, {name: float(x[row]) for name, x in evidence.items()}),
        )
        for negative, id, row in sorted(found)[:k]
    ]


def _terms(text: str, view: View) -> dict[str, str]:
    """The question's tokens that can tell memories apart, with their words; the speakers' names count elsewhere."""
    return {token: word for token, word in readings(text) if token not in ASKED and token not in view.names}


def _meaning(question: Question, view: View, store: Statistics, trust: float) -> tuple[Vector, Vector, Vector]:
    """Cosine around the store's mean; what the neighbours have over it; that of a question just before. (N,) each"""
    mean = store.mean * np.float32(store.count / (store.count + 10))  # a few memories make no mean
    asked = unit(_matter(question) - np.float32(WEIGHTS.centre) * mean)
    spread = np.sqrt(np.maximum(1 - 2 * (view.vectors @ mean) + mean @ mean, 1e-6))
    cosine = np.asarray((view.vectors @ asked - mean @ asked) / spread, np.float32)
    if not trust:
        return cosine, np.zeros_like(cosine), np.zeros_like(cosine)
    beside = beside_of(cosine, view.near)
    gain = np.where(view.near < len(cosine), beside - cosine[:, None], 0) @ view.kernel / view.kernel.sum()
    asks = beside_of(view.facts[:, ASKS].astype(np.float32), view.near[:, 0])
    return cosine, np.float32(trust) * gain, np.float32(trust) * asks * beside[:, 0]


def _matter(question: Question) -> Vector:
    """The question's vector without its manner: "Can you recommend ..." is near to every request and to no memory."""
    asked = unit(question.vector)
    if question.asking is None or not len(question.asking):
        return asked
    asking = question.asking / np.maximum(np.linalg.norm(question.asking, axis=1, keepdims=True), 1e-9)
    near = np.exp(WEIGHTS.sharpness * (asking @ asked))
    return unit(asked - WEIGHTS.manner * (near / near.sum()) @ asking)


def _wording(terms: Iterable[str], corpus: Corpus, view: View, store: Statistics, trust: float) -> Vector:
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


def _speaking(question: Question, view: View) -> Vector:
    """1 where the one speaker whom the question names speaks, -1 where another does, 0 elsewhere. (N,)

    "I" names the user and "you" the assistant, at half the weight; a question with both names neither.
    """
    asked = set(tokenize(question.text))
    plain = frozenset[int]().union(*(view.names[token] for token in asked & view.names.keys() - PRONOUNS))
    named = plain or frozenset[int]().union(*(view.names[token] for token in asked & view.names.keys()))
    if len(named) != 1:
        return np.zeros(len(view.vectors), np.float32)
    weight, speaker = 1.0 if plain else 0.5, view.facts[:, SPEAKER]
    return np.where(speaker < 0, 0, np.where(speaker == min(named), weight, -weight)).astype(np.float32)


def _inside(question: Question, view: View) -> Vector:
    """1 within the time that the question names, fading by days outside it, 0 where no time is known. (N,)"""
    moment = view.facts[:, MOMENT]
    since, until = question.window or (None, None)
    if since is None and until is None:
        return np.zeros(len(moment), np.float32)
    early = since.timestamp() / 86400 - moment if since else np.where(np.isnan(moment), np.nan, 0)
    late = moment - until.timestamp() / 86400 if until else early
    days = np.maximum(np.maximum(early, late), 0)
    return np.nan_to_num(np.exp(-days / WEIGHTS.near_days)).astype(np.float32)


def _manner(question: Question, view: View, trust: float) -> Vector:
    """What kind of turn it is. In a conversation a short turn is a nod; a short note is a note. (N,)"""
    facts = view.facts
    full = facts[:, LENGTH] / (facts[:, LENGTH] + WEIGHTS.brief)
    talk = trust * (facts[:, SESSION] >= 0) * (WEIGHTS.asks * facts[:, ASKS] + WEIGHTS.full * (full - 0.5))
    dated = WEIGHTS.dated * facts[:, DATED] if WHEN.search(question.text) else 0.0
    return np.asarray(talk + dated + WEIGHTS.priority * facts[:, PRIORITY], np.float32)


def _why(corpus: Corpus, row: int, terms: Mapping[str, str], evidence: Mapping[str, float]) -> tuple[str, ...]:
    passage = at(corpus, row)
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


def _chance(odds: float, count: int) -> float:
    """The chance that a memory is what was asked for. The fewer there are, the likelier each is beforehand (Bayes); in stores
    larger than those that the numbers come from, rarer words make up for it."""
    before = max(0.0, math.log(WEIGHTS.among) - math.log(max(count, 1)))
    return 1 / (1 + math.exp(-min(max(WEIGHTS.slope * (odds - WEIGHTS.even) + before, -700.0), 700.0)))
