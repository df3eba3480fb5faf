"""What is held changes the time, never the answer: the same logits and tokens as with the whole prompt run, however it is used."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memos_core import LocalModel, OutOfMemory, chain
from memos_core.model import Opening
from memos_core.prompt import Prompt
from tests.networks import byte_tokenizer, random_model, random_network

TINY = Path(__file__).parent / "tiny_lm"
KINDS = ("llama", "qwen3", "mistral", "tiny")
MANY = pytest.param(200, marks=pytest.mark.slow)
ANSWER = 8  # tokens


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network is slower on several
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=8)
def network_of(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    if kind == "tiny":
        return AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype), AutoTokenizer.from_pretrained(TINY)
    return copy.deepcopy(random_network(kind)).to(dtype), byte_tokenizer()


def model_of(kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> LocalModel:
    return LocalModel.of(*network_of(kind, dtype), name=kind, **options)


def random_prompts(model: LocalModel, count: int) -> Iterator[tuple[Prompt, Prompt]]:
    """Prompts of up to 300 tokens, and a beginning of each that ends anywhere; lines end anywhere too."""
    draw = random.Random(count)
    words = min(len(model.tokenizer), 256)
    for _ in range(count):
        length = draw.randrange(20, 300)
        ends = sorted(draw.sample(range(1, length + 1), length // 20))
        ids, cut = tuple(draw.randrange(3, words) for _ in range(length)), draw.randrange(1, length)
        whole = Prompt("", ids, tuple(range(length)), tuple(ends))
        yield whole, Prompt("", ids[:cut], tuple(range(cut)), tuple(e for e in ends if e <= cut))


def logits_of(model: LocalModel, asked: Prompt, answer: Sequence[int], tenant: tuple[str, ...]) -> tuple[int, Any]:
    """How many tokens of a prompt were held, and the logits behind it and behind each token of an answer: as `stream` runs them."""
    found = model.shelf.find(chain.root(model.fingerprint, tenant), asked.ids[:-1])
    held = sum(f.tokens for f in found)
    cache = model.cache([(f.tensor, f.tokens) for f in found], len(asked.ids) - held + len(answer))
    rows = [model.forward(asked.ids[held:], cache), *(model.forward([id], cache) for id in answer)]
    return held, torch.cat(rows)


# --- a beginning that is held against the whole prompt run -----------------------------------------------------------------


@pytest.mark.parametrize("prompts", [10, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_tokens_are_those_of_the_whole_prompt(kind: str, prompts: int) -> None:
    model, furthest = model_of(kind), 0.0
    for number, (asked, beginning) in enumerate(random_prompts(model, prompts)):
        model.generate(beginning, max_tokens=1, tenant=(str(number),))
        whole = model.generate(asked, max_tokens=ANSWER, tenant=("nobody",), keep=False)
        again = model.generate(asked, max_tokens=ANSWER, tenant=(str(number),), keep=False)
        assert (whole.usage.cached, again.usage.cached) == (0, len(beginning.ids))
        assert again.ids == whole.ids
        _, expected = logits_of(model, asked, whole.ids[:-1], ("nobody",))
        held, found = logits_of(model, asked, whole.ids[:-1], (str(number),))
        assert held == len(beginning.ids)
        furthest = max(furthest, float((found - expected).abs().max()))
    print(f"{kind}: {prompts} prompts, furthest logit {furthest:.1e}")
    assert furthest <= 1e-4


@pytest.mark.parametrize("prompts", [15, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_in_half_precision_nearly_every_token_is_the_same(kind: str, prompts: int) -> None:
    model = model_of(kind, torch.bfloat16)
    same: list[bool] = []
    divergence: list[float] = []
    for number, (asked, beginning) in enumerate(random_prompts(model, prompts)):
        model.generate(beginning, max_tokens=1, tenant=(str(number),))
        answer = model.generate(asked, max_tokens=ANSWER, tenant=("nobody",), keep=False).ids[:-1]
        expected = logits_of(model, asked, answer, ("nobody",))[1].log_softmax(-1)
        found = logits_of(model, asked, answer, (str(number),))[1].log_softmax(-1)
        same += (expected.argmax(-1) == found.argmax(-1)).tolist()
        divergence += (expected.exp() * (expected - found)).sum(-1).tolist()
    share, mean = sum(same) / len(same), sum(divergence) / len(divergence)
    print(f"{kind}: {prompts} prompts, {sum(same)} of {len(same)} steps the same ({share:.4f}), mean KL {mean:.1e}")
    assert share >= 0.99
    assert mean <= 1e-3


def test_a_block_is_the_same_bits_after_use_and_answers_twice_the_same() -> None:
    model = random_model()
    asked, beginning = next(random_prompts(model, 1))
    model.generate(beginning, max_tokens=1)
    start = chain.root(model.fingerprint, ())
    tensors = [f.tensor for f in model.shelf.find(start, beginning.ids)]
    before = [t.clone() for t in tensors]
    first, second = (model.generate(asked, max_tokens=40, keep=False) for _ in range(2))
    assert first.usage.cached == second.usage.cached == len(beginning.ids)
    assert first.ids == second.ids
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    assert [f.tensor.data_ptr() for f in model.shelf.find(start, beginning.ids)] == [t.data_ptr() for t in tensors]


@pytest.mark.parametrize("known", [0, 20], ids=["nothing held", "a beginning held"])
@pytest.mark.parametrize("front", [0, 1, 40])
def test_what_comes_from_elsewhere_may_follow_what_is_run_meanwhile(front: int, known: int) -> None:
    model = random_model()
    asked = next(random_prompts(model, 1))[0]
    assert len(asked.ids) > known + front + 10
    if known:
        model.generate(replace(asked, ids=asked.ids[:known], boundaries=()), max_tokens=1)
    whole = model.generate(asked, max_tokens=ANSWER, tenant=("nobody",), keep=False)
    cache = model.cache()
    model.forward(asked.ids, cache)
    blocks = [
        model.taken(cache, known + front, known + front + 9),
        model.taken(cache, known + front + 9, len(asked.ids)),
    ]
    made = model.generate(asked, max_tokens=ANSWER, opened=lambda _asked, _held: Opening(front, lambda: blocks))
    assert (made.ids, made.trouble) == (whole.ids, "")
    assert made.usage.cached == len(asked.ids) - 1 - front


# --- conversations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "tiny"])
def test_in_a_conversation_each_turn_prefills_what_is_new(kind: str) -> None:
    model = model_of(kind)
    said: list[dict[str, str]] = [{"role": "system", "content": "You look things up in what you are told."}]
    prefilled = new = 0
    before: tuple[int, ...] = ()
    for turn in range(40):
        said.append({"role": "user", "content": f"Mila lives in Porto since {turn}. Where does Mila live?"})
        asked = model.prompt(said)
        pieces = model.stream(said, max_tokens=10)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                made = end.value
                break
        prefilled += made.usage.prefilled
        new += len(asked.ids) - chain.common(before, asked.ids)
        before = (*asked.ids, *made.ids)
        said.append({"role": "assistant", "content": made.text})
    print(f"{kind}: prefilled {prefilled} tokens where {new} were new, of a last prompt of {len(asked.ids)}")
    assert prefilled <= 1.05 * new
    assert len(asked.ids) > 30 * 40


@pytest.mark.parametrize("kind", ["sliding", "hybrid"])
def test_models_whose_caches_cannot_be_cut_go_on_where_they_were(kind: str) -> None:
    network = random_network("sliding") if kind == "sliding" else hybrid_network()
    model = LocalModel.of(network, byte_tokenizer())
    assert not model.reuses_blocks
    said = [{"role": "system", "content": "A system message that is longer than a window of 32 tokens is."}]
    for turn in range(6):
        said.append({"role": "user", "content": f"Question number {turn}, and some more words."})
        kept = model.generate(said, max_tokens=ANSWER, tenant=("kept",))
        whole = model.generate(said, max_tokens=ANSWER, tenant=("nobody", str(turn)), keep=False)
        assert kept.ids == whole.ids
        assert (kept.usage.cached > 0) == (turn > 0)
        said.append({"role": "assistant", "content": kept.text})
    fresh = [said[0], {"role": "user", "content": "Something else."}]
    assert model.generate(fresh, max_tokens=2, tenant=("kept",)).usage.cached == model.prompt(fresh).stable


@lru_cache(maxsize=1)
def hybrid_network() -> Any:
    """Layers of short convolutions, whose state is no sequence, and one of full attention between them."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention", "conv"], max_position_embeddings=4096,
        initializer_range=0.2, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Lfm2ForCausalLM(config).eval()


