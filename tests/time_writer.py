"""A process that makes many changes one, over and over, until it is killed: `python -m tests.time_writer`. Says what it began and what was
acknowledged.

Imports first and then waits for a line with path, what to do and the first round, so that the next one can warm up while this one works.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from itertools import count
from typing import Any

from memos_core import MemOS, Policy
from tests.words import WordsEmbedder

KEYS = tuple(f"key {n}" for n in range(4))
POLICY = Policy(compact_every=16, keep_versions=timedelta(seconds=5))
BASE = "round zero"


def say(**line: Any) -> None:
    os.write(1, (json.dumps(line) + "\n").encode())


def in_transactions(memory: MemOS, first: int) -> None:
    """Each round: all keys say its number, one memory comes, the one of the round before goes."""
    for number in count(first):
        say(begin=number)
        with memory.transaction():
            for key in KEYS:
                memory.add(f"round {number}", key=key)
            for hit in memory.search("guest", k=100, filter={"tags": "guest"}):
                memory.delete(hit.cube.id)
            memory.add(f"round {number}", tags=["guest"])
        say(done=number)


def in_rollbacks(memory: MemOS, first: int) -> None:
    """Each round: all keys say its number, then what they said at first."""
    for number in count(first):
        say(begin=number)
        with memory.transaction():
            for key in KEYS:
                memory.add(f"round {number}", key=key)
        say(done=number)
        say(begin=0)
        memory.rollback("base")
        say(done=0)


def main() -> None:
    import memos_core.memos  # noqa: F401 - the slow part, before the signal

    say(ready=True)
    path, work, first = sys.stdin.readline().split("\t")
    with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=POLICY) as memory:
        {"transactions": in_transactions, "rollbacks": in_rollbacks}[work](memory, int(first))


if __name__ == "__main__":
    main()
