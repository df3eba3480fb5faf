"""Attention behind a cache: what transformers' own gives, wherever it is used, and only there."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from memos_core import LocalModel, attention
from memos_core.room import Memory
from tests.networks import byte_tokenizer, random_network

FULL = ("llama", "qwen3", "mistral")


def network_of(kind: str = "qwen3") -> Any:
    return copy.deepcopy(random_network(kind))


@contextmanager
def borrowed(network: Any) -> Iterator[None]:
    give_back = attention.borrow(network)
    assert network.config._attn_implementation == attention.NAME
    try:
        yield
    finally:
        give_back()
    assert network.config._attn_implementation == "sdpa"


def in_steps(network: Any, ids: torch.Tensor, ends: tuple[int, ...], cache: Any = None, **inputs: Any) -> torch.Tensor:
    """The logits of all tokens, run in pieces behind each other."""
    cache = DynamicCache(config=network.config) if cache is None else cache
    found = []
    for start, end in zip((0, *ends), (*ends, ids.shape[1]), strict=True):
        part = {k: v[:, :end] if k == "attention_mask" else v[:, start:end] for k, v in inputs.items()}
        found.append(network(input_ids=ids[:, start:end], past_key_values=cache, **part).logits)
    return torch.cat(found, 1)


def some_ids(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(tokens))


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("ends", [(50,), (1, 3), (40, 79), (79,), (30, 31, 32, 60)])
def test_what_follows_a_cache_sees_what_it_saw_before(kind: str, ends: tuple[int, ...]) -> None:
    network, ids = network_of(kind), some_ids(2, 80)
    with torch.inference_mode():
        whole = network(input_ids=ids).logits
        with borrowed(network):
            assert (in_steps(network, ids, ends) - whole).abs().max() < 1e-4


def test_in_half_precision_too() -> None:
    network, ids = network_of().to(torch.bfloat16), some_ids(1, 80)
    with torch.inference_mode():
        exact = network_of()(input_ids=ids).logits
        own = (in_steps(network, ids, (50,)).float() - exact).abs().mean()
        with borrowed(network):
            ours = (in_steps(network, ids, (50,)).float() - exact).abs().mean()
    assert ours < 1.2 * own


def test_padded_rows_go_the_usual_way() -> None:
    network, ids = network_of(), some_ids(2, 60)
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with torch.inference_mode():
        usual = in_steps(network, ids, (40, 59), **inputs)
        with borrowed(network):
            assert torch.equal(in_steps(network, ids, (40, 59), **inputs)[mask.bool()], usual[mask.bool()])


def test_a_mask_of_the_callers_is_obeyed() -> None:
    network, ids = network_of(), some_ids(1, 40)
    blind = torch.ones(1, 1, 10, 40, dtype=torch.bool).tril(30)
    blind[..., :7] = False
    with torch.inference_mode(), borrowed(network):
        caches = DynamicCache(config=network.config), DynamicCache(config=network.config)
        for cache in caches:
            network(input_ids=ids[:, :30], past_key_values=cache)
        seeing = network(input_ids=ids[:, 30:], past_key_values=caches[0]).logits
        other = network(input_ids=ids[:, 30:], past_key_values=caches[1], attention_mask=blind).logits
    assert (seeing - other).abs().max() > 1e-2


def test_a_cache_of_fixed_length_is_filled_as_usual() -> None:
    network, ids = network_of(), some_ids(1, 40)
    with torch.inference_mode():
        whole = network(input_ids=ids).logits
        with borrowed(network):
            fixed = StaticCache(config=network.config, max_cache_len=64)
            assert (in_steps(network, ids, (30,), fixed) - whole).abs().max() < 1e-4


def test_gradients_flow_as_usual() -> None:
    network, ids = network_of(), some_ids(1, 40)

    def gradient() -> torch.Tensor:
        network.zero_grad()
        in_steps(network, ids, (30,)).square().mean().backward()
        found: torch.Tensor = network.model.layers[0].self_attn.k_proj.weight.grad
        return found.clone()

    usual = gradient()
    with borrowed(network):
        assert torch.allclose(gradient(), usual, rtol=1e-4, atol=1e-7)


def test_a_marked_mask_means_the_same_to_transformers_own() -> None:
    network, ids = network_of(), some_ids(1, 40)
    seen: list[Any] = []
    layer = network.model.layers[0]
    with torch.inference_mode(), borrowed(network):
        hook = layer.register_forward_pre_hook(lambda _m, _a, k: seen.append(k["attention_mask"]), with_kwargs=True)
        in_steps(network, ids, (30,))
        hook.remove()
    assert seen[1].shape == (1, 1, 10, 40)
    assert torch.equal(seen[1][0, 0], torch.ones(10, 40, dtype=torch.bool).tril(30))


@pytest.mark.parametrize("kind", ["sliding", "eager"])
def test_networks_that_attend_otherwise_are_left_alone(kind: str) -> None:
    network = network_of("qwen3" if kind == "eager" else kind)
    if kind == "eager":
        network.set_attn_implementation("eager")
    before = network.config._attn_implementation
    give_back = attention.borrow(network)
    assert network.config._attn_implementation == before
    give_back()
    assert network.config._attn_implementation == before


def test_a_network_is_given_back_with_the_last_model_over_it() -> None:
    network = network_of()
    first = LocalModel.of(network, byte_tokenizer())
    second = LocalModel.of(network, byte_tokenizer())
    assert network.config._attn_implementation == attention.NAME
    del first
    gc.collect()
    assert network.config._attn_implementation == attention.NAME
    assert second.network is network
    del second
    gc.collect()
    assert network.config._attn_implementation == "sdpa"


def test_memory_is_used_again_once_nobody_has_any_of_it() -> None:
    memory = Memory()
    first = memory.take((2, 8), torch.float32)
    place = first.data_ptr()
    part = first[1:].view(-1)
    del first
    second = memory.take((16,), torch.float32)
    assert second.data_ptr() != place
    del part
    assert memory.take((4, 2), torch.bfloat16).data_ptr() == place


def test_no_more_memory_is_kept_than_was_said() -> None:
    memory = Memory(most=1 << 20)
    small, large = memory.take((1 << 19,), torch.uint8), memory.take((1 << 21,), torch.uint8)
    places = small.data_ptr(), large.data_ptr()
    del small, large
    assert memory.take((1 << 19,), torch.uint8).data_ptr() == places[0]
