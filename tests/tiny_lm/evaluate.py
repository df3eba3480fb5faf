"""Scores of the tiny model on names and values that it never saw: `python -m tests.tiny_lm.evaluate FOLDER... --out scores.json`.

One question per context, the whole answer with its stop sign, each token given the right ones before it. Facts are untyped
unless it says so: any attribute takes any value, and name and attribute are both needed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config

from . import language
from .data import Look, quote
from .language import Fact
from .network import TinyLM
from .tokenizer import TURN, TURN_END

Prompt = tuple[str, str]  # a prompt and the answer that is right
Draw = Callable[[random.Random], Prompt]
COUNTS = (1, 2, 4, 8, 12, 20, 40)
SYSTEM: tuple[Look, ...] = ("prose", "list", "brief")


def load(folder: Path) -> tuple[TinyLM, PreTrainedTokenizerFast]:
    """The network and the tokenizer of a folder that `train` exported."""
    network = TinyLM(Qwen3Config.from_pretrained(folder))
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return network, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def right(network: TinyLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> list[bool]:
    """For each prompt whether every token of its answer is the likeliest one, given those before it."""
    results = []
    for prompt, answer in prompts:
        encoding = tokenizer.backend_tokenizer.encode(prompt + answer)
        start = sum(end <= len(prompt) for _, end in encoding.offsets)
        ids = torch.tensor([encoding.ids])
        logits = network.logits(network(ids)[0, start - 1 : -1])
        results.append(bool((logits.argmax(-1) == ids[0, start:]).all()))
    return results


def chat(system: str, question: str, fact: Fact) -> Prompt:
    """A chat with one question, and its answer."""
    head = f"{TURN}system\n{system}{TURN_END}\n" if system else ""
    return f"{head}{TURN}user\n{question}{TURN_END}\n{TURN}assistant\n", language.answer(fact) + TURN_END


def context(
    rng: random.Random, facts: Sequence[Fact], look: Look, fillers: int = 0, forms: Sequence[str] = language.STATEMENTS
) -> str:
    """A system message that states the facts, with fillers in between."""
    sentences = [language.state(fact, rng.choice(forms)) for fact in facts]
    sentences += [language.draw_filler(rng) for _ in range(fillers)]
    rng.shuffle(sentences)
    return quote(rng, look, sentences)


def recall(
    count: int, looks: Sequence[Look] = SYSTEM, *, fillers: int = 0, typed: bool = False, alike: bool = False,
    questions: Sequence[str] = language.QUESTIONS, statements: Sequence[str] = language.STATEMENTS,
) -> Draw:  # fmt: skip
    """Prompts that ask for one of `count` facts in the system message."""

    def draw(rng: random.Random) -> Prompt:
        facts = language.draw_facts(rng, count, typed=typed, alike=alike)
        fact = rng.choice(facts)
        system = context(rng, facts, rng.choice(looks), fillers, statements)
        return chat(system, language.ask(fact, rng.choice(questions)), fact)

    return draw


def absent(count: int, absence: language.Absence, *, alike: bool = False) -> Draw:
    """Prompts that ask for what `count` facts do not tell."""

    def draw(rng: random.Random) -> Prompt:
        facts = language.draw_facts(rng, count, alike=alike)
        fact = language.draw_absent(rng, facts, absence, alike=alike)
        question = language.ask(fact, rng.choice(language.QUESTIONS))
        return chat(context(rng, facts, rng.choice(SYSTEM)), question, fact)

    return draw


def told(count: int) -> Draw:
    """Prompts whose facts stand in the user's earlier turns, each confirmed."""

    def draw(rng: random.Random) -> Prompt:
        facts = language.draw_facts(rng, count)
        fact = rng.choice(facts)
        turns = [
            f"{TURN}user\n{language.state(other, rng.choice(language.STATEMENTS))}{TURN_END}\n{TURN}assistant\nNoted.{TURN_END}\n"
            for other in facts
        ]
        prompt, answer = chat("", language.ask(fact, rng.choice(language.QUESTIONS)), fact)
        return "".join(turns) + prompt, answer

    return draw


def plain(count: int) -> Draw:
    """Prompts without a chat."""

    def draw(rng: random.Random) -> Prompt:
        facts = language.draw_facts(rng, count)
        fact = rng.choice(facts)
        question = language.ask(fact, rng.choice(language.QUESTIONS))
        return f"{context(rng, facts, 'prose')} Q: {question} A:", " " + language.answer(fact)

    return draw


