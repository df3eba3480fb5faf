"""Steering: what a vector is made of, that it is refused when it does not work, and that it leaves nothing behind."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from memos_core import Damaged, Generation, Ineffective, InvalidArgument, LocalModel, ModelMismatch, chain
from memos_core.guard import divergence
from memos_core.steering import SteeringVector, extract, pack, steered, unpack
from tests.networks import random_model
from tests.tiny_lm import language

TINY = Path(__file__).parent / "tiny_lm"
HELLO = [{"role": "system", "content": "You are kind. " * 12}, {"role": "user", "content": "Hello there."}]
NOUNS = ["cat", "dog", "cow", "hen", "fox", "owl", "pig", "elk", "ant", "bee"]
PAIRS = [(f"The {noun} was there: yes", f"The {noun} was there: no") for noun in NOUNS]
"""Sides that differ in their ends: what a random network makes of that is much the same for all."""
STRONG = 3.0


@pytest.fixture
def model() -> LocalModel:
    return random_model()


@pytest.fixture(scope="module")
def vector() -> SteeringVector:
    return extract(random_model(), PAIRS)


def logits(model: LocalModel, text: str = "Some text to go on with") -> torch.Tensor:
    return model.forward(model.encode(text).ids, model.cache())


def said(model: LocalModel, messages: Any = HELLO, **options: Any) -> Generation:
    return model.generate(messages, **{"max_tokens": 12, "temperature": 0, **options})


def hooks(model: LocalModel) -> int:
    return sum(len(module._forward_hooks) for module in model.network.modules())


def residual(model: LocalModel, text: str, layer: int) -> torch.Tensor:
    """Behind a layer, of shape [tokens, hidden size], seen from the next one or the head."""
    after = [*model.network.model.layers, model.network.model.norm][layer + 1]
    seen: list[torch.Tensor] = []
    handle = after.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].clone()))
    logits(model, text)
    handle.remove()
    return seen[-1]


# --- what a vector is -----------------------------------------------------------------------------------------------------


def test_a_vector_has_length_one_and_says_how_well_it_works(vector: SteeringVector) -> None:
    assert vector.direction.dtype == torch.float32
    assert vector.direction.shape == (64,)
    assert float(vector.direction.norm()) == pytest.approx(1, abs=1e-5)
    assert vector.model == random_model().fingerprint
    found = vector.statistics
    assert (found.pairs, found.kept_out) == (8, 2)
    assert found.agreement > 0.4
    assert found.effect > 0.3
    assert found.opposed == 0


def test_it_is_the_difference_of_means_of_the_pairs_that_were_not_kept_out(
    model: LocalModel, vector: SteeringVector
) -> None:
    used = [pair for i, pair in enumerate(PAIRS) if i % 4 != 3]
    apart = [residual(model, a, vector.layer)[-1] - residual(model, b, vector.layer)[-1] for a, b in used]
    mean = torch.stack(apart).mean(0)
    assert torch.allclose(mean / mean.norm(), vector.direction, atol=1e-5)
    lengths = [residual(model, text, vector.layer)[1:].norm(dim=-1) for pair in PAIRS for text in pair]
    assert vector.norm == pytest.approx(float(torch.cat(lengths).mean()), rel=1e-4)
    assert vector.statistics.strength * vector.norm == pytest.approx(float(mean.norm()), rel=1e-4)
    cosines = [float(torch.cosine_similarity(a, b, dim=0)) for i, a in enumerate(apart) for b in apart[:i]]
    assert vector.statistics.agreement == pytest.approx(sum(cosines) / len(cosines), abs=1e-4)


def test_extraction_twice_gives_the_same_bits(model: LocalModel, vector: SteeringVector) -> None:
    again = extract(model, PAIRS)
    assert torch.equal(again.direction, vector.direction)
    assert again.digest == vector.digest
    assert again.statistics == vector.statistics


def test_sides_may_be_messages(model: LocalModel) -> None:
    pairs = [tuple([{"role": "user", "content": text}] for text in pair) for pair in PAIRS]
    assert extract(model, pairs, least_agreement=-1, least_effect=-1e9).statistics.pairs == 8  # type: ignore[arg-type]


def test_pairs_without_a_common_difference_are_refused_with_the_figures(model: LocalModel) -> None:
    chance = random.Random(5)
    noise = ["".join(chance.choices("abcdefghijklmnop ", k=20)) for _ in range(32)]
    pairs = list(zip(noise[::2], noise[1::2], strict=True))
    with pytest.raises(Ineffective, match=r"agreement -?0\.0\d+.*effect -?0\.\d+.*opposed on \d+% of 4"):
        extract(model, pairs)
    taken = extract(model, pairs, least_agreement=-1, least_effect=float("-inf"))
    assert taken.statistics.agreement < 0.1


def test_sides_that_are_equal_are_refused(model: LocalModel) -> None:
    with pytest.raises(Ineffective, match=r"differ by \d"):
        extract(model, [("same", "same")] * 8)


@pytest.mark.parametrize(
    ("pairs", "options", "match"),
    [(PAIRS[:7], {}, "at least 8"), (PAIRS, {"layer": 2}, "layers 0 to 1"), (PAIRS, {"layer": -1}, "layer")],
)
def test_what_cannot_be_made_is_refused(model: LocalModel, pairs: Any, options: Any, match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        extract(model, pairs, **options)


# --- what it does ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral"])
def test_the_second_side_comes_nearer_to_the_first(kind: str) -> None:
    model = random_model(kind)
    made = extract(model, PAIRS)
    first, second = (logits(model, f"The wasp was there: {word}") for word in ("yes", "no"))
    with steered(model, made, made.statistics.strength, positions="all"):
        nearer = logits(model, "The wasp was there: no")
    with steered(model, made, -made.statistics.strength, positions="all"):
        further = logits(model, "The wasp was there: no")
    assert divergence(first, nearer) < 0.7 * divergence(first, second) < divergence(first, further)


def test_alpha_is_in_mean_lengths_of_the_layers_residual_stream(model: LocalModel, vector: SteeringVector) -> None:
    before = residual(model, "Some text", vector.layer)
    with steered(model, vector, 0.5, positions="all"):
        added = residual(model, "Some text", vector.layer) - before
    assert torch.allclose(added, (0.5 * vector.norm * vector.direction).expand_as(added), atol=1e-4)


def test_nothing_is_left_behind_bit_for_bit(model: LocalModel, vector: SteeringVector) -> None:
    before, there = logits(model), hooks(model)
    with steered(model, vector, STRONG, positions="all"):
        assert hooks(model) == there  # between passes there is nothing to be left
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)
    with pytest.raises(ZeroDivisionError), steered(model, vector, STRONG, positions="all"):
        raise ZeroDivisionError
    assert torch.equal(logits(model), before)
    with steered(model, vector, STRONG, positions="all"), pytest.raises(IndexError):
        model.forward([10**6], model.cache())  # no such token: the pass fails half way
    assert torch.equal(logits(model), before)
    assert hooks(model) == there


def test_vectors_add_up(model: LocalModel, vector: SteeringVector) -> None:
    other = extract(model, [(b + "!", a) for a, b in PAIRS], layer=vector.layer)
    together = 0.3 * vector.norm * vector.direction + 0.8 * other.norm * other.direction
    both = replace(vector, direction=together / together.norm(), norm=float(together.norm()))
    with steered(model, vector, 0.3, positions="all"), steered(model, other, 0.8, positions="all"):
        nested = logits(model)
    with steered(model, both, 1.0, positions="all"):
        assert torch.allclose(logits(model), nested, atol=1e-3)
    before = logits(model)
    with steered(model, vector, 2.0, positions="all"), steered(model, vector, -2.0, positions="all"):
        assert torch.allclose(logits(model), before, atol=1e-3)
    with steered(model, vector, 0.0, positions="all"):
        zero = logits(model)
    assert torch.equal(zero, before)


def test_generated_positions_include_the_one_that_the_first_token_is_drawn_from(
    model: LocalModel, vector: SteeringVector
) -> None:
    plain = said(model, max_tokens=1)
    with steered(model, vector, STRONG):
        assert said(model, max_tokens=1).ids != plain.ids


def test_a_prompt_run_by_hand_is_no_generated_position(model: LocalModel, vector: SteeringVector) -> None:
    before = logits(model)
    with steered(model, vector, STRONG):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_a_batch_is_steered_like_single_answers(model: LocalModel, vector: SteeringVector, positions: Any) -> None:
    asked = [HELLO, [{"role": "user", "content": "And you?"}]]
    with steered(model, vector, 0.5, positions=positions):
        alone = [said(model, messages, keep=False).ids for messages in asked]
        batch = model.generate_batch(asked, max_tokens=12, temperature=0)
    assert [found.ids for found in batch] == alone
    assert [said(model, messages).ids for messages in asked] != alone


def test_another_models_vector_is_refused(vector: SteeringVector) -> None:
    with pytest.raises(ModelMismatch, match="weights"), steered(random_model(seed=1), vector, 1.0):
        pass


@pytest.mark.parametrize(
    ("alpha", "positions"), [(float("nan"), "all"), (float("inf"), "all"), (True, "all"), ("1", "all"), (1.0, "prompt")]
)
def test_what_is_no_strength_or_place_is_refused(
    model: LocalModel, vector: SteeringVector, alpha: Any, positions: Any
) -> None:
    with pytest.raises(InvalidArgument, match=r"alpha|positions"), steered(model, vector, alpha, positions=positions):
        pass


def facts_and_question(chance: random.Random, *, stated: bool) -> list[dict[str, str]]:
    facts = language.draw_facts(chance, 4)
    wanted = chance.choice(facts) if stated else language.draw_absent(chance, facts, chance.choice(language.ABSENCES))
    told = " ".join(language.state(fact, chance.choice(language.STATEMENTS)) for fact in facts)
    asked = language.ask(wanted, chance.choice(language.QUESTIONS))
    return [{"role": "system", "content": told}, {"role": "user", "content": asked}]


def test_a_model_is_made_to_say_that_it_does_not_know_and_not_to_say_it() -> None:
    tiny, chance = LocalModel(TINY, device="cpu"), random.Random(0)
    pairs = [(facts_and_question(chance, stated=False), facts_and_question(chance, stated=True)) for _ in range(40)]
    made = extract(tiny, pairs)
    known, absent = ([facts_and_question(chance, stated=stated) for _ in range(10)] for stated in (True, False))

    def unknown(asked: Any, alpha: float) -> int:
        with steered(tiny, made, alpha):
            return sum(said(tiny, messages, max_tokens=4).text == language.UNKNOWN for messages in asked)

    found = made.statistics.strength  # at which exactly the difference is added: more of it leaves the language
    assert unknown(known, 0) <= 2 < 5 <= unknown(known, found)
    assert unknown(absent, -2 * found) <= 3 < 8 <= unknown(absent, 0)
    with pytest.raises(Ineffective):  # there is no such contrast
        extract(
            tiny,
            [(facts_and_question(chance, stated=True), facts_and_question(chance, stated=True)) for _ in range(40)],
        )


# --- what it does to keys and values that are kept ------------------------------------------------------------------------


def continued(answer: Generation) -> list[dict[str, str]]:
    return [*HELLO, {"role": "assistant", "content": answer.text}, {"role": "user", "content": "Go on."}]


def test_generated_positions_use_what_is_held_and_leave_it_plain(model: LocalModel, vector: SteeringVector) -> None:
    said(model)
    with steered(model, vector, STRONG):
        found = said(model)
    assert found.usage.cached == found.usage.input - 1
    fresh = random_model()
    assert said(model).ids == said(fresh).ids
    again, anew = said(model, continued(found)), said(random_model(), continued(found))
    assert again.ids == anew.ids
    assert again.usage.cached < len(model.prompt(HELLO).ids) + len(found.ids)  # of the answer nothing was held
    start = chain.root(model.fingerprint, ())
    held, plain = (
        torch.cat(
            [found.tensor[..., : found.tokens, :] for found in kept.shelf.find(start, model.prompt(HELLO).ids)], -2
        )
        for kept in (model, fresh)
    )
    assert torch.allclose(held, plain, atol=1e-4)


def test_a_steered_prompt_is_held_apart_by_vector_and_alpha(model: LocalModel, vector: SteeringVector) -> None:
    with steered(model, vector, 1.0, positions="all"):
        first = said(model)
        again = said(model)
    assert (first.usage.cached, again.ids) == (0, first.ids)
    assert again.usage.cached == first.usage.input - 1
    plain = said(model)
    assert plain.usage.cached == 0
    assert plain.ids == said(random_model()).ids != first.ids
    with steered(model, vector, 1.5, positions="all"):
        assert said(model).usage.cached == 0
    with steered(model, vector, 1.0, positions="all"):
        assert said(model).ids == first.ids


def test_what_was_made_elsewhere_is_not_opened_for_a_steered_prompt(model: LocalModel, vector: SteeringVector) -> None:
    asked = []

    def opened(prompt: Any, held: int) -> None:
        asked.append(held)

    with steered(model, vector, 1.0, positions="all"):
        said(model, opened=opened)
    assert asked == []
    with steered(model, vector, 1.0):
        said(model, opened=opened)
    assert len(asked) == 1


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_blocks_to_be_stored_are_the_plain_networks(model: LocalModel, vector: SteeringVector, positions: Any) -> None:
    prompt = model.prompt(HELLO)
    with steered(model, vector, STRONG, positions=positions):
        found = model.blocks(prompt, len(prompt.ids))
    wanted = random_model().blocks(prompt, len(prompt.ids))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, wanted, strict=True))


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_whole_prompts_of_models_that_cannot_be_cut_stay_plain(positions: Any) -> None:
    model = random_model("sliding")
    made = extract(model, PAIRS)
    with steered(model, made, STRONG, positions=positions):
        found = said(model)
    assert said(model).ids == said(random_model("sliding")).ids != found.ids
    assert said(model, continued(found)).ids == said(random_model("sliding"), continued(found)).ids


# --- whose it is ----------------------------------------------------------------------------------------------------------


def test_an_answer_ends_as_it_was_begun(model: LocalModel, vector: SteeringVector) -> None:
    plain = said(random_model())
    with steered(model, vector, STRONG):
        wanted = said(model, keep=False)
        inside = model.stream(HELLO, max_tokens=12, temperature=0)
    assert "".join(inside) == wanted.text  # not one piece was asked for inside
    outside = model.stream(HELLO, max_tokens=12, temperature=0)
    pieces = [next(outside)]
    with steered(model, vector, STRONG, positions="all"):
        pieces += outside
    assert "".join(pieces) == plain.text
    assert said(model).ids == plain.ids


def test_threads_do_not_see_each_others_steering(model: LocalModel, vector: SteeringVector) -> None:
    plain, other = said(random_model()).ids, random_model()
    with steered(other, vector, STRONG, positions="all"):
        wanted = said(other).ids
    found: dict[str, list[Any]] = {"plain": [], "steered": []}
    both = threading.Barrier(2)

    def ask(name: str) -> None:
        both.wait()
        for _ in range(6):
            found[name].append(said(model, keep=False).ids)

    def ask_steered() -> None:
        with steered(model, vector, STRONG, positions="all"):
            ask("steered")

    threads = [threading.Thread(target=ask, args=["plain"]), threading.Thread(target=ask_steered)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"plain": [plain] * 6, "steered": [wanted] * 6}


# --- as bytes -------------------------------------------------------------------------------------------------------------


def test_a_vector_comes_back_from_a_file_as_it_was(tmp_path: Path, vector: SteeringVector) -> None:
    tensors, metadata = pack(vector)
    save_file(tensors, tmp_path / "v.safetensors", metadata)
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        again = unpack({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118  # no mapping
    assert torch.equal(again.direction, vector.direction)
    assert (again.model, again.layer, again.norm, again.statistics) == (
        vector.model,
        vector.layer,
        vector.norm,
        vector.statistics,
    )
    assert again.digest == vector.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("memos-steering/1", "memos-steering/9"),
        ('"norm": ', '"norm": -'),
        ('"layer": ', '"layer": -1'),
        ('"pairs"', '"pears"'),
        ("{", ""),
    ],
)
def test_metadata_that_lies_is_damage(vector: SteeringVector, old: str, new: str) -> None:
    tensors, metadata = pack(vector)
    with pytest.raises(Damaged):
        unpack(tensors, {"steering": metadata["steering"].replace(old, new, 1)})


def test_tensors_that_are_no_direction_are_damage(vector: SteeringVector) -> None:
    tensors, metadata = pack(vector)
    for direction in (
        2 * vector.direction,
        vector.direction.double(),
        vector.direction[None],
        vector.direction * float("nan"),
    ):
        with pytest.raises(Damaged, match="steering vector"):
            unpack({"direction": direction}, metadata)
    with pytest.raises(Damaged):
        unpack({}, metadata)
    with pytest.raises(Damaged):
        unpack(tensors, {})
