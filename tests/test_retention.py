"""How long memories are kept: what a rule of a namespace says is enforced at once on whatever is read, and swept by the next tick."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import InvalidArgument, Item, MemCube, MemOS, NotFound, Policy
from memos_core import retention as rules
from tests.conftest import START, Clock
from tests.test_forgetting import keep_tensors
from tests.test_lifecycle import a_cube, nowhere

DAY = timedelta(days=1)
PLACES = (("app",), ("app", "x"), ("apple",), ("a/b",))


@given(st.dictionaries(st.sampled_from([(), *PLACES]), st.integers(1, 9), max_size=4), st.sampled_from(PLACES))
def test_the_shortest_rule_above_a_memory_counts(days: dict[tuple[str, ...], int], place: tuple[str, ...]) -> None:
    named = {rules.rule("ann", where).removeprefix(rules.RULE): n * 86_400.0 for where, n in days.items()}
    named |= {rules.rule("bob", ()).removeprefix(rules.RULE): 60.0}
    spans = [n for where, n in days.items() if place[: len(where)] == where]
    from dataclasses import replace

    kept = rules.retained(replace(a_cube(), namespace=place), named)
    assert kept.lifespan.kept_until == (START + min(spans) * DAY if spans else None)
    assert rules.retained(kept, named) is kept
    assert rules.rules_of("ann", named) == {where: n * DAY for where, n in days.items()}


@pytest.mark.parametrize("resident", [20_000, 1])
@pytest.mark.parametrize("before", [True, False])
def test_a_rule_holds_for_what_is_there_and_what_comes_on_every_way_to_it(
    resident: int, before: bool, open_store: Callable[..., MemOS], clock: Clock, tmp_path: Path
) -> None:
    memory = open_store(policy=Policy(resident_memories=resident))
    other = open_store(policy=Policy(resident_memories=resident))
    if before:
        memory.retain(("app",), DAY)
    turn, beside = memory.add(
        [{"role": "user", "content": "tea talk"}, {"role": "user", "content": "tea too"}], session="s", namespace=("app", "x")
    )  # fmt: skip
    memory.update(turn.id, "tea talk, again")
    made = keep_tensors(memory, memory.get(turn.id), b"tensors")
    [item] = memory.items.put([Item(("app",), "k", {"n": 1}, ("tea words", "tea passage"))])
    [kept] = memory.add("tea elsewhere", namespace=("apple",))
    [theirs] = memory.add("bob's tea", namespace=("app",), actor="bob")
    if not before:
        memory.retain(("app",), DAY)
    assert memory.retention() == {("app",): DAY}
    assert len(other.search("tea", k=9)) >= 4
    assert other._tiers.passage("ann", made) is not None
    clock.forward(days=1)
    for store in (memory, other):
        for cube in (turn, beside, item, made):
            assert nowhere(store, cube.id)
        assert [h.cube.id for h in store.search("tea", k=9)] == [kept.id]
        assert store.items.get([(("app",), "k")]) == [None]
        assert store.items.list() == store.items.search("tea") == store.items.namespaces() == []
        assert store._tiers.passage("ann", made) is None
        assert store._adapters._sources("ann", made) is None
        assert store.stats().memories == 1
        assert store.get(theirs.id, actor="bob").text == "bob's tea"
    assert memory.tick().expired >= 4
    assert memory._vault.count("owner = 'ann'") == 1
    assert memory._vault.db.table("history").count_rows() == 0
    assert not list((tmp_path / "store" / "blobs").iterdir())
    assert {e.detail for e in memory.log(subject=turn.id, verb="delete")} == {"retention"}
    assert memory.verify().sound


def test_an_edit_a_share_and_a_longer_life_make_nothing_younger(memory: MemOS, clock: Clock) -> None:
    memory.retain((), DAY)
    [cube] = memory.add("tea", ttl=5 * DAY)
    memory.items.put([Item(("app",), "k", {"n": 1}, ttl=5 * DAY)])
    clock.forward(hours=20)
    memory.update(cube.id, "green tea")
    memory.share(cube.id, readers=["bob"])
    memory.items.touch([(("app",), "k")], 9 * DAY)
    assert memory.get(cube.id).lifespan.ends_at == START + DAY
    clock.forward(hours=4)
    assert nowhere(memory, cube.id)
    assert memory.items.get([(("app",), "k")]) == [None]
    memory.items.put([Item(("app",), "k", {"n": 2})])  # handed in anew
    assert memory.items.get([(("app",), "k")])[0].attributes == {"n": 2}


def test_a_rule_is_changed_and_taken_back(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.add("tea", ttl=9 * DAY)
    memory.retain(("default",), DAY)
    memory.retain((), 3 * DAY)
    assert memory.get(cube.id).lifespan.ends_at == START + DAY
    memory.retain(("default",), None)
    assert memory.get(cube.id).lifespan.ends_at == START + 3 * DAY
    memory.retain((), None)
    assert memory.get(cube.id).lifespan == cube.lifespan
    assert memory.get(cube.id).version == 1
    assert memory.retention() == {}
    clock.forward(days=4)
    memory.tick()
    assert memory.get(cube.id).text == "tea"
    for wrong in (timedelta(0), -1, "a day"):
        with pytest.raises(InvalidArgument):
            memory.retain((), wrong)


def test_a_legal_hold_outlasts_a_rule_and_holds_what_it_was_made_from(memory: MemOS, clock: Clock) -> None:
    memory.retain((), DAY)
    [held], [source], [free] = (memory.add(f"tea {n}") for n in range(3))
    made = keep_tensors(memory, source, b"tensors")
    memory.freeze(held.id)
    memory.freeze(made.id)
    clock.forward(days=2)
    assert memory.get(held.id).text == "tea 0"
    memory.tick()
    assert memory.get(held.id).text == "tea 0"
    assert memory._vault.count(f"id = '{free.id}'") == 0
    assert memory._vault.count(f"id = '{source.id}'") == 1  # kept for the hold, and returned to nobody
    with pytest.raises(NotFound):
        memory.get(source.id)
    memory.unfreeze(held.id)
    memory.unfreeze(made.id)
    memory.tick()
    assert memory._vault.count("owner = 'ann'") == 0


def test_a_rule_is_its_owners_alone(memory: MemOS, clock: Clock) -> None:
    memory.retain((), DAY)
    kept: list[MemCube] = memory.add("bob's tea", actor="bob")
    assert memory.retention(actor="bob") == {}
    clock.forward(days=2)
    memory.tick()
    assert memory.get(kept[0].id, actor="bob").text == "bob's tea"
    assert [e.verb for e in memory.log(actor="bob")] == ["add"]
