"""Blocks joined: keys are moved exactly, what is run again is what it would have been, and a guard looks at the rest."""

from __future__ import annotations

import json
import logging
import random
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from memos_core import ContextTooLong, InvalidArgument, LocalModel, Unsupported
from memos_core.bench import compose as bench
from memos_core.compose import Block, Repair, independent, recompose
from memos_core.guard import Guard, divergence
from memos_core.steering import extract, steered
from tests.networks import byte_tokenizer, random_model
from tests.test_steering import PAIRS

TINY = Path(__file__).parent / "tiny_lm"
ROPE = {"rope_theta": 10_000.0, "original_max_position_embeddings": 1024}
SCALED: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
    "llama3": {**ROPE, "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {**ROPE, "rope_type": "yarn", "factor": 4.0},
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 16}),
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "neighbours": ("cohere", {"logit_scale": 1.0}),  # pairs of entries that turn are neighbours
    "neighbours, in part": ("glm", {"head_dim": 16}),  # half of the entries turn
    "in part": ("gpt_neox", {}),
    "not in every layer": ("smollm3", {}),
    **{name: ("llama", {"rope_parameters": rope}) for name, rope in SCALED.items()},
}


@cache
def model_of(family: str, dtype: torch.dtype = torch.float32) -> LocalModel:
    """A random model of 4 layers whose logits are spread out; shared, and left as it is."""
    kind, more = FAMILIES[family]
    options = {
        "vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
        "tie_word_embeddings": False, **more,
    }  # fmt: skip
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if weights.ndim == 2:
                weights.normal_(0, 1.0 if "embed" in name else 1.3 / weights.shape[1] ** 0.5)
    return LocalModel.of(network.to(dtype), byte_tokenizer(), name=f"random {family}", device="cpu")


def ids(count: int, seed: int = 0) -> list[int]:
    return random.Random(f"{count} {seed}").choices(range(256), k=count)


def held(model: LocalModel, tokens: list[int], **inputs: Any) -> torch.Tensor:
    cache = model.cache()
    model.forward(tokens, cache, **inputs)
    return model.taken(cache, 0, len(tokens))


def ask(model: LocalModel, tensors: list[torch.Tensor], question: list[int], **inputs: Any) -> torch.Tensor:
    return model.forward(question, model.cache([(t, t.shape[-2]) for t in tensors]), **inputs)


def places(start: int, count: int) -> torch.Tensor:
    return torch.arange(start, start + count)[None]


# --- keys moved -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("far", [37, 3000])
def test_a_beginning_moved_as_a_whole_says_the_same(family: str, far: int) -> None:
    model, text, question = model_of(family), ids(60), ids(9, 1)
    here = held(model, text)
    wanted = ask(model, [here], question)
    moved = here.clone()
    moved[0] = model.rotation.moved(here[0], 0, far)
    found = ask(model, [moved], question, position_ids=places(60 + far, 9))
    assert float(wanted.std()) > 0.3
    assert (found - wanted).abs().max() <= 1e-4
    there = held(model, text, position_ids=places(far, 60))
    assert (moved - there).abs().max() <= 1e-3
    assert far == 37 or (here - there).abs().max() > 1


@pytest.mark.parametrize("family", ["llama", "neighbours, in part", "yarn"])
def test_in_half_precision_moving_costs_no_more_than_its_rounding(family: str) -> None:
    model, text = model_of(family, torch.bfloat16), ids(20)
    here, there = held(model, text), held(model, text, position_ids=places(200, 20))
    moved = model.rotation.moved(here[0], 0, 200)
    assert moved.dtype == torch.bfloat16
    for layer in (0,):  # deeper ones see what rounding made of the first
        assert (moved[layer] - there[0, layer]).float().norm() < 0.01 * there[0, layer].float().norm()


