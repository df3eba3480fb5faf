"""After a purge no byte of what was deleted is left, in a folder or a bucket, of whatever was begun and not ended, too."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memos_core import InvalidArgument, Item, MemOS, Policy, StoreUnavailable
from memos_core.staging import scratch
from tests.test_crash import stopped
from tests.test_forgetting import keep_tensors

WORD = b"anzibarish"  # an index may leave out the first letters of a word that begins like the one before


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "folder":
        return {"path": str(tmp_path / "store")}
    server = request.getfixturevalue("server")
    return {"path": server.url(tmp_path), "storage_options": server.options}


@pytest.fixture
def memory(place: dict[str, Any], open_store: Callable[..., MemOS]) -> Iterator[MemOS]:
    found = open_store(**place)
    yield found
    if found._vault.db.site.is_shared:
        shutil.rmtree(scratch(found._vault.db.site), ignore_errors=True)


def files(memory: MemOS) -> tuple[set[Path], set[str], Any]:
    """Every file of a store, and of what lies elsewhere for it for a while; in a bucket also the objects, and what reads them."""
    site = memory._vault.db.site
    local, system = {f for f in scratch(site).rglob("*") if f.is_file()}, None
    if site.is_shared:
        system = site._objects._system  # type: ignore[attr-defined]  # the store's own connection
        system.invalidate_cache()
    return local, set() if system is None else set(system.find(memory.path)), system


def saying(memory: MemOS) -> list[str]:
    """Files that hold a word that was deleted."""
    local, objects, system = files(memory)
    found = {str(f): f.read_bytes() for f in local} | (system.cat(sorted(objects)) if objects else {})
    assert any("cubes.lance" in name for name in found)
    return sorted(name for name, data in found.items() if re.search(WORD, data, re.IGNORECASE))


def of_memories(memory: MemOS) -> set[str]:
    """Files of the tables from which rows go, but for the hints which version is the newest: their words may be compressed."""
    local, objects, _ = files(memory)
    names = {str(f) for f in local} | objects
    return {
        n for n in names if re.search(r"(cubes\w*|history|usage|uses|rules)\.lance/", n) and not n.endswith(".json")
    }


def fill(memory: MemOS) -> None:
    [kept] = memory.add("tea that stays")
    turns = [{"role": "user", "content": f"zanzibarish{n} tea", "id": f"m{n}"} for n in range(30)]
    first, second, third, *_ = memory.add(turns, session="s", namespace=("gone",))
    memory.snapshot("before")
    memory.update(first.id, "zanzibarish in another version")
    keep_tensors(memory, second, b"zanzibarish tensors")
    memory.archive(third.id)
    memory.items.put([Item(("gone",), "k", {"said": "zanzibarish"}, ("zanzibarish words",))])
    memory.update(kept.id, "tea that stays, and milk")


def begin_and_die(memory: MemOS, tmp_path: Path) -> None:
    """Leave behind what killed processes leave: a load, a dump, a branch, a transaction."""
    memory.dump(tmp_path / "dump.zip", namespace=("gone",), kinds=["plaintext"])
    site, vault = memory._vault.db.site, memory._vault
    memory.delete(("gone",))
    assert copy_context().run(stopped, 2, lambda: memory.load(tmp_path / "dump.zip"))
    assert memory._vault.db.site.files.has("landing/journal.json")
    for name in ("loading", "dumping"):
        (scratch(site) / name / "x").mkdir(parents=True, exist_ok=True)
        (scratch(site) / name / "x" / "memories.arrow").write_bytes(b"zanzibarish")
    if not site.is_shared:
        (Path(memory.path) / ".branches" / "dead").mkdir(parents=True)
        (Path(memory.path) / ".branches" / "dead" / "data").write_bytes(b"zanzibarish")
    with vault.writing():
        memory.add("zanzibarish, and never acknowledged")
        newest = vault.db.versions()
        memory.add("zanzibarish, and never kept")
        vault.db.write_manifest(replace(vault.manifest, pinned=newest))


def test_a_purge_leaves_no_byte_of_what_was_deleted_begun_or_staged(memory: MemOS, tmp_path: Path) -> None:
    fill(memory)
    assert saying(memory)
    begin_and_die(memory, tmp_path)
    memory.delete(("gone",))  # what came in again, archived or not
    for hit in memory.search("zanzibarish", k=100):
        if hit.cube.text != "tea that stays, and milk":
            memory.delete(hit.cube.id)
    before = of_memories(memory)
    memory.purge()
    assert saying(memory) == []
    assert not before & of_memories(memory)
    assert memory.verify().sound
    assert [h.cube.text for h in memory.search("tea", k=100)] == ["tea that stays, and milk"]
    memory.rollback("before")
    assert [h.cube.text for h in memory.search("tea", k=100)] == ["tea that stays"]
    assert saying(memory) == []


def test_a_purge_is_refused_while_something_holds_what_was_deleted(
    open_store: Callable[..., MemOS], tmp_path: Path
) -> None:
    memory, other = open_store(), open_store(policy=Policy(lock_seconds=0.05))
    [cube], _ = memory.add("zanzibarish"), memory.add("tea")
    with memory.branch("try"):
        memory.delete(cube.id)
        with pytest.raises(StoreUnavailable, match="branch"):
            memory.purge()
        assert saying(memory)
    with memory.transaction():
        memory.add("more tea")
        with pytest.raises(InvalidArgument, match="purge after it"):
            memory.purge()
        with pytest.raises(StoreUnavailable):
            other.purge()
    memory.purge()
    assert saying(memory) == []
    assert memory.stats().memories == 2
