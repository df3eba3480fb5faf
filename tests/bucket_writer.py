"""A process that writes to a bucket: `python -m tests.bucket_writer URL NUMBER ROUNDS`. Prints each memory that was acknowledged."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from memos_core import MemOS, Policy
from tests.words import WordsEmbedder

POLICY = Policy(compact_every=10, lease_seconds=1)
TALK = [{"role": "user", "content": f"turn {i} of a talk", "id": f"m{i}"} for i in range(3)]


def write(memory: MemOS, who: str, rounds: int) -> None:
    """Notes of its own, a memory under everybody's key, everybody's conversation."""
    for turn in range(rounds):
        [mine] = memory.add(f"note {turn} of {who}")
        [ours] = memory.add(f"version {turn} by {who}", key="shared")
        talk = memory.add(TALK, session="talk")
        mine = memory.update(mine.id, f"note {turn} of {who}, again")
        said = {"note": [mine.id, mine.version], "keyed": [ours.version, ours.text], "talk": [c.id for c in talk]}
        print(json.dumps(said), flush=True)


def main() -> None:
    url, number, rounds = sys.argv[1:]
    with MemOS(url, embed=WordsEmbedder(), actor="ann", policy=POLICY) as memory, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda thread: write(memory, f"{number}{thread}", int(rounds)), "ab"))


if __name__ == "__main__":
    main()
