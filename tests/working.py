"""Stores for workers to work on, in processes of their own: `python -m tests.working PATH MARKER`.

A worker there says "ready" and then what it did. With a marker, the first worker of all that runs the model writes down who it is and
never comes back from it: it is in the middle of a build until it is killed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from memos_core import LocalModel, MemOS, Policy, Rates
from memos_core.workers import Opening, until_told, work
from tests.networks import random_model
from tests.words import WordsEmbedder

QUESTION = "Which colour does house 3 have?"
SLOW = Rates(prefill=10.0, disk=1e9)  # a model that takes its time: what is asked twice is worth keeping
POLICY = Policy(lease_seconds=1)


def now() -> datetime:
    return datetime.now(UTC)


def opening(path: str, marker: Path | None = None, options: Mapping[str, str] | None = None) -> Opening:
    """How workers open the store."""
    model: Callable[[], LocalModel] = random_model if marker is None else partial(stuck_once, marker)
    return Opening(
        path, storage_options=options, embed=WordsEmbedder(), model=model, policy=POLICY, rates=SLOW, actor="ann"
    )


def wanted(path: str, options: Mapping[str, str] | None = None) -> list[str]:
    """A store whose memories are asked for so often that the plan wants their keys and values; their ids."""
    with MemOS(
        path,
        storage_options=options,
        embed=WordsEmbedder(),
        model=random_model(),
        policy=POLICY,
        rates=SLOW,
        actor="ann",
        clock=now,
    ) as memory:
        ids = [memory.add(f"The colour of house {i} is number {i * 7}.")[0].id for i in range(12)]
        for _ in range(3):
            memory.generate(QUESTION, max_tokens=2)
    return ids


def stuck_once(marker: Path) -> LocalModel:
    """A model that the first who runs it anywhere gets stuck in."""
    model = random_model()
    assert model.token_bytes  # which is found by running it, once; and that is no build

    def stick(*_: Any) -> None:
        try:
            handle = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(handle, f"{os.getpid()} {_node()}\n".encode())
        os.close(handle)
        threading.Event().wait()

    model.network.register_forward_pre_hook(stick)
    return model


def distilling(path: str, how: Any) -> Opening:
    """How workers open a store in which adapters are made."""
    return replace(opening(path), distillation=how)


def _node() -> str:
    """On Ray: the node, and how many GPUs this worker has of it."""
    ray = sys.modules.get("ray")
    return "" if ray is None else f"{ray.get_runtime_context().get_node_id()} {len(ray.get_gpu_ids())}"


def main() -> None:
    from tests.test_adapters import FAST

    path, marker = sys.argv[1:]
    found = (
        opening(path, Path(marker))
        if marker
        else distilling(path, replace(FAST, recipe=replace(FAST.recipe, steps=100_000), progress=_step))
    )
    stop = threading.Event()
    with until_told(stop):
        print("ready", flush=True)
        worked = work(found, every=0.1, stop=stop, told=lambda tick: print("ticked", *tick.done, flush=True))
    print(f"ended after {worked.ticks}", flush=True)


def _step(step: Any) -> None:
    if step.step == 3:
        print("learning", flush=True)


if __name__ == "__main__":
    main()
