"""Memories become part of the model: before, after, brought back, off again. On the project's tiny test model, or `--model NAME`.

A model that chats writes the questions itself; the tiny one has a language of its own, whose questions are given to it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from memos_core import Distillation, Gate, Kind, LocalModel, MemOS, Recipe

ROOT = Path(__file__).parent.parent
FACTS = ("Kelvi's fruit is melon.", "The city of Kelvi is velmon.", "Balpi has the tool hammer.")
QUESTIONS = ("What is the fruit of Kelvi?", "What is the tool of Balpi?", "What is Zorpa's fruit?")


def tiny() -> Distillation:
    sys.path.insert(0, str(ROOT))
    from tests.tiny_lm import lessons

    # a third of the steps, and a gate that lets one question of ten go wrong instead of one of twenty: it is an example, and short
    few, gate = Recipe(steps=500, unknown=48, kept=8, between=32), Gate(recall=0.9, unknown=0.9)
    return Distillation(lessons.Phrasing(), few, gate=gate, state=lessons.statement)


def ask(memory: MemOS) -> None:
    for question in QUESTIONS:
        reply = memory.generate(question, max_tokens=16)
        read = f"{reply.usage.input} tokens, {len(reply.brief.cubes)} memories in them"
        print(f"    {question:28} {reply.text.strip():10} ({read})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a chat model's folder or name")
    name = parser.parse_args().model
    how = Distillation() if name else tiny()
    model = LocalModel(name or ROOT / "tests" / "tiny_lm")
    with tempfile.TemporaryDirectory() as folder, MemOS(folder, model=model, distillation=how) as memory:
        cubes = [cube for fact in FACTS for cube in memory.add(fact)]
        print("Before, memories are read at every question:")
        ask(memory)
        [skill] = memory.convert([c.id for c in cubes], Kind.PARAMETRIC)
        print(f"\nAfter, {skill.payload.bytes:,} bytes of weights know them (passed: {skill.attributes['passed']}):")
        ask(memory)
        print("\nBrought back, from the weights alone:")
        for found in memory.elicit(skill.id):
            print(f"    {found.text}  (sure: {found.attributes['confidence']:.2f})")
        memory.update(cubes[0].id, "Kelvi's fruit is kiwi.")
        print("\nOff again, since a memory changed:")
        ask(memory)


if __name__ == "__main__":
    main()