def test_there_and_back_is_where_it_was() -> None:
    model = model_of("llama")
    keys = held(model, ids(30))[0]
    before = keys.clone()
    again = model.rotation.moved(model.rotation.moved(keys, 0, 900), 900, 0)
    assert torch.allclose(again, keys, atol=1e-5)
    assert torch.equal(keys, before)
    assert torch.equal(model.rotation.moved(keys, 5, 5), keys)


def test_how_keys_turn_is_found_by_asking_the_model() -> None:
    assert model_of("qwen3").rotation.layers == (0, 1, 2, 3)
    assert model_of("not in every layer").rotation.layers == (0, 1, 2)
    assert [model_of(f).rotation.interleaved for f in ("llama", "neighbours", "neighbours, in part")] == [
        False,
        True,
        True,
    ]
    assert [len(model_of(f).rotation.frequencies) for f in ("llama", "neighbours, in part", "in part")] == [8, 4, 2]


def test_models_whose_keys_cannot_be_moved_are_refused_by_name() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    small = {"vocab_size": 259, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    llama = AutoConfig.for_model(
        "llama",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        rope_parameters=rope,
        **small,
    )
    gpt2 = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=64, **small)
    for config, match in (
        (llama, "stretching: its rotary embedding is 'dynamic'"),
        (gpt2, "no rotary position embedding"),
    ):
        model = LocalModel.of(
            AutoModelForCausalLM.from_config(config), byte_tokenizer(), name="stretching", device="cpu"
        )
        with pytest.raises(Unsupported, match=match):
            _ = model.rotation
    with pytest.raises(Unsupported, match="random-sliding: its layers do not all attend"):
        _ = random_model("sliding").rotation


# --- blocks joined --------------------------------------------------------------------------------------------------------


def joined(model: LocalModel, sizes: list[int] = [20, 33, 25]) -> tuple[Block, list[Block], torch.Tensor]:  # noqa: B006  # not changed
    """A beginning, blocks computed apart behind it, and what they would be behind one another."""
    beginning = independent(model, ids(9, 7))
    blocks = [independent(model, ids(size, i), beginning) for i, size in enumerate(sizes)]
    whole = held(model, [*beginning.ids, *(id for b in blocks for id in b.ids)])
    return beginning, blocks, whole[..., 9:, :]


