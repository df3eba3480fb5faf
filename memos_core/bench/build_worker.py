"""What `bench builds` times, in a process of one build: one job a line on standard input, its seconds a line on standard output.

It is run as a file by an interpreter that finds another build's `memos_core`, so it imports nothing of this one and calls public verbs only.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memos_core import MemOS

WIDTH = 64


class HashedWords:
    """An embedder that costs little and is the same in every process: the sum of a vector for each word. Shape [texts, 64]."""

    dimension = WIDTH
    fingerprint = "bench-hashed-words"

    def __call__(self, texts: Sequence[str], /) -> Any:
        """Unit vectors of shape [len(texts), 64], float32."""
        found = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                digest = hashlib.sha256(word.encode()).digest()
                found[row, digest[0] % WIDTH] += 1 if digest[1] % 2 else -1
            found[row, 0] += 0.1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def words(n: int) -> str:
    """A text of twelve words that no other number gives."""
    return " ".join([f"note{n}", *(f"word{(n * 7919 + i * 104729) % 5000}" for i in range(11))])


class Jobs:
    """The jobs of one build, on stores below one folder."""

    def __init__(self, folder: Path, memories: int) -> None:
        self._folder = folder
        self._count = memories
        self._loads = 0
        self._memory = MemOS(folder / "store", embed=HashedWords(), actor="ada")
        for start in range(0, memories, 1000):
            turns = [
                {"role": "user", "content": words(n), "id": f"m{n}"} for n in range(start, min(memories, start + 1000))
            ]
            self._memory.add(turns, session=f"s{start}")

    def add(self) -> None:
        """One message of a session, as an adapter hands it in."""
        self._count += 1
        self._memory.add({"role": "user", "content": words(self._count), "id": f"m{self._count}"}, session="live")

    def search(self) -> None:
        """One question to all memories of the store."""
        self._count += 1
        self._memory.search(words(self._count % 997), k=10)

    def dump(self) -> None:
        """The whole store to a new folder."""
        self._loads += 1
        self._memory.dump(self._folder / f"dump{self._loads}")

    def load(self) -> None:
        """The newest dump into a new store."""
        with MemOS(self._folder / f"into{self._loads}", embed=HashedWords(), actor="ada") as empty:
            empty.load(self._folder / f"dump{self._loads}")

    def close(self) -> None:
        """Let go of the store."""
        self._memory.close()


def main(folder: str, memories: str) -> None:
    """Serve jobs until the input ends."""
    jobs = Jobs(Path(folder), int(memories))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job: Callable[[], None] = getattr(jobs, json.loads(line))
        wall, processor = time.perf_counter(), time.process_time()
        job()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]), flush=True)
    jobs.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
