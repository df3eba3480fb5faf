"""What the store costs: search among many memories of many users, adding, growth, start-up. Embedding is left out.

Memories and questions are synthetic (`synthetic`), vectors come from a table. Every memory is private to its user and
readable by an auditor, so that the same store is searched in one user's part and as a whole. What is compared is measured
in turns, call by call, because machines are noisy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..memos import MemOS
from ..types import Access, Policy
from ..vault import Vault
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
    """What is asked of a store that holds these memories; each is about one of them."""

    memories: Memories
    texts: list[str]
    vectors: Vectors
    rows: list[int]

    def owner(self, i: int) -> str:
        """Whose memory the i-th question is about."""
        return self.memories.users[self.rows[i]]

    def wanted(self, i: int) -> str:
        """The text of that memory."""
        return self.memories.texts[self.rows[i]]


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
        return Questions(about, texts, vectors, rows)

    def store(self, name: str, policy: Policy = Policy()) -> MemOS:
        """A store in the run's folder, made or opened."""
        return MemOS(self.folder / name, embed=self.lookup, policy=policy)

    def leave_out(self, what: str) -> None:
        """Note what could not be measured, and why."""
        self.results.setdefault("left_out", []).append(what)

    def searched(self, system: str, scope: str, seconds: Sequence[float], found: float | None = None) -> Timing:
        """Note how long searches took, and in which share of them the memory asked about was among the first ten."""
        timing = Timing.of(seconds[_WARM:] if len(seconds) > 2 * _WARM else seconds)
        self.searches.append((system, scope, timing, found))
        self.results.setdefault("search", {}).setdefault(system, {})[scope] = asdict(timing) | {"found": found}
        return timing


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


def _measure(run: Run) -> None:
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
    ids = _load(run, "large", large)
    _load(run, "small", small)
    asked = run.questions(large, users[:5], run.args.queries)
    asked_few = run.questions(small, users[:1], run.args.queries)
    _search(run, asked, asked_few)
    if run.wants("candidates"):
        _candidates(run, asked)
    if run.wants("recall"):
        _recall(run, asked, ids)
    if run.wants("add"):
        _adds(run, asked, asked_few)
    if run.wants("lancedb"):
        _lancedb(run, asked)
    for part in ("inmemory", "sqlite"):
        if run.wants(part):
            _langgraph(run, part, asked)


# --- the engine's searches ---------------------------------------------------------------------------------------------


def _load(run: Run, name: str, memories: Memories) -> list[str]:
    """Add session by session, as it would have come; the ids by row."""
    ids: list[str] = []
    with run.store(name) as memory:
        start = time.perf_counter()
        for rows in memories.turns():
            first = rows[0]
            added = memory.add(
                [memories.message(r) for r in rows], namespace=(memories.users[first],), actor=memories.users[first],
                session=memories.sessions[first], access=Access(memories.users[first], frozenset({AUDITOR})),
            )  # fmt: skip
            ids += [cube.id for cube in added]
            if len(ids) % 10_000 < len(rows):
                progress(
                    f"loaded {len(ids):,} of {len(memories):,} ({len(ids) / (time.perf_counter() - start):,.0f}/s)"
                )
        seconds = time.perf_counter() - start
        upkeep = timed(memory.tick)
    run.results.setdefault("load", []).append({
        "memories": len(ids), "seconds": round(seconds, 1), "per_second": round(len(ids) / seconds),
        "tick_seconds": round(upkeep, 1),
    })  # fmt: skip
    return ids


