"""The checked-in tiny model as transformers loads it: that it looks facts up, and says so where there is nothing to find."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_core.brief import FOOTER, HEADER

from .tiny_lm import language
from .tiny_lm.language import Fact

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from .tiny_lm import evaluate, train  # noqa: E402  these need both

FOLDER = Path(__file__).parent / "tiny_lm"


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower on several
    yield
    torch.set_num_threads(before)


def say(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> str:
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**ids)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def chat(system: str, question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def stated(rng: random.Random, facts: tuple[Fact, ...]) -> str:
    return " ".join(language.state(fact, rng.choice(language.STATEMENTS)) for fact in facts)


def share_right(
    model: Any, tokenizer: Any, count: int, questions: tuple[str, ...], asked: int, *, alike: bool = False
) -> float:
    rng = random.Random(count)
    right = 0
    for turn in range(asked):
        facts = language.draw_facts(rng, count, alike=alike)
        fact = rng.choice(facts)
        prompt = chat(stated(rng, facts), language.ask(fact, questions[turn % len(questions)]))
        right += say(model, tokenizer, prompt) == language.answer(fact)
    return right / asked


def test_the_weights_are_small_and_queries_are_grouped(model: Any) -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 8 << 20
    assert model.config.model_type == "qwen3"
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.max_position_embeddings >= 4096


@pytest.mark.parametrize(("count", "asked", "at_least"), [(8, 60, 0.97), (20, 30, 0.93)])
def test_it_finds_names_and_values_that_it_never_saw(
    model: Any, tokenizer: Any, count: int, asked: int, at_least: float
) -> None:
    assert share_right(model, tokenizer, count, language.QUESTIONS, asked) >= at_least


def test_it_understands_questions_in_words_that_it_never_saw_together(model: Any, tokenizer: Any) -> None:
    assert share_right(model, tokenizer, 8, language.UNTRAINED_QUESTIONS, 40) >= 0.95


def test_it_reads_the_whole_name(model: Any, tokenizer: Any) -> None:
    assert share_right(model, tokenizer, 12, language.QUESTIONS, 40, alike=True) >= 0.95


@pytest.mark.parametrize("absence", language.ABSENCES)
def test_it_says_unknown_where_the_fact_is_absent(model: Any, tokenizer: Any, absence: language.Absence) -> None:
    rng = random.Random(absence)
    said = []
    for turn in range(20):
        facts = language.draw_facts(rng, 8)
        fact = language.draw_absent(rng, facts, absence)
        question = language.ask(fact, language.QUESTIONS[turn % len(language.QUESTIONS)])
        said.append(say(model, tokenizer, chat(stated(rng, facts), question)))
    assert said.count(language.UNKNOWN) >= 19


@pytest.mark.parametrize("system", [None, "", "You are a helpful assistant."])
def test_it_says_unknown_where_nothing_is_stated(model: Any, tokenizer: Any, system: str | None) -> None:
    rng = random.Random(3)
    for _ in range(10):
        question = language.ask(language.draw_absent(rng, (), "name"), rng.choice(language.QUESTIONS))
        messages = chat(system or "", question)[1 if system is None else 0 :]
        assert say(model, tokenizer, messages) == language.UNKNOWN


def test_it_reads_the_brief_that_the_engine_writes(model: Any, tokenizer: Any) -> None:
    rng = random.Random(4)
    right = 0
    for _ in range(20):
        facts = language.draw_facts(rng, 12)
        lines = [
            f"- [2026-05-{day + 1:02d} 09:{day:02d}] user: {language.state(fact, rng.choice(language.STATEMENTS))}\n"
            for day, fact in enumerate(facts)
        ]
        fact = rng.choice(facts)
        prompt = chat(HEADER + "".join(lines) + FOOTER, language.ask(fact, rng.choice(language.QUESTIONS)))
        right += say(model, tokenizer, prompt) == language.answer(fact)
    assert right >= 19


def test_facts_told_in_earlier_turns_are_remembered(model: Any, tokenizer: Any) -> None:
    rng = random.Random(5)
    right = 0
    for _ in range(20):
        facts = language.draw_facts(rng, 4)
        messages = []
        for fact in facts:
            messages += [{"role": "user", "content": language.state(fact, rng.choice(language.STATEMENTS))}]
            messages += [{"role": "assistant", "content": "Noted."}]
        fact = rng.choice(facts)
        messages += [{"role": "user", "content": language.ask(fact, rng.choice(language.QUESTIONS))}]
        right += say(model, tokenizer, messages) == language.answer(fact)
    assert right >= 19


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = "Tolsho's city is velmon.\n\n- An ünseen  wörd, 東京 ;-) {x}\t<y>\n12:30"
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    for name in (*language.NAMES, *language.HELD_OUT_NAMES):
        assert len(tokenizer(name).input_ids) == 2


def test_the_chat_template_is_the_text_that_it_was_trained_on(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Notes:"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Noted."},
        {"role": "tool", "content": "Bexvi has the colour pink."},
        {"role": "user", "content": "Bexvi's colour?"},
    ]
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text
    prompted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompted == text + "<|im_start|>assistant\n"


def test_the_training_module_and_transformers_give_the_same_logits(model: Any, tokenizer: Any) -> None:
    network, _ = evaluate.load(FOLDER)
    rng = random.Random(8)
    text = stated(rng, language.draw_facts(rng, 12))
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        assert torch.allclose(network.logits(network(ids)), model(ids).logits, atol=1e-4)


def test_a_step_of_training_depends_on_its_seed_and_number_alone(tokenizer: Any) -> None:
    def ids(seed: int, group: int) -> list[list[list[int]]]:
        return [batch.ids.tolist() for batch in train.batches(seed, train.Progress(stage=6, group=group), tokenizer)]

    assert ids(0, 5) == ids(0, 5)
    assert ids(0, 5) != ids(0, 6)
    assert ids(0, 5) != ids(1, 5)


def test_held_out_words_are_not_in_the_training_lists() -> None:
    assert not set(language.NAMES) & set(language.HELD_OUT_NAMES)
    assert not set(language.OPEN_VALUES) & set(language.HELD_OUT_VALUES)
    rng = random.Random(6)
    drawn = [fact for _ in range(50) for fact in language.draw_facts(rng, 20)]
    assert {fact.name for fact in drawn} <= set(language.HELD_OUT_NAMES)
    assert {fact.value for fact in drawn} <= {*language.HELD_OUT_VALUES, *language.ONE_WORD_VALUES}