# --- others -----------------------------------------------------------------------------------------------------------------


def test_two_tenants_never_share() -> None:
    model = random_model()
    asked, _ = next(random_prompts(model, 1))
    assert model.generate(asked, max_tokens=2, tenant=("ann",)).usage.cached == 0
    assert model.generate(asked, max_tokens=2, tenant=("ann",)).usage.cached == len(asked.ids) - 1
    for other in (("ben",), (), ("ann", ""), ("an", "n")):
        assert model.generate(asked, max_tokens=2, tenant=other, keep=False).usage.cached == 0


def test_eight_threads_get_the_answers_of_one() -> None:
    model = random_model(cache_bytes=200 * 512)  # room for some of them only: blocks go while others are copied from
    asked = [prompt for prompt, _ in random_prompts(model, 8)]
    alone = [model.generate(p, max_tokens=ANSWER, tenant=("nobody",), keep=False).ids for p in asked]
    failed: list[object] = []

    def ask(number: int) -> None:
        for turn in range(6):
            which = (number + turn) % len(asked)
            if model.generate(asked[which], max_tokens=ANSWER).ids != alone[which]:
                failed.append((number, turn))
            if model.shelf.held().device_bytes > 200 * 512:
                failed.append(model.shelf.held())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_a_stream_that_is_given_up_leaves_what_it_ran_and_nothing_else(pieces: int) -> None:
    model = random_model()
    asked, _ = next(random_prompts(model, 1))
    expected = model.generate(asked, max_tokens=20, tenant=("nobody",), keep=False)
    stream = model.stream(asked, max_tokens=20)
    for _ in range(pieces):
        next(stream)
    stream.close()
    again = model.generate(asked, max_tokens=20, keep=False)
    assert again.ids == expected.ids
    assert again.usage.cached == (len(asked.ids) - 1 if pieces else 0)
    longer = Prompt("", (*asked.ids, *expected.ids), tuple(range(len(asked.ids) + 20)), ())
    whole = model.generate(longer, max_tokens=4, tenant=("nobody",), keep=False)
    assert model.generate(longer, max_tokens=4, keep=False).ids == whole.ids


