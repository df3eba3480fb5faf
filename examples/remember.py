"""Add, search, brief: the engine on its own, with the default embedder. Prints what is recalled and why."""

import tempfile
from datetime import UTC, datetime

from memos_core import MemOS


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(folder) as memory:
        memory.add(
            [
                {"role": "user", "name": "Ines", "content": "We adopted a dog! A brown spaniel, his name is Pixel."},
                {"role": "assistant", "content": "Wonderful! How old is he?"},
                {"role": "user", "name": "Ines", "content": "Three. He is afraid of thunderstorms, poor thing."},
            ],
            session="monday",
            occurred_at=datetime(2026, 3, 2, 18, 30, tzinfo=UTC),
        )
        memory.add("Ines is allergic to walnuts.", key="allergy", semantic_type="fact")

        for hit in memory.search("What is the dog called?", k=2):
            print(f"{hit.score:.2f}  {hit.cube.origin.speaker}: {hit.cube.text}  ({'; '.join(hit.why)})")

        print()
        print(memory.brief("What should I know before a storm?", max_tokens=120).text)

        # a key names one memory: adding under it again makes a new version, and the old one stays in its history
        [fact] = memory.add("Ines is allergic to walnuts and hazelnuts.", key="allergy", semantic_type="fact")
        print()
        for version in memory.history(fact.id):
            print(f"version {version.version}: {version.text}")


if __name__ == "__main__":
    main()
