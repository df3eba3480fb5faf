"""Dumps of several actors, of several moments, loaded in any order: what comes of it is the same, and no earlier version is lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import permutations
from pathlib import Path

import pytest

from memos_core import MemOS, NotFound
from tests.conftest import Clock
from tests.dumps import files_of, put, with_record
from tests.test_crash import stopped

Opener = Callable[..., MemOS]


def versions(memory: MemOS) -> dict[str, list[tuple[int, str]]]:
    """Every version of every memory of a store, with its words."""
    rows = [r.cube for r in memory._vault.rows("version > 0")]
    past = memory._vault.past_versions([c.id for c in rows])
    found = {c.id: [(c.version, c.text)] for c in rows}
    for (id, version), cube in past.items():
        if version < found[id][0][0]:
            found[id].append((version, cube.text))
    return {id: sorted(some) for id, some in found.items()}


def loaded(open_store: Opener, path: Path, dumps: Iterable[Path], **how: object) -> MemOS:
    other = open_store(path=path, actor="host")
    for dump in dumps:
        other.load(dump, **{"as_they_are": True, **how})
    return other


@pytest.mark.parametrize("how", [{"as_they_are": True}, {"as_they_are": False, "owner": "ann"}])
def test_the_first_versions_come_in_also_when_somebody_elses_dump_was_loaded_before(
    how: dict[str, object], memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube] = memory.add("tea one")
    memory.update(cube.id, "tea two")
    memory.share(cube.id, readers=["bob"])
    for who in ("ann", "bob"):
        memory.dump(tmp_path / who, actor=who)
    other = open_store(path=tmp_path / "other", actor="host")
    first = other.load(tmp_path / "bob", **how)
    assert (first.added, first.versions) == (1, 0)
    second = other.load(tmp_path / "ann", **how)
    assert (second.added, second.updated, second.kept, second.versions, second.left_out) == (0, 0, 1, 2, {})
    assert other.history(cube.id, actor="ann") == memory.history(cube.id)
    assert [c.version for c in other.history(cube.id, actor="bob")] == [3]
    assert {e.version for e in other.log(subject=cube.id, verb="load", actor="ann")} == {1, 2, 3}
    before = other.log(limit=1_000)
    assert other.load(tmp_path / "ann", **how).versions == 0
    assert other.log(limit=1_000) == before


def test_incremental_dumps_of_two_give_the_same_versions_in_every_order(
    memory: MemOS, open_store: Opener, clock: Clock, tmp_path: Path
) -> None:
    [tea], [mint] = memory.add("tea one"), memory.add("mint one")
    memory.update(tea.id, "tea two")
    memory.dump(tmp_path / "ann1")
    memory.share(tea.id, readers=["bob"])
    memory.dump(tmp_path / "bob1", actor="bob")
    clock.forward(minutes=1)
    memory.update(tea.id, "tea four")
    memory.update(mint.id, "mint two")
    memory.share(mint.id, readers=["bob"])
    memory.dump(tmp_path / "bob2", actor="bob")
    memory.update(tea.id, "tea five")
    memory.dump(tmp_path / "ann2")
    wanted = versions(memory)
    for number, order in enumerate(permutations(["ann1", "bob1", "bob2", "ann2"])):
        other = loaded(open_store, tmp_path / f"other{number}", [tmp_path / name for name in order])
        assert versions(other) == wanted, order
        other.close()


def test_twenty_users_who_share_lose_no_version_whichever_dump_comes_first(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    rng, users = random.Random(7), [f"u{n}" for n in range(20)]
    for who in users:
        for n in range(3):
            [cube] = memory.add(f"{who} says {n}", actor=who)
            for v in range(rng.randrange(4)):
                memory.update(cube.id, f"{who} says {n} again {v}", actor=who)
            memory.share(cube.id, readers=rng.sample(users, 3), actor=who)
    dumps = {who: tmp_path / who for who in users}
    for who, dump in dumps.items():
        memory.dump(dump, actor=who)
    wanted = versions(memory)
    for number in range(3):
        order = rng.sample(users, len(users))
        other = loaded(open_store, tmp_path / f"other{number}", [dumps[who] for who in order])
        assert versions(other) == wanted


def test_an_older_dump_brings_the_versions_that_are_missing_and_changes_nothing_else(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube] = memory.add("tea one")
    memory.update(cube.id, "tea two")
    memory.dump(tmp_path / "old")
    memory.update(cube.id, "tea three")
    memory.share(cube.id, readers=["bob"])
    memory.dump(tmp_path / "bob", actor="bob")
    memory.dump(tmp_path / "bare", history=False)
    other = loaded(open_store, tmp_path / "other", [tmp_path / "bob"])
    done = other.load(tmp_path / "old", as_they_are=True)
    assert (done.updated, done.versions) == (
        0,
        0,
    )  # nothing says yet that the two are one: they have no version in common
    assert done.left_out == {"earlier_versions_unproven": 2}
    memory.dump(tmp_path / "new")
    assert other.load(tmp_path / "new", as_they_are=True).versions == 3
    assert versions(other) == versions(memory)
    bare = loaded(open_store, tmp_path / "bare-first", [tmp_path / "bare", tmp_path / "new"])
    assert versions(bare) == versions(memory)


def test_a_later_version_lands_with_those_before_what_is_here(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube] = memory.add("tea one")
    memory.update(cube.id, "tea two")
    memory.share(cube.id, readers=["bob"])
    memory.dump(tmp_path / "bob", actor="bob")
    memory.update(cube.id, "tea four")
    memory.dump(tmp_path / "ann")
    other = loaded(open_store, tmp_path / "other", [tmp_path / "bob"])
    done = other.load(tmp_path / "ann", as_they_are=True)
    assert (done.updated, done.versions) == (1, 2)
    assert versions(other) == versions(memory)


def test_what_is_frozen_here_gets_the_versions_before_it(memory: MemOS, open_store: Opener, tmp_path: Path) -> None:
    [cube] = memory.add("tea one")
    memory.update(cube.id, "tea two")
    memory.dump(tmp_path / "bare", history=False)
    for text in ("tea three", "tea four"):
        memory.update(cube.id, text)
    memory.dump(tmp_path / "full")
    other = loaded(open_store, tmp_path / "other", [tmp_path / "bare"])
    other.freeze(cube.id, actor="ann")
    done = other.load(tmp_path / "full", as_they_are=True)
    assert (done.updated, done.versions, done.left_out) == (0, 1, {"frozen": 1})
    assert versions(other)[cube.id] == [(1, "tea one"), (2, "tea two"), (3, "tea two")]


def test_versions_of_something_else_do_not_come_in_and_the_report_says_so(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    """Everybody may be "ann" at home, and have something under the key "tea"."""
    stranger = open_store(path=tmp_path / "stranger")
    for word in ("theirs", "theirs again"):
        stranger.add(word, key="tea")
    stranger.dump(tmp_path / "theirs")
    memory.add("mine first", key="tea")
    memory.add("mine", key="tea")
    memory.dump(tmp_path / "mine", history=False)
    other = loaded(open_store, tmp_path / "other", [tmp_path / "mine"])
    done = other.load(tmp_path / "theirs", as_they_are=True)
    assert (done.kept, done.versions, done.left_out) == (1, 0, {"earlier_versions_unproven": 1})
    assert list(versions(other).values()) == [[(2, "mine")]]


def test_a_forged_earlier_version_does_not_come_in_without_the_words_that_are_here(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube] = memory.add("tea one")
    memory.update(cube.id, "tea two")
    memory.dump(tmp_path / "bare", history=False)
    memory.dump(tmp_path / "full")
    other = loaded(open_store, tmp_path / "other", [tmp_path / "bare"])
    forged = with_record(files_of(tmp_path / "full"), lambda r: r.update(tags=["forged"]))
    done = other.load(put(forged, tmp_path / "forged"), as_they_are=True)
    assert (done.versions, done.left_out) == (0, {"earlier_versions_unproven": 1})


def test_what_was_deleted_here_gets_no_versions(memory: MemOS, open_store: Opener, tmp_path: Path) -> None:
    [cube] = memory.add("tea one")
    memory.update(cube.id, "tea two")
    memory.dump(tmp_path / "bare", history=False)
    memory.dump(tmp_path / "full")
    other = loaded(open_store, tmp_path / "other", [tmp_path / "bare"])
    other.delete(cube.id, actor="ann")
    with pytest.raises(NotFound):
        other.get(cube.id, actor="ann")
    assert other._vault.past_versions([cube.id]) == {}
    other.load(tmp_path / "full", as_they_are=True)
    assert versions(other) == versions(memory)


@pytest.mark.parametrize("commits", range(1, 6))
def test_a_load_of_earlier_versions_that_is_killed_is_wholly_here_or_not_at_all(
    commits: int, memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    [cube], [later] = memory.add("tea one"), memory.add("mint one")
    for text in ("tea two", "tea three"):
        memory.update(cube.id, text)
    memory.update(later.id, "mint two")
    memory.dump(tmp_path / "bare", history=False)
    memory.update(later.id, "mint three")
    memory.dump(tmp_path / "full")
    other = loaded(open_store, tmp_path / "other", [tmp_path / "bare"])
    before, whole = versions(other), versions(memory)
    stopped(commits, lambda: other.load(tmp_path / "full", as_they_are=True))
    other._vault.db._turn.release()
    again = open_store(path=tmp_path / "other", actor="host")
    again.add("next")  # a writer ends what was cut off
    again.delete([h.cube.id for h in again.search("next", k=1)])
    assert versions(again) in (before, whole)
    again.load(tmp_path / "full", as_they_are=True)
    assert versions(again) == whole
    assert again.verify().sound


def test_what_was_shared_or_archived_since_is_still_the_same_memory(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    """Of bob's versions none has a number of ann's; one says what her last one says."""
    [cube] = memory.add("tea one")
    memory.update(cube.id, "tea two")
    memory.dump(tmp_path / "ann")
    memory.share(cube.id, readers=["bob"])
    memory.update(cube.id, "tea four")
    memory.dump(tmp_path / "bob", actor="bob")
    wanted = versions(memory)
    for number, order in enumerate((["ann", "bob"], ["bob", "ann"])):
        other = loaded(open_store, tmp_path / f"other{number}", [tmp_path / name for name in order])
        assert versions(other) == wanted
