"""Whatever state a memory is in, each verb that removes reaches it, names it in its receipt, and after a purge no file holds its words.
And an empty selection never means everything."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import IllegalTransition, InvalidArgument, Item, Kind, MemOS, NotFound, Policy, Receipt
from memos_core.commands import labels
from memos_core.signing import new_key
from tests.conftest import Clock
from tests.test_forgetting import keep_tensors
from tests.test_purge import WORD

HOUR = timedelta(hours=1)
NAME = ("gone", "here")


def saying(memory: MemOS) -> list[str]:
    """Files of the store that hold the word."""
    files = [f for f in Path(memory.path).rglob("*") if f.is_file()]
    assert any("cubes.lance" in str(f) for f in files)
    return sorted(str(f) for f in files if re.search(WORD, f.read_bytes(), re.IGNORECASE))


def activated(memory: MemOS, clock: Clock, id: str) -> None:
    memory.archive(id)
    memory.restore(id, 1)


def merged(memory: MemOS, clock: Clock, id: str) -> None:
    memory.update(id, "and zanzibarish lines", mode="merge")


def changed(memory: MemOS, clock: Clock, id: str) -> None:
    memory.update(id, "what it says now is another thing")


def past_its_time(memory: MemOS, clock: Clock, id: str) -> None:
    clock.forward(hours=3)


def over_by_a_rule(memory: MemOS, clock: Clock, id: str) -> None:
    memory.retain(("gone",), HOUR)
    clock.forward(hours=2)


def taken_back(memory: MemOS, clock: Clock, id: str) -> None:
    memory.rollback("before")


def archived_and_past_its_time(memory: MemOS, clock: Clock, id: str) -> None:
    memory.archive(id)
    clock.forward(hours=3)


def as_it_is(memory: MemOS, clock: Clock, id: str) -> None:
    pass


def archived(memory: MemOS, clock: Clock, id: str) -> None:
    memory.archive(id)


STATES = (
    as_it_is, activated, merged, changed, archived, past_its_time, over_by_a_rule, taken_back,
    archived_and_past_its_time,
)  # fmt: skip
OVER = (past_its_time, over_by_a_rule, taken_back, archived_and_past_its_time)

VERBS: dict[str, Callable[[MemOS, str], Receipt]] = {
    "delete an id": lambda memory, id: memory.delete(id),
    "delete a list": lambda memory, id: memory.delete([id]),
    "delete a namespace": lambda memory, id: memory.delete(("gone",)),
    "delete by a filter": lambda memory, id: memory.delete((), filter={"of": "this"}),
    "forget": lambda memory, id: memory.forget(),
}


def store_one(memory: MemOS) -> tuple[str, str]:
    """A memory with the word in it, and what was made from it; another one stays."""
    memory.snapshot("before")
    memory.add("tea that stays", actor="bob")
    [cube] = memory.add(
        "zanzibarish tea", namespace=NAME, attributes={"of": "this"}, tags=["zanzibarish"], ttl=2 * HOUR
    )
    return cube.id, keep_tensors(memory, cube, b"zanzibarish tensors").id


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", STATES)
def test_each_verb_reaches_each_state_and_says_so(
    state: Callable[[MemOS, Clock, str], object], verb: str, memory: MemOS, clock: Clock
) -> None:
    id, tensors = store_one(memory)
    state(memory, clock, id)
    receipt = VERBS[verb](memory, id)
    assert {*receipt.ids, *receipt.derived} == {id, tensors}
    assert len(receipt.hashes) == 2
    memory.purge()
    assert saying(memory) == []
    assert [h.cube.text for h in memory.search("tea", actor="bob")] == ["tea that stays"]


@pytest.mark.parametrize("state", OVER)
def test_a_purge_removes_what_is_over_and_names_it_to_its_owner(
    state: Callable[[MemOS, Clock, str], object], memory: MemOS, clock: Clock
) -> None:
    id, tensors = store_one(memory)
    state(memory, clock, id)
    receipt = memory.purge()
    named = {*receipt.ids, *receipt.derived}
    assert named == {id, tensors}
    assert saying(memory) == []
    assert [e.verb for e in memory.log(subject=id, limit=1)] == ["delete"]
    assert memory.purge().ids == ()


def test_a_purge_names_nothing_of_what_was_anothers(memory: MemOS, clock: Clock) -> None:
    id, _ = store_one(memory)
    clock.forward(hours=3)
    assert memory.purge(actor="bob").ids == ()
    assert saying(memory) == []
    assert [e.verb for e in memory.log(subject=id, limit=1)] == ["delete"]


@pytest.mark.parametrize("state", OVER)
def test_a_tick_removes_for_good_what_is_past_its_time(
    state: Callable[[MemOS, Clock, str], object], open_store: Callable[..., MemOS], clock: Clock
) -> None:
    memory = open_store(policy=Policy(keep_withdrawn=timedelta(0)))
    id, tensors = store_one(memory)
    state(memory, clock, id)
    assert memory.tick().expired  # the tensors have the same end, but where the text alone was taken back
    assert memory._vault.by_ids([id, tensors]) == []
    memory.purge()
    assert saying(memory) == []


def test_what_a_rollback_took_back_can_be_brought_back_for_as_long_as_the_policy_says(
    memory: MemOS, clock: Clock
) -> None:
    memory.snapshot("before")
    [cube] = memory.add("zanzibarish tea")
    memory.snapshot("after")
    memory.rollback("before")
    clock.forward(days=29)
    assert memory.tick().expired == 0
    memory.rollback("after")
    assert memory.get(cube.id).text == "zanzibarish tea"
    memory.rollback("before")
    clock.forward(days=30)
    assert memory.tick().expired == 1
    memory.rollback("after")
    assert memory.search("tea") == []


def test_what_others_may_read_and_is_over_is_not_there_for_them(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.add("zanzibarish tea", ttl=HOUR)
    memory.share(cube.id, readers=["bob"])
    clock.forward(hours=2)
    with pytest.raises(NotFound):
        memory.delete(cube.id, actor="bob")
    assert memory.delete(cube.id).ids == (cube.id,)


def test_what_is_frozen_stays_whatever_its_time(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.add("zanzibarish tea", ttl=HOUR, namespace=("gone",))
    memory.freeze(cube.id)
    clock.forward(hours=2)
    assert memory.tick().expired == 0
    memory.purge()
    for verb in VERBS.values():
        if verb is not VERBS["delete by a filter"]:
            with pytest.raises(IllegalTransition):
                verb(memory, cube.id)
    assert memory.get(cube.id).text == "zanzibarish tea"
    memory.unfreeze(cube.id)
    assert memory.tick().expired == 1


def test_what_was_fused_into_a_memory_that_lives_on_does_not_take_it_along(memory: MemOS, clock: Clock) -> None:
    [kept], [short] = memory.add("Ann drinks tea"), memory.add("Ann drinks green tea", ttl=HOUR)
    memory.fuse([kept.id, short.id])
    clock.forward(hours=2)
    assert memory.tick().expired == 1
    assert memory.get(kept.id).text == "Ann drinks tea\nAnn drinks green tea"
    with pytest.raises(NotFound):
        memory.get(short.id)


def test_an_item_past_its_time_is_removed_by_its_name(memory: MemOS, clock: Clock) -> None:
    memory.items.put([Item(NAME, "k", {"said": "zanzibarish"}, ("zanzibarish words", "more zanzibarish"), HOUR)])
    clock.forward(hours=2)
    memory.items.delete([(NAME, "k")])
    memory.purge()
    assert saying(memory) == []
    assert memory._vault.rows("true") == []


def test_what_a_rule_lets_stay_no_longer_takes_along_what_its_words_were_fused_into(
    memory: MemOS, clock: Clock
) -> None:
    [kept], [short] = memory.add("Ann drinks tea"), memory.add("Ann drinks zanzibarish tea", namespace=("gone",))
    memory.fuse([kept.id, short.id])
    memory.retain(("gone",), HOUR)
    clock.forward(hours=2)
    receipt = memory.purge()
    assert (receipt.ids, receipt.derived) == ((short.id,), (kept.id,))
    assert saying(memory) == []


def two_items(memory: MemOS) -> list[str]:
    return [c.id for c in memory.items.put([Item(NAME, k, {}, (f"zanzibarish {k}",), HOUR) for k in ("tea", "milk")])]


def test_sweeping_items_leaves_what_can_be_brought_back(memory: MemOS) -> None:
    memory.snapshot("before")
    two_items(memory)
    memory.snapshot("after")
    memory.rollback("before")
    assert memory.items.sweep() == 0
    memory.rollback("after")
    assert all(memory.items.get([(NAME, "tea"), (NAME, "milk")]))


def test_sweeping_items_leaves_what_is_held_and_removes_the_others(memory: MemOS, clock: Clock) -> None:
    tea, milk = two_items(memory)
    memory.freeze(keep_tensors(memory, memory.get(tea), b"tensors").id)
    clock.forward(hours=2)
    assert memory.items.sweep() == 1
    assert [row.cube.id for row in memory._vault.by_ids([tea, milk])] == [tea]


def test_sweeping_items_leaves_what_they_were_fused_into(memory: MemOS, clock: Clock) -> None:
    [kept] = memory.add("Ann drinks tea")
    tea, _ = two_items(memory)
    memory.fuse([kept.id, tea])
    clock.forward(hours=2)
    assert memory.items.sweep() == 2
    assert memory.get(kept.id).text == "Ann drinks tea\nzanzibarish tea"


def test_what_was_taken_back_can_stay_for_ever(open_store: Callable[..., MemOS], clock: Clock) -> None:
    memory = open_store(policy=Policy(keep_withdrawn=timedelta.max))
    memory.snapshot("before")
    memory.add("tea")
    memory.snapshot("after")
    memory.rollback("before")
    clock.forward(days=9_999)
    assert memory.tick().expired == 0
    memory.rollback("after")
    assert len(memory.search("tea")) == 1


# --- an empty selection is not everything ------------------------------------------------------------------------------------


EMPTY: dict[str, Callable[[MemOS, Any], object]] = {
    "delete": lambda memory, nothing: memory.delete(nothing),
    "delete, filtered": lambda memory, nothing: memory.delete(nothing, filter={}),
    "convert": lambda memory, nothing: memory.convert(nothing, Kind.ACTIVATION),
    "fuse": lambda memory, nothing: memory.fuse(nothing),
    "compose": lambda memory, nothing: memory.compose(nothing),
    "pull": lambda memory, nothing: memory.pull(nothing if nothing is not None else []),
    "dump": lambda memory, nothing: memory.dump(
        Path(memory.path).parent / "dump", ids=nothing if nothing is not None else []
    ),
}


@pytest.mark.parametrize(
    "nothing", [(), [], "", None, set(), iter(())], ids=["tuple", "list", "word", "None", "set", "iterator"]
)
@pytest.mark.parametrize("verb", EMPTY)
def test_an_empty_selection_is_refused(verb: str, nothing: Any, memory: MemOS) -> None:
    memory.add("tea", namespace=("a",))
    memory.add("more tea", namespace=("b",))
    with pytest.raises(InvalidArgument):
        EMPTY[verb](memory, nothing)
    assert len(memory.search("tea")) == 2
    assert not (Path(memory.path).parent / "dump").exists()


def test_a_filter_beside_ids_is_refused_instead_of_passed_over(memory: MemOS) -> None:
    [cube] = memory.add("tea", attributes={"keep": True})
    for filter in ({"keep": False}, {}):
        with pytest.raises(InvalidArgument, match="filter"):
            memory.delete([cube.id], filter=filter)
    with pytest.raises(InvalidArgument, match="filter"):
        memory.delete(("default",), filter={})
    assert memory.get(cube.id).text == "tea"


@pytest.mark.parametrize("filter", [{"of": {"$in": []}}, {"tags": {"$in": []}}, {"session": {"$in": []}}])
def test_a_list_of_nothing_matches_nothing(filter: Any, memory: MemOS) -> None:
    memory.add("tea", attributes={"of": "this"}, tags=["t"], session="s")
    assert memory.delete((), filter=filter).ids == ()
    assert memory.search("tea", filter=filter) == []


def test_no_kinds_are_no_memories(memory: MemOS, tmp_path: Path) -> None:
    memory.add("tea")
    assert memory.search("tea", kinds=[]) == []
    with pytest.raises(InvalidArgument, match="kinds"):
        memory.dump(tmp_path / "dump", kinds=[])
    memory.dump(tmp_path / "dump")
    with pytest.raises(InvalidArgument, match="kinds"):
        memory.load(tmp_path / "dump", kinds=[])


def test_no_conditions_select_nothing_to_dump_or_to_publish(memory: MemOS, tmp_path: Path) -> None:
    memory.add("tea")
    new_key(tmp_path / "key")
    with pytest.raises(InvalidArgument, match="filter"):
        memory.dump(tmp_path / "dump", filter={})
    with pytest.raises(InvalidArgument, match="filter"):
        memory.publish(tmp_path / "shop", "tea", key=tmp_path / "key", visibility=["*"], filter={})
    assert not (tmp_path / "dump").exists()
    assert not (tmp_path / "shop").exists()


def test_a_rollback_of_no_memory_is_not_one_of_all(memory: MemOS) -> None:
    memory.snapshot("before")
    memory.add("tea")
    for id in ("", (), []):
        with pytest.raises(InvalidArgument):
            memory.rollback("before", id=id)  # type: ignore[arg-type]
    assert len(memory.search("tea")) == 1


@pytest.mark.parametrize("typed", ["", "/", "//"])
def test_a_namespace_that_is_typed_empty_is_not_everything(typed: str) -> None:
    with pytest.raises(InvalidArgument, match="no label"):
        labels(typed)
    assert labels(None) == ()
