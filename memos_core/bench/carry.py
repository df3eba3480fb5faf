"""What it costs to carry memories: dumping and loading 100,000 of them, in MB/s and memory, and whether they come back bit-equal.

Memories, of which some have earlier versions, are synthetic (`synthetic`), vectors come from a table. Each part runs in a process of its
own, whose memory is watched from the beginning of the part to its end. MB are those of the dump's files, which are not compressed.
Baselines: copying the store's folder, and writing the same rows as one Parquet file, and reading it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..memos import MemOS
from ..vault import Vault
from . import arguments, progress, report, table, timed
from .synthetic import Lookup, World
from .trial import Target

_PAST = 50  # one memory in so many has an earlier version


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    parser = arguments("carry", (__doc__ or "").split("\n")[0])
    parser.add_argument("--memories", type=int, default=100_000, help="in the store (default: 100,000)")
    parser.add_argument("--repeat", type=int, default=3, help="of each part; the quickest counts (default: 3)")
    parser.add_argument("--folder", type=Path, help="where all is made and removed (default: the system's)")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part is not None:
        print(json.dumps(_PARTS[args.part[0]](Path(args.part[1]))))
        return 0
    with tempfile.TemporaryDirectory(prefix="memos-bench-", dir=args.folder) as name:
        results = _measure(args, Path(name))
    targets = _show(results)
    report("carry", args, results | {"targets": [asdict(t) | {"met": t.met} for t in targets]})
    return 0


def _measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    progress(f"a store of {args.memories:,} memories")
    _fill(folder / "store", args.memories)
    results: dict[str, Any] = {"memories": args.memories, "store_mb": _mb(folder / "store"), "parts": {}}
    for name in _PARTS:
        for _ in range(args.repeat):
            found = _run(name, folder)
            best = results["parts"].get(name)
            if best is None or found["seconds"] < best["seconds"]:
                results["parts"][name] = found | {"peak_mb": max(found["peak_mb"], best["peak_mb"] if best else 0)}
        progress(f"{name}: {results['parts'][name]['seconds']} s")
    results["dump_mb"] = _mb(folder / "dump")
    progress("comparing")
    results["bit_equal"] = {name: _same(folder / "store", folder / name) for name in ("load", "load_archive")}
    return results


def _fill(path: Path, count: int) -> None:
    world, lookup = World(), Lookup()
    memories = world.memories(count, ["ann"], 1_000)
    lookup.learn(memories.texts, memories.vectors)
    with MemOS(path, embed=lookup, actor="ann") as memory:
        for rows in memories.conversations():
            memory.add([memories.message(r) for r in rows], namespace=("ann",), session=memories.sessions[rows[0]])
        changed = [r.cube for r in memory._vault.rows("version > 0", limit=count // _PAST)]
        for start in range(0, len(changed), 1_000):  # as `update` does, in fewer commits
            some = changed[start : start + 1_000]
            new = [_revised(memory, c) for c in some]
            memory._vault.replace(some, new, [None] * len(some))
            memory._writer.tell("ann", "update", new, new[0].updated_at)
        while not memory.tick().compacted:
            time.sleep(0.1)


def _revised(memory: MemOS, cube: Any) -> Any:
    from .. import lifecycle

    return lifecycle.revise(cube, memory._clock(), attributes={"checked": True})


# --- parts, each in a process of its own -----------------------------------------------------------------------------------


def _run(name: str, folder: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "memos_core.bench.carry", "--part", name, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _opened(path: Path) -> MemOS:
    return MemOS(path, embed=Lookup(), actor="ann")


def _dump(target: str, *, again: bool = False) -> Callable[[Path], dict[str, Any]]:
    def part(folder: Path) -> dict[str, Any]:
        if not again:
            _gone(folder / target)
        with _opened(folder / "store") as memory, _watched() as found:
            found["seconds"] = timed(lambda: memory.dump(folder / target))
        return found | {"mb": _mb(folder / target)}

    return part


def _load(source: str, into: str) -> Callable[[Path], dict[str, Any]]:
    def part(folder: Path) -> dict[str, Any]:
        _gone(folder / into)
        with _opened(folder / into) as memory, _watched() as found:
            found["seconds"] = timed(lambda: memory.load(folder / source))
        return found | {"mb": _mb(folder / source)}

    return part


def _load_again(folder: Path) -> dict[str, Any]:
    with _opened(folder / "load") as memory, _watched() as found:
        found["seconds"] = timed(lambda: memory.load(folder / "dump"))
    return found | {"mb": _mb(folder / "dump")}


def _load_as_another(folder: Path) -> dict[str, Any]:
    _gone(folder / "other")
    with MemOS(folder / "other", embed=Lookup(), actor="zoe") as memory, _watched() as found:
        found["seconds"] = timed(lambda: memory.load(folder / "dump"))
    return found | {"mb": _mb(folder / "dump")}


def _copy(folder: Path) -> dict[str, Any]:
    _gone(folder / "copy")
    with _watched() as found:
        found["seconds"] = timed(lambda: shutil.copytree(folder / "store", folder / "copy"))
    return found | {"mb": _mb(folder / "store")}


def _parquet(folder: Path) -> dict[str, Any]:
    from pyarrow import parquet

    columns = ["id", "version", "text", "record", "vector"]
    with _opened(folder / "store") as memory, _watched() as found:

        def write() -> None:
            rows = memory._vault.db.cubes.search().select(columns).limit(2**31 - 1).to_arrow()
            parquet.write_table(rows, folder / "rows.parquet")

        found["seconds"] = timed(write)
    return found | {"mb": _mb(folder / "rows.parquet")}


def _parquet_read(folder: Path) -> dict[str, Any]:
    from pyarrow import parquet

    with _watched() as found:
        found["seconds"] = timed(lambda: parquet.read_table(folder / "rows.parquet"))
    return found | {"mb": _mb(folder / "rows.parquet")}


_PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "dump": _dump("dump"), "dump, nothing new": _dump("dump", again=True), "dump to an archive": _dump("dump.zip"),
    "load": _load("dump", "load"), "load of an archive": _load("dump.zip", "load_archive"), "load again": _load_again,
    "load as another owner": _load_as_another, "baseline: copy of the folder": _copy, "baseline: write Parquet": _parquet,
    "baseline: read Parquet": _parquet_read,
}  # fmt: skip


# --- measuring ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _watched() -> Iterator[dict[str, Any]]:
    """Seconds are put in by the block; here come the processor's, and the most memory (RSS) that the process had meanwhile."""
    found: dict[str, Any] = {}
    done, most = threading.Event(), [before := _rss()]

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], _rss())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.process_time()
    yield found
    found["processor_seconds"] = round(time.process_time() - start, 4)
    done.set()
    watcher.join()
    found |= {"before_mb": round(before, 1), "peak_mb": round(most[0], 1), "seconds": round(found["seconds"], 4)}


