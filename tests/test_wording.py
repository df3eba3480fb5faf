"""The words that questions are formed of, and questions without some of them."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memos_core import LocalModel
from memos_core.curriculum import Plan, crossed, curriculum
from memos_core.exercises import Exercise, asked, exercise, quoted, said
from memos_core.gate import Gate, verified
from memos_core.phrasing import Lesson, Point
from memos_core.units import Block
from memos_core.wording import crossings, form, loosened, spoken
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
    wanted = {
        language.ask(f, q) for f in (Fact("Kelvi", "tool", ""), Fact("Balpi", "fruit", "")) for q in language.QUESTIONS
    }
    found = crossings([kelvi, balpi], 9)
    assert {c.question for c in found.values()} == wanted
    assert {c.words for c in found.values()} == {frozenset({"kelvi", "tool"}), frozenset({"balpi", "fruit"})}
    assert all(key == spoken(c.question) for key, c in found.items())
    few = {c.question for c in crossings([kelvi, balpi], 2).values()}
    assert few == {q for q in wanted if q.startswith(("What is ", "Tell me the "))}


def test_what_is_told_is_no_crossing() -> None:
    found = crossings(points(*FACTS[:2], Fact("Kelvi", "tool", "saw")), 9)
    assert set(found) == {spoken(language.ask(Fact("Balpi", "fruit", ""), q)) for q in language.QUESTIONS}


def asks(*questions: str) -> Point:
    """A point that is asked for in these words, and once more for the gate."""
    return Point("A note.", "note", questions, ("And what of it?",))


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        pytest.param(
            ("What is Ann's job?", "Tell me Ann's job."), ("Which is Bob's town?", "Tell me Bob's town."),
            {"Tell me Ann's town.", "Tell me Bob's job."}, id="words of the form are not crossed",
        ),
        pytest.param(("What is Ann's job?",), ("What is  Bob's job.",), set(), id="stops and spaces are no words"),
        pytest.param(("What is Ann's job?",), ("WHAT IS ANN'S JOB",), set(), id="nor are capitals"),
        pytest.param(
            ("Ann Lee's job?",), ("Bob Lee's home town?",), set(), id="not as many words",
        ),
        pytest.param(
            ("राम का फल क्या है?",), ("सीता का घर क्या है?",), {"राम का घर क्या है?", "सीता का फल क्या है?"}, id="marks are parts of words",
        ),
        pytest.param(("安的工作是什么？",), ("鲍勃的城市是什么？",), set(), id="text without spaces is one word"),
    ],
)  # fmt: skip
def test_what_is_crossed_are_words_that_questions_are_about(
    one: tuple[str, ...], other: tuple[str, ...], wanted: set[str]
) -> None:
    for some in (1, 2):
        found = {c.question for c in crossings([asks(*one), asks(*other)], some).values()}
        assert found <= wanted
    assert found == wanted


def test_phrasings_of_one_point_are_not_crossed() -> None:
    ann = asks("Where does Ann live now?", "Where does Ann reside today?")
    assert crossings([ann, *points(*FACTS)], 9).keys() == crossings(points(*FACTS), 9).keys()


def test_many_points_are_crossed_in_a_moment() -> None:
    many = points(*(Fact(name, "fruit" if at % 2 else "tool", "x") for at, name in enumerate(language.NAMES[:500])))
    began = time.perf_counter()
    assert len(crossings(many, 9)) > 1000
    assert time.perf_counter() - began < 60


def questions(model: LocalModel, told: list[Point]) -> set[str]:
    found = crossed(model, told, crossings(told, 9), 100, quoted, random.Random(0))
    return {a.prompt.text for a in found}


def test_a_crossing_that_the_memories_tell_in_other_words_is_none(model: LocalModel) -> None:
    kelvi, balpi = points(*FACTS[:2])
    untold = asked(model, "What is Kelvi's tool?").text, asked(model, "What is Balpi's fruit?").text
    assert set(untold) <= questions(model, [kelvi, balpi])
    both = replace(kelvi, text=f"{kelvi.text} Kelvi's tool is saw.")  # of which only the fruit is asked for
    third = Point("Kelvi's tool is saw.", "saw", ("And what does Kelvi work with?",))
    more = points(Fact("Dorma", "tool", "axe"), Fact("Kelvi", "city", "velmon"), Fact("Gilsa", "tool", "pot"))
    for told in ([both, balpi], [kelvi, balpi, *more, third]):
        found = questions(model, told)
        assert untold[0] not in found
        assert untold[1] in found


def test_crossings_are_practised_and_examined_as_a_kind_of_their_own(model: LocalModel) -> None:
    told, others = points(*FACTS), lessons.Phrasing(others=12)([p.text for p in points(*FACTS)]).others
    lesson = Lesson(tuple(told), others)
    untold = asked(model, "What is Kelvi's tool?").text

    def practised(plan: Plan) -> set[str]:
        found = curriculum(model, lesson, 0, plan=plan)
        return {model.tokenizer.decode(e.ids[: e.at[0] + 1]) for e in found.unknown}

    assert untold in practised(Plan(contexts=0))
    assert untold not in practised(Plan(contexts=0, crossed=0))
    block = Block(model)
    nothing = block.lora(block.part(range(4)))
    scores = verified(model, nothing, lesson, gate=Gate(contexts=2, others=40))
    assert scores.unknown["crossing"] == 1
    assert set(scores.unknown) == {"other name", "other attribute", "other both", "crossing"}


def test_what_is_too_long_together_is_not_asked(model: LocalModel) -> None:
    long = [replace(p, text=p.text + " It was so." * 400) for p in points(*FACTS[:2])]
    assert len(model.encode(long[0].text).ids) < model.window < 2 * len(model.encode(long[0].text).ids)
    assert questions(model, long) == set()
