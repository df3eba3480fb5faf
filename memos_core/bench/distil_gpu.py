"""Beside `bench distil`: what working out exercises and a training step take on a GPU, on a random network of Qwen3-8B's shape."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

from ..errors import InvalidArgument
from . import report, table

_ROWS, _TOKENS, _ANSWER = 96, 64, 8  # of each kind of exercises, of a row, and of its answer


def on_gpu(args: argparse.Namespace) -> int:
    """Seconds and memory of both, and an adapter's bytes."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from ..model import LocalModel

    if not torch.cuda.is_available():
        raise InvalidArgument("--gpu: this torch finds no GPU")
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("cuda"):
        network = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    row = measured(LocalModel.of(network, AutoTokenizer.from_pretrained(args.model), name="random Qwen3-8B"))
    print(table(("Qwen3-8B's shape", torch.cuda.get_device_name()), list(row.items())))
    report("distil-gpu", args, row)
    return 0


def measured(model: Any, steps: int = 8) -> dict[str, float]:
    """Seconds of working out exercises of random tokens and of a step of the default recipe, and what both take of memory, GiB."""
    import torch

    from ..curriculum import Curriculum
    from ..exercises import Exercise
    from ..practice import practice
    from ..recipe import Recipe
    from ..units import Block

    rng, cuda = random.Random(0), model.device.type == "cuda"

    def exercise(ids: tuple[int, ...] = ()) -> Exercise:
        ids = ids or tuple(rng.randrange(256) for _ in range(_TOKENS))
        likely = torch.tensor([rng.sample(range(256), 32) for _ in range(_ANSWER)])
        return Exercise(ids, tuple(range(_TOKENS - _ANSWER, _TOKENS)), likely, torch.full((_ANSWER, 32), -4.0))

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    before = torch.cuda.memory_allocated() if cuda else 0
    taught, kept, plain = (tuple(exercise() for _ in range(_ROWS)) for _ in range(3))
    unknown = tuple(exercise((e.ids[0] ^ 1, *e.ids[1:])) for e in taught)  # each differs in a token: they form pairs
    recipe, block = Recipe(), Block(model)
    part = block.part(block.chosen(80, (), "0"))
    began = now()
    found = practice(block, Curriculum(taught, unknown, kept, plain, ()), 0, model.device)
    worked_out = now() - began
    optimizer, seconds = torch.optim.AdamW(part.weights, lr=1e-4), []
    for step in range(steps):
        began = now()
        optimizer.zero_grad(set_to_none=True)
        found.loss(part, recipe, random.Random(step)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(now() - began)
    rows = sum(len(some.versions) for some in found.rows.values())
    drawn = sum(min(getattr(recipe, kind), len(some.versions)) for kind, some in found.rows.items())
    return {
        f"tokens a second, working out {rows} rows of {_TOKENS}": rows * _TOKENS / worked_out,
        f"seconds a step of {drawn} exercises": statistics.median(seconds[steps // 4 :]),
        "GiB beside the weights": (torch.cuda.max_memory_allocated() - before) / 2**30 if cuda else 0.0,
        "adapter bytes of 80 units": float(block.lora(part).bytes) / 4 * model.dtype.itemsize,
    }