@pytest.mark.parametrize("method", ["first", "deviation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_run_again_is_a_full_prefill(family: str, method: Any) -> None:
    model = model_of(family)
    beginning, blocks, exact = joined(model)
    made = recompose(model, beginning, blocks, repair=Repair(method, share=1.0, first=1000))
    assert (made.tensor - exact).abs().max() <= 1e-3
    question = ids(7, 9)
    wanted = ask(model, [beginning.tensor, exact], question)
    assert (ask(model, [beginning.tensor, made.tensor], question) - wanted).abs().max() <= 1e-4
    assert (made.share, made.exact) == (58 / 78, 20)  # the first block stands where it was computed


@pytest.mark.parametrize("family", ["qwen3", "neighbours, in part", "yarn"])
def test_each_step_comes_nearer(family: str) -> None:
    model = model_of(family)
    beginning, blocks, exact = joined(model)
    ways = [torch.cat([b.tensor for b in blocks], -2)]
    ways += [
        recompose(model, beginning, blocks, repair=r).tensor
        for r in (Repair("none"), Repair("deviation"), Repair("deviation", depth=2))
    ]
    away = [float((way - exact).square().mean()) for way in ways]
    assert away == sorted(away, reverse=True)
    assert away[0] > 2 * away[3]


@pytest.mark.parametrize(
    "repair", [Repair("first", share=0.3), Repair("first", first=3), Repair("deviation", share=0.3)]
)
def test_a_token_run_again_sees_all_before_it_as_they_then_are(repair: Repair) -> None:
    """Against tokens run one by one behind a growing cache, into which those that are not run again are put as they are."""
    model = model_of("qwen3")
    beginning, blocks, _ = joined(model)
    made = recompose(model, beginning, blocks, repair=repair)
    assert 0 < len(made.recomputed) <= 0.3 * 78
    stale = recompose(model, beginning, blocks, repair=Repair("none")).tensor.clone()
    if repair.method == "deviation":
        stale[:, :2] = made.tensor[:, :2]  # those layers were run for all
    cache = model.cache([(beginning.tensor, 9)])
    for i, id in enumerate(id for b in blocks for id in b.ids):
        if i in made.recomputed:
            model.forward([id], cache)
        else:
            for layer, states in enumerate(stale[:, :, :, i : i + 1].transpose(0, 1)):
                cache.layers[layer].update(states[0][None], states[1][None])
    assert torch.allclose(made.tensor, model.taken(cache, 9, 87), atol=1e-4)


def test_the_tokens_that_deviate_most_are_run_again_and_the_first_layers_are_exact() -> None:
    model = model_of("llama")
    beginning, blocks, exact = joined(model)
    stale = recompose(model, beginning, blocks, repair=Repair("none")).tensor
    away = sum(
        (exact[part, 1] - stale[part, 1]).square().sum((0, 2)) / stale[part, 1, :, 20:].square().sum((0, 2)).mean()
        for part in (0, 1)
    )
    made = recompose(model, beginning, blocks, repair=Repair("deviation", share=0.2))
    assert set(made.recomputed) == set(torch.as_tensor(away).argsort(descending=True)[:15].tolist())
    assert (made.tensor[:, :2] - exact[:, :2]).abs().max() <= 1e-4
    assert made.work == pytest.approx((15 * 4 + 58) / (78 * 4))
    deep = recompose(model, beginning, blocks, repair=Repair("deviation", share=0.0, depth=9))
    assert (
        deep.tensor - exact
    ).abs().max() <= 1e-4  # the last layer's keys and values need no more than all layers before it


def test_the_first_tokens_of_every_block_are_run_again_in_turn() -> None:
    model = model_of("llama")
    beginning, blocks, _ = joined(model, [10, 10, 3, 10])
    assert recompose(model, beginning, blocks, repair=Repair("first", 0.2, first=4)).recomputed == (
        10,
        11,
        20,
        21,
        23,
        24,
    )
    assert recompose(model, beginning, blocks, repair=Repair("first", first=1)).recomputed == (10, 20, 23)
    assert recompose(model, beginning, blocks, repair=Repair("first", share=0.5, first=99)).recomputed == (
        *range(10, 17), *range(20, 23), *range(23, 29),
    )  # fmt: skip


def test_a_block_behind_the_very_tokens_it_was_computed_behind_needs_no_repair() -> None:
    model = model_of("llama")
    beginning, blocks, exact = joined(model)
    second = independent(
        model, blocks[1].ids, Block((*beginning.ids, *blocks[0].ids), held(model, [*beginning.ids, *blocks[0].ids]))
    )
    made = recompose(model, beginning, [blocks[0], second], repair=Repair(share=1.0))
    assert (made.recomputed, made.exact, made.work) == ((), 53, 0)
    assert (made.tensor - exact[..., :53, :]).abs().max() <= 1e-4


def test_blocks_computed_behind_another_beginning_are_moved_and_repaired_too() -> None:
    model = model_of("qwen3")
    beginning, blocks, exact = joined(model)
    for other in (independent(model, ids(1, 3)), None):
        apart = [independent(model, b.ids, other) for b in blocks]
        made = recompose(model, beginning, apart, repair=Repair("first", share=1.0, first=1000))
        assert (made.tensor - exact).abs().max() <= 1e-4
        assert made.exact == 0
    alone = recompose(
        model, None, [independent(model, b.ids) for b in blocks], repair=Repair("first", share=1.0, first=1000)
    )
    assert (alone.tensor - held(model, [id for b in blocks for id in b.ids])).abs().max() <= 1e-4


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5), share=st.floats(0, 1), first=st.integers(1, 20),
    method=st.sampled_from(["first", "deviation", "none"]),
)  # fmt: skip
def test_no_more_is_run_again_than_may_be_and_nothing_given_is_changed(
    sizes: list[int], share: float, first: int, method: Any
) -> None:
    model = model_of("llama")
    beginning, blocks, _ = joined(model, sizes)
    given_tensors = [b.tensor.clone() for b in (beginning, *blocks)]
    made = recompose(model, beginning, blocks, repair=Repair(method, share=share, first=first))
    assert len(made.recomputed) <= share * sum(sizes)
    assert list(made.recomputed) == sorted(set(made.recomputed))
    assert all(sizes[0] <= i < sum(sizes) for i in made.recomputed)
    assert made.tensor.shape == (2, 4, 2, sum(sizes), 16)
    assert all(torch.equal(a, b.tensor) for a, b in zip(given_tensors, (beginning, *blocks), strict=True))
    assert torch.equal(
        recompose(model, beginning, blocks, repair=Repair(method, share=share, first=first)).tensor, made.tensor
    )
    if method == "first":
        untouched = [i for i in range(sum(sizes)) if i not in made.recomputed]
        stale = recompose(model, beginning, blocks, repair=Repair("none")).tensor
        assert torch.equal(made.tensor[..., untouched, :], stale[..., untouched, :])


