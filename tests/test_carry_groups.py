"""What was shared with a group stays with that group, whichever way it is carried; and who runs a store can carry all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import AccessDenied, Conflict, InvalidArgument, MemOS, NotFound, grant, new_key
from memos_core.cli import main
from memos_core.types import Access
from tests.conftest import Clock
from tests.dumps import files_of, put, with_manifest


@pytest.fixture
def other(open_store: Callable[..., MemOS], tmp_path: Path) -> MemOS:
    return open_store(path=tmp_path / "other", actor="opener")


def seen(memory: MemOS, actor: str, purpose: str | None = None) -> set[str]:
    with memory.acting(purpose=purpose):
        return {h.cube.text for h in memory.search("tea", actor=actor, k=100)}


def shared(memory: MemOS, *readers: str) -> str:
    """A memory of ann's that those in a group of hers may read, in a version before, too."""
    memory.group("team", ["bob"])
    [cube] = memory.add("tea for the team")
    memory.share(cube.id, readers=readers)
    memory.update(cube.id, "green tea for the team")
    return cube.id


GRANTS: tuple[Any, ...] = (("group:team",), (grant("group:team", purpose="support"),), ("group:team", "carl"))


@pytest.mark.parametrize("readers", GRANTS)
@pytest.mark.parametrize("is_taken", [True, False])
@pytest.mark.parametrize("as_they_are", [True, False])
def test_a_group_of_that_name_that_is_anothers_reads_nothing(
    readers: Any, is_taken: bool, as_they_are: bool, memory: MemOS, other: MemOS, tmp_path: Path
) -> None:
    id = shared(memory, *readers)
    memory.dump(tmp_path / "dump")
    if is_taken:
        other.group("team", ["eve"], actor="eve")
    report = other.load(tmp_path / "dump", actor="opener" if as_they_are else "ann", as_they_are=as_they_are)
    if not is_taken:
        with pytest.raises(AccessDenied):
            other.group("team", ["eve"], actor="eve")
        assert "grants_to_unknown_groups" not in report.left_out
    else:
        assert report.left_out["grants_to_unknown_groups"] == 1
    for purpose in (None, "support"):
        assert seen(other, "eve", purpose) == set()
    assert seen(other, "carl") == ({"green tea for the team"} if "carl" in readers else set())
    assert seen(other, "ann") == {"green tea for the team"}
    for actor in ("eve", "bob"):
        if is_taken:
            with pytest.raises(NotFound):
                other.get(id, version=2, actor=actor)
    if is_taken:
        assert not any("group:team" in str(c.access) for c in other.history(id, actor="ann"))


@pytest.mark.parametrize("as_they_are", [True, False])
def test_a_group_comes_along_for_its_owner(as_they_are: bool, memory: MemOS, other: MemOS, tmp_path: Path) -> None:
    shared(memory, "group:team")
    memory.dump(tmp_path / "dump")
    other.load(tmp_path / "dump", actor="opener" if as_they_are else "ann", as_they_are=as_they_are)
    assert seen(other, "bob") == {"green tea for the team"}
    assert other.members("team", actor="ann") == {"bob"}
    other.group("team", ["carl"], actor="ann")
    assert (seen(other, "bob"), seen(other, "carl")) == (set(), {"green tea for the team"})
    other.load(tmp_path / "dump", actor="opener" if as_they_are else "ann", as_they_are=as_they_are)
    assert other.members("team", actor="ann") == {"carl"}


def test_a_group_that_is_anothers_does_not_come_along_with_a_members_dump(
    memory: MemOS, other: MemOS, tmp_path: Path
) -> None:
    memory.group("team", ["ann", "bob"], actor="carl")
    [cube] = memory.add("tea for the team", access=Access("ann", frozenset({"group:team"})))
    memory.dump(tmp_path / "dump")
    report = other.load(tmp_path / "dump", actor="ann")
    assert report.left_out == {"grants_to_unknown_groups": 1}
    assert other.get(cube.id, actor="ann").access.readers == frozenset()
    other.group("team", ["eve"], actor="eve")
    assert seen(other, "eve") == set()


def test_a_dump_that_lies_about_a_groups_owner_gives_its_members_nothing(
    memory: MemOS, other: MemOS, tmp_path: Path
) -> None:
    shared(memory, "group:team")
    memory.dump(tmp_path / "dump")
    lie = with_manifest(files_of(tmp_path / "dump"), lambda m: m["groups"]["team"].update(owner="eve"))
    other.group("team", ["eve"], actor="eve")
    report = other.load(put(lie, tmp_path / "lie"), actor="ann")
    assert report.left_out == {"grants_to_unknown_groups": 1}
    assert seen(other, "eve") == set()


def test_the_log_tells_of_a_group_that_came_along(memory: MemOS, other: MemOS, tmp_path: Path) -> None:
    shared(memory, "group:team")
    memory.dump(tmp_path / "dump")
    for _ in range(2):
        other.load(tmp_path / "dump", actor="ann")
    for actor in ("ann", "bob"):
        assert [e.detail for e in other.log(actor=actor, verb="group")] == ["team: 1 members, with a dump"]
    assert other.log(actor="eve", verb="group") == []