def _search(run: Run, asked: Questions, asked_few: Questions) -> None:
    """Of one user's part and of the whole, in the large store and in the small one in turns."""
    n, users = len(asked.memories), list(asked.memories.rows)
    one, whole = _labels(asked.memories)
    with run.store("large") as many, run.store("small") as few:
        progress("memos: first searches")
        cold = [_search_once(many, asked.texts[0], u)[0] for u in users[-20:]]
        run.searched("memos", f"first of {one}", cold)
        run.searched("memos", f"first of {whole}", [_search_once(many, asked.texts[0], AUDITOR)[0]])
        for label, limit in ((one, 10.0), (whole, 30.0)):
            progress(f"memos: searching {label}")
            times: list[float] = []
            times_few: list[float] = []
            found = 0
            for i, text in enumerate(asked.texts):
                who, who_few = (asked.owner(i), asked_few.owner(i)) if label == one else (AUDITOR, AUDITOR)
                seconds, texts = _search_once(many, text, who)
                times.append(seconds)
                found += asked.wanted(i) in texts
                times_few.append(_search_once(few, asked_few.texts[i], who_few)[0])
            at_many = run.searched("memos", label, times, found / len(times))
            at_few = run.searched("memos", label.replace(f"{n:,}", f"{SMALL:,}"), times_few)
            run.targets.append(Target(f"search, {label}: p50 ms", at_many.p50, limit))
            run.targets.append(Target(f"search, {label}: times that at {SMALL:,}", at_many.p50 / at_few.p50, 3.0))


def _labels(memories: Memories) -> tuple[str, str]:
    """One user's part, and the whole, in words."""
    return f"one user's {len(memories) // len(memories.rows):,} among {len(memories):,}", f"all {len(memories):,}"


def _search_once(memory: MemOS, question: str, who: str) -> tuple[float, list[str]]:
    """Seconds, and the texts found."""
    start = time.perf_counter()
    hits = memory.search(question, actor=who, namespace=() if who == AUDITOR else (who,))
    return time.perf_counter() - start, [h.cube.text for h in hits]


def _candidates(run: Run, asked: Questions) -> None:
    """One user's part when nothing is kept in memory."""
    progress("memos: searching without a resident set")
    with run.store("large", Policy(resident_memories=0)) as memory:
        _compare(
            run,
            "memos, not resident",
            asked,
            0,
            lambda i, user: _search_once(memory, asked.texts[i], user or AUDITOR)[1],
        )


def _recall(run: Run, asked: Questions, ids: list[str]) -> None:
    """Of the arm that brings candidates by vector, against exact search."""
    progress("memos: recall of the vector arm")
    memories = asked.memories
    with closing(Vault(run.folder / "large", Policy(), _unneeded)) as vault:
        for label in _labels(memories):
            shares, times = [], []
            for i, vector in enumerate(asked.vectors):
                whole, user = label.startswith("all"), asked.owner(i)
                rows = np.arange(len(memories)) if whole else np.array(memories.rows[user])
                where = Scope(AUDITOR if whole else user, () if whole else (user,)).where
                start = time.perf_counter()
                near = {row.cube.id for row in vault.near(vector, where, 10)}
                times.append(time.perf_counter() - start)
                exact = rows[np.argsort(-(memories.vectors[rows] @ vector))[:10]]
                shares.append(len({ids[r] for r in exact} & near) / 10)
            found = float(np.mean(shares))
            run.results.setdefault("recall", {})[label] = {"recall_at_10": found, **asdict(Timing.of(times))}
            run.targets.append(Target(f"vector recall@10 against exact, {label}", found, 0.98, at_least=True))


def _unneeded() -> NoReturn:
    raise AssertionError("the store is there")


# --- adding --------------------------------------------------------------------------------------------------------------


def _adds(run: Run, asked: Questions, asked_few: Questions) -> None:
    """One message to a store of N and to one of 1,000, in turns; alone, and in the loop of a chat: search, then add."""
    progress("memos: adding one at a time")
    n = len(asked.memories)
    fresh = run.memories(4 * (run.args.adds + _WARM), ["user0"])
    rows = iter(range(len(fresh)))
    with run.store("large") as many, run.store("small") as few:
        stores = ((n, many, asked), (SMALL, few, asked_few))
        for loop in ("alone", "after a search"):
            adds: dict[int, list[float]] = {n: [], SMALL: []}
            finds: dict[int, list[float]] = {n: [], SMALL: []}
            for i in range(run.args.adds + _WARM):
                for size, memory, questions in stores:
                    if loop != "alone":
                        finds[size].append(_search_once(memory, questions.texts[i % len(questions.texts)], "user0")[0])
                    adds[size].append(_add_once(memory, fresh, next(rows), f"chat {loop}"))
            _added(run, f"add {loop}", adds)
            if loop != "alone":
                _added(run, "search after an add", finds)


