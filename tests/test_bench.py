"""The benches that a test can afford, at a size at which they prove nothing but that they run and are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memos_core.bench import ttft
from memos_core.bench.isolation import isolation
from memos_core.cli import main


def test_time_to_first_token_is_measured_against_every_other_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ttft.json"
    words = ["bench", "ttft", "--layers", "1", "--contexts", "96", "--queries", "24", "--rounds", "1", "--json"]
    assert main([*words, str(file)]) == 0
    (cell,) = json.loads(file.read_text())["results"]["cells"]
    assert set(cell["seconds"]) == set(ttft.WAYS)
    assert cell["same"]["first_token"]
    assert cell["same"]["max_logit_difference"] < 1e-4
    assert "held/alone" in capsys.readouterr().out


def test_work_is_counted_as_it_is_done() -> None:
    """By hand, for one layer of one head of width 2 in a network of width 2, with 3 new tokens behind 5."""
    shape = ttft.Preset(1, 2, 1, 1, 4, 10, True, "float32", (5,), (3,), width=2)
    alone, attention = shape.work(5, 3)
    projections, feed_forward, head = 3 * 2 * (4 * 2 * 2), 3 * 2 * (3 * 2 * 4), 2 * 2 * 10
    own = sum(4 * 2 * seen for seen in (1, 2, 3))
    assert alone == projections + feed_forward + own + head
    assert attention == 4 * 2 * 3 * 5


def test_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "ttft", "--preset", "qwen3-8b"]) == 1
    assert "no GPU" in capsys.readouterr().err


def test_twenty_actors_of_two_stores_and_two_processes_are_given_what_is_theirs(tmp_path: Path) -> None:
    found = isolation(tmp_path / "stores", 150, seed=4)
    assert set(found["of them"]) >= {"add", "branch", "claim group", "dump and load", "look there", "publish and pull"}
    assert found["leaks"] == 0, found["first leaks"]
    assert found["missing"] == 0


def test_a_build_is_timed_beside_another(tmp_path: Path) -> None:
    file, here = tmp_path / "builds.json", Path(__file__).parents[1]
    words = ["bench", "builds", "--other", str(here), "--memories", "50", "--rounds", "0.01", "--json", str(file)]
    assert main(words) == 0
    results = json.loads(file.read_text())["results"]
    assert set(results) == {"add", "search", "dump", "load"}
    assert all(row["wall ratio"] > 0 for row in results.values())