def test_blocks_are_the_plain_networks_whatever_steers_it() -> None:
    model = random_model()
    vector = extract(model, PAIRS)
    beginning, blocks, _ = joined(model)
    wanted = recompose(model, beginning, blocks)
    with steered(model, vector, 2.0, positions="all"):
        assert torch.equal(independent(model, blocks[1].ids, beginning).tensor, blocks[1].tensor)
        assert torch.equal(recompose(model, beginning, blocks).tensor, wanted.tensor)


def test_what_cannot_be_joined_is_refused() -> None:
    model = model_of("llama")
    beginning, blocks, _ = joined(model)
    with pytest.raises(InvalidArgument, match="there is none"):
        recompose(model, beginning, [])
    with pytest.raises(InvalidArgument, match="belongs to 19 tokens"):
        recompose(model, beginning, [Block(blocks[0].ids[:-1], blocks[0].tensor, beginning.ids)])
    with pytest.raises(InvalidArgument, match="position 0"):
        recompose(model, blocks[0], blocks)
    with pytest.raises(InvalidArgument, match="position 0"):
        independent(model, [1], blocks[0])
    with pytest.raises(InvalidArgument, match="at least one"):
        independent(model, [])
    with pytest.raises(Unsupported, match="random-sliding"):
        independent(random_model("sliding"), [1, 2, 3])
    with pytest.raises(ContextTooLong, match="window of 4096"):
        recompose(model, beginning, [blocks[0]] * 300)
    for options in ({"method": "best"}, {"share": 1.5}, {"share": float("nan")}, {"first": 0}, {"depth": 0}):
        with pytest.raises(InvalidArgument):
            Repair(**options)  # type: ignore[arg-type]  # that is what is tried


def test_attention_that_takes_no_mask_is_refused_by_name() -> None:
    model = random_model(seed=5)
    beginning, blocks, _ = joined(model)
    kind = model.network.config._attn_implementation
    try:
        model.network.config._attn_implementation_internal = "flash_attention_2"
        with pytest.raises(Unsupported, match="random-qwen3: its attention is 'flash_attention_2'"):
            recompose(model, beginning, blocks)
    finally:
        model.network.config._attn_implementation_internal = kind


# --- the guard ------------------------------------------------------------------------------------------------------------


def test_divergence_is_the_kl_of_the_exact_distribution_against_the_other() -> None:
    torch.manual_seed(0)
    exact, other = torch.randn(3, 50) * 3, torch.randn(3, 50) * 3
    wanted = torch.nn.functional.kl_div(other.log_softmax(-1), exact.softmax(-1), reduction="batchmean")
    assert divergence(exact, other) == pytest.approx(float(wanted), rel=1e-5)
    assert divergence(exact, exact + 7) == pytest.approx(0, abs=1e-9)
    exact[0, 3] = other[0, 3] = float("-inf")  # a token that cannot be
    assert divergence(exact, exact) == pytest.approx(0, abs=1e-9)


