"""The contract of a LangGraph store: one body of tests for LangGraph's own stores, where they agree, and for ours; then what
ours does where they do not."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("langgraph", reason="needs the extra langchain")

from filelock import FileLock
from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
    ensure_embeddings,
)
from langgraph.store.memory import InMemoryStore

from langchain_memos import MemOSStore
from memos_core import InvalidArgument, MemOS, Policy, StoreClosed
from tests.conftest import Clock
from tests.words import WordsEmbedder

HERE = ("app", "ann")


class Letters(Embeddings):
    """How often each letter comes in a text, as a share of it."""

    dimension = 128

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        counts = Counter(ord(c) % self.dimension for c in text)
        return [counts[i] / max(1, len(text)) for i in range(self.dimension)]


class Face:
    """A store as the tests see it: its methods, or their async twins run to their end."""

    def __init__(self, store: BaseStore, *, twin: bool) -> None:
        self.store = store
        self._twin = twin

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.store, f"a{name}" if self._twin else name)
        return (lambda *args, **kw: asyncio.run(method(*args, **kw))) if self._twin else method  # type: ignore[no-any-return]


Make = Callable[..., Face]


def maker(kind: str, folder: Path, clock: Clock) -> Iterator[Make]:
    opened: list[Any] = []
    name, _, twin = kind.partition("-")

    def make(index: Any = None) -> Face:
        store: BaseStore
        if name == "InMemoryStore":
            store = InMemoryStore(index=index)
        elif name == "SqliteStore":
            sqlite = pytest.importorskip("langgraph.store.sqlite")
            held = sqlite.SqliteStore.from_conn_string(":memory:")
            store = held.__enter__()
            store.setup()
            opened.append(held)
        else:
            memory = MemOS(
                folder / f"store{len(opened)}",
                embed=Letters().embed_documents if index is None else index["embed"].embed_documents, clock=clock,
            )  # fmt: skip
            opened.append(memory)
            store = MemOSStore(memory, index={k: v for k, v in (index or {}).items() if k == "fields"})
        return Face(store, twin=bool(twin))

    yield make
    for one in opened:
        one.__exit__(None, None, None)


OURS = ["MemOSStore", "MemOSStore-async"]
MEMORY = ["InMemoryStore", "InMemoryStore-async"]
EVERY = [*MEMORY, "SqliteStore", *OURS]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Make]:
    yield from maker(getattr(request, "param", "MemOSStore"), tmp_path, clock)


every_store = pytest.mark.parametrize("make", EVERY, indirect=True)
memory_and_ours = pytest.mark.parametrize("make", [*MEMORY, *OURS], indirect=True)
sqlite_and_ours = pytest.mark.parametrize("make", ["SqliteStore", *OURS], indirect=True)
only_ours = pytest.mark.parametrize("make", OURS, indirect=True)


def letters(*fields: str) -> dict[str, Any]:
    return {"dims": Letters.dimension, "embed": Letters()} | ({"fields": list(fields)} if fields else {})


def keys(items: Sequence[Item]) -> list[str]:
    return [item.key for item in items]


# --- put, get, delete --------------------------------------------------------------------------------------------------


@every_store
def test_what_was_put_comes_back(make: Make) -> None:
    store = make()
    value = {"text": "tea", "n": 1, "deep": {"list": [1, 2.5, None, {"x": True}]}, "nothing": None}
    assert store.put(HERE, "k", value) is None
    item = store.get(HERE, "k")
    assert (item.namespace, item.key, item.value) == (HERE, "k", value)
    assert isinstance(item.namespace, tuple)
    assert item.created_at.utcoffset() is not None or "SqliteStore" in str(store.store)
    assert store.get(HERE, "other") is None
    assert store.get(("other",), "k") is None
    assert store.get((*HERE, "below"), "k") is None
    assert store.get(HERE, "K") is None


@every_store
def test_a_put_replaces_the_value_and_a_delete_takes_it(make: Make) -> None:
    store = make()
    store.put(HERE, "k", {"a": 1, "b": 2})
    store.put(HERE, "k", {"a": 3})
    assert store.get(HERE, "k").value == {"a": 3}
    assert store.delete(HERE, "k") is None
    assert store.get(HERE, "k") is None
    store.delete(HERE, "k")
    store.delete(("unknown",), "k")
    store.put(HERE, "k", {"a": 4})
    assert store.get(HERE, "k").value == {"a": 4}


@every_store
def test_the_methods_make_text_of_a_key(make: Make) -> None:
    store = make()
    store.put(HERE, 5, {"a": 1})
    assert store.get(HERE, "5").value == store.get(HERE, 5).value == {"a": 1}
    store.delete(HERE, 5)
    assert store.search(HERE) == []


ODD = [
    "",
    " ",
    "it's",
    '"',
    "%",
    "_",
    "a/b",
    "a.b",
    "$",
    "x" * 300,
    "ключ",
    "😀",
    "\n",
    "'; DROP TABLE store; --",
    "../x",
]


@every_store
@pytest.mark.parametrize("key", ODD)
def test_a_key_is_any_text(make: Make, key: str) -> None:
    store = make()
    store.put(HERE, key, {"key": key, key or "empty": [key]})
    assert store.get(HERE, key).value == {"key": key, key or "empty": [key]}
    assert keys(store.search(HERE, filter={"key": key})) == [key]
    store.delete(HERE, key)
    assert store.get(HERE, key) is None


@sqlite_and_ours
def test_an_update_keeps_when_an_item_was_made(make: Make, clock: Clock) -> None:
    store = make()
    store.put(HERE, "k", {"n": 1})
    first = store.get(HERE, "k")
    clock.forward(hours=1)
    store.put(HERE, "k", {"n": 2})
    second = store.get(HERE, "k")
    assert second.created_at == first.created_at
    assert second.updated_at >= first.updated_at


@only_ours
def test_times_are_those_of_the_engines_clock_in_utc(make: Make, clock: Clock) -> None:
    store = make()
    store.put(HERE, "k", {"n": 1})
    made = clock.now
    later = clock.forward(hours=1)
    store.put(HERE, "k", {"n": 1})
    item = store.get(HERE, "k")
    assert (item.created_at, item.updated_at) == (made, later)
    store.delete(HERE, "k")
    store.put(HERE, "k", {"n": 1})
    assert store.get(HERE, "k").created_at == later


@sqlite_and_ours
def test_values_are_copied_in_and_out(make: Make) -> None:
    store = make()
    value: dict[str, Any] = {"a": {"b": [1]}}
    store.put(HERE, "k", value)
    value["a"]["b"].append(2)
    for item in (store.get(HERE, "k"), *store.search(HERE)):
        assert item.value == {"a": {"b": [1]}}
        item.value["a"]["b"].append(3)


@only_ours
def test_a_namespace_may_come_as_a_list(make: Make) -> None:
    store = make()
    store.put(list(HERE), "k", {"n": 1})
    assert store.get(list(HERE), "k").namespace == HERE
    assert [i.namespace for i in store.search(["app"])] == [HERE]


@only_ours
def test_lists_name_the_same_items_as_tuples_in_one_batch(make: Make) -> None:
    store = make()
    store.batch([PutOp(list(HERE), "k", {"n": 1}), PutOp(HERE, "k", {"n": 2})])  # type: ignore[arg-type]
    assert [i.value for i in store.search(HERE)] == [{"n": 2}]
    assert store.list_namespaces(prefix=["app"], suffix=["ann"]) == [HERE]


FORBIDDEN: list[Any] = [(), ("langgraph", "x"), ("a.b",), ("a", ""), ("a", 5)]


@every_store
@pytest.mark.parametrize("namespace", FORBIDDEN)
def test_a_forbidden_namespace_cannot_be_put_into(make: Make, namespace: Any) -> None:
    store = make()
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "k", {"n": 1})
    assert store.list_namespaces() == []


@only_ours
@pytest.mark.parametrize("namespace", [*FORBIDDEN, ("a\x00",), "app", None])
def test_operations_handed_straight_to_batch_are_held_to_the_same(make: Make, namespace: Any) -> None:
    store = make()
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(HERE, "k", {"n": 1}), PutOp(namespace, "k", {"n": 1})])
    assert store.search(()) == []
    for op in (GetOp(namespace, "k"), SearchOp(namespace), ListNamespacesOp((MatchCondition("prefix", namespace),))):
        if namespace not in ((), ("langgraph", "x")):  # nothing is there, and asking is no crime
            with pytest.raises(InvalidNamespaceError):
                store.batch([op])
    assert store.batch([GetOp((), "k"), GetOp(("langgraph",), "k"), PutOp((), "k", None)]) == [None, None, None]


# --- batches -------------------------------------------------------------------------------------------------------------


@memory_and_ours
def test_a_batch_reads_what_was_before_it_and_the_last_put_wins(make: Make) -> None:
    store = make()
    store.put(HERE, "old", {"n": 0})
    results = store.batch([
        PutOp(HERE, "k", {"n": 1}), GetOp(HERE, "k"), PutOp(HERE, "k", {"n": 2}), PutOp(HERE, "old", None), GetOp(HERE, "old"),
        SearchOp(HERE), ListNamespacesOp(), PutOp(("b",), "x", {"n": 3}), PutOp(("b",), "x", None), PutOp(("b",), "y", None),
        PutOp(("b",), "y", {"n": 4}),
    ])  # fmt: skip
    assert results[0] is results[2] is results[3] is results[1] is None
    assert results[4].value == {"n": 0}
    assert keys(results[5]) == ["old"]
    assert results[6] == [HERE]
    assert {i.key: i.value for i in store.search(())} == {"k": {"n": 2}, "y": {"n": 4}}
    assert store.batch([]) == []
    assert store.batch(iter([GetOp(HERE, "k")]))[0].value == {"n": 2}


@only_ours
def test_what_cannot_be_put_stops_the_whole_batch(make: Make) -> None:
    store = make()
    for bad in ({"x": object()}, {"x": float("nan")}, {"x": {1, 2}}, {1: 2}, [1], "text"):
        with pytest.raises(InvalidArgument, match="value"):
            store.batch([PutOp(HERE, "good", {"n": 1}), PutOp(HERE, "bad", bad)])  # type: ignore[arg-type]
    endless: dict[str, Any] = {}
    endless["me"] = endless
    for value in ({"n": 2**63}, endless):
        with pytest.raises(InvalidArgument, match="value"):
            store.put(HERE, "bad", value)
    for op in (SearchOp(HERE, offset=-1), SearchOp(HERE, limit=None), SearchOp(HERE, query=5), ("put", "k"), PutOp(HERE, "k", {}, "text"),
               PutOp(HERE, "k", {}, True), ListNamespacesOp((MatchCondition("infix", ("a",)),)), PutOp(HERE, "k", {}, ttl="1")):  # type: ignore[arg-type]  # fmt: skip
        with pytest.raises(InvalidArgument):
            store.batch([PutOp(HERE, "good", {"n": 1}), op])
    assert store.search(()) == []


# --- search without a query ----------------------------------------------------------------------------------------------


@every_store
def test_a_search_is_of_a_prefix_label_by_label(make: Make) -> None:
    store = make()
    wheres = [
        ("a",),
        ("a", "b"),
        ("a", "B"),
        ("ab",),
        ("a%",),
        ("a_",),
        ("A",),
        ("a", "b", "c"),
        ("a/b",),
        ("é",),
        ("*",),
        ("a'",),
    ]
    for where in wheres:
        store.put(where, "k", {"where": list(where)})
    for prefix in [(), *wheres, ("unknown",), ("a", "b", "c", "d")]:
        found = store.search(prefix, limit=50)
        assert sorted(i.namespace for i in found) == sorted(w for w in wheres if w[: len(prefix)] == prefix)
        assert all(isinstance(i, SearchItem) and i.score is None for i in found)


@every_store
def test_limit_and_offset_cut_a_stable_list(make: Make) -> None:
    store = make()
    for n in range(12):
        store.put(HERE, f"{n:02}", {"n": n})
    everything = keys(store.search(HERE, limit=100))
    assert sorted(everything) == [f"{n:02}" for n in range(12)]
    assert len(store.search(HERE)) == 10
    assert [k for start in range(0, 15, 5) for k in keys(store.search(HERE, limit=5, offset=start))] == everything
    assert store.search(HERE, limit=0) == []
    assert store.search(HERE, offset=12) == []


@only_ours
def test_without_a_query_the_last_changed_comes_first(make: Make, clock: Clock) -> None:
    store = make()
    for key in "bcad":
        store.put(HERE, key, {"n": 1})
        clock.forward(seconds=1)
    store.put(HERE, "c", {"n": 2})
    assert keys(store.search(HERE)) == ["c", "d", "a", "b"]
    store.batch([PutOp(HERE, key, {"n": 3}) for key in "dba"])  # at one instant
    assert keys(store.search(HERE)) == ["a", "b", "c", "d"]


# --- filters -------------------------------------------------------------------------------------------------------------


THINGS: dict[str, dict[str, Any]] = {
    "1": {"kind": "tea", "size": 1, "hot": True, "user": {"name": "ann", "age": 30}, "tags": ["a", "b"], "none": None},
    "2": {"kind": "tea", "size": 2.5, "hot": False, "user": {"name": "bob", "age": 40}, "tags": ["a"]},
    "3": {"kind": "it's", "size": 10, "user": {"name": "ann"}, "tags": []},
    "4": {"size": -1},
}
ALIKE: list[tuple[dict[str, Any], str]] = [
    ({"kind": "tea"}, "12"), ({"kind": "it's"}, "3"), ({"kind": "TEA"}, ""), ({"kind": "te"}, ""), ({"kind": "%"}, ""), ({"size": 1}, "1"),
    ({"size": 2.5}, "2"), ({"size": {"$gt": 1}}, "23"), ({"size": {"$gte": 1}}, "123"), ({"size": {"$lt": 2}}, "14"), ({"size": {"$lte": 2.5}}, "124"),
    ({"size": {"$gt": 0, "$lt": 5}}, "12"), ({"size": {"$eq": 10}}, "3"), ({"kind": {"$eq": "tea"}}, "12"), ({"kind": "tea", "size": {"$gte": 2}}, "2"),
    ({"hot": True}, "1"), ({"hot": False}, "2"), ({"none": None}, "1234"), ({"unknown": "x"}, ""), ({"tags": ["a", "b"]}, "1"),
    ({"tags": ["b", "a"]}, ""), ({"tags": []}, "3"), ({}, "1234"), ({"kind": {"$ne": None}}, "123"),
]  # fmt: skip
AS_IN_MEMORY: list[tuple[dict[str, Any], str]] = [
    ({"kind": {"$ne": "tea"}}, "34"), ({"unknown": {"$ne": 1}}, "1234"), ({"user": {"name": "ann"}}, "13"), ({"user": {"age": {"$eq": 40}, "name": "bob"}}, "2"),
    ({"user": {"$eq": {"name": "ann"}}}, "3"), ({"user": {"$ne": {"name": "ann"}}}, "124"), ({"user": {"age": None}}, "3"), ({"tags": {"$eq": ["a"]}}, "2"),
    ({"hot": {"$ne": True}}, "234"),
]  # fmt: skip


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Face]]:
    """Each store with the same things in it."""
    made: dict[str, Face] = {}
    makers = []

    def of(kind: str) -> Face:
        if kind not in made:
            makers.append(maker(kind, tmp_path_factory.mktemp("things"), Clock()))
            made[kind] = next(makers[-1])()
            for key, value in THINGS.items():
                made[kind].put(HERE, key, value)
        return made[kind]

    yield of
    for one in makers:
        next(one, None)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize(("filter", "wanted"), ALIKE)
def test_a_filter_on_which_all_agree(things: Callable[[str], Face], kind: str, filter: Any, wanted: str) -> None:
    assert "".join(sorted(keys(things(kind).search(HERE, filter=filter)))) == wanted


@pytest.mark.parametrize("kind", [*MEMORY, *OURS])
@pytest.mark.parametrize(("filter", "wanted"), AS_IN_MEMORY)
def test_a_filter_as_the_store_in_memory_has_it(
    things: Callable[[str], Face], kind: str, filter: Any, wanted: str
) -> None:
    assert "".join(sorted(keys(things(kind).search(HERE, filter=filter)))) == wanted


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("operator", ["$foo", "$regex", "$exists"])
def test_an_unknown_operator_is_a_value_error(things: Callable[[str], Face], kind: str, operator: str) -> None:
    with pytest.raises(ValueError, match=rf"\{operator}"):
        things(kind).search(HERE, filter={"size": {operator: 1}})


@pytest.mark.parametrize("kind", ["SqliteStore", *OURS])
@pytest.mark.parametrize("name", ["a'b", 'a"b', "a) OR (1=1", "a;b", "a[0]", "a\\", ""])
def test_a_malformed_filter_name_is_a_value_error(things: Callable[[str], Face], kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"filter|Filter"):
        things(kind).search(HERE, filter={name: 1})


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(
    ("filter", "wanted"),
    [
        ({"kind": {"$gt": 1}}, ""), ({"none": {"$gt": 1}}, ""), ({"size": {"$gt": None}}, ""), ({"size": {"$gt": "1"}}, ""), ({"user": {"$gt": 1}}, ""),
        ({"tags": {"$lt": [1]}}, ""), ({"kind": {"$gte": "j"}}, "12"), ({"hot": 1}, ""), ({"size": True}, ""), ({"user.name": "ann"}, "13"),
        ({"user.age": {"$gte": 40}}, "2"), ({"user.name.x": "ann"}, ""), ({"a b": None}, "1234"), ({"größe": 1}, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_does_not_match(
    things: Callable[[str], Face], kind: str, filter: Any, wanted: str
) -> None:
    assert "".join(sorted(keys(things(kind).search(HERE, filter=filter)))) == wanted
    assert "".join(sorted(keys(things(kind).search(HERE, filter=filter, query="tea")))) == wanted


@memory_and_ours
def test_names_of_the_engines_own_fields_are_names_like_others(make: Make) -> None:
    store = make()
    names = [
        "key",
        "source",
        "session",
        "role",
        "speaker",
        "tags",
        "semantic_type",
        "attributes",
        "id",
        "namespace",
        "text",
        "content",
    ]
    for name in names:
        store.put(HERE, name, {name: "mine"})
    for name in names:
        assert keys(store.search(HERE, filter={name: "mine"})) == [name]


@memory_and_ours
def test_a_filter_is_applied_before_the_page_is_cut(make: Make) -> None:
    store = make(letters())
    for n in range(40):
        store.put(HERE, f"{n:02}", {"n": n, "third": {"is": n % 3 == 0}, "text": "tea"})
    thirds = {f"{n:02}" for n in range(0, 40, 3)}
    for query in (None, "tea"):
        for filter in ({"third": {"is": True}}, {"third": {"$eq": {"is": True}}}):
            pages = [keys(store.search(HERE, filter=filter, query=query, limit=4, offset=n)) for n in range(0, 16, 4)]
            assert [len(page) for page in pages] == [4, 4, 4, 2]
            assert {k for page in pages for k in page} == thirds


# --- search with a query -------------------------------------------------------------------------------------------------


@memory_and_ours
def test_a_query_orders_by_cosine_and_says_it(make: Make) -> None:
    store = make(letters("text"))
    said = {"1": "aaaa", "2": "aabb", "3": "bbbb", "4": "zzzz"}
    for key, text in said.items():
        store.put(HERE, key, {"text": text})
    found = store.search(HERE, query="aaaa")
    assert keys(found)[:2] == ["1", "2"]
    assert [round(i.score, 4) for i in found] == [1.0, 0.7071, 0.0, 0.0]
    assert keys(store.search(HERE, query="bbbb", limit=1)) == ["3"]
    assert keys(store.search(HERE, query="aaab", limit=2, offset=1))[0] == "2"
    assert store.search(("nowhere",), query="aaaa") == []


@memory_and_ours
def test_the_whole_value_reads_as_sorted_json(make: Make) -> None:
    store = make(letters())
    values = [{"b": 1, "a": "tea"}, {"zebra": [1, {"y": 2, "x": 3}]}, {"ключ": "значение", "n": 1}]
    for n, value in enumerate(values):
        store.put(HERE, str(n), value)
    for n, value in enumerate(values):
        [first, *_] = store.search(HERE, query=json.dumps(value, sort_keys=True, ensure_ascii=False))
        assert (first.key, round(first.score, 5)) == (str(n), 1.0)


@memory_and_ours
def test_of_several_texts_the_best_counts_and_an_item_comes_once(make: Make) -> None:
    store = make(letters("title", "body", "parts[*].text"))
    store.put(HERE, "a", {"title": "qqqq", "body": "zzzz", "parts": [{"text": "jjjj"}, {"text": "kkkk"}]})
    store.put(HERE, "b", {"title": "qqqz", "body": "zzqq", "parts": []})
    for query, best in (("qqqq", "a"), ("zzzz", "a"), ("jjjj", "a"), ("kkkk", "a"), ("qqqz", "b")):
        found = store.search(HERE, query=query)
        assert sorted(keys(found)) == ["a", "b"]
        assert (found[0].key, round(found[0].score, 5)) == (best, 1.0)


@only_ours
def test_a_text_that_an_item_no_longer_has_does_not_find_it(make: Make) -> None:
    """LangGraph's store in memory keeps the vectors of paths that a new value lacks."""
    store = make(letters("title", "body"))
    store.put(HERE, "a", {"title": "qqqq", "body": "zzzz"})
    store.put(HERE, "a", {"title": "qqqq"})
    assert [i.score for i in store.search(HERE, query="zzzz")] == [0.0]


