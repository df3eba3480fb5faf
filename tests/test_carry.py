"""Memories dumped from one store and loaded into another: all of it, any of it, by whoever may, once or twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memos_core import (
    PUBLIC,
    Access,
    AccessDenied,
    Draft,
    DumpRefused,
    InvalidArgument,
    Item,
    Kind,
    Link,
    MemOS,
    NotFound,
    State,
)
from tests.conftest import Clock
from tests.dumps import contents, files_of, manifest, put, table, with_record
from tests.words import WordsEmbedder

Opener = Callable[..., MemOS]


@pytest.fixture
def full(memory: MemOS) -> MemOS:
    """A store with versions, turns, keys, items with passages, shared and archived memories."""
    [tea] = memory.add("I take my tea with lemon", tags=["drink"], attributes={"n": 1.5, "nested": {"x": [None, "é"]}})
    memory.update(tea.id, "I take my tea with milk")
    memory.update(tea.id, attributes={"n": 2})
    memory.add([{"role": "user", "content": f"turn {i} about tea", "id": f"m{i}"} for i in range(4)], session="monday")
    memory.add("the key is under the pot", key="spare", namespace=("home", "ann"), ttl=timedelta(days=30))
    memory.items.put([Item(("shop",), "apples", {"count": 3}, ("red apples", "green apples"))])
    [shared] = memory.add("tea for two", access=Access("ann", frozenset({"bob"})))
    memory.archive(memory.add("an old tea")[0].id)
    memory.freeze(memory.add("a frozen tea")[0].id)
    assert shared.access.readers == {"bob"}
    return memory


def stored(memory: MemOS) -> dict[str, Any]:
    """Every row of the store that ann may read, with its vector."""
    rows = memory._vault.rows("version > 0", vectors=True)
    return {r.cube.id: (r.cube, None if r.vector is None else r.vector.tobytes()) for r in rows}


# --- there and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dump", "dump.zip", "memory://carry/dump", "memory://carry/dump.zip"])
def test_a_dump_comes_back_bit_equal_from_a_folder_an_archive_and_an_object_store(
    name: str, full: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    target = name if "://" in name else str(tmp_path / name)
    said = full.dump(target)
    other = open_store(path=tmp_path / "other")
    done = other.load(target)
    assert (done.added, done.versions, done.left_out) == (said.memories, said.versions, {})
    assert stored(other) == stored(full)
    assert contents(other) == contents(full)
    assert other.search("tea with milk")[0] == full.search("tea with milk")[0]
    assert other.items.get([(("shop",), "apples")]) == full.items.get([(("shop",), "apples")])
    assert other.items.search("green apples")[0] == full.items.search("green apples")[0]


def test_loading_twice_is_once_and_the_log_tells_of_every_version(
    full: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    full.dump(tmp_path / "dump")
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "dump")
    before, log = stored(other), other.log(limit=1000)
    again = other.load(tmp_path / "dump")
    assert (again.added, again.updated, again.kept) == (0, 0, len(before))
    assert stored(other) == before
    assert other.log(limit=1000) == log
    told = {(e.subject, e.version) for e in log if e.verb == "load"}
    assert told == {(id, v) for id, (cube, _) in before.items() for v in range(1, cube.version + 1)}


def test_a_newer_version_comes_with_what_led_to_it_and_an_older_one_changes_nothing(
    full: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    full.dump(tmp_path / "first")
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "first")
    [cube] = [h.cube for h in full.search("tea with milk", k=1)]
    full.update(cube.id, "I take my tea black")
    full.update(cube.id, "I take no tea")
    full.dump(tmp_path / "second")
    done = other.load(tmp_path / "second")
    assert (done.added, done.updated, done.versions) == (0, 1, 1)
    assert other.history(cube.id) == full.history(cube.id)
    assert other.load(tmp_path / "first").updated == 0
    assert other.get(cube.id) == full.get(cube.id)


def test_what_was_changed_here_and_there_stays_as_it_is_here(full: MemOS, open_store: Opener, tmp_path: Path) -> None:
    full.dump(tmp_path / "first")
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "first")
    [cube] = [h.cube for h in full.search("tea with milk", k=1)]
    mine = other.update(cube.id, "mine")
    full.update(cube.id, "theirs")
    full.update(cube.id, "theirs again")
    full.dump(tmp_path / "second")
    done = other.load(tmp_path / "second")
    assert (done.updated, done.diverged) == (0, 1)
    assert other.get(cube.id) == mine


def test_a_forged_later_version_without_history_does_not_replace_a_memory(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    """Everybody may be "ann" at home, and have something under the key "tea"."""
    memory.add("mine", key="tea")
    stranger = open_store(path=tmp_path / "stranger")
    for word in ("not mine", "not mine at all"):
        stranger.add(word, key="tea")
    stranger.dump(tmp_path / "dump", history=False)
    assert memory.load(tmp_path / "dump").diverged == 1
    assert [h.cube.text for h in memory.search("mine")] == ["mine"]


def test_a_frozen_memory_here_is_not_changed(memory: MemOS, open_store: Opener, tmp_path: Path) -> None:
    [cube] = memory.add("tea")
    memory.dump(tmp_path / "first")
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "first")
    other.freeze(cube.id)
    for n in range(4):
        memory.update(cube.id, f"tea {n}")
    memory.dump(tmp_path / "second")
    done = other.load(tmp_path / "second")
    assert (done.updated, done.left_out) == (0, {"frozen": 1})
    assert other.get(cube.id).text == "tea"


def test_an_update_by_a_load_outdates_what_was_made_of_it_here(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube] = memory.add("tea")
    memory.dump(tmp_path / "first")
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "first")
    made = _derived(other, cube.id, "a conclusion about tea")
    memory.update(cube.id, "coffee")
    memory.dump(tmp_path / "second")
    assert other.load(tmp_path / "second").updated == 1
    assert other.get(made).state is State.ARCHIVED


# --- any of it --------------------------------------------------------------------------------------------------------------


def test_a_namespace_ids_a_filter_or_kinds_are_dumped_alone(full: MemOS, tmp_path: Path) -> None:
    assert full.dump(tmp_path / "a", namespace=("home",)).memories == 1
    ids = [h.cube.id for h in full.search("tea", k=2)]
    assert full.dump(tmp_path / "b", ids=ids).memories == 2
    assert full.dump(tmp_path / "c", filter={"tags": "drink"}).memories == 1
    assert full.dump(tmp_path / "d", kinds=[Kind.ACTIVATION]).memories == 0
    with pytest.raises(NotFound):
        full.dump(tmp_path / "e", ids=["00000000-0000-4000-8000-000000000000"])
    assert not (tmp_path / "e").exists()


def test_without_history_a_memory_comes_alone_and_says_so(full: MemOS, open_store: Opener, tmp_path: Path) -> None:
    assert full.dump(tmp_path / "dump", history=False).versions == 0
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "dump")
    [cube] = [h.cube for h in other.search("tea with milk", k=1)]
    assert [c.version for c in other.history(cube.id)] == [3]
    [event] = other.log(subject=cube.id)
    assert event.detail == "without versions 1, 2"


def test_what_has_expired_neither_leaves_nor_comes_in(
    memory: MemOS, open_store: Opener, clock: Clock, tmp_path: Path
) -> None:
    memory.add("short tea", ttl=60)
    memory.add("long tea", ttl=3600)
    memory.add("tea")
    memory.dump(tmp_path / "dump")
    clock.forward(minutes=2)
    assert memory.dump(tmp_path / "later").memories == 2
    other = open_store(path=tmp_path / "other")
    done = other.load(tmp_path / "dump")
    assert (done.added, done.left_out) == (2, {"expired": 1})


def test_sources_that_did_not_come_along_are_cut(memory: MemOS, open_store: Opener, tmp_path: Path) -> None:
    [cube] = memory.add("tea")
    made = _derived(memory, cube.id, "a conclusion")
    memory.dump(tmp_path / "dump", ids=[made])
    other = open_store(path=tmp_path / "other")
    assert other.load(tmp_path / "dump").links_cut == 1
    assert other.get(made).lineage == ()
    memory.dump(tmp_path / "whole")
    third = open_store(path=tmp_path / "third")
    assert third.load(tmp_path / "whole").links_cut == 0
    assert [p.id for p in third.lineage(made).parents] == [cube.id]


# --- by whoever may ---------------------------------------------------------------------------------------------------------


def test_a_dump_holds_what_its_actor_may_read_and_versions_that_he_might(memory: MemOS, tmp_path: Path) -> None:
    [secret] = memory.add("a secret tea")
    [shared] = memory.add("first tea")
    memory.update(shared.id, "second tea")
    memory.share(shared.id, readers=["bob"])
    memory.update(shared.id, "third tea")
    memory.add("bob's tea", actor="bob")
    done = memory.dump(tmp_path / "dump", actor="bob")
    assert (done.memories, done.versions) == (2, 1)  # not the versions from before he might read it
    everything = b"".join(files_of(tmp_path / "dump").values())
    assert secret.id.encode() not in everything
    for word in (b"secret", b"first tea", b"second tea"):
        assert (word in everything) is (word == b"second tea")


def test_what_was_somebody_elses_becomes_the_actors_alone_under_another_id(
    full: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    full.dump(tmp_path / "dump")
    other = open_store(path=tmp_path / "other", actor="zoe")
    done = other.load(tmp_path / "dump")
    cubes = [c for c, _ in stored(other).values()]
    assert done.added == len(cubes) == len(stored(full))
    assert {c.access for c in cubes} == {Access("zoe")}
    assert not set(stored(other)) & set(stored(full))
    assert other.items.get([(("shop",), "apples")])[0].attributes == {"count": 3}  # found by its name, as zoe's own
    assert other.items.search("green apples")[0].score == pytest.approx(1.0)
    assert other.add({"role": "user", "content": "turn 0 about tea", "id": "m0"}, session="monday")[0].id in stored(
        other
    )
    assert len(stored(other)) == len(cubes)
    assert other.load(tmp_path / "dump").added == 0


def test_in_the_same_store_a_copy_for_another_owner_touches_nothing_of_the_first(full: MemOS, tmp_path: Path) -> None:
    full.dump(tmp_path / "dump")
    before = stored(full)
    done = full.load(tmp_path / "dump", actor="zoe", owner="zoe")
    assert done.added == len(before)
    after = stored(full)
    assert {id: after[id] for id in before} == before
    assert full.load(tmp_path / "dump", actor="zoe").added == 0


def test_as_they_are_is_for_owners_and_for_who_opened_the_store(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    memory.add("ann's tea", access=Access("ann", frozenset({"bob"})))
    memory.add("bob's tea", actor="bob", access=Access("bob", frozenset({PUBLIC})))
    memory.dump(tmp_path / "dump", actor="bob")
    other = open_store(path=tmp_path / "other", actor="host")
    with pytest.raises(AccessDenied):
        other.load(tmp_path / "dump", as_they_are=True, actor="bob")
    with pytest.raises(AccessDenied):
        other.load(tmp_path / "dump", owner="ann", actor="bob")
    assert stored(other) == {}
    assert other.load(tmp_path / "dump", as_they_are=True).added == 2
    assert stored(other) == stored(memory)
    with pytest.raises(InvalidArgument):
        other.load(tmp_path / "dump", as_they_are=True, owner="bob")


def test_an_id_that_is_somebody_elses_here_is_not_taken_and_not_told(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube] = memory.add("ann's tea")
    stranger = open_store(path=tmp_path / "stranger", actor="bob")
    [other] = stranger.add("bob's tea")
    stranger.dump(tmp_path / "dump")
    forged = with_record(files_of(tmp_path / "dump"), lambda r: r.update(id=cube.id))
    done = memory.load(put(forged, tmp_path / "forged"), actor="bob")
    assert (done.added, done.diverged, done.left_out) == (1, 0, {})
    assert memory.get(cube.id) == cube
    [his] = [h.cube for h in memory.search("tea", actor="bob")]
    assert his.id not in (cube.id, other.id)


# --- redaction, vectors -----------------------------------------------------------------------------------------------------


def test_redaction_reaches_texts_attributes_and_versions_and_leaves_no_vector_of_the_words(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube] = memory.add("call 555-1234 for tea", attributes={"phone": ["555-1234"], "n": 1})
    memory.update(cube.id, "call 555-1234 for more tea")
    memory.add("no numbers in this tea")
    done = memory.dump(tmp_path / "dump", redact=lambda text: text.replace("555-1234", "[phone]"))
    files = files_of(tmp_path / "dump")
    assert not [name for name, data in files.items() if b"555-1234" in data]
    assert manifest(files)["redacted"] is True
    assert done.vectors == 1
    rows = table(next(d for n, d in files.items() if n.startswith("memories")))
    assert [v is None for v in rows["vector"].to_pylist()] == ["[phone]" in t for t in rows["text"].to_pylist()]
    other = open_store(path=tmp_path / "other")
    assert other.load(tmp_path / "dump").embedded == 1
    assert other.get(cube.id).attributes == {"phone": ["[phone]"], "n": 1}
    assert other.get(cube.id).origin.digest is None
    assert [c.text for c in other.history(cube.id)] == ["call [phone] for tea", "call [phone] for more tea"]


def test_under_another_embedder_text_moves_and_vectors_are_made_anew(
    full: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    full.dump(tmp_path / "dump")
    embed = WordsEmbedder(32, salt="other")
    other = open_store(path=tmp_path / "other", embed=embed)
    done = other.load(tmp_path / "dump")
    assert (done.vectors, done.embedded) == (0, sum(v is not None for _, v in stored(full).values()))
    assert {id: c for id, (c, _) in stored(other).items()} == {id: c for id, (c, _) in stored(full).items()}
    for row in other._vault.rows("text IS NOT NULL", vectors=True):
        assert row.vector is not None
        said = row.cube.text if row.cube.origin.speaker is None else f"{row.cube.origin.speaker}: {row.cube.text}"
        assert np.array_equal(row.vector, embed([said])[0])
    assert other.search("tea with milk")[0].cube.text == "I take my tea with milk"


# --- targets ----------------------------------------------------------------------------------------------------------------


def test_dumping_again_writes_only_what_changed(full: MemOS, tmp_path: Path) -> None:
    full.dump(tmp_path / "dump")
    before = {n: (tmp_path / "dump" / n).stat().st_mtime_ns for n in files_of(tmp_path / "dump")}
    assert full.dump(tmp_path / "dump").reused == 2
    full.add("more tea")
    assert full.dump(tmp_path / "dump").reused == 0  # a small store is one bucket
    after = files_of(tmp_path / "dump")
    assert set(after) == {"memos.json", *(f["path"] for f in manifest(after)["files"])}
    assert set(before) - set(after)  # the file of the dump before is gone


def test_a_folder_that_holds_something_else_is_left_alone(full: MemOS, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(InvalidArgument, match=r"letter\.txt"):
        full.dump(tmp_path / "mine")
    assert files_of(tmp_path / "mine") == {"letter.txt": b"keep me"}
    with pytest.raises(InvalidArgument):
        full.dump("nosuch://place/dump")


def test_what_is_no_dump_is_refused_by_name(memory: MemOS, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, reason in (("empty", r"memos\.json"), ("absent", r"memos\.json"), ("absent.zip", "no ZIP archive")):
        with pytest.raises(DumpRefused, match=reason):
            memory.load(tmp_path / name)


def test_files_can_be_read_by_anybody_who_reads_arrow(full: MemOS, tmp_path: Path) -> None:
    full.dump(tmp_path / "dump")
    [path] = (tmp_path / "dump" / "memories").iterdir()
    rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert rows.column_names == ["id", "version", "text", "record", "vector"]
    assert rows.num_rows == len(stored(full))


def test_others_write_while_a_dump_is_made_and_it_is_of_one_moment(
    full: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    before = stored(full)

    def write(done: int, total: int) -> None:
        full.add(f"written meanwhile {done}")
        full.update(full.search("tea with milk")[0].cube.id, f"changed meanwhile {done}")

    full.dump(tmp_path / "dump", progress=write)
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "dump")
    assert stored(other) == before


def test_progress_goes_from_nothing_to_all(full: MemOS, open_store: Opener, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    full.dump(tmp_path / "dump", progress=lambda *at: heard.append(at))
    assert heard[-1][0] == heard[-1][1] == len(stored(full))
    heard.clear()
    open_store(path=tmp_path / "other").load(tmp_path / "dump", progress=lambda *at: heard.append(at))
    assert heard[-1][0] == heard[-1][1] > heard[0][0] > 0
    assert heard == sorted(heard)


def test_a_load_leaves_no_staging_behind(full: MemOS, open_store: Opener, tmp_path: Path) -> None:
    full.dump(tmp_path / "dump.zip")
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "dump.zip")
    left = [p for name in ("loading", "dumping") for p in (tmp_path / "other" / name).glob("*") if p.is_dir()]
    assert left == []
    assert not list((tmp_path / "store" / "dumping").glob("*"))


def _derived(memory: MemOS, source: str, text: str) -> str:
    """A memory made from another one, as a reader's statements are."""
    cube = memory.get(source)
    draft = Draft(text, parents=(Link(cube.id, cube.version),))
    return memory._writer.add_statement("ann", replace(cube, key=None), draft).id
