"""Practice between two questions: what lies there, and that the plain model's word is what is to be said there."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memos_core import LocalModel
from memos_core.between import Pairs, drawn, pairs
from memos_core.exercises import Exercise, asked, exercise, quoted, said
from tests.tiny_lm import language
from tests.tiny_lm.language import Fact

TOLD = (Fact("Kelvi", "fruit", "melon"), Fact("Kelvi", "city", "velmon"), Fact("Balpi", "tool", "hammer"))
UNTOLD = (Fact("Kelvi", "band", ""), Fact("Zorpa", "fruit", ""))


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel(Path(__file__).parent / "tiny_lm", device="cpu")


def exercises(model: LocalModel, facts: tuple[Fact, ...], form: str = language.QUESTIONS[0]) -> list[Exercise]:
    """Questions without a context, and what is said to them with the fact before them, if it is one."""
    found = []
    for fact in facts:
        question = language.ask(fact, form)
        context = quoted([language.state(fact, language.STATEMENTS[0])]) if fact.value else ""
        [answer] = said(model, [asked(model, question, context)])
        found.append(exercise(asked(model, question).ids, answer))
    return found


def test_a_pair_is_of_questions_that_differ_in_a_word_or_two_and_the_first_is_taught(model: LocalModel) -> None:
    taught, unknown = exercises(model, TOLD), exercises(model, UNTOLD)
    found = pairs([*taught, *exercises(model, TOLD[:1], language.QUESTIONS[1])], unknown)
    known = {e.ids[: e.at[0] + 1] for e in taught}
    assert all(one in known and len(one) == len(other) for one, other in found.prompts)
    assert {sum(a != b for a, b in zip(*pair, strict=True)) for pair in found.prompts} == {1, 2}
    fruit, city, tool = (e.ids[: e.at[0] + 1] for e in taught)
    band, stranger = (e.ids[: e.at[0] + 1] for e in unknown)
    assert set(found.prompts) == {(fruit, city), (fruit, band), (fruit, stranger), (city, band)}
    assert tool in known


def test_of_two_that_are_taught_some_words_are_crossed_and_never_those_of_the_form(model: LocalModel) -> None:
    taught, unknown = exercises(model, TOLD), exercises(model, UNTOLD)
    found = pairs(taught, unknown)
    fruit, city, tool = (e.ids[: e.at[0] + 1] for e in taught)
    assert {frozenset(pair) for pair in found.crossed} <= {frozenset((fruit, tool)), frozenset((city, tool))}
    assert (fruit, tool) in found.crossed
    assert (tool, fruit) in found.crossed
    asked_for = [i for i, (a, b) in enumerate(zip(fruit, tool, strict=True)) if a != b]
    assert not pairs(taught, unknown, [fruit[i] for i in asked_for]).crossed
    embed = model.network.get_input_embeddings()
    only = Pairs(((fruit, city),), found.answers, ((fruit, tool),))
    seen = set()
    for seed in range(40):
        row = drawn(only, 1, random.Random(seed), embed, model.device).embedded[0, : len(fruit)]
        seen.add(sum(not torch.allclose(row[i], embed(torch.tensor(fruit[i])), atol=1e-6) for i in asked_for))
    assert seen == set(range(1, len(asked_for)))  # some of them, and never all


def test_two_phrasings_of_one_thing_are_no_pair(model: LocalModel) -> None:
    [one], [other] = exercises(model, TOLD[:1]), exercises(model, TOLD[1:2])
    same = replace(other, likely=one.likely, logs=one.logs)
    assert pairs([one, other], exercises(model, UNTOLD)).prompts[0][0] == one.ids[: one.at[0] + 1]
    assert (one.ids[: one.at[0] + 1], other.ids[: other.at[0] + 1]) not in pairs(
        [one, same], exercises(model, UNTOLD)
    ).prompts


def test_nobody_says_unknown_and_there_is_nothing_between(model: LocalModel) -> None:
    assert pairs(exercises(model, TOLD), []).prompts == ()


def test_a_row_lies_on_the_line_between_its_two_questions(model: LocalModel) -> None:
    found = pairs(exercises(model, TOLD), exercises(model, UNTOLD))
    embed = model.network.get_input_embeddings()
    one, other = found.prompts[0]
    batch = drawn(Pairs((found.prompts[0],), found.answers[:1]), 1, random.Random(1), embed, model.device)
    first, second = (embed(torch.tensor(ids)).detach() for ids in (one, other))
    here, apart = batch.embedded[0, : len(one)], (first - second).norm()
    shares = (here - second).norm() / apart, (first - here).norm() / apart
    assert float(sum(shares)) == pytest.approx(1, abs=1e-4)
    assert 0.35 <= float(shares[0]) <= 0.65
    assert list(batch.places[0]) == list(range(len(one) - 1, len(one) + len(found.answers[0])))