@memory_and_ours
def test_index_says_what_an_item_is_found_by(make: Make) -> None:
    store = make(letters("text"))
    value = {"text": "qqqq", "other": "zzzz", "deep": {"list": ["jjjj", "vvvv"]}, "n": 5}
    store.put(HERE, "default", value)
    store.put(HERE, "other", value, index=["other"])
    store.put(HERE, "deep", value, index=["deep.list[1]", "n"])
    store.put(HERE, "never", value, index=False)
    store.put(HERE, "nothing", value, index=["missing", "deep.none"])
    best = {query: store.search(HERE, query=query, limit=1)[0].key for query in ("qqqq", "zzzz", "vvvv", "5555")}
    assert best == {"qqqq": "default", "zzzz": "other", "vvvv": "deep", "5555": "deep"}
    scores = {i.key: i.score for i in store.search(HERE, query="jjjj")}
    assert scores["never"] is scores["nothing"] is None
    assert max(scores[k] for k in ("default", "other", "deep")) < 0.1
    assert store.get(HERE, "never").value == value


@memory_and_ours
def test_items_without_vectors_come_last_and_only_fill_up(make: Make) -> None:
    store = make(letters("text"))
    for n in range(3):
        store.put(HERE, f"yes{n}", {"text": "qq" + "z" * n, "n": n})
        store.put(HERE, f"no{n}", {"text": "qqqq", "n": n}, index=False)
    assert keys(store.search(HERE, query="qq", limit=3)) == ["yes0", "yes1", "yes2"]
    found = store.search(HERE, query="qq", limit=5)
    assert keys(found)[:3] == ["yes0", "yes1", "yes2"]
    assert [i.score is None for i in found] == [False] * 3 + [True] * 2
    assert len(store.search(HERE, query="qq")) == 6
    filtered = store.search(HERE, query="qq", filter={"n": 1})
    assert [(i.key, i.score is None) for i in filtered] == [("yes1", False), ("no1", True)]


