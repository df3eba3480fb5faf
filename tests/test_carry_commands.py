"""Memories carried from a shell: memosctl's dump, load, key, publish, offers, subscribe, pull, and its bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from memos_core import MemOS
from memos_core.bench import carry
from memos_core.cli import main


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command; its status and what it printed."""
    pytest.importorskip("sentence_transformers", reason="memosctl uses the default embedder")

    def run(*words: object) -> tuple[int, str]:
        status = main([str(w) for w in words])
        found = capsys.readouterr()
        return status, found.out + found.err

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with MemOS(tmp_path / "store") as memory:
        memory.add("green tea is brewed at 70 degrees", namespace=("guide",))
        memory.add("a private tea")
    return tmp_path / "store"


def test_a_store_is_dumped_and_loaded_from_a_shell(
    shell: Callable[..., tuple[int, str]], store: Path, tmp_path: Path
) -> None:
    status, said = shell("dump", store, tmp_path / "dump.zip", "--namespace", "guide")
    assert status == 0
    assert "1 of 1 memories" in said
    status, said = shell("load", tmp_path / "new", tmp_path / "dump.zip")
    assert status == 0
    assert "added           1" in said
    assert shell("load", tmp_path / "new", tmp_path / "nothing")[0] == 1
    assert shell("dump", tmp_path / "nothing", tmp_path / "x")[0] == 1
    assert not (tmp_path / "nothing").exists()


def test_an_export_is_brought_in_from_a_shell(shell: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "mem0.json").write_text(json.dumps({"results": [{"id": "1", "memory": "Likes tea", "user_id": "u"}]}))
    for new in (1, 0):
        status, said = shell(
            "load", tmp_path / "new", tmp_path / "mem0.json", "--from", "mem0", "--namespace", "old/mem0"
        )
        assert status == 0
        assert f"new or changed  {new}" in said
    with MemOS(tmp_path / "new") as memory:
        assert memory.search("tea")[0].cube.namespace == ("old", "mem0", "u")


def test_memories_are_published_and_pulled_from_a_shell(
    shell: Callable[..., tuple[int, str]], store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason="publications are signed with it")
    (tmp_path / "licence").write_text("CC-BY-4.0")
    status, key = shell("key", tmp_path / "key.pem")
    assert status == 0
    status, _ = shell(
        "publish", store, tmp_path / "shelf", "tea", "--key", tmp_path / "key.pem", "--visible-to", "*", "--namespace", "guide",
        "--licence", tmp_path / "licence", "--tags", "tea",
    )  # fmt: skip
    assert status == 0
    assert "tea version 1: 1 memories" in shell("offers", store, tmp_path / "shelf")[1]
    refused = shell("subscribe", tmp_path / "new", tmp_path / "shelf", "--trust", key.strip())
    assert refused[0] == 0
    status, said = shell("pull", tmp_path / "new")
    assert status == 1
    assert "licence must be accepted" in said
    words = ("--trust", key.strip(), "--accept", tmp_path / "licence")
    _, id = shell("subscribe", tmp_path / "new", tmp_path / "shelf", *words)
    status, said = shell("pull", tmp_path / "new", id.strip())
    assert status == 0
    assert "tea version 1: 1 added" in said


def test_the_bench_measures_every_part_beside_its_baselines(tmp_path: Path) -> None:
    carry._fill(tmp_path / "store", 1_000)
    found = {name: part(tmp_path) for name, part in carry._PARTS.items()}
    assert all(p["seconds"] > 0 and p["mb"] > 0 and p["peak_mb"] >= p["before_mb"] for p in found.values())
    assert carry._same(tmp_path / "store", tmp_path / "load")
    assert carry._same(tmp_path / "store", tmp_path / "load_archive")
    assert not carry._same(tmp_path / "store", tmp_path / "other")
