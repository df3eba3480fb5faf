"""What holds of a store wherever it is: one body of tests, in a folder and in a bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memos_core import (
    AuditKeyRequired,
    Damaged,
    EmbedderMismatch,
    Item,
    Kind,
    KVCache,
    MemOS,
    NotFound,
    Policy,
    State,
    verify_store,
)
from memos_core.blobs import Blobs, digest
from memos_core.reembed import reembed
from memos_core.sites import Site, site
from tests.conftest import Clock
from tests.networks import random_model
from tests.test_adapters import FAST
from tests.words import WordsEmbedder

QUESTION = "Which colour does house 3 have?"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """MemOS's arguments that say where."""
    if request.param == "folder":
        return {"path": str(tmp_path / "store")}
    server = request.getfixturevalue("server")
    return {"path": server.url(tmp_path), "storage_options": server.options}


@pytest.fixture
def there(place: dict[str, Any]) -> Site:
    found = site(place["path"], storage_options=place.get("storage_options"))
    found.claim()
    return found


@pytest.fixture
def open_here(place: dict[str, Any], open_store: Callable[..., MemOS]) -> Callable[..., MemOS]:
    return lambda **options: open_store(**place, **options)


@pytest.fixture
def memory(open_here: Callable[..., MemOS]) -> MemOS:
    return open_here()


def told(memory: MemOS, count: int = 4) -> list[str]:
    return [c.id for c in memory.add([f"The colour of house {i} is number {i * 7}." for i in range(count)])]


# --- memories ------------------------------------------------------------------------------------------------------------


def test_what_was_added_is_found_by_this_process_and_by_the_next(
    memory: MemOS, open_here: Callable[..., MemOS]
) -> None:
    memory.add(
        [{"role": "user", "content": "I take my tea with lemon."}, {"role": "assistant", "content": "Noted."}],
        session="s",
    )
    assert memory.search("tea")[0].cube.text == "I take my tea with lemon."
    memory.close()
    again = open_here()
    assert [h.cube.text for h in again.search("tea with lemon", k=1)] == ["I take my tea with lemon."]
    assert "I take my tea with lemon." in again.brief("tea").text
    assert again.stats().memories == 2
    assert again.stats().sessions == 1


def test_a_memory_is_changed_explained_and_brought_back(memory: MemOS) -> None:
    [cube] = memory.add("green tea", key="drink")
    memory.update(cube.id, "black tea")
    memory.add("coffee", key="drink")
    assert [c.text for c in memory.history(cube.id)] == ["green tea", "black tea", "coffee"]
    assert memory.restore(cube.id, 1).text == "green tea"
    memory.share(cube.id, ["bob"])
    assert memory.get(cube.id, actor="bob").version == 5
    memory.freeze(cube.id)
    memory.unfreeze(cube.id)
    memory.archive(cube.id)
    assert memory.search("tea") == []
    verbs = [e.verb for e in memory.log(subject=cube.id)][::-1]
    assert verbs == ["add", "update", "update", "restore", "share", "freeze", "unfreeze", "archive"]


def test_what_was_deleted_is_gone_with_its_history_and_the_log_says_so(memory: MemOS) -> None:
    [cube] = memory.add("green tea")
    memory.update(cube.id, "black tea")
    assert memory.delete(cube.id).ids == (cube.id,)
    with pytest.raises(NotFound):
        memory.history(cube.id)
    assert memory.search("tea") == []
    assert memory.log(subject=cube.id)[0].verb == "delete"


def test_items_are_put_found_and_deleted(memory: MemOS) -> None:
    memory.items.put([Item(("users",), "ann", {"likes": "tea"}, ("Ann likes tea",))])
    [found] = memory.items.get([(("users",), "ann")])
    assert found is not None
    assert found.attributes == {"likes": "tea"}
    assert [h.cube.key for h in memory.search("who likes tea", k=1)] == ["ann"]
    memory.items.delete([(("users",), "ann")])
    assert memory.items.get([(("users",), "ann")]) == [None]