@only_ours
def test_pages_go_on_into_the_items_without_vectors(make: Make) -> None:
    """LangGraph's store in memory begins these anew on every page."""
    store = make(letters("text"))
    for n in range(3):
        store.put(HERE, f"yes{n}", {"text": "qq" + "z" * n})
        store.put(HERE, f"no{n}", {"text": "qqqq"}, index=False)
    everything = keys(store.search(HERE, query="qq"))
    assert len(set(everything)) == 6
    assert [
        k for start in range(0, 8, 2) for k in keys(store.search(HERE, query="qq", limit=2, offset=start))
    ] == everything


@memory_and_ours
def test_an_update_changes_what_an_item_is_found_by(make: Make) -> None:
    store = make(letters("text"))
    store.put(HERE, "a", {"text": "qqqq"})
    store.put(HERE, "b", {"text": "jjjj"})
    store.put(HERE, "a", {"text": "zzzz"})
    assert [(i.key, round(i.score, 3)) for i in store.search(HERE, query="zzzz", limit=1)] == [("a", 1.0)]
    assert all(i.score == 0 for i in store.search(HERE, query="qqqq"))
    store.delete(HERE, "a")
    assert keys(store.search(HERE, query="zzzz")) == ["b"]


@memory_and_ours
@pytest.mark.parametrize("query", ["", None])
def test_an_empty_query_is_none(make: Make, query: Any) -> None:
    store = make(letters())
    store.put(HERE, "k", {"a": 1})
    assert [i.score for i in store.search(HERE, query=query)] == [None]


