"""Rights of three parts: who, which memory, in which calling context; and of groups, whose members come and go."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import (
    PUBLIC,
    Access,
    AccessDenied,
    Draft,
    InvalidArgument,
    Link,
    MemCube,
    MemOS,
    NotFound,
    Reading,
    grant,
)  # fmt: skip
from memos_core import grants as rules
from memos_core.governance import derived_access, may_read, narrowed, readers_of
from memos_core.grants import Caller, Context

NAMES = ("ann", "bob", "c&d", "@purpose=support")
GROUPS = ("team", "a=b&c", "@x")
PURPOSES = (None, "support", "a&b")

whos = st.sampled_from([*NAMES, *(f"group:{g}" for g in GROUPS), PUBLIC])
grants = st.builds(
    lambda who, purpose, tool: grant(who, purpose=purpose, tool=tool), whos, st.sampled_from(PURPOSES), st.sampled_from([None, "t"])
)  # fmt: skip
several = st.frozensets(grants, max_size=4)
contexts = st.builds(Context, st.sampled_from(PURPOSES), st.sampled_from([None, "t", "u"]))


def caller(name: str, groups: Sequence[str], context: Context, used: frozenset[str]) -> Caller:
    return Caller.of(name, groups, context, [one for one in used if one.startswith(rules.JOINED)])


callers = st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(GROUPS), max_size=2), contexts)


# --- the rules -------------------------------------------------------------------------------------------------------------


@given(several, several, callers)
def test_what_is_made_of_two_is_read_where_both_are(some: frozenset[str], others: frozenset[str], who: tuple) -> None:
    both = rules.meet(some, others)
    actor = caller(*who, both | some | others)
    assert rules.holds(both, actor) == (rules.holds(some, actor) and rules.holds(others, actor))
    assert rules.within(both, some)
    assert rules.within(both, others)
    assert rules.meet(others, some) == both or rules.within(rules.meet(others, some), both)


@given(several, callers)
def test_the_database_finds_by_its_grants_what_the_rule_allows(some: frozenset[str], who: tuple) -> None:
    actor = caller(*who, some)
    assert rules.holds(some, actor) == bool(some & rules.holding(actor))
    assert rules.holds(some, str(actor)) <= rules.holds(some, actor)  # a plain name never has more
    assert actor == who[0]


@given(
    st.lists(st.builds(Access, st.sampled_from(NAMES), several), min_size=1, max_size=3),
    st.sampled_from(NAMES),
    callers,
)
def test_nobody_reads_what_is_derived_who_does_not_read_all_of_its_sources(
    sources: list[Access], maker: str, who: tuple
) -> None:
    made = derived_access(maker, sources)
    used = frozenset().union(readers_of(made), *(readers_of(s) for s in sources))
    actor = caller(*who, used)
    assert may_read(actor, made) == all(may_read(actor, s) for s in sources)
    less = replace(sources[0], readers=frozenset())
    kept = narrowed(made, derived_access(maker, [less, *sources[1:]]))
    assert may_read(actor, kept) <= (may_read(actor, less) and may_read(actor, made))


def test_a_grant_says_what_it_needs() -> None:
    assert grant("bob") == "bob"
    assert grant("bot", purpose="support") == "all:@purpose=support&bot"
    assert grant(PUBLIC, agent="helper") == "all:@agent=helper"
    assert grant(grant("bot", purpose="support"), tool="mail") == "all:@purpose=support&@tool=mail&bot"
    with pytest.raises(InvalidArgument, match="purpose"):
        grant("bob", purpose=" ")


# --- in a store ------------------------------------------------------------------------------------------------------------


def reads(memory: MemOS, id: str, actor: str) -> bool:
    """Whether an actor is given a memory, which all verbs must agree on."""
    hits = {h.cube.id for h in memory.search("tea", actor=actor, k=100)}
    try:
        memory.get(id, actor=actor)
        memory.history(id, actor=actor)
        there = True
    except NotFound:
        there = False
    assert (id in hits) == there
    return there


class Gist:
    """A reader that makes one statement of each turn that says so, under whoever reads."""

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        return Reading(tuple(Draft(f"tea gist of {t.text}", parents=(Link(t.id, t.version),)) for t in turns))


def test_a_right_for_a_purpose_holds_for_it_alone(memory: MemOS) -> None:
    [cube] = memory.add("tea ticket")
    memory.share(cube.id, readers=[grant("support-bot", purpose="support")])
    assert not reads(memory, cube.id, "support-bot")
    with memory.acting(purpose="support"):
        assert reads(memory, cube.id, "support-bot")
        assert not reads(memory, cube.id, "sales-bot")
        with memory.acting(purpose="sales"):
            assert not reads(memory, cube.id, "support-bot")
    assert not reads(memory, cube.id, "support-bot")
    assert reads(memory, cube.id, "ann")


def test_what_was_made_for_a_purpose_is_read_for_it_alone_by_its_maker_too(open_store: Callable[..., MemOS]) -> None:
    memory = open_store()
    [source] = memory.add("tea ticket", access=Access("ann", frozenset({grant("bot", purpose="support")})))
    draft = Draft("tea summary", parents=(Link(source.id, source.version),))

    class Summary:
        def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
            return Reading((draft,))

    with open_store(reader=Summary()) as reading, reading.acting(purpose="support"):
        _, made = reading.add("hello", actor="bot")
        assert reads(reading, made.id, "bot")
    assert made.access.owner == "bot"
    assert not reads(memory, made.id, "bot")
    memory.share(source.id)
    with memory.acting(purpose="support"):
        assert not reads(memory, made.id, "bot")


def test_whoever_leaves_a_group_loses_at_once_what_it_reads_and_what_was_made_of_it(
    open_store: Callable[..., MemOS],
) -> None:
    memory, other = open_store(reader=Gist()), open_store()
    memory.group("team", ["bob", "cleo", "ann"])
    cube, gist = memory.add("tea of the team", access=Access("ann", frozenset({"group:team"})))
    for who in ("bob", "cleo"):
        assert reads(other, cube.id, who)
        assert reads(other, gist.id, who)
    assert [e.subject for e in other.log(actor="bob", verb="add")] == [gist.id, cube.id]
    memory.group("team", ["cleo", "ann"])
    for store in (other, memory):
        assert not reads(store, cube.id, "bob")
        assert not reads(store, gist.id, "bob")
        assert store.stats(actor="bob").memories == 0
        assert store.log(actor="bob", verb="add") == []
        assert reads(store, gist.id, "cleo")


def test_a_group_is_changed_by_its_owner_and_seen_by_its_members(memory: MemOS) -> None:
    memory.group("team", ["bob"])
    assert memory.members("team", actor="bob") == {"bob"} == memory.members("group:team")
    for stranger in (lambda: memory.members("team", actor="cleo"), lambda: memory.members("no such", actor="cleo")):
        with pytest.raises(NotFound, match="no group"):
            stranger()
    with pytest.raises(AccessDenied):
        memory.group("team", ["cleo"], actor="bob")
    for wrong in (["group:team"], [PUBLIC], [grant("x", tool="t")], "bob"):
        with pytest.raises(InvalidArgument):
            memory.group("other", wrong)
    [cube] = memory.add("tea", actor="cleo")
    with pytest.raises(InvalidArgument, match="no group"):
        memory.share(cube.id, readers=["group:team"], actor="cleo")
    with pytest.raises(InvalidArgument, match="no group"):
        memory.add("tea", actor="cleo", access=Access("cleo", frozenset({grant("group:none", tool="t")})))
    assert [e.verb for e in memory.log(actor="bob")] == ["group"]


@pytest.mark.parametrize("name", ["group:team", "all:bob", "*"])
def test_nobody_acts_under_a_name_that_means_several(memory: MemOS, name: str) -> None:
    for act in (lambda: memory.search("tea", actor=name), lambda: memory.add("tea", actor=name)):
        with pytest.raises(InvalidArgument, match="nobody can act"):
            act()


def test_a_writer_in_a_group_or_a_context_writes_there_alone(memory: MemOS) -> None:
    memory.group("editors", ["bob"])
    [cube] = memory.add("tea")
    memory.share(cube.id, readers=["bob"], writers=[grant("group:editors", purpose="edit"), "cleo"])
    with pytest.raises(AccessDenied):
        memory.update(cube.id, "tea, edited", actor="bob")
    with memory.acting(purpose="edit"):
        assert memory.update(cube.id, "tea, edited", actor="bob").version == 3
    memory.group("editors", [])
    with memory.acting(purpose="edit"), pytest.raises(AccessDenied):
        memory.update(cube.id, "tea, edited again", actor="bob")


def test_a_stored_right_reads_back_as_it_was_given(memory: MemOS, open_store: Callable[..., MemOS]) -> None:
    rng = random.Random(1)
    memory.group("team", ["ann", "bob"])
    for _ in range(10):
        readers = {grant(rng.choice(["bob", "group:team", "c&d"]), purpose=rng.choice([None, "a=b"])) for _ in range(3)}
        within = rng.choice([None, frozenset(readers), frozenset()])
        [cube] = memory.add("tea", access=Access("ann", frozenset(readers), within=within))
        row = memory._vault.by_ids([cube.id])[0]
        assert row.cube.access == cube.access == Access("ann", frozenset(readers), within=within)