@pytest.mark.parametrize("kind", ["random", "sliding", "tiny"])
def test_a_batch_is_answered_as_its_prompts_are_alone(kind: str) -> None:
    model = model_of("tiny") if kind == "tiny" else random_model("qwen3" if kind == "random" else kind)
    asked = [prompt for prompt, _ in random_prompts(model, 5)]
    alone = [model.generate(p, max_tokens=ANSWER, keep=False) for p in asked]
    batch = model.generate_batch(asked, max_tokens=ANSWER)
    assert [b.ids for b in batch] == [a.ids for a in alone]
    assert [b.text for b in batch] == [a.text for a in alone]
    assert [b.finish for b in batch] == [a.finish for a in alone]


def test_a_token_that_failed_leaves_nothing_to_go_on_from() -> None:
    """Of a network whose second layer fails when the first has taken the token in."""
    network = copy.deepcopy(random_network("sliding"))
    model = LocalModel.of(network, byte_tokenizer())
    asked, _ = next(random_prompts(model, 1))
    answer = model.generate(asked, max_tokens=12, keep=False).ids
    longer = Prompt("", (*asked.ids, *answer), tuple(range(len(asked.ids) + len(answer))), ())
    expected = model.generate(longer, max_tokens=12, keep=False)
    stream = model.stream(asked, max_tokens=12)
    next(stream)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = network.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemory, match="no room left"):
        next(stream)
    handle.remove()
    after = model.generate(longer, max_tokens=12, keep=False)
    assert (after.ids, after.usage.cached) == (expected.ids, 0)


def test_an_answer_is_given_even_if_there_is_no_room_to_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    asked, _ = next(random_prompts(model, 1))
    expected = model.generate(asked, max_tokens=5, keep=False).ids

    def no_room(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "stack", no_room)
    assert model.generate(asked, max_tokens=5).ids == expected
    assert model.shelf.held().blocks == 0