@only_ours
def test_a_value_of_one_text_reads_as_that_text(make: Make) -> None:
    store = make(letters())
    store.put(HERE, "k", {"content": "aabb"})
    assert [round(i.score, 5) for i in store.search(HERE, query="aabb")] == [1.0]
    assert [h.cube.text for h in store.store.memory.search("aabb")] == ["aabb"]
    store.put(HERE, "k", {"content": "aabb", "n": 1})
    assert [h.cube.text for h in store.store.memory.search("aabb")] == ['{"content": "aabb", "n": 1}']
    store.put(HERE, "k", {"a": 1, "b": "x"}, index=["$"])
    assert [h.cube.text for h in store.store.memory.search("aabb")] == ['{"a": 1, "b": "x"}']


@only_ours
def test_a_blank_text_finds_nothing_and_harms_nothing(make: Make) -> None:
    store = make(letters("text"))
    store.put(HERE, "k", {"text": "", "n": 1})
    store.put(HERE, "l", {"text": "  \n"})
    assert [i.score for i in store.search(HERE, query="x")] == [None, None]
    assert len(store.search(HERE, query="  ")) == 2


# --- namespaces ----------------------------------------------------------------------------------------------------------


TREE = [
    ("a", "b", "c"),
    ("a", "b", "d", "e"),
    ("a", "b", "d", "i"),
    ("a", "b", "f"),
    ("a", "c", "f"),
    ("b", "a", "f"),
    ("users", "123"),
    ("users", "456", "settings"),
    ("admin", "users", "789"),
]
CONDITIONS: list[tuple[dict[str, Any], list[tuple[str, ...]]]] = [
    ({}, sorted(TREE)), ({"prefix": ("a",)}, sorted(t for t in TREE if t[0] == "a")), ({"prefix": ("a", "b")}, sorted(t for t in TREE if t[:2] == ("a", "b"))),
    ({"suffix": ("f",)}, sorted(t for t in TREE if t[-1] == "f")), ({"prefix": ("a",), "suffix": ("f",)}, [("a", "b", "f"), ("a", "c", "f")]),
    ({"prefix": ("a",), "max_depth": 2}, [("a", "b"), ("a", "c")]), ({"max_depth": 1}, [("a",), ("admin",), ("b",), ("users",)]),
    ({"prefix": ("*", "users")}, [("admin", "users", "789")]), ({"prefix": ("a", "*", "f")}, [("a", "b", "f"), ("a", "c", "f")]),
    ({"suffix": ("users", "*")}, [("admin", "users", "789"), ("users", "123")]), ({"prefix": ("*",), "suffix": ("*", "settings")}, [("users", "456", "settings")]),
    ({"prefix": ("A",)}, []), ({"prefix": ("a%",)}, []), ({"prefix": ("a", "b", "c", "d")}, []), ({"suffix": ("ettings",)}, []),
    ({"limit": 2}, sorted(TREE)[:2]), ({"limit": 3, "offset": 2}, sorted(TREE)[2:5]), ({"offset": 20}, []), ({"max_depth": 1, "limit": 2, "offset": 1}, [("admin",), ("b",)]),
]  # fmt: skip


