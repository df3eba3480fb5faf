"""Which memories stand in a scope's passage: worth their place, in an order that keeps what was made, and without thrash."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.passages import Choice, Costs, Member, choose, is_due

COSTS = Costs(run=0.001, open=0.0001, tokens=1_000, frame=40)  # a tenth: worth it from one request in ten on


def member(id: str, uses: float, tokens: int = 20, since: float = 0.0) -> Member:
    return Member(id, tokens, uses, since)


def ids(*members: Member, requests: float = 100, held: tuple[str, ...] = (), costs: Costs = COSTS) -> tuple[str, ...]:
    return choose(members, requests, held, costs).ids


def test_a_memory_is_in_if_what_it_spares_is_more_than_what_opening_it_costs() -> None:
    assert ids(member("often", 50), member("just enough", 11), member("too rarely", 9)) == ("often", "just enough")


def test_where_opening_costs_as_much_as_running_nothing_is_in() -> None:
    assert ids(member("always", 100), costs=replace(COSTS, open=0.001)) == ()


def test_one_use_is_not_enough_however_few_requests_there_were() -> None:
    assert ids(member("once", 1), requests=1) == ()
    assert ids(member("twice", 2), requests=2) == ("twice",)


def test_what_is_in_stays_longer_than_a_newcomer_would_come_in() -> None:
    fading = member("fading", 7)
    assert ids(fading) == ()
    assert ids(fading, held=("fading",)) == ("fading",)
    assert ids(member("fading", 4), held=("fading",)) == ()


def test_what_stays_keeps_its_place_and_the_new_ones_come_behind_the_hottest_and_oldest_first() -> None:
    found = ids(
        member("new", 50, since=9), member("newer", 50, since=10), member("hot", 90, since=11), member("b", 20), member("a", 30),
        held=("b", "a"),
    )  # fmt: skip
    assert found == ("b", "a", "hot", "new", "newer")


def test_what_is_gone_is_left_out_and_the_others_close_up() -> None:
    assert ids(member("a", 50), member("c", 50), held=("a", "b", "c")) == ("a", "c")


def test_it_fits_the_window_and_the_best_are_in_it() -> None:
    costs = replace(COSTS, tokens=40 + 45)
    assert ids(member("a", 30), member("b", 90), member("c", 60), costs=costs) == ("b", "c")
    assert ids(member("large", 95, tokens=60), member("small", 90), costs=costs) == ("small",)


def test_two_of_one_size_do_not_push_each_other_out() -> None:
    costs = replace(COSTS, tokens=40 + 25)
    assert ids(member("in", 50), member("out", 60), held=("in",), costs=costs) == ("in",)
    assert ids(member("in", 40), member("out", 95), held=("in",), costs=costs) == ("out",)


def test_only_what_is_new_is_to_be_run() -> None:
    grown = choose([member("a", 50), member("b", 50), member("c", 50)], 100, ("a", "b"), COSTS)
    assert (grown.tokens, grown.fresh) == (100, 20)
    shrunk = choose([member("b", 50), member("c", 50)], 100, ("a", "b", "c"), COSTS)
    assert (shrunk.tokens, shrunk.fresh) == (80, 80)


def test_the_figures_are_those_of_the_rule() -> None:
    found = choose([member("a", 50), member("b", 25)], 100, (), COSTS)
    spared = 40 * 0.5 + 20 * 0.5 + 20 * 0.25  # the frame goes with the hottest
    assert found == Choice(("a", "b"), 80, spared, 80, pytest.approx(spared * 0.001 - 80 * 0.0001))


def test_a_change_is_due_once_doing_without_has_cost_as_much_as_making_it() -> None:
    found = choose([member("a", 2)], 2, (), COSTS)
    assert is_due(found, (), 2, COSTS)  # each saves 54 ms, and making it takes 60 ms
    assert not is_due(found, (), 1, COSTS)
    costly = replace(COSTS, open=0.0009)
    dear = choose([member("a", 2)], 2, (), costly)
    assert not is_due(dear, (), 9, costly)  # 6 ms each
    assert is_due(dear, (), 11, costly)
    assert not is_due(found, ("a",), 1_000, COSTS)
    assert not is_due(choose([], 0, (), COSTS), (), 1_000, COSTS)


members = st.lists(
    st.builds(Member, st.text("abcdefgh", min_size=1, max_size=2), st.integers(1, 300), st.floats(0, 50), st.floats(0, 9)),
    max_size=20, unique_by=lambda m: m.id,
)  # fmt: skip


@given(members, st.floats(0, 50), st.lists(st.text("abcdefgh", min_size=1, max_size=2), unique=True, max_size=8))
def test_it_never_exceeds_the_window_and_once_made_it_asks_for_no_change(
    found: list[Member], requests: float, held: list[str]
) -> None:
    choice = choose(found, requests, held, COSTS)
    assert choice.tokens <= COSTS.tokens
    assert len(set(choice.ids)) == len(choice.ids)
    again = choose(found, requests, choice.ids, COSTS)
    assert again.ids == choice.ids
    assert again.fresh == 0
    assert not is_due(again, choice.ids, 1e9, COSTS)
