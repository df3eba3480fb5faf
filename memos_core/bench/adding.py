"""The writes of the store's bench: one at a time, in bulk, flushed, and many; and what importing costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..memos import MemOS
from ..types import Policy
from . import Timing, progress, timed
from .synthetic import Memories
from .trial import SMALL, WARM, Questions, Run, Target, search_once

IMPORTS = {
    "import memos_core": 0.3,
    "from memos_core import MemOS": None,
    "import langchain_memos": 1.0,
    "from langchain_memos import MemOSMemory": None,
}


def adds(run: Run, asked: Questions, asked_few: Questions) -> None:
    """One message to a store of N and to one of 1,000, in turns; alone, and in the loop of a chat: search, then add."""
    progress("memos: adding one at a time")
    n = len(asked.memories)
    fresh = run.memories(4 * (run.args.adds + WARM), ["user0"])
    rows = iter(range(len(fresh)))
    with run.store("large") as many, run.store("small") as few:
        stores = ((n, many, asked), (SMALL, few, asked_few))
        for loop in ("alone", "after a search"):
            adds: dict[int, list[float]] = {n: [], SMALL: []}
            finds: dict[int, list[float]] = {n: [], SMALL: []}
            for i in range(run.args.adds + WARM):
                for size, memory, questions in stores:
                    if loop != "alone":
                        finds[size].append(search_once(memory, questions.texts[i % len(questions.texts)], "user0")[0])
                    adds[size].append(_add_once(memory, fresh, next(rows), f"chat {loop}"))
            _added(run, f"add {loop}", adds)
            if loop != "alone":
                _added(run, "search after an add", finds)


def _added(run: Run, what: str, seconds: dict[int, list[float]]) -> None:
    timings = {size: Timing.of(times[WARM:]) for size, times in seconds.items()}
    run.results.setdefault("add", {})[what] = {str(size): asdict(t) for size, t in timings.items()}
    many, few = timings[max(timings)], timings[min(timings)]
    if what.startswith("add"):
        run.targets.append(Target(f"{what}, at {max(timings):,}: times that at {SMALL:,}", many.p50 / few.p50, 2.0))


def _add_once(memory: MemOS, fresh: Memories, row: int, session: str) -> float:
    message = fresh.message(row)
    return timed(lambda: memory.add(message, namespace=("user0",), actor="user0", session=session))


def bulk(run: Run) -> None:
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


def fsync(run: Run) -> None:
    """What it costs to survive a power cut."""
    progress("memos: fsync")
    fresh = run.memories(2 * (run.args.adds + WARM), ["user0"])
    times: dict[bool, list[float]] = {False: [], True: []}
    with run.store("lazy") as lazy, run.store("flushed", Policy(fsync=True)) as flushed:
        for row in range(run.args.adds + WARM):
            for sure, memory in ((False, lazy), (True, flushed)):
                times[sure].append(_add_once(memory, fresh, 2 * row + sure, "chat"))
    run.results["fsync"] = {str(sure).lower(): asdict(Timing.of(t[WARM:])) for sure, t in times.items()}


def growth(run: Run) -> None:
    """Many small writes to one store."""
    progress(f"memos: {run.args.grow:,} one-row adds")
    fresh = run.memories(run.args.grow, ["user0"])
    with run.store("growing") as memory:
        times = [_add_once(memory, fresh, row, f"session {row // run.args.turns}") for row in range(run.args.grow)]
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


def imports(run: Run) -> None:
    """In fresh processes; the least of five, since noise only adds. What is needed with the first use comes with that."""
    progress("imports")
    code = "import time, sys; t = time.perf_counter(); {0}; print(time.perf_counter() - t, 'torch' in sys.modules)"
    for statement, limit in IMPORTS.items():
        outputs = [
            subprocess.run([sys.executable, "-c", code.format(statement)], capture_output=True, text=True).stdout
            for _ in range(5)
        ]
        if not all(outputs):
            run.leave_out(f"{statement}: it fails")
            continue
        seconds = min(float(o.split()[0]) for o in outputs)
        torch = outputs[0].split()[1] == "True"
        run.results.setdefault("imports", {})[statement] = {"seconds": round(seconds, 3), "torch": torch}
        if limit is not None:
            run.targets.append(Target(f"{statement}: s", seconds, limit))
            run.targets.append(Target(f"{statement}: torch loaded", float(torch), 0.0))
