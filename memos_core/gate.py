"""The gate: whether an adapter does what it is for and nothing else. What does not pass is never used.

Everything is measured against the plain model on prompts that were not trained on: its answers with the memories before it are what
recall is relative to, and its answers to all else are what must not change. Looking at recall alone would pass an adapter that has an
answer for everybody and reads no context any more; that is what training without precautions makes.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields

import torch

from .blobs import digest
from .curriculum import UNRELATED, Held, crossed, drawn, parted, shown, spread, teacher
from .exercises import Probe, Quote, Said, asked, batches, contexts, divergences, followed, probe, quoted, said
from .lora import LoRA
from .model import LocalModel
from .parametric import Adapters
from .phrasing import Lesson, Point, contradicted, untaught
from .validate import checked_numbers
from .wording import crossings, spoken

_LEAST = 5  # probes of what is sampled: fewer are all right by chance oftener than once in twenty if every second answer is wrong
_ROUNDS = 8  # in which contexts are drawn, if those of the first make no such number of different probes
_SAMPLED = ("unknown", "unknown in context", "in context", "conflict")
ALIKE = 0.05  # nats a token: an answer that is no further from what was said before counts as the same


@dataclass(frozen=True, slots=True)
class Gate:
    """What an adapter must reach, and on how much it is measured.

    recall: share of held-out phrasings answered without context, of those that the model answers with it.
    unknown: share of questions that no memory answers whose answer stays as it was, by kind, without a context and with one.
    lost, overruled: shares of answers from contexts, and from contexts that contradict the memories, that may get lost.
    drift: mean divergence, in nats a token, on questions that have nothing to do with the memories; worst: that of each of them. A rule
        that one of them meets changes its answer by several nats, and the mean of all by little.
    contexts: made-up ones that it is measured on, more where these are too few to say anything; others: about so many questions that
        no memory answers.
    """

    recall: float = 0.95
    unknown: float = 0.95
    lost: float = 0.02
    overruled: float = 0.03
    drift: float = 0.25
    worst: float = 1.0
    contexts: int = 36
    others: int = 150

    def __post_init__(self) -> None:
        checked_numbers(
            self, recall=(float, 0, 1), unknown=(float, 0, 1), lost=(float, 0, 1), overruled=(float, 0, 1), drift=(float, 0),
            worst=(float, 0), contexts=(int, 1), others=(int, 1),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured of an adapter. Shares are of probes on which the plain model is right (with the memories, for recall).

    recall, recall_in_context, recall_without: of the held-out phrasings answered with the adapter and no context; by the plain model
        with the memories before it; by the plain model without them.
    unknown: by kind, of questions that no memory answers, without context; crossings of what they tell (see `wording`) are a kind of their
        own, as they may have been practised. unknown_in_context: with a context that does not answer either.
    in_context, conflict: of answers from contexts, and from contexts that contradict the memories, that are kept.
    drift, worst_drift: divergence on unrelated questions, nats a token: the mean, and of the question that changed most.
    learned: hashes of the texts that are known: each of its points is answered in most of the phrasings that were asked.
    probes: how many different ones there were of each. Where no contradiction can be made (of memories whose answers are not words of
        theirs) `conflict` is not among them, and its share is 1. A share of too few is no evidence, and a failure.
    failures: in words, what did not pass; empty if it did.
    """

    recall: float
    recall_in_context: float
    recall_without: float
    unknown: Mapping[str, float]
    unknown_in_context: float
    in_context: float
    conflict: float
    drift: float
    worst_drift: float
    probes: Mapping[str, int]
    failures: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it may be used."""
        return not self.failures


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Probes of one kind and, for those that are not judged by words, what was said; the point that is asked for, where it is one of the
    memories', and the context before it."""

    probe: Probe
    answer: Said
    point: Point | None = None
    context: str = ""


def verified(
    model: LocalModel,
    lora: LoRA,
    lesson: Lesson,
    *,
    gate: Gate = Gate(),
    seed: int = 0,
    quote: Quote = quoted,
    held: Held | None = None,
) -> Scores:
    """Measure an adapter on the part of a lesson that is for testing; `Scores.failures` says what did not pass.

    Raises ModelMismatch, InvalidArgument: it does not fit the model.
    """
    rng = random.Random(f"{seed}/gate")
    _, test = parted(lesson)
    groups = {
        "recall": _recall(model, test, quote, held, rng),
        "unknown": _unknown(model, test, gate, quote, rng),
        **_contexts(model, test, gate, quote, rng),
        "unrelated": [
            _Asked(probe(a.prompt.ids, a, "", model.tokenizer), a)
            for a in said(model, [asked(model, q) for q in UNRELATED[1::2]])
        ],
    }
    every = [a for some in groups.values() for a in some]
    after = _right(model, lora, every)
    found, at = {}, 0
    for name, some in groups.items():
        found[name] = list(zip(some, after[at : at + len(some)], strict=True))
        at += len(some)
    return judged(_scores(found, _right(model, None, groups["recall"]), test.points), gate)


