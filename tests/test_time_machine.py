"""snapshot, diff, rollback: what a moment was, what changed since, and being there again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from memos_core import (
    AccessDenied,
    Draft,
    InvalidArgument,
    Item,
    MemOS,
    NotFound,
    Reading,
    State,
)
from memos_core.cli import main
from memos_core.reembed import reembed
from tests.conftest import Clock
from tests.test_crash import assert_explained, everything
from tests.words import WordsEmbedder


def texts(memory: MemOS, actor: str = "ann", namespace: tuple[str, ...] = ()) -> list[str]:
    return sorted(h.cube.text for h in memory.search("tea", k=100, actor=actor, namespace=namespace))


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_snapshots_are_listed_in_order_and_dropped(memory: MemOS, clock: Clock) -> None:
    first = memory.snapshot("first")
    clock.forward(hours=1)
    memory.snapshot("second")
    assert [s.name for s in memory.snapshots()] == ["first", "second"]
    assert memory.snapshots()[0] == first
    assert memory.snapshots()[1].at == clock.now
    memory.drop_snapshot("first")
    assert [s.name for s in memory.snapshots()] == ["second"]
    memory.snapshot("first")
    assert [s.name for s in memory.snapshots()] == ["second", "first"]


def test_a_name_is_taken_once_and_is_its_owners(memory: MemOS) -> None:
    memory.snapshot("mine")
    with pytest.raises(InvalidArgument, match="mine"):
        memory.snapshot("mine")
    assert memory.snapshots(actor="bob") == []
    memory.snapshot("mine", actor="bob")
    for verb in (memory.diff, memory.rollback, memory.drop_snapshot):
        with pytest.raises(NotFound, match="other"):
            verb("other")
        with pytest.raises(InvalidArgument):
            verb("")


def test_a_snapshot_costs_one_event_and_outlives_compaction(memory: MemOS) -> None:
    for n in range(20):
        memory.add(f"tea {n}", key="tea")
    memory.tick()
    files = {p for p in Path(memory.path).rglob("*") if "events.lance" not in p.parts}
    memory.snapshot("then")
    assert {p for p in Path(memory.path).rglob("*") if "events.lance" not in p.parts} == files
    memory.add("tea 21", key="tea")
    for _ in range(2):
        assert memory.tick().compacted
    memory.rollback("then")
    assert texts(memory) == ["tea 19"]


def test_a_snapshot_keeps_nothing_of_what_is_deleted(memory: MemOS) -> None:
    [cube] = memory.add("my number is 5551234")
    memory.snapshot("then")
    memory.delete(cube.id)
    found = memory.rollback("then")
    assert found.returned == ()
    assert texts(memory) == []
    with pytest.raises(NotFound):
        memory.get(cube.id)
    [gone] = memory.diff("then").removed
    assert (gone.id, gone.before, gone.after, gone.forgotten) == (cube.id, 1, None, True)


def test_a_snapshot_holds_across_re_embedding(tmp_path: Path, open_store: Callable[..., MemOS]) -> None:
    with open_store() as memory:
        [cube] = memory.add("green tea")
        memory.snapshot("then")
        memory.update(cube.id, "black tea")
    other = WordsEmbedder(32, salt="other")
    assert reembed(tmp_path / "store", other) == 1
    with open_store(embed=other) as memory:
        memory.rollback("then")
        assert texts(memory) == ["green tea"]
        assert memory.search("green", k=1)[0].score == pytest.approx(memory.search("green", k=1)[0].score)


# --- differences -----------------------------------------------------------------------------------------------------


def test_diff_says_what_was_added_removed_and_changed_with_versions(memory: MemOS) -> None:
    [kept], [changed], [gone] = memory.add("kept"), memory.add("tea"), memory.add("gone")
    memory.snapshot("a")
    memory.update(changed.id, "teas")
    memory.update(changed.id, "teases")
    [new] = memory.add("new")
    memory.snapshot("b")
    memory.delete(gone.id)
    [passing] = memory.add("passing")
    memory.delete(passing.id)
    found = memory.diff("a", "b")
    assert [(c.id, c.before, c.after) for c in found.added] == [(new.id, None, 1)]
    assert [(c.id, c.before, c.after) for c in found.changed] == [(changed.id, 1, 3)]
    assert found.removed == ()
    found = memory.diff("a")
    assert [(c.id, c.before, c.forgotten) for c in found.removed] == [(gone.id, 1, True)]
    assert [c.id for c in found.added] == [new.id]
    back = memory.diff("b", "a")
    assert [c.id for c in back.removed] == [new.id]
    assert [(c.before, c.after) for c in back.changed] == [(3, 1)]
    assert kept.id not in str(found)


def test_what_expired_was_removed_and_what_says_the_same_again_did_not_change(memory: MemOS, clock: Clock) -> None:
    [short], [tea] = memory.add("short", ttl=60), memory.add("tea")
    memory.snapshot("a")
    memory.update(tea.id, "coffee")
    memory.restore(tea.id, 1)
    assert memory.diff("a").changed == ()
    clock.forward(minutes=2)
    assert [(c.id, c.forgotten) for c in memory.diff("a").removed] == [(short.id, False)]
    memory.tick()
    assert [c.id for c in memory.diff("a").removed] == [short.id]


def test_diff_shows_nobody_what_it_may_not_read(memory: MemOS) -> None:
    [shared], [secret], [lent] = memory.add("shared"), memory.add("secret"), memory.add("lent")
    memory.share(shared.id, readers=["bob"])
    memory.share(lent.id, readers=["bob"])
    memory.snapshot("then", actor="bob")
    memory.update(shared.id, "shared again")
    memory.update(secret.id, "secret again")
    memory.add("another secret")
    memory.share(lent.id)
    memory.update(lent.id, "no more lent")
    memory.delete(secret.id)
    found = memory.diff("then", actor="bob")
    assert [(c.id, c.before, c.after) for c in found.changed] == [(shared.id, 2, 3)]
    assert (found.added, found.removed) == ((), ())
    memory.delete(shared.id)
    assert [c.id for c in memory.diff("then", actor="bob").removed] == [shared.id]


def test_an_id_that_was_deleted_and_made_anew_was_removed_and_added(memory: MemOS) -> None:
    [old] = memory.add("tea", key="k")
    memory.add("teas", key="k")
    memory.snapshot("then")
    memory.delete(old.id)
    for n in range(3):
        memory.add(f"coffee {n}", key="k")
    found = memory.diff("then")
    assert [(c.id, c.before, c.forgotten) for c in found.removed] == [(old.id, 2, True)]
    assert [(c.id, c.after) for c in found.added] == [(old.id, 3)]
    memory.rollback("then")  # version 2 of today is another memory's
    assert texts(memory) == []


# --- going back --------------------------------------------------------------------------------------------------------


def test_rollback_is_a_new_state_in_front_and_can_itself_be_undone(memory: MemOS) -> None:
    [tea], [wine] = memory.add("green tea", tags=["hot"]), memory.add("red wine")
    memory.snapshot("before")
    memory.update(tea.id, "black tea", attributes={"milk": True})
    memory.archive(wine.id)
    [milk] = memory.add("milk")
    memory.snapshot("after")
    done = memory.rollback("before")
    assert set(done.returned) == {tea.id, wine.id}
    assert done.withdrawn == (milk.id,)
    assert done.left == {}
    assert texts(memory) == ["green tea", "red wine"]
    cube = memory.get(tea.id)
    assert (cube.version, cube.attributes, cube.tags) == (3, {}, ("hot",))
    assert [c.text for c in memory.history(tea.id)] == ["green tea", "black tea", "green tea"]
    assert memory.search("green", k=1)[0].cube.id == tea.id
    with pytest.raises(NotFound):
        memory.get(milk.id)
    assert memory.diff("before") == memory.diff("before", "before")
    again = memory.rollback("before")
    assert (again.returned, again.withdrawn) == ((), ())
    assert set(memory.rollback("after").returned) == {tea.id, wine.id, milk.id}
    assert texts(memory) == ["black tea", "milk"]
    assert memory.get(wine.id).state is State.ARCHIVED
    assert memory.get(tea.id).attributes == {"milk": True}
    assert_explained(memory, [h.cube for h in everything(memory)])
    assert {e.verb for e in memory.log(subject=milk.id)} == {"add", "rollback"}
    assert "to 'after': 3 as they were, 0 withdrawn, 0 left" in [e.detail for e in memory.log(verb="rollback")]


def test_of_a_namespace_or_of_one_memory(memory: MemOS) -> None:
    here = [memory.add(f"tea {n}", namespace=("home", "kitchen"), key=f"{n}")[0] for n in range(2)]
    [away] = memory.add("tea away", namespace=("homes",))
    memory.snapshot("then")
    for cube in (*here, away):
        memory.update(cube.id, "no tea")
    memory.add("new tea", namespace=("home",))
    memory.rollback("then", id=here[1].id)
    assert texts(memory) == ["new tea", "no tea", "no tea", "tea 1"]
    memory.rollback("then", namespace=("home", "kitchen"))
    assert texts(memory) == ["new tea", "no tea", "tea 0", "tea 1"]
    memory.rollback("then", namespace=("home",))
    assert texts(memory) == ["no tea", "tea 0", "tea 1"]


def test_items_go_back_with_all_that_they_are_found_by(memory: MemOS) -> None:
    name = (("box",), "k")
    memory.items.put([Item(*name, {"n": 1}, ("one tea", "first cup"))])
    memory.snapshot("then")
    memory.items.put([Item(*name, {"n": 2}, ("two teas",)), Item(("box",), "new", {"n": 3}, ("three teas",))])
    memory.rollback("then")
    [item] = memory.items.list(("box",))
    assert item.attributes == {"n": 1}
    assert [h.cube.id for h in memory.items.search("first cup", ("box",))] == [item.id]
    assert memory.items.search("three teas", ("box",))[0].cube.id == item.id
    assert memory.items.get([(("box",), "new")]) == [None]
    memory.items.put([Item(("box",), "new", {"n": 4})])
    assert len(memory.items.list(("box",))) == 2


def test_it_touches_nothing_that_is_anothers_unless_it_is_for_everybody(memory: MemOS) -> None:
    [mine], [his] = memory.add("ann's tea"), memory.add("bob's tea", actor="bob")
    memory.share(his.id, writers=["ann"], actor="bob")
    memory.snapshot("then")
    memory.update(mine.id, "ann's wine")
    memory.update(his.id, "bob's wine")
    memory.add("bob's milk", actor="bob")
    with pytest.raises(AccessDenied):
        memory.rollback("then", id=his.id)
    with pytest.raises(NotFound):
        memory.rollback("then", id=mine.id, actor="carl")
    assert memory.rollback("then").returned == (mine.id,)
    assert texts(memory, "bob") == ["bob's milk", "bob's wine"]
    assert memory.rollback("then", everybody=True).returned == (his.id,)
    assert texts(memory, "bob") == ["bob's tea"]
    assert memory.get(his.id).access.writers == {"ann"}


def test_rights_and_holds_are_not_brought_back(memory: MemOS, clock: Clock) -> None:
    [lent], [held], [short] = memory.add("lent tea"), memory.add("held tea"), memory.add("short tea", ttl=60)
    [loose] = memory.add("loose tea")
    memory.freeze(loose.id)
    memory.share(lent.id, readers=["bob"])
    memory.snapshot("then")
    memory.share(lent.id)
    memory.update(lent.id, "tea no more lent")
    memory.update(held.id, "tea on hold")
    memory.freeze(held.id)
    memory.unfreeze(loose.id)
    memory.update(loose.id, "looser tea")
    memory.update(short.id, "shorter tea")
    clock.forward(minutes=2)
    done = memory.rollback("then")
    assert done.left == {held.id: "frozen", short.id: "its time is over"}
    assert texts(memory) == ["lent tea", "loose tea", "tea on hold"]
    assert memory.get(loose.id).state is State.GENERATED
    assert texts(memory, "bob") == []


class Reads:
    """Makes one statement of each turn."""

    def read(self, turns: object, similar: object) -> Reading:
        from memos_core import Link

        return Reading(tuple(Draft(f"they say {t.text}", parents=(Link(t.id, t.version),)) for t in turns))  # type: ignore[attr-defined]


def test_what_was_made_from_a_memory_goes_back_with_it(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(reader=Reads())
    turn, statement = memory.add({"role": "user", "content": "tea is green"})
    memory.snapshot("then")
    memory.update(turn.id, "tea is black")
    assert memory.get(statement.id).state is State.ARCHIVED  # it says what its source no longer says
    memory.rollback("then")
    assert texts(memory) == ["tea is green", "they say tea is green"]
    memory.update(turn.id, "tea is red")
    memory.rollback("then", id=turn.id)
    assert memory.get(statement.id).state is State.ARCHIVED
    memory.rollback("then", id=statement.id)
    assert memory.get(statement.id).state is State.GENERATED


def test_rolling_back_in_a_transaction_is_a_part_of_it(memory: MemOS) -> None:
    [tea] = memory.add("green tea")
    memory.snapshot("then")
    memory.update(tea.id, "black tea")

    def fails() -> None:
        with memory.transaction():
            memory.rollback("then")
            memory.snapshot("inside")
            assert texts(memory) == ["green tea"]
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert texts(memory) == ["black tea"]
    assert [s.name for s in memory.snapshots()] == ["then"]


def test_only_what_changed_is_embedded_and_before_the_lock(memory: MemOS, embed: WordsEmbedder) -> None:
    cubes = [memory.add(f"tea {n}")[0] for n in range(5)]
    memory.snapshot("then")
    memory.update(cubes[0].id, "coffee")
    memory.archive(cubes[1].id)
    before = embed.texts
    memory.rollback("then")
    assert embed.texts - before == 2  # what was archived has no vector while it is


def test_a_long_time_back_over_many_versions(memory: MemOS, clock: Clock) -> None:
    memory.add("tea 0", key="k")
    for n in range(1, 6):
        memory.snapshot(f"{n - 1}")
        clock.forward(days=1)
        memory.add(f"tea {n}", key="k")
        memory.tick()
    for n in (2, 0, 4, 1):
        memory.rollback(f"{n}")
        assert texts(memory) == [f"tea {n}"]


# --- from a shell --------------------------------------------------------------------------------------------------------


def test_memosctl_takes_lists_compares_and_goes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers", reason="the command opens the store with the default embedder")
    path = str(tmp_path / "store")
    with MemOS(path) as memory:
        [tea] = memory.add("green tea")
        assert main(["snapshot", path, "then"]) == 0
        memory.update(tea.id, "black tea")
    assert main(["snapshots", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "then"
    assert main(["diff", path, "then"]) == 0
    assert capsys.readouterr().out == f"~ {tea.id}  v1 -> v2\n"
    assert main(["rollback", path, "then", "--namespace", "default"]) == 0
    assert "1 memories as they were" in capsys.readouterr().out
    assert main(["snapshot", path, "then", "--drop"]) == 0
    assert main(["rollback", path, "then"]) == 1
    assert "no snapshot 'then'" in capsys.readouterr().err
    with MemOS(path) as memory:
        assert memory.get(tea.id).text == "green tea"


def test_nothing_else_changes(memory: MemOS) -> None:
    """A life, a place, a creation."""
    [old] = memory.add("tea", ttl=timedelta(days=1), session="s", occurred_at="2026-01-01T00:00:00Z")
    memory.snapshot("then")
    memory.update(old.id, "teas")
    memory.rollback("then")
    new = memory.get(old.id)
    assert (new.created_at, new.origin, new.lifespan, new.access, new.namespace) == (
        old.created_at,
        old.origin,
        old.lifespan,
        old.access,
        old.namespace,
    )
