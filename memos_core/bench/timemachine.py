"""What going back costs: transactions against plain writes, snapshots, differences, rollbacks and branches, in a large store.

Memories are synthetic (`synthetic`) and vectors come from a table, so embedding is left out. What is compared is measured in turns, call
by call, because machines are noisy.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from . import Timing, arguments, progress, report, table, timed
from .searching import load
from .trial import WARM, Run

_TOGETHER = 10  # changes made one of


class _Undone(Exception):
    """Ends a transaction that is to be taken back."""


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    parser = arguments("timemachine", (__doc__ or "").split("\n")[0])
    parser.add_argument("--memories", type=int, default=100_000, help="in the store (default: 100,000)")
    parser.add_argument("--users", type=int, default=100, help="whose they are (default: 100)")
    parser.add_argument("--turns", type=int, default=20, help="of a session (default: 20)")
    parser.add_argument("--calls", type=int, default=50, help="of each kind (default: 50)")
    parser.add_argument(
        "--changed", type=int, nargs="+", default=[10, 1_000], help="before a rollback (default: 10 1000)"
    )
    parser.add_argument("--folder", type=Path, help="where the store is made and removed (default: the system's)")
    args = parser.parse_args(argv)
    args.skip = []
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=args.folder) as folder:
        run = Run(args, Path(folder))
        memories = run.memories(args.memories, [f"user{i}" for i in range(args.users)])
        ids = load(run, "store", memories)
        mine = [id for id, user in zip(ids, memories.users, strict=True) if user == "user0"]
        texts = [t for t, user in zip(memories.texts, memories.users, strict=True) if user == "user0"]
        with run.store("store") as memory:
            timings = _writes(memory, mine, texts, args.calls)
            once = _moments(memory, mine, texts, args)
    print(table(["milliseconds", "p50", "p95", "calls"], [(w, t.p50, t.p95, t.calls) for w, t in timings.items()]))
    print()
    print(table(["once, milliseconds", ""], [(what, ms) for what, ms in once.items()]))
    report(
        "timemachine",
        args,
        {"load": run.results["load"], "calls": {w: asdict(t) for w, t in timings.items()}, "once": once},
    )
    return 0


def _writes(memory: Any, ids: Sequence[str], texts: Sequence[str], calls: int) -> dict[str, Timing]:
    """Changes alone and within transactions, in turns."""
    progress("transactions against plain writes")
    number = count()

    def change() -> None:
        n = next(number)
        memory.update(ids[n % len(ids)], texts[(n * 7 + 1) % len(texts)], actor="user0")

    def several() -> None:
        for _ in range(_TOGETHER):
            change()

    def together(changes: int, *, keep: bool = True) -> None:
        try:
            with memory.transaction():
                for _ in range(changes):
                    change()
                if not keep:
                    raise _Undone
        except _Undone:
            return

    ways: dict[str, Callable[[], object]] = {
        "update": change,
        "update in a transaction": lambda: together(1),
        "update in a transaction, taken back": lambda: together(1, keep=False),
        "transaction without changes": lambda: together(0),
        f"{_TOGETHER} updates": several,
        f"{_TOGETHER} updates in a transaction": lambda: together(_TOGETHER),
        "search": lambda: memory.search(texts[0], actor="user0"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(calls + WARM):
        for way, work in ways.items():
            seconds[way].append(timed(work))
    return {way: Timing.of(times[WARM:]) for way, times in seconds.items()}


def _moments(memory: Any, ids: Sequence[str], texts: Sequence[str], args: argparse.Namespace) -> dict[str, float]:
    """Snapshots, and being there again after so many changes."""
    progress("snapshots and rollbacks")
    found: dict[str, float] = {}

    def measured(what: str, work: Callable[[], object]) -> None:
        found[what] = round(timed(work) * 1000, 1)

    for changes in args.changed:
        name = f"before {changes}"
        measured(f"snapshot ({name} changes)", partial(memory.snapshot, name, actor="user0"))
        with memory.transaction():
            for n in range(changes):
                memory.update(ids[n % len(ids)], texts[(n * 11 + 3) % len(texts)], actor="user0")
        changed = min(changes, len(ids))
        measured(f"diff over {changed} changed", partial(memory.diff, name, actor="user0"))
        measured(f"rollback of {changed} changed", partial(memory.rollback, name, actor="user0"))

    def branch() -> None:
        with memory.branch("what if"):
            pass

    measured("branch, and its end", branch)
    return found
