"""Rule 5 with groups and calling contexts: random work of twenty actors, held against a model that knows no grants.

The model takes a right for the set of all situations (who acts, in which groups, for which purpose) in which it holds, so that what the
engine does by joining strings is done here by intersecting sets. Nothing outside an actor's rights may show in hits, brief, get, history,
lineage, log, counts or errors; and what is inside must be there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memos_core import PUBLIC, Access, AccessDenied, Draft, Link, MemCube, MemOS, NotFound, Reading, grant
from tests.conftest import Clock
from tests.words import WordsEmbedder

ACTORS = tuple(f"actor{n}" for n in range(20))
GROUPS = ("red", "blue", "green")
PURPOSES = (None, "support", "sales")
ADMIN = "admin"

Situation = tuple[str, frozenset[str], str | None]
SETS = [frozenset(s) for s in chain.from_iterable(combinations(GROUPS, n) for n in range(4))]
EVER = frozenset(product(ACTORS, SETS, PURPOSES))

actors = st.sampled_from(ACTORS[:3]) | st.sampled_from(ACTORS)  # few of them meet again and again
purposes = st.sampled_from(PURPOSES)
grants = st.tuples(
    st.sampled_from([*ACTORS[:3], *(f"group:{g}" for g in GROUPS)]) | st.sampled_from([*ACTORS, PUBLIC]), purposes
)
several = st.frozensets(grants, max_size=3)

Grant = tuple[str, str | None]


def of(name: str) -> frozenset[Situation]:
    """All situations of an actor."""
    return frozenset(s for s in EVER if s[0] == name)


def where(given: Iterable[Grant]) -> frozenset[Situation]:
    """The situations in which one of some grants holds."""
    return frozenset(
        s
        for s in EVER
        for who, purpose in given
        if (who in (PUBLIC, s[0]) or who.removeprefix("group:") in s[1]) and purpose in (None, s[2])
    )


def written(given: Iterable[Grant]) -> frozenset[str]:
    return frozenset(grant(who, purpose=purpose) for who, purpose in given)


@dataclass
class Known:
    """What the model knows of a memory: where it is read and written, beyond which it is not (`within`), each version with its words."""

    owner: str
    token: str
    readers: frozenset[Situation]
    writers: frozenset[Situation]
    within: frozenset[Situation]
    sources: tuple[str, ...] = ()
    live: bool = True
    gone: bool = False

    def __post_init__(self) -> None:
        self.versions: list[tuple[str, frozenset[Situation]]] = [(self.token, self.read)]

    @property
    def read(self) -> frozenset[Situation]:
        return (self.readers | self.writers | of(self.owner)) & self.within


@dataclass(frozen=True)
class Told:
    actor: str
    verb: str
    subject: str
    version: int


class Quoting:
    """A reader that makes the statement it was told to make, of memories it was told of."""

    def __init__(self) -> None:
        self.draft: Draft | None = None

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        return Reading(() if self.draft is None else (self.draft,))


class Company(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.clock, self.quoting = Clock(), Quoting()
        self.handles = [
            MemOS(self.folder, embed=WordsEmbedder(16), clock=self.clock, reader=self.quoting, actor=ADMIN)
            for _ in range(2)
        ]
        self.known: dict[str, Known] = {}
        self.told: dict[Told, frozenset[Situation]] = {}
        self.members: dict[str, frozenset[str]] = {}
        self.count = 0
        for name in GROUPS:
            self._join(name, frozenset(ACTORS))  # so that all may name it; who leaves it may still own what names it

    def teardown(self) -> None:
        for handle in self.handles:
            handle.close()
        shutil.rmtree(self.folder)

    # --- what they do ----------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> MemOS:
        """One handle after the other, and each act later than the one before."""
        self.count += 1
        self.clock.forward(seconds=1)
        return self.handles[self.count % 2]

    @rule(name=st.sampled_from(GROUPS), members=st.frozensets(actors, max_size=20))
    def regroup(self, name: str, members: frozenset[str]) -> None:
        self._join(name, members)

    @rule(actor=actors, readers=several, writers=st.frozensets(grants, max_size=1))
    def add(self, actor: str, readers: frozenset[Grant], writers: frozenset[Grant]) -> None:
        readers, writers = self._nameable(actor, readers), self._nameable(actor, writers)
        token = f"secret{self.count}"
        access = Access(actor, written(readers), written(writers))
        [cube] = self.memory.add(f"tea {token}", actor=actor, access=access)
        self.known[cube.id] = Known(actor, token, where(readers), where(writers), EVER)
        self._tell(actor, "add", cube.id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors, purpose=purposes)
    def derive(self, data: Any, actor: str, purpose: str | None) -> None:
        """An actor makes a statement of memories that it may read in a context."""
        mine = [i for i in self._readable(self._now(actor, purpose)) if self.known[i].live]
        if not mine:
            return
        ids = data.draw(st.lists(st.sampled_from(mine), min_size=1, max_size=2, unique=True))
        token = f"gist{self.count}"
        self.quoting.draft = Draft(f"tea {token}", parents=tuple(Link(i, len(self.known[i].versions)) for i in ids))
        memory = self.memory
        with memory.acting(purpose=purpose):
            turn, made = memory.add(f"tea say{token}", actor=actor)
        self.quoting.draft = None
        self.known[turn.id] = Known(actor, f"say{token}", frozenset(), frozenset(), EVER)
        self._tell(actor, "add", turn.id)
        common = frozenset.intersection(*(self.known[i].read for i in ids))
        within = EVER if of(actor) <= common else common
        self.known[made.id] = Known(actor, token, common, frozenset(), within, tuple(ids))
        assert self.known[made.id].read == common
        self._tell(actor, "add", made.id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors, purpose=purposes, readers=several, writers=st.frozensets(grants, max_size=1))
    def share(self, data: Any, actor: str, purpose: str | None, readers: Any, writers: Any) -> None:
        id, known = self._pick(data, actor)
        readers, writers = self._nameable(actor, readers), self._nameable(actor, writers)
        wanted = (where(readers) | where(writers) | of(known.owner)) & known.within
        most = frozenset.intersection(EVER, *(self.known[i].read for i in known.sources))
        act = self._acting(actor, purpose, lambda m: m.share(id, written(readers), written(writers), actor=actor))
        mine = not known.gone and self._now(actor, purpose) in known.read and actor == known.owner
        if mine and not wanted <= most:
            with pytest.raises(AccessDenied, match="made from"):
                act(self.memory)
            return
        if self._may(actor, purpose, id, act, owner=True):
            known.readers, known.writers = where(readers), where(writers)
            self._version(actor, "share", id)
            self._narrow(actor, id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors, purpose=purposes)
    def update(self, data: Any, actor: str, purpose: str | None) -> None:
        id, known = self._pick(data, actor)
        token = f"changed{self.count}"
        act = self._acting(actor, purpose, lambda m: m.update(id, f"tea {token}", actor=actor))
        if self._may(actor, purpose, id, act):
            known.token = token
            self._version(actor, "update", id)
            for child in self._below(id):
                if self.known[child].live:
                    self.known[child].live = False
                    self._version(actor, "outdate", child)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors, purpose=purposes)
    def delete(self, data: Any, actor: str, purpose: str | None) -> None:
        id, _ = self._pick(data, actor)
        if self._may(actor, purpose, id, self._acting(actor, purpose, lambda m: m.delete(id, actor=actor)), owner=True):
            self._remove(actor, [id, *self._below(id)])

    # --- what they see ---------------------------------------------------------------------------------------------------

    @rule(data=st.data(), actor=actors, purpose=purposes, handle=st.integers(0, 1))
    def look(self, data: Any, actor: str, purpose: str | None, handle: int) -> None:
        memory, now = self.handles[handle], self._now(actor, purpose)
        mine = self._readable(now)
        live = {i: k.token for i, k in mine.items() if k.live}
        with memory.acting(purpose=purpose):
            hits = memory.search("tea", actor=actor, k=1000)
            assert {h.cube.id: h.cube.text for h in hits} == {i: f"tea {t}" for i, t in live.items()}
            words = set(memory.brief("tea", actor=actor).text.split())
            assert words & self._tokens() <= set(live.values())
            assert memory.stats(actor=actor).memories == len(mine)
            self._look_at_log(memory, actor, now)
            if self.known:
                self._look_at_one(memory, actor, now, self._pick(data, actor)[0])

    def _look_at_log(self, memory: MemOS, actor: str, now: Situation) -> None:
        seen = {
            Told(e.actor, e.verb, e.subject, e.version or 0)
            for e in memory.log(actor=actor, limit=100_000)
            if e.subject
        }
        assert seen == {t for t, read in self.told.items() if t.actor == actor or now in read}
        assert not any(token in e.detail for e in memory.log(actor=actor, limit=1000) for token in self._tokens())

    def _look_at_one(self, memory: MemOS, actor: str, now: Situation, id: str) -> None:
        mine, known = self._readable(now), self.known[id]
        if id not in mine:
            for verb in (memory.get, memory.history, memory.lineage):
                assert refused(lambda verb=verb: verb(id, actor=actor), id) == "no memory ID"
                assert refused(lambda verb=verb: verb("nobody's", actor=actor), "nobody's") == "no memory ID"
            return
        assert memory.get(id, actor=actor).text == f"tea {known.token}"
        last = len(known.versions)
        versions = [f"tea {t}" for n, (t, read) in enumerate(known.versions, 1) if now in read or n == last]
        assert [c.text for c in memory.history(id, actor=actor)] == versions
        family = memory.lineage(id, actor=actor)
        assert {c.id for c in family.parents} == set(known.sources) & set(mine)
        assert {c.id for c in family.children} == {i for i, k in mine.items() if id in k.sources}

    @invariant()
    def a_few_see_what_is_theirs_in_every_context(self) -> None:
        actor = ACTORS[self.count % 3]
        for purpose in PURPOSES:
            with self.handles[0].acting(purpose=purpose):
                hits = self.handles[0].search("tea", actor=actor, k=1000)
            mine = self._readable(self._now(actor, purpose))
            assert {h.cube.id for h in hits} == {i for i, k in mine.items() if k.live}

    # --- the model -------------------------------------------------------------------------------------------------------

    def _join(self, name: str, members: frozenset[str]) -> None:
        self.memory.group(name, members)
        self.members[name] = members

    def _nameable(self, actor: str, given: Iterable[Grant]) -> list[Grant]:
        """Only who is in a group may give it a right."""
        return [g for g in given if not g[0].startswith("group:") or actor in self.members[g[0].removeprefix("group:")]]

    def _now(self, actor: str, purpose: str | None) -> Situation:
        return actor, frozenset(g for g, m in self.members.items() if actor in m), purpose

    def _acting(self, actor: str, purpose: str | None, act: Callable[[MemOS], object]) -> Callable[[MemOS], None]:
        def acted(memory: MemOS) -> None:
            with memory.acting(purpose=purpose):
                act(memory)

        return acted

    def _pick(self, data: Any, actor: str) -> tuple[str, Known]:
        """Half of the time one of the actor's own, which it may do something to."""
        own = [i for i, k in self.known.items() if k.owner == actor and not k.gone]
        ids = own if own and data.draw(st.booleans()) else list(self.known)
        id = data.draw(st.sampled_from(ids))
        return id, self.known[id]

    def _readable(self, now: Situation) -> dict[str, Known]:
        return {i: k for i, k in self.known.items() if not k.gone and now in k.read}

    def _tokens(self) -> set[str]:
        return {token for k in self.known.values() for token, _ in k.versions}

    def _tell(self, actor: str, verb: str, id: str) -> None:
        known = self.known[id]
        self.told[Told(actor, verb, id, len(known.versions))] = known.read

    def _version(self, actor: str, verb: str, id: str) -> None:
        known = self.known[id]
        known.versions.append((known.token, known.read))
        self._tell(actor, verb, id)

    def _below(self, id: str) -> list[str]:
        """What was made of a memory, one generation after the other."""
        found, edge = list[str](), {id}
        while edge:
            edge = {i for i, k in self.known.items() if not k.gone and i not in found and edge & set(k.sources)}
            found += sorted(edge)
        return found

    def _narrow(self, actor: str, id: str) -> None:
        for child in self._below(id):
            made = self.known[child]
            if made.gone:
                continue
            sources = [self.known[i].read for i in made.sources]
            if not all(of(made.owner) & s for s in sources):
                self._remove(actor, [child, *self._below(child)])
                continue
            rest = frozenset.intersection(*sources)
            made.readers, made.writers = made.readers & rest, made.writers & rest
            made.within = made.within if of(made.owner) <= rest else made.within & rest
            stored = self.handles[0]._vault.by_ids([child])[0].cube.version
            if stored > len(made.versions):  # whether its strings changed, the model cannot know
                self._version(actor, "share", child)
            assert made.read == made.versions[-1][1]  # and if they did not, nothing else did

    def _remove(self, actor: str, ids: Iterable[str]) -> None:
        for id in ids:
            self._tell(actor, "delete", id)
            self.known[id].gone = True

    def _may(
        self, actor: str, purpose: str | None, id: str, act: Callable[[MemOS], None], *, owner: bool = False
    ) -> bool:
        """Do it, or see it refused as it must be."""
        known, memory, now = self.known[id], self.memory, self._now(actor, purpose)
        if known.gone or now not in known.read:
            assert refused(lambda: act(memory), id) == "no memory ID"
            return False
        if not (actor == known.owner or (not owner and now in known.writers)):
            with pytest.raises(AccessDenied) as caught:
                act(memory)
            assert not any(token in str(caught.value) for token in self._tokens())
            return False
        act(memory)
        return True


def refused(act: Callable[[], object], id: str) -> str:
    """The words of the refusal, without the id."""
    with pytest.raises(NotFound) as caught:
        act()
    return str(caught.value).replace(repr(id), "ID")


TestRights = Company.TestCase
TestRights.settings = settings(settings.get_profile("tests"), max_examples=3, stateful_step_count=30)


class TestRightsInTenThousandActs(Company.TestCase):
    pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]  # noqa: RUF012
    settings = settings(settings.get_profile("tests"), max_examples=200, stateful_step_count=50)
