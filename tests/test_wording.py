"""The words that questions are formed of, and questions without some of them."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memos_core import LocalModel
from memos_core.curriculum import Plan, curriculum
from memos_core.exercises import Exercise, asked, exercise, said
from memos_core.phrasing import Lesson, Point
from memos_core.wording import crossings, form, loosened
from tests.tiny_lm import language, lessons
from tests.tiny_lm.language import Fact

FACTS = (Fact("Kelvi", "fruit", "melon"), Fact("Balpi", "tool", "hammer"), Fact("Tolsha", "city", "velmon"))


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel(Path(__file__).parent / "tiny_lm", device="cpu")


@pytest.fixture(scope="module")
def words(model: LocalModel) -> tuple[int, ...]:
    return form([[asked(model, language.ask(f, q)).ids for q in language.QUESTIONS] for f in FACTS])


def test_the_form_is_what_some_phrasings_have_and_what_is_asked_for_is_no_part_of_it(
    model: LocalModel, words: tuple[int, ...]
) -> None:
    text = {model.tokenizer.decode([t]).strip() for t in words}
    assert {"What", "is", "Tell", "the", "of", "?"} <= text
    asked_for = {t for f in FACTS for t in model.encode(f"{f.name} {f.attribute}").ids}
    template = set(asked(model, "").ids)
    assert not asked_for & set(words)
    assert not template & set(words)


def test_of_one_phrasing_nothing_is_told(model: LocalModel) -> None:
    assert form([[asked(model, language.ask(f, language.QUESTIONS[0])).ids] for f in FACTS]) == ()


def test_what_is_asked_for_stays_and_the_answer_follows_it(model: LocalModel, words: tuple[int, ...]) -> None:
    [answer] = said(model, [asked(model, "What is Kelvi's fruit?")])
    one = exercise(answer.prompt.ids, answer, alone=True)
    kept = [t for t in answer.prompt.ids if t not in words]
    changed = 0
    for seed in range(20):
        other = loosened(one, words, random.Random(seed))
        prompt = other.ids[: other.at[0] + 1]
        assert [t for t in prompt if t not in words] == kept
        assert other.ids[len(prompt) :] == one.ids[len(answer.prompt.ids) :]
        assert len(other.ids) == other.at[-1] + 1
        assert other.likely is one.likely
        changed += prompt != answer.prompt.ids
    assert changed >= 15


def test_a_question_without_words_of_the_form_stays_as_it_is() -> None:
    nothing = torch.zeros(1, 1)
    one = Exercise((7, 8, 9), (2,), nothing.long(), nothing)
    assert loosened(one, (1, 2), random.Random(0)).ids == one.ids


def points(*facts: Fact) -> list[Point]:
    return [lessons.point(f, language.state(f, language.STATEMENTS[0])) for f in facts]


def test_of_two_that_are_taught_the_crossing_is_asked_in_each_taught_phrasing() -> None:
    kelvi, balpi = points(*FACTS[:2])
    found = crossings([kelvi, balpi], 9)
    wanted = {
        language.ask(f, q) for f in (Fact("Kelvi", "tool", ""), Fact("Balpi", "fruit", "")) for q in language.QUESTIONS
    }
    assert set(found) == wanted
    assert set(found.values()) == {(kelvi, balpi)}
    assert set(crossings([kelvi, balpi], 2)) == {q for q in wanted if q.startswith(("What is ", "Tell me the "))}


def test_what_is_told_is_no_crossing() -> None:
    found = crossings(points(*FACTS[:2], Fact("Kelvi", "tool", "saw")), 9)
    assert set(found) == {language.ask(Fact("Balpi", "fruit", ""), q) for q in language.QUESTIONS}


def test_words_of_the_form_are_not_crossed() -> None:
    ann = Point("Ann is a baker.", "baker", ("What is Ann's job?", "Tell me Ann's job.", "Ann's job?"))
    bob = Point("Bob lives in Rome.", "Rome", ("Which is Bob's town?", "Tell me Bob's town.", "Bob's town?"))
    assert set(crossings([ann, bob], 3)) == {"Tell me Ann's town.", "Tell me Bob's job."}


def test_many_points_are_crossed_in_a_moment() -> None:
    many = points(*(Fact(name, "fruit" if at % 2 else "tool", "x") for at, name in enumerate(language.NAMES[:500])))
    began = time.perf_counter()
    assert len(crossings(many, 9)) > 1000
    assert time.perf_counter() - began < 60


def test_a_crossing_is_practised_as_unknown_unless_the_memories_tell_it_in_other_words(model: LocalModel) -> None:
    kelvi, balpi = points(*FACTS[:2])
    # one text tells of both, and the second is asked for in words that make it look untold
    both = f"{kelvi.text} Kelvi's tool is saw."
    told = [replace(kelvi, text=both), balpi, Point(both, "saw", ("And what does Kelvi work with?",))]
    others = lessons.Phrasing(others=12)([kelvi.text]).others

    def practised(some: list[Point]) -> set[str]:
        found = curriculum(model, Lesson(tuple(some), others), 0, plan=Plan(contexts=0))
        return {model.tokenizer.decode(e.ids[: e.at[0] + 1]) for e in found.unknown}

    crossing = asked(model, "What is Kelvi's tool?").text
    assert crossing in practised([kelvi, balpi])
    assert crossing not in practised(told)
    assert asked(model, "What is Balpi's fruit?").text in practised(told)
