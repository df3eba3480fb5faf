"""The README's commands and code are those that work."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_two_commands_install_extras_that_exist_from_the_constraints() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [c.rsplit("/", 1)[-1] for c in commands] == ["memosctl demo", "pytest"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in commands:
        assert "-c constraints.txt" in command
        named = re.search(r"-e '\.\[(.*?)\]'", command)
        assert named is not None
        assert set(named[1].split(",")) <= set(extras)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
    assert len(re.findall(r"^python3 -m venv .*bin/pytest$", README, re.MULTILINE)) == 1


def test_code_in_the_readme_parses_and_imports_names_that_exist() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for name in node.names:
                    assert hasattr(module, name.name)


def test_map_of_the_code_names_every_module_of_the_engine() -> None:
    drawn = README.split("## Map of the code")[1]
    for path in (ROOT / "memos_core").glob("*.py"):
        if path.name != "__init__.py":
            assert path.name in drawn, path.name


def test_readme_says_once_that_the_project_is_independent() -> None:
    assert README.count("independent of the paper's authors") == 1
