"""A log that is signed with a key: who has not got it can add nothing, take nothing back, and not make the log unsigned again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lancedb
import pytest

from memos_core import AuditKeyRequired, Damaged, Event, InvalidArgument, Item, MemOS, StoreClosed, verify_store
from memos_core import audit as rules
from memos_core.cli import main
from memos_core.ledger import Ledger, read_head, read_told
from memos_core.reembed import reembed
from memos_core.sites import Folder
from memos_core.workers import Opening, Worker
from tests.conftest import START, Clock
from tests.test_crash import stopped
from tests.words import WordsEmbedder

KEY, NEW, ANOTHER = (bytes([n]) * 32 for n in (1, 2, 3))


def opened(path: Path, **options: Any) -> MemOS:
    return MemOS(path, **{"embed": WordsEmbedder(), "actor": "ann", "clock": Clock(), **options})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store whose log is signed from its first event on."""
    with opened(tmp_path / "store", audit_key=KEY) as memory:
        memory.add("tea")
        memory.add("cake")
    return tmp_path / "store"


# --- what somebody does who can write to the files --------------------------------------------------------------------------


def stored(path: Path) -> list[rules.Told]:
    return read_told(lancedb.connect(path).open_table("events").search().limit(1_000).to_arrow())


def put_head(path: Path, head: rules.Head) -> None:
    said = {"number": head.number, "link": head.link, "rows": head.rows}
    (path / "audit" / "head").write_text(json.dumps(said))


def forge(path: Path, key: bytes | None = None, *, head: bool = False) -> None:
    """Append an event whose link is right; with a head that knows it, if asked for."""
    before = read_head(Folder(path).files)
    assert before is not None
    event = Event("forged", START, "mallory", "group")
    told, after = rules.chained([event], [()], [None], before, None if key is None else rules.AuditKey(key))
    lancedb.connect(path).open_table("events").add(Ledger.rows(told))
    if head:
        put_head(path, after)


def cut(path: Path, number: int) -> None:
    """Take away the events from a number on, and turn the head back."""
    lancedb.connect(path).open_table("events").delete(f"number >= {number}")
    left = stored(path)
    put_head(path, rules.Head(left[-1].number, left[-1].link, len(left)) if left else rules.Head())


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("key", [None, ANOTHER], ids=["unsigned", "signed with another key"])
def test_a_forged_append_is_found_and_stays_found(path: Path, key: bytes | None, head: bool) -> None:
    with opened(path, audit_key=KEY) as memory:
        kept = memory.verify().head
        forge(path, key, head=head)
        assert not memory.verify().sound
        assert not memory.verify(kept).sound
        memory.add("more")
        assert "event 4" in "; ".join(memory.verify().faults)
    with opened(path, audit_key=KEY) as memory:
        memory.add("and more")
        assert memory.verify(kept).outcome == "broken"
    assert not verify_store(path, audit_key=KEY).sound


def test_an_unsigned_append_to_a_signed_log_is_found_without_the_key_too(path: Path) -> None:
    forge(path, head=True)
    assert verify_store(path).faults == ("event 4 is not signed, and some before it are",)


