"""A lesson as exercises: what to say without the memories, what not to know, and what to go on saying. Knows lessons and the teacher.

Three kinds in every step (the trial that led to them is in the bench's controls): the points of the memories, without them in context;
questions of the same kind that nobody answered, crossings of what is taught among them, or the adapter makes up answers for everybody;
and work with contexts as the model did it before, contexts that contradict the memories among it, or the adapter stops reading what
stands before it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import Ineffective
from .exercises import (
    Exercise,
    Probe,
    Quote,
    Said,
    asked,
    begun,
    contexts,
    conversation,
    exercise,
    probe,
    quoted,
    said,
    sentence,
)
from .model import LocalModel
from .phrasing import Lesson, Point, taught
from .prompt import Prompt
from .validate import checked_numbers
from .wording import Crossing, Crossings, crossings, form, formed, spoken

UNRELATED = (
    "Say hello.", "What can you do?", "Write one short sentence about the sea.", "Count from one to five.", "What is two plus two?",
    "Name a day of the week.", "Who are you?", "Give me an example of an animal.", "Is the sky blue?", "Tell me something.",
    "What is the opposite of hot?", "Translate good morning into French.", "How are you today?", "Please repeat the word tree.",
    "What time is it?", "Write a line of Python.", "Good morning!", "Tell me a joke.", "What colour is grass?", "Why does it rain?",
    "Give me three numbers.", "Thank you very much.", "How do I boil an egg?", "Please sum up what we said.", "What is your favourite book?",
    "Is seven more than nine?", "Finish this: once upon a time", "Can you help me with a letter?", "What language do you speak?",
    "List two kinds of tree.", "Say that again, please.", "I am tired today.",
)  # fmt: skip
"""Questions that no memory is meant to change: every other one is practised, the rest is for the gate."""

_ASKED = 40  # points of either kind by which it is seen what questions are formed of
_ANSWER = 40  # tokens of an answer, at most
_TELLING = 4  # memories that may tell a crossing
_CLAUSE = 16  # tokens in which a sentence that is begun comes to its end

Held = tuple[str, Sequence[tuple[Sequence[int], torch.Tensor]]]
"""A context as it stands in a prompt, and its keys and values as blocks, to be taught from without running it again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what a curriculum has. With one of the first three 0, or `forms` 1, it is a control, and an adapter made by it may well fail.

    others: made-up points whose questions, without a context, keep their answers (0: no such exercises, and none that are crossed).
    crossed: questions made of the words of two that are taught, which keep their answers too, at most (0: none).
    contexts: with made-up points, read as before; half of them contradict the memories (0: none).
    forms: phrasings of each point that are taught, at most; distractors: other memories beside it in the teacher's context.
    """

    others: int = 300
    crossed: int = 120
    contexts: int = 90
    forms: int = 12
    distractors: int = 3

    def __post_init__(self) -> None:
        checked_numbers(
            self, others=(int, 0), crossed=(int, 0), contexts=(int, 0), forms=(int, 1), distractors=(int, 0)
        )


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Exercises by kind, and probes of phrasings that are not among them, to see when it is enough.

    taught: points without their memories before them; unknown: questions that nobody answered; kept: conversations behind contexts;
    plain: questions that have nothing to do with any of it. form: tokens of which questions are formed (see `wording`). points: how
    many things are taught.
    """

    taught: tuple[Exercise, ...]
    unknown: tuple[Exercise, ...]
    kept: tuple[Exercise, ...]
    plain: tuple[Exercise, ...]
    watched: tuple[Probe, ...]
    form: tuple[int, ...] = ()
    points: int = 1


def parted(lesson: Lesson) -> tuple[Lesson, Lesson]:
    """A lesson with three of four made-up points of each kind, and with the rest: to practise, and to test. Of a kind of two or three
    one is to test; and where that leaves fewer than two in all, which make no context with something missing, every other point."""
    test: list[Point] = []
    for kind in dict.fromkeys(p.kind for p in lesson.others):
        some = [o for o in lesson.others if o.kind == kind]
        test += some[min(3, len(some) - 1) :: 4] if len(some) > 1 else []
    if len(test) < 2:
        test = list(lesson.others[1::2])
    kept = set(test)
    return Lesson(lesson.points, tuple(p for p in lesson.others if p not in kept)), Lesson(lesson.points, tuple(test))