def _added(run: Run, what: str, seconds: dict[int, list[float]]) -> None:
    timings = {size: Timing.of(times[_WARM:]) for size, times in seconds.items()}
    run.results.setdefault("add", {})[what] = {str(size): asdict(t) for size, t in timings.items()}
    many, few = timings[max(timings)], timings[min(timings)]
    if what.startswith("add"):
        run.targets.append(Target(f"{what}, at {max(timings):,}: times that at {SMALL:,}", many.p50 / few.p50, 2.0))


def _add_once(memory: MemOS, fresh: Memories, row: int, session: str) -> float:
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
                times[sure].append(_add_once(memory, fresh, 2 * row + sure, "chat"))
    run.results["fsync"] = {str(sure).lower(): asdict(Timing.of(t[_WARM:])) for sure, t in times.items()}


def _growth(run: Run) -> None:
    """Many small writes to one store."""
    progress(f"memos: {run.args.grow:,} one-row adds")
    fresh = run.memories(run.args.grow, ["user0"])
    with run.store("growing") as memory:
        times = [_add_once(memory, fresh, row, f"session {row // TURNS}") for row in range(run.args.grow)]
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
            run.leave_out(f"import {name}: it fails")
            continue
        seconds = min(float(o.split()[0]) for o in outputs)
        torch = outputs[0].split()[1] == "True"
        run.results.setdefault("imports", {})[name] = {"seconds": round(seconds, 3), "torch": torch}
        run.targets.append(Target(f"import {name}: s", seconds, limit))
        run.targets.append(Target(f"import {name}: torch loaded", float(torch), 0.0))


def _lancedb(run: Run, asked: Questions) -> None:
    memories = asked.memories
    progress("raw LanceDB")
    raw = baselines.LanceTable(str(run.folder / "raw"), memories.texts, memories.vectors, memories.users)

    def search(i: int, user: str | None) -> list[str]:
        return [memories.texts[row] for row in raw.hybrid(asked.texts[i], asked.vectors[i], 10, user)]

    _compare(run, "LanceDB hybrid (RRF)", asked, len(asked.texts), search)


def _langgraph(run: Run, part: str, asked: Questions) -> None:
    kept = part == "inmemory"
    name = f"LangGraph {'InMemoryStore' if kept else 'SqliteStore'} (dense)"
    if not baselines.installed(*(["langgraph.store.memory"] if kept else ["langgraph.store.sqlite", "sqlite_vec"])):
        run.leave_out(f"{name}: not installed")
        return
    if not kept and baselines.sqlite_driver() is None:
        run.leave_out(f"{name}: this Python's sqlite3 cannot load extensions; pip install pysqlite3-binary")
        return
    progress(name)
    path = None if kept else str(run.folder / "langgraph.db")
    with baselines.langgraph_store(path, asked.memories.texts, asked.memories.users, run.lookup, WIDTH) as search:
        # over all of 100,000 InMemoryStore takes seconds a search: fewer will do
        _compare(run, name, asked, 20 if kept else len(asked.texts), lambda i, user: search(asked.texts[i], user))


def _compare(run: Run, name: str, asked: Questions, whole: int, search: Callable[[int, str | None], list[str]]) -> None:
    """One user's part with all questions, then the whole with `whole` of them."""
    for label, count in zip(_labels(asked.memories), (len(asked.texts), whole), strict=True):
        times, found = [], 0
        for i in range(count):
            user = None if label.startswith("all") else asked.owner(i)
            start = time.perf_counter()
            texts = search(i, user)
            times.append(time.perf_counter() - start)
            found += asked.wanted(i) in texts
        if count:
            run.searched(name, label, times, found / count)


# --- the page ------------------------------------------------------------------------------------------------------------


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
    for load in found.get("load", []):
        print(
            f"loaded {load['memories']:,} in sessions of {TURNS}: {load['per_second']:,}/s, tick {load['tick_seconds']} s"
        )
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
