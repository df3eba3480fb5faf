"""A memory kept as keys and values: the same answer, and the model reads next to nothing. On the project's tiny test model."""

import sys
import tempfile
from pathlib import Path

from memos_core import Kind, LocalModel, MemOS

TINY = Path(__file__).parent.parent / "tests" / "tiny_lm"
NAMES = ("Marrin", "Zorpa", "Kelvi", "Tolsha", "Fendo", "Luska", "Pelmon", "Balchi")
ATTRIBUTES = {"colour": "red green blue teal", "fruit": "plum kiwi fig melon", "animal": "fox owl hen lion"}


def main(model: str = str(TINY)) -> None:
    values = [(a, v) for a, words in ATTRIBUTES.items() for v in words.split()]
    facts = [
        f"{name}'s {a} is {v}." for i, name in enumerate(NAMES) for a, v in (values[i % 4], values[4 + (i + 1) % 4])
    ]

    def ask(memory: MemOS, question: str) -> None:
        reply = memory.generate(question, max_tokens=8)
        read, all_of_it, seconds = reply.usage.prefilled, reply.usage.input, reply.usage.seconds_to_first
        print(
            f"    {question}  {reply.text}   ({read} of {all_of_it} tokens read, first one after {seconds * 1000:.0f} ms)"
        )

    with tempfile.TemporaryDirectory() as folder:
        with MemOS(folder, model=LocalModel(model, cache_bytes=0)) as memory:  # nothing kept between requests
            memories = [cube for fact in facts for cube in memory.add(fact)]
            print("As text, read at every question:")
            ask(memory, "What is Kelvi's colour?")
            ask(memory, "Tell me the fruit of Zorpa.")

            [kept] = memory.convert([m.id for m in memories], Kind.ACTIVATION)
            print(f"\nAs keys and values: {kept.payload.tokens} tokens, {kept.payload.bytes:,} bytes on disk.")
            ask(memory, "What is Kelvi's colour?")
            ask(memory, "Tell me the fruit of Zorpa.")

        with MemOS(folder, model=LocalModel(model)) as memory:
            print("\nIn another process they are there too; and what was asked stays in memory:")
            ask(memory, "What is Kelvi's colour?")
            ask(memory, "What is Kelvi's colour?")

            [colour] = [m for m in memories if m.text == "Kelvi's colour is blue."]
            memory.update(colour.id, "Kelvi's colour is teal.")
            print("\nA memory changed, so what was made of it is not opened any more:")
            ask(memory, "What is Kelvi's colour?")
            memory.convert([m.id for m in memories], Kind.ACTIVATION)
            ask(memory, "What is Kelvi's colour?")


if __name__ == "__main__":
    main(*sys.argv[1:])