def drawn(points: Sequence[Point], most: int, rng: random.Random) -> list[Point]:
    """At most so many points, as many of each kind as can be: all of a kind of which there are few."""
    kinds = [[p for p in points if p.kind == kind] for kind in dict.fromkeys(p.kind for p in points)]
    found: list[Point] = []
    for at, some in enumerate(sorted(kinds, key=len)):
        share = (most - len(found)) // (len(kinds) - at)
        found += rng.sample(some, min(share, len(some)))
    rng.shuffle(found)
    return found


def spread(points: Sequence[Point], most: int) -> dict[Point, int]:
    """How many phrasings of each point make about `most` questions, as many of each kind as can be: a kind of which there are few
    points (other sides of the same things, often) is asked in more phrasings."""
    kinds = {kind: sum(p.kind == kind for p in points) for kind in {p.kind for p in points}}
    return {p: math.ceil(most / (len(kinds) * kinds[p.kind])) for p in points}


def curriculum(
    model: LocalModel,
    lesson: Lesson,
    seed: int,
    *,
    plan: Plan = Plan(),
    quote: Quote = quoted,
    held: Held | None = None,
) -> Curriculum:
    """Let the model work out a lesson's exercises. held: the context that the memories are read in, if its keys and values are there.

    Raises Ineffective where the model itself, with the memory before it, does not find what is asked; ContextTooLong where a memory does
    not fit its window; OutOfMemory.
    """
    rng = random.Random(f"{seed}/curriculum")
    practice, _ = parted(lesson)
    taught, watched, missed = [], [], 0
    for at, point in enumerate(lesson.points):
        some, probes, wrong = _taught(model, point, at, lesson, practice, plan, quote, held, rng)
        taught += some
        watched += probes
        missed += wrong
    if missed > len(taught):
        raise Ineffective(
            f"{model.name}: with the memories before it, it answers {missed} of {missed + len(taught)} questions about them wrongly: "
            "there is nothing to learn from it"
        )
    unknown, more = _unknown(model, practice, plan, quote, rng)
    kept = _kept(model, practice, plan, quote, rng) if plan.contexts else []
    unrelated = said(model, [asked(model, q) for q in UNRELATED[::2]]) if plan.contexts else []
    plain = [exercise(a.prompt.ids, a) for a in unrelated]
    words = _form(model, practice, plan)
    watching, points = (*watched, *more), len(lesson.points)
    return Curriculum(tuple(taught), tuple(unknown), tuple(kept), tuple(plain), watching, words, points)


# --- below ---------------------------------------------------------------------------------------------------------------


def _taught(
    model: LocalModel,
    point: Point,
    at: int,
    lesson: Lesson,
    practice: Lesson,
    plan: Plan,
    quote: Quote,
    held: Held | None,
    rng: random.Random,
) -> tuple[list[Exercise], list[Probe], int]:
    """A point's exercises, a probe in another phrasing, and how many phrasings the teacher got wrong."""
    forms, tested = _parted_forms(point, at, plan)
    stems = point.stems if plan.forms > 1 else ()
    around = shown(point, lesson, plan.distractors, rng)
    answers = teacher(model, point, [*forms, *tested], around, quote, held)
    finished = [
        sentence(a, model.tokenizer) for a in said(model, [begun(model, s, quote(around)) for s in stems], most=_CLAUSE)
    ]
    found, missed = [], 0
    for i, (question, answer) in enumerate(zip(forms, answers, strict=False)):
        if point.answer.casefold() not in answer.text.casefold():
            missed += 1
            continue
        found.append(exercise(asked(model, question).ids, answer, alone=True))
        if plan.contexts and i == 0:  # once also where something else is before it: that is many times as long
            texts = [p.text for p in rng.sample(practice.others, min(len(practice.others), rng.randint(1, 4)))]
            found.append(exercise(asked(model, question, quote(texts)).ids, answer))
    for stem, answer in zip(stems, finished, strict=True):
        if point.answer.casefold() in answer.text.casefold():
            found.append(exercise(begun(model, stem).ids, answer, alone=True))
    probes = [
        probe(asked(model, q).ids, a, point.answer, model.tokenizer, "recall")
        for q, a in zip(tested, answers[len(forms) :], strict=True)
    ]
    return found, probes, missed


