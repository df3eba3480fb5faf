"""What is already stored is not stored twice; what only looks alike is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import Access, Kind, MemCube, MemOS, Origin, SourceKind, State, Text
from memos_core.placement import digest, place
from memos_core.reader import Turn
from tests.conftest import START

Message = dict[str, Any]


def said(*texts: str, role: str = "user") -> list[Message]:
    return [{"role": role, "content": text} for text in texts]


def count(memory: MemOS) -> int:
    return memory.stats().memories


def texts(memory: MemOS) -> list[str]:
    """What is stored of one session, in its order."""
    cubes = [h.cube for h in memory.search("anything", k=1000)]
    return [c.text for c in sorted(cubes, key=lambda c: c.origin.position or 0)]


TALK = said("hello", "I live in Rome", "and you?", "in Paris")


def test_a_transcript_handed_in_again_is_the_same_memories(memory: MemOS) -> None:
    first = memory.add(TALK, session="s")
    assert memory.add(TALK, session="s") == first
    assert count(memory) == len(TALK)


def test_a_transcript_that_grew_adds_only_its_new_turns(memory: MemOS) -> None:
    for length in range(1, len(TALK) + 1):
        memory.add(TALK[:length], session="s")
    assert texts(memory) == [m["content"] for m in TALK]


def test_the_beginning_of_a_longer_transcript_adds_nothing(memory: MemOS) -> None:
    memory.add(TALK, session="s")
    memory.add(TALK[:2], session="s")
    assert count(memory) == len(TALK)


def test_a_sliding_window_of_recent_turns_adds_only_its_new_ones(memory: MemOS) -> None:
    for end in range(2, len(TALK) + 1):
        memory.add(TALK[end - 2 : end], session="s")
    assert texts(memory) == [m["content"] for m in TALK]


def test_turns_added_one_by_one_are_the_transcript(memory: MemOS) -> None:
    one_by_one = [memory.add(message, session="s")[0].id for message in TALK]
    assert [c.id for c in memory.add(TALK, session="s")] == one_by_one
    assert [memory.get(id).origin.position for id in one_by_one] == list(range(len(TALK)))


def test_a_transcript_without_a_session_handed_in_again_is_the_same(memory: MemOS) -> None:
    assert memory.add(TALK) == memory.add(TALK)
    assert count(memory) == len(TALK)


def test_yes_said_twice_in_one_conversation_is_two_memories(memory: MemOS) -> None:
    talk = [*said("yes"), *said("sure?", role="assistant"), *said("yes")]
    memory.add(talk, session="s")
    assert count(memory) == 3
    memory.add(talk, session="s")
    assert count(memory) == 3


def test_yes_said_twice_in_a_row_is_two_memories(memory: MemOS) -> None:
    memory.add(said("yes", "yes"), session="s")
    memory.add(said("yes", "yes"), session="s")
    assert count(memory) == 2


def test_the_same_greeting_in_a_later_turn_is_a_new_memory(memory: MemOS) -> None:
    memory.add(said("hi", "how are you?"), session="s")
    memory.add(said("hi"), session="s")
    assert texts(memory) == ["hi", "how are you?", "hi"]


def test_bare_notes_are_never_taken_for_each_other(memory: MemOS) -> None:
    memory.add("milk")
    memory.add("milk")
    assert count(memory) == 2


@pytest.mark.parametrize(
    "other",
    [{"actor": "bob"}, {"namespace": ("elsewhere",)}, {"session": "t"}, {"namespace": ("default", "below")}],
    ids=["owner", "namespace", "session", "below"],
)
@pytest.mark.parametrize("ids", [False, True], ids=["by place", "by id"])
def test_equal_turns_of_others_are_others(memory: MemOS, other: dict[str, Any], ids: bool) -> None:
    talk = [{**m, "id": str(i)} for i, m in enumerate(TALK)] if ids else TALK
    mine = memory.add(talk, session="s", actor="ann")
    theirs = memory.add(talk, **{"session": "s", "actor": "ann", **other})
    assert not {c.id for c in mine} & {c.id for c in theirs}
    assert [c.origin.position for c in theirs] == list(range(len(TALK)))


def test_a_message_with_a_known_id_is_stored_once(memory: MemOS) -> None:
    message = {"role": "user", "content": "I moved to Rome", "id": "m1"}
    [first] = memory.add(message, session="s")
    assert memory.add([*said("before"), message, *said("after")], session="s")[1] == first
    assert texts(memory).count("I moved to Rome") == 1


def test_messages_with_ids_need_no_session_to_be_known_again(memory: MemOS) -> None:
    talk = [{**m, "id": f"m{i}"} for i, m in enumerate(TALK)]
    for length in (1, 2, len(talk)):
        memory.add(talk[:length])
    memory.add(talk[1])
    assert count(memory) == len(talk)


def test_an_edited_message_is_a_new_version(memory: MemOS) -> None:
    [first] = memory.add({"role": "user", "content": "I moved to Rome", "id": "m1"}, session="s")
    [second] = memory.add({"role": "user", "content": "I moved to Romania", "id": "m1"}, session="s")
    assert (second.id, second.version, second.text) == (first.id, 2, "I moved to Romania")
    assert [c.text for c in memory.history(first.id)] == ["I moved to Rome", "I moved to Romania"]
    assert count(memory) == 1
    assert memory.add({"role": "user", "content": "I moved to Romania", "id": "m1"}, session="s")[0].version == 2


def test_one_id_twice_in_one_call_loses_no_words(memory: MemOS) -> None:
    first = {"role": "user", "content": "first wording", "id": "m1"}
    found = memory.add([first, {**first, "content": "second wording"}], session="s")
    assert count(memory) == 1
    assert found[-1].text == "second wording"
    assert [c.text for c in memory.history(found[-1].id)] == ["first wording", "second wording"]


def test_the_same_message_twice_in_one_call_is_one(memory: MemOS) -> None:
    message = {"role": "user", "content": "hello", "id": "m1"}
    found = memory.add([message, message], session="s")
    assert {c.id for c in found} == {found[0].id}
    assert (count(memory), memory.get(found[0].id).version) == (1, 1)


def test_a_deleted_turn_does_not_double_the_rest_when_its_transcript_comes_again(memory: MemOS) -> None:
    cubes = memory.add(TALK, session="s")
    memory.delete(cubes[1].id)
    memory.add(TALK, session="s")
    found = texts(memory)
    assert len(found) - len(set(found)) == 0
    assert {c.id for c in cubes} - {cubes[1].id} <= {h.cube.id for h in memory.search("x", k=100)}


def test_a_corrected_turn_does_not_double_its_transcript_when_it_comes_again(memory: MemOS) -> None:
    cubes = memory.add(TALK, session="s")
    memory.update(cubes[1].id, "I live in Milan")
    memory.add(TALK, session="s")
    assert count(memory) == len(TALK)
    assert memory.get(cubes[1].id).text == "I live in Milan"


@pytest.mark.parametrize("change", ["update", "share", "freeze"])
def test_a_new_turn_after_a_changed_one_is_not_taken_for_it(memory: MemOS, change: str) -> None:
    [first] = memory.add(said("one"), session="s")
    changes = {
        "update": lambda: memory.update(first.id, "uno"),
        "share": lambda: memory.share(first.id, readers=["bob"]),
        "freeze": lambda: memory.freeze(first.id),
    }
    changes[change]()
    [second] = memory.add(said("something else"), session="s")
    assert (second.id != first.id, second.text) == (True, "something else")
    third, fourth = memory.add(said("two", "three"), session="s")
    assert len({first.id, second.id, third.id, fourth.id}) == 4
    assert count(memory) == 4


@pytest.mark.parametrize("turns", [1, 4, 40])
def test_a_session_goes_on_after_its_store_was_compacted(memory: MemOS, turns: int) -> None:
    talk = said(*(f"turn {n}" for n in range(turns)))
    memory.add(talk, session="s")
    assert memory.tick().compacted
    assert [c.version for c in memory.add(talk, session="s")] == [1] * turns
    [new] = memory.add(said("one more"), session="s")
    assert new.origin.position == turns
    [first] = memory.add(said("another talk"), session="t")
    assert first.origin.position == 0


def test_times_tell_equal_words_apart(memory: MemOS) -> None:
    morning = {"role": "user", "content": "good day", "timestamp": "2026-01-01T08:00:00+00:00"}
    evening = {**morning, "timestamp": "2026-01-01T20:00:00+00:00"}
    memory.add(morning, session="s")
    memory.add(evening, session="s")
    assert count(memory) == 2


def test_the_same_key_is_the_same_memory(memory: MemOS) -> None:
    [first] = memory.add("tea", key="drink", tags=["old"], attributes={"a": 1})
    [second] = memory.add("coffee", key="drink")
    assert (second.id, second.version, second.text, second.tags, second.attributes) == (first.id, 2, "coffee", (), {})
    assert memory.get(second.id) == second


@pytest.mark.parametrize("other", [{"actor": "bob"}, {"namespace": ("default", "x")}, {"key": "drinks"}])
def test_the_same_key_elsewhere_is_another_memory(memory: MemOS, other: dict[str, Any]) -> None:
    [mine] = memory.add("tea", key="drink")
    [theirs] = memory.add("coffee", **{"key": "drink", **other})
    assert mine.id != theirs.id
    assert (mine.version, theirs.version) == (1, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "b"), ("a/b",)), (("a", "b"), ("ab",)), (("a",), ("a", "key")), (("1:a",), ("a",)), (("a%2Fb",), ("a/b",))],
)
def test_namespaces_that_read_alike_are_apart(memory: MemOS, one: tuple[str, ...], other: tuple[str, ...]) -> None:
    [first] = memory.add("tea", key="k", namespace=one)
    [second] = memory.add("tea", key="k", namespace=other)
    assert first.id != second.id
    inside = [h.cube.id for h in memory.search("tea", namespace=one)]
    assert (second.id in inside) == (other[: len(one)] == one)


@given(
    talk=st.lists(st.sampled_from(["yes", "no", "why?"]), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
def test_growing_a_transcript_by_any_steps_stores_it_as_it_is(talk: list[str], cuts: list[int]) -> None:
    """Property of the pure rule: from two turns on, a transcript that grows is always recognised."""
    stored: list[Any] = []
    for end in sorted({min(max(c, 2), len(talk)) for c in cuts} | {len(talk)}):
        turns = [Turn(text, "user") for text in talk[:end]]
        near_end = stored[-len(turns) :]
        placed = place(turns, "s", {}, [None] * len(turns), stored[: len(turns)], near_end)
        stored += [a_turn(p.turn, p.position) for p in placed if p.stored is None]
    assert [c.text for c in stored] == talk
    assert [c.origin.position for c in stored] == list(range(len(talk)))


def a_turn(turn: Turn, position: int | None) -> MemCube:
    origin = Origin(SourceKind.MESSAGE, START, role="user", session="s", position=position, digest=digest(turn))
    kind, state = Kind.PLAINTEXT, State.GENERATED
    return MemCube(f"{position}", 1, kind, state, ("n",), Text(turn.text), origin, Access("ann"), START, START)
