"""The bench of the adapters runs, and says what it measured."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from memos_core.cli import main


def test_the_bench_of_the_adapters_measures_each_part_and_a_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "adapters", "--memories", "40", "--calls", "5", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    rows = {row["call"]: row for row in found["rows"]}
    assert {"MemOSMemory, agent.ainvoke", "MemOSRetriever.invoke", "forget.invoke", "MemOSWriteNode.ainvoke"} <= set(
        rows
    )
    if find_spec("llama_index"):
        assert {
            "MemOSMemory.put",
            "MemOSMemory.aget, of 20 messages",
            "MemOSMemory, chat_engine.chat",
            "remember",
        } <= set(rows)
    for row in rows.values():
        assert 0 < row["engine"]["p50"] < row["whole"]["p50"]
    assert found["beside"]["search"]["InMemoryStore"]["calls"] == 5
    assert "MemOSRecallNode.invoke" in capsys.readouterr().out
