"""A training step: a layer as one function, silence before strangers, and that passes without the adapter stay the plain model's."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memos_core import LocalModel
from memos_core.between import Pairs
from memos_core.curriculum import Curriculum
from memos_core.exercises import asked, behind, exercise, said, tabled, through
from memos_core.lora import LoRA, linears, made
from memos_core.parametric import Twin
from memos_core.practice import Practice, Weights

ASK = ("What is Kelvi's fruit?", "Tell me the tool of Balpi.", "Which city does Tolsha have?")
NONE = Weights(0, 0, 0, 0, 0, 1.0, 1.0, 1.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel(Path(__file__).parent / "tiny_lm", device="cpu")


def some_lora(model: LocalModel) -> LoRA:
    draw = torch.Generator().manual_seed(3)
    return made(
        model.fingerprint,
        {
            n: (torch.randn(4, m.in_features, generator=draw) / 12, torch.randn(m.out_features, 4, generator=draw) / 12)
            for n, m in linears(model.network).items()
        },
    )


def trained(twin: Twin) -> list[torch.Tensor]:
    return [w.requires_grad_(True) for pair in twin.pairs("student").values() for w in pair]


@pytest.fixture
def twin(model: LocalModel) -> Twin:
    found = Twin(model.network)
    found.put("student", some_lora(model))
    return found


def test_a_layer_as_one_function_has_the_same_output_and_gradients(model: LocalModel) -> None:
    found = []
    for hastened in (False, True):
        twin = Twin(model.network)
        twin.put("student", some_lora(model))
        if hastened:
            twin.hasten("student")
        weights = trained(twin)
        rows = [asked(model, q).ids for q in ASK]
        with twin.active(["student"]) as network:
            logits = behind(network, tabled(rows, model.device), [[len(r) - 1] for r in rows])
        logits.square().mean().backward()  # type: ignore[no-untyped-call]
        found.append((logits.detach(), [w.grad for w in weights]))
    (slow, slow_gradients), (quick, quick_gradients) = found
    assert torch.allclose(slow, quick, atol=1e-4)
    for one, other in zip(slow_gradients, quick_gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_without_the_adapter_a_hastened_twin_is_the_plain_model(model: LocalModel, twin: Twin) -> None:
    twin.hasten("student")
    rows = [asked(model, q).ids for q in ASK]
    inputs, places = tabled(rows, model.device), [[len(r) - 1] for r in rows]
    with torch.no_grad():
        assert torch.equal(behind(twin.network, inputs, places), behind(model.network, inputs, places))
        with twin.active(["student"]):
            assert not torch.allclose(behind(twin.network, inputs, places), behind(model.network, inputs, places))


def test_layers_are_those_of_the_tokens_and_never_of_the_padding(model: LocalModel) -> None:
    rows = [asked(model, q).ids for q in ASK]
    with torch.no_grad():
        logits, layers = through(model.network, tabled(rows, model.device), [[len(r) - 1] for r in rows])
        alone = [through(model.network, tabled([r], model.device), [[len(r) - 1]]) for r in rows]
    assert len(layers) == model.network.config.num_hidden_layers
    assert torch.allclose(logits, torch.cat([one for one, _ in alone]), atol=1e-3)
    for at, states in enumerate(layers):
        assert torch.allclose(states, torch.cat([each[at] for _, each in alone]), atol=1e-3)


def test_listening_to_layers_leaves_nothing_behind_on_the_twin_or_on_the_model(model: LocalModel, twin: Twin) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + ("forward" in m.__dict__) for m in model.network.modules())

    before = hooks()
    rows = [asked(model, q).ids for q in ASK]
    inputs, places = tabled(rows, model.device), [[len(r) - 1] for r in rows]
    with torch.no_grad():
        first = through(twin.network, inputs, places)[1]
        through(Twin(model.network).network, inputs, places)
        again = through(twin.network, inputs, places)[1]
    assert len(first) == len(again) == model.network.config.num_hidden_layers
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert hooks() == before


def test_silence_costs_what_a_divergence_does_not_see(model: LocalModel, twin: Twin) -> None:
    """What nobody answered is said as before, and still the layers are not what they were."""
    answers = said(model, [asked(model, q) for q in ASK])
    lessons = Curriculum((), tuple(exercise(a.prompt.ids, a, alone=True) for a in answers), (), (), ())
    trained(twin)
    practice = Practice(twin, "student", lessons, Pairs((), ()))
    losses = [
        practice.gradients(replace(NONE, unknown=3, silence=s), random.Random(0), model.device) for s in (0.0, 1.0, 2.0)
    ]
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_an_adapter_that_does_nothing_is_silent(model: LocalModel) -> None:
    lora = some_lora(model)
    twin = Twin(model.network)
    twin.put(
        "student",
        made(model.fingerprint, {m: (lora.pair(m)[0], torch.zeros_like(lora.pair(m)[1])) for m in lora.targets}),
    )
    answers = said(model, [asked(model, q) for q in ASK])
    lessons = Curriculum((), (), (), tuple(exercise(a.prompt.ids, a) for a in answers), ())
    trained(twin)
    loss = Practice(twin, "student", lessons, Pairs((), ())).gradients(
        replace(NONE, plain=3, silence=5.0), random.Random(0), model.device
    )
    assert loss == pytest.approx(0, abs=1e-3)
