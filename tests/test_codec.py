"""Records come back as they were, of every kind; records of other schemas are read or refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import (
    Access,
    Adapter,
    InvalidArgument,
    Kind,
    KVCache,
    Lifespan,
    Link,
    MemCube,
    Origin,
    SchemaMismatch,
    SourceKind,
    State,
    Steering,
    Text,
    Usage,
)  # fmt: skip
from memos_core.codec import checked_attributes, checksum, decode, encode
from memos_core.types import SCHEMA

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
word = text.filter(bool)
moment = st.datetimes(
    datetime(1, 1, 2),  # noqa: DTZ001
    datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
size = st.integers(0, 2**40)
plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        text,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(word, inner, max_size=3)),
    max_leaves=6,
)
payloads = st.one_of(
    st.builds(Text, text),
    st.builds(KVCache, word, word, size, size),
    st.builds(Steering, word, word, size, size),
    st.builds(Adapter, word, word, st.lists(word, max_size=3).map(tuple), size, size),
)
KINDS = {Text: Kind.PLAINTEXT, KVCache: Kind.ACTIVATION, Steering: Kind.ACTIVATION, Adapter: Kind.PARAMETRIC}
names = st.frozensets(word, max_size=3)


def maybe(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | of


@st.composite
def cubes(draw: st.DrawFn) -> MemCube:
    payload = draw(payloads)
    return MemCube(
        id=draw(word), version=draw(st.integers(1, 2**31)), kind=KINDS[type(payload)], state=draw(st.sampled_from(State)),
        namespace=draw(st.lists(word, min_size=1, max_size=3).map(tuple)), payload=payload,
        origin=draw(st.builds(
            Origin, st.sampled_from(SourceKind), moment, maybe(moment), maybe(text), maybe(text), maybe(text), maybe(size),
            maybe(text), maybe(text), maybe(text))),
        access=draw(st.builds(Access, word, names, names)), created_at=draw(moment), updated_at=draw(moment),
        key=draw(maybe(word)), semantic_type=draw(maybe(word)), tags=draw(st.lists(text, max_size=3).map(tuple)),
        attributes=draw(st.dictionaries(word, plain, max_size=3)), priority=draw(st.floats(0, 1)),
        sensitivity=draw(st.lists(text, max_size=2).map(tuple)),
        lifespan=draw(st.builds(
            Lifespan, maybe(moment), maybe(moment), maybe(st.timedeltas(timedelta(0), timedelta(days=100_000))),
            maybe(st.sampled_from(State)), maybe(st.timedeltas(timedelta(0), timedelta(days=100_000))))),
        usage=Usage(draw(size), draw(maybe(moment))),
        lineage=draw(st.lists(st.builds(Link, word, size, st.sampled_from(["derived", "supersedes", "merged", "passage"])), max_size=3).map(tuple)),
    )  # fmt: skip


@given(cubes())
def test_a_cube_of_any_kind_comes_back_equal(cube: MemCube) -> None:
    record = encode(cube)
    assert decode(record, cube.text or None, cube.usage) == cube
    assert json.loads(record)["schema"] == SCHEMA
    assert cube.text == "" or len(cube.text) < 3 or isinstance(cube.payload, Text)


@given(cubes())
def test_the_passage_stands_beside_the_record_and_not_in_it(cube: MemCube) -> None:
    if isinstance(cube.payload, Text):
        assert "payload" not in json.loads(encode(cube))


@given(st.dictionaries(word, plain, max_size=4))
def test_attributes_are_copied_as_they_are(attributes: dict[str, Any]) -> None:
    copied = checked_attributes(attributes)
    assert copied == attributes
    assert json.loads(json.dumps(copied)) == attributes


@pytest.mark.parametrize(
    "bad",
    [
        [], "a", 5, {1: 2}, {None: 1}, {"a": float("nan")}, {"a": float("inf")}, {"a": 2**63}, {"a": -(2**63) - 1}, {"a": b"x"},
        {"a": {1}}, {"a": 1j}, {"a": [1, {"b": float("nan")}]}, {"a": {"b": {2: 3}}}, {"a": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
    ids=repr,
)  # fmt: skip
def test_attributes_that_json_cannot_hold_are_refused(bad: Any) -> None:
    with pytest.raises(InvalidArgument, match="attributes"):
        checked_attributes(bad)


def test_attributes_nested_without_end_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(20_000):
        deep = {"a": deep}
    with pytest.raises(InvalidArgument, match="attributes"):
        checked_attributes(deep)
    round_and_round: dict[str, Any] = {}
    round_and_round["a"] = round_and_round
    with pytest.raises(InvalidArgument, match="attributes"):
        checked_attributes(round_and_round)


@given(cubes(), st.integers(0, 200), st.integers(1, 255))
def test_a_changed_record_has_another_sum(cube: MemCube, at: int, by: int) -> None:
    record = encode(cube)
    raw = bytearray(record.encode())
    raw[at % len(raw)] ^= by
    changed = raw.decode(errors="replace")
    assert changed == record or checksum(changed, cube.text) != checksum(record, cube.text)


def test_a_record_from_the_future_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match=f"schema {SCHEMA + 1}"):
        decode(json.dumps({"schema": SCHEMA + 1, "id": "x"}), None)
