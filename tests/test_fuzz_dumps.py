"""Any bytes whatever: a load is made or refused with one of our errors, changes nothing when it is refused, and touches nothing else.

`python -m tests.test_fuzz_dumps 100000` tries so many inputs, and says how many of them were refused.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos_core import MemOS, MemOSError
from tests.conftest import Clock
from tests.dumps import Files, arrow, files_of, honest, packed, put, table, with_manifest
from tests.words import WordsEmbedder

bits = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from(["flip", "set", "cut", "double", "zero", "word"]), st.integers(0, 2**32 - 1)
    ),
    min_size=1,
    max_size=4,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
    | st.sampled_from(["../../x", "/etc/passwd", "*", "ann", "0" * 64, "memories/0-0000000000000000.arrow", "2026-01-01T00:00:00+00:00", "kv"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
edits = st.lists(
    st.tuples(st.lists(st.integers(0, 40), max_size=5), st.sampled_from(["put", "drop", "again"]), values),
    min_size=1,
    max_size=3,
)
inputs = st.one_of(
    st.tuples(st.just("archive"), bits), st.tuples(st.just("folder"), bits), st.tuples(st.just("rehashed"), bits),
    st.tuples(st.just("manifest"), edits), st.tuples(st.just("record"), edits), st.tuples(st.just("history"), edits),
)  # fmt: skip


def bitten(data: bytes, changes: Any) -> bytes:
    """Bytes with some changed, cut off, or doubled."""
    found = bytearray(data)
    for where, how, value in changes:
        at = int(where * max(0, len(found) - 5))
        if how == "flip" and found:
            found[at] ^= 1 << value % 8
        elif how == "set" and found:
            found[at] = value % 256
        elif how == "word":
            found[at : at + 4] = value.to_bytes(4, "little")
        elif how == "zero":
            found[at : at + 8] = bytes(8)
        elif how == "cut":
            del found[at : at + value % 2000]
        elif how == "double":
            found[at:at] = found[at : at + value % 2000]
    return bytes(found)


def edited(said: Any, changes: Any) -> Any:
    """JSON with some of its values changed, left out, or twice."""
    for path, how, value in changes:
        above, name = None, None
        here = said
        for step in path:
            names = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
            if not names:
                break
            above, name = here, names[step % len(names)]
            here = here[name]
        if above is None:
            continue
        if how == "put":
            above[name] = value
        elif how == "drop":
            del above[name]
        elif isinstance(above, list):
            above.append(here)
        else:
            above[str(value)[:8]] = here
    return said


class Target:
    """A store that is attacked, in a folder that is watched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with MemOS(folder / "source", embed=WordsEmbedder(), actor="ann", clock=Clock()) as memory:
            [cube] = memory.add("tea with lemon", attributes={"n": [1, {"x": None}]}, tags=["drink"])
            memory.update(cube.id, "tea with milk")
            memory.add([{"role": "user", "content": f"turn {n}", "id": f"m{n}"} for n in range(2)], session="monday")
            memory.add("keyed", key="key", ttl=1e6)
            memory.dump(folder / "good")
        self.good: Files = files_of(folder / "good")
        self.whole = packed(self.good, folder / "good.zip").read_bytes()
        self.counts: Counter[str] = Counter()
        self.fresh()

    def fresh(self) -> None:
        """Begin with an empty store."""
        self.number = self.counts.total()
        self.memory = MemOS(self.folder / f"target{self.number}", embed=WordsEmbedder(), actor="ann", clock=Clock())

    def around(self) -> list[str]:
        """What is there beside the stores' own files."""
        return sorted(p.name for p in self.folder.iterdir()) + sorted(
            p.name for p in Path(self.memory.path).iterdir() if not p.name.startswith(".")
        )

    def commits(self) -> dict[str, list[str]]:
        """The versions of the store's tables."""
        return {
            n: os.listdir(f"{self.memory.path}/{n}.lance/_versions") for n in ("cubes", "history", "events", "meta")
        }

    def attack(self, how: str, changes: Any) -> None:
        """Load something bent, and see what happened."""
        source = self.folder / ("bent.zip" if how == "archive" else "bent")
        self.bend(how, changes, source)
        before, around = self.commits(), self.around()
        try:
            done = self.memory.load(source)
            self.counts["loaded" if done.added or done.updated else "nothing new"] += 1
        except MemOSError as error:
            self.counts[type(error).__name__] += 1
            assert self.commits() == before
            assert not (Path(self.memory.path) / "landing" / "journal.json").exists()
        assert set(self.around()) - set(around) <= {"loading", "landing", "blobs", "rebuilds"}
        for path in sorted(source.rglob("*"), reverse=True) if source.is_dir() else [source]:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        if self.counts["loaded"] % 500 == 499:
            self.memory.close()
            self.fresh()
            self.counts["loaded"] += 1

    def bend(self, how: str, changes: Any, source: Path) -> None:
        """Write an input."""
        names = sorted(self.good)
        if how == "archive":
            source.write_bytes(bitten(self.whole, changes))
            return
        files = dict(self.good)
        if how in ("folder", "rehashed"):
            name = names[int(changes[0][0] * (len(names) - 1))]
            data = bitten(files[name], changes)
            files = honest(files, name, data) if how == "rehashed" and name != "memos.json" else {**files, name: data}
        elif how == "manifest":
            files = with_manifest(files, lambda said: edited(said, changes))
        else:
            folder = "memories" if how == "record" else "history"
            name = next(n for n in names if n.startswith(folder))
            rows = table(files[name])
            columns = rows.to_pydict()
            row = sum(len(p) for p, _, _ in changes) % rows.num_rows
            record = edited(json.loads(columns["record"][row]), changes)
            columns["record"][row] = json.dumps(record)
            if isinstance(record.get("id"), str):
                columns["id"][row] = record["id"].encode("utf-8", "replace").decode()
            files = honest(files, name, arrow(type(rows).from_pydict(columns, schema=rows.schema)))
        put(files, source)


def fuzz(examples: int, *, chance: bool) -> Counter[str]:
    """Try so many inputs; how often what happened."""
    with tempfile.TemporaryDirectory() as folder:
        target = Target(Path(folder))

        @settings(
            max_examples=examples,
            derandomize=not chance,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def attack(given: Any) -> None:
            target.attack(*given)

        attack()
        target.memory.close()
        return target.counts


def test_no_bytes_break_the_loader() -> None:
    counts = fuzz(120, chance=False)
    assert counts["DumpRefused"] > 50
    assert set(counts) <= {"DumpRefused", "AccessDenied", "loaded", "nothing new"}


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[2] if len(sys.argv) > 2 else None  # where files cost little
    print(fuzz(int(sys.argv[1]), chance=True))
