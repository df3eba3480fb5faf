"""What this build takes beside another checkout of this project: add, search, dump and load, in turns, one process each.

Both do the same jobs in the same order, one after the other, so that a machine whose speed drifts slows both; what is read is the ratio of the
two medians. A job's processor seconds are those of all threads of its process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import arguments, progress, report, table

ROUNDS = {"add": 120, "search": 200, "dump": 7, "load": 7}
_WARM = {"add": 20, "search": 20, "dump": 1, "load": 1}


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    parser = arguments("builds", (__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--other", type=Path, required=True, metavar="FOLDER", help="a checkout of the build to compare with"
    )
    parser.add_argument("--memories", type=int, default=5_000, help="in the store at first (default: 5,000)")
    parser.add_argument("--rounds", type=float, default=1.0, help="times the usual number of rounds (default: 1)")
    args = parser.parse_args(argv)
    results = compare(args.other, args.memories, args.rounds)
    head = ("job", "this ms", "other ms", "wall ratio", "this cpu ms", "other cpu ms", "cpu ratio")
    print(table(head, [(job, *row.values()) for job, row in results.items()]))
    report("builds", args, results)
    return 0


def compare(other: Path, memories: int, rounds: float) -> dict[str, dict[str, float]]:
    """By job: medians of both builds in milliseconds, and this build's share of the other's."""
    here = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory(prefix="memos-bench-") as folder:
        builds = [
            _Build(root, Path(folder) / name, memories) for name, root in (("this", here), ("other", other.resolve()))
        ]
        try:
            for build in builds:
                build.ready()
            seconds = _in_turns(builds, rounds)
        finally:
            for build in builds:
                build.end()
    found = {}
    for job, (this, that) in seconds.items():
        row: dict[str, float] = {}
        for at, name in ((0, ""), (1, "cpu ")):
            a, b = (statistics.median(s[at] for s in some) for some in (this, that))
            row |= {
                f"this {name}ms": round(a * 1000, 3),
                f"other {name}ms": round(b * 1000, 3),
                f"{name or 'wall '}ratio": round(a / b, 3),
            }
        found[job] = row
    return found


class _Build:
    """The process of one build."""

    def __init__(self, root: Path, folder: Path, memories: int) -> None:
        folder.mkdir()
        words = [sys.executable, str(Path(__file__).with_name("build_worker.py")), str(folder), str(memories)]
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        self._answer()

    def run(self, job: str) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        found: list[float] = self._answer()
        return found

    def end(self) -> None:
        with self._process:  # which closes both pipes and waits
            pass

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a build's process ended: see its words above")
        return json.loads(line)


def _in_turns(builds: Sequence[_Build], rounds: float) -> dict[str, list[list[list[float]]]]:
    seconds: dict[str, list[list[list[float]]]] = {job: [[] for _ in builds] for job in ROUNDS}
    for jobs in (("search",), ("add",), ("dump", "load")):
        progress(f"builds: {', '.join(jobs)}")
        for n in range(_WARM[jobs[0]] + max(1, round(ROUNDS[jobs[0]] * rounds))):
            for job in jobs:
                for at in (0, 1) if n % 2 else (1, 0):
                    taken = builds[at].run(job)
                    if n >= _WARM[job]:
                        seconds[job][at].append(taken)
    return seconds