def test_what_has_lapsed_goes_with_the_next_tick(memory: MemOS, clock: Clock) -> None:
    memory.add("for an hour", ttl=3600)
    memory.add("for ever")
    clock.forward(hours=2)
    assert memory.tick().expired == 1
    assert [h.cube.text for h in memory.search("for", k=9)] == ["for ever"]


def test_what_was_recalled_is_counted_across_processes(memory: MemOS, open_here: Callable[..., MemOS]) -> None:
    [cube] = memory.add("green tea")
    memory.search("tea")
    memory.close()
    again = open_here()
    again.search("tea")
    assert again.tick().used == 1
    assert again.get(cube.id).usage.reads == 2


def test_anothers_write_is_seen_at_once(memory: MemOS, open_here: Callable[..., MemOS]) -> None:
    other = open_here()
    [first] = memory.add("green tea")
    assert [h.cube.text for h in other.search("tea")] == ["green tea"]
    other.update(first.id, "black tea")
    assert [h.cube.text for h in memory.search("tea")] == ["black tea"]
    memory.delete(first.id)
    assert other.search("tea") == []


def test_a_transaction_counts_whole_or_not_at_all(memory: MemOS, open_here: Callable[..., MemOS]) -> None:
    other = open_here()

    def broken() -> None:
        with memory.transaction():
            memory.add("green tea")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert memory.search("tea") == other.search("tea") == []
    with memory.transaction():
        memory.add("green tea")
        memory.add("black tea")
        assert other.search("tea") == []
    assert len(other.search("tea")) == 2


def test_compaction_changes_nothing(memory: MemOS, open_here: Callable[..., MemOS]) -> None:
    other = open_here(policy=Policy(compact_every=2))
    for i in range(4):
        other.add(f"note {i}")
    assert memory.tick().compacted
    assert {h.cube.text for h in other.search("note", k=9)} == {f"note {i}" for i in range(4)}
    memory.add("note 4")
    assert len(other.search("note", k=9)) == 5


def test_reembedding_changes_vectors_and_nothing_else(
    memory: MemOS, place: dict[str, Any], open_here: Callable[..., MemOS]
) -> None:
    memory.add([f"note number {n}" for n in range(5)])
    memory.close()
    new = WordsEmbedder(salt="new")
    assert reembed(place["path"], new, storage_options=place.get("storage_options")) == 5
    assert reembed(place["path"], new, storage_options=place.get("storage_options")) == 0
    with pytest.raises(EmbedderMismatch):
        open_here()
    assert open_here(embed=new).search("number 3")[0].cube.text == "note number 3"


# --- other forms ---------------------------------------------------------------------------------------------------------


def test_keys_and_values_are_opened_by_another_process_and_go_with_their_sources(
    open_here: Callable[..., MemOS], there: Site
) -> None:
    memory = open_here(model=random_model())
    ids = told(memory)
    before = memory.generate(QUESTION, max_tokens=6)
    [cube] = memory.convert(ids, Kind.ACTIVATION)
    assert isinstance(cube.payload, KVCache)
    assert set(there.files.listed("blobs")) == {cube.payload.blob}
    again = open_here(model=random_model())
    after = again.generate(QUESTION, max_tokens=6)
    assert after.usage.cached == cube.payload.tokens
    assert before.usage.cached == 0
    memory.delete(ids[0])
    assert there.files.listed("blobs") == {}
    assert again.generate(QUESTION, max_tokens=2).usage.cached < cube.payload.tokens


