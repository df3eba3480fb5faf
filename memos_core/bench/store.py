"""What the store costs: search among many memories of many users, adding, growth, start-up. Embedding is left out.

Memories and questions are synthetic (`synthetic`), vectors come from a table. Every memory is private to its user and
readable by an auditor, so that the same store is searched in one user's part and as a whole. What is compared is measured
in turns, call by call, because machines are noisy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..memos import MemOS
from ..types import Access, Policy
from ..vault import Manifest, Vault
from ..working_set import Scope
from . import Timing, Vectors, arguments, baselines, progress, report, table, timed
from .synthetic import TURNS, WIDTH, Lookup, Memories, World

PARTS = ("recall", "candidates", "lancedb", "inmemory", "sqlite", "add", "bulk", "fsync", "growth", "imports")
AUDITOR = "auditor"
SMALL = 1_000
_WARM = 10  # calls before those that count


@dataclass
class Target:
    """A number to reach."""

    what: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass
class Questions:
    """What is asked of one store, each with the memory that it is about: in one user's part, and in the whole."""

    texts: list[str]
    vectors: Vectors
    rows: list[int]


@dataclass
class Run:
    """One run of the bench: what it works on, and what it has found so far."""

    args: argparse.Namespace
    folder: Path
    world: World = field(default_factory=World)
    lookup: Lookup = field(default_factory=Lookup)
    results: dict[str, Any] = field(default_factory=dict)
    searches: list[tuple[str, str, Timing, float | None]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def wants(self, part: str) -> bool:
        """Whether a part is to be measured."""
        return part not in self.args.skip

    def memories(self, count: int, users: Sequence[str]) -> Memories:
        """New ones, with vectors that the embedder knows."""
        made = self.world.memories(count, users)
        self.lookup.learn(made.texts, made.vectors)
        return made

    def questions(self, about: Memories, users: Sequence[str], count: int) -> Questions:
        """Questions about memories of these users, in turn."""
        picked = self.world.draw(len(about.rows[users[0]]), count)
        rows = [about.rows[users[i % len(users)]][p] for i, p in enumerate(picked)]
        texts, vectors = self.world.questions(about, rows)
        self.lookup.learn(texts, vectors)
        return Questions(texts, vectors, rows)

    def store(self, name: str, policy: Policy = Policy()) -> MemOS:
        """A store in the run's folder, made or opened."""
        return MemOS(self.folder / name, embed=self.lookup, policy=policy)

    def searched(self, system: str, scope: str, seconds: Sequence[float], found: float | None = None) -> Timing:
        """Note how long searches took, and in which share of them the memory asked about was among the first ten."""
        timing = Timing.of(seconds[_WARM:] if len(seconds) > 2 * _WARM else seconds)
        self.searches.append((system, scope, timing, found))
        self.results.setdefault("search", {}).setdefault(system, {})[scope] = asdict(timing) | {"found": found}
        return timing


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=args.folder) as folder, ExitStack() as stack:
        run = Run(args, Path(folder))
        _measure(run, stack)
        _show(run)
        report("store", args, run.results | {"targets": [asdict(t) | {"met": t.met} for t in run.targets]})
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("store", (__doc__ or "").split("\n")[0])
    parser.add_argument("--memories", type=int, default=100_000, help="in the large store (default: 100,000)")
    parser.add_argument("--users", type=int, default=100, help="whose they are (default: 100)")
    parser.add_argument("--queries", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--adds", type=int, default=100, help="single adds of each kind (default: 100)")
    parser.add_argument("--grow", type=int, default=2_000, help="one-row adds to a growing store (default: 2,000)")
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=PARTS, metavar="PART", help=f"any of {', '.join(PARTS)}"
    )
    parser.add_argument("--folder", type=Path, help="where the stores are made and removed (default: the system's)")
    args = parser.parse_args(argv)
    if args.memories < SMALL or args.memories // args.users < TURNS or args.queries < 20:
        parser.error(f"at least {SMALL} memories, {TURNS} a user, and 20 queries are needed")
    return args


