"""Rule 7: damaged data raises and names the path; what cannot be used says so; nothing starts empty in silence."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import (
    Damaged,
    MemOS,
    MemOSError,
    NotAStore,
    Policy,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    Usage,
)  # fmt: skip
from tests.conftest import Clock
from tests.words import WordsEmbedder

Contents = tuple[Any, ...]


def opened(path: Path, **options: Any) -> MemOS:
    return MemOS(path, **{"embed": WordsEmbedder(), "actor": "ann", "clock": Clock(), **options})


def contents(path: Path) -> Contents:
    """All that a store gives out."""
    with opened(path) as memory:
        hits = memory.search("tea", k=1_000)
        cubes = sorted((replace(h.cube, usage=Usage()) for h in hits), key=lambda c: c.id)  # looking is counted
        past = tuple(tuple(c.text for c in memory.history(c.id)) for c in cubes)
        told = sorted((e.id, e.actor, e.verb, e.subject or "", e.version or 0) for e in memory.log(limit=1_000))
        return tuple(cubes), past, tuple(told), memory.stats()


def contents_or_error(path: Path) -> Contents | MemOSError:
    try:
        return contents(path)
    except MemOSError as error:
        return error


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("healthy") / "store"
    with opened(path) as memory:
        for number in range(6):
            [cube] = memory.add(f"tea number {number}", tags=["tea"], attributes={"n": number})
        memory.update(cube.id, "tea, again")
        memory.share(cube.id, readers=["bob"])
    return path


@pytest.fixture(scope="module")
def whole(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    return contents(shutil.copytree(healthy, tmp_path_factory.mktemp("whole") / "store"))


@pytest.fixture
def store(healthy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(healthy, tmp_path / "store")


def data_files(path: Path, table: str) -> list[Path]:
    """The oldest first, so that the same one is chosen in each run."""
    return sorted((path / f"{table}.lance" / "data").rglob("*.lance"), key=lambda f: f.stat().st_mtime_ns)


def manifests(path: Path, table: str) -> list[Path]:
    """The newest first."""
    return sorted((path / f"{table}.lance" / "_versions").glob("*.manifest"))


TABLES = ("cubes", "history", "events", "meta")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_gone_is_named(store: Path, table: str) -> None:
    shutil.rmtree(store / f"{table}.lance")
    with pytest.raises(StoreError, match=str(store)):
        contents(store)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("how", ["removed", "emptied", "truncated", "scribbled"])
def test_a_damaged_data_file_is_named(store: Path, table: str, how: str) -> None:
    for file in data_files(store, table):
        raw = file.read_bytes()
        if how == "removed":
            file.unlink()
        else:
            file.write_bytes({"emptied": b"", "truncated": raw[: len(raw) // 2], "scribbled": b"\xff" * len(raw)}[how])
    with pytest.raises(Damaged, match=table):
        contents(store)


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_manifest_is_named(store: Path, table: str) -> None:
    for file in manifests(store, table):
        file.write_bytes(b"\x00" * 40)
    with pytest.raises(StoreError, match=str(store)):
        contents(store)


@pytest.mark.parametrize("table", ["cubes", "history", "events"])
def test_newest_files_that_were_lost_do_not_pass_in_silence(whole: Contents, store: Path, table: str) -> None:
    """The database falls back to an older state without a word; we do not."""
    versions = store / f"{table}.lance" / "_versions"
    kept = sorted(versions.glob("*.manifest"), key=lambda f: f.stat().st_mtime_ns)
    newest = min(versions.glob("*.manifest"), key=lambda f: f.name) if len(kept[0].name) > 20 else kept[-1]
    newest.unlink()
    (versions / "latest_version_hint.json").unlink(missing_ok=True)
    after = contents_or_error(store)
    if isinstance(after, StoreError):
        assert str(store) in str(after)
        return
    assert after[:2] == whole[:2]
    assert table == "events"  # a lost line of the log is told again
    assert {t[3:] for t in after[2]} == {t[3:] for t in whole[2]}


@pytest.mark.parametrize("flips", [8, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("table", TABLES)
def test_a_flipped_bit_is_found_or_means_nothing(
    healthy: Path, whole: Contents, tmp_path: Path, table: str, flips: int
) -> None:
    """Anywhere in the data: either an error that names the store, or everything as it was. Never another answer."""
    rng = random.Random(table)
    for number in range(flips):
        path = shutil.copytree(healthy, tmp_path / f"{number}")
        file = rng.choice(data_files(path, table))
        raw = bytearray(file.read_bytes())
        at = rng.randrange(len(raw))
        raw[at] ^= 1 << rng.randrange(8)
        file.write_bytes(raw)
        after = contents_or_error(path)
        if isinstance(after, MemOSError):
            assert str(path) in str(after)
        else:
            assert after == whole, f"bit at {at} of {len(raw)} in {table}"
        shutil.rmtree(path)


def test_a_store_of_a_future_schema_is_refused(store: Path) -> None:
    import lancedb

    meta = lancedb.connect(store).open_table("meta")
    [row] = meta.search().limit(1).to_list()
    changed = row["value"].replace('"schema": 1', '"schema": 99')
    assert changed != row["value"]
    meta.update(where="true", values={"value": changed})
    with pytest.raises(StoreError, match=r"99|damaged|sum") as caught:
        opened(store)
    assert isinstance(caught.value, SchemaMismatch | Damaged)


# --- places that are no store ------------------------------------------------------------------------------------------------


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreUnavailable, match="file"):
            opened(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(NotAStore, match=r"notes\.txt"):
        opened(tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir()) if not p.name.startswith(".")] == before


def test_a_folder_with_anothers_database_is_refused(tmp_path: Path) -> None:
    import lancedb

    lancedb.connect(tmp_path).create_table("events", data=[{"mine": 1}])
    with pytest.raises(StoreError, match=str(tmp_path)):
        opened(tmp_path)
    assert lancedb.connect(tmp_path).open_table("events").count_rows() == 1


@pytest.mark.parametrize("path", ["/proc/memories", "/proc/self/memories", "/dev/null/memories"])
def test_a_folder_that_cannot_be_written_is_refused(path: str) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    with pytest.raises(StoreUnavailable, match=path):
        opened(Path(path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here: that needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named_and_loses_nothing_acknowledged(small_disk: Path) -> None:
    stored: list[str] = []
    refusal = ""
    memory = opened(small_disk / "store")
    with suppress(StoreUnavailable), memory:  # closing writes down what was read, and there is no room
        for number in range(500):
            try:
                stored += [c.id for c in memory.add(f"{number} " + "x" * 50_000)]
            except StoreUnavailable as error:
                refusal = str(error)
                break
        assert {h.cube.id for h in memory.search("x", k=1_000)} >= set(stored)
        assert memory.get(stored[0]).text.startswith("0 ")
    assert str(small_disk) in refusal
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    with opened(small_disk / "store") as memory:
        assert {h.cube.id for h in memory.search("x", k=1_000)} >= set(stored)
        assert memory.add("room again")


# --- durability and growth ---------------------------------------------------------------------------------------------------


def test_with_fsync_all_is_as_without(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(policy=Policy(fsync=True, compact_every=4))
    cubes = memory.add([f"tea {n}" for n in range(5)])
    memory.update(cubes[0].id, "cake")
    memory.delete(cubes[1].id)
    memory.tick()
    assert {h.cube.text for h in memory.search("tea", k=9)} == {"cake", "tea 2", "tea 3", "tea 4"}


@pytest.mark.parametrize("count", [300, pytest.param(1_000, marks=pytest.mark.slow)])
def test_many_small_adds_leave_few_files_and_few_versions(
    open_store: Callable[..., MemOS], tmp_path: Path, count: int
) -> None:
    memory = open_store(policy=Policy(compact_every=100, keep_versions=timedelta(seconds=1)))
    for number in range(count):
        memory.add(f"note {number}")
    memory.tick()
    for table in TABLES:
        folder = tmp_path / "store" / f"{table}.lance"
        assert len(list((folder / "_versions").glob("*.manifest"))) < 250, table
        assert len(list((folder / "data").rglob("*.lance"))) < 250, table
    assert memory.stats().memories == count
    assert len(memory.search("note", k=2_000)) == count
