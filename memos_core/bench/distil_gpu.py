"""Beside `bench distil`: what a training step takes on a GPU, on a random network of Qwen3-8B's shape."""

from __future__ import annotations

import argparse
import statistics
import time

from ..errors import InvalidArgument
from . import report, table


def on_gpu(args: argparse.Namespace) -> int:
    """Seconds and memory of a training step, and an adapter's bytes, on a random network of Qwen3-8B's shape."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from ..exercises import divergences, followed
    from ..lora import linears, made
    from ..parametric import Twin

    if not torch.cuda.is_available():
        raise InvalidArgument("--gpu: this torch finds no GPU")
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("cuda"):
        network = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    pairs = {
        n: (
            torch.randn(8, m.in_features, dtype=torch.bfloat16) / m.in_features**0.5,
            torch.zeros(m.out_features, 8, dtype=torch.bfloat16),
        )
        for n, m in linears(network).items()
    }
    lora = made("random", pairs)
    twin = Twin(network)
    twin.put("student", lora)
    weights = [w.requires_grad_(True) for pair in twin.pairs("student").values() for w in pair]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    before = torch.cuda.memory_allocated()
    rows = [(torch.randint(0, 150_000, (64,)).tolist(), list(range(56, 63))) for _ in range(32)]
    places = sum(len(at) for _, at in rows)
    likely = torch.randint(0, 150_000, (places, 32), device="cuda")
    logs = torch.full((places, 32), -4.0, device="cuda")
    seconds = []
    for _ in range(8):
        torch.cuda.synchronize()
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with twin.active(["student"]) as student:
            divergences(likely, logs, followed(student, rows, network.device)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    row = {
        "seconds a step of 32 rows of 64 tokens": statistics.median(seconds[2:]), "GiB beside the weights": (torch.cuda.max_memory_allocated() - before) / 2**30,
        "adapter bytes": float(lora.bytes),
    }  # fmt: skip
    print(table(("Qwen3-8B's shape", torch.cuda.get_device_name()), list(row.items())))
    report("distil-gpu", args, row)
    return 0