def _measure(run: Run, stack: ExitStack) -> None:
    if run.wants("imports"):
        _imports(run)
    if run.wants("bulk"):
        _bulk(run)
    if run.wants("fsync"):
        _fsync(run)
    if run.wants("growth"):
        _growth(run)
    users = [f"user{i}" for i in range(run.args.users)]
    large = run.memories(run.args.memories, users)
    small = run.memories(SMALL, users[:1])
    few = stack.enter_context(run.store("small"))
    many = stack.enter_context(run.store("large"))
    _load(run, few, small)
    ids = _load(run, many, large)
    asked = run.questions(large, users[: min(5, len(users))], run.args.queries)
    asked_few = run.questions(small, users[:1], run.args.queries)
    _search(run, many, few, large, small, asked, asked_few)
    if run.wants("candidates"):
        _candidates(run, large, asked, ids)
    if run.wants("recall"):
        _recall(run, large, asked, ids)
    if run.wants("add"):
        _adds(run, many, few, asked, asked_few)
    if run.wants("lancedb"):
        _lancedb(run, large, asked)
    for part in ("inmemory", "sqlite"):
        if run.wants(part):
            _langgraph(run, part, large, asked)


# --- the engine's searches ---------------------------------------------------------------------------------------------


def _load(run: Run, memory: MemOS, memories: Memories) -> list[str]:
    """Add session by session, as it would have come; the ids by row."""
    ids: list[str] = []
    start = time.perf_counter()
    for at in range(0, len(memories), TURNS):
        rows = _session(memories, at)
        user = memories.users[at]
        added = memory.add(
            [memories.message(r) for r in rows], namespace=(user,), actor=user,
            session=memories.sessions[at], access=Access(user, frozenset({AUDITOR})),
        )  # fmt: skip
        ids += [cube.id for cube in added]
        if at // 10_000 != (at + TURNS) // 10_000:
            progress(f"loaded {at + TURNS:,} of {len(memories):,} ({len(ids) / (time.perf_counter() - start):,.0f}/s)")
    seconds = time.perf_counter() - start
    upkeep = timed(memory.tick)
    size = {"memories": len(ids), "seconds": round(seconds, 1), "per_second": round(len(ids) / seconds)}
    run.results.setdefault("load", []).append(size | {"tick_seconds": round(upkeep, 1)})
    progress(f"loaded {len(ids):,} in sessions of {TURNS}: {len(ids) / seconds:,.0f}/s; tick {upkeep:.1f} s")
    return ids


def _session(memories: Memories, at: int) -> range:
    """The rows of the session that begins here: it ends with its user's rows."""
    return range(at, min(at + TURNS, len(memories)))


def _search(
    run: Run, many: MemOS, few: MemOS, large: Memories, small: Memories, asked: Questions, asked_few: Questions
) -> None:
    n = len(large)
    many.close()  # to be opened as a new process would
    few.close()
    with run.store("large") as fresh, run.store("small") as fresh_few:
        users = list(large.rows)
        cold = [timed(lambda u=u: fresh.search(asked.texts[0], actor=u, namespace=(u,))) for u in users[-20:]]  # type: ignore[misc]
        run.searched("memos", f"first search of one user's {n // len(users):,} among {n:,}", cold)
        first = [timed(lambda: fresh.search(asked.texts[0], actor=AUDITOR))]
        run.searched("memos", f"first search of all {n:,}", first)
        for scope, of in (("one user's", lambda q, m, i: _owner(q, m, i)), ("all", lambda q, m, i: AUDITOR)):
            progress(f"memos: searching {scope}")
            times: list[float] = []
            times_few: list[float] = []
            found = 0
            for i in range(len(asked.texts)):
                who = of(asked, large, i)
                seconds, hits = _timed_search(fresh, asked.texts[i], who)
                found += any(h.cube.text == large.texts[asked.rows[i]] for h in hits)
                times.append(seconds)
                times_few.append(_timed_search(fresh_few, asked_few.texts[i], of(asked_few, small, i))[0])
            part = n // len(users) if scope != "all" else n
            label = f"all {n:,}" if scope == "all" else f"one user's {part:,} among {n:,}"
            at_many = run.searched("memos", label, times, found / len(asked.texts))
            at_few = run.searched("memos", f"{scope} {SMALL:,} among {SMALL:,}", times_few)
            limit = 30.0 if scope == "all" else 10.0
            run.targets.append(Target(f"search, {label}: p50 ms", at_many.p50, limit))
            run.targets.append(Target(f"search, {label}: times that at {SMALL:,}", at_many.p50 / at_few.p50, 3.0))


