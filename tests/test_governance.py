"""Who may do what: the pure rules, and the database filter that must agree with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import PUBLIC, Access, AccessDenied, Draft, InvalidArgument, Link, MemCube, MemOS, NotFound, Reading
from memos_core.governance import derived_access, may_read, may_write, readers_of, require_owner, require_write
from tests.test_lifecycle import a_cube

ACTORS = ("ann", "bob", "cleo")
people = st.frozensets(st.sampled_from([*ACTORS, PUBLIC]), max_size=3)
accesses = st.builds(Access, st.sampled_from(ACTORS), people, people)


@given(accesses, st.sampled_from([*ACTORS, "stranger"]))
def test_the_owner_may_all_writers_read_and_nobody_else_anything(access: Access, actor: str) -> None:
    everybody = PUBLIC in access.readers | access.writers
    assert may_read(actor, access) == (everybody or actor in access.readers | access.writers | {access.owner})
    assert may_write(actor, access) == (PUBLIC in access.writers or actor in access.writers | {access.owner})
    assert may_read(actor, access) or not may_write(actor, access)


@given(accesses, st.sampled_from([*ACTORS, "stranger"]))
def test_a_refusal_tells_only_readers_that_there_is_something(access: Access, actor: str) -> None:
    cube = replace(a_cube(), access=access)
    for require, allowed in ((require_write, may_write(actor, access)), (require_owner, actor == access.owner)):
        if not may_read(actor, access):
            with pytest.raises(NotFound):
                require(actor, cube)
        elif not allowed:
            with pytest.raises(AccessDenied, match=actor):
                require(actor, cube)
        else:
            require(actor, cube)


@given(st.lists(accesses, min_size=1, max_size=4))
def test_what_is_derived_is_read_by_those_who_read_all_its_sources(sources: list[Access]) -> None:
    for maker in ACTORS:
        if not all(may_read(maker, s) for s in sources):
            continue
        access = derived_access(maker, sources)
        assert access.owner == maker
        assert not access.writers
        for actor in (*ACTORS, "stranger"):
            assert may_read(actor, access) == all(may_read(actor, s) for s in sources)


def test_what_comes_from_nowhere_has_no_readers() -> None:
    with pytest.raises(InvalidArgument, match="sources"):
        derived_access("ann", [])


@pytest.mark.parametrize("access", [Access("ann"), Access("ann", frozenset({"bob"})), Access("ann", frozenset(), frozenset({"bob"})),
                                    Access("ann", frozenset({PUBLIC})), Access("bob", frozenset({"cleo"}), frozenset({PUBLIC}))], ids=repr)  # fmt: skip
def test_the_database_filter_agrees_with_the_rule(memory: MemOS, access: Access) -> None:
    [cube] = memory.add("tea", actor=access.owner, access=access)
    assert readers_of(access) >= {access.owner}
    for actor in (*ACTORS, "stranger"):
        assert bool(memory.search("tea", actor=actor)) == may_read(actor, access)
        assert memory.stats(actor=actor).memories == may_read(actor, access)
        if may_write(actor, access):
            assert memory.update(cube.id, "tea", actor=actor).access == access


def test_sharing_says_exactly_who(memory: MemOS) -> None:
    [cube] = memory.add("tea")
    assert memory.share(cube.id, readers=["bob"], writers=["cleo"]).access == Access(
        "ann", frozenset({"bob"}), frozenset({"cleo"})
    )
    with pytest.raises(AccessDenied, match="owner"):
        memory.share(cube.id, readers=["cleo"], actor="cleo")
    with pytest.raises(AccessDenied, match="owner"):
        memory.delete(cube.id, actor="cleo")
    assert memory.share(cube.id, readers=[PUBLIC]).access == Access("ann", frozenset({PUBLIC}))
    assert memory.get(cube.id, actor="stranger").text == "tea"
    assert memory.share(cube.id).access == Access("ann")


class Quoting:
    """A reader that makes a statement of one memory, whatever was said."""

    source: MemCube

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        return Reading((Draft("gist of the pin", parents=(Link(self.source.id, self.source.version),)),))


def test_adding_again_under_a_key_withdraws_readers_from_what_was_derived(open_store: Callable[..., MemOS]) -> None:
    quoting = Quoting()
    memory = open_store(reader=quoting)
    shared = Access("ann", readers=frozenset({"bob"}))
    [quoting.source] = memory.add("the pin is 1234", key="pin", actor="ann", access=shared)
    [_, gist] = memory.add("hello", actor="ann")
    assert memory.get(gist.id, actor="bob").id == gist.id
    memory.add("the pin is 1234", key="pin", actor="ann")  # for ann alone from now on
    with pytest.raises(NotFound):
        memory.get(gist.id, actor="bob")
    assert memory.get(gist.id, actor="ann").state == "generated"  # the words are as they were
