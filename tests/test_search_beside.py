"""Searches beside writers and compactions: they are not made to ask the store for what this process knows, and miss nothing that counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from memos_core import MemOS, Policy
from memos_core.manifest import Manifest
from memos_core.transactions import Transactions
from memos_core.vault import Change

ACTORS = ("ann", "bob")
LATER = Policy(keep_versions=timedelta(hours=1))


def texts(memory: MemOS, actor: str = "ann") -> list[str]:
    return sorted(h.cube.text for h in memory.search("tea", k=100, actor=actor))


def elsewhere(work: Callable[[], Any]) -> Any:
    """What another thread finds."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


def revisions(memory: MemOS) -> set[tuple[str, int] | None]:
    """Those at which scopes are kept in memory: a search asks the store again for one that is not the newest."""
    return {entry.revision for entry in memory._working_set._kept.values()}


@pytest.fixture
def memory(open_store: Callable[..., MemOS]) -> MemOS:
    memory = open_store(policy=LATER)
    for actor in ACTORS:
        memory.add(["green tea", "black tea"], actor=actor)
        assert texts(memory, actor) == ["black tea", "green tea"]
    assert revisions(memory) == {memory._vault.revision()}
    return memory


def test_after_a_compaction_no_scope_asks_the_store_what_changed(memory: MemOS) -> None:
    before = memory._vault.revision()
    assert memory._vault.db.compact()
    assert memory._vault.revision() > before
    assert revisions(memory) == {memory._vault.revision()}
    assert texts(memory) == ["black tea", "green tea"]


@pytest.mark.parametrize("change", ["add", "update", "delete", "replace"])
def test_but_they_all_do_if_somebody_wrote_during_it(
    change: str, memory: MemOS, open_store: Callable[..., MemOS]
) -> None:
    other, before = open_store(), memory._vault.revision()
    [green] = [h.cube for h in other.search("green", k=1, actor="ann")]
    tell = memory._vault._rewriting()
    if change in ("delete", "replace"):
        other.delete([green.id], actor="ann")
    if change in ("add", "replace"):  # as many as before in the end
        other.add("white tea", actor="ann")
    if change == "update":
        other.update(green.id, "white tea", actor="ann")
    tell()
    assert revisions(memory) == {before}
    wanted = {"add": ["black tea", "green tea", "white tea"], "delete": ["black tea"]}
    assert texts(memory) == wanted.get(change, ["black tea", "white tea"])
    assert texts(memory, "bob") == ["black tea", "green tea"]


def test_a_search_beside_a_commit_takes_what_is_acknowledged_and_the_next_one_what_is_then(memory: MemOS) -> None:
    follow, seen = memory._vault.listener, list[tuple[list[str], bool]]()

    def told(change: Change) -> None:  # the commit is there, and is not acknowledged
        found = elsewhere(lambda: texts(memory))
        seen.append((found, revisions(memory) == {change.before}))
        follow(change)

    memory._vault.listener = told
    memory.add("white tea", actor="ann")
    assert seen == [(["black tea", "green tea"], True)]
    assert revisions(memory) == {memory._vault.revision()}
    assert texts(memory) == elsewhere(lambda: texts(memory)) == ["black tea", "green tea", "white tea"]


def test_a_commit_that_fails_hides_nothing_from_later_searches(memory: MemOS, open_store: Callable[..., MemOS]) -> None:
    def fail(change: Change) -> None:
        raise RuntimeError("told in vain")

    memory._vault.listener = fail
    with pytest.raises(RuntimeError, match="in vain"):
        memory.add("white tea", actor="ann")
    assert memory._vault.acknowledged() == memory._vault.revision()
    open_store().add("mint tea", actor="ann")
    assert texts(memory) == ["black tea", "green tea", "mint tea", "white tea"]


def test_inside_a_transaction_its_own_commits_are_seen_and_nobody_elses_search_waits(memory: MemOS) -> None:
    follow, seen = memory._vault.listener, list[list[str]]()

    def told(change: Change) -> None:
        seen.append(elsewhere(lambda: texts(memory)))
        follow(change)

    memory._vault.listener = told
    with memory.transaction():
        memory.add("mint tea", actor="bob")
        memory.add("white tea", actor="ann")
        assert texts(memory) == ["black tea", "green tea", "white tea"]
    assert seen == [["black tea", "green tea"]] * 2
    assert elsewhere(lambda: texts(memory)) == ["black tea", "green tea", "white tea"]


def test_a_table_to_which_few_wrote_a_moment_ago_is_compacted_with_the_next_ones(memory: MemOS) -> None:
    compacted = list[str]()
    assert memory._vault.db.compact()
    memory._vault.db.give_way = lambda: compacted.append("a table")
    memory.add("white tea", actor="ann")
    assert memory._vault.db.compact()
    assert compacted == []
    for n in range(32):
        memory.add(f"tea {n}", actor="ann")
    assert memory._vault.db.compact()
    assert compacted == ["a table"] * 2  # the memories and the events


# --- a reading and the manifest ----------------------------------------------------------------------------------------------


class Tables:
    """A database whose manifest changes when it is told to, and that counts how often it is looked at."""

    path, writes = "a store", False

    def __init__(self, manifest: Manifest) -> None:
        self.seen_last, self.number, self.now, self.looks = (1, manifest), 1, manifest, 0

    def seen(self, *, again: bool = False) -> tuple[int, Manifest]:
        self.looks += 1
        self.seen_last = (self.number, self.now)
        return self.seen_last

    def change(self, **fields: Any) -> None:
        self.number, self.now = self.number + 1, replace(self.now, **fields)


@pytest.fixture
def tables(memory: MemOS) -> Tables:
    return Tables(memory._vault.manifest)


def test_a_reading_looks_at_the_manifest_once_however_many_tables_it_reads(tables: Tables) -> None:
    transactions: Any = Transactions(tables)  # type: ignore[arg-type]  # as much of them as a reading needs
    assert transactions.whole(lambda: [transactions.view().cubes for _ in range(5)]) == [tables.now.cubes] * 5
    assert tables.looks == 1


def test_it_is_begun_again_when_a_transaction_began_or_ended_since_the_last_look(tables: Tables) -> None:
    transactions: Any = Transactions(tables)  # type: ignore[arg-type]  # likewise
    tables.change(pinned={"cubes": 7})
    assert transactions.whole(lambda: transactions.view().pinned) == {"cubes": 7}
    tables.change(pinned={})
    assert transactions.whole(lambda: transactions.view().pinned) == {}


def test_what_was_found_while_a_transaction_began_is_not_kept(tables: Tables) -> None:
    transactions, kept = Transactions(tables), list[bool]()  # type: ignore[arg-type]  # likewise

    def read() -> bool:
        pinned = bool(transactions.view().pinned)
        if not pinned:
            tables.change(pinned={"cubes": 7})
        transactions.require_whole()
        kept.append(pinned)
        return pinned

    assert transactions.whole(read)
    assert kept == [True]