# --- what is asked -------------------------------------------------------------------------------------------------------


def _recall(model: LocalModel, test: Lesson, quote: Quote, held: Held | None, rng: random.Random) -> list[_Asked]:
    found = []
    for point in test.points:
        questions = untaught(point)
        answers = teacher(model, point, questions, shown(point, test, 3, rng), quote, held)
        for question, answer in zip(questions, answers, strict=True):
            ids = asked(model, question).ids
            found.append(_Asked(probe(ids, answer, point.answer, model.tokenizer, "recall"), answer, point))
    return found


def _unknown(model: LocalModel, test: Lesson, gate: Gate, quote: Quote, rng: random.Random) -> list[_Asked]:
    """Made-up points, and crossings of what the memories tell: a kind of their own, as they may have been practised."""
    most, forms = max(gate.others, _LEAST), max((len(p.questions) for p in test.points), default=0)
    practised = crossings(test.points, forms)
    left = {p: tuple(q for q in (*p.questions, *p.held_out) if spoken(q) not in practised) for p in test.others}
    points = drawn([p for p, some in left.items() if some], most, rng)
    asks = {q: p for p, n in spread(points, most).items() for q in rng.sample(left[p], min(n, len(left[p])))}
    answers = said(model, [asked(model, q) for q in asks])
    kinds = [*(p.kind or "other" for p in asks.values())]
    found = [_Asked(probe(a.prompt.ids, a, "", model.tokenizer, k), a) for k, a in zip(kinds, answers, strict=True)]
    crossing = crossed(model, test.points, practised, most // (len(set(kinds)) + 1), quote, rng)
    return found + [_Asked(probe(a.prompt.ids, a, "", model.tokenizer, "crossing"), a) for a in crossing]


def _contexts(model: LocalModel, test: Lesson, gate: Gate, quote: Quote, rng: random.Random) -> dict[str, list[_Asked]]:
    """Answers from contexts that tell them, that do not, and that contradict the memories."""
    found: dict[str, list[_Asked]] = {"in context": [], "unknown in context": [], "conflict": []}
    pairs = ((p, o) for p in test.points for o in (*test.points, *test.others))
    possible = any(contradicted(point, other) is not None for point, other in pairs)
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for conflicts, size in ((0, (2, 8)), (3, (1, 5))):
        wanted = ["in context", "unknown in context"] if not conflicts else ["conflict"] if possible else []
        for _ in range(_ROUNDS):
            before = len(seen)
            for there, points in contexts(rng, test, gate.contexts, size, conflicts=conflicts):
                for one in _behind(model, there, points, quote, rng):
                    kind, ids = one.probe.kind, one.probe.ids
                    if one.probe.right and (kind, ids) not in seen and not (conflicts and kind == "unknown in context"):
                        seen.add((kind, ids))
                        found[kind].append(one)
            if len(seen) == before or all(len(found[kind]) >= _LEAST for kind in wanted):
                break
    if not possible:
        del found["conflict"]
    return found


def _behind(
    model: LocalModel, there: Sequence[Point], points: Sequence[Point], quote: Quote, rng: random.Random
) -> list[_Asked]:
    """Points asked for behind a context of some of them."""
    context = quote([p.text for p in there])
    answers = said(model, [asked(model, rng.choice((*p.questions, *p.held_out)), context) for p in points])
    found = []
    for point, answer in zip(points, answers, strict=True):
        told = point in there
        kind = "conflict" if point.kind == "conflict" else "in context" if told else "unknown in context"
        words = point.answer if told else ""
        found.append(_Asked(probe(answer.prompt.ids, answer, words, model.tokenizer, kind), answer, context=context))
    return found


# --- what comes of it ----------------------------------------------------------------------------------------------------


def _right(model: LocalModel, lora: LoRA | None, every: Sequence[_Asked]) -> list[tuple[bool, float]]:
    """For each probe whether what is judged is the likeliest in its place, and the mean divergence from what was said, nats a token."""
    found: dict[_Asked, tuple[bool, float]] = {}
    change = Adapters(model, lora.bytes).change(lora) if lora is not None else None
    contexts: dict[str, list[_Asked]] = defaultdict(list)
    for a in every:
        contexts[a.context].append(a)
    for some in (s for rows in contexts.values() for s in batches(rows, lambda a: len(a.probe.ids))):
        rows = [(a.probe.ids, _answered(a)) for a in some]
        shared = model.cache() if some[0].context and model.reuses_blocks else None
        with (
            model.memory_errors(),
            model.exclusive() as network,
            torch.inference_mode(),
            change.made(network) if change else nullcontext(),
        ):
            logits = followed(network, rows, model.device, shared).cpu()
        strayed = divergences(
            torch.cat([a.answer.likely for a in some]), torch.cat([a.answer.logs for a in some]), logits
        )
        place = 0
        for a, (_, positions) in zip(some, rows, strict=True):
            here = slice(place, place + len(positions))
            likeliest = dict(zip(positions, logits[here].argmax(-1).tolist(), strict=True))
            exact = all(likeliest[i] == a.probe.ids[i + 1] for i in a.probe.judged)
            found[a] = (exact, float(strayed[here].mean()))
            place = here.stop
    return [found[a] for a in every]


def _answered(a: _Asked) -> list[int]:
    """The positions behind which the tokens of the answer come."""
    first = len(a.probe.ids) - len(a.answer.ids) - 1
    return list(range(first, len(a.probe.ids) - 1))


_Found = Sequence[tuple[_Asked, tuple[bool, float]]]


def _scores(found: Mapping[str, _Found], before: Sequence[tuple[bool, float]], points: Sequence[Point]) -> Scores:
    """before: of the probes of recall, with the plain model. points: what the memories tell."""
    recall = found["recall"]
    right = [f for f in recall if f[0].probe.right]
    kinds = dict.fromkeys(f[0].probe.kind for f in found["unknown"])
    strayed = [after[1] for _, after in found["unrelated"]]
    return Scores(
        recall=_share([a[0] for p, a in recall if p.probe.right], len(recall)),
        recall_in_context=_share([True] * len(right), len(recall)),
        recall_without=_share([b[0] for (p, _), b in zip(recall, before, strict=True) if p.probe.right], len(recall)),
        unknown={k: _kept([f for f in found["unknown"] if f[0].probe.kind == k]) for k in kinds},
        unknown_in_context=_kept(found["unknown in context"]),
        in_context=_kept(found["in context"]),
        conflict=_kept(found.get("conflict", ())),
        drift=sum(strayed) / len(strayed),
        worst_drift=max(strayed),
        probes={name: len(some) for name, some in found.items()},
        learned=_learned(recall, points),
    )


def _learned(recall: _Found, points: Sequence[Point]) -> tuple[str, ...]:
    asked, right = (
        Counter(p.point for p, _ in recall),
        Counter(p.point for p, after in recall if p.probe.right and after[0]),
    )
    unknown = {p.text for p in points if 2 * right[p] <= asked[p]}  # one that nothing asked for, too
    return tuple(digest(text.encode()) for text in dict.fromkeys(p.text for p in points) if text not in unknown)


def _share(right: Sequence[bool], of: int) -> float:
    return sum(right) / of if of else 0.0


def _kept(found: _Found) -> float:
    """The share of answers that are as before: the same words, or no further away than counts."""
    if not found:
        return 1.0
    return sum(after[0] or after[1] <= ALIKE for _, after in found) / len(found)


def judged(scores: Scores, gate: Gate) -> Scores:
    """What was measured, with what of it does not pass a gate."""
    wanted = gate.recall * scores.recall_in_context
    checks = [
        ("recall on phrasings not taught", scores.recall, wanted),
        *((f"unknown kept, {kind}", share, gate.unknown) for kind, share in scores.unknown.items()),
        ("unknown kept, in a context", scores.unknown_in_context, gate.unknown),
        ("answers from contexts kept", scores.in_context, 1 - gate.lost),
        ("contexts that contradict win", scores.conflict, 1 - gate.overruled),
    ]
    failures = [
        f"{what}: {share:.3f}, and {least:.3f} is needed" for what, share, least in checks if not share >= least - 1e-9
    ]
    counts = {what: scores.probes[what] for what in _SAMPLED if what in scores.probes}
    failures += [
        f"{what}: {n} probes, and {_LEAST} are needed to say anything" for what, n in counts.items() if n < _LEAST
    ]
    if not scores.probes["recall"]:
        failures.append(
            "recall on phrasings not taught: there are none to ask; give each point a phrasing that is held out"
        )
    elif scores.recall_in_context < 0.5:
        failures.append(
            f"recall with the memories in context: {scores.recall_in_context:.3f}: there is nothing to compare with"
        )
    if not scores.drift <= gate.drift:
        failures.append(
            f"unrelated questions: {scores.drift:.3f} nats a token of drift, and at most {gate.drift:g} is allowed"
        )
    if not scores.worst_drift <= gate.worst:
        failures.append(
            f"one unrelated question: {scores.worst_drift:.3f} nats a token of drift, and at most {gate.worst:g} is allowed"
        )
    return Scores(
        **{f.name: getattr(scores, f.name) for f in fields(scores) if f.name != "failures"}, failures=tuple(failures)
    )