@every_store
def test_namespaces_are_listed_by_their_conditions(make: Make) -> None:
    store = make()
    for where in TREE:
        store.put(where, "k", {"n": 1})
        store.put(where, "l", {"n": 1})
    for conditions, wanted in CONDITIONS:
        assert store.list_namespaces(**conditions) == wanted, conditions
    several = (MatchCondition("prefix", ("a",)), MatchCondition("prefix", ("*", "b")), MatchCondition("suffix", ("f",)))
    assert store.batch([ListNamespacesOp(several)])[0] == [("a", "b", "f")]


@sqlite_and_ours
def test_a_namespace_without_items_is_not_listed(make: Make) -> None:
    store = make()
    store.put(HERE, "k", {"n": 1})
    store.get(("ghost",), "k")
    store.delete(("ghost",), "k")
    store.search(("ghost",))
    assert store.list_namespaces() == [HERE]
    store.delete(HERE, "k")
    assert store.list_namespaces() == []


# --- time to live --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mortal(open_store: Callable[..., MemOS]) -> Callable[..., MemOSStore]:
    def make(**ttl: Any) -> MemOSStore:
        return MemOSStore(open_store(), ttl=ttl or None)  # type: ignore[arg-type]

    return make


def test_an_item_is_gone_when_its_minutes_are_over(mortal: Callable[..., MemOSStore], clock: Clock) -> None:
    store = mortal(omit_expired=False)
    store.put(HERE, "k", {"n": 1}, ttl=2)
    store.put(("other",), "ever", {"n": 1})
    clock.forward(seconds=119)
    assert store.get(HERE, "k", refresh_ttl=False) is not None
    clock.forward(seconds=1)
    assert store.get(HERE, "k") is None
    assert keys(store.search(())) == keys(store.search((), query="n")) == ["ever"]
    assert store.list_namespaces() == [("other",)]


def test_a_default_holds_unless_a_put_says_otherwise(mortal: Callable[..., MemOSStore], clock: Clock) -> None:
    store = mortal(default_ttl=1, refresh_on_read=False)
    store.put(HERE, "default", {"n": 1})
    store.put(HERE, "longer", {"n": 1}, ttl=3.5)
    store.put(HERE, "ever", {"n": 1}, ttl=None)
    clock.forward(minutes=1)
    assert sorted(keys(store.search(HERE))) == ["ever", "longer"]
    clock.forward(minutes=2.5)
    assert keys(store.search(HERE)) == ["ever"]


