"""The benches that a test can afford, at a size at which they prove nothing but that they run and are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memos_core.bench import ttft
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
