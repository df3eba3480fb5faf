"""Memories published and pulled: signed, on terms, by difference, between stores that never met."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import PUBLIC, Access, AccessDenied, DumpRefused, InvalidArgument, MemCube, MemOS, NotFound
from memos_core.signing import new_key, public_key
from tests.conftest import Clock
from tests.dumps import files_of, put, with_manifest
from tests.words import WordsEmbedder

pytest.importorskip("cryptography", reason="publications are signed with it")
Opener = Callable[..., MemOS]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def other(open_store: Opener, tmp_path: Path) -> MemOS:
    """A stranger's store: another actor, another embedder."""
    return open_store(path=tmp_path / "other", actor="zoe", embed=WordsEmbedder(48, salt="z"))


@pytest.fixture
def published(memory: MemOS, key: Path, tmp_path: Path) -> dict[str, Any]:
    """How `publish` was called, for calling it again; what is published are three memories about tea."""
    for word in ("green", "black", "white"):
        memory.add(f"{word} tea is brewed at its own heat", key=word, namespace=("guide",))
    how: dict[str, Any] = {
        "key": key,
        "visibility": [PUBLIC],
        "namespace": ("guide",),
        "about": "how to brew tea",
        "tags": ["tea"],
    }
    memory.publish(tmp_path / "shelf", "brewing", **how)
    return how


def followed(other: MemOS, tmp_path: Path, key: Path, **how: Any) -> MemOS:
    other.subscribe(tmp_path / "shelf", trust=[public_key(key)], **how)
    return other


def texts(memory: MemOS) -> set[str]:
    return {r.cube.text for r in memory._vault.rows("version > 0")}


