"""Keys and values from disk: loading all, running all, and what the measured rates choose, to the first token, in the same rounds.

The file was just written, so it is read from the system's page cache, as it would be on a machine with memory to spare.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from . import arguments, progress, report, table
from .ttft import PRESETS, Bench, _prompt

ASIDE = 1.1  # times the better of the two, at most


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    parser = arguments("reload", (__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu-100m", help="the network (default: cpu-100m)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[500, 2000, 4000], metavar="TOKENS")
    parser.add_argument("--query", type=int, default=167, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    bench = Bench(
        PRESETS[args.preset],
        SimpleNamespace(device=args.device, threads=None, rounds=args.rounds, preset=args.preset),  # type: ignore[arg-type]
    )
    cells = [_cell(bench, context, args.query, args.rounds) for context in args.contexts]
    head = ("context", "load s", "run s", "chosen s", "chosen / better", f"≤ {ASIDE}")
    print(table(head, [
        (f"{c['context']:,}", c["load"], c["run"], c["chosen"], c["ratio"], "yes" if c["ratio"] <= ASIDE else "NO") for c in cells
    ]))  # fmt: skip
    report("reload", args, {"machine": bench.machine(), "cells": cells})
    return 0


def _cell(bench: Bench, context: int, query: int, rounds: int) -> dict[str, Any]:
    from .. import tensors
    from ..activation import Opener
    from ..blobs import Blobs
    from ..files import LocalFiles

    progress(f"context {context:,}")
    model, draw = bench.model, random.Random(context)
    prompt = _prompt([draw.randrange(bench.shape.vocabulary) for _ in range(context + query)])
    with tempfile.TemporaryDirectory() as folder:
        blobs = Blobs(LocalFiles(Path(folder), fsync=False))
        name, parts, _ = tensors.pack(model.blocks(prompt, context), model.fingerprint)
        blobs.write(parts, name)
        eager, measured = Opener(model, blobs), Opener(model, blobs)

        def seconds(way: str) -> float:
            model.shelf.clear()
            opened = None if way == "run" else (eager if way == "load" else measured).opening(name)
            made = model.generate(prompt, max_tokens=1, keep=False, opened=opened)
            if way == "run":
                measured.running.note(made.usage.prefilled, made.usage.seconds_to_first)
            return made.usage.seconds_to_first

        seconds("chosen")  # its rates are not known yet: this measures one of them
        found: dict[str, list[float]] = {way: [] for way in ("load", "run", "chosen")}
        seconds("run")
        for _ in range(rounds):
            for way, times in found.items():
                times.append(seconds(way))
        eager.close()
        measured.close()
    better = [min(pair) for pair in zip(found["load"], found["run"], strict=True)]
    ratio = median(c / b for c, b in zip(found["chosen"], better, strict=True))
    return {"context": context, **{way: round(median(t), 4) for way, t in found.items()}, "ratio": round(ratio, 3)}
