"""Rule 5: nothing outside an actor's scope shows in hits, brief, history, lineage, log, counts or errors.

Random work of several actors over two open handles on one store, held against a model of a few plain dictionaries.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memos_core import PUBLIC, Access, AccessDenied, Draft, IllegalTransition, Link, MemCube, MemOS, NotFound, Reading
from tests.conftest import Clock
from tests.words import WordsEmbedder

ACTORS = ("ann", "bob", "cleo")
NAMESPACES = (("app",), ("app", "x"), ("apple",))
LIVE = ("generated", "activated", "merged", "frozen")
names = st.frozensets(st.sampled_from([*ACTORS, PUBLIC]), max_size=2)
actors = st.sampled_from(ACTORS)


class Gist:
    """A reader that makes one statement of each turn."""

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        return Reading(tuple(Draft(f"gist of {t.text}", parents=(Link(t.id, t.version),)) for t in turns))


@dataclass
class Known:
    """What the model knows of a memory."""

    owner: str
    namespace: tuple[str, ...]
    versions: list[tuple[str, Access]]
    session: str | None = None
    state: str = "generated"
    before_freeze: str = "generated"
    parent: str | None = None
    gone: bool = False

    @property
    def access(self) -> Access:
        return self.versions[-1][1]

    @property
    def text(self) -> str:
        return self.versions[-1][0]


def readers(access: Access) -> frozenset[str]:
    return access.readers | access.writers | {access.owner}


def reads(actor: str, access: Access) -> bool:
    return bool(readers(access) & {actor, PUBLIC})


def _within(access: Access, most: Access) -> bool:
    return PUBLIC in readers(most) or readers(access) <= readers(most)


def _narrowed(access: Access, most: Access) -> Access:
    rest = readers(most)
    if PUBLIC in rest:
        return access
    may_read = (rest if PUBLIC in readers(access) else access.readers & rest) - {access.owner}
    may_write = rest if PUBLIC in access.writers else access.writers & rest
    return Access(access.owner, may_read, may_write)


@dataclass
class Told:
    actor: str
    verb: str
    subject: str
    version: int
    readers: frozenset[str] = field(default_factory=frozenset)


class Actors(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        clock = Clock()
        self.handles = [
            MemOS(self.folder, embed=WordsEmbedder(16), clock=clock, reader=Gist(), actor="nobody") for _ in range(2)
        ]
        self.clock = clock
        self.known: dict[str, Known] = {}
        self.told: list[Told] = []
        self.count = 0

    def teardown(self) -> None:
        for handle in self.handles:
            handle.close()
        shutil.rmtree(self.folder)

    # --- what they do ----------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> MemOS:
        """One handle after the other."""
        self.count += 1
        self.clock.forward(seconds=1)
        return self.handles[self.count % 2]

    @rule(actor=actors, where=st.sampled_from(NAMESPACES), may_read=names, may_write=names, message=st.booleans())
    def add(
        self, actor: str, where: tuple[str, ...], may_read: frozenset[str], may_write: frozenset[str], message: bool
    ) -> None:
        memory = self.memory
        text = f"secret{self.count} tea of {actor}"
        access = Access(actor, may_read, may_write)
        session = f"talk{self.count % 3}" if message else None
        content = {"role": "user", "content": text} if message else text
        turn, gist = memory.add(content, actor=actor, namespace=where, access=access, session=session)
        self.known[turn.id] = Known(actor, where, [(text, access)], session)
        self._tell(actor, "add", turn.id)
        assert gist.text == f"gist of {text}"
        assert [reads(a, gist.access) for a in (*ACTORS, "x")] == [reads(a, access) for a in (*ACTORS, "x")]
        self.known[gist.id] = Known(actor, where, [(gist.text, gist.access)], session, parent=turn.id)
        self._tell(actor, "add", gist.id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors, may_read=names, may_write=names)
    def share(self, data: Any, actor: str, may_read: frozenset[str], may_write: frozenset[str]) -> None:
        id, known = self._pick(data)
        wanted = Access(known.owner, may_read, may_write)
        source = self.known[known.parent].access if known.parent else None
        if source and not known.gone and actor == known.owner and not _within(wanted, source):
            with pytest.raises(AccessDenied, match="made from"):
                self.memory.share(id, may_read, may_write, actor=actor)
            return
        if self._may(actor, id, "share", lambda m: m.share(id, may_read, may_write, actor=actor), owner=True):
            known.versions.append((known.text, wanted))
            self._tell(actor, "share", id)
            for child, made in self._made_from(id):
                if (kept := _narrowed(made.access, wanted)) != made.access:
                    made.versions.append((made.text, kept))
                    self._tell(actor, "share", child)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors)
    def update(self, data: Any, actor: str) -> None:
        id, known = self._pick(data)
        text = f"secret{self.count} changed tea"
        if self._may(actor, id, "update", lambda m: m.update(id, text, actor=actor), frozen=False):
            known.versions.append((text, known.access))
            self._tell(actor, "update", id)
            self._outdate(actor, id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors, verb=st.sampled_from(["archive", "freeze", "unfreeze"]))
    def move(self, data: Any, actor: str, verb: str) -> None:
        id, known = self._pick(data)
        frozen = known.state == "frozen"
        unchanged = {"archive": known.state == "archived", "freeze": frozen, "unfreeze": not frozen}[verb]
        done = self._may(
            actor, id, verb, lambda m: getattr(m, verb)(id, actor=actor), owner=True, frozen=verb != "archive"
        )
        if done and not unchanged:
            if verb == "freeze":
                known.before_freeze = known.state
            known.state = {"archive": "archived", "freeze": "frozen", "unfreeze": known.before_freeze}[verb]
            known.versions.append(known.versions[-1])
            self._tell(actor, verb, id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors)
    def restore(self, data: Any, actor: str) -> None:
        id, known = self._pick(data)
        version = data.draw(st.integers(1, len(known.versions) + 1))
        there = version <= len(known.versions) and reads(actor, known.versions[version - 1][1])
        there |= version == len(known.versions)
        if not known.gone and reads(actor, known.access) and not there:
            with pytest.raises(NotFound, match="no version"):
                self.memory.restore(id, version, actor=actor)
            return
        if self._may(actor, id, "restore", lambda m: m.restore(id, version, actor=actor), frozen=False):
            before = known.text
            known.state = "activated" if known.state == "archived" else known.state
            known.versions.append((known.versions[version - 1][0], known.access))
            self._tell(actor, "restore", id)
            if known.text != before:
                self._outdate(actor, id)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors)
    def delete(self, data: Any, actor: str) -> None:
        id, known = self._pick(data)
        derived = [i for i, k in self.known.items() if k.parent == id and not k.gone]
        held = [i for i in [id, *derived] if self.known[i].state == "frozen"]
        if held and not known.gone and reads(actor, known.access) and actor == known.owner:
            with pytest.raises(IllegalTransition):
                self.memory.delete(id, actor=actor)
            return
        if self._may(actor, id, "delete", lambda m: m.delete(id, actor=actor), owner=True):
            for gone in [id, *derived]:
                self._tell(actor, "delete", gone)
                self.known[gone].gone = True

    # --- what they see ---------------------------------------------------------------------------------------------------

    @rule(actor=actors, handle=st.integers(0, 1), where=st.sampled_from([(), *NAMESPACES]))
    def search(self, actor: str, handle: int, where: tuple[str, ...]) -> None:
        hits = self.handles[handle].search("tea secret", actor=actor, namespace=where, k=1000)
        wanted = {i for i, k in self._readable(actor).items() if k.state in LIVE and k.namespace[: len(where)] == where}
        assert {h.cube.id: h.cube.text for h in hits} == {i: self.known[i].text for i in wanted}
        brief = self.handles[handle].brief("tea secret", actor=actor, namespace=where)
        assert {c.id for c in brief.cubes} <= wanted
        for id, known in self.known.items():
            assert id in wanted or known.text.split()[0] + " " not in brief.text or known.parent or self._gist(id)

    def _made_from(self, id: str) -> list[tuple[str, Known]]:
        return [(i, k) for i, k in self.known.items() if k.parent == id and not k.gone]

    def _outdate(self, actor: str, id: str) -> None:
        """What was made from changed words leaves the search."""
        for child, made in self._made_from(id):
            if made.state in ("generated", "activated"):
                made.state = "archived"
                made.versions.append(made.versions[-1])
                self._tell(actor, "outdate", child)

    def _gist(self, id: str) -> bool:
        """Whether a statement that quotes this memory still lives: the words are its own, then."""
        return any(k.parent == id and not k.gone for k in self.known.values())

    @precondition(lambda self: self.known)
    @rule(data=st.data(), actor=actors, handle=st.integers(0, 1))
    def look_at_one(self, data: Any, actor: str, handle: int) -> None:
        memory = self.handles[handle]
        id, known = self._pick(data)
        if id not in self._readable(actor):
            for verb in (memory.get, memory.history, memory.lineage):
                assert refused(lambda verb=verb: verb(id, actor=actor), id) == refused(
                    lambda verb=verb: verb("no-such-id", actor=actor), "no-such-id"
                )
            return
        assert memory.get(id, actor=actor).text == known.text
        seen = [v for n, v in enumerate(known.versions, 1) if reads(actor, v[1]) or n == len(known.versions)]
        assert [c.text for c in memory.history(id, actor=actor)] == [text for text, _ in seen]
        family = memory.lineage(id, actor=actor)
        mine = self._readable(actor)
        assert {c.id for c in family.parents} == {known.parent} & set(mine)
        assert {c.id for c in family.children} == {i for i, k in mine.items() if k.parent == id}

    @rule(actor=actors, handle=st.integers(0, 1))
    def count_and_log(self, actor: str, handle: int) -> None:
        self.look(actor, self.handles[handle])

    def look(self, actor: str, memory: MemOS) -> None:
        mine = self._readable(actor)
        stats = memory.stats(actor=actor)
        assert stats.memories == len(mine)
        assert stats.by_state == Counter(k.state for k in mine.values())
        assert stats.sessions == len({k.session for k in mine.values() if k.session})
        events = memory.log(actor=actor, limit=100_000)
        assert [e.at for e in events] == sorted((e.at for e in events), reverse=True)
        assert Counter((e.actor, e.verb, e.subject, e.version) for e in events) == Counter(
            (t.actor, t.verb, t.subject, t.version)
            for t in self.told
            if actor == t.actor or t.readers & {actor, PUBLIC}
        )
        assert not any("secret" in e.detail for e in events)

    @invariant()
    def a_stranger_sees_what_is_public(self) -> None:
        if self.count % 5 == 0:
            public = {i for i, k in self._readable("stranger").items() if k.state in LIVE}
            assert {h.cube.id for h in self.handles[0].search("tea", actor="stranger", k=1000)} == public

    # --- helpers ---------------------------------------------------------------------------------------------------------

    def _pick(self, data: Any) -> tuple[str, Known]:
        id = data.draw(st.sampled_from(sorted(self.known, key=list(self.known).index)))
        return id, self.known[id]

    def _readable(self, actor: str) -> dict[str, Known]:
        return {i: k for i, k in self.known.items() if not k.gone and reads(actor, k.access)}

    def _tell(self, actor: str, verb: str, id: str) -> None:
        known = self.known[id]
        self.told.append(Told(actor, verb, id, len(known.versions), readers(known.access)))

    def _may(
        self,
        actor: str,
        id: str,
        verb: str,
        act: Callable[[MemOS], object],
        *,
        owner: bool = False,
        frozen: bool = True,
    ) -> bool:
        """Do it, or see it refused as it must be; `frozen`: whether a frozen memory allows it."""
        known, memory = self.known[id], self.memory
        if known.gone or not reads(actor, known.access):
            assert refused(lambda: act(memory), id) == "no memory ID"
            return False
        writes = actor == known.owner or bool(known.access.writers & {actor, PUBLIC})
        if not (actor == known.owner if owner else writes):
            with pytest.raises(AccessDenied) as caught:
                act(memory)
            assert "secret" not in str(caught.value)
            return False
        if known.state == "frozen" and not frozen:
            with pytest.raises(IllegalTransition):
                act(memory)
            return False
        act(memory)
        return True


def refused(act: Callable[[], object], id: str) -> str:
    """The words of the refusal, without the id."""
    with pytest.raises(NotFound) as caught:
        act()
    return str(caught.value).replace(repr(id), "ID")


TestIsolation = Actors.TestCase
TestIsolation.settings = settings(settings.get_profile("tests"), max_examples=10, stateful_step_count=25)


class TestIsolationAtLength(Actors.TestCase):
    pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # noqa: RUF012
    settings = settings(settings.get_profile("tests"), max_examples=120, stateful_step_count=50)


def test_a_reader_loses_sight_at_once_when_the_right_is_withdrawn(memory: MemOS) -> None:
    [cube] = memory.add("the code is 1234")
    memory.share(cube.id, readers=["bob"])
    assert len(memory.search("code", actor="bob")) == 1
    memory.share(cube.id)
    assert memory.search("code", actor="bob") == []
    assert memory.brief("code", actor="bob").text == ""
    assert memory.stats(actor="bob").memories == 0
    with pytest.raises(NotFound):
        memory.get(cube.id, actor="bob")


def test_a_reader_sees_no_version_from_before_it_could_read(memory: MemOS) -> None:
    [cube] = memory.add("draft with secrets")
    memory.update(cube.id, "clean text")
    memory.share(cube.id, readers=["bob"])
    assert [c.version for c in memory.history(cube.id, actor="bob")] == [3]
    with pytest.raises(NotFound):
        memory.get(cube.id, version=1, actor="bob")
    with pytest.raises(NotFound):
        memory.restore(cube.id, 1, actor="bob")


def test_a_filter_or_a_key_is_no_way_to_guess_anothers_memory(memory: MemOS) -> None:
    memory.add("salary", key="k", attributes={"amount": 5}, tags=["pay"], session="hr")
    for condition in ({"amount": 5}, {"tags": "pay"}, {"session": "hr"}, {"key": "k"}, {"amount": {"$ne": 4}}):
        assert memory.search("salary", actor="bob", filter=condition) == []
    assert memory.add("mine", key="k", actor="bob")[0].version == 1
    assert memory.get(memory.search("salary")[0].cube.id).version == 1


def test_a_namespace_is_an_address_and_no_permission(memory: MemOS) -> None:
    memory.add("ann's diary", namespace=("users", "bob"))
    assert memory.search("diary", namespace=("users", "bob"), actor="bob") == []
    assert memory.delete(("users", "bob"), actor="bob").ids == ()
    assert len(memory.search("diary")) == 1
