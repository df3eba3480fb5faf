"""A store in a bucket: many writers, killed ones, ones that sleep; refused credentials, a server that is gone, one that is careless."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memos_core import Conflict, InvalidArgument, MemOS, NotAStore, Policy, StoreUnavailable
from memos_core.bucket import Bucket
from memos_core.cli import main as memosctl
from memos_core.reembed import reembed
from memos_core.vault import Vault
from tests.bucket_writer import POLICY, TALK
from tests.buckets import Server, serving
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent
EVERYTHING = 1_000_000
Open = Callable[..., MemOS]


@pytest.fixture
def open_here(server: Server, tmp_path: Path, open_store: Open) -> Open:
    return lambda **options: open_store(**{"path": server.url(tmp_path), "storage_options": server.options, **options})


def writer(server: Server, url: str, number: int, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bucket_writer", url, str(number), str(rounds)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **server.environment},
    )  # fmt: skip


def whole(memory: MemOS, told: list[dict[str, Any]]) -> None:
    """All that was acknowledged is there, nothing twice, and the history explains it."""
    cubes = {h.cube.id: h.cube for h in memory.search("note", k=EVERYTHING)}
    assert Counter(c.text for c in cubes.values()).most_common(1)[0][1] == 1
    for line in told:
        assert cubes[line["note"][0]].version == line["note"][1] == 2
    [ours] = [c for c in cubes.values() if c.key == "shared"]
    history = {c.version: c.text for c in memory.history(ours.id)}
    assert history.items() >= dict(line["keyed"] for line in told).items()
    assert list(history) == list(range(1, len(history) + 1))
    assert len({tuple(line["talk"]) for line in told}) == 1
    assert [cubes[id].origin.position for id in told[0]["talk"]] == list(range(len(TALK)))
    events = Counter((e.subject, e.version) for e in memory.log(limit=EVERYTHING))
    assert set(events.values()) == {1}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_that_write_at_once_lose_nothing_and_double_nothing(
    server: Server, tmp_path: Path, open_here: Open, count: int
) -> None:
    url = server.url(tmp_path)
    processes = [writer(server, url, number, 1) for number in range(count)]
    try:
        told = [json.loads(line) for p in processes for line in p.communicate(timeout=200)[0].splitlines()]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0] * count
    assert len(told) == count * 2
    memory = open_here()
    whole(memory, told)
    assert memory.stats().memories == len(told) + len(TALK) + 1


@pytest.mark.timeout(240)
def test_a_writer_that_was_killed_takes_nothing_with_it_and_keeps_nobody_waiting_for_long(
    server: Server, tmp_path: Path, open_here: Open
) -> None:
    process = writer(server, server.url(tmp_path), 0, 1_000)
    assert process.stdout is not None
    told = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGKILL)
    told += [json.loads(line) for line in process.communicate()[0].splitlines()]
    memory = open_here(policy=POLICY)
    whole(memory, told)
    memory.add("and life goes on")
    assert memory.search("life")[0].cube.text == "and life goes on"


# --- turns that lapse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["add", "update", "delete", "log"])
def test_what_was_read_in_a_turn_is_not_written_after_somebody_else_took_it_over(
    verb: str, server: Server, open_here: Open
) -> None:
    asleep, awake = open_here(), open_here()
    [cube] = asleep.add("green tea")
    vault = asleep._vault

    def write() -> None:
        with vault.writing():
            old = vault.by_ids([cube.id])[0].cube
            assert vault.past(cube.id) == []
            assert [e.verb for e in vault.events("subject IS NOT NULL", 9)] == ["add"]
            take_away_the_turn(asleep)  # as if it had lapsed
            awake.update(cube.id, "black tea")
            late = {
                "add": lambda: vault.insert([replace(old, id="late")], [None]),
                "update": lambda: vault.replace([old], [replace(old, version=2)], [None]),
                "delete": lambda: vault.remove([old.id]),
                "log": lambda: asleep._writer.tell("ann", "late", [old], old.created_at),
            }
            late[verb]()

    with pytest.raises(Conflict, match="was not made"):
        write()
    assert [h.cube.text for h in awake.search("tea", k=9)] == ["black tea"]
    assert [c.text for c in awake.history(cube.id)] == ["green tea", "black tea"]
    assert "late" not in {e.verb for e in awake.log()}
    assert asleep.update(cube.id, "white tea").version == 3


def test_a_turn_that_was_left_in_the_middle_is_taken_over_without_waiting(server: Server, open_here: Open) -> None:
    one, other = open_here(), open_here()
    [cube] = one.add("green tea")
    with pytest.raises(KeyboardInterrupt), one._vault.writing():
        raise KeyboardInterrupt
    assert other.update(cube.id, "black tea").version == 2
    assert one.get(cube.id).text == "black tea"


def take_away_the_turn(memory: MemOS) -> None:
    site = memory._vault.db.site
    assert isinstance(site, Bucket)
    site.files.remove([".turns/write"])


# --- what can go wrong ---------------------------------------------------------------------------------------------------


def test_wrong_credentials_are_told_apart_and_not_repeated(server: Server, open_here: Open) -> None:
    with pytest.raises(
        StoreUnavailable, match=r"s3://memories/.*credentials were refused.*InvalidAccessKeyId"
    ) as caught:
        open_here(storage_options={**server.options, "access_key_id": "somebody", "secret_access_key": "hush"})
    assert "hush" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(open_here: Open) -> None:
    with pytest.raises(StoreUnavailable, match="there is no bucket 'nowhere'"):
        open_here(path="s3://nowhere/store")


def test_without_any_credentials_it_says_where_they_come_from(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreUnavailable, match="AWS_ACCESS_KEY_ID"):
        MemOS(server.url(tmp_path), storage_options={"endpoint": server.options["endpoint"]}, embed=WordsEmbedder())


@pytest.mark.timeout(120)
def test_a_server_that_goes_away_is_named_soon_and_what_was_acknowledged_stays(
    tmp_path: Path, open_store: Open
) -> None:
    with serving() as server:
        here = {"path": server.url(tmp_path), "storage_options": server.options}
        memory = open_store(**here)
        memory.add("green tea")
        server.tell("down")
        with pytest.raises(StoreUnavailable, match=r"s3://memories/.*What was acknowledged before is stored"):
            memory.add("black tea")
        with pytest.raises(StoreUnavailable, match=r"s3://memories/.*What was acknowledged before is stored"):
            memory.search("tea")
        server.tell("up")
        assert [h.cube.text for h in memory.search("tea")] == ["green tea"]
        memory.add("black tea")
        memory.close()
        assert len(open_store(**here).search("tea")) == 2


def test_object_storage_that_ignores_conditions_is_refused(server: Server, tmp_path: Path, open_here: Open) -> None:
    with pytest.raises(StoreUnavailable, match="ignores the conditions of a write"):
        open_here(path=server.url(tmp_path / "careless").replace("careless/store", f"{tmp_path.name}/careless/store"))


def test_a_turn_whose_answer_got_lost_on_the_way_is_taken_all_the_same(
    server: Server, tmp_path: Path, open_here: Open
) -> None:
    memory = open_here(path=f"s3://memories/{tmp_path.name}/forgetful", policy=Policy(lock_seconds=5))
    assert memory.add("green tea")[0].version == 1


@pytest.mark.parametrize(
    "url",
    ["s3://memories", "s3://memories/", "s3://m/x", "s3://memories/a/../b", "s3://memories/a?b", "gs://memories/x"],
)
def test_a_url_that_is_none_is_refused(url: str, server: Server) -> None:
    with pytest.raises(InvalidArgument, match="path"):
        MemOS(url, storage_options=server.options, embed=WordsEmbedder())


@pytest.mark.parametrize("options", [{"acces_key": "x"}, {"region": 1}, "region"])
def test_options_that_are_none_are_refused(options: Any, server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="storage_options"):
        MemOS(server.url(tmp_path), storage_options=options, embed=WordsEmbedder())


def test_an_endpoint_that_is_no_url_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"storage_options: .*Invalid endpoint: nowhere"):
        MemOS(server.url(tmp_path), storage_options={**server.options, "endpoint": "nowhere"}, embed=WordsEmbedder())


def test_options_of_a_bucket_are_refused_for_a_folder(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="path is a folder"):
        MemOS(tmp_path / "store", storage_options=server.options, embed=WordsEmbedder())


# --- the shell -----------------------------------------------------------------------------------------------------------


def test_the_shell_and_the_environment_lead_to_the_same_store(
    server: Server, tmp_path: Path, open_here: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    assert memosctl(["stats", server.url(tmp_path)]) == 1
    assert "holds no store" in capsys.readouterr().err
    assert memosctl(["stats", "s3://memories"]) == 1
    assert "s3://BUCKET/PATH is needed" in capsys.readouterr().err
    with pytest.raises(NotAStore):
        reembed(server.url(tmp_path), WordsEmbedder())
    with open_here() as memory:
        memory.add("green tea")
    with MemOS(server.url(tmp_path) + "/", embed=WordsEmbedder(), actor="ann") as again:
        assert [h.cube.text for h in again.search("tea")] == ["green tea"]
    assert memosctl(["stats", server.url(tmp_path), "--actor", "ann"]) == 0
    assert "memories     1" in capsys.readouterr().out


def test_a_vault_in_a_bucket_keeps_versions_longer_than_any_turn(
    server: Server, tmp_path: Path, open_here: Open
) -> None:
    """A turn reads old versions, which another machine's compaction must leave alone."""
    memory = open_here(policy=Policy(keep_versions=POLICY.keep_versions))
    [cube] = memory.add("green tea")
    other = Vault(Bucket(server.url(tmp_path), storage_options=server.options), Policy(), memory._embedding.manifest)
    with closing(other), other.writing():
        other.by_ids([cube.id])
        for _ in range(3):
            memory._vault.db.table(memory._vault.manifest.cubes).optimize()
        assert memory._vault.db.compact()
        assert [r.cube.text for r in other.by_ids([cube.id])] == ["green tea"]


@pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
def test_the_adapters_open_a_bucket_by_its_url(
    framework: str, server: Server, tmp_path: Path, open_here: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with open_here() as memory:
        memory.add("green tea")
    found: Any
    if framework == "langchain":
        from langchain_memos import MemOSRetriever as OfLangChain

        found = OfLangChain(server.url(tmp_path), embed=WordsEmbedder(), user_id="ann")
        assert [d.page_content for d in found.invoke("tea")] == ["green tea"]
    else:
        from llamaindex_memos import MemOSRetriever as OfLlamaIndex

        found = OfLlamaIndex(server.url(tmp_path), embed=WordsEmbedder(), actor="ann")
        assert [n.node.get_content() for n in found.retrieve("tea")] == ["green tea"]
    found.close()