def test_whoever_left_a_group_where_it_was_dumped_is_given_nothing_new(
    memory: MemOS, other: MemOS, tmp_path: Path
) -> None:
    shared(memory, "group:team")
    memory.dump(tmp_path / "dump")
    other.load(tmp_path / "dump", as_they_are=True)
    memory.group("team", ["carl"])
    [cube] = memory.add("tea of later", access=Access("ann", frozenset({"group:team"})))
    memory.dump(tmp_path / "dump")
    report = other.load(tmp_path / "dump", as_they_are=True)
    assert report.left_out["grants_to_unknown_groups"] == 1
    assert seen(other, "bob") == {"green tea for the team"}
    assert other.get(cube.id, actor="ann").access.readers == frozenset()


def test_a_name_that_others_grants_use_cannot_be_taken(memory: MemOS) -> None:
    shared(memory, "group:team")
    memory._vault.rules.drop("group:team")  # as a store of before may be, into which such grants were loaded
    with pytest.raises(AccessDenied):
        memory.group("team", ["eve"], actor="eve")
    assert memory.group("team", ["bob"]) == {"bob"}


def test_what_a_branch_shares_with_a_group_of_its_own_does_not_come_back(memory: MemOS) -> None:
    [cube] = memory.add("tea")
    with memory.branch("try") as trial:
        trial.group("team", ["bob"])
        trial.share(cube.id, readers=["group:team"])
        memory.group("team", ["eve"], actor="eve")
        with pytest.raises(Conflict, match="team"):
            memory.merge(trial)
    assert seen(memory, "eve") == set()
    assert seen(memory, "ann") == {"tea"}


def test_a_publication_brings_no_grants(memory: MemOS, other: MemOS, tmp_path: Path) -> None:
    shared(memory, "group:team")
    public = new_key(tmp_path / "key.pem")
    memory.publish(tmp_path / "shelf", "teas", key=tmp_path / "key.pem", visibility=["*"])
    other.group("team", ["eve"], actor="eve")
    wanted = other.subscribe(tmp_path / "shelf", trust=[public], actor="bob")
    other.pull([wanted.id], actor="bob")
    assert (seen(other, "eve"), seen(other, "bob")) == (set(), {"green tea for the team"})


def test_a_publication_is_for_actors_since_no_other_store_knows_a_group(memory: MemOS, tmp_path: Path) -> None:
    shared(memory, "group:team")
    new_key(tmp_path / "key.pem")
    for name in ("group:team", grant("bob", purpose="support")):
        with pytest.raises(InvalidArgument, match="visibility"):
            memory.publish(tmp_path / "shelf", "teas", key=tmp_path / "key.pem", visibility=[name])
    assert not (tmp_path / "shelf").exists()


# --- who runs a store --------------------------------------------------------------------------------------------------------


def test_only_an_operator_dumps_a_store_whole_and_the_log_says_so(
    memory: MemOS, other: MemOS, tmp_path: Path, clock: Clock
) -> None:
    id = shared(memory, "group:team")
    memory.add("tea of bob's", actor="bob")
    memory.retain((), timedelta(days=9), actor="bob")
    with pytest.raises(AccessDenied, match="operator"):
        memory.dump(tmp_path / "dump", whole=True)
    assert memory.grant_operator("root") == {"root"}
    with pytest.raises(AccessDenied):
        memory.grant_operator("ann")
    with pytest.raises(AccessDenied):
        memory.dump(tmp_path / "dump", whole=True)
    report = memory.dump(tmp_path / "dump", whole=True, actor="root")
    assert (report.memories, report.whole, report.groups) == (2, True, ("team",))
    assert [(e.verb, e.detail[:15]) for e in memory.log(by="root", actor="root", limit=1)] == [
        ("dump", "the whole store")
    ]
    assert [e.verb for e in memory.log(verb="operator")] == ["operator"]
    assert seen(memory, "root") == set()

    other.load(tmp_path / "dump", as_they_are=True)
    for actor in ("ann", "bob", "root"):
        assert seen(other, actor) == seen(memory, actor)
    assert [c.text for c in other.history(id, actor="ann")] == [c.text for c in memory.history(id)]
    assert other.retention(actor="bob") == memory.retention(actor="bob")
    clock.forward(days=10)
    assert seen(other, "bob") == {"green tea for the team"}
    assert "the whole store" in memory.delete(id).handed_out[0]


def test_a_selection_is_no_whole_store(memory: MemOS, tmp_path: Path) -> None:
    memory.grant_operator("ann")
    for some in (
        {"namespace": ("a",)},
        {"ids": ["x"]},
        {"filter": {"a": 1}},
        {"kinds": ["plaintext"]},
        {"history": False},
    ):
        with pytest.raises(InvalidArgument, match="whole"):
            memory.dump(tmp_path / "dump", whole=True, **some)


