"""A store that does not open is verified all the same: what is there is read, what is not is named with its path."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from memos_core import MemOS, MemOSError, NotAStore, Policy, StoreError, verify_store
from memos_core.cli import main
from tests.conftest import Clock
from tests.words import WordsEmbedder

KEYS = [None, b"0123456789abcdef0123456789abcdef"]
TABLES = ["meta", "cubes", "history", "events", "usage", "rules"]


def opened(path: Path, **options: Any) -> MemOS:
    return MemOS(path, **{"embed": WordsEmbedder(), "actor": "ann", "clock": Clock(), **options})


@pytest.fixture(scope="module", params=KEYS, ids=["unkeyed", "keyed"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    found: bytes | None = request.param
    return found


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, key: bytes | None) -> Path:
    path = tmp_path_factory.mktemp("healthy") / "store"
    with opened(path, audit_key=key) as memory:
        for number in range(6):
            [cube] = memory.add(f"tea {number}")
        memory.update(cube.id, "tea, again")
        memory.group("team", ["bob"])
        memory.search("tea")
    return path


@pytest.fixture
def store(healthy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(healthy, tmp_path / "store")


def manifests(path: Path, table: str) -> list[Path]:
    """The newest first."""
    return sorted((path / f"{table}.lance" / "_versions").glob("*.manifest"))


def data_files(path: Path, table: str) -> list[Path]:
    return sorted((path / f"{table}.lance" / "data").rglob("*.lance"), key=lambda f: f.stat().st_mtime_ns)


def test_it_finds_what_the_open_store_finds(store: Path, key: bytes | None) -> None:
    with opened(store, audit_key=key) as memory:
        found = memory.verify()
    assert verify_store(store, audit_key=key) == found
    assert found.sound


def test_it_changes_no_file(store: Path, key: bytes | None) -> None:
    def files() -> dict[str, bytes]:
        return {str(f): f.read_bytes() for f in store.rglob("*") if f.is_file() and f.suffix != ".lock"}

    before = files()
    verify_store(store, audit_key=key)
    assert files() == before


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_gone_is_named_and_the_log_is_read(store: Path, table: str, key: bytes | None) -> None:
    count = verify_store(store, audit_key=key).events
    shutil.rmtree(store / f"{table}.lance")
    found = verify_store(store, audit_key=key)
    assert f"{store}/{table}.lance is missing" in found.faults
    assert found.events == (0 if table == "events" else count)
    assert (f"events 1 to {count} are missing" in found.faults) is (table == "events")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("how", ["removed", "emptied", "truncated", "scribbled"])
def test_a_data_file_that_is_damaged_is_named_and_the_log_is_read(
    store: Path, table: str, how: str, key: bytes | None
) -> None:
    files = data_files(store, table)
    if not files:
        pytest.skip(f"nothing was written to {table} yet")
    count = verify_store(store, audit_key=key).events
    file = files[len(files) // 2]
    raw = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes({"emptied": b"", "truncated": raw[: len(raw) // 2], "scribbled": b"\xff" * len(raw)}[how])
    found = verify_store(store, audit_key=key)
    assert [f for f in found.faults if f"{store}/{table}.lance" in f]
    assert found.events == (count - 1 if table == "events" else count)
    if table == "events":  # one event lay in it: the others are verified
        number = len(files) // 2 + 1
        assert f"event {number} is missing" in found.faults
        assert len(found.faults) == 2


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("which", ["the newest", "all"])
def test_a_lance_manifest_that_is_truncated_is_named(store: Path, table: str, which: str, key: bytes | None) -> None:
    count = verify_store(store, audit_key=key).events
    there = manifests(store, table)
    for file in there if which == "all" else there[:1]:
        file.write_bytes(file.read_bytes()[:20])
    found = verify_store(store, audit_key=key)
    assert [f for f in found.faults if f"{store}/{table}.lance" in f]
    assert found.events == count if table != "events" else found.events == (0 if which == "all" else count - 1)


@pytest.mark.parametrize("how", ["missing", "not what was written"])
def test_a_head_that_is_damaged_is_named(store: Path, how: str, key: bytes | None) -> None:
    file = store / "audit" / "head"
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"\xff\x00{")
    assert f"{file} is {how}" in verify_store(store, audit_key=key).faults


def test_with_nothing_but_the_head_it_says_how_many_events_there_were(store: Path, key: bytes | None) -> None:
    for table in store.glob("*.lance"):
        shutil.rmtree(table)
    found = verify_store(store, audit_key=key)
    assert found.events == 0
    assert [f for f in found.faults if f.startswith("events 1 to")]


def test_a_manifest_of_the_store_that_is_not_what_was_written_is_named(store: Path, key: bytes | None) -> None:
    import lancedb

    lancedb.connect(store).open_table("meta").update(where="key = 'manifest'", values={"value": "1 {}"})
    with pytest.raises(StoreError):
        opened(store)
    assert "meta.lance" in verify_store(store, audit_key=key).faults[0]


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path / "empty"):
        with pytest.raises(NotAStore, match=str(path)):
            verify_store(path)
    assert not (tmp_path / "nothing").exists()
    assert not os.listdir(tmp_path / "empty")


def test_who_cannot_have_the_lock_verifies_all_the_same_and_is_told(store: Path, key: bytes | None) -> None:
    with opened(store, audit_key=key) as memory, memory._vault.db.writing():
        found = verify_store(store, audit_key=key, policy=Policy(lock_seconds=0.05))
    assert found.sound
    assert "the lock could not be had" in found.unchecked[-1]


def test_memosctl_reads_what_is_there(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_files(store, "events")[2].unlink()
    with pytest.raises(MemOSError):
        opened(store)
    assert main(["verify", str(store)]) == 1
    said = capsys.readouterr().out
    assert f"{store}/events.lance" in said
    assert "event 3 is missing" in said
    shutil.rmtree(store / "events.lance")
    assert main(["verify", str(store)]) == 1
    assert f"{store}/events.lance is missing" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nothing")]) == 1
    assert "holds no store" in capsys.readouterr().err


@pytest.mark.parametrize("tries", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_whatever_is_damaged_it_gives_an_answer_and_never_another_log(
    healthy: Path, tmp_path: Path, key: bytes | None, tries: int
) -> None:
    rng, whole = random.Random(7), verify_store(shutil.copytree(healthy, tmp_path / "whole"), audit_key=key)
    for number in range(tries):
        path = shutil.copytree(healthy, tmp_path / f"{number}")
        some = [*path.rglob("events.lance/**/*"), *path.rglob("meta.lance/**/*"), path / "audit" / "head"]
        file = rng.choice(sorted(f for f in some if f.is_file() and f.stat().st_size))
        raw = bytearray(file.read_bytes())
        if rng.random() < 0.3:
            raw = raw[: rng.randrange(len(raw))]
        else:
            raw[rng.randrange(len(raw))] ^= rng.randrange(1, 256)
        file.write_bytes(raw)
        found = verify_store(path, audit_key=key)
        assert not found.sound or found == whole, file
        shutil.rmtree(path)
