"""The table of states is exact: each verb does to a memory in each state just what the table says, one after another and in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import (
    Access,
    AccessDenied,
    Draft,
    IllegalTransition,
    InvalidArgument,
    MemCube,
    MemOS,
    MemOSError,
    NotFound,
    Reading,
    State,
)  # fmt: skip
from memos_core import lifecycle as rules
from memos_core.cli import main
from tests.conftest import Clock
from tests.test_forgetting import keep_tensors
from tests.test_lifecycle import nowhere
from tests.words import WordsEmbedder

HOUR = timedelta(hours=1)
DELETE = "delete, forget, retention, purge"


class Superseding:
    """A reader that says of each turn that it takes the place of a memory, if it was told of which."""

    target: str | None = None

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        if self.target is None:
            return Reading()
        return Reading((Draft("it is otherwise now", decision="supersede", revises=self.target),))


class One:
    """One memory of a store, and all that can be done to it."""

    def __init__(self, path: str) -> None:
        self.clock, self.reader = Clock(), Superseding()
        self.memory = MemOS(path, embed=WordsEmbedder(16), clock=self.clock, actor="ann", reader=self.reader)
        self.memory.snapshot("before")
        self.id = self.memory.add("tea", key="k", ttl=1000 * HOUR)[0].id
        self.count = 0

    @property
    def state(self) -> State | None:
        rows = self.memory._vault.by_ids([self.id])
        return rows[0].cube.state if rows else None

    @property
    def is_over(self) -> bool:
        return any(rules.has_expired(r.cube, self.clock()) for r in self.memory._vault.by_ids([self.id]))

    @property
    def version(self) -> int:
        return self.memory._vault.by_ids([self.id])[0].cube.version

    def do(self, trigger: str) -> None:
        self.count += 1
        self.clock.forward(seconds=1)
        memory, id = self.memory, self.id
        if trigger == "add again":
            memory.add(f"tea {self.count}", key="k", ttl=1000 * HOUR)
        elif trigger == "update":
            memory.update(id, f"tea {self.count}")
        elif trigger == "restore":
            memory.restore(id, 1)
        elif trigger == "merge":
            memory.update(id, f"more {self.count}", mode="merge")
        elif trigger == "merge, fuse":
            [other] = memory.add(f"other tea {self.count}")
            memory.fuse([id, other.id])
        elif trigger == "archive, fuse":
            [other] = memory.add(f"other tea {self.count}")
            memory.fuse([other.id, id])
        elif trigger == "supersede":
            self._supersede()
        elif trigger == "tick after its time":
            self.clock.forward(hours=2000)
            memory.tick()
        elif trigger == "rollback":
            memory.rollback("before")
        elif trigger == DELETE:
            memory.delete([id])
        else:
            {"archive": memory.archive, "freeze": memory.freeze, "unfreeze": memory.unfreeze, "share": memory.share}[
                trigger
            ](id)

    def _supersede(self) -> None:
        """A reader's mistake costs no turn: what was refused is an event."""
        before = len(self.memory.log(verb="read"))
        self.reader.target = self.id
        self.memory.add("it is otherwise")
        self.reader.target = None
        if len(self.memory.log(verb="read")) > before:
            self.memory.get(self.id)
            raise IllegalTransition("refused")


TRIGGERS = (
    "add again", "update", "restore", "merge", "merge, fuse", "archive", "archive, fuse", "supersede", "freeze", "unfreeze", "share",
    "rollback", "tick after its time", DELETE,
)  # fmt: skip


PASSES_OVER = ("rollback", "tick after its time")  # what they may not touch


def told(trigger: str, state: State, before: State | None) -> State | str | None:
    """What the table says; "refused" for what is not in it."""
    name = trigger.split(", fuse")[0]
    found = [t for t in rules.TRANSITIONS if name in (t.trigger, *t.trigger.split(", ")) and state in t.of]
    if not found:
        return "refused"
    [transition] = found
    return {"same": state, "before": before}.get(str(transition.to), transition.to)


