"""How memories change: lifetimes, states, deletion and what falls with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import (
    Access,
    AccessDenied,
    Draft,
    IllegalTransition,
    Kind,
    Link,
    MemCube,
    MemOS,
    NotFound,
    Origin,
    Policy,
    Reading,
    SourceKind,
    State,
    Text,
)  # fmt: skip
from memos_core import lifecycle as rules
from tests.conftest import START, Clock

HOUR = timedelta(hours=1)


class Gist:
    """A reader that makes one statement of each turn."""

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        return Reading(tuple(Draft(f"gist of {t.text}", parents=(Link(t.id, t.version),)) for t in turns))


def nowhere(memory: MemOS, id: str, word: str = "tea") -> bool:
    """Whether a memory shows in nothing that anybody is given."""
    for look in (memory.get, memory.history, memory.lineage):
        with pytest.raises(NotFound):
            look(id)
    return id not in {h.cube.id for h in memory.search(word, k=100)} | {c.id for c in memory.brief(word).cubes}


# --- lifetimes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resident", [20_000, 1])
@pytest.mark.parametrize("ttl", [HOUR, 3600, 3600.0])
def test_what_lapsed_is_never_returned_also_before_the_sweep(
    resident: int, ttl: timedelta | float, open_store: Callable[..., MemOS], clock: Clock
) -> None:
    memory = open_store(policy=Policy(resident_memories=resident))
    [short] = memory.add("tea now", ttl=ttl)
    memory.add("tea always")
    memory.add("tea always and again")
    assert len(memory.search("tea")) == 3
    clock.forward(minutes=59)
    assert memory.get(short.id).text == "tea now"
    clock.forward(minutes=1)
    assert nowhere(memory, short.id)
    assert memory.stats().memories == 2
    for change in (
        lambda: memory.update(short.id, "x"),
        lambda: memory.freeze(short.id),
        lambda: memory.delete(short.id, actor="bob"),
    ):
        with pytest.raises(NotFound):
            change()
    assert memory.tick().expired == 1
    assert memory.tick().expired == 0
    assert nowhere(memory, short.id)
    assert [(e.verb, e.detail) for e in memory.log(subject=short.id)] == [("delete", "its time was over"), ("add", "")]


def test_what_lapsed_shows_in_no_lineage(open_store: Callable[..., MemOS], clock: Clock) -> None:
    memory = open_store(reader=Gist())
    turn, gist = memory.add("tea", ttl=HOUR)
    kept = memory.get(gist.id)
    clock.forward(hours=2)
    if kept.lifespan.expires_at is None:
        assert memory.lineage(gist.id).parents == ()
    else:
        assert nowhere(memory, gist.id)
    assert nowhere(memory, turn.id)


def test_a_key_can_be_used_again_after_its_memory_lapsed(memory: MemOS, clock: Clock) -> None:
    [old] = memory.add("tea", key="k", ttl=HOUR)
    clock.forward(hours=2)
    [new] = memory.add("more tea", key="k")
    assert (new.id, new.version) == (old.id, 2)
    assert [h.cube.text for h in memory.search("tea")] == ["more tea"]
    memory.tick()
    clock.forward(hours=2)
    assert memory.get(new.id).text == "more tea"


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("text", ["tea", "other tea"])
def test_a_message_that_comes_again_after_it_lapsed_is_stored_again_or_not_returned(
    swept: bool, text: str, memory: MemOS, clock: Clock
) -> None:
    message = {"role": "user", "content": "tea", "id": "m1"}
    memory.add(message, session="s", ttl=HOUR)
    clock.forward(hours=2)
    if swept:
        memory.tick()
    found = memory.add([{**message, "content": text}, {"role": "user", "content": "cake", "id": "m2"}], session="s")
    assert found[-1].text == "cake"
    for cube in found:
        assert memory.get(cube.id).text == cube.text
    assert memory.stats().memories == len(memory.search("anything", k=9))


# --- states ----------------------------------------------------------------------------------------------------------------


def test_what_is_frozen_is_found_and_cannot_be_changed_or_lost(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.add("tea", ttl=HOUR, key="k")
    frozen = memory.freeze(cube.id)
    assert (frozen.state, frozen.version) == (State.FROZEN, 2)
    assert memory.freeze(cube.id) == frozen
    for change in (
        lambda: memory.update(cube.id, "x"), lambda: memory.restore(cube.id, 1), lambda: memory.archive(cube.id),
        lambda: memory.delete(cube.id), lambda: memory.delete(("default",)), lambda: memory.add("x", key="k"),
    ):  # fmt: skip
        with pytest.raises(IllegalTransition, match=r"frozen|cannot"):
            change()
    clock.forward(hours=2)
    memory.tick()
    assert [h.cube.text for h in memory.search("tea")] == ["tea"]
    assert memory.share(cube.id, readers=["bob"]).state is State.FROZEN
    assert memory.unfreeze(cube.id).state is State.GENERATED
    assert nowhere(memory, cube.id)  # its time was over meanwhile


def test_an_edited_message_whose_memory_is_frozen_writes_nothing(memory: MemOS) -> None:
    message = {"role": "user", "content": "tea", "id": "m1"}
    [cube] = memory.add(message, session="s")
    memory.freeze(cube.id)
    with pytest.raises(IllegalTransition):
        memory.add({**message, "content": "coffee"}, session="s")
    assert memory.get(cube.id).text == "tea"


def test_what_is_archived_is_kept_and_found_by_id_only(memory: MemOS) -> None:
    [cube] = memory.add("tea")
    archived = memory.archive(cube.id)
    assert (archived.state, archived.version) == (State.ARCHIVED, 2)
    assert memory.search("tea") == []
    assert memory.brief("tea").cubes == ()
    assert memory.get(cube.id) == archived == memory.archive(cube.id)
    assert memory.stats().by_state == {"archived": 1}
    assert memory.freeze(cube.id).state is State.FROZEN
    assert memory.unfreeze(cube.id).state is State.ARCHIVED


def a_cube(state: State = State.GENERATED, text: str = "one") -> MemCube:
    return MemCube(
        "id", 1, Kind.PLAINTEXT, state, ("n",), Text(text), Origin(SourceKind.NOTE, START), Access("ann"), START, START
    )


@pytest.mark.parametrize("state", State)
def test_states_move_as_the_table_says(state: State) -> None:
    for to, move in ((State.ARCHIVED, rules.archive), (State.FROZEN, rules.freeze)):
        cube = a_cube(state)
        if state is to:
            assert move(cube, START) is cube
        elif to in rules.MOVES[state] and not (state is State.FROZEN and to is State.ARCHIVED):
            moved = move(cube, START + HOUR)
            assert (moved.state, moved.version, moved.updated_at) == (to, 2, START + HOUR)
        else:
            with pytest.raises(IllegalTransition, match="id"):
                move(cube, START)


@given(st.lists(st.sampled_from("ab\n"), max_size=12), st.lists(st.sampled_from("bc\n"), min_size=1, max_size=12))
def test_merging_keeps_each_line_and_repeats_none(old: list[str], new: list[str]) -> None:
    before, added = "".join(old), "".join(new)
    merged = rules.revise(a_cube(text=before), START, text=added, mode="merge").text.split("\n")
    lines = before.split("\n")
    assert merged[: len(lines)] == lines
    assert set(merged) == set(lines) | set(added.split("\n"))
    assert rules.revise(a_cube(text="\n".join(merged)), START, text=added, mode="merge").text.split("\n") == merged


def test_a_clock_that_goes_back_makes_no_version_older_than_the_one_before() -> None:
    assert rules.archive(a_cube(), START - HOUR).updated_at == START


# --- deletion ----------------------------------------------------------------------------------------------------------------


def test_deleting_removes_all_versions_and_what_was_derived_and_says_so(
    open_store: Callable[..., MemOS], clock: Clock
) -> None:
    memory = open_store(reader=Gist())
    turn, gist = memory.add("tea")
    other, _ = memory.add("cake")
    clock.forward(minutes=1)
    memory.update(turn.id, "green tea")
    now = clock.forward(minutes=1)
    receipt = memory.delete(turn.id)
    assert (receipt.actor, receipt.at, receipt.ids, receipt.derived) == ("ann", now, (turn.id,), (gist.id,))
    assert receipt.versions >= 1
    assert nowhere(memory, turn.id)
    assert nowhere(memory, gist.id)
    assert memory.get(other.id).text == "cake"
    assert [e.verb for e in memory.log(subject=turn.id)] == ["delete", "update", "add"]
    assert "delete" in [e.verb for e in memory.log(subject=gist.id)]


def test_one_unreachable_id_among_several_deletes_none(memory: MemOS) -> None:
    [mine] = memory.add("tea")
    [theirs] = memory.add("bob's tea", actor="bob")
    for ids in ([mine.id, "nobody"], [mine.id, theirs.id], {mine.id, theirs.id}):
        with pytest.raises(NotFound):
            memory.delete(ids)
    memory.share(theirs.id, readers=["ann"], actor="bob")
    with pytest.raises(AccessDenied):
        memory.delete([mine.id, theirs.id])
    assert memory.get(mine.id).version == 1
    assert memory.delete([mine.id, mine.id]).ids == (mine.id,)


def test_a_namespace_is_deleted_with_all_below_of_its_owner(memory: MemOS) -> None:
    memory.add("a", namespace=("app", "x"))
    memory.add("b", namespace=("app",))
    memory.add("c", namespace=("apple",))
    memory.add("d", namespace=("app",), actor="bob", access=Access("bob", frozenset({"ann"}), frozenset({"ann"})))
    assert len(memory.delete(("app",)).ids) == 2
    assert {h.cube.text for h in memory.search("x", k=9)} == {"c", "d"}


def test_a_frozen_derived_memory_holds_its_source(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(reader=Gist())
    turn, gist = memory.add("tea")
    memory.freeze(gist.id)
    with pytest.raises(IllegalTransition, match="frozen"):
        memory.delete(turn.id)
    assert memory.get(turn.id).version == 1


def test_deleted_words_are_gone_from_the_disk_after_compaction(
    open_store: Callable[..., MemOS], tmp_path: Path
) -> None:
    memory = open_store(policy=Policy(keep_versions=timedelta(seconds=1)))
    [cube] = memory.add("zanzibarish tea")
    memory.add("other")
    memory.update(cube.id, "zanzibarish again")
    memory.delete(cube.id)

    def said() -> bool:
        files = (f for f in (tmp_path / "store").rglob("*") if f.is_file())
        return any(b"zanzibarish" in f.read_bytes() for f in files)

    assert said()
    for _ in range(500):
        memory.tick()
        if not said():
            return
    raise AssertionError("the words of a deleted memory stay in the files")
