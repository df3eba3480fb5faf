"""What a training step practises: exercises worked out once say what the whole network says, and silence is measured where it is due."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memos_core import LocalModel, Recipe
from memos_core.bench.distil_gpu import measured
from memos_core.curriculum import Curriculum, Plan, curriculum
from memos_core.exercises import divergences, followed
from memos_core.practice import KINDS, Practice, practice
from memos_core.units import Block, Part
from tests.tiny_lm import language, lessons

NONE = Recipe(rank=8, taught=1, unknown=0, kept=0, plain=0, between=0, silence=0.0, noise=0.0, reworded=0.0)


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel(Path(__file__).parent / "tiny_lm", device="cpu")


@pytest.fixture(scope="module")
def exercises(model: LocalModel) -> Curriculum:
    facts = language.draw_facts(random.Random(5), 3)
    texts = [language.state(f, language.STATEMENTS[0]) for f in facts]
    return curriculum(model, lessons.Phrasing(others=40)(texts), 0, plan=Plan(others=24, contexts=6))


@pytest.fixture(scope="module")
def block(model: LocalModel) -> Block:
    return Block(model)


@pytest.fixture(scope="module")
def found(model: LocalModel, block: Block, exercises: Curriculum) -> Practice:
    return practice(block, exercises, 0, model.device)


@pytest.fixture
def part(block: Block) -> Part:
    made, draw = block.part(range(8)), torch.Generator().manual_seed(3)
    for weight in made.weights:
        weight.data += 0.1 * torch.randn(weight.shape, generator=draw)
    return made


def loss(found: Practice, part: Part, recipe: Recipe) -> float:
    return float(found.loss(part, recipe, random.Random(0)).detach())


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_each_place_has_what_the_whole_network_says_there(
    model: LocalModel, block: Block, exercises: Curriculum, found: Practice, kind: str
) -> None:
    """A place's numbers belong to its own exercise, however the rows were batched."""
    rows = found.rows[kind]
    for one, versions in list(zip(getattr(exercises, kind), rows.versions, strict=True))[:12]:
        at = torch.tensor(list(versions[0]))
        with torch.no_grad():
            wanted = followed(model.network, [(one.ids, one.at)], model.device)
            assert torch.allclose(block.logits(rows.given[at]), wanted, atol=1e-3)
        assert torch.equal(rows.likely[at], one.likely)
        assert torch.equal(rows.logs[at], one.logs)
        assert all(len(v) == len(one.at) for v in versions)


def test_what_was_not_taught_is_said_as_before_and_what_is_taught_is_not(found: Practice, block: Block) -> None:
    for kind, rows in found.rows.items():
        with torch.no_grad():
            away = divergences(rows.likely, rows.logs, block.logits(rows.given))
        first = torch.tensor([v[0].start for v in rows.versions])
        assert (float(away[first].mean()) > 1) is (kind == "taught"), kind


def test_between_questions_nothing_is_known(found: Practice, model: LocalModel) -> None:
    rows = found.rows["between"]
    first = [v[0].start for v in rows.versions]
    words = {model.tokenizer.decode([int(t)]).strip() for t in rows.likely[first, 0]}
    assert "unknown" in words
    assert len(words) < 4


def test_untrained_units_cost_only_what_they_do_not_know(found: Practice, block: Block) -> None:
    part = block.part(range(8))
    quiet = replace(NONE, unknown=20, kept=4, plain=6, between=20, silence=5.0)
    taught = loss(found, part, NONE)
    assert taught > 1
    with torch.no_grad():
        assert loss(found, part, quiet) == pytest.approx(taught, rel=0.2)


@pytest.mark.parametrize("kind", ["unknown", "kept", "plain", "between"])
def test_silence_is_measured_wherever_nothing_is_taught(found: Practice, part: Part, kind: str) -> None:
    with_it = replace(NONE, **{kind: 4})
    least, some, more = (loss(found, part, replace(with_it, silence=s)) for s in (0.0, 1.0, 2.0))
    assert least < some < more
    assert more - some == pytest.approx(some - least, rel=1e-2)
    assert loss(found, part, replace(NONE, silence=9.0)) == loss(found, part, NONE)  # the taught ones are to be heard


def test_places_that_a_step_leaves_out_are_made_up_for_by_those_that_it_draws(found: Practice, part: Part) -> None:
    """A step works on some of the places of what is kept: in the mean of many steps, what is measured is that of all of them."""
    rows, every = found.rows["kept"], replace(NONE, kept=9999, kept_weight=1.0)
    with torch.no_grad():
        some = [
            float(found.loss(part, replace(every, silence=1.0), random.Random(seed)))
            - float(found.loss(part, every, random.Random(seed)))
            for seed in range(200)
        ]
        added, given = part.added(rows.read), rows.given
        moved = float((added.square().sum(-1) / given.square().sum(-1)).mean())
    assert len(set(some)) > 100
    assert sum(some) / len(some) == pytest.approx(4 * moved, rel=0.05)  # of three things silence counts four times


@pytest.mark.parametrize("how", ["noise", "reworded"])
def test_a_blur_is_drawn_from_the_step_and_changes_what_is_read(found: Practice, part: Part, how: str) -> None:
    blurred = replace(NONE, taught=8, **{how: 0.3})
    assert loss(found, part, blurred) == loss(found, part, blurred) != loss(found, part, replace(blurred, **{how: 0.0}))


def test_what_is_blurred_by_is_how_words_of_the_form_move_what_is_read(found: Practice) -> None:
    rows = found.rows["taught"]
    first = next(v for v in rows.versions if len(v) > 1)
    assert torch.equal(found.reworded[0], rows.read[first[1].start] - rows.read[first[0].start])
    assert len(found.reworded) == sum(len(v) - 1 for k in ("taught", "unknown") for v in found.rows[k].versions)


def test_what_is_watched_is_judged_as_the_whole_network_judges_it(found: Practice, block: Block) -> None:
    recall, unknown = found.right(block.part(range(8)))
    assert recall == 0
    assert unknown > 0.9


def test_what_is_measured_on_a_gpu_runs(model: LocalModel) -> None:
    row = measured(model, steps=2)
    assert f"seconds a step of {64 + 96 + 12 + 6 + 64} exercises" in row  # of each kind, those between questions, too
    assert row["adapter bytes of 80 units"] == 3 * 80 * (128 + 384) * 4
    assert min(v for k, v in row.items() if "GiB" not in k) > 0