SOME = st.lists(st.sampled_from([*TRIGGERS, "archive", "freeze", "unfreeze", "add again"]), min_size=4, max_size=10)


@settings(max_examples=8)
@given(SOME)
def test_whatever_is_done_in_whatever_order_states_move_as_the_table_says(
    tmp_path_factory: pytest.TempPathFactory, triggers: list[str]
) -> None:
    assert_moves_as_the_table_says(One(str(tmp_path_factory.mktemp("one") / "store")), triggers)


@pytest.mark.slow
@settings(max_examples=200, derandomize=False)
@given(SOME)
def test_two_hundred_lives_move_as_the_table_says(
    tmp_path_factory: pytest.TempPathFactory, triggers: list[str]
) -> None:
    assert_moves_as_the_table_says(One(str(tmp_path_factory.mktemp("one") / "store")), triggers)


def assert_moves_as_the_table_says(one: One, triggers: list[str]) -> None:
    before: State | None = None
    with one.memory:
        for trigger in triggers:
            state = one.state
            assert state is not None
            wanted = told(trigger, state, before)
            if wanted is None:
                one.do(trigger)
                assert one.state is None
                return
            if wanted == "refused" and trigger not in PASSES_OVER:
                with pytest.raises(NotFound if state is State.EXPIRED else IllegalTransition):
                    one.do(trigger)
            else:
                one.do(trigger)
            assert one.state == (state if wanted == "refused" else wanted), f"{trigger} of {state}"
            if trigger == "freeze" and state is not State.FROZEN:
                before = state
            if one.is_over and one.state is not State.EXPIRED:
                # its time ran out while it was frozen: returned to nobody, removed by a tick
                assert nowhere(one.memory, one.id)
                return


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("state", State)
def test_each_verb_does_to_each_state_what_the_table_says(state: State, trigger: str, tmp_path_factory) -> None:
    one = One(str(tmp_path_factory.mktemp("one") / "store"))
    way = {
        State.GENERATED: [], State.ACTIVATED: ["archive", "restore"], State.MERGED: ["merge"], State.ARCHIVED: ["archive"],
        State.EXPIRED: ["rollback"], State.FROZEN: ["merge", "freeze"],
    }[state]  # fmt: skip
    with one.memory:
        for step in way:
            one.do(step)
        assert one.state is state
        wanted = told(trigger, state, State.MERGED)
        try:
            one.do(trigger)
        except MemOSError:
            assert wanted == "refused" or (state is State.FROZEN)
        assert one.state == (state if wanted == "refused" else wanted)


def test_the_table_names_each_state_and_only_moves_that_the_rules_allow() -> None:
    assert {state for t in rules.TRANSITIONS for state in t.of if state} == set(State)
    for state in State:
        assert state not in rules.MOVES[state]
    assert rules.MOVES[State.FROZEN] == set(rules.KEPT)


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lifecycle"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" -> ") == len(rules.TRANSITIONS)
    assert "archive: generated, activated, merged -> archived" in printed


# --- said twice ------------------------------------------------------------------------------------------------------------


def test_near_duplicates_are_proposed_and_others_are_not(memory: MemOS, clock: Clock) -> None:
    first = memory.add("My sister Ines is allergic to walnuts and to hazelnuts, she told me so")[0]
    clock.forward(seconds=1)
    again = memory.add("My sister Ines is allergic to walnuts and to hazelnuts, she told me so twice")[0]
    memory.add("My brother Tom likes tea with lemon")
    memory.add("My sister Ines is allergic to walnuts and to hazelnuts, she told me so", actor="bob")
    [old] = memory.add("My sister Ines is allergic to walnuts and to hazelnuts, she told me")
    memory.archive(old.id)
    assert [[c.id for c in group] for group in memory.duplicates()] == [[first.id, again.id]]
    assert memory.duplicates(least=0.99) == memory.duplicates(("elsewhere",)) == []
    assert memory.stats().by_state == {"generated": 3, "archived": 1}
    with pytest.raises(InvalidArgument, match="least"):
        memory.duplicates(least=0)