@pytest.mark.parametrize(
    "read",
    [
        lambda s, **kw: s.get(HERE, "k", **kw),
        lambda s, **kw: s.search(HERE, **kw),
        lambda s, **kw: s.search(HERE, query="tea", **kw),
        lambda s, **kw: s.search(HERE, filter={"n": 1}, **kw),
        lambda s, **kw: asyncio.run(s.aget(HERE, "k", **kw)),
        lambda s, **kw: asyncio.run(s.asearch(HERE, **kw)),
    ],
)
@pytest.mark.parametrize(
    ("configured", "asked", "renews"),
    [({}, None, True), ({"refresh_on_read": False}, None, False), ({"refresh_on_read": False}, True, True),
     ({"refresh_on_read": True}, False, False), ({"default_ttl": 5.0}, None, True)],
)  # fmt: skip
def test_reading_renews_a_life_if_it_is_asked_to(
    mortal: Callable[..., MemOSStore], clock: Clock, read: Callable[..., Any], configured: Any, asked: Any, renews: bool
) -> None:
    store = mortal(**configured)
    store.put(HERE, "k", {"n": 1, "text": "tea"}, ttl=1)
    before = store.get(HERE, "k", refresh_ttl=False)
    clock.forward(seconds=40)
    assert read(store, **({} if asked is None else {"refresh_ttl": asked}))
    clock.forward(seconds=40)
    after = store.get(HERE, "k", refresh_ttl=False)
    assert (after == before) if renews else (after is None)  # its times and its value are as they were
    clock.forward(seconds=20)
    assert store.get(HERE, "k") is None


def test_only_what_a_read_returned_is_renewed(mortal: Callable[..., MemOSStore], clock: Clock) -> None:
    store = mortal()
    for n in range(4):
        store.put(HERE, str(n), {"n": n}, ttl=1)
    clock.forward(seconds=40)
    store.search(HERE, limit=2)
    clock.forward(seconds=40)
    assert sorted(keys(store.search(HERE))) == ["0", "1"]


def test_a_put_begins_a_life_anew(mortal: Callable[..., MemOSStore], clock: Clock) -> None:
    store = mortal()
    store.put(HERE, "k", {"n": 1}, ttl=1)
    clock.forward(seconds=50)
    store.put(HERE, "k", {"n": 2}, ttl=1)
    clock.forward(seconds=50)
    assert store.get(HERE, "k", refresh_ttl=False) is not None
    store.put(HERE, "k", {"n": 3})
    clock.forward(days=100)
    assert store.get(HERE, "k") is not None


def test_an_expired_item_can_be_put_again(mortal: Callable[..., MemOSStore], clock: Clock) -> None:
    store = mortal()
    store.put(HERE, "k", {"content": "old"}, ttl=1)
    clock.forward(minutes=2)
    store.put(HERE, "k", {"content": "new"})
    assert store.get(HERE, "k").value == {"content": "new"}  # type: ignore[union-attr]
    assert [i.score for i in store.search(HERE, query="new")] == [1.0]


def test_sweeping_removes_what_is_over(mortal: Callable[..., MemOSStore], clock: Clock) -> None:
    store = mortal(default_ttl=1.0)
    store.put(HERE, "a", {"n": 1})
    store.put(HERE, "b", {"n": 1}, ttl=10)
    assert store.sweep_ttl() == 0
    clock.forward(minutes=1)
    assert store.sweep_ttl() == 1
    assert store.sweep_ttl() == 0
    assert store.memory.stats().memories == 1


def test_a_sweeper_sweeps_until_it_is_stopped(mortal: Callable[..., MemOSStore], clock: Clock) -> None:
    store = mortal(default_ttl=1.0, sweep_interval_minutes=1e-5)
    store.put(HERE, "a", {"n": 1})
    clock.forward(minutes=1)
    done = store.start_ttl_sweeper()
    assert store.start_ttl_sweeper() is done  # one is enough
    swept = until(lambda: not store.memory.log(verb="delete"))
    assert swept
    assert not done.done()
    assert store.stop_ttl_sweeper(timeout=10)
    assert done.done()
    assert store.stop_ttl_sweeper()
    again = store.start_ttl_sweeper(60)
    assert again.cancel()
    assert store.stop_ttl_sweeper(timeout=10)
    store.close()


def until(waiting: Callable[[], bool]) -> bool:
    """Whether something came to an end within ten seconds."""
    end = time.monotonic() + 10
    while waiting() and time.monotonic() < end:
        threading.Event().wait(0.005)
    return not waiting()