def test_a_blob_that_nothing_needs_goes_with_the_next_tick_and_one_that_is_gone_is_made_again(
    open_here: Callable[..., MemOS], there: Site
) -> None:
    memory = open_here(model=random_model())
    [cube] = memory.convert(told(memory), Kind.ACTIVATION)
    assert isinstance(cube.payload, KVCache)
    there.files.write("blobs/" + digest(b"left by a killed process"), [b"left by a killed process"])
    memory.tick()
    assert set(there.files.listed("blobs")) == {cube.payload.blob}
    there.files.remove([f"blobs/{cube.payload.blob}"])
    memory.convert([link.id for link in cube.lineage], Kind.ACTIVATION)
    assert set(there.files.listed("blobs")) == {cube.payload.blob}


def test_an_adapter_is_learned_used_and_learned_again_without_a_deleted_memory(
    open_here: Callable[..., MemOS], there: Site
) -> None:
    memory = open_here(model=random_model(), distillation=FAST)
    ids = told(memory, 3)
    [cube] = memory.convert(ids, Kind.PARAMETRIC)
    assert cube.state is State.ACTIVATED
    assert {c.id for c in memory.generate(QUESTION, max_tokens=2).brief.known} == set(ids)
    memory.delete(ids[0])
    assert there.files.listed("blobs") == {}
    assert list(there.files.listed("rebuilds")) == [f"{cube.id}.json"]
    memory.tick()
    assert there.files.listed("rebuilds") == {}
    assert {c.id for c in memory.generate(QUESTION, max_tokens=2).brief.known} == set(ids[1:])


def test_a_distillation_that_was_killed_goes_on_where_it_was_on_another_machine(
    open_here: Callable[..., MemOS], there: Site
) -> None:
    steps: list[int] = []

    def killed(step: Any) -> None:
        steps.append(step.step)
        if step.step == 2:
            raise KeyboardInterrupt

    how = replace(FAST, recipe=replace(FAST.recipe, steps=3))
    memory = open_here(model=random_model())
    ids = told(memory, 2)
    with pytest.raises(KeyboardInterrupt):
        memory.convert(ids, Kind.PARAMETRIC, distillation=replace(how, progress=killed))
    assert any(n.endswith(".safetensors") for n in there.files.listed("distilling"))
    again = open_here(model=random_model())
    again.convert(ids, Kind.PARAMETRIC, distillation=replace(how, progress=lambda step: steps.append(step.step)))
    assert steps == [1, 2, 3]
    assert there.files.listed("distilling") == {}


def test_deleting_a_memory_takes_what_is_being_learned_of_it(open_here: Callable[..., MemOS], there: Site) -> None:
    def killed(step: Any) -> None:
        raise KeyboardInterrupt

    memory = open_here(model=random_model())
    ids = told(memory, 2)
    with pytest.raises(KeyboardInterrupt):
        memory.convert(ids, Kind.PARAMETRIC, distillation=replace(FAST, progress=killed))
    memory.delete(ids[1])
    assert there.files.listed("distilling") == {}


# --- files ---------------------------------------------------------------------------------------------------------------


def test_files_are_written_whole_read_in_part_listed_and_removed(there: Site) -> None:
    files = there.files
    assert not files.has("some/one")
    assert files.listed("some") == {}
    files.write("some/one", [b"first, ", memoryview(b"second")])
    files.write("some/two", [b"2"])
    assert files.has("some/one")
    assert files.read("some/one") == b"first, second"
    assert files.read("some/one", 7, 3) == b"sec"
    assert files.read("some/one", 7, 99) == b"second"
    assert files.read("some/one", 99, 1) == b""
    assert files.read("some/one", 0, 0) == b""
    assert {n: f.bytes for n, f in files.listed("some").items()} == {"one": 13, "two": 1}
    files.write("some/two", [b"another"])
    assert files.read("some/two") == b"another"
    assert files.sweep("some", ["two"]) == 1
    assert list(files.listed("some")) == ["two"]
    files.remove(["some/two", "some/none"])
    assert files.listed("some") == {}
    with pytest.raises(FileNotFoundError):
        files.read("some/two")