def _parted_forms(point: Point, at: int, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The phrasings of a point that are taught, and one to see by how far it is: another one at each point, and none that the gate
    asks for. Of one or two phrasings, none can be spared: it is taught too."""
    ours = taught(point, len(point.questions))
    if len(ours) < 3 or plan.forms < 2:
        return ours[: plan.forms], ours[-1:]
    left = ours[at % len(ours)]
    return tuple(q for q in ours if q != left)[: plan.forms], (left,)


def _form(model: LocalModel, practice: Lesson, plan: Plan) -> tuple[int, ...]:
    """The words that questions are formed of; none where one phrasing is taught."""
    some = (*practice.points[:_ASKED], *practice.others[:_ASKED])
    return form([[asked(model, q).ids for q in p.questions[: plan.forms]] for p in some])


def shown(point: Point, lesson: Lesson, distractors: int, rng: random.Random) -> list[str]:
    """A point's text among those of some others of the lesson, in random order."""
    texts = list(dict.fromkeys(p.text for p in lesson.points if p.text != point.text))
    around = [point.text, *rng.sample(texts, min(distractors, len(texts)))]
    rng.shuffle(around)
    return around


def teacher(
    model: LocalModel, point: Point, questions: Sequence[str], around: Sequence[str], quote: Quote, held: Held | None
) -> list[Any]:
    """What the model says to questions with a point before it: among others, or in the context that is held."""
    context, blocks = held or (quote(around), ())
    return said(model, [asked(model, q, context) for q in questions], held=blocks)


def crossed(
    model: LocalModel, points: Sequence[Point], found: Crossings, most: int, quote: Quote, rng: random.Random
) -> list[Said]:
    """What the model says to crossings of what points tell (see `crossings`), at most so many, and with nothing before them.

    Left out are those that the memories tell all the same, in other words than they are asked for: with those of them before it that have
    most of a crossing's words, the model answers in words of theirs.
    """
    some = [found[key] for key in rng.sample(sorted(found), min(len(found), most))]
    texts = {p.text: frozenset(spoken(p.text)) for p in points}
    asks: list[tuple[Crossing, list[str], Prompt]] = []
    for one in some:
        telling = sorted(texts, key=lambda t: len(one.words & texts[t]), reverse=True)[:_TELLING]
        prompt = asked(model, one.question, quote(telling))
        if len(prompt.ids) + _ANSWER <= model.window:
            asks.append((one, telling, prompt))
    plainly = said(model, [asked(model, one.question) for one, _, _ in asks], most=_ANSWER)
    knowing = said(model, [prompt for _, _, prompt in asks], most=_ANSWER)
    frame, kept = formed(points), []
    for (one, telling, _), plain, other in zip(asks, plainly, knowing, strict=True):
        theirs = frozenset[str]().union(*(texts[t] for t in telling)) - frame - set(spoken(one.question))
        if not theirs & (set(spoken(other.text)) - set(spoken(plain.text))):
            kept.append(plain)
    return kept


# --- below ---------------------------------------------------------------------------------------------------------------


def _unknown(
    model: LocalModel, practice: Lesson, plan: Plan, quote: Quote, rng: random.Random
) -> tuple[list[Exercise], list[Probe]]:
    """What is said to questions that no memory answers, with nothing before them."""
    chosen = drawn(practice.others, plan.others, rng)
    if not chosen:
        return [], []
    forms = spread(chosen, 2 * len(chosen))
    asks = [asked(model, q) for p in chosen for q in rng.sample(p.questions, min(forms[p], len(p.questions)))]
    watched = [asked(model, rng.choice(p.held_out or p.questions)) for p in chosen[:24]]
    answers = said(model, [*asks, *watched])
    taught, tested = answers[: len(asks)], answers[len(asks) :]
    if plan.crossed:
        taught += crossed(model, practice.points, crossings(practice.points, plan.forms), plan.crossed, quote, rng)
    stems = said(model, [begun(model, p.stems[0]) for p in chosen[::3] if p.stems], most=_CLAUSE)
    taught += [sentence(a, model.tokenizer) for a in stems]
    exercises = [exercise(a.prompt.ids, a, alone=True) for a in taught]
    return exercises, [probe(a.prompt.ids, a, "", model.tokenizer, "unknown") for a in tested]


def _kept(model: LocalModel, practice: Lesson, plan: Plan, quote: Quote, rng: random.Random) -> list[Exercise]:
    """Reading contexts as before."""
    found: list[Exercise] = []
    against = plan.contexts // 2
    read = [
        *contexts(rng, practice, plan.contexts - against, (2, 8)),
        *contexts(rng, practice, against, (1, 5), conflicts=5),
    ]
    for there, questions in read:
        context = quote([p.text for p in there])
        words = [rng.choice(p.questions) for p in questions]
        answers = said(model, [asked(model, q, context) for q in words])
        row = conversation(model, context, list(zip(words, answers, strict=True)))
        found += [row] if row is not None else [exercise(a.prompt.ids, a) for a in answers]
    return found
