"""The log is append-only and says so: whatever is changed, removed, inserted or moved in it is found, and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import Event, MemOS, MemOSError, NotFound, Policy, verify_store
from memos_core import audit as rules
from memos_core.cli import main
from memos_core.tables import EVENTS
from tests.conftest import START, Clock
from tests.words import WordsEmbedder

WORDS = st.text(max_size=6)
EVENT = st.builds(
    Event, WORDS, st.just(START), WORDS, WORDS, st.none() | WORDS, st.none() | st.integers(1, 9), WORDS, WORDS
)
TOLD = st.lists(st.tuples(EVENT, st.lists(WORDS, max_size=3), st.none() | st.integers(0, 9)), min_size=1, max_size=8)


KEYS = [None, b"0123456789abcdef0123456789abcdef"]
KEY = st.sampled_from(KEYS)


def opened(path: Path, **options: Any) -> MemOS:
    return MemOS(path, **{"embed": WordsEmbedder(), "actor": "ann", "clock": Clock(), **options})


def chain(
    told: list[tuple[Event, list[str], int | None]], key: bytes | None = None
) -> tuple[list[rules.Told], rules.Head]:
    signer = None if key is None else rules.AuditKey(key)
    return rules.chained([e for e, _, _ in told], [r for _, r, _ in told], [s for *_, s in told], rules.Head(), signer)


def sound(stored: list[rules.Told], head: rules.Head, key: bytes | None) -> bool:
    return rules.examined(stored, head, keys=rules.checked_keys(key)).sound


def other_than(value: Any) -> Any:
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    if isinstance(value, tuple):
        return (*value, "mallory")
    return 3 if value is None else value + 1 if isinstance(value, int) else value + "x"


# --- the rules -------------------------------------------------------------------------------------------------------------


@given(TOLD, KEY, st.data())
def test_any_changed_field_of_any_event_is_found(
    told: list[tuple[Event, list[str], int | None]], key: bytes | None, data: Any
) -> None:
    stored, head = chain(told, key)
    at = data.draw(st.integers(0, len(stored) - 1))
    one = stored[at]
    name = data.draw(st.sampled_from([*Event.__slots__, "readers", "seq", "number", "link", "checksum"]))
    if name in Event.__slots__:
        new = replace(one, event=replace(one.event, **{name: other_than(getattr(one.event, name))}))
    else:
        new = replace(one, **{name: other_than(getattr(one, name))})
    found = sorted([*stored[:at], new, *stored[at + 1 :]], key=lambda t: t.number)
    assert sound(stored, head, key)
    assert not sound(found, head, key)
    assert not sound(found, head, None)


@given(TOLD, KEY, st.data())
def test_what_is_removed_inserted_or_moved_is_found(
    told: list[tuple[Event, list[str], int | None]], key: bytes | None, data: Any
) -> None:
    stored, head = chain(told, key)
    at = data.draw(st.integers(0, len(stored) - 1))
    removed = [*stored[:at], *stored[at + 1 :]]
    assert f"event {at + 1} is missing" in rules.examined(removed, head).faults
    assert rules.examined([*stored[: at + 1], stored[at], *stored[at + 1 :]], head).faults == (
        f"event {at + 1} is there more than once",
    )
    other = data.draw(st.integers(0, len(stored) - 1))
    if other != at:
        moved = list(stored)
        moved[at], moved[other] = (
            replace(stored[other], number=at + 1),
            replace(stored[at], number=other + 1),
        )
        assert not sound(moved, head, key)
    forged, _ = chain([*told[:at], (replace(told[at][0], actor="mallory!"), *told[at][1:]), *told[at + 1 :]])
    assert not sound(forged, head, key)  # all links made anew: the head tells
    new_head = rules.Head(head.number, forged[-1].link, head.rows)
    assert not rules.examined(forged, new_head, str(head)).sound
    assert sound(forged, new_head, key) is (key is None)  # without a key nothing but a kept head tells


def test_a_head_that_was_kept_is_found_again_however_long_the_chain_became(memory: MemOS) -> None:
    memory.add("tea")
    kept = memory.verify().head
    memory.add("cake")
    assert memory.verify(kept).sound
    assert not memory.verify(kept.replace("1:", "2:")).sound
    assert not memory.verify("9:abc").sound


# --- what is stored --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KEYS, ids=["unkeyed", "keyed"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    found: bytes | None = request.param
    return found


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, key: bytes | None) -> Path:
    path = tmp_path_factory.mktemp("busy") / "store"
    with opened(path, audit_key=key, policy=Policy(keep_versions=timedelta(seconds=1))) as memory:
        cubes = [memory.add(f"tea number {n}")[0] for n in range(5)]
        memory.share(cubes[0].id, readers=["bob"])
        memory.delete([c.id for c in cubes[3:]])
        memory.tick()
        memory.add("after the compaction")
    return path


def told_by(path: Path) -> list[dict[str, Any]]:
    with opened(path) as memory:
        return sorted(
            memory._vault.db.table("events").search().limit(1000).to_arrow().to_pylist(), key=lambda r: r["number"]
        )


def flip_one(busy: Path, path: Path, data: Any) -> None:
    files = [f for f in (busy / "events.lance").rglob("*") if f.is_file()]
    file = data.draw(st.sampled_from(sorted([*files, busy / "audit" / "head"])))
    raw = bytearray(file.read_bytes())
    at, other = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    raw[at] ^= other
    shutil.copytree(busy, path)
    (path / file.relative_to(busy)).write_bytes(raw)


def assert_found(path: Path, whole: list[dict[str, Any]], key: bytes | None) -> None:
    """That a verification says so, or opening does, or that it changed nothing of the log: it was in an index, padding, statistics."""
    try:
        assert not verify_store(path, audit_key=key).sound or told_by(path) == whole
        with opened(path, audit_key=key) as memory:
            sound = memory.verify().sound
        assert not sound or told_by(path) == whole
    except (MemOSError, UnicodeDecodeError, OverflowError):
        pass
    finally:
        shutil.rmtree(path)


@settings(max_examples=10)
@given(data=st.data())
def test_any_flipped_byte_of_the_log_is_found_or_changed_nothing_of_it(
    busy: Path, key: bytes | None, data: Any
) -> None:
    flip_one(busy, busy.parent / "flipped", data)
    assert_found(busy.parent / "flipped", told_by(busy), key)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_index_tells_nothing_a_second_time(which: int, busy: Path, key: bytes | None, tmp_path: Path) -> None:
    path = shutil.copytree(busy, tmp_path / "store")
    file = sorted((path / "events.lance" / "_indices").rglob("page_data.lance"))[which]
    raw = bytearray(file.read_bytes())
    raw[80] ^= 1  # in the index of the times it hides what was told
    file.write_bytes(raw)
    assert_found(path, told_by(busy), key)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=2000, derandomize=False)
@given(data=st.data())
def test_any_of_two_thousand_flipped_bytes_of_the_log_is_found_or_changed_nothing_of_it(
    busy: Path, key: bytes | None, data: Any
) -> None:
    flip_one(busy, busy.parent / "flipped", data)
    assert_found(busy.parent / "flipped", told_by(busy), key)


@pytest.mark.parametrize("field", EVENTS.names)
def test_any_changed_column_of_a_stored_event_is_found(
    field: str, busy: Path, key: bytes | None, tmp_path: Path
) -> None:
    path = shutil.copytree(busy, tmp_path / "store")
    with opened(path, audit_key=key) as memory:
        before = memory.verify()
        assert before.sound
        changed = {"at": "timestamp '2026-03-02T09:00:01+00:00'", "readers": "['mallory']"}
        kind = EVENTS.field(field).type
        sql = changed.get(field, "coalesce({0}, 0) + 1" if kind == pa.int64() else "concat(coalesce({0}, ''), 'x')")
        memory._vault.db.table("events").update(where="number = 4", values_sql={field: sql.format(field)})
        assert not memory.verify().sound


def test_an_end_that_was_cut_off_is_found_and_stays_found(busy: Path, key: bytes | None, tmp_path: Path) -> None:
    path = shutil.copytree(busy, tmp_path / "store")
    with opened(path, audit_key=key) as memory:
        last = memory.verify().events
        memory._vault.db.table("events").delete(f"number >= {last - 1}")
        assert memory.verify().faults == (f"events {last - 1} to {last} are missing",)
        memory.add("more")
        assert memory.verify().faults == (f"events {last - 1} to {last} are missing",)


def test_a_head_that_was_taken_away_leaves_its_trace_in_the_log(busy: Path, key: bytes | None, tmp_path: Path) -> None:
    path = shutil.copytree(busy, tmp_path / "store")
    (path / "audit" / "head").unlink()
    with opened(path, audit_key=key) as memory:
        assert "head" in memory.verify().faults[0]
        memory.add("more")
        assert memory.verify().sound
    trace = [row for row in told_by(path) if row["verb"] == "audit" and row["outcome"] != "ok"]
    assert [(t["outcome"], t["subject"]) for t in trace] == [("failed", None)]


def test_a_head_that_was_taken_away_from_an_empty_log_is_missed(memory: MemOS) -> None:
    assert memory.verify().sound
    (Path(memory.path) / "audit" / "head").unlink()
    with opened(Path(memory.path)) as again:
        assert not again.verify().sound
        again.add("tea")
        assert [e.verb for e in again._vault.ledger.all("true")] == ["audit", "add"]


def test_a_process_killed_between_the_events_and_the_head_breaks_no_chain(
    busy: Path, key: bytes | None, tmp_path: Path
) -> None:
    path = shutil.copytree(busy, tmp_path / "store")
    with opened(path, audit_key=key) as memory:
        before = (path / "audit" / "head").read_bytes()
        memory.add("tea")
        (path / "audit" / "head").write_bytes(before)
        assert memory.verify().sound
        memory.add("more tea")
        assert memory.verify().sound


def test_a_transaction_that_was_taken_back_leaves_a_sound_chain_that_tells_of_it(
    open_store: Callable[..., MemOS], key: bytes | None
) -> None:
    memory = open_store(audit_key=key)

    def fail() -> None:
        with memory.transaction():
            memory.add("cake")
            memory.group("team", ["bob"])
            assert memory.verify().sound
            raise KeyError

    memory.add("tea")
    with pytest.raises(KeyError):
        fail()
    found = memory.verify()
    assert found.sound
    assert [(e.verb, e.outcome) for e in reversed(memory.log()) if e.verb != "audit"] == [
        ("add", "ok"), ("add", "rolled back"), ("group", "rolled back")
    ]  # fmt: skip
    with memory.transaction():
        memory.add("bread")
    assert memory.verify(found.head).sound
    with pytest.raises(NotFound):
        memory.members("team")


def test_writers_beside_each_other_make_one_chain(open_store: Callable[..., MemOS], key: bytes | None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    stores = [open_store(audit_key=key) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(lambda s=s: [s.add(f"tea {n}") for n in range(5)]) for s in stores]:
            done.result()
    assert stores[0].verify().sound
    assert stores[0].verify().events == 15 + (key is not None)


def test_a_store_from_before_the_chain_gets_one_when_it_is_opened(
    busy: Path, key: bytes | None, tmp_path: Path
) -> None:
    if key is not None:
        pytest.skip("there was no key then")
    path = shutil.copytree(busy, tmp_path / "store")
    with opened(path) as memory:
        log = memory.log(limit=1000)
        memory._vault.db.table("events").drop_columns(["link"])
    (path / "audit" / "head").unlink()
    with opened(path) as memory:
        assert memory.log(limit=1000) == log
        assert memory.verify().sound
        assert memory.add("more")
        assert memory.verify().sound


# --- from a shell ----------------------------------------------------------------------------------------------------------


def test_the_log_is_verified_and_exported_from_a_shell(
    busy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers", reason="the command opens the store with the default embedder")
    from memos_core.embed import LocalEmbedder

    path, file = tmp_path / "store", tmp_path / "log.jsonl"
    with MemOS(path, embed=LocalEmbedder(), actor="ann") as memory:
        [cube] = memory.add("tea")
        memory.add("bob's", actor="bob")
        memory.archive(cube.id)
    assert main(["log", str(path), "--actor", "ann", "--export", str(file)]) == 0
    assert [json.loads(line)["verb"] for line in file.read_text().splitlines()] == ["add", "archive"]
    capsys.readouterr()
    assert main(["log", str(path), "--actor", "ann", "--verb", "archive", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["subject"] == cube.id
    assert main(["verify", str(path)]) == 0
    head = capsys.readouterr().out.split()[-1]
    assert main(["verify", str(path), "--head", head]) == 0
    assert main(["verify", str(path), "--head", "1:00"]) == 1