def test_a_sweeper_outlives_a_failure_and_ends_with_the_store(
    open_store: Callable[..., MemOS], clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = open_store(policy=Policy(lock_seconds=0.01))
    store = MemOSStore(memory, ttl={"default_ttl": 1.0})
    store.put(HERE, "a", {"n": 1})
    clock.forward(minutes=1)
    with FileLock(tmp_path / "store" / ".write.lock"):  # as another process holds it that writes for long
        done = store.start_ttl_sweeper(1e-5)
        assert until(lambda: "sweeping expired items failed" not in caplog.text)
    assert until(lambda: not memory.log(verb="delete"))
    memory.close()
    assert done.result(timeout=10) is None


def test_without_a_configuration_no_sweeper_is_started(mortal: Callable[..., MemOSStore]) -> None:
    store = mortal()
    assert store.start_ttl_sweeper().done()
    assert store.stop_ttl_sweeper()


# --- making one ------------------------------------------------------------------------------------------------------------


async def async_letters(texts: Sequence[str]) -> list[list[float]]:
    await asyncio.sleep(0)
    return Letters().embed_documents(list(texts))


class AsyncLetters:
    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        return await async_letters(texts)


EMBEDDERS: list[Any] = [
    Letters(), Letters().embed_documents, lambda texts: Letters().embed_documents(list(texts)), async_letters, AsyncLetters(),
    ensure_embeddings(async_letters), ensure_embeddings(Letters().embed_documents),
]  # fmt: skip


@pytest.mark.parametrize("embed", EMBEDDERS)
@pytest.mark.parametrize("place", ["embed", "index"])
@pytest.mark.parametrize("looping", [False, True])
def test_any_form_of_embedder_will_do(embed: Any, place: str, looping: bool, tmp_path: Path) -> None:
    options = {"embed": embed} if place == "embed" else {"index": {"embed": embed, "dims": Letters.dimension}}

    def use(store: MemOSStore) -> list[Any]:
        store.put(HERE, "a", {"text": "qqqq"})
        store.put(HERE, "b", {"text": "zzzz"})
        return store.search(HERE, query="zzzz", limit=1)

    async def used_on_a_loop(store: MemOSStore) -> list[Any]:
        return use(store)

    with MemOSStore(tmp_path / "store", **options) as store:
        found = asyncio.run(used_on_a_loop(store)) if looping else use(store)
    assert [(i.key, round(i.score, 3)) for i in found] == [("b", 1.0)]


def test_a_provider_and_a_model_name_an_embedder(tmp_path: Path) -> None:
    with pytest.raises((ValueError, ImportError), match="nobody"):
        MemOSStore(tmp_path / "store", embed="nobody:some-model")


def test_a_path_is_opened_at_first_use_and_closed_by_whom_opened_it(tmp_path: Path, embed: WordsEmbedder) -> None:
    store = MemOSStore(tmp_path / "store", embed=embed)
    assert not (tmp_path / "store").exists()
    with store:
        store.setup()
        assert (tmp_path / "store").exists()
        store.put(HERE, "k", {"n": 1})
        memory = store.memory
    with pytest.raises(StoreClosed):
        memory.items.list()
    with MemOSStore(tmp_path / "store", embed=embed) as store:
        assert store.get(HERE, "k").value == {"n": 1}  # type: ignore[union-attr]


def test_a_memory_that_was_given_stays_open(memory: MemOS) -> None:
    async def used() -> None:
        async with MemOSStore(memory) as store:
            await store.aput(HERE, "k", {"n": 1})

    asyncio.run(used())
    with MemOSStore(memory) as store:
        assert store.get(HERE, "k") is not None
    assert memory.stats().memories == 1
    memory.close()
    for call in (
        lambda: store.get(HERE, "k"),
        lambda: store.put(HERE, "k", {}),
        lambda: store.search(()),
        store.list_namespaces,
    ):
        with pytest.raises(StoreClosed):
            call()


def test_arguments_that_make_no_sense_are_refused(memory: MemOS, embed: WordsEmbedder, tmp_path: Path) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"memory": memory, "embed": embed}, "embed"), ({"memory": memory, "index": {"embed": embed}}, "embed"), ({"memory": 5}, "memory"), ({"memory": ""}, "memory"),
        ({"memory": tmp_path, "embed": embed, "index": {"embed": embed}}, "twice"), ({"memory": tmp_path, "embed": 5}, "embed"), ({"memory": memory, "index": [1]}, "index"),
        ({"memory": memory, "index": {"fields": "text"}}, "index"), ({"memory": memory, "index": {"fields": [5]}}, "index"), ({"memory": memory, "ttl": 5}, "ttl"),
        ({"memory": memory, "ttl": {"default_ttl": 0}}, "default_ttl"), ({"memory": memory, "ttl": {"sweep_interval_minutes": -1}}, "sweep_interval_minutes"),
        ({"memory": memory, "ttl": {"default_ttl": "1"}}, "ttl"), ({"memory": memory, "actor": ""}, "user"), ({"memory": memory, "actor": "*"}, "user"),
    ]  # fmt: skip
    for arguments, named in bad:
        with pytest.raises(InvalidArgument, match=named):
            MemOSStore(**arguments)
    store = MemOSStore(memory)
    for ttl in (0, -1, float("inf"), float("nan"), 1e300):
        with pytest.raises(InvalidArgument, match="ttl"):
            store.put(HERE, "k", {"n": 1}, ttl=ttl)


# --- one memory for all ----------------------------------------------------------------------------------------------------


def test_what_is_put_is_recalled_and_what_is_added_is_an_item(memory: MemOS) -> None:
    store = MemOSStore(memory)
    store.put(HERE, "tea", {"content": "Ann takes her tea with lemon."})
    store.put(HERE, "many", {"title": "coffee", "body": "without sugar"}, index=["title", "body"])
    store.put(HERE, "secret", {"content": "not to be found"}, index=False)
    assert memory.search("tea with lemon")[0].cube.text == "Ann takes her tea with lemon."
    assert "with lemon" in memory.brief("How does Ann take her tea?").text
    assert {h.cube.text for h in memory.search("coffee without sugar")} >= {"coffee", "without sugar"}
    assert not [h for h in memory.search("not to be found") if "found" in h.cube.text]
    memory.add("Bob takes coffee.", namespace=HERE, key="bob", attributes={"sure": True})
    item = store.get(HERE, "bob")
    assert item is not None
    assert item.value == {"content": "Bob takes coffee.", "sure": True}
    assert store.search(HERE, query="Bob takes coffee.", filter={"sure": True})[0].score == 1.0
    memory.add("a turn without a key", namespace=HERE)
    assert sorted(keys(store.search(HERE))) == ["bob", "many", "secret", "tea"]
    store.put(HERE, "bob", {"content": "Bob takes tea."})
    assert store.get(HERE, "bob").value == {"content": "Bob takes tea."}  # type: ignore[union-attr]
    assert not [h for h in memory.search("Bob takes coffee.") if h.cube.text == "Bob takes coffee."]
    store.delete(HERE, "tea")
    assert "lemon" not in memory.brief("How does Ann take her tea?").text


def test_each_actor_has_a_store_of_his_own(memory: MemOS) -> None:
    ann, bob, default = MemOSStore(memory, actor="ann"), MemOSStore(memory, actor="bob"), MemOSStore(memory)
    ann.put(HERE, "k", {"n": 1})
    bob.put(HERE, "k", {"n": 2})
    bob.put(("bob",), "k", {"n": 3})
    assert ann.get(HERE, "k") == default.get(HERE, "k")
    assert [i.value for i in ann.search(())] == [{"n": 1}]
    assert [i.value for i in ann.search((), query="n")] == [{"n": 1}]
    assert ann.list_namespaces() == [HERE]
    ann.delete(("bob",), "k")
    ann.delete(HERE, "k")
    assert sorted(i.value["n"] for i in bob.search(())) == [2, 3]


