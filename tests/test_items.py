"""Items: values under keys, found by name, listed in a stable order, searched by what they are found by."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import IllegalTransition, InvalidArgument, Item, MemOS, NotFound, Policy, State, StoreClosed
from memos_core.codec import decode
from memos_core.reembed import reembed
from tests.conftest import START, Clock
from tests.test_crash import stopped
from tests.test_hostile import HOSTILE
from tests.words import WordsEmbedder

HERE = ("app", "ann")


def item(key: str, *texts: str, where: tuple[str, ...] = HERE, ttl: timedelta | None = None, **value: Any) -> Item:
    return Item(where, key, value, texts, ttl)


def keys(cubes: Any) -> list[str | None]:
    return [c.key for c in cubes]


def found(memory: MemOS, query: str, **options: Any) -> list[tuple[str | None, float]]:
    return [(h.cube.key, round(h.score, 3)) for h in memory.items.search(query, **options)]


def texts(memory: MemOS, query: str, **options: Any) -> set[str]:
    return {h.cube.text for h in memory.search(query, **options)}


# --- put, get, delete --------------------------------------------------------------------------------------------------


def test_what_was_put_is_there_under_its_name_and_nowhere_else(memory: MemOS, clock: Clock) -> None:
    value = {"a": [1, 2.5, None, {"b": True}], "empty": {}, "": "no name"}
    [put] = memory.items.put([Item(HERE, "k", value, ("green tea",))])
    assert memory.items.get([(HERE, "k")]) == [put]
    assert (put.attributes, put.key, put.namespace, put.text) == (value, "k", HERE, "green tea")
    assert (put.created_at, put.updated_at, put.access.owner) == (START, START, "ann")
    elsewhere = [(HERE, "K"), (HERE[:1], "k"), ((*HERE, "x"), "k"), (("app/ann",), "k")]
    assert memory.items.get(elsewhere) == [None] * 4
    assert memory.items.get([(HERE, "k"), (HERE, "none"), (HERE, "k")]) == [put, None, put]
    assert memory.items.get([]) == []
    assert memory.items.get([(HERE, "k")], actor="bob") == [None]
    assert memory.get(put.id) == put  # and it is a memory like any other


def test_a_put_again_is_the_next_version_and_keeps_when_it_was_made(memory: MemOS, clock: Clock) -> None:
    [first] = memory.items.put([item("k", "tea", n=1)])
    later = clock.forward(hours=1)
    [second] = memory.items.put([item("k", "tea", n=2)])
    assert (second.id, second.version, second.created_at, second.updated_at) == (first.id, 2, START, later)
    assert memory.items.get([(HERE, "k")]) == [second]
    assert [c.attributes for c in memory.history(first.id)] == [{"n": 1}, {"n": 2}]
    clock.forward(hours=1)
    [third] = memory.items.put([item("k", "tea", n=2)])
    assert (third.version, third.updated_at) == (3, clock.now)  # saying it again is an update too
    assert [(e.verb, e.version) for e in memory.log(subject=first.id)] == [("update", 3), ("update", 2), ("add", 1)]


def test_the_callers_value_is_not_shared_with_the_store(memory: MemOS) -> None:
    value: dict[str, Any] = {"a": {"b": [1]}}
    [put] = memory.items.put([Item(HERE, "k", value, ("tea",))])
    value["a"]["b"].append(2)
    for cube in (put, *memory.items.get([(HERE, "k")]), memory.items.search("tea")[0].cube, *memory.items.list()):
        assert cube is not None
        assert cube.attributes == {"a": {"b": [1]}}
        cube.attributes["a"]["b"].append(3)


def test_a_batch_is_one_commit_and_one_call_of_the_embedder(memory: MemOS, embed: WordsEmbedder) -> None:
    memory.items.put([item("0", "warm up")])
    before, calls = memory._vault.revision()[1], embed.calls
    memory.items.put([item(str(n), f"text {n}", f"other text {n}") for n in range(40)])
    assert memory._vault.revision()[1] == before + 1  # 39 new ones, a changed one and all passages
    assert embed.calls == calls + 1
    assert len(memory.items.list()) == 40


def test_what_did_not_change_is_not_embedded_again(memory: MemOS, embed: WordsEmbedder) -> None:
    memory.items.put([item("a", "one", "two"), item("b", "three")])
    before = embed.texts
    memory.items.put([item("a", "one", "two", n=1), item("b", "four")])
    assert embed.texts == before + 1


def test_of_one_name_the_last_wins(memory: MemOS) -> None:
    first, other, last = memory.items.put([item("k", "a", n=1), item("o", n=2), item("k", "b", n=3)])
    assert first == last
    assert (last.version, last.attributes, last.text) == (1, {"n": 3}, "b")
    assert memory.items.get([(HERE, "k"), (HERE, "o")]) == [last, other]


def test_a_deleted_item_is_gone_with_all_its_versions_and_begins_anew(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.items.put([item("k", "tea", "coffee", n=1)])
    memory.items.put([item("k", "tea", "coffee", n=2), item("o")])
    assert memory.items.delete([(HERE, "k"), (HERE, "unknown"), (("no", "where"), "k"), (HERE, "k")]) == 1
    assert memory.items.get([(HERE, "k")]) == [None]
    assert memory.stats().memories == 1
    assert not memory.search("coffee")
    with pytest.raises(NotFound):
        memory.get(cube.id)
    assert memory.items.delete([(HERE, "k")]) == 0
    clock.forward(days=1)
    [again] = memory.items.put([item("k", "milk")])
    assert (again.version, again.created_at, again.attributes) == (1, clock.now, {})
    assert memory.history(again.id) == [again]


def test_the_items_of_each_actor_are_his_own(memory: MemOS) -> None:
    [mine] = memory.items.put([item("k", "tea", n=1)])
    [his] = memory.items.put([item("k", "tea", n=2)], actor="bob")
    memory.share(his.id, readers=["ann"], actor="bob")
    assert memory.items.get([(HERE, "k")]) == [mine]
    assert [c.id for c in memory.items.list()] == [mine.id]
    assert [h.cube.id for h in memory.items.search("tea")] == [mine.id]
    assert memory.items.delete([(HERE, "k")], actor="carl") == 0
    assert memory.items.namespaces(actor="carl") == []
    assert memory.items.delete([(HERE, "k")]) == 1
    assert [c.attributes for c in memory.items.list(actor="bob")] == [{"n": 2}]
    assert {h.cube.id for h in memory.search("tea")} == {his.id}  # what is shared is found by the verbs


def test_a_right_that_its_owner_gave_outlasts_a_new_value(memory: MemOS) -> None:
    [cube] = memory.items.put([item("k", "tea", "coffee")])
    memory.share(cube.id, readers=["bob"])
    assert texts(memory, "coffee tea", actor="bob") == {"tea", "coffee"}  # passages follow the item's access
    memory.items.put([item("k", "milk", "cocoa")])
    assert texts(memory, "milk cocoa", actor="bob") == {"milk", "cocoa"}
    memory.share(cube.id)
    assert texts(memory, "milk cocoa", actor="bob") == set()


def test_a_frozen_item_refuses_the_whole_batch(memory: MemOS) -> None:
    [cube] = memory.items.put([item("k", "tea", n=1)])
    memory.freeze(cube.id)
    with pytest.raises(IllegalTransition):
        memory.items.put([item("new"), item("k", "tea", n=2)])
    with pytest.raises(IllegalTransition):
        memory.items.delete([(HERE, "k")])
    assert keys(memory.items.list()) == ["k"]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_name_and_value_comes_back_as_it_was(shelf: MemOS, text: str) -> None:
    value = {text: text, "list": [text, {text: None}]}
    shelf.items.put([Item((text, text), text, value, (text,))])
    [cube] = shelf.items.get([((text, text), text)])
    assert cube is not None
    assert (cube.namespace, cube.key, cube.attributes) == ((text, text), text, value)
    assert keys(shelf.items.list((text,))) == [text]
    assert (text, text) in shelf.items.namespaces()
    assert shelf.items.namespaces((text, text)) == [(text, text)]
    assert shelf.items.list((text, text), filter={"list": {"$eq": [text, {text: None}]}}) == [cube]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    with MemOS(tmp_path_factory.mktemp("items"), embed=WordsEmbedder(8), actor="ann", clock=Clock()) as memory:
        yield memory


REFUSED: list[tuple[Callable[[MemOS], object], str]] = [
    (lambda m: m.items.put([("a", "k", {})]), "Item"),  # type: ignore[list-item]
    (lambda m: m.items.put([Item((), "k", {})]), "namespace"), (lambda m: m.items.put([Item("app", "k", {})]), "namespace"),  # type: ignore[arg-type]
    (lambda m: m.items.put([Item(("",), "k", {})]), "namespace"), (lambda m: m.items.put([Item(("a",), 5, {})]), "key"),  # type: ignore[arg-type]
    (lambda m: m.items.put([Item(("a",), "\ud800", {})]), "key"), (lambda m: m.items.put([Item(("a",), "k", [1])]), "value"),  # type: ignore[arg-type]
    (lambda m: m.items.put([Item(("a",), "k", {"x": object()})]), "value"), (lambda m: m.items.put([Item(("a",), "k", {1: 2})]), "value"),  # type: ignore[dict-item]
    (lambda m: m.items.put([Item(("a",), "k", {"x": float("nan")})]), "nan"), (lambda m: m.items.put([Item(("a",), "k", {"x": 2**63})]), "value"),
    (lambda m: m.items.put([Item(("a",), "k", {}, "text")]), "texts"), (lambda m: m.items.put([Item(("a",), "k", {}, (5,))]), "texts"),  # type: ignore[arg-type]
    (lambda m: m.items.put([Item(("a",), "k", {}, ("\ud800",))]), "texts"), (lambda m: m.items.put([item("k", ttl=timedelta(0))]), "ttl"),
    (lambda m: m.items.put([Item(("a",), "k", {}, (), 1e300)]), "ttl"), (lambda m: m.items.put([], actor="*"), "actor"),  # type: ignore[arg-type]
    (lambda m: m.items.get(["name"]), "names"), (lambda m: m.items.get([(("a",), 5)]), "key"),  # type: ignore[list-item]
    (lambda m: m.items.delete([((), "k")]), "namespace"), (lambda m: m.items.touch([(HERE, "k")], timedelta(-1)), "ttl"),
    (lambda m: m.items.list("app"), "namespace"), (lambda m: m.items.list(limit=0), "limit"), (lambda m: m.items.list(offset=-1), "offset"),
    (lambda m: m.items.list(offset=True), "offset"), (lambda m: m.items.search("  "), "query"), (lambda m: m.items.search(5), "query"),  # type: ignore[arg-type]
    (lambda m: m.items.search("x", limit=-3), "limit"), (lambda m: m.items.search("x", filter={"a": {"$foo": 1}}), r"\$foo"),
    (lambda m: m.items.list(filter=[1]), "filter"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("call", "named"), REFUSED)
def test_what_makes_no_sense_is_refused_by_name_and_nothing_is_written(
    memory: MemOS, call: Callable[[MemOS], object], named: str
) -> None:
    with pytest.raises(InvalidArgument, match=named):
        call(memory)
    assert memory.stats().memories == 0


def test_a_closed_store_says_so(memory: MemOS, embed: WordsEmbedder) -> None:
    items = memory.items
    memory.close()
    calls: list[Callable[[], object]] = [
        lambda: items.put([item("k", "tea")]), lambda: items.get([(HERE, "k")]), lambda: items.delete([(HERE, "k")]),
        items.list, lambda: items.search("tea"), items.namespaces, lambda: items.touch([(HERE, "k")]), items.sweep,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreClosed):
            call()


# --- both ways meet ----------------------------------------------------------------------------------------------------


def test_a_memory_added_under_a_key_is_an_item_and_an_item_is_a_memory(memory: MemOS) -> None:
    [added] = memory.add("green tea", namespace=HERE, key="k", attributes={"n": 1})
    assert memory.items.get([(HERE, "k")]) == [added]
    assert keys(memory.items.list(HERE)) == ["k"]
    assert found(memory, "green tea") == [("k", 1.0)]
    [put] = memory.items.put([item("k", "black tea", "cake", n=2)])
    assert (put.id, put.version) == (added.id, 2)
    assert texts(memory, "black tea cake") == {"black tea", "cake"}
    assert "black tea" in memory.brief("tea").text
    [again] = memory.add("white tea", namespace=HERE, key="k")
    assert (again.id, again.version) == (added.id, 3)
    assert texts(memory, "black tea cake") == {"white tea"}  # the passage fell with the words it went with
    memory.add("no key", namespace=HERE)
    assert keys(memory.items.list()) == ["k"]
    assert memory.items.delete([(HERE, "k")]) == 1
    assert texts(memory, "tea") == {"no key"}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda m, id: m.update(id, "milk"), {"milk"}),
        (lambda m, id: m.update(id, attributes={"n": 2}), {"tea"}),
        (lambda m, id: m.archive(id), set()),
        (lambda m, id: m.delete(id), set()),
        (lambda m, id: m.freeze(id), {"tea", "coffee"}),
    ],
)
def test_passages_follow_their_item_whichever_verb_changes_it(
    memory: MemOS, change: Callable[[MemOS, str], object], left: set[str]
) -> None:
    [cube] = memory.items.put([item("k", "tea", "coffee", n=1)])
    change(memory, cube.id)
    assert texts(memory, "tea coffee milk") == left
    assert len(memory.items.search("coffee")) == (1 if left else 0)


def test_an_archived_item_is_kept_and_a_put_brings_it_back(memory: MemOS) -> None:
    [cube] = memory.items.put([item("k", "tea", "coffee")])
    archived = memory.archive(cube.id)
    assert memory.items.get([(HERE, "k")]) == [archived]
    assert keys(memory.items.list()) == ["k"]
    assert found(memory, "coffee") == []
    [back] = memory.items.put([item("k", "tea", "coffee")])
    assert back.state is State.GENERATED
    assert found(memory, "coffee") == [("k", 1.0)]
    assert texts(memory, "coffee tea") == {"tea", "coffee"}


# --- what an item is found by ------------------------------------------------------------------------------------------


def test_the_score_is_the_cosine_of_the_best_text_and_each_item_comes_once(memory: MemOS, embed: WordsEmbedder) -> None:
    memory.items.put([
        item("both", "green tea", "strong coffee at night"), item("tea", "green tea in the morning"), item("none", "a blue bicycle"),
        item("again", "green tea", "green tea"),
    ])  # fmt: skip

    def cosine(*words: str) -> float:
        one, other = embed(words)
        return round(float(one @ other), 3)

    hits = found(memory, "strong coffee")
    assert hits[0] == ("both", cosine("strong coffee", "strong coffee at night"))
    assert sorted(str(key) for key, _ in hits) == ["again", "both", "none", "tea"]
    assert found(memory, "green tea")[:3] == [
        ("again", 1.0), ("both", 1.0), ("tea", cosine("green tea", "green tea in the morning")),
    ]  # fmt: skip
    for start in range(5):
        assert found(memory, "green tea", limit=2, offset=start) == found(memory, "green tea")[start : start + 2]


def test_a_page_is_full_and_in_order_whatever_stands_before_it(memory: MemOS, clock: Clock) -> None:
    """Many texts of one item, and many equal ones, crowd out the others where only a few are asked for."""
    memory.items.put([item("crowd", *(f"tea {'cup ' * n}" for n in range(1, 60)))])
    memory.items.put([item(f"{n:03}", "tea leaf") for n in range(80)])
    memory.items.put([item(f"x{n:03}", "tea and a biscuit") for n in range(80)])
    everything = [key for key, _ in found(memory, "tea", limit=1_000)]
    assert len(everything) == len(set(everything)) == 161
    pages = [found(memory, "tea", limit=7, offset=start) for start in range(0, 161, 7)]
    assert [key for page in pages for key, _ in page] == everything


def test_an_item_without_texts_is_kept_and_listed_and_never_embedded(memory: MemOS, embed: WordsEmbedder) -> None:
    before = embed.texts
    [cube] = memory.items.put([item("k", n=1)])
    memory.items.put([item("blank", "", " \n")])
    assert embed.texts == before
    assert cube.state is State.ARCHIVED
    assert cube.text == ""
    assert keys(memory.items.list(filter={"n": 1})) == ["k"]
    assert memory.items.namespaces() == [HERE]
    assert found(memory, "tea") == []
    assert not memory.search("tea")
    assert memory.brief("tea").text == ""
    memory.items.put([item("k", "tea")])
    assert found(memory, "tea") == [("k", 1.0)]
    assert texts(memory, "tea") == {"tea"}
    [cube] = memory.items.put([item("k", n=2)])
    assert cube.state is State.ARCHIVED
    assert found(memory, "tea") == []
    assert not memory.search("tea")
    back = memory.restore(cube.id, 2)
    assert back.text == "tea"
    assert found(memory, "tea") == [("k", 1.0)]


def test_a_memory_brought_back_without_words_harms_no_search(memory: MemOS) -> None:
    [cube] = memory.items.put([item("k", n=1)])
    memory.restore(cube.id, 1)
    memory.items.put([item("o", "tea")])
    assert [h.cube.key for h in memory.search("tea")] == ["o"]
    assert found(memory, "tea") == [("o", 1.0)]


@pytest.mark.parametrize("resident", [20_000, 2])
def test_passages_of_another_version_are_not_found(open_store: Callable[..., MemOS], resident: int) -> None:
    memory = open_store(policy=Policy(resident_memories=resident))
    memory.items.put([item("k", "tea", "coffee", "cocoa", n=1), item("o", "juice", "lemonade")])
    memory.search("tea")
    memory.items.put([item("k", "tea", "coffee", "cocoa", n=2)])
    assert found(memory, "cocoa", filter={"n": 2})[0] == ("k", 1.0)
    assert found(memory, "cocoa", filter={"n": 1}) == []
    memory.items.put([item("k", "tea", "water", n=3)])
    assert ("k", 1.0) not in found(memory, "coffee") + found(memory, "cocoa")
    assert texts(memory, "tea coffee cocoa water juice lemonade") == {"tea", "water", "juice", "lemonade"}
    memory.items.put([item("k", "tea", "milk", "coffee", "cocoa", n=4)])
    assert texts(memory, "tea coffee cocoa water milk") == {"tea", "milk", "coffee", "cocoa", "juice", "lemonade"}
    memory.items.put([item("k", "tea", n=5)])
    assert texts(memory, "tea coffee cocoa water milk") == {"tea", "juice", "lemonade"}


def test_a_passage_names_the_item_that_it_is_of(memory: MemOS) -> None:
    [cube] = memory.items.put([item("k", "tea", "coffee")])
    [hit] = [h for h in memory.search("coffee") if h.cube.text == "coffee"]
    assert hit.cube.key is None
    assert hit.cube.semantic_type == "passage"
    assert [parent.key for parent in memory.lineage(hit.cube.id).parents] == ["k"]
    assert [child.text for child in memory.lineage(cube.id).children] == ["coffee"]


def test_negative_and_zero_cosines_are_scores_too(open_store: Callable[..., MemOS]) -> None:
    places = {"north": [0.0, 1.0], "south": [0.0, -1.0], "east": [1.0, 0.0]}

    def embed(names: Any) -> Any:
        return [places.get(name, [0.5, 0.5]) for name in names]

    memory = open_store(embed=embed)
    memory.items.put([item(name, name) for name in places])
    assert found(memory, "north") == [("north", 1.0), ("east", 0.0), ("south", -1.0)]


# --- lists -------------------------------------------------------------------------------------------------------------


def test_a_list_is_newest_first_and_pages_do_not_overlap(memory: MemOS, clock: Clock) -> None:
    for number in range(3):
        memory.items.put([item(f"{number}{letter}", letter) for letter in "bca"])
        clock.forward(seconds=1)
    memory.items.put([item("0c", "changed")])
    order = ["0c", "2a", "2b", "2c", "1a", "1b", "1c", "0a", "0b"]
    assert keys(memory.items.list()) == order
    assert [k for start in range(0, 9, 2) for k in keys(memory.items.list(limit=2, offset=start))] == order
    assert keys(memory.items.list(limit=2, offset=8)) == ["0b"]
    assert keys(memory.items.list(offset=9)) == []


def test_oldest_first_is_the_order_of_creation_whatever_changed_since(memory: MemOS, clock: Clock) -> None:
    memory.items.put([item(k) for k in "zya"])
    memory.items.put([item(k) for k in "mb"])  # the clock stands still
    clock.forward(seconds=1)
    memory.items.put([item("c"), item("y", "changed")])
    order = ["z", "y", "a", "m", "b", "c"]
    assert keys(memory.items.list(oldest_first=True)) == order
    assert keys(memory.items.list(oldest_first=True, limit=3, offset=2)) == order[2:5]


def test_the_order_of_creation_goes_on_after_reopening(open_store: Callable[..., MemOS], clock: Clock) -> None:
    with open_store() as memory:
        memory.items.put([item("b")])
    clock.forward(seconds=1)
    memory = open_store()
    memory.items.put([item("a")])
    assert keys(memory.items.list(oldest_first=True)) == ["b", "a"]


def test_a_namespace_is_matched_label_by_label(memory: MemOS) -> None:
    wheres = [("a",), ("a", "b"), ("a", "B"), ("ab",), ("a%",), ("a_",), ("a/b",), ("A",), ("a", "b", "c"), ("a.b",)]
    memory.items.put([item("k", "tea", where=where) for where in wheres])
    assert memory.items.namespaces() == sorted(wheres)
    for where in wheres:
        below = sorted(w for w in wheres if w[: len(where)] == where)
        assert memory.items.namespaces(where) == below
        assert sorted(c.namespace for c in memory.items.list(where)) == below
        assert sorted(h.cube.namespace for h in memory.items.search("tea", where)) == below


def test_only_namespaces_that_hold_living_items_are_named(memory: MemOS, clock: Clock) -> None:
    memory.items.put([item("k", where=("kept",)), item("k", where=("brief",), ttl=timedelta(minutes=1))])
    memory.items.put([item("k", where=("gone",))])
    memory.add("no item", namespace=("turns",))
    memory.items.delete([(("gone",), "k")])
    memory.items.get([(("ghost",), "k")])
    assert memory.items.namespaces() == [("brief",), ("kept",)]
    clock.forward(minutes=1)
    assert memory.items.namespaces() == [("kept",)]


def test_a_filter_limits_before_the_page_is_cut(memory: MemOS) -> None:
    memory.items.put([item(f"{n:02}", "tea", n=n, whole={"n": n % 5}) for n in range(60)])
    wanted = [f"{n:02}" for n in range(60) if n % 5 == 3]
    for filter in ({"whole": {"n": 3}}, {"whole": {"$eq": {"n": 3}}}):
        assert keys(memory.items.list(filter=filter)) == wanted
        assert keys(memory.items.list(filter=filter, limit=4, offset=5)) == wanted[5:9]
        assert [k for k, _ in found(memory, "tea", filter=filter, limit=4, offset=5)] == wanted[5:9]
        assert [k for k, _ in found(memory, "tea", filter=filter, limit=40)] == wanted


# --- time to live ------------------------------------------------------------------------------------------------------


MINUTE = timedelta(minutes=1)


def test_an_expired_item_is_not_there_in_any_way(memory: MemOS, clock: Clock) -> None:
    memory.items.put([item("brief", "tea", "coffee", ttl=MINUTE), item("kept", "tea")])
    clock.forward(seconds=59)
    assert len(memory.items.list()) == len(memory.items.search("tea")) == 2
    clock.forward(seconds=1)
    assert memory.items.get([(HERE, "brief")]) == [None]
    assert keys(memory.items.list()) == ["kept"]
    assert [k for k, _ in found(memory, "coffee")] == ["kept"]
    assert texts(memory, "coffee tea") == {"tea"}
    assert memory.items.delete([(HERE, "brief")]) == 0


@pytest.mark.parametrize("marked", [False, True])
def test_an_expired_item_that_is_put_again_lives_again(memory: MemOS, clock: Clock, marked: bool) -> None:
    memory.items.put([item("k", "tea", "coffee", ttl=MINUTE, n=1)])
    memory.share(memory.items.list()[0].id, readers=["bob"])
    clock.forward(minutes=2)
    if marked:
        memory.tick()
    [again] = memory.items.put([item("k", "tea", "coffee", n=2)])
    assert memory.items.get([(HERE, "k")]) == [again]
    assert (again.state, again.lifespan.expires_at, again.access.readers) == (State.GENERATED, None, frozenset())
    assert found(memory, "coffee") == [("k", 1.0)]
    assert texts(memory, "tea coffee") == {"tea", "coffee"}
    assert texts(memory, "tea coffee", actor="bob") == set()


def test_touching_lets_a_life_begin_anew(memory: MemOS, clock: Clock) -> None:
    memory.items.put([item("k", "tea", "coffee", ttl=MINUTE), item("ever", "tea")])
    [before] = memory.items.get([(HERE, "k")])
    assert before is not None
    clock.forward(seconds=40)
    memory.items.touch([(HERE, "k"), (HERE, "ever"), (HERE, "unknown")])
    clock.forward(seconds=40)
    [after, ever] = memory.items.get([(HERE, "k"), (HERE, "ever")])
    assert after == replace(before, lifespan=replace(before.lifespan, expires_at=START + timedelta(seconds=100)))
    assert ever is not None
    assert ever.lifespan.expires_at is None
    assert found(memory, "coffee")[0] == ("k", 1.0)  # its passages with it
    assert "coffee" in texts(memory, "coffee")
    clock.forward(seconds=20)
    memory.items.touch([(HERE, "k")], timedelta(days=1))  # too late
    assert memory.items.get([(HERE, "k")]) == [None]
    memory.items.touch([(HERE, "ever")], MINUTE)
    clock.forward(minutes=1)
    assert memory.items.list() == []


def test_touching_makes_no_version_and_writes_only_if_it_matters(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.items.put([item("k", ttl=timedelta(hours=1))])
    revision = memory._vault.revision()
    clock.forward(seconds=30)
    memory.items.touch([(HERE, "k")])
    assert memory._vault.revision() == revision
    clock.forward(seconds=10)
    memory.items.touch([(HERE, "k")])
    assert memory._vault.revision() != revision
    assert memory.history(cube.id)[0].version == 1
    [later] = memory.items.put([item("k")])
    assert [c.version for c in memory.history(cube.id)] == [1, 2]
    assert later.lifespan.expires_at is None


def test_sweeping_removes_what_is_over_and_nothing_else(memory: MemOS, clock: Clock) -> None:
    memory.items.put([item("a", "tea", "coffee", ttl=MINUTE), item("b", ttl=MINUTE), item("kept", ttl=2 * MINUTE)])
    memory.items.put([item("his", ttl=MINUTE)], actor="bob")
    memory.add("a turn", ttl=MINUTE)
    clock.forward(minutes=1)
    assert memory.items.sweep() == 2
    assert memory.items.sweep() == 0
    assert keys(memory.items.list()) == ["kept"]
    assert memory.items.sweep(actor="bob") == 1
    assert memory._vault.count("true") == 2


# --- large, many, killed -----------------------------------------------------------------------------------------------


def test_a_vector_index_of_items_without_vectors_is_made_once_there_are_enough_with(
    open_store: Callable[..., MemOS],
) -> None:
    memory = open_store(embed=WordsEmbedder(512), policy=Policy(index_from=300, resident_memories=10))
    memory.items.put([item(f"n{n}") for n in range(400)])
    assert memory.tick().compacted
    assert memory._vault.manifest.trained == 0
    memory.items.put([item(f"t{n}", f"tea number {n}", f"cup number {n}") for n in range(200)])
    assert memory.tick().compacted
    assert memory._vault.manifest.trained == 400
    memory.items.put([item(f"u{n}") for n in range(20)] + [item(f"v{n}", f"pot number {n}") for n in range(20)])
    assert memory.tick().compacted
    assert found(memory, "pot number 7", limit=1) == [("v7", 1.0)]
    assert found(memory, "cup number 9", limit=1) == [("t9", 1.0)]
    assert len(found(memory, "number", limit=1_000)) == 220
    assert any(h.cube.key == "v3" for h in memory.search("pot number 3"))


def test_re_embedding_keeps_items_with_and_without_texts(tmp_path: Path, clock: Clock) -> None:
    with MemOS(tmp_path / "store", embed=WordsEmbedder(16), actor="ann", clock=clock) as memory:
        memory.items.put([item("k", "tea", "coffee", n=1), item("mute", n=2), item("emptied", "milk")])
        memory.items.put([item("emptied")])
    other = WordsEmbedder(32, salt="other")
    assert reembed(tmp_path / "store", other) == 4
    with MemOS(tmp_path / "store", embed=other, actor="ann", clock=clock) as memory:
        assert found(memory, "coffee") == [("k", 1.0)]
        assert keys(memory.items.list()) == ["emptied", "k", "mute"]
        memory.items.put([item("mute", "juice")])
        assert found(memory, "juice")[0] == ("mute", 1.0)


def test_what_one_reads_does_not_grow_with_the_store(open_store: Callable[..., MemOS]) -> None:
    """Records that are decoded for a get, a put, a page of a list or of a search: no more than are asked for."""
    memory = open_store(embed=WordsEmbedder(512))

    def work() -> None:
        memory.items.get([(HERE, "7")])
        memory.items.put([item("7", "tea 7", "coffee", n=7)])
        memory.items.list(limit=5, offset=3)
        memory.items.list(filter={"n": 5})
        memory.items.list(filter={"n": {"$ne": 5}}, limit=3)
        memory.items.search("tea 9", limit=1)
        memory.items.namespaces()

    read = []
    for number in (40, 2_000):
        memory.items.put([item(f"{n}", f"tea {n}", f"cup {n}", n=n) for n in range(number)])
        read.append(decoded(work))
    assert 20 < read[0] == read[1] < 60


def decoded(work: Callable[[], object]) -> int:
    """How many records it decodes."""
    count = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is decode.__code__

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_many_threads_at_once(memory: MemOS) -> None:
    problems: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(3):
                memory.items.put(
                    [item(f"{thread}-{n}", f"tea {n}", f"coffee {n}", t=thread), item("shared", f"{thread} {n}")]
                )
                assert memory.items.get([(HERE, f"{thread}-{n}")])[0] is not None
                memory.items.search("tea", limit=3)
                memory.items.list(limit=3)
            memory.items.delete([(HERE, f"{thread}-0")])
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sorted(c.key or "" for c in memory.items.list()) == sorted(
        ["shared", *(f"{t}-{n}" for t in range(8) for n in range(1, 3))]
    )
    [shared] = memory.items.get([(HERE, "shared")])
    assert shared is not None
    assert shared.version == 24


PUTS: dict[str, Callable[[MemOS], object]] = {
    "new": lambda m: m.items.put([item("new", "water", "wine"), item("newer")]),
    "changed": lambda m: m.items.put([item("k", "water", "wine", n=2)]),
    "fewer texts": lambda m: m.items.put([item("k", "water", n=2)]),
    "mixed": lambda m: m.items.put([item("new", "beer"), item("k", "tea", "wine", "milk", "ale", n=2), item("mute", "rum")]),
    "touch": lambda m: m.items.touch([(HERE, "k")], MINUTE),
}  # fmt: skip


@pytest.mark.parametrize("put", PUTS)
def test_stopped_after_any_commit_a_put_is_wholly_there_or_not_at_all(
    put: str, tmp_path: Path, embed: WordsEmbedder
) -> None:
    def opened(name: str) -> MemOS:
        return MemOS(tmp_path / name, embed=embed, actor="ann")

    with opened("start") as memory:
        memory.items.put([item("k", "tea", "coffee", "cocoa", n=1), item("mute", n=1)])
        before = state(memory)
    shutil.copytree(tmp_path / "start", tmp_path / "whole")
    with opened("whole") as memory:
        PUTS[put](memory)
        whole = state(memory)
    for commits in range(1, 20):
        shutil.copytree(tmp_path / "start", tmp_path / f"{commits}")
        memory = opened(f"{commits}")
        reached = stopped(commits, lambda memory=memory: PUTS[put](memory))
        with opened(f"{commits}") as again:
            assert state(again) in (before, whole), f"half done after commit {commits}"
            for cube in again.items.list():
                assert [c.version for c in again.history(cube.id)] == list(range(1, cube.version + 1))
                assert {e.version for e in again.log(subject=cube.id)} == set(range(1, cube.version + 1))
            PUTS[put](again)
        memory.close()
        if not reached:
            return
    raise AssertionError("never finished")


def state(memory: MemOS) -> tuple[Any, ...]:
    items = [(c.key, c.version, c.state, c.attributes, c.lifespan.expires_at is None) for c in memory.items.list()]
    words = "tea coffee cocoa water wine beer milk ale rum"
    # who stands behind whom: a passage of another version of its item would show
    said = sorted((h.cube.text, h.cube.version, tuple(h.cube.attributes.items())) for h in memory.search(words, k=50))
    return sorted(items, key=str), said


# --- against a dictionary ----------------------------------------------------------------------------------------------


names = st.tuples(st.sampled_from([("a",), ("a", "b"), ("b",), ("a%",)]), st.sampled_from(["x", "y", "", "'"]))
step = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(names, st.integers(0, 3), st.sampled_from(["", "tea", "tea pot"])), max_size=3)),
    st.tuples(st.just("delete"), st.lists(names, max_size=2)),
)  # fmt: skip


@settings(max_examples=15)
@given(st.lists(step, max_size=8))
def test_items_agree_with_a_dictionary(shelf: MemOS, steps: list[Any]) -> None:
    owner = f"user {shelf._vault.revision()[1]}"
    model: dict[Any, tuple[int, str]] = {}
    for verb, what in steps:
        if verb == "put":
            shelf.items.put([Item(ns, key, {"n": n}, (text,)) for (ns, key), n, text in what], actor=owner)
            model |= {name: (n, text) for name, n, text in what}
        else:
            gone = {name for name in what if name in model}
            assert shelf.items.delete(what, actor=owner) == len(gone)
            model = {name: v for name, v in model.items() if name not in gone}
    wanted = sorted((*name, n) for name, (n, _) in model.items())
    assert sorted((c.namespace, c.key, c.attributes["n"]) for c in shelf.items.list(actor=owner)) == wanted
    assert shelf.items.namespaces(actor=owner) == sorted({ns for ns, _ in model})
    hits = [(h.cube.namespace, h.cube.key) for h in shelf.items.search("tea", actor=owner, limit=50)]
    assert len(hits) == len(set(hits))
    assert sorted(hits) == sorted(name for name, (_, text) in model.items() if text)
    for ns in [("a",), ("a", "b"), ("a%",)]:
        below = [w for w in wanted if w[0][: len(ns)] == ns and w[2] >= 2]
        kept = shelf.items.list(ns, actor=owner, filter={"n": {"$gte": 2}})
        assert sorted((c.namespace, c.key, c.attributes["n"]) for c in kept) == below
