"""MemOSRetriever: what LlamaIndex sees of the engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed")

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.embeddings import BaseEmbedding

from llamaindex_memos import MemOSRetriever
from memos_core import InvalidArgument, MemOS
from tests.words import WordsEmbedder


class WordsEmbedding(BaseEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(x) for x in WordsEmbedder()([text])[0]]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture
def memory(tmp_path: Path) -> MemOS:
    memory = MemOS(tmp_path / "store", embed=WordsEmbedder())
    memory.add([{"role": "user", "name": "Ann", "content": "My cat is called Miso."}], actor="ann", session="s")
    memory.add("The boiler is serviced in October.", actor="ann")
    memory.add("A secret about the cat.", actor="tom")
    return memory


def test_retrieves_what_the_actor_may_read_with_score_and_origin(memory: MemOS) -> None:
    retriever = MemOSRetriever(memory, actor="ann", k=2)
    assert isinstance(retriever, BaseRetriever)
    best, other = retriever.retrieve("What is the cat called?")
    assert best.node.get_content() == "My cat is called Miso."
    assert best.node.metadata["speaker"] == "Ann"
    assert 0 <= (other.score or 0) <= (best.score or 0) <= 1
    assert "secret" not in other.node.get_content()


def test_retrieves_asynchronously_the_same(memory: MemOS) -> None:
    retriever = MemOSRetriever(memory, actor="ann")
    found = asyncio.run(retriever.aretrieve("boiler"))
    assert [n.node.node_id for n in found] == [n.node.node_id for n in retriever.retrieve("boiler")]


def test_takes_a_path_and_a_llamaindex_embedding(tmp_path: Path) -> None:
    with MemOS(tmp_path / "store", embed=WordsEmbedding().get_text_embedding_batch) as memory:
        memory.add("The boiler is serviced in October.")
    found = MemOSRetriever(tmp_path / "store", embed=WordsEmbedding()).retrieve("When is the boiler serviced?")
    assert found[0].node.get_content() == "The boiler is serviced in October."


def test_refuses_an_embedder_beside_an_open_engine(memory: MemOS) -> None:
    with pytest.raises(InvalidArgument, match="embed"):
        MemOSRetriever(memory, embed=WordsEmbedding())


def test_importing_the_package_loads_neither_the_framework_nor_torch() -> None:
    code = "import sys, llamaindex_memos; print([m for m in ('torch', 'llama_index', 'langchain') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
