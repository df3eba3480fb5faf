"""Any order of changes, snapshots, rollbacks, transactions and upkeep, against a dictionary."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memos_core import MemOS, Policy
from tests.test_crash import assert_explained
from tests.words import WordsEmbedder

KEYS, NAMES, OWNERS = ("a", "b"), ("one", "two"), ("ann", "bob")
WORDS = ("red", "green", "blue", "white")
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "delete", "archive", "snapshot", "rollback"]), st.sampled_from(OWNERS),
        st.sampled_from(KEYS), st.sampled_from(NAMES), st.sampled_from(WORDS),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


class Said(NamedTuple):
    """What a key says. A deletion ends a life, for good; what is put under its key later is another one's."""

    life: int
    text: str
    state: str  # live, archived, or withdrawn


Contents = dict[tuple[str, str], Said]  # by owner and key


class Refused(Exception):
    """What goes wrong in the middle of a transaction."""


class Model:
    """What is there, and what was at each snapshot."""

    def __init__(self, now: Contents, moments: dict[tuple[str, str], Contents], lives: int) -> None:
        self.now, self.moments, self.lives = now, moments, lives

    def copy(self) -> Model:
        return Model(dict(self.now), {at: dict(found) for at, found in self.moments.items()}, self.lives)

    def add(self, owner: str, key: str, word: str) -> None:
        if (owner, key) not in self.now:
            self.lives += 1
        known = self.now.get((owner, key))
        self.now[owner, key] = Said(known.life if known else self.lives, word, "live")

    def snapshot(self, owner: str, name: str) -> None:
        self.moments[owner, name] = {at: said for at, said in self.now.items() if at[0] == owner}

    def rollback(self, owner: str, name: str) -> None:
        then = self.moments[owner, name]
        for at, said in self.now.items():
            if at[0] == owner:
                was = then.get(at)
                same = was is not None and was.life == said.life
                self.now[at] = was if was is not None and same else said._replace(state="withdrawn")

    def found(self, owner: str, states: Iterable[str]) -> dict[str, str]:
        return {key: s.text for (who, key), s in self.now.items() if who == owner and s.state in states}


