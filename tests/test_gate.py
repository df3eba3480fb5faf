"""The gate passes nothing that it could not measure. The network is random: what adapters of one that knows something score is in
`test_distil.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from memos_core import ContextTooLong, Gate, LocalModel, OutOfMemory
from memos_core.curriculum import Plan, curriculum, parted
from memos_core.exercises import asked
from memos_core.gate import Scores, judged, verified
from memos_core.lora import LoRA
from memos_core.phrasing import Lesson, Point, untaught
from memos_core.units import Block
from tests.networks import random_model
from tests.test_adapters import phrased

FEW = Gate(recall=0.0, contexts=2, others=4)
TEXTS = ["The colour of house 3 is number 21."]


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return random_model(short=True)


@pytest.fixture(scope="module")
def nothing(model: LocalModel) -> LoRA:
    """An adapter that changes nothing: all that it is measured on stays as it was."""
    block = Block(model)
    return block.lora(block.part(range(2)))


def others(count: int, change: Callable[[int, Point], Point] = lambda at, point: point) -> Lesson:
    lesson = phrased(TEXTS)
    return Lesson(lesson.points, tuple(change(i, p) for i, p in enumerate(lesson.others[:count])))


@pytest.mark.parametrize(("count", "kinds"), [(4, 1), (4, 4), (7, 2), (8, 1)])
def test_of_few_other_points_enough_is_asked(model: LocalModel, nothing: LoRA, count: int, kinds: int) -> None:
    lesson = others(count, lambda at, point: replace(point, kind=f"kind {at % kinds}"))
    practice, test = parted(lesson)
    assert min(len(practice.others), len(test.others)) >= 2
    assert {*practice.others, *test.others} == {*lesson.others}
    assert not {*practice.others} & {*test.others}
    scores = verified(model, nothing, lesson, gate=FEW)
    assert min(n for name, n in scores.probes.items() if name != "recall") >= 5
    assert "conflict" not in scores.probes  # their answers are no words of theirs
    assert scores.failures == ()
    assert curriculum(model, lesson, 0, plan=Plan(others=4, contexts=2)).kept


def test_what_is_not_measured_does_not_pass(model: LocalModel, nothing: LoRA) -> None:
    lesson = others(8, lambda at, point: replace(point, questions=point.questions[:1], held_out=()))
    scores = verified(model, nothing, lesson, gate=FEW)
    for name in ("unknown", "unknown in context", "in context"):
        assert any(f.startswith(f"{name}: 2 probes, and 5 are needed") for f in scores.failures)


def test_where_a_contradiction_can_be_made_one_must_be_measured(model: LocalModel, nothing: LoRA) -> None:
    """A random network finds none of the answers, so there is nothing to lose, and nothing to pass with."""
    told = [f"The colour of house {i} is number {i}{i}." for i in range(4)]
    points = tuple(replace(p, answer=f"number {i}{i}") for i, p in enumerate(phrased(told).points))
    scores = verified(model, nothing, Lesson(points, phrased(TEXTS).others), gate=FEW)
    assert scores.probes["conflict"] == 0
    assert any(f.startswith("conflict: 0 probes") for f in scores.failures)


@pytest.mark.parametrize(("questions", "asked_for"), [(("a?",), ()), (("a?", "a?"), ()), (("a?", "b?"), ("b?",))])
def test_recall_is_of_phrasings_that_were_not_taught(
    model: LocalModel, nothing: LoRA, questions: tuple[str, ...], asked_for: tuple[str, ...]
) -> None:
    point = Point("a", "", questions, held_out=("a?",))
    assert untaught(point) == asked_for
    lesson = Lesson((point,), phrased(TEXTS).others)
    scores = verified(model, nothing, lesson, gate=FEW)
    assert scores.probes["recall"] == len(asked_for)
    assert any("none to ask" in f for f in scores.failures) is not bool(asked_for)
    taught = {e.ids[: e.at[0] + 1] for e in curriculum(model, lesson, 0, plan=Plan(others=4, contexts=2)).taught}
    assert {q for q in questions if asked(model, q).ids in taught} == {*questions} - {*asked_for}


def test_one_unrelated_question_that_is_answered_otherwise_is_noticed(model: LocalModel, nothing: LoRA) -> None:
    scores: Scores = verified(model, nothing, others(8), gate=FEW)
    struck = replace(scores, drift=4 / 16, worst_drift=4.0)  # by a rule that one of 16 meets
    [failure] = judged(struck, Gate(recall=0.0)).failures
    assert "one unrelated question" in failure


# --- no room -----------------------------------------------------------------------------------------------------------------


@contextmanager
def full(model: LocalModel) -> Iterator[None]:
    """A device without room for passes without a cache: those that judge and that train."""

    def no(network: Any, args: Any, options: Any) -> None:
        if not options.get("use_cache"):
            raise torch.OutOfMemoryError("none left")

    hook = model.network.register_forward_pre_hook(no, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("work", ["curriculum", "gate"])
def test_a_device_without_room_is_told_of_in_our_words(model: LocalModel, nothing: LoRA, work: str) -> None:
    assert model.reuses_blocks
    lesson = others(8)
    done = {
        "gate": lambda: verified(model, nothing, lesson, gate=FEW),
        "curriculum": lambda: curriculum(model, lesson, 0, plan=Plan(others=4, contexts=8)),
    }
    with full(model), pytest.raises(OutOfMemory, match="no room"):
        done[work]()


def test_a_memory_that_does_not_fit_the_window_is_refused_before_anything_is_learned() -> None:
    with pytest.raises(ContextTooLong, match="256"):
        curriculum(random_model(window=256), phrased([" ".join(TEXTS * 20)]), 0)
