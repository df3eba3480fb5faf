"""A process that writes until it is killed: `python -m tests.crash_writer`. Says on stdout what it begins and what was acknowledged.

Imports first and then waits for a line with path and seed, so that the next one can warm up while this one works.
"""

from __future__ import annotations

import json
import os
import random
import sys
from datetime import timedelta
from typing import Any

from memos_core import MemCube, MemOS, Policy
from tests.words import WordsEmbedder

POLICY = Policy(compact_every=8, flush_usage=12, keep_versions=timedelta(seconds=5))
KEYS = ("tea", "city", "pet")


def say(**line: Any) -> None:
    os.write(1, (json.dumps(line) + "\n").encode())


def acknowledge(*cubes: MemCube) -> None:
    say(done=[[c.id, c.version, c.text] for c in cubes])


def work(memory: MemOS, rng: random.Random) -> None:
    """One random change after another, for ever."""
    mine: list[str] = []
    count = 0
    while True:
        count += 1
        word = f"note {rng.getrandbits(64):x} number {count}"
        choice = rng.random()
        if choice < 0.35 or not mine:
            say(begin="add", texts=[word])
            [cube] = memory.add(word)
            mine.append(cube.id)
            acknowledge(cube)
        elif choice < 0.55:
            turns = [{"role": "user", "content": f"{word} turn {i}"} for i in range(rng.randint(2, 9))]
            say(begin="add", texts=[t["content"] for t in turns])
            cubes = memory.add(turns, session=f"s{rng.randint(1, 4)}")
            mine += [c.id for c in cubes]
            acknowledge(*cubes)
        elif choice < 0.7:
            say(begin="keyed", texts=[word])
            acknowledge(*memory.add(word, key=rng.choice(KEYS)))
        elif choice < 0.85:
            id = rng.choice(mine)
            say(begin="update", id=id, texts=[word])
            acknowledge(memory.update(id, word))
        elif choice < 0.93:
            id = mine.pop(rng.randrange(len(mine)))
            say(begin="delete", id=id)
            memory.delete(id)
            say(gone=id)
        else:
            memory.search(word)  # usage is written down in the background, beside compaction


def main() -> None:
    import memos_core.memos  # noqa: F401 - the slow part, before the signal

    say(ready=True)
    path, seed = sys.stdin.readline().split("\t")
    with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=POLICY) as memory:
        work(memory, random.Random(int(seed)))


if __name__ == "__main__":
    main()