# --- many at once ------------------------------------------------------------------------------------------------------------


def test_eight_threads_at_once_lose_nothing(memory: MemOS) -> None:
    store = MemOSStore(memory)
    problems: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(4):
                store.put((f"t{thread}",), str(n), {"content": f"tea {thread} {n}", "n": n})
                store.put(("shared",), str(n), {"content": f"{thread}"})
                assert store.get((f"t{thread}",), str(n)).value["n"] == n  # type: ignore[union-attr]
                assert keys(store.search((f"t{thread}",), query=f"tea {thread} {n}", filter={"n": n})) == [str(n)]
                store.list_namespaces(prefix=("t*",))
            store.delete((f"t{thread}",), "0")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(store.search((), limit=100)) == 8 * 3 + 4


def test_fifty_users_at_once_on_one_event_loop(open_store: Callable[..., MemOS]) -> None:
    at_work: set[threading.Thread] = set()

    def embed(texts: Sequence[str]) -> Any:
        at_work.add(threading.current_thread())
        return WordsEmbedder()(texts)

    memory = open_store(embed=embed)
    store = MemOSStore(memory)

    async def user(n: int) -> None:
        where = ("user", str(n))
        await store.aput(where, "mine", {"content": f"the word of user {n}"})
        await store.abatch([PutOp(where, "a", {"n": n}, index=False), PutOp(where, "b", {"n": n}, index=False)])
        items = await store.asearch(where, query=f"word of user {n}", limit=1)
        assert [i.value for i in items] == [{"content": f"the word of user {n}"}]
        assert (await store.aget(where, "mine")).value == {"content": f"the word of user {n}"}  # type: ignore[union-attr]
        await store.adelete(where, "a")
        assert sorted(keys(await store.asearch(where))) == ["b", "mine"]

    async def everybody() -> None:
        at_work.clear()
        await asyncio.gather(*(user(n) for n in range(50)))
        assert len(await store.alist_namespaces(prefix=("user",))) == 50

    asyncio.run(everybody())
    assert threading.current_thread() not in at_work  # on which the loop ran
    assert at_work
    assert len(memory.items.list(limit=1_000)) == 100


# --- against the store in memory -----------------------------------------------------------------------------------------------


places = st.sampled_from([("a",), ("a", "b"), ("b",), ("a_",)])
plain = st.fixed_dictionaries(
    {"text": st.text("qzjk", min_size=1, max_size=4)},
    optional={"n": st.integers(-2, 2), "deep": st.dictionaries(st.sampled_from("xy"), st.integers(0, 1), max_size=2), "l": st.lists(st.integers(0, 1), max_size=2)},
)  # fmt: skip
filters = st.one_of(
    st.none(), st.builds(lambda n: {"n": n}, st.integers(-2, 2)), st.builds(lambda x: {"deep": {"x": x}}, st.integers(0, 1)),
    st.builds(lambda v: {"deep": {"$ne": v}}, st.dictionaries(st.sampled_from("xy"), st.integers(0, 1), max_size=2)),
    st.builds(lambda v: {"l": v}, st.lists(st.integers(0, 1), max_size=2)), st.builds(lambda n: {"n": {"$ne": n}}, st.integers(-2, 2)),
)  # fmt: skip
operation = st.one_of(
    st.builds(PutOp, places, st.sampled_from("kl"), plain, st.sampled_from([None, None, False, ["text"], ["deep.x", "l[*]"]]), st.none()),
    st.builds(PutOp, places, st.sampled_from("kl"), st.none(), st.none(), st.none()),
    st.builds(GetOp, places, st.sampled_from("kl"), st.booleans()),
    st.builds(SearchOp, st.one_of(st.just(()), places), filters, st.just(50), st.just(0), st.one_of(st.none(), st.text("qzjk", min_size=1, max_size=3))),
    st.builds(ListNamespacesOp, st.just(None), st.sampled_from([None, 1])),
)  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    """One engine for many examples: each has an actor of its own."""
    with MemOS(tmp_path_factory.mktemp("shelf"), embed=Letters().embed_documents) as memory:
        yield memory


class Mended(InMemoryStore):
    """LangGraph's store in memory without what it does by accident: it lists namespaces that were only asked for or are empty,
    and finds an item by texts that an update took away."""

    def _handle_list_namespaces(self, op: ListNamespacesOp) -> Any:
        for where in [where for where, items in self._data.items() if not items]:
            del self._data[where]
        return super()._handle_list_namespaces(op)

    def _extract_texts(self, put_ops: Any) -> Any:
        for where, key in put_ops:
            self._vectors[where].pop(key, None)
        return super()._extract_texts(put_ops)


@settings(max_examples=20)
@given(st.lists(st.lists(operation, min_size=1, max_size=4), min_size=1, max_size=6))
def test_any_operations_give_what_the_store_in_memory_gives(shelf: MemOS, batches: list[list[Any]]) -> None:
    ours = MemOSStore(shelf, index={"fields": ["text"]}, actor=f"user {shelf._vault.revision()[1]}")
    theirs = Mended(index=letters("text"))
    for batch in batches:
        for op, mine, other in zip(batch, ours.batch(batch), theirs.batch(batch), strict=True):
            assert plainly(mine, op) == plainly(other, op), op


def plainly(result: Any, op: Any) -> Any:
    """What of a result stores agree on: its order only where the score makes it."""
    if isinstance(op, GetOp):
        return None if result is None else (result.namespace, result.key, result.value)
    if isinstance(op, SearchOp):
        scores = [None if i.score is None else round(i.score, 4) for i in result]
        assert scores == sorted(scores, key=lambda s: (s is None, -(s or 0)))
        return sorted(((i.namespace, i.key, str(i.value), s) for i, s in zip(result, scores, strict=True)), key=str)
    return result