def test_stores_that_never_met_exchange_memories(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    [offer] = other.offers(tmp_path / "shelf")
    assert (offer.terms.name, offer.terms.number, offer.memories, offer.key) == ("brewing", 1, 3, public_key(key))
    [report] = followed(other, tmp_path, key).pull()
    assert report.refused is None
    assert report.loaded is not None
    assert (report.loaded.added, report.loaded.embedded) == (
        3,
        3,
    )  # a stranger's vectors are not trusted, nor of use here
    hit = other.search("brewing black tea")[0].cube
    assert (hit.text, hit.access, hit.key) == ("black tea is brewed at its own heat", Access("zoe"), None)
    assert {e.verb for e in other.log()} == {"pull"}
    assert "publish" in {e.verb for e in memory.log()}


def test_an_update_brings_only_what_changed_and_takes_away_what_was_withdrawn(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    memory.add([f"oolong {n} tea" for n in range(5_000)], namespace=("guide",))
    memory.publish(tmp_path / "shelf", "brewing", **published)
    followed(other, tmp_path, key).pull()
    assert other.stats().memories == 5_003
    [green] = memory.add("green tea is brewed at 70 degrees", key="green", namespace=("guide",))
    memory.publish(tmp_path / "shelf", "brewing", **published)
    [report] = other.pull()
    assert report.loaded is not None
    assert (report.number, report.new_files, report.files) == (3, 1, 4)
    assert (report.loaded.added, report.loaded.updated) == (0, 1)
    assert green.text in texts(other)
    memory.delete([green.id])
    memory.publish(tmp_path / "shelf", "brewing", **published)
    [report] = other.pull()
    assert (report.withdrawn, report.new_files) == (1, 1)
    assert green.text not in texts(other)
    [report] = other.pull()
    assert (report.new_files, report.loaded) == (0, None)


def test_what_was_changed_or_frozen_here_is_neither_overwritten_nor_withdrawn(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    followed(other, tmp_path, key).pull()
    mine = {c.text.split()[0]: c for c in (r.cube for r in other._vault.rows("version > 0"))}
    other.update(mine["green"].id, "green tea, as I like it")
    other.freeze(mine["black"].id)
    memory.update(memory.search("green tea")[0].cube.id, "green tea, changed")
    memory.update(memory.search("green tea")[0].cube.id, "green tea, changed again")
    memory.delete([c.id for c in memory.items.get([(("guide",), "black"), (("guide",), "white")]) if c is not None])
    memory.publish(tmp_path / "shelf", "brewing", **published)
    [report] = other.pull()
    assert report.loaded is not None
    assert (report.loaded.updated, report.loaded.diverged, report.withdrawn) == (0, 1, 1)
    assert texts(other) == {"green tea, as I like it", "black tea is brewed at its own heat"}


def test_a_strangers_memory_never_takes_the_place_of_ones_own(
    memory: MemOS, open_store: Opener, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    """Both are "ann" at home, and both keep something under the same key."""
    for _ in range(3):
        memory.add("green tea, they say", key="green", namespace=("guide",))
    memory.publish(tmp_path / "shelf", "brewing", **published)
    other = open_store(path=tmp_path / "other")
    [mine] = other.add("mine", key="green", namespace=("guide",))
    followed(other, tmp_path, key).pull()
    assert other.get(mine.id) == mine
    assert other.stats().memories == 4


# --- by whom, and for whom ----------------------------------------------------------------------------------------------------------


def test_what_is_not_signed_by_a_trusted_key_is_not_pulled(
    memory: MemOS, other: MemOS, published: dict[str, Any], tmp_path: Path
) -> None:
    stranger = new_key(tmp_path / "stranger.pem")
    other.subscribe(tmp_path / "shelf", trust=[stranger])
    [report] = other.pull()
    assert report.refused is not None
    assert "none of the keys that are trusted" in report.refused
    assert other.stats().memories == 0
    with pytest.raises(InvalidArgument, match="trust"):
        other.subscribe(tmp_path / "shelf", trust=[])


def test_a_publication_whose_manifest_or_files_were_changed_is_refused(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    files = files_of(tmp_path / "shelf" / "brewing")
    forged = with_manifest(files, lambda m: m["publication"].update(licence="do as you like"))
    put(forged, tmp_path / "forged" / "brewing")
    assert ["signature" in str(o.refused) for o in other.offers(tmp_path / "forged")] == [True]
    with pytest.raises(DumpRefused, match="signature"):
        other.load(tmp_path / "forged" / "brewing")
    name = next(n for n in files if n.endswith(".arrow"))
    put({**files, name: files[name][:-1] + b"\x01"}, tmp_path / "bitten" / "brewing")
    other.subscribe(tmp_path / "bitten", trust=[public_key(key)])
    assert "hash" in str(other.pull()[0].refused)


def test_nobody_else_publishes_under_a_name_and_nobody_turns_a_version_back(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    first = files_of(tmp_path / "shelf" / "brewing")
    new_key(tmp_path / "stranger.pem")
    with pytest.raises(AccessDenied, match="another key"):
        memory.publish(tmp_path / "shelf", "brewing", **{**published, "key": tmp_path / "stranger.pem"})
    memory.add("pu-erh tea", key="dark", namespace=("guide",))
    memory.publish(tmp_path / "shelf", "brewing", **published)
    followed(other, tmp_path, key).pull()
    assert other.stats().memories == 4
    put(first, tmp_path / "shelf" / "brewing")
    assert "turned back" in str(other.pull()[0].refused)
    assert other.stats().memories == 4


def test_only_what_the_actor_owns_is_published_and_nothing_made_of_others_secrets(
    memory: MemOS, published: dict[str, Any], tmp_path: Path
) -> None:
    [bobs] = memory.add("bob's tea", actor="bob", namespace=("guide",), access=Access("bob", frozenset({"ann"})))
    assert memory.publish(tmp_path / "shelf", "brewing", **published).memories == 3
    with pytest.raises(AccessDenied):
        memory.publish(tmp_path / "shelf", "brewing", **{**published, "ids": [bobs.id]})
    made = _derived(memory, bobs)
    with pytest.raises(AccessDenied, match="others"):
        memory.publish(tmp_path / "shelf", "brewing", **published)
    assert memory.publish(tmp_path / "shelf", "for-bob", **{**published, "visibility": ["bob"]}).memories == 4
    assert made.access.owner == "ann"


def test_a_publication_is_loaded_by_whom_it_is_visible_to(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    memory.publish(tmp_path / "shelf", "brewing", **{**published, "visibility": ["yan"]})
    followed(other, tmp_path, key)
    assert "not visible" in str(other.pull()[0].refused)
    assert other.load(tmp_path / "shelf" / "brewing", actor="yan").added == 3
    with pytest.raises(InvalidArgument, match="visibility"):
        memory.publish(tmp_path / "shelf", "brewing", **{**published, "visibility": []})


def test_a_licence_is_accepted_word_for_word_or_nothing_is_pulled(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    memory.publish(tmp_path / "shelf", "brewing", **published, licence="CC-BY-4.0, credit Ann")
    followed(other, tmp_path, key)
    assert "CC-BY-4.0, credit Ann" in str(other.pull()[0].refused)
    with pytest.raises(DumpRefused, match="licence"):
        other.load(tmp_path / "shelf" / "brewing", accept="CC-BY-4.0")
    followed(other, tmp_path, key, accept=["CC-BY-4.0, credit Ann"])
    assert [r.loaded is not None for r in other.pull()].count(True) == 1
    assert other.stats().memories == 3


def test_after_its_time_nothing_is_loaded_and_what_was_loaded_is_not_returned(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, clock: Clock, tmp_path: Path
) -> None:
    memory.publish(tmp_path / "shelf", "brewing", **published, expires_at=clock() + timedelta(days=1))
    followed(other, tmp_path, key).pull()
    assert other.search("green tea")
    clock.forward(days=2)
    assert other.search("green tea") == []
    with pytest.raises(DumpRefused, match="its time was over"):
        other.load(tmp_path / "shelf" / "brewing")


def test_a_publication_is_loaded_as_often_as_its_terms_say(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    memory.publish(tmp_path / "shelf", "brewing", **published, uses=2)
    followed(other, tmp_path, key).pull()
    other.load(tmp_path / "shelf" / "brewing")
    with pytest.raises(DumpRefused, match="2 times"):
        other.load(tmp_path / "shelf" / "brewing", actor="yan")
    memory.add("pu-erh tea", key="dark", namespace=("guide",))
    memory.publish(tmp_path / "shelf", "brewing", **published, uses=2)
    assert "2 times" in str(other.pull()[0].refused)


# --- what is followed ---------------------------------------------------------------------------------------------------------------


def test_subscriptions_go_by_tag_or_by_what_a_publication_is_about(
    memory: MemOS, other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    memory.add("a poodle is clipped", key="poodle", namespace=("dogs",))
    memory.publish(
        tmp_path / "shelf",
        "dogs",
        **{**published, "namespace": ("dogs",), "tags": ["dog"], "about": "how to clip a poodle"},
    )
    by_tag = other.subscribe(tmp_path / "shelf", trust=[public_key(key)], tags=["dog", "cat"])
    assert [r.name for r in other.pull(by_tag.id)] == ["dogs"]
    by_likeness = other.subscribe(tmp_path / "shelf", trust=[public_key(key)], like="brew tea", least=0.5)
    assert [r.name for r in other.pull([by_likeness.id])] == ["brewing"]
    every = other.subscribe(tmp_path / "shelf", trust=[public_key(key)])
    assert [r.name for r in other.pull(every.id)] == ["brewing", "dogs"]
    assert other.stats().memories == 4


def test_subscriptions_are_their_actors_own(other: MemOS, published: dict[str, Any], key: Path, tmp_path: Path) -> None:
    mine = other.subscribe(tmp_path / "shelf", trust=[public_key(key)])
    assert other.subscriptions(actor="yan") == []
    assert other.pull(actor="yan") == []
    for verb in (lambda: other.pull(mine.id, actor="yan"), lambda: other.unsubscribe(mine.id, actor="yan")):
        with pytest.raises(NotFound):
            verb()
    assert [s.id for s in other.subscriptions()] == [mine.id]
    other.unsubscribe(mine.id)
    assert other.subscriptions() == []


def test_a_shelf_may_be_an_object_store(memory: MemOS, other: MemOS, key: Path) -> None:
    memory.add("tea in the cloud")
    memory.publish("memory://memstore/shelf", "cloud", key=key, visibility=[PUBLIC])
    memory.publish("memory://memstore/shelf", "cloud", key=key, visibility=[PUBLIC])
    other.subscribe("memory://memstore/shelf", trust=[public_key(key)])
    [report] = other.pull()
    assert report.loaded is not None
    assert (report.number, report.loaded.added) == (2, 1)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "a b", "x" * 200])
def test_a_name_that_no_folder_should_have_is_refused(name: str, memory: MemOS, key: Path, tmp_path: Path) -> None:
    memory.add("tea")
    with pytest.raises(InvalidArgument, match="name"):
        memory.publish(tmp_path / "shelf", name, key=key, visibility=[PUBLIC])
    assert not (tmp_path / "shelf").exists()


def test_a_key_is_a_file_that_only_its_owner_reads_and_is_not_overwritten(tmp_path: Path) -> None:
    made = new_key(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert public_key(tmp_path / "key.pem") == made
    with pytest.raises(InvalidArgument):
        new_key(tmp_path / "key.pem")
    (tmp_path / "none.pem").write_text("no key")
    with pytest.raises(InvalidArgument, match="no private key"):
        public_key(tmp_path / "none.pem")


def test_the_manifest_of_a_publication_says_its_terms_to_anybody(published: dict[str, Any], tmp_path: Path) -> None:
    said = json.loads((tmp_path / "shelf" / "brewing" / "memos.json").read_text())
    assert said["publication"]["tags"] == ["tea"]
    assert set(said["signature"]) == {"key", "value"}


def _derived(memory: MemOS, source: MemCube) -> MemCube:
    from dataclasses import replace

    from memos_core import Draft, Link

    draft = replace(source, key=None, namespace=("guide",), access=Access("ann"))
    return memory._writer.add_statement("ann", draft, Draft("a conclusion", parents=(Link(source.id, source.version),)))
