"""Filters mean what they say, on whatever values: held against the same rules in plain Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import InvalidArgument, MemOS
from memos_core.filters import decode_namespace, encode_namespace, matching
from tests.conftest import Clock
from tests.words import WordsEmbedder

NASTY = [
    "",
    "'",
    "''",
    '"',
    "\\",
    "\\'",
    "a'b",
    "--",
    ";",
    "%",
    "_",
    "\n",
    "\x00",
    "é",
    "e\u0301",
    "😀",
    "שלום",
    "null",
    "true",
    "5",
    "$gt",
]
NAMES = ["a", "b", "a.b", "a b", "A", "'", '"', "0", "é", "$", "null"]

scalars = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=4), st.integers(-3, 3), st.booleans(), st.none(),
    st.sampled_from([0.5, -0.5, 1.0, 2**53, -(2**53), 1e300, -1e-300]),
)  # fmt: skip
attributes = st.dictionaries(
    st.sampled_from(NAMES), st.one_of(scalars, st.dictionaries(st.sampled_from(NAMES), scalars, max_size=2)), max_size=3
)
comparable = scalars.filter(lambda v: isinstance(v, str) or (isinstance(v, int | float) and not isinstance(v, bool)))
condition = st.one_of(
    scalars,
    st.builds(lambda v: {"$eq": v}, scalars),
    st.builds(lambda v: {"$ne": v}, scalars),
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), comparable),
    st.builds(lambda a, b: {"$gte": a, "$lt": b}, comparable, comparable),
    st.builds(lambda vs: {"$in": vs}, st.lists(scalars, max_size=3)),
)
filters = st.dictionaries(st.sampled_from([*NAMES, "a.b.c", "attributes.a"]), condition, min_size=1, max_size=2)


# --- the rules, in Python ------------------------------------------------------------------------------------------------

MISSING = object()


def value_at(of: Mapping[str, Any], name: str) -> Any:
    """The attribute of just this name, else the nested one."""
    name = name.removeprefix("attributes.")
    if name in of:
        return of[name]
    value: Any = of
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def sort(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def holds(value: Any, operator: str, wanted: Any) -> bool:
    if operator == "$in":
        return any(holds(value, "$eq", one) for one in wanted)
    if operator == "$ne":
        return not holds(value, "$eq", wanted)
    if value is MISSING or sort(value) != sort(wanted):
        return False
    compare = {
        "$eq": lambda: value == wanted, "$gt": lambda: value > wanted, "$gte": lambda: value >= wanted,
        "$lt": lambda: value < wanted, "$lte": lambda: value <= wanted,
    }  # fmt: skip
    return bool(compare[operator]())


def matches(of: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    return all(
        holds(value_at(of, name), operator, value)
        for name, wanted in conditions.items()
        for operator, value in (wanted if isinstance(wanted, Mapping) else {"$eq": wanted}).items()
    )


# --- against the store ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    """One store for many examples: each has a namespace of its own."""
    with MemOS(tmp_path_factory.mktemp("filters"), embed=WordsEmbedder(8), actor="ann", clock=Clock()) as memory:
        yield memory


def found(memory: MemOS, where: tuple[str, ...], filter: Any) -> list[int]:
    return sorted(int(h.cube.text.split()[1]) for h in memory.search("note", namespace=where, filter=filter, k=100))


@settings(max_examples=30)
@given(stored=st.lists(attributes, min_size=1, max_size=6), asked=st.lists(filters, min_size=3, max_size=6))
def test_a_filter_finds_what_its_rules_say(shelf: MemOS, stored: list[Any], asked: list[Any]) -> None:
    where = ("example", str(shelf.stats().memories))
    for number, some in enumerate(stored):
        assert shelf.add(f"note {number}", namespace=where, attributes=some)[0].attributes == some
    for conditions in asked:
        wanted = [n for n, some in enumerate(stored) if matches(some, conditions)]
        assert found(shelf, where, conditions) == wanted, conditions


@pytest.mark.parametrize("resident", [20_000, 2])
def test_tags_and_header_fields_can_be_asked_for(resident: int, open_store: Any) -> None:
    from memos_core import Policy

    memory = open_store(policy=Policy(resident_memories=resident))
    memory.add("note 0", tags=["work", "it's"], semantic_type="fact", session="s", source="mail", key="k")
    memory.add({"role": "user", "content": "note 1", "name": "Zoë"}, session="t", tags=["home"])
    memory.add({"role": "assistant", "content": "note 2"}, attributes={"session": "s", "tags": ["work"]})
    asked: list[tuple[dict[str, Any], list[int]]] = [
        ({"tags": "work"}, [0]), ({"tags": "it's"}, [0]), ({"tags": {"$ne": "work"}}, [1, 2]),
        ({"tags": {"$in": ["home", "work"]}}, [0, 1]), ({"tags": {"$in": []}}, []), ({"tags": "wor"}, []),
        ({"semantic_type": "fact"}, [0]), ({"semantic_type": None}, [1, 2]), ({"semantic_type": {"$ne": "fact"}}, [1, 2]),
        ({"semantic_type": {"$ne": None}}, [0]), ({"session": "s"}, [0]), ({"attributes.session": "s"}, [2]),
        ({"session": {"$in": ["s", "t"]}}, [0, 1]), ({"session": {"$gt": "s"}}, [1]), ({"speaker": "Zoë"}, [1]),
        ({"role": "assistant"}, [2]), ({"role": {"$ne": "assistant"}}, [0, 1]), ({"key": "k"}, [0]), ({"source": "mail"}, [0]),
        ({"tags": "work", "session": "t"}, []), ({"tags": "work", "session": "s"}, [0]), ({}, [0, 1, 2]),
    ]  # fmt: skip
    for conditions, wanted in asked:
        assert found(memory, ("default",), conditions) == wanted, conditions


BAD: list[tuple[Any, str]] = [
    ([("a", 1)], "filter"), ("a = 1", "filter"), ([], "filter"), (0, "filter"), ("", "filter"), ({1: 2}, "name"), ({"": 2}, "name"),
    ({"a": {"$foo": 1}}, r"\$foo"), ({"a": {"$regex": "x"}}, r"\$regex"), ({"$or": [{"a": 1}]}, "or"), ({"a": {"b": 1}}, "b"),
    ({"a": {}}, "condition"), ({"a": [1]}, "a"), ({"a": {"$in": "abc"}}, r"\$in"), ({"a": {"$in": 5}}, r"\$in"),
    ({"a": {"$in": [[1]]}}, "a"), ({"a": {"$gt": None}}, "None"), ({"a": {"$gt": True}}, "True"), ({"a": float("nan")}, "nan"),
    ({"a": float("inf")}, "inf"), ({"a": 10**400}, "a"), ({"a": b"x"}, "a"), ({"tags": 5}, "tags"), ({"tags": {"$gt": "a"}}, "tags"),
    ({"session": 5}, "session"), ({"session": {"$gt": None}}, "session"), ({"a": "\ud800"}, "a"), ({"\ud800": 1}, "filter"),
    ({"tags": "\ud800"}, "filter"), ({"session": {"$in": ["\ud800"]}}, "filter"),
]  # fmt: skip


@pytest.mark.parametrize(("filter", "named"), BAD, ids=lambda v: repr(v)[:40].encode("ascii", "replace").decode())
def test_a_filter_that_means_nothing_is_refused_by_name(shelf: MemOS, filter: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named) as caught:
        shelf.search("note", filter=filter)
    assert "filter" in str(caught.value)


def test_no_filter_is_no_condition() -> None:
    assert matching(None) is None
    assert matching({}) is None


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_namespace_comes_back_from_its_path(labels: list[str]) -> None:
    assert decode_namespace(encode_namespace(tuple(labels))) == tuple(labels)


label = st.one_of(
    st.sampled_from(["a", "b", "a/", "%", "%2F", "/", "0", "a0", "\x00", "é", "😀", "'"]),
    st.text(min_size=1, max_size=3),
)


@given(st.lists(label, min_size=1, max_size=3), st.lists(label, min_size=1, max_size=3))
def test_a_path_lies_below_another_just_when_its_labels_do(one: list[str], other: list[str]) -> None:
    path, below = encode_namespace(tuple(one)), encode_namespace(tuple(other))
    inside = path.encode() <= below.encode() < (path[:-1] + "0").encode()
    assert inside == (tuple(other[: len(one)]) == tuple(one))
