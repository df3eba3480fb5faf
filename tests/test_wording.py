"""The words that questions are formed of, and questions without some of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from memos_core import LocalModel
from memos_core.exercises import Exercise, asked, exercise, said
from memos_core.wording import form, loosened
from tests.tiny_lm import language
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