def _owner(asked: Questions, memories: Memories, i: int) -> str:
    return memories.users[asked.rows[i]]


def _timed_search(memory: MemOS, question: str, who: str) -> tuple[float, list[Any]]:
    namespace = () if who == AUDITOR else (who,)
    start = time.perf_counter()
    hits = memory.search(question, actor=who, namespace=namespace)
    return time.perf_counter() - start, hits


def _candidates(run: Run, large: Memories, asked: Questions, ids: list[str]) -> None:
    """One user's part when it may not be kept in memory."""
    progress("memos: searching without a resident set")
    with run.store("large", Policy(resident_memories=0)) as memory:
        times, found = [], 0
        for i, text in enumerate(asked.texts):
            seconds, hits = _timed_search(memory, text, _owner(asked, large, i))
            found += any(h.cube.id == ids[asked.rows[i]] for h in hits)
            times.append(seconds)
    label = f"one user's {len(large) // run.args.users:,} among {len(large):,}"
    run.searched("memos, nothing resident", label, times, found / len(asked.texts))


def _recall(run: Run, large: Memories, asked: Questions, ids: list[str]) -> None:
    """Of the vector arm of large scopes, against exact search."""
    progress("memos: recall of the vector arm")
    with closing(Vault(run.folder / "large", Policy(), _unneeded)) as vault:
        for scope, where in (("all", Scope(AUDITOR, ()).where), ("one user's", None)):
            shares, times = [], []
            for i, vector in enumerate(asked.vectors):
                user = _owner(asked, large, i)
                rows = large.rows[user] if where is None else range(len(large))
                start = time.perf_counter()
                near = vault.near(vector, where or Scope(user, (user,)).where, 10)
                times.append(time.perf_counter() - start)
                exact = np.argsort(-(large.vectors[rows] @ vector) if where is None else -(large.vectors @ vector))[:10]
                shares.append(len({ids[rows[r]] for r in exact} & set(near)) / 10)
            found = float(np.mean(shares))
            run.results.setdefault("recall", {})[scope] = {"recall_at_10": found, **asdict(Timing.of(times))}
            run.targets.append(Target(f"vector recall@10 against exact, {scope}", found, 0.98, at_least=True))


def _unneeded() -> Manifest:
    raise AssertionError("the store is there")


# --- adding --------------------------------------------------------------------------------------------------------------


def _adds(run: Run, many: MemOS, few: MemOS, asked: Questions, asked_few: Questions) -> None:
    """One message to a store of N and to one of 1,000, in turns; alone, and in the loop of a chat: search, then add."""
    progress("memos: adding one at a time")
    n = run.args.memories
    with run.store("large") as many, run.store("small") as few:
        stores = {n: (many, asked), SMALL: (few, asked_few)}
        fresh = run.memories(8 * (run.args.adds + _WARM), ["user0"])
        at = iter(range(len(fresh)))
        for memory, questions in stores.values():
            _timed_search(memory, questions.texts[0], "user0")
        for loop in ("alone", "after a search"):
            adds: dict[int, list[float]] = {n: [], SMALL: []}
            finds: dict[int, list[float]] = {n: [], SMALL: []}
            for i in range(run.args.adds + _WARM):
                for size, (memory, questions) in stores.items():
                    if loop != "alone":
                        finds[size].append(_timed_search(memory, questions.texts[i % len(questions.texts)], "user0")[0])
                    adds[size].append(_timed_add(memory, fresh, next(at), f"chat {loop}"))
            timings = {size: Timing.of(seconds[_WARM:]) for size, seconds in adds.items()}
            run.results.setdefault("add", {})[loop] = {str(s): asdict(t) for s, t in timings.items()}
            run.targets.append(
                Target(f"add {loop}, at {n:,}: times that at {SMALL:,}", timings[n].p50 / timings[SMALL].p50, 2.0)
            )
            if loop != "alone":
                found = {s: Timing.of(t[_WARM:]) for s, t in finds.items()}
                run.results["add"]["search after an add"] = {str(s): asdict(t) for s, t in found.items()}


