"""A process that ticks, for tests of several on one store: `python -m tests.tick_worker PATH TIME [hang]`.

It says "ready", waits for a line, ticks until nothing is left to do, and says what it did. With "hang" it says "building" in the middle of
its first build and never goes on.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any

from memos_core import MemOS, Rates
from tests.networks import random_model
from tests.words import WordsEmbedder

SLOW = Rates(prefill=100.0, disk=1e9)


def main(path: str, now: str, *how: str) -> None:
    model = random_model()
    at = datetime.fromisoformat(now)

    def hang(module: Any, args: Any, options: Any) -> None:
        if options["input_ids"].shape[1] > 1:
            print("building", flush=True)
            time.sleep(3_600)

    with MemOS(path, embed=WordsEmbedder(), model=model, rates=SLOW, clock=lambda: at, actor="ann") as memory:
        assert model.reuses_blocks
        print("ready", flush=True)
        sys.stdin.readline()
        if "hang" in how:
            model.network.register_forward_pre_hook(hang, with_kwargs=True)
        done: list[str] = []
        while moves := [c for c in memory.tick().moves if c.outcome == "done"]:
            done += [f"{c.move.action}:{c.subject}" for c in moves]
        print(*done, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
