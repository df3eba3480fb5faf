"""What trust costs and whether it holds: forgetting in bulk, a purge to the byte, the log's chain, rights of many. Embedding is left out.

Memories are synthetic (`synthetic`). Beside each figure stands what it is to be read against, measured in the same run: forgetting one
by one and LanceDB's own deletion, a compaction alone, an append without a chain, a search whose answer may be anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lancedb

from .. import audit
from ..memos import MemOS
from ..tables import EVENTS
from ..types import Event
from . import Timing, arguments, progress, report, table, timed
from .isolation import isolation
from .synthetic import Lookup, World

_MARK = "xyzzyforgotten"


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    parser = arguments("trust", (__doc__ or "").split("\n")[0])
    parser.add_argument("--memories", type=int, default=100_000, help="forgotten at once (default: 100,000)")
    parser.add_argument("--adds", type=int, default=200, help="single adds (default: 200)")
    parser.add_argument("--operations", type=int, default=2_000, help="of twenty actors (default: 2,000)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="memos-bench-") as folder:
        results = {
            "forgetting": forgetting(Path(folder) / "forgetting", args),
            "chain": chain(Path(folder) / "chain", args),
            "isolation": isolation(Path(folder) / "isolation", args.operations),
        }
    rows = [
        (f"{part}: {name}", str(value) if isinstance(value, list) else value)
        for part, found in results.items()
        for name, value in found.items()
    ]
    print(table(("what", "measured"), rows))
    report("trust", args, results)
    return (
        0
        if not results["isolation"]["leaks"] and not results["forgetting"]["files of memories from before the purge"]
        else 1
    )


def forgetting(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Delete a namespace and purge, in a store that holds as many others besides."""
    world, lookup, half = World(), Lookup(), args.memories
    memories = world.memories(half, ["ada"], 100)
    kept = world.memories(max(1_000, half // 10), ["ada"], 100)
    for some in (memories, kept):
        lookup.learn(some.texts, some.vectors)
    with MemOS(path, embed=lookup, actor="ada") as memory:
        for name, some, mark in (("gone", memories, _MARK), ("kept", kept, "")):
            for start in range(0, len(some), 5_000):
                turns = [some.message(row) for row in range(start, min(start + 5_000, len(some)))]
                turns[0] = turns[0] | {"content": f"{turns[0]['content']} {mark}".strip()}
                memory.add(turns, namespace=(name,), session=f"{name} {start}")
                progress(f"forgetting: {name} {start + len(turns):,}")
        memory.tick()
        raw = _raw_delete(path.parent / "raw", memory)
        singles = [h.cube.id for h in memory.search(kept.texts[0][:200], namespace=("kept",), k=50)]
        one = statistics.median(timed(lambda id=id: memory.delete(id)) for id in singles)  # type: ignore[misc]
        progress("forgetting: delete")
        began = time.perf_counter()
        receipt = memory.delete(("gone",))
        seconds = time.perf_counter() - began
        verify, compact = timed(memory.verify), timed(memory.tick)
        size, before = _size(path), _files(path)
        purge = timed(memory.purge)
        return {
            "memories": len(receipt.ids), "seconds": round(seconds, 2), "memories a second": round(len(receipt.ids) / seconds),
            "one by one, seconds each": round(one, 4), "one by one, seconds for as many": round(one * len(receipt.ids)),
            "LanceDB deletes the same rows and says nothing, seconds": round(raw, 2), "events verified, seconds": round(verify, 2),
            "compaction, seconds": round(compact, 2), "purge, seconds": round(purge, 2), "MiB before the purge": round(size / 2**20),
            "MiB after": round(_size(path) / 2**20), "files of memories from before the purge": len(before & _files(path)),
            "files with a word of it after the purge": _files_with(path, _MARK),
            "sound": memory.verify().sound, "memories left": memory.stats().memories,
        }  # fmt: skip


def chain(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """An add, what of it is recording its event, and recording one without a chain, in turns."""
    world, lookup = World(1), Lookup()
    memories = world.memories(2 * args.adds, ["ada"], 1)
    lookup.learn(memories.texts, memories.vectors)
    seconds: dict[str, list[float]] = {"add": [], "record": [], "append without a chain": []}
    with MemOS(path, embed=lookup, actor="ada") as memory:
        plain = lancedb.connect(path.parent / "plain", read_consistency_interval=timedelta(0)).create_table(
            "events", schema=EVENTS
        )
        ledger = memory._vault.ledger
        for row in range(args.adds):
            event = Event(str(uuid.uuid4()), datetime.now(UTC), "ada", "look")
            told, _ = audit.chained([event], [["ada"]], [None], audit.Head())
            seconds["add"].append(timed(lambda row=row: memory.add(memories.texts[row])))  # type: ignore[misc]
            with memory._vault.writing():  # as an add does, which has the lock already
                seconds["record"].append(timed(lambda event=event: ledger.record([event], [["ada"]])))  # type: ignore[misc]
            seconds["append without a chain"].append(timed(lambda told=told: plain.add(ledger.rows(told))))  # type: ignore[misc]
        sound = memory.verify().sound
    found: dict[str, Any] = {name: str(Timing.of(times[10:])) for name, times in seconds.items()}
    add, record, without = (statistics.median(times[10:]) for times in seconds.values())
    return found | {"the chain's share of an add": round((record - without) / add, 3), "sound": sound}


def _raw_delete(folder: Path, memory: MemOS) -> float:
    """LanceDB's own deletion of as many rows from a copy of the table without its indexes."""
    rows = memory._vault.db.cubes.search().limit(2**31 - 1).to_arrow().drop_columns(["attributes"])
    raw = lancedb.connect(folder).create_table("cubes", data=rows)
    return timed(lambda: raw.delete("namespace = 'gone/'"))


def _files(path: Path) -> set[str]:
    """The files that may hold words of memories. Their names are never used again."""
    tables = [t for t in path.glob("*.lance") if t.stem not in ("events", "meta")]
    return {
        str(f) for t in tables for f in t.rglob("*") if f.is_file() and f.suffix != ".json"
    }  # that is the hint which version is the newest


def _files_with(path: Path, words: str) -> int:
    return sum(words.encode() in f.read_bytes().lower() for f in path.rglob("*") if f.is_file())


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