def test_an_operator_names_others_and_the_last_one_stays(memory: MemOS, capsys: pytest.CaptureFixture[str]) -> None:
    memory.grant_operator("root")
    assert memory.grant_operator("two", actor="root") == {"root", "two"}
    assert memory.revoke_operator("root", actor="two") == {"two"}
    with pytest.raises(InvalidArgument, match="last"):
        memory.revoke_operator("two", actor="two")
    with pytest.raises(NotFound):
        memory.revoke_operator("root", actor="two")
    memory.close()
    assert main(["operator", memory.path, "list"]) == 0
    assert main(["operator", memory.path, "add", "three", "--actor", "two"]) == 0
    assert main(["operator", memory.path, "add", "four", "--actor", "ann"]) == 1
    assert capsys.readouterr().out.split() == ["two", "three", "two"]


def test_a_store_with_an_operator_takes_in_others_memories_by_him_alone(
    memory: MemOS, other: MemOS, tmp_path: Path
) -> None:
    shared(memory)
    memory.dump(tmp_path / "dump")
    other.grant_operator("root")
    with pytest.raises(AccessDenied):
        other.load(tmp_path / "dump", as_they_are=True)
    with pytest.raises(AccessDenied):
        other.load(tmp_path / "dump", owner="ann")
    assert other.load(tmp_path / "dump", as_they_are=True, actor="root").added == 1


def test_a_rule_of_retention_that_comes_along_holds_for_what_was_here(
    memory: MemOS, other: MemOS, tmp_path: Path, clock: Clock
) -> None:
    memory.add("new tea", actor="bob")
    memory.retain((), timedelta(days=9), actor="bob")
    memory.grant_operator("root")
    memory.dump(tmp_path / "dump", whole=True, actor="root")
    other.add("old tea", actor="bob")
    other.load(tmp_path / "dump", as_they_are=True)
    assert [e.verb for e in other.log(actor="bob", verb="retain")] == ["retain"]
    clock.forward(days=8)
    assert seen(other, "bob") == {"new tea", "old tea"}
    clock.forward(days=2)
    assert seen(other, "bob") == set()


# --- what was tampered with is said to be ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["changed", "emptied", "no manifest"])
def test_a_publication_that_was_tampered_with_is_reported(
    how: str, memory: MemOS, other: MemOS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, shelf = new_key(tmp_path / "key.pem"), tmp_path / "shelf"
    for name in ("teas", "cakes"):
        memory.add(f"tea and {name}", namespace=(name,))
        memory.publish(shelf, name, key=tmp_path / "key.pem", visibility=["*"], namespace=(name,))
    wanted = other.subscribe(shelf, trust=[public], actor="bob")
    assert [r.refused for r in other.pull([wanted.id], actor="bob")] == [None, None]
    manifest = shelf / "teas" / "memos.json"
    if how == "changed":
        manifest.write_bytes(
            manifest.read_bytes().replace(b'"memories":1', b'"memories":2').replace(b'"memories": 1', b'"memories": 2')
        )
    elif how == "emptied":
        manifest.write_bytes(b"")
    else:
        manifest.unlink()
    reports = {r.name: r.refused for r in other.pull([wanted.id], actor="bob")}
    assert reports["cakes"] is None
    assert reports["teas"]
    assert seen(other, "bob") == {"tea and teas", "tea and cakes"}
    if how != "no manifest":
        assert {o.terms.name: o.refused is None for o in other.offers(shelf)} == {"cakes": True, "teas": False}
        other.close()
        assert main(["offers", other.path, str(shelf)]) == 0
        assert "teas is refused" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["not signed", "no publication", "plain", "another name", "moved", "no manifest"])
def test_a_publication_that_lost_what_makes_it_one_is_reported_before_it_was_ever_pulled(
    how: str, memory: MemOS, other: MemOS, tmp_path: Path
) -> None:
    public, folder = new_key(tmp_path / "key.pem"), tmp_path / "shelf" / "teas"
    memory.add("tea")
    memory.publish(tmp_path / "shelf", "teas", key=tmp_path / "key.pem", visibility=["*"])
    (tmp_path / "shelf" / "notes").mkdir()
    (tmp_path / "shelf" / "notes" / "readme.txt").write_text("no dump")
    said = json.loads((folder / "memos.json").read_text())
    if how == "moved":
        folder = folder.rename(tmp_path / "shelf" / "cakes")
    elif how == "no manifest":
        (folder / "memos.json").unlink()
    else:
        if how == "another name":
            said["publication"]["name"] = "cakes"
        for lost in {
            "not signed": ["signature"],
            "no publication": ["publication"],
            "plain": ["signature", "publication"],
        }.get(how, ()):
            del said[lost]
        (folder / "memos.json").write_text(json.dumps(said))
    [offer] = other.offers(tmp_path / "shelf")
    assert offer.terms.name == folder.name
    assert str(folder) in str(offer.refused)
    other.subscribe(tmp_path / "shelf", trust=[public])
    [report] = other.pull()
    assert (report.name, report.refused) == (folder.name, offer.refused)
    assert other.stats().memories == 0
