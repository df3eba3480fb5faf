"""How a conversation that is stored becomes another one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamaindex_memos.conversation import Kept, following, replaced


def kept(bodies: str) -> list[Kept]:
    return list(replaced([], list(bodies), str).after)


def bodies(messages: object) -> str:
    return "".join(k.body for k in messages)  # type: ignore[attr-defined]


LETTERS = st.text(alphabet="abc", max_size=8)


@given(st.lists(LETTERS, max_size=5))
def test_a_conversation_becomes_what_it_is_told_to_be_in_order_and_keeps_what_it_has(steps: list[str]) -> None:
    stored: dict[str, str] = {}
    before: list[Kept] = []
    for wanted in steps:
        change = replaced(before, list(wanted), str)
        for key in change.gone:
            del stored[key]
        stored |= {k.key: k.body for k in change.written}
        assert "".join(stored[key] for key in sorted(stored)) == wanted  # read back by its keys
        assert bodies(change.after) == wanted
        assert sorted(stored) == [k.key for k in change.after]
        assert {k.key for k in change.new} <= {k.key for k in change.written}
        before = list(change.after)


@given(LETTERS, LETTERS)
def test_the_same_history_gets_the_same_keys_from_everybody(first: str, second: str) -> None:
    assert replaced(kept(first), list(second), str) == replaced(kept(first), list(second), str)


def test_only_what_is_new_is_written() -> None:
    before = kept("abcd")
    assert replaced(before, list("abcd"), str).written == ()
    longer = replaced(before, list("abcdef"), str)
    assert (bodies(longer.written), bodies(longer.new), longer.gone) == ("ef", "ef", ())
    window = replaced(before, list("cd"), str)
    assert (window.written, window.gone) == ((), (before[0].key, before[1].key))
    edited = replaced(before, list("abXd"), str)
    assert (bodies(edited.written), edited.gone) == ("X", (before[2].key,))
    inserted = replaced(before, list("abYcd"), str)
    assert (bodies(inserted.written), inserted.gone) == ("Y", ())


def test_the_same_message_said_otherwise_is_written_over_and_is_not_new() -> None:
    before = kept("ab")
    change = replaced(before, ["A", "b"], str.lower)
    assert change.written == (Kept(before[0].key, "A"),)
    assert (change.new, change.gone) == ((), ())


def test_where_there_is_no_room_the_rest_gets_new_places() -> None:
    tight = [Kept(f"{n:020d}-x", body) for n, body in enumerate("ab")]
    change = replaced(tight, list("aXYb"), str)
    assert bodies(sorted(change.after, key=lambda k: k.key)) == "aXYb"
    assert bodies(change.new) == "XY"  # what moved was there before


def test_what_is_said_comes_behind_what_was_said_and_is_named_by_chance() -> None:
    last = kept("a")[0]
    ahead = Kept(f"{10**19:020d}-x", "from a clock that is ahead")
    for before in (None, last, ahead):
        new = following(before, ["b", "c"])
        keys = [*([before.key] if before else []), *(k.key for k in new)]
        assert keys == sorted(keys)
        assert [k.body for k in new] == ["b", "c"]
    assert following(last, ["b"])[0].key.split("-")[1] != following(last, ["b"])[0].key.split("-")[1]
