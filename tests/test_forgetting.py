"""What is deleted is gone from everywhere: from what anybody is given, at once and as a whole; from the files, after a purge."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from memos_core import (
    Access,
    AccessDenied,
    Event,
    IllegalTransition,
    InvalidArgument,
    Item,
    Kind,
    KVCache,
    Link,
    MemCube,
    MemOS,
    NotFound,
)  # fmt: skip
from tests.conftest import START
from tests.test_crash import stopped
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
MANY = 300  # more than are looked after one by one


def keep_tensors(memory: MemOS, source: MemCube, content: bytes) -> MemCube:
    """A memory of keys and values made from another one, as it is written down, without a model."""
    name = sha256(content).hexdigest()
    cube = replace(
        source, id=f"kv-{source.id}", kind=Kind.ACTIVATION, key=f"kv:{name}", payload=KVCache(name, "m", 1, len(content)),
        lineage=(Link(source.id, source.version),),
    )  # fmt: skip
    with memory._vault.writing():
        return memory._derived.put("ann", cube, [content])


def fill(memory: MemOS, count: int = MANY) -> list[MemCube]:
    """Memories of ann in ("app", ...), some of them changed, derived from or held as tensors, and others beside them."""
    turns = [
        {"role": "user", "content": f"zanzibarish{n} tea", "timestamp": "2026-01-01T00:00:00Z"} for n in range(count)
    ]
    cubes = memory.add(turns, namespace=("app", "talk"), session="s")
    memory.update(cubes[0].id, "zanzibarish again")
    keep_tensors(memory, cubes[1], b"zanzibarish tensors")
    memory.items.put(
        [Item(("app", "kv"), "k", {"said": "zanzibarish value"}, ("zanzibarish words", "zanzibarish more"))]
    )
    memory.add("cake that stays", namespace=("other",))
    memory.add("bob's tea", namespace=("app", "talk"), actor="bob", access=Access("bob", frozenset({"ann"})))
    memory.search("tea")
    return cubes


def said(path: Path, words: bytes = b"anzibarish") -> list[str]:
    """Files of a store that hold words, in any case."""
    return [str(f.relative_to(path)) for f in path.rglob("*") if f.is_file() and re.search(words, f.read_bytes(), re.I)]


def files(path: Path) -> set[str]:
    """All files of the tables from which rows go, but for the hints which version is the newest."""
    tables = [t for t in path.glob("*.lance") if t.stem not in ("events", "meta")]
    return {str(f) for t in tables for f in t.rglob("*") if f.is_file() and f.suffix != ".json"}


# --- what is asked for -------------------------------------------------------------------------------------------------------


def test_a_namespace_is_forgotten_whole_and_the_receipt_counts_and_proves_it(memory: MemOS, tmp_path: Path) -> None:
    cubes = fill(memory)
    records = {o.id: o.digest for o in memory._vault.outlines("true")}
    receipt = memory.delete(("app",))
    assert (
        len(receipt.ids) == MANY + 3
    )  # with the item and the tensors' memory, which lie in it, and the item's passage
    assert set(receipt.ids) >= {c.id for c in cubes}
    assert receipt.versions >= 1
    assert receipt.blobs == 1
    assert receipt.hashes == tuple(records[id] for id in (*receipt.ids, *receipt.derived))
    assert receipt.head == memory.verify().head
    assert memory.verify().sound
    assert {h.cube.text for h in memory.search("tea zanzibarish", k=1000)} == {"cake that stays", "bob's tea"}
    assert memory.items.list() == []
    assert not list((tmp_path / "store" / "blobs").iterdir())
    assert memory.stats().memories == 2
    for cube in cubes[:3]:
        for look in (memory.get, memory.history, memory.lineage):
            with pytest.raises(NotFound):
                look(cube.id)


def test_a_filter_forgets_what_it_holds_for_and_nothing_else(memory: MemOS) -> None:
    for n in range(6):
        memory.add(f"tea {n}", namespace=("app", str(n % 2)), attributes={"n": n}, tags=["tea"] if n < 3 else [])
    assert len(memory.delete(("app", "1"), filter={"n": {"$gte": 3}}).ids) == 2
    assert len(memory.delete((), filter={"tags": "tea"}).ids) == 3
    assert [h.cube.text for h in memory.search("tea")] == ["tea 4"]
    with pytest.raises(InvalidArgument):
        memory.delete(())
    with pytest.raises(InvalidArgument):
        memory.delete(("app",), filter={"n": {"$near": 3}})


def test_a_user_is_forgotten_everywhere_and_nobody_else_is(memory: MemOS) -> None:
    for where in (("a",), ("b", "c")):
        memory.add("ann's tea", namespace=where)
        memory.add("bob's tea", namespace=where, actor="bob", access=Access("bob", frozenset({"ann"})))
    assert len(memory.forget(actor="ann").ids) == 2
    assert memory.forget(actor="ann").ids == ()
    assert memory.stats(actor="bob").memories == 2
    assert {h.cube.text for h in memory.search("tea")} == {"bob's tea"}


def test_many_ids_are_forgotten_or_none_if_one_is_not_there_not_ones_own_or_frozen(memory: MemOS) -> None:
    cubes = memory.add([{"role": "user", "content": f"tea {n}", "id": f"m{n}"} for n in range(MANY)], session="s")
    ids = [c.id for c in cubes]
    [theirs] = memory.add("bob's", actor="bob")
    with pytest.raises(NotFound):
        memory.delete([*ids, theirs.id])
    memory.share(theirs.id, readers=["ann"], actor="bob")
    with pytest.raises(AccessDenied):
        memory.delete([*ids, theirs.id])
    memory.freeze(ids[7])
    with pytest.raises(IllegalTransition):
        memory.delete(ids)
    assert memory.stats().memories == MANY + 1
    memory.unfreeze(ids[7])
    assert set(memory.delete(ids).ids) == set(ids)


def test_what_was_derived_from_many_falls_with_them_over_generations(memory: MemOS) -> None:
    turns = [{"role": "user", "content": f"tea {n}", "id": f"m{n}"} for n in range(MANY)]
    made = memory.add(turns, session="s", namespace=("app",))
    gists = [replace(c, id=f"gist-{c.id}", lineage=(Link(c.id, 1),)) for c in made]
    instead = replace(made[0], id="instead", lineage=(Link(made[0].id, 1, "supersedes"),))
    memory._vault.insert([*gists, instead], [None] * (MANY + 1))
    keep_tensors(memory, gists[0], b"tensors")
    receipt = memory.delete([c.id for c in made])
    assert set(receipt.derived) == {c.id for c in gists} | {f"kv-{gists[0].id}"}
    assert memory.stats().memories == 1


def test_a_reader_who_froze_what_he_made_holds_neither_deletion_nor_revocation(
    open_store: Callable[..., MemOS],
) -> None:
    memory = open_store()
    [cube] = memory.add("tea", access=Access("ann", frozenset({"bob"})))
    made = keep_tensors(memory, cube, b"tensors")
    with memory._vault.writing():
        mine = replace(made, access=Access("bob"), version=2)
        memory._vault.replace([made], [mine], [None])
        memory._writer.tell("bob", "update", [mine], START)
    memory.freeze(made.id, actor="bob")
    memory.share(cube.id)
    with pytest.raises(NotFound):
        memory.get(made.id, actor="bob")


def test_a_receipt_names_the_dumps_that_no_deletion_reaches(memory: MemOS) -> None:
    [cube], [other] = memory.add("tea"), memory.add("cake")
    memory.share(cube.id, readers=["bob"])
    memory._vault.record([Event("e", START, "bob", "dump", detail="9 memories to s3://far/away")], [()])
    assert memory.delete(other.id).handed_out == ()
    assert memory.delete(cube.id).handed_out == (f"dump by bob at {START.isoformat()}: 9 memories to s3://far/away",)


# --- the files -------------------------------------------------------------------------------------------------------------


def test_a_purge_leaves_no_byte_of_what_was_deleted_in_any_file(
    open_store: Callable[..., MemOS], tmp_path: Path
) -> None:
    memory, path = open_store(), tmp_path / "store"
    fill(memory)
    memory.add([{"role": "user", "content": f"tea that stays {n}", "id": f"x{n}"} for n in range(900)], session="t")
    memory._vault.rules.put({"note": "zanzibarish rule"})
    memory.tick()
    [late] = memory.add("one zanzibarish note among the many that stay")
    memory.update(late.id, "one zanzibarish note")
    memory.delete(late.id)
    memory.delete(("app",))
    memory._vault.rules.drop("note")
    memory.tick()
    assert said(path)  # a compaction leaves the files of which most is in use
    before = files(path)
    (path / "cubes.lance" / "data" / ".tmp_killed").write_bytes(b"zanzibarish")
    (path / "blobs").mkdir(exist_ok=True)
    (path / "blobs" / "x.partial").write_bytes(b"zanzibarish")
    memory.purge()
    assert said(path) == []
    assert not before & files(path)  # words may be compressed: so no file of before is left
    assert memory.verify().sound
    assert memory.stats().memories == 902
    assert len(memory.search("tea stays", k=5)) == 5
    assert memory._vault.worded("stays", "true", 2000)
    assert said(path, b"tea that stays")
    memory.add("and on")
    memory.purge()
    with open_store() as again:
        assert again.stats().memories == 903


def test_others_read_on_and_the_store_is_as_it_was_while_and_after_it_is_purged(
    open_store: Callable[..., MemOS],
) -> None:
    memory, other = open_store(), open_store()
    fill(memory)
    before = sorted((h.cube.id, h.cube.text, round(h.score, 6)) for h in other.search("tea cake", k=1000))
    memory.purge()
    assert sorted((h.cube.id, h.cube.text, round(h.score, 6)) for h in other.search("tea cake", k=1000)) == before
    assert other._vault.worded("cake", "true", 10)
    assert other.add("more")


# --- killed ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "store"
    with MemOS(path, embed=WordsEmbedder(), actor="ann") as memory:
        fill(memory)
        memory.tick()
    return path


def half(memory: MemOS) -> bool:
    """Whether a reader sees some of the namespace and not all of it."""
    return memory._vault.count("namespace >= 'app/' AND namespace < 'app0' AND owner = 'ann'") not in (0, MANY + 3)


def is_whole(path: Path) -> bool:
    """Whether all of the namespace is there, after an opening; it is all or nothing, and nothing of it is left behind."""
    with MemOS(path, embed=WordsEmbedder(), actor="ann") as memory:
        assert not half(memory)
        assert not memory._writer.forgetting.is_begun
        whole = memory._vault.count("owner = 'ann'") > 1
        deleted = [e for e in memory.log(limit=10_000) if e.verb == "delete"]
        assert len(deleted) == (0 if whole else MANY + 3)
        assert memory.verify().sound
        history = memory._vault.db.table("history").count_rows()
        blobs = len(list((path / "blobs").iterdir()))
        assert (history, blobs) == (1, 1) if whole else (0, 0)
        assert memory.add("and it can be written")
        return whole


def test_stopped_after_any_commit_a_bulk_deletion_is_whole_or_not_begun(filled: Path, tmp_path: Path) -> None:
    for commits in range(1, 20):
        path = shutil.copytree(filled, tmp_path / str(commits))
        memory = MemOS(path, embed=WordsEmbedder(), actor="ann")
        reached = stopped(commits, lambda memory=memory: memory.delete(("app",)))
        assert not half(memory)  # for a reader who has it open
        assert is_whole(path) == (commits == 1)
        memory.close()
        if not reached:
            assert commits > 4
            return
    raise AssertionError("never finished")


def die_forgetting(filled: Path, folder: Path, kills: int, seed: int) -> None:
    rng, outcomes = random.Random(seed), set[bool]()
    for kill in range(kills):
        path = shutil.copytree(filled, folder / f"{seed}-{kill}")
        with (
            MemOS(path, embed=WordsEmbedder(), actor="ann") as reader,
            subprocess.Popen(
                [sys.executable, "-m", "tests.forget_writer"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.stdin.write(f"{path}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline() == b"begin\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=rng.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            done = process.stdout.read() == b"done\n"
            assert not half(reader)
        whole = is_whole(path)
        assert not (done and whole)
        outcomes.add(whole)
        shutil.rmtree(path)


@pytest.mark.timeout(200)
def test_two_kills_in_a_bulk_deletion_leave_all_or_nothing(filled: Path, tmp_path: Path) -> None:
    die_forgetting(filled, tmp_path, 2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_in_a_bulk_deletion_leave_all_or_nothing(filled: Path, tmp_path: Path) -> None:
    die_forgetting(filled, tmp_path, 50, seed=2)
