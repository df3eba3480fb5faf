"""The examples of the LangChain parts run alone, as a newcomer runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TOLD = {
    "langchain_agent.py": "user: My train to Lyon leaves at 7:40 on Friday.",
    "langgraph_workflow.py": "user: The key to the shed is under the blue pot.",
}


@pytest.mark.parametrize("name", sorted(TOLD))
def test_the_example_remembers_for_ann_and_not_for_bob(name: str, tmp_path: Path) -> None:
    pytest.importorskip("langchain", reason="needs the extra langchain")
    pytest.importorskip("sentence_transformers", reason="the example uses the default embedder")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    new, known, others = (line for line in done.stdout.splitlines() if line.startswith("    "))
    assert "That is new to me." in new
    assert "I was told: - [" in known
    assert TOLD[name] in known
    assert "That is new to me." in others
    assert done.stderr == ""
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60
