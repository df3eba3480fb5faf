"""A process of four threads that all write: `python -m tests.concurrent_writer PATH NUMBER`. Prints what it was told, as JSON."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memos_core import MemOS, Policy
from tests.words import WordsEmbedder

THREADS, ROUNDS = 4, 5
CONVERSATION = [{"role": "user", "content": f"turn {i} of a talk", "id": f"m{i}"} for i in range(6)]
POLICY = Policy(compact_every=10, flush_usage=20)


def write(memory: MemOS, who: str) -> list[Any]:
    """Notes of its own, one memory under everybody's key, everybody's conversation; and reading between."""
    told = []
    for turn in range(ROUNDS):
        [mine] = memory.add(f"note {turn} of {who}")
        [ours] = memory.add(f"version {turn} by {who}", key="shared")
        talk = memory.add(CONVERSATION, session="talk")
        changed = memory.update(mine.id, f"note {turn} of {who}, again")
        hits = memory.search(f"note of {who}", k=5)
        told.append(
            {"note": [changed.id, changed.version], "keyed": [ours.version, ours.text], "talk": [c.id for c in talk],
             "seen": mine.id in [h.cube.id for h in memory.search(changed.text, k=1000)], "hits": len(hits)}
        )  # fmt: skip
    return told


def main() -> None:
    path, number = sys.argv[1:]
    import memos_core.memos  # noqa: F401

    print("ready", flush=True)
    sys.stdin.readline()  # so that all of them open at the same time
    with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=POLICY) as memory, ThreadPoolExecutor(THREADS) as pool:
        told = pool.map(lambda thread: write(memory, f"{number}{thread}"), "abcd")
        print(json.dumps([line for some in told for line in some]))


if __name__ == "__main__":
    main()
