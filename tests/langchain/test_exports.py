"""What the package exports, and what it says where LangChain is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import langchain_memos

NAMES = [
    "MemOSChatMessageHistory", "MemOSEmbeddings", "MemOSMemory", "MemOSRecallNode", "MemOSRetriever", "MemOSVectorStore",
    "MemOSWriteNode", "create_memos_tools",
]  # fmt: skip


def test_exports_are_these() -> None:
    assert set(NAMES) <= set(langchain_memos.__all__) <= set(dir(langchain_memos))


@pytest.mark.parametrize("name", langchain_memos.__all__)
def test_each_export_is_there_and_says_how_it_is_used(name: str) -> None:
    pytest.importorskip("langchain", reason="needs the extra langchain")
    words = getattr(langchain_memos, name).__doc__
    if name != "MemOSWriteNode":  # which refers to the other node
        for section in ("Setup:", "Instantiate:", "Invoke:", "Async:", "Use "):
            assert section in words or name == "MemOSMemory"
    assert "Args:" in words
    assert "Raises:" in words


@pytest.mark.parametrize("name", langchain_memos.__all__)
def test_each_export_names_the_extra_where_langchain_is_missing(name: str) -> None:
    code = (
        "import sys\n"
        "for package in ('langchain', 'langchain_core', 'langgraph'): sys.modules[package] = None\n"
        "import langchain_memos; from memos_core import MissingPackage\n"
        f"try: langchain_memos.{name}\n"
        "except MissingPackage as error: assert \"pip install 'memos-adapters[langchain]'\" in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="MemOSMemoz"):
        _ = langchain_memos.MemOSMemoz