def test_fusing_keeps_every_line_once_both_histories_and_the_fewer_readers(memory: MemOS) -> None:
    [one] = memory.add("tea\nlemon", tags=["a"], access=Access("ann", frozenset({"bob", "cleo"})))
    [other] = memory.add("lemon\nsugar", tags=["b"], access=Access("ann", frozenset({"bob"})))
    memory.update(other.id, "lemon\nhoney")
    fused = memory.fuse([one.id, other.id])
    assert (fused.id, fused.version, fused.state, fused.text) == (one.id, 2, State.MERGED, "tea\nlemon\nhoney")
    assert fused.tags == ("a", "b")
    assert [h.cube.text for h in memory.search("honey")] == [fused.text]
    assert [c.text for c in memory.history(one.id)] == ["tea\nlemon", fused.text]
    assert [c.text for c in memory.history(other.id)][:2] == ["lemon\nsugar", "lemon\nhoney"]
    assert memory.get(other.id).state is State.ARCHIVED
    assert [c.id for c in memory.lineage(one.id).parents] == [other.id]
    assert memory.get(one.id, actor="bob").text == fused.text
    with pytest.raises(NotFound):
        memory.get(one.id, actor="cleo")
    with pytest.raises(AccessDenied):
        memory.share(one.id, readers=["cleo"])
    assert memory.restore(other.id, 1).state is State.ACTIVATED
    memory.delete(other.id)
    with pytest.raises(NotFound):  # its words were in it
        memory.get(one.id)


def test_only_ones_own_text_is_fused_and_nothing_that_is_frozen(memory: MemOS) -> None:
    [one], [other] = memory.add("tea"), memory.add("cake")
    [theirs] = memory.add("bob's", actor="bob", access=Access("bob", frozenset({"ann"})))
    with pytest.raises(InvalidArgument):
        memory.fuse([one.id])
    with pytest.raises(AccessDenied):
        memory.fuse([one.id, theirs.id])
    memory.freeze(other.id)
    for ids in ([one.id, other.id], [other.id, one.id]):
        with pytest.raises(IllegalTransition):
            memory.fuse(ids)
    assert memory.get(one.id).version == 1


# --- found again -----------------------------------------------------------------------------------------------------------


def test_what_is_archived_is_found_by_its_name_and_its_window_and_comes_back(memory: MemOS) -> None:
    [june] = memory.add("tea in June", key="june", occurred_at="2025-06-01T00:00:00Z", namespace=("a",))
    [may] = memory.add("tea in May", occurred_at="2025-05-01T00:00:00Z", namespace=("a", "b"))
    memory.add("tea today", namespace=("a",))
    for cube in (june, may):
        memory.archive(cube.id)
    assert [c.id for c in memory.archived()] == [june.id, may.id]
    assert [c.id for c in memory.archived(key="june")] == [june.id]
    assert [c.id for c in memory.archived(until="2025-05-15T00:00:00Z")] == [may.id]
    assert [c.id for c in memory.archived(("a", "b"), limit=1)] == [may.id]
    assert memory.archived(actor="bob") == memory.archived(("c",)) == []
    memory.restore(june.id, 1)
    assert [h.cube.id for h in memory.search("June")][:1] == [june.id]
    assert [c.id for c in memory.archived()] == [may.id]


def test_one_id_is_followed_from_what_was_said_through_every_form(memory: MemOS) -> None:
    [turn], [other] = memory.add("tea"), memory.add("cake")
    made = keep_tensors(memory, turn, b"tensors")
    fused = memory.fuse([other.id, turn.id])
    assert (turn.provenance, fused.provenance) == ((turn.id,), (other.id, turn.id))
    assert memory.get(fused.id).provenance == (other.id, turn.id)
    assert {c.id for c in memory.follow(turn.id)} == {turn.id, made.id, fused.id}
    with pytest.raises(NotFound):
        memory.follow(turn.id, actor="bob")
