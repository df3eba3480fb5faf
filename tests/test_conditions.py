"""Conditions on values mean what they say, in SQL and in Python: held against the same rules written once more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import InvalidArgument, Item, MemOS
from memos_core.conditions import holds, of_value
from tests.conftest import Clock
from tests.test_filters import NAMES, scalars
from tests.words import WordsEmbedder

numbers = st.sampled_from([0, 1, -1, 2, 0.5, 1.0, 2**53, 2**53 + 1, 2**62, 2**62 + 1, -(2**63), 1e300])
small = st.one_of(scalars, numbers)
values = st.recursive(
    small, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)), max_leaves=5
)  # fmt: skip
objects = st.dictionaries(st.sampled_from([*NAMES, "a.0", "1"]), values, max_size=3)
plain = st.sampled_from([n for n in NAMES if not n.startswith("$")])
operators = st.one_of(
    st.dictionaries(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), values, min_size=1, max_size=2),
    st.builds(lambda vs: {"$in": vs}, st.lists(values, max_size=3)),
)
wanted = st.recursive(
    st.one_of(small, operators),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(plain, inner, max_size=2)), max_leaves=3,
)  # fmt: skip
asked = st.dictionaries(st.sampled_from([*NAMES, "a.b.c", "a.0", "a.1"]), wanted, min_size=1, max_size=2)


# --- the rules, once more ------------------------------------------------------------------------------------------------

NOTHING = object()


def at(value: Mapping[str, Any], name: str) -> Any:
    if name in value:
        return value[name]
    head, _, rest = name.partition(".")
    steps = [head, *rest.split(".")] if rest else [head]
    here: Any = value
    for step in steps:
        here = here[step] if isinstance(here, dict) and step in here else NOTHING
    return here


def sort(value: Any) -> str:
    if value is NOTHING or value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def equal(one: Any, other: Any) -> bool:
    if sort(one) != sort(other):
        return False
    if isinstance(one, dict):
        return sorted(one) == sorted(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return sort(one) == "null" or one == other


def fulfils(value: Any, condition: Any) -> bool:
    if isinstance(condition, dict) and any(k[:1] == "$" for k in condition):
        return all(satisfies(value, k, v) for k, v in condition.items())
    if isinstance(condition, dict):
        return isinstance(value, dict) and all(fulfils(value.get(k, NOTHING), v) for k, v in condition.items())
    if isinstance(condition, list):
        same = isinstance(value, list) and len(value) == len(condition)
        return same and all(fulfils(v, c) for v, c in zip(value, condition, strict=True))
    return equal(value, condition)


def satisfies(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$in":
        return any(equal(value, one) for one in operand)
    if operator in ("$eq", "$ne"):
        return equal(value, operand) == (operator == "$eq")
    if sort(value) != sort(operand) or sort(value) not in ("number", "str"):
        return False
    if value == operand:
        return operator in ("$gte", "$lte")
    return bool(value > operand) == (operator in ("$gt", "$gte"))


# --- against the store ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    with MemOS(tmp_path_factory.mktemp("conditions"), embed=WordsEmbedder(8), actor="ann", clock=Clock()) as memory:
        yield memory


def found(memory: MemOS, where: tuple[str, ...], filter: Any) -> list[int]:
    return sorted(int(c.key or "") for c in memory.items.list(where, filter=filter))


@settings(max_examples=20)
@given(stored=st.lists(objects, min_size=1, max_size=6), filters=st.lists(asked, min_size=3, max_size=6))
def test_a_condition_finds_what_its_rules_say(shelf: MemOS, stored: list[Any], filters: list[Any]) -> None:
    where = ("example", str(shelf._vault.revision()[1]))
    shelf.items.put([Item(where, str(n), value) for n, value in enumerate(stored)])
    for filter in filters:
        hold = [n for n, value in enumerate(stored) if all(fulfils(at(value, k), c) for k, c in filter.items())]
        assert found(shelf, where, filter) == hold, filter
        assert [n for n, value in enumerate(stored) if holds(filter, value)] == hold, filter
        test = of_value(filter)
        assert test is not None
        passed = shelf._vault.column("key", f"namespace = 'example/{where[1]}/' AND ({test.sql})")
        assert {int(k) for k in passed} >= set(hold), filter  # a prefilter never loses one
        assert not test.exact or sorted(map(int, passed)) == hold, filter


TABLE: list[tuple[Any, dict[str, Any], bool]] = [
    ({"a": 1}, {"a": 1}, True), ({"a": 1.0}, {"a": 1}, True), ({"a": True}, {"a": 1}, False), ({"a": "1"}, {"a": 1}, False),
    ({"a": None}, {"a": None}, True), ({}, {"a": None}, True), ({"a": 0}, {"a": None}, False), ({}, {"a": {"$ne": 1}}, True),
    ({}, {"a": {"$ne": None}}, False), ({"a": 1}, {"a": {"$ne": None}}, True), ({"a": {"b": 1}}, {"a.b": 1}, True),
    ({"a.b": 2, "a": {"b": 1}}, {"a.b": 1}, False), ({"a.b": 2, "a": {"b": 1}}, {"a.b": 2}, True), ({"a.b": None, "a": {"b": 1}}, {"a.b": 1}, False),
    ({"a": [1]}, {"a.0": 1}, False), ({"a": [1, 2]}, {"a": [1, 2]}, True), ({"a": [1, 2]}, {"a": (1, 2)}, True), ({"a": [1, 2]}, {"a": [1]}, False),
    ({"a": [1, {"b": 2, "c": 3}]}, {"a": [1, {"b": 2}]}, True), ({"a": [1, {"b": 2, "c": 3}]}, {"a": {"$eq": [1, {"b": 2}]}}, False),
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True), ({"a": {"b": 1, "c": 2}}, {"a": {"$eq": {"b": 1}}}, False), ({"a": {}}, {"a": {}}, True),
    ({"a": {"b": 1}}, {"a": {"$eq": {"b": 1.0}}}, True), ({"a": {"b": 1}}, {"a": {"$ne": {"b": 1}}}, False), ({"a": 5}, {"a": {"b": None}}, False),
    ({"a": {"b": {"c": 7}}}, {"a": {"b": {"c": {"$gt": 6, "$lt": 8}}}}, True), ({"a": "b"}, {"a": {"$gt": "a"}}, True), ({"a": "b"}, {"a": {"$gt": 1}}, False),
    ({"a": None}, {"a": {"$gt": 1}}, False), ({"a": 2}, {"a": {"$gt": None}}, False), ({"a": True}, {"a": {"$gte": True}}, False),
    ({"a": [2]}, {"a": {"$gt": [1]}}, False), ({"a": "2026-03-02"}, {"a": {"$gte": "2026-03-01", "$lt": "2026-04-01"}}, True),
    ({"a": 2**62 + 1}, {"a": 2**62}, False), ({"a": 2**62 + 1}, {"a": {"$gt": 2**62}}, True), ({"a": 3}, {"a": {"$in": [1, 3]}}, True),
    ({"tags": "x", "key": "y"}, {"tags": "x", "key": "y"}, True), ({"attributes": {"a": 1}}, {"attributes.a": 1}, True), ({"a": 1}, {"attributes.a": 1}, False),
    ({"a b'c\"": 1}, {"a b'c\"": 1}, True), ({"a": "' OR 1=1 --"}, {"a": "' OR 1=1 --"}, True), ({"a": 1}, {"a": 1, "b": 2}, False),
]  # fmt: skip


@pytest.mark.parametrize(("value", "filter", "hold"), TABLE)
def test_a_condition_holds_or_not(shelf: MemOS, value: Any, filter: dict[str, Any], hold: bool) -> None:
    where = ("table", str(shelf._vault.revision()[1]))
    shelf.items.put([Item(where, "1", value)])
    assert found(shelf, where, filter) == ([1] if hold else [])


BAD: list[tuple[Any, str]] = [
    ([("a", 1)], "mapping"), ({1: 2}, "name"), ({"": 2}, "name"), ({"a..b": 2}, "dots"), ({".a": 2}, "dots"), ({"a.": 1}, "dots"), ({"." * 20: 1}, "dots"),
    ({"a": {"$foo": 1}}, r"\$foo"), ({"a": {"$gt": 1, "b": 1}}, "'b'"), ({"a": {1: 2}}, "string"), ({"a": {"b": {"$nor": 1}}}, r"\$nor"),
    ({"a": {"$in": 5}}, r"\$in"), ({"a": {"$in": "abc"}}, r"\$in"), ({"a": float("nan")}, "nan"), ({"a": {"$gt": float("inf")}}, "inf"), ({"a": 2**63}, "JSON"),
    ({"a": b"x"}, "JSON"), ({"a": {"$eq": {"b": object()}}}, "JSON"), ({"a": ["\ud800"]}, "Unicode"), ({"\ud800": 1}, "Unicode"), ({"a": {"\ud800": 1}}, "Unicode"),
]  # fmt: skip


@pytest.mark.parametrize(("filter", "named"), BAD)
def test_a_condition_that_means_nothing_is_refused(filter: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        of_value(filter)


def test_conditions_without_end_are_refused() -> None:
    nested: Any = 1
    objects_: Any = {"$eq": 1}
    for _ in range(40):
        nested, objects_ = [nested], {"a": objects_}
    for filter in ({"a": nested}, {"a": {"$eq": nested}}, {"a": objects_}, {"a": {"$eq": {"b": nested}}}):
        with pytest.raises(InvalidArgument, match="deeper"):
            of_value(filter)


def test_no_condition_is_none() -> None:
    assert of_value(None) is None
    assert of_value({}) is None