def late(count: int, fillers: int) -> Draw:
    """Prompts with all fillers before the facts."""

    def draw(rng: random.Random) -> Prompt:
        facts = language.draw_facts(rng, count)
        fact = rng.choice(facts)
        before = " ".join(language.draw_filler(rng) for _ in range(fillers))
        question = language.ask(fact, rng.choice(language.QUESTIONS))
        return chat(f"{before} {context(rng, facts, rng.choice(SYSTEM))}", question, fact)

    return draw


def without(fillers: int, *, system: bool) -> Draw:
    """Prompts that state nothing: with a system message (of fillers, or a usual one) or with none."""

    def draw(rng: random.Random) -> Prompt:
        fact = language.draw_absent(rng, (), "name")
        text = " ".join(language.draw_filler(rng) for _ in range(fillers)) or "You are a helpful assistant."
        return chat(text if system else "", language.ask(fact, rng.choice(language.QUESTIONS)), fact)

    return draw


def chance(count: int, draws: int = 400) -> dict[str, float]:
    """How often one is right who takes a random fact of the context, one of the right name, or one of the right attribute."""
    rng = random.Random(count)
    by_name = by_attribute = 0.0
    for _ in range(draws):
        facts = language.draw_facts(rng, count)
        fact = rng.choice(facts)
        by_name += 1 / sum(other.name == fact.name for other in facts) / draws
        by_attribute += 1 / sum(other.attribute == fact.attribute for other in facts) / draws
    return {"any": round(1 / count, 3), "name": round(by_name, 3), "attribute": round(by_attribute, 3)}


def scores(network: TinyLM, tokenizer: PreTrainedTokenizerFast, asked: int = 400) -> dict[str, object]:
    """All scores, each the share of `asked` prompts (half as many at 40 facts and for the variants) that were right."""

    def share(name: str, draw: Draw, number: int) -> float:
        rng = random.Random(name)
        return round(sum(right(network, tokenizer, [draw(rng) for _ in range(number)])) / number, 4)

    table: dict[str, object] = {"asked": asked}
    for count in COUNTS:
        many = asked if count < 40 else asked // 2
        fewer = many // 2
        draws: dict[str, Draw] = {look: recall(count, (look,)) for look in SYSTEM}
        draws |= {
            "told": told(count),
            "plain": plain(count),
            "typed": recall(count, typed=True),
            "alike": recall(count, alike=True),
        }
        draws |= {f"filler {fillers}": recall(count, fillers=fillers) for fillers in (20, 40)}
        draws |= {form: recall(count, questions=(form,)) for form in language.UNTRAINED_QUESTIONS}
        draws |= {form: recall(count, statements=(form,)) for form in language.UNTRAINED_STATEMENTS}
        draws |= {"late 70": late(count, 70)}
        absences = language.ABSENCES if count > 1 else language.ABSENCES[:2]
        table[str(count)] = {
            "chance": chance(count),
            "recall": share(f"recall {count}", recall(count), many),
            **{name: share(f"{name} {count}", draw, fewer) for name, draw in draws.items()},
            "unknown": {kind: share(f"{kind} {count}", absent(count, kind), fewer) for kind in absences},
        }
        print(count, json.dumps(table[str(count)]), flush=True)
    table["nothing stated"] = {
        "no system message": share("none", without(0, system=False), asked // 2),
        "usual system message": share("usual", without(0, system=True), asked // 2),
        "20 fillers": share("20", without(20, system=True), asked // 2),
    }
    return table


def glance(network: TinyLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """A few quick scores, the same prompts each time."""
    told = []
    for count, asked in ((4, 80), (8, 80), (20, 60), (40, 24)):
        found = []
        for draws in ([recall(count)], [absent(count, absence) for absence in language.ABSENCES]):
            rng = random.Random(count)
            hits = right(network, tokenizer, [draws[turn % len(draws)](rng) for turn in range(asked)])
            found.append(sum(hits) / asked)
        told.append(f"{count}: {found[0]:.3f}, {found[1]:.3f}")
    return "recall, unknown at " + "; ".join(told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="exported models, one for each seed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--asked", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {folder.parent.name: scores(*load(folder), given.asked) for folder in given.folders}
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
