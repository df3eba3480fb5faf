"""The last feed-forward block as units: what they compute, that some of them trained are an exact LoRA, and networks that have none."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)
from transformers.models.gemma2 import Gemma2Config, Gemma2ForCausalLM

from memos_core import LocalModel, Unsupported
from memos_core.exercises import asked, followed, tabled
from memos_core.fusion import cat
from memos_core.lora import LoRA
from memos_core.parametric import Adapters
from memos_core.units import Block, Part, shape
from tests.networks import byte_tokenizer, random_model, random_network

ASKS = ("What is Kelvi's fruit?", "Tell me the tool of Balpi.", "Which city does Tolsha have?")


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel(Path(__file__).parent / "tiny_lm", device="cpu")


@pytest.fixture(scope="module")
def block(model: LocalModel) -> Block:
    return Block(model)


def trained(block: Block, units: range, seed: int = 0) -> Part:
    """Units whose weights are no longer the network's."""
    part, draw = block.part(units), torch.Generator().manual_seed(seed)
    for weight in part.weights:
        weight.data += 0.2 * torch.randn(weight.shape, generator=draw)
    return part


def rows(model: LocalModel) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    ids = [asked(model, q).ids for q in ASKS]
    return ids, [[len(r) - 3, len(r) - 1] for r in ids]


def said(model: LocalModel, lora: LoRA | None) -> torch.Tensor:
    ids, places = rows(model)
    asks = list(zip(ids, places, strict=True))
    with model.exclusive() as network, torch.no_grad():
        if lora is None:
            return followed(network, asks, model.device)
        with Adapters(model).change(lora).made(network):
            return followed(network, asks, model.device)


@pytest.mark.parametrize("kind", ["tiny", "llama", "qwen3", "mistral"])
@pytest.mark.parametrize("count", [5, 70])  # fewer and more than random networks have hidden numbers
def test_units_and_their_adapter_say_the_same(model: LocalModel, kind: str, count: int) -> None:
    one = model if kind == "tiny" else random_model(kind)
    block = Block(one)
    part = trained(block, range(3, 3 + count))
    ids, places = rows(one)
    read, given = block.states(tabled(ids, one.device), places)
    with torch.no_grad():
        found = block.logits(given + part.added(read))
    lora = block.lora(part)
    assert lora.rank == min(count, block.shape.hidden)
    assert not torch.allclose(found, said(one, None), atol=0.1)
    assert torch.allclose(found, said(one, lora), atol=1e-3)
    assert set(block.taken([lora])) == set(range(3, 3 + count))
    assert lora.bytes == block.shape.bytes(count, 4)


def test_places_are_those_of_the_rows_and_padding_is_nothing(model: LocalModel, block: Block) -> None:
    ids, places = rows(model)
    together = block.states(tabled(ids, model.device), places)
    alone = [block.states(tabled([r], model.device), [at]) for r, at in zip(ids, places, strict=True)]
    for i, states in enumerate(together):
        assert torch.allclose(states, torch.cat([one[i] for one in alone]), atol=1e-4)


def test_untrained_units_add_nothing(model: LocalModel, block: Block) -> None:
    part = block.part(range(10))
    assert part.added(torch.randn(4, block.shape.hidden)).abs().max() == 0
    assert torch.equal(said(model, block.lora(part)), said(model, None))


def test_adapters_of_different_units_add_up_exactly(model: LocalModel, block: Block) -> None:
    """What two of them add side by side is the sum of what each adds alone, before the last norm; of the same units it is not."""
    ids, places = rows(model)
    read, given = block.states(tabled(ids, model.device), places)
    first = trained(block, range(20), 1)
    for units, exact in ((range(20, 40), True), (range(10, 30), False)):
        second = trained(block, units, 2)
        with torch.no_grad():
            wanted = block.logits(given + first.added(read) + second.added(read))
        assert torch.allclose(said(model, cat([block.lora(first), block.lora(second)])), wanted, atol=1e-3) is exact


def test_units_that_no_other_adapter_changes_come_first(block: Block) -> None:
    size = block.shape.size
    first = block.lora(trained(block, range(size - 30)))
    assert set(block.chosen(30, [first], "a")) == set(range(size - 30, size))
    assert len(set(block.chosen(40, [first], "a")) & set(range(size - 30))) == 10
    assert block.chosen(30, [], "a") == block.chosen(30, [], "a") != block.chosen(30, [], "b")
    assert block.chosen(size + 1, [], "a") == list(range(size))


def test_nobodys_chance_is_disturbed(model: LocalModel) -> None:
    before = torch.get_rng_state()
    Block(model).part(range(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_another_thread_hooks_on_for_a_while_is_not_in_a_part(model: LocalModel, block: Block) -> None:
    found: list[Part] = []
    other = threading.Thread(target=lambda: found.append(block.part(range(4))))
    with model.exclusive() as network:
        hook = network.get_submodule(block.shape.name).register_forward_hook(lambda module, args, out: out + 1)
        other.start()
        other.join(0.2)  # it waits for the model
        hook.remove()
    other.join()
    assert not any(part._forward_hooks for part in (found[0].now, found[0].before))


def test_nothing_is_left_on_the_network(model: LocalModel) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())

    before = hooks()
    ids, places = rows(model)
    Block(model).states(tabled(ids, model.device), places)
    assert hooks() == before


SMALL = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (MixtralForCausalLM(MixtralConfig(**SMALL, num_key_value_heads=2, intermediate_size=48)), "no feed-forward"),
        (GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2)), "no feed-forward"),
        (
            Gemma2ForCausalLM(Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=16, intermediate_size=48)),
            "no sum of units",
        ),
    ],
)
def test_networks_without_such_units_are_named(network: torch.nn.Module, named: str) -> None:
    one = LocalModel.of(network.eval(), byte_tokenizer(), name="other")
    with pytest.raises(Unsupported, match=f"other: .*{named}"):
        Block(one)


@pytest.mark.parametrize(
    "network",
    [
        GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=48)),
        PhiForCausalLM(PhiConfig(**SMALL, intermediate_size=48)),
        PhiForCausalLM(PhiConfig(**SMALL, intermediate_size=32)),
        LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=32)),
    ],
)
def test_a_block_without_a_gate_with_biases_or_as_wide_as_the_network_is_one_of_units(network: torch.nn.Module) -> None:
    one = LocalModel.of(network.eval(), byte_tokenizer(), name="other")
    block = Block(one)
    part = trained(block, range(8))
    ids, places = rows(one)
    read, given = block.states(tabled(ids, one.device), places)
    with torch.no_grad():
        assert torch.allclose(block.logits(given + part.added(read)), said(one, block.lora(part)), atol=1e-3)


def test_half_precision_is_told_apart_from_what_is_no_unit() -> None:
    network = copy.deepcopy(random_network("qwen3")).to(torch.bfloat16)
    one = LocalModel.of(network, byte_tokenizer(), name="half")
    found = Block(one)
    assert shape(one) == found.shape
    assert found.lora(trained(found, range(4))).bytes == 2 * found.shape.bytes(4, 2)  # float32 until it is done