def test_a_share_of_the_uses_is_compared_and_always_the_same() -> None:
    first, second = Guard(sample=0.05), Guard(sample=0.05)
    picked = [first.due() for _ in range(2000)]
    assert picked == [second.due() for _ in range(2000)]
    assert picked[:4] == [True] * 4
    assert 90 <= sum(picked) <= 112
    for period in (2, 5, 7, 20):
        assert all(any(picked[start::period]) for start in range(period))  # in step with no rhythm of the requests


def test_it_is_off_once_the_mean_is_above_the_threshold_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(threshold=0.05)
    with caplog.at_level(logging.WARNING, "memos_core"):
        assert [guard.saw(x).on for x in (0.01, 0.02, 0.3)] == [True, True, True]  # too few to judge by
        assert not guard.saw(0.01).on
    assert "switched off: mean divergence 0.085 over 4 comparisons is more than 0.05" in caplog.text
    assert guard.state.why in caplog.text
    assert not guard.due()
    assert guard.saw(0.0).on is False  # what was begun before may still report
    assert (guard.state.compared, guard.state.worst) == (5, 0.3)
    guard.reset()
    assert guard.due()
    assert guard.state.on


def test_a_good_past_hides_no_bad_present() -> None:
    guard = Guard(threshold=0.05, window=20)
    assert all(guard.saw(0.001).on for _ in range(1000))
    assert sum(guard.saw(0.2).on for _ in range(20)) <= 5


def test_what_is_no_number_switches_off_at_once() -> None:
    assert not Guard().saw(float("nan")).on


def test_it_counts_right_in_many_threads() -> None:
    guard = Guard(threshold=1.0, sample=0.3)
    compared: list[int] = []

    def use() -> None:
        due = [guard.due() for _ in range(500)]
        compared.append(sum(due))
        for _ in range(sum(due)):
            guard.saw(0.5)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guard.state.uses == 2000
    assert guard.state.compared == sum(compared)
    assert 580 <= sum(compared) <= 620
    assert guard.state.mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    "options",
    [{"threshold": -1}, {"threshold": float("nan")}, {"sample": 0}, {"sample": 2}, {"least": 0}, {"window": 2}],
)
def test_a_guard_that_could_not_watch_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Guard(**options)


# --- the bench, on a model that looks things up ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return LocalModel(TINY, device="cpu")


def test_a_case_is_its_prompt_cut_into_parts(tiny: LocalModel) -> None:
    one = bench.case(tiny, random.Random(3), 4, 2, 1)
    text = tiny.tokenizer.decode([id for part in (one.beginning, *one.blocks, one.question, one.answer) for id in part])
    assert len(one.blocks) == 4
    assert text.count(bench.HEADER) == 1
    for block in one.blocks:
        assert tiny.tokenizer.decode(block).strip().count("\n") == 2
    assert "user" in tiny.tokenizer.decode(one.question)


def test_joined_facts_are_answered_as_facts_read_together(tiny: LocalModel) -> None:
    cases = [bench.case(tiny, random.Random(i), 4, 3, 0) for i in range(12)]
    found = bench.measured(tiny, cases, bench.REPAIRS)
    assert found["full prefill"].mean_kl == 0
    assert found["all"].worst_logit < 1e-3
    assert found["all"].mean_kl < 1e-6
    assert found["first"].mean_kl < found["as they are"].mean_kl
    for way in ("first", "deviating"):
        assert found[way].mean_kl <= 0.05
        assert found[way].share <= 0.2
    assert found["first"].work <= 0.2


def test_the_bench_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        bench.main(["--model", str(TINY), "--prompts", "1", "--device", "cpu", "--json", str(tmp_path / "c.json")]) == 0
    )
    found = json.loads((tmp_path / "c.json").read_text())
    assert len(found["results"]["settings"]) == len(bench.SETTINGS)
    assert "yes  all (in the worst setting 0.00000 and +0.0%)" in capsys.readouterr().out