def _rss() -> float:
    """Of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _mb(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(f.stat().st_size for f in files if f.is_file()) / 1e6, 1)


def _gone(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _same(a: Path, b: Path) -> bool:
    """Whether two stores hold the same memories, vectors and versions, bit for bit."""
    with _opened(a) as one, _opened(b) as two:
        return _rows(one._vault) == _rows(two._vault) and _past(one._vault) == _past(two._vault)


def _rows(vault: Vault) -> dict[str, tuple[str, str | None, bytes]]:
    found = vault.db.cubes.search().select(["id", "record", "text", "vector"]).limit(2**31 - 1).to_arrow()
    ids, records, texts = (found[n].to_pylist() for n in ("id", "record", "text"))
    vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    return {i: (r, t, v.tobytes()) for i, r, t, v in zip(ids, records, texts, vectors, strict=True)}


def _past(vault: Vault) -> set[tuple[str, int, str, str | None]]:
    found = vault.db.table("history").search().select(["id", "version", "record", "text"]).limit(2**31 - 1).to_arrow()
    return set(zip(*(found[n].to_pylist() for n in ("id", "version", "record", "text")), strict=True))


def _show(results: dict[str, Any]) -> list[Target]:
    print(
        f"{results['memories']:,} memories; the store has {results['store_mb']} MB, its dump {results['dump_mb']} MB\n"
    )
    print(table(("part", "s", "processor s", "MB", "MB/s", "MB per processor s", "peak MB", "before MB"), [
        (name, p["seconds"], p["processor_seconds"], p["mb"], p["mb"] / p["seconds"], p["mb"] / p["processor_seconds"], p["peak_mb"], p["before_mb"])
        for name, p in results["parts"].items()
    ]))  # fmt: skip
    targets = []
    for name in ("dump", "load", "dump to an archive", "load of an archive"):
        part = results["parts"][name]
        targets.append(Target(f"{name}: MB/s", part["mb"] / part["seconds"], 20.0, at_least=True))
        targets.append(Target(f"{name}: peak MB", part["peak_mb"], 500.0))
    targets += [
        Target(f"{name}: bit-equal", float(same), 1.0, at_least=True) for name, same in results["bit_equal"].items()
    ]
    print("\n" + table(("target", "measured", "wanted", "met"), [
        (t.what, t.measured, f"{'≥' if t.at_least else '≤'} {t.limit:g}", "yes" if t.met else "NO") for t in targets
    ]))  # fmt: skip
    return targets


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
