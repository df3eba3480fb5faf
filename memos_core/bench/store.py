"""What the store costs: search among many memories of many users, adding, growth, start-up. Embedding is left out.

Memories and questions are synthetic (`synthetic`), vectors come from a table. Every memory is private to its user and
readable by an auditor, so that the same store is searched in one user's part and as a whole. What is compared is measured
in turns, call by call, because machines are noisy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import adding, arguments, report, searching, table
from .trial import SMALL, Run

PARTS = ("recall", "candidates", "lancedb", "inmemory", "sqlite", "add", "bulk", "fsync", "growth", "imports")


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=args.folder) as folder:
        run = Run(args, Path(folder))
        _measure(run)
        _show(run)
        report("store", args, run.results | {"targets": [asdict(t) | {"met": t.met} for t in run.targets]})
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("store", (__doc__ or "").split("\n")[0])
    parser.add_argument("--memories", type=int, default=100_000, help="in the large store (default: 100,000)")
    parser.add_argument("--users", type=int, default=100, help="whose they are (default: 100)")
    parser.add_argument("--turns", type=int, default=20, help="of a session; more load faster (default: 20)")
    parser.add_argument("--queries", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--adds", type=int, default=100, help="single adds of each kind (default: 100)")
    parser.add_argument("--grow", type=int, default=2_000, help="one-row adds to a growing store (default: 2,000)")
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=PARTS, metavar="PART", help=f"any of {', '.join(PARTS)}"
    )
    parser.add_argument("--folder", type=Path, help="where the stores are made and removed (default: the system's)")
    args = parser.parse_args(argv)
    if args.memories < max(SMALL, 20 * args.users) or args.queries < 20:
        parser.error(f"at least {SMALL:,} memories, 20 a user, and 20 queries are needed")
    return args


def _measure(run: Run) -> None:
    if run.wants("imports"):
        adding.imports(run)
    if run.wants("bulk"):
        adding.bulk(run)
    if run.wants("fsync"):
        adding.fsync(run)
    if run.wants("growth"):
        adding.growth(run)
    users = [f"user{i}" for i in range(run.args.users)]
    large = run.memories(run.args.memories, users)
    small = run.memories(SMALL, users[:1])
    ids = searching.load(run, "large", large)
    searching.load(run, "small", small)
    asked = run.questions(large, users[:5], run.args.queries)
    asked_few = run.questions(small, users[:1], run.args.queries)
    searching.search(run, asked, asked_few)
    if run.wants("candidates"):
        searching.candidates(run, asked)
    if run.wants("recall"):
        searching.recall(run, asked, ids)
    if run.wants("add"):
        adding.adds(run, asked, asked_few)
    if run.wants("lancedb"):
        searching.lancedb(run, asked)
    for part in ("inmemory", "sqlite"):
        if run.wants(part):
            searching.langgraph(run, part, asked)


def _show(run: Run) -> None:
    found = run.results
    print(table(("search", "in", "p50 ms", "p95 ms", "calls", "found in 10"), [
        (system, scope, t.p50, t.p95, t.calls, "" if share is None else f"{share:.2f}")
        for system, scope, t, share in run.searches
    ]))  # fmt: skip
    for title, rows in (("recall of the vector arm", _recalled(found)), ("one memory", _written(found))):
        if rows:
            print("\n" + table((title, "in", "p50 ms", "p95 ms", ""), rows))
    if growth := found.get("growth"):
        print(
            f"\nafter {growth['adds']:,} one-row adds {growth['files']:,} files, {growth['bytes'] / 2**20:.1f} MiB;"
            f" after a tick {growth['files_after_tick']:,} files, {growth['bytes_after_tick'] / 2**20:.1f} MiB"
        )
    for statement, cost in found.get("imports", {}).items():
        print(f"{statement}: {cost['seconds']:.3f} s, {'with' if cost['torch'] else 'without'} torch")
    for load in found.get("load", []):
        print(f"loaded {load['memories']:,} in sessions: {load['per_second']:,}/s, tick {load['tick_seconds']} s")
    print("\n" + table(("target", "measured", "wanted", "met"), [
        (t.what, t.measured, f"{'≥' if t.at_least else '≤'} {t.limit:g}", "yes" if t.met else "NO") for t in run.targets
    ]))  # fmt: skip
    for missing in found.get("left_out", []):
        print(f"left out: {missing}")


def _recalled(found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        ("memos, vector arm", scope, f"{r['p50']:.1f}", f"{r['p95']:.1f}", f"recall@10 {r['recall_at_10']:.3f}")
        for scope, r in found.get("recall", {}).items()
    ]


def _written(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [(what, f"{int(size):,}", t) for what, sizes in found.get("add", {}).items() for size, t in sizes.items()]
    rows += [(f"add, fsync {sure}", "a new store", t) for sure, t in found.get("fsync", {}).items()]
    if growth := found.get("growth"):
        rows += [
            (f"add, {part} hundred", f"of {growth['adds']:,}", growth[f"{part}_hundred"]) for part in ("first", "last")
        ]
    return [(what, where, f"{t['p50']:.1f}", f"{t['p95']:.1f}", "") for what, where, t in rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