def _timed_add(memory: MemOS, fresh: Memories, row: int, session: str) -> float:
    message = fresh.message(row)
    return timed(lambda: memory.add(message, namespace=("user0",), actor="user0", session=session))


def _bulk(run: Run) -> None:
    """Ten thousand memories at once."""
    progress("memos: bulk add")
    count = 10_000
    found = {}
    for shape in ("one conversation", "notes", "ten calls"):
        memories = run.memories(count, ["user0"])
        messages: list[Any] = list(memories.texts) if shape == "notes" else [memories.message(r) for r in range(count)]
        with run.store(f"bulk {shape}") as memory:
            start = time.perf_counter()
            step = count // 10 if shape == "ten calls" else count
            for at in range(0, count, step):
                memory.add(
                    messages[at : at + step], actor="user0", session=f"session {at}" if shape != "notes" else None
                )
            found[shape] = round(count / (time.perf_counter() - start))
        run.targets.append(Target(f"bulk add of {count:,}, {shape}: memories/s", found[shape], 3_000, at_least=True))
    run.results["bulk_per_second"] = found


def _fsync(run: Run) -> None:
    """What it costs to survive a power cut."""
    progress("memos: fsync")
    fresh = run.memories(2 * (run.args.adds + _WARM), ["user0"])
    times: dict[bool, list[float]] = {False: [], True: []}
    with run.store("lazy") as lazy, run.store("flushed", Policy(fsync=True)) as flushed:
        for row in range(run.args.adds + _WARM):
            for sure, memory in ((False, lazy), (True, flushed)):
                times[sure].append(_timed_add(memory, fresh, 2 * row + sure, "chat"))
    run.results["fsync"] = {str(sure).lower(): asdict(Timing.of(t[_WARM:])) for sure, t in times.items()}


def _growth(run: Run) -> None:
    """Many small writes to one store."""
    progress(f"memos: {run.args.grow:,} one-row adds")
    fresh = run.memories(run.args.grow, ["user0"])
    with run.store("growing") as memory:
        times = [_timed_add(memory, fresh, row, f"session {row // TURNS}") for row in range(run.args.grow)]
    first, last = Timing.of(times[:100]), Timing.of(times[-100:])
    before = _size(run.folder / "growing")
    with run.store("growing") as memory:
        memory.tick()
    after = _size(run.folder / "growing")
    run.results["growth"] = {
        "adds": run.args.grow, "first_hundred": asdict(first), "last_hundred": asdict(last),
        "files": before[0], "bytes": before[1], "files_after_tick": after[0], "bytes_after_tick": after[1],
    }  # fmt: skip


def _size(folder: Path) -> tuple[int, int]:
    sizes = [(Path(parent) / name).stat().st_size for parent, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)


# --- start-up and baselines ----------------------------------------------------------------------------------------------