def test_a_blob_that_is_gone_or_shorter_is_damage_that_names_it(there: Site) -> None:
    blobs = Blobs(there.files)
    name = digest(b"content")
    with pytest.raises(Damaged, match=name):
        blobs.read(name, 0, 1)
    blobs.write([b"content"], name)
    assert blobs.read(name, 3, 4) == b"tent"
    with pytest.raises(Damaged, match="ends after 7 bytes"):
        blobs.read(name, 0, 8)


def test_an_empty_place_holds_no_store_and_one_with_other_things_is_left_alone(
    there: Site, open_here: Callable[..., MemOS]
) -> None:
    from memos_core import NotAStore

    assert not there.holds_store()
    there.files.write("photos/1", [b"jpeg"])
    with pytest.raises(NotAStore, match="photos"):
        open_here()
    there.files.remove(["photos/1"])
    if (folder := there.files.local("photos/1")) is not None:
        folder.parent.rmdir()
    open_here().add("tea")
    assert there.holds_store()


# --- trust -------------------------------------------------------------------------------------------------------------------


def test_memories_are_carried_out_and_in_and_archives_and_places_do_not_matter(
    memory: MemOS,
    place: dict[str, Any],
    open_store: Callable[..., MemOS],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets = [str(tmp_path / "dump.zip")]
    if "storage_options" in place:  # what lies in a bucket is reached by the usual variables
        for name, value in (
            ("AWS_ACCESS_KEY_ID", place["storage_options"]["access_key_id"]),
            ("AWS_SECRET_ACCESS_KEY", place["storage_options"]["secret_access_key"]),
            ("AWS_ENDPOINT_URL", place["storage_options"]["endpoint"]),
        ):
            monkeypatch.setenv(name, value)
        targets.append(place["path"] + "-dump")
    first, second = memory.add(["tea with lemon", "tea with milk"])
    memory.update(first.id, "tea with honey")
    memory.archive(second.id)
    there = open_store(**{**place, "path": place["path"] + "2"})
    for number, target in enumerate(targets):
        assert memory.dump(target).memories == 2
        assert there.load(target).added == (2 if number == 0 else 0)
    assert [h.cube.text for h in there.search("tea")] == ["tea with honey"]
    assert [c.text for c in there.history(first.id)] == ["tea with lemon", "tea with honey"]
    assert there.archived()[0].text == "tea with milk"
    assert there.verify().sound


def test_the_log_is_verified_and_what_was_taken_from_it_is_named(
    memory: MemOS, open_here: Callable[..., MemOS]
) -> None:
    memory.add("tea")
    kept = memory.verify().head
    other = open_here()
    other.add("cake")
    memory.add("bread")
    for store in (memory, other):
        assert store.verify(kept).sound
        assert store.verify().events == 3
    memory._vault.db.table("events").delete("number = 2")
    assert other.verify().faults == ("event 2 is missing",)
    memory._vault.db.table("events").delete("number = 3")
    assert other.verify().faults == ("events 2 to 3 are missing",)
    memory._vault.db.site.files.remove(["audit/head"])
    assert "head" in other.verify().faults[-1]


def test_a_signed_log_is_written_with_its_key_alone_and_verified_without_opening_the_store(
    place: dict[str, Any], open_here: Callable[..., MemOS]
) -> None:
    key, other = b"k" * 32, open_here()
    other.add("before there was a key")
    memory = open_here(audit_key=key)
    memory.add("tea")
    with pytest.raises(AuditKeyRequired):
        other.add("cake")
    assert other.stats().memories == 2
    assert memory.verify().outcome == "authentic"
    found = verify_store(**place, audit_key=key)
    assert (found.outcome, found.events, found.authentic) == ("authentic", 3, 2)
    memory._vault.db.site.files.remove(["audit/head"])
    memory._vault.db._db.drop_table("events")
    assert [f for f in verify_store(**place, audit_key=key).faults if f"{place['path']}/events.lance is missing" in f]