class Time(RuleBasedStateMachine):
    """A store that is written to, another `MemOS` on it that reads, and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model({}, {}, 0)
        self.embed = WordsEmbedder()

    @initialize()
    def opened(self) -> None:
        self.memory, self.beside = self.open(), self.open()

    def open(self) -> MemOS:
        return MemOS(self.folder.name, embed=self.embed, policy=Policy(compact_every=10))

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            for owner in OWNERS:
                cubes = [h.cube for h in self.memory.search("red", k=100, actor=owner)]
                self.assert_explained(owner, cubes)
            self.memory.close()
            self.beside.close()
        self.folder.cleanup()

    def assert_explained(self, owner: str, cubes: list[object]) -> None:
        actor, self.memory._actor = self.memory._actor, owner
        assert_explained(self.memory, [c for c in cubes if self.once(owner, c.key)])  # type: ignore[attr-defined]
        self.memory._actor = actor

    def once(self, owner: str, key: str) -> bool:
        """Whether a key had one life only: the log tells of the others too."""
        return not any(
            e.verb == "delete" for e in self.memory.log(actor=owner, subject=self.id(owner, key), limit=1000)
        )

    def id(self, owner: str, key: str) -> str | None:
        [found] = self.memory.items.get([(("default",), key)], actor=owner)
        return None if found is None else found.id

    def do(self, verb: str, owner: str, key: str, name: str, word: str) -> None:
        """One change, on both."""
        there = self.model.now.get((owner, key))
        if verb == "add":
            self.memory.add(word, key=key, actor=owner)
            self.model.add(owner, key, word)
        elif verb == "snapshot" and (owner, name) not in self.model.moments:
            self.memory.snapshot(name, actor=owner)
            self.model.snapshot(owner, name)
        elif verb == "rollback" and (owner, name) in self.model.moments:
            self.memory.rollback(name, actor=owner)
            self.model.rollback(owner, name)
        elif verb in ("delete", "archive") and there is not None and there.state != "withdrawn":
            id = self.id(owner, key)
            assert id is not None
            if verb == "delete":
                self.memory.delete(id, actor=owner)
                del self.model.now[owner, key]
            else:
                self.memory.archive(id, actor=owner)
                self.model.now[owner, key] = there._replace(state="archived")

    # --- rules -------------------------------------------------------------------------------------------------------------

    @rule(changes=CHANGES)
    def changed(self, changes: list[tuple[str, str, str, str, str]]) -> None:
        for change in changes:
            self.do(*change)

    @rule(changes=CHANGES, fails=st.booleans())
    def changed_as_one(self, changes: list[tuple[str, str, str, str, str]], fails: bool) -> None:
        before = self.model.copy()
        seen = [self.beside_finds(owner) for owner in OWNERS]
        try:
            with self.memory.transaction():
                for change in changes:
                    self.do(*change)
                    self.agrees_inside()
                assert [self.beside_finds(owner) for owner in OWNERS] == seen
                if fails:
                    raise Refused
        except Refused:
            self.model = before

    @rule(owner=st.sampled_from(OWNERS), name=st.sampled_from(NAMES))
    def dropped(self, owner: str, name: str) -> None:
        if self.model.moments.pop((owner, name), None) is not None:
            self.memory.drop_snapshot(name, actor=owner)

    @rule()
    def kept_up(self) -> None:
        self.memory.tick()

    @rule()
    def opened_again(self) -> None:
        self.memory.close()
        self.memory = self.open()

    # --- what holds ----------------------------------------------------------------------------------------------------------

    def beside_finds(self, owner: str) -> set[tuple[str | None, str]]:
        return {(h.cube.key, h.cube.text) for h in self.beside.search("red", k=100, actor=owner)}

    def agrees_inside(self) -> None:
        for owner in OWNERS:
            found = {(h.cube.key, h.cube.text) for h in self.memory.search("red", k=100, actor=owner)}
            assert found == set(self.model.found(owner, ["live"]).items())

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "memory"):
            return
        self.agrees_inside()
        for owner in OWNERS:
            assert self.beside_finds(owner) == set(self.model.found(owner, ["live"]).items())
            found = self.beside.items.get([(("default",), key) for key in KEYS], actor=owner)
            kept = self.model.found(owner, ["live", "archived"])
            assert [c and c.text for c in found] == [kept.get(key) for key in KEYS]
            assert {s.name for s in self.beside.snapshots(actor=owner)} == {
                name for who, name in self.model.moments if who == owner
            }

    @rule()
    def compared(self) -> None:
        for (owner, name), then in self.model.moments.items():
            self.difference_agrees(owner, name, then)

    def difference_agrees(self, owner: str, name: str, then: Contents) -> None:
        found = self.beside.diff(name, actor=owner)
        now = {at: s for at, s in self.model.now.items() if at[0] == owner and s.state != "withdrawn"}
        was = {at: s for at, s in then.items() if s.state != "withdrawn"}
        lives_now, lives_then = {s.life: s for s in now.values()}, {s.life: s for s in was.values()}
        assert len(found.added) == len(lives_now.keys() - lives_then.keys())
        assert len(found.removed) == len(lives_then.keys() - lives_now.keys())
        both = lives_now.keys() & lives_then.keys()
        assert len(found.changed) == sum(lives_now[life] != lives_then[life] for life in both)


class LongTime(Time):
    """The same, for longer."""


TestTime = Time.TestCase
TestTime.settings = settings(max_examples=4, stateful_step_count=10)
TestLongTime = pytest.mark.slow(pytest.mark.timeout(3600)(LongTime.TestCase))
TestLongTime.settings = settings(max_examples=60, stateful_step_count=20)