def _imports(run: Run) -> None:
    """In fresh processes; the least of five, since noise only adds."""
    progress("imports")
    code = (
        "import time, sys; t = time.perf_counter(); import {0}; print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    for name, limit in (("memos_core", 0.3), ("langchain_memos", 1.0)):
        outputs = [
            subprocess.run(
                [sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=False
            ).stdout
            for _ in range(5)
        ]
        if not all(outputs):
            run.results.setdefault("left_out", []).append(f"import {name}: it fails")
            continue
        seconds = min(float(o.split()[0]) for o in outputs)
        torch = outputs[0].split()[1] == "True"
        run.results.setdefault("imports", {})[name] = {"seconds": round(seconds, 3), "torch": torch}
        run.targets.append(Target(f"import {name}: s", seconds, limit))
        run.targets.append(Target(f"import {name}: torch loaded", float(torch), 0.0))


def _lancedb(run: Run, large: Memories, asked: Questions) -> None:
    progress("raw LanceDB: loading")
    raw = baselines.LanceHybrid(str(run.folder / "raw"), large.texts, large.vectors, large.users)

    def search(i: int, user: str | None) -> list[int]:
        return raw.rank(asked.texts[i], asked.vectors[i], 10, user)

    progress("raw LanceDB: searching")
    _compare(
        run, "lancedb hybrid (RRF)", large, asked, run.args.queries, lambda i, u: [large.texts[r] for r in search(i, u)]
    )


def _langgraph(run: Run, part: str, large: Memories, asked: Questions) -> None:
    needed = ["langgraph.store.memory"] if part == "inmemory" else ["langgraph.store.sqlite", "sqlite_vec"]
    name = "langgraph InMemoryStore (dense)" if part == "inmemory" else "langgraph SqliteStore (dense)"
    if not baselines.installed(*needed):
        run.results.setdefault("left_out", []).append(f"{name}: not installed")
        return
    progress(f"{name}: loading")
    if part == "inmemory":
        opened = baselines.langgraph_in_memory(large.texts, large.users, run.lookup, WIDTH)
    else:
        opened = baselines.langgraph_sqlite(str(run.folder / "sqlite.db"), large.texts, large.users, run.lookup, WIDTH)
    with opened as search:
        progress(f"{name}: searching")
        # over all it takes seconds a search: fewer will do
        few = min(run.args.queries, 30 if part == "inmemory" else run.args.queries)
        _compare(
            run, name, large, asked, few,
            lambda i, u: [item.value["text"] for item in search(asked.texts[i], u)],
        )  # fmt: skip


def _compare(
    run: Run, name: str, large: Memories, asked: Questions, whole: int, search: Callable[[int, str | None], list[str]]
) -> None:
    """One user's part with all questions, the whole with `whole` of them."""
    n = len(large)
    for label, count in ((f"one user's {n // run.args.users:,} among {n:,}", len(asked.texts)), (f"all {n:,}", whole)):
        times, found = [], 0
        for i in range(count):
            user = None if label.startswith("all") else _owner(asked, large, i)
            start = time.perf_counter()
            texts = search(i, user)
            times.append(time.perf_counter() - start)
            found += large.texts[asked.rows[i]] in texts
        run.searched(name, label, times, found / count)


# --- the page ------------------------------------------------------------------------------------------------------------


def _show(run: Run) -> None:
    found = run.results
    rows = [
        (system, scope, t.p50, t.p95, t.calls, "" if share is None else f"{share:.2f}")
        for system, scope, t, share in run.searches
    ]
    print(table(("search", "in", "p50 ms", "p95 ms", "calls", "found in 10"), rows))
    if "recall" in found:
        rows = [(f"vector arm, {s}", r["recall_at_10"], r["p50"], r["p95"]) for s, r in found["recall"].items()]
        print("\n" + table(("against exact", "recall@10", "p50 ms", "p95 ms"), rows))
    writes = [
        (f"add {loop}" if loop in ("alone", "after a search") else loop, f"{int(size):,}", t["p50"], t["p95"])
        for loop, sizes in found.get("add", {}).items() for size, t in sizes.items()
    ]  # fmt: skip
    writes += [(f"add, fsync {sure}", "0", t["p50"], t["p95"]) for sure, t in found.get("fsync", {}).items()]
    if growth := found.get("growth"):
        writes += [
            (
                f"one-row adds, {x} hundred",
                f"{growth['adds']:,}",
                growth[f"{x}_hundred"]["p50"],
                growth[f"{x}_hundred"]["p95"],
            )
            for x in ("first", "last")
        ]
    if writes:
        print("\n" + table(("one memory", "in a store of", "p50 ms", "p95 ms"), writes))
    if growth:
        print(
            f"\nafter {growth['adds']:,} one-row adds: {growth['files']:,} files, {growth['bytes'] / 2**20:.1f} MiB;"
            f" after a tick: {growth['files_after_tick']:,} files, {growth['bytes_after_tick'] / 2**20:.1f} MiB"
        )
    for load in found.get("load", []):
        print(
            f"loaded {load['memories']:,} in sessions of {TURNS}: {load['per_second']:,}/s, then tick {load['tick_seconds']} s"
        )
    print("\n" + table(("target", "measured", "wanted", "met"), [
        (t.what, t.measured, f"{'≥' if t.at_least else '≤'} {t.limit:g}", "yes" if t.met else "NO") for t in run.targets
    ]))  # fmt: skip
    for missing in found.get("left_out", []):
        print(f"left out: {missing}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