def test_without_a_key_a_forged_append_passes_and_the_verification_says_that_it_could(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as memory:
        memory.add("tea")
        kept = memory.verify().head
        forge(tmp_path / "store", head=True)
        for found in (memory.verify(), memory.verify(kept)):
            assert (found.sound, found.outcome, found.events, found.signed) == (True, "linked", 2, 0)
            assert "can add events that fit" in found.unchecked[0]
        assert "after the head that was kept too" in memory.verify(kept).unchecked[0]


@pytest.mark.parametrize("first", [1, 2], ids=["of all", "of its second half"])
def test_a_log_that_was_stripped_back_to_unsigned_is_found_and_stays_found(tmp_path: Path, first: int) -> None:
    path = tmp_path / "store"
    if first > 1:
        with opened(path) as memory:
            memory.add("before the key")
    with opened(path, audit_key=KEY) as memory:
        memory.add("tea")
        assert memory.verify().sound
    cut(path, first)
    assert not verify_store(path).sound  # the manifest says that it is signed
    assert not verify_store(path, audit_key=KEY).sound
    with opened(path, audit_key=KEY) as memory:
        assert not memory.verify().sound
        memory.add("more")
        assert not memory.verify().sound
    with pytest.raises(AuditKeyRequired), opened(path) as memory:
        memory.add("by somebody without the key")


def test_a_tail_that_was_cut_off_with_its_head_shows_by_a_kept_head_alone(path: Path) -> None:
    kept = verify_store(path, audit_key=KEY).head
    cut(path, 3)
    found = verify_store(path, audit_key=KEY)
    assert found.outcome == "authentic"
    assert "cut off at its end" in found.unchecked[0]
    assert verify_store(path, head=kept, audit_key=KEY).faults == (f"the chain did not come by the head {kept}",)


# --- from no key to a key, and to the next ------------------------------------------------------------------------------------


def test_a_new_store_is_signed_from_its_first_event_on(path: Path) -> None:
    found = verify_store(path, audit_key=KEY)
    assert (found.outcome, found.events, found.signed, found.authentic) == ("authentic", 3, 3, 3)
    assert [t.event.verb for t in stored(path)] == ["audit", "add", "add"]


def test_a_log_that_gets_a_key_says_so_in_a_signed_event_and_keeps_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with opened(path) as memory:
        memory.add("tea")
        kept = memory.verify().head
    with opened(path, audit_key=KEY) as memory:
        assert memory.verify(kept).outcome == "authentic"
        memory.add("cake")
        found = memory.verify(kept)
    assert (found.outcome, found.events, found.authentic) == ("authentic", 3, 2)
    assert "events 1 to 1" in found.unchecked[0]
    assert stored(path)[1].event.detail == rules.STARTED.format(rules.AuditKey(KEY).id)
    lancedb.connect(path).open_table("events").update(where="number = 1", values={"actor": "mallory"})
    assert not verify_store(path, audit_key=KEY).sound


def test_keys_are_rotated_and_old_events_verify_with_the_old_ones(path: Path) -> None:
    with opened(path, audit_key=[NEW, KEY]) as memory:
        memory.add("with the new key")
        assert memory.verify().outcome == "authentic"
    assert verify_store(path, audit_key=[NEW, KEY]).authentic == 5
    assert stored(path)[3].event.detail == rules.ROTATED.format(rules.AuditKey(NEW).id, rules.AuditKey(KEY).id)
    found = verify_store(path, audit_key=NEW)  # the old one may be gone
    assert (found.outcome, found.authentic) == ("authentic", 2)
    assert "events 1 to 3" in found.unchecked[0]
    with pytest.raises(AuditKeyRequired, match=rules.AuditKey(NEW).id):
        opened(path, audit_key=KEY)


@pytest.mark.parametrize("head", [False, True])
def test_an_old_key_that_leaked_adds_nothing_after_the_new_one(path: Path, head: bool) -> None:
    with opened(path, audit_key=[NEW, KEY]) as memory:
        memory.add("with the new key")
    forge(path, KEY, head=head)
    assert not verify_store(path, audit_key=[NEW, KEY]).sound
    cut(path, 4)  # and to before the new one: the store says that there was one
    assert not verify_store(path, audit_key=[NEW, KEY]).sound


def test_a_process_killed_between_its_first_signed_event_and_the_manifest_leaves_a_signed_log(path: Path) -> None:
    with opened(path, audit_key=KEY) as memory:
        memory._vault.db.write_manifest(replace(memory._vault.manifest, audit_key=""))
    with opened(path) as memory, pytest.raises(AuditKeyRequired):
        memory.add("unsigned")
    with opened(path, audit_key=KEY) as memory:
        assert memory._vault.manifest.audit_key == rules.AuditKey(KEY).id
        memory.add("signed")
        assert (memory.verify().outcome, memory.verify().events) == ("authentic", 4)


STOPPED: dict[str, tuple[bytes | None, Any, Callable[[MemOS], object]]] = {
    "a log gets its key": (None, KEY, lambda memory: None),
    "a key is rotated": (KEY, [NEW, KEY], lambda memory: None),
    "add": (KEY, KEY, lambda memory: memory.add("more")),
    "delete": (KEY, KEY, lambda memory: memory.delete(("default",))),
    "a transaction": (KEY, KEY, lambda memory: in_a_transaction(memory)),
}


def in_a_transaction(memory: MemOS) -> None:
    with memory.transaction():
        memory.add("more")


@pytest.mark.parametrize("what", STOPPED)
def test_stopped_after_any_commit_the_log_is_whole_and_signed(what: str, tmp_path: Path) -> None:
    before, after, change = STOPPED[what]
    with opened(tmp_path / "start", audit_key=before) as memory:
        memory.add("tea")
        kept = memory.verify().head
    for commits in range(1, 30):
        path = shutil.copytree(tmp_path / "start", tmp_path / f"{commits}")

        def work(path: Path = path) -> None:
            change(opened(path, audit_key=after))

        reached = stopped(commits, work)
        with opened(path, audit_key=after) as memory:
            assert memory.verify(kept).outcome == "authentic"
            memory.add("and it can be written")
            assert memory.verify(kept).outcome == "authentic"
        if not reached:
            assert commits > 1
            return
    raise AssertionError("never finished")


def test_a_lost_head_and_a_first_key_are_both_told_of(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as memory:
        memory.add("tea")
    (tmp_path / "store" / "audit" / "head").unlink()
    with opened(tmp_path / "store", audit_key=KEY) as memory:
        with pytest.raises(KeyError):
            fail(memory)
        assert memory.verify().outcome == "authentic"
    assert [t.event.outcome for t in stored(tmp_path / "store")][1:3] == ["failed", "ok"]


@pytest.mark.parametrize(
    "key", [b"short", "a string of more than thirty-two characters", [], [KEY, KEY], [KEY, b"x"], 7, [None]]
)
def test_a_key_that_is_none_is_refused_and_not_quoted(tmp_path: Path, key: Any) -> None:
    with pytest.raises(InvalidArgument, match="audit_key") as caught:
        opened(tmp_path / "store", audit_key=key)
    assert "thirty-two" not in str(caught.value)
    assert "short" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_keys_are_not_shown() -> None:
    shown = repr(Opening("store", audit_key=KEY)) + repr(rules.AuditKey(KEY)) + rules.AuditKey(KEY).id
    assert repr(KEY)[2:-1] not in shown
    assert KEY.hex() not in shown


# --- without the key ----------------------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[MemOS, str, Path], object]] = {
    "add": lambda m, id, to: m.add("more"),
    "add under a key": lambda m, id, to: m.add("more", key="k"),
    "update": lambda m, id, to: m.update(id, "coffee"),
    "restore": lambda m, id, to: m.restore(id, 1),
    "share": lambda m, id, to: m.share(id, readers=["bob"]),
    "archive": lambda m, id, to: m.archive(id),
    "freeze": lambda m, id, to: m.freeze(id),
    "delete": lambda m, id, to: m.delete(id),
    "delete a namespace": lambda m, id, to: m.delete(("default",)),
    "forget": lambda m, id, to: m.forget(),
    "purge": lambda m, id, to: m.purge(),
    "retain": lambda m, id, to: m.retain((), 60.0),
    "group": lambda m, id, to: m.group("team", ["bob"]),
    "put an item": lambda m, id, to: m.items.put([Item(("n",), "k", {"v": 1})]),
    "delete an item": lambda m, id, to: m.items.delete([(("n",), "k")]),
    "snapshot": lambda m, id, to: m.snapshot("now"),
    "rollback": lambda m, id, to: m.rollback("before"),
    "transaction": lambda m, id, to: m.transaction().__enter__(),
    "tick": lambda m, id, to: m.tick(),
    "start": lambda m, id, to: m.start(),
    "flush": lambda m, id, to: m.flush(),
    "dump": lambda m, id, to: m.dump(to),
    "dump to an archive": lambda m, id, to: m.dump(f"{to}.zip"),
    "load": lambda m, id, to: m.load(to.parent / "dump"),
    "bring in": lambda m, id, to: m.bring_in([Item(("n",), "k", {"v": 1})]),
    "branch": lambda m, id, to: m.branch("trial").__enter__(),
}


def files(path: Path) -> dict[str, bytes]:
    """All files of a folder but the locks, which are empty."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.suffix != ".lock"}


@pytest.mark.parametrize("verb", WRITES)
def test_a_program_without_the_key_is_refused_before_anything_is_written(path: Path, verb: str) -> None:
    with opened(path, audit_key=KEY) as memory:
        id = memory.search("tea")[0].cube.id
        memory.snapshot("before")
        memory.dump(path.parent / "dump")
    before = files(path)
    with opened(path) as memory:
        with pytest.raises(AuditKeyRequired, match=r"audit_key="):
            WRITES[verb](memory, id, path.parent / "written")
        assert memory.search("tea")[0].cube.id == id  # and it reads on
    assert files(path) == before
    assert not (path.parent / "written").exists()


def test_a_program_without_the_key_reads_everything(path: Path) -> None:
    with opened(path) as memory:
        [hit] = memory.search("tea", k=1)
        assert memory.get(hit.cube.id).text == "tea"
        assert memory.history(hit.cube.id)
        assert memory.brief("tea").cubes
        assert memory.stats().memories == 2
        assert [e.verb for e in memory.log()] == ["add", "add", "audit"]
        found = memory.verify()
    assert (found.sound, found.outcome, found.signed, found.authentic) == (True, "linked", 3, 0)
    assert rules.AuditKey(KEY).id in found.unchecked[0]
    assert "links alone" in found.unchecked[0]


def test_a_program_that_was_open_when_the_log_got_its_key_is_refused_from_then_on(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as without:
        without.add("tea")
        with opened(tmp_path / "store", audit_key=KEY) as memory:
            for write in (lambda: without.add("more"), without.forget, without.tick):
                with pytest.raises(AuditKeyRequired):
                    write()
            assert memory.stats().memories == 1
            memory.add("cake")
            assert memory.verify().outcome == "authentic"


def test_what_a_killed_process_left_is_left_to_one_that_has_the_key(path: Path) -> None:
    with opened(path, audit_key=KEY) as memory:
        pins = memory._vault.db.versions()
        memory.add("of a transaction that was cut off")
        memory._vault.db.write_manifest(replace(memory._vault.manifest, pinned=pins))
    with opened(path) as memory:
        assert memory.stats().memories == 2
        assert memory.verify().sound
        assert len(memory.search("transaction", k=9)) == 2
    with opened(path, audit_key=KEY) as memory:
        assert memory.stats().memories == 2
        assert memory.verify().outcome == "authentic"
        assert [e.outcome for e in memory.log(limit=1)] == ["rolled back"]


@pytest.mark.parametrize("key", [None, KEY], ids=["without the key", "with it"])
def test_memories_that_were_lost_are_missed_with_the_key_and_without(path: Path, key: bytes | None) -> None:
    versions = path / "cubes.lance" / "_versions"
    min(versions.glob("*.manifest")).unlink()  # the newest: the database falls back without a word
    (versions / "latest_version_hint.json").unlink(missing_ok=True)
    with pytest.raises(Damaged, match="lacks 1 memories"):
        opened(path, audit_key=key)
    assert verify_store(path, audit_key=key).sound  # of the log nothing is missing


def test_a_program_without_the_key_does_not_keep_what_it_could_write_down(path: Path) -> None:
    with opened(path) as memory:
        for _ in range(3):
            memory.search("tea")
        assert not memory._upkeep._reads
    with opened(path, audit_key=KEY) as memory:
        [hit] = memory.search("tea", k=1)
        memory.flush()
        assert memory.get(hit.cube.id).usage.reads == 1


def test_another_embedder_is_given_to_a_store_with_its_key_alone(path: Path) -> None:
    with pytest.raises(AuditKeyRequired):
        reembed(path, WordsEmbedder(32))
    assert reembed(path, WordsEmbedder(32), audit_key=KEY) == 2
    assert verify_store(path, audit_key=KEY).outcome == "authentic"
    with pytest.raises(AuditKeyRequired), opened(path, embed=WordsEmbedder(32)) as memory:
        memory.add("more")


# --- every writer signs -------------------------------------------------------------------------------------------------------


def fail(memory: MemOS) -> None:
    with memory.transaction():
        memory.add("taken back")
        raise KeyError


def test_all_that_writes_signs(path: Path) -> None:
    with opened(path, audit_key=KEY) as memory:
        memory.snapshot("before")
        memory.dump(path.parent / "dump")
        with memory.transaction():
            memory.add("in a transaction")
        with pytest.raises(KeyError):
            fail(memory)
        with memory.branch("trial") as trial:
            trial.add("on a branch")
            assert trial.verify().outcome == "authentic"
            memory.merge(trial)
        memory.rollback("before")
        memory.forget()
        memory.load(path.parent / "dump")
        memory.tick()
        memory.purge()
        found = memory.verify()
    assert found.outcome == "authentic"
    assert found.signed == found.authentic == found.events


def test_a_worker_signs_with_the_key_of_its_opening(path: Path) -> None:
    worker = Worker(Opening(str(path), embed=WordsEmbedder(), audit_key=KEY))
    worker.tick()
    worker.close()
    with pytest.raises(StoreClosed):
        worker.tick()
    assert verify_store(path, audit_key=KEY).outcome == "authentic"
    without = Worker(Opening(str(path), embed=WordsEmbedder()))
    with pytest.raises(AuditKeyRequired):
        without.tick()
    without.close()


# --- from a shell -------------------------------------------------------------------------------------------------------------


def test_memosctl_verifies_with_a_key_without_one_and_with_a_wrong_one(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, wrong = tmp_path / "audit.key", tmp_path / "wrong.key"
    file.write_text(f"{NEW.hex()}\n{KEY.hex()}\n")
    wrong.write_text(ANOTHER.hex())
    assert main(["verify", str(path), "--audit-key-file", str(file)]) == 0
    head = capsys.readouterr().out.split()[-1]
    assert main(["verify", str(path), "--audit-key-file", str(file), "--head", head]) == 0
    assert main(["verify", str(path)]) == 3
    assert "not checked: who wrote the events" in capsys.readouterr().out
    assert main(["verify", str(path), "--audit-key-file", str(wrong)]) == 1
    copy = shutil.copytree(path, tmp_path / "copy")
    forge(copy, head=True)
    assert main(["verify", str(copy), "--audit-key-file", str(file)]) == 1


def test_memosctl_writes_with_the_key_and_not_without(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "audit.key"
    file.write_text(KEY.hex())
    assert main(["tick", str(path), "--audit-key-file", str(file)]) == 0
    assert main(["tick", str(path)]) == 1
    assert "--audit-key-file" in capsys.readouterr().err
    file.write_text("not a key")
    assert main(["tick", str(path), "--audit-key-file", str(file)]) == 1
    assert "not a key" not in capsys.readouterr().err
