"""MemOSEmbeddings beyond LangChain's own tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="needs the extra langchain")

from langchain_core.vectorstores import InMemoryVectorStore

from langchain_memos import MemOSEmbeddings, MemOSRetriever
from memos_core import EmbedderFailed, InvalidArgument
from tests.words import WordsEmbedder


def test_the_vectors_are_the_embedders_as_python_floats(embed: WordsEmbedder) -> None:
    embeddings = MemOSEmbeddings(embed)
    found = embeddings.embed_documents(["tea", "coffee"])
    assert found == embed(["tea", "coffee"]).tolist()
    assert {type(x) for vector in found for x in vector} == {float}
    assert embeddings.embed_query("tea") == found[0]


def test_nothing_is_embedded_of_no_texts(embed: WordsEmbedder) -> None:
    assert MemOSEmbeddings(embed).embed_documents([]) == []
    assert embed.calls == 0


def test_it_serves_langchains_stores_and_comes_back_into_the_engine(embed: WordsEmbedder, tmp_path: Path) -> None:
    store = InMemoryVectorStore(MemOSEmbeddings(embed))
    store.add_texts(["tea with lemon", "a train at nine"])
    assert store.similarity_search("which tea", k=1)[0].page_content == "tea with lemon"
    retriever = MemOSRetriever(tmp_path / "store", embed=MemOSEmbeddings(embed), user_id="ann")
    retriever.memory.add("tea with lemon", actor="ann")
    assert [d.page_content for d in retriever.invoke("tea")] == ["tea with lemon"]
    retriever.close()


def test_making_one_loads_no_model() -> None:
    code = (
        "import sys; from langchain_memos import MemOSEmbeddings; MemOSEmbeddings(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("wrong", [5, object(), ["model"]])
def test_what_embeds_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^embed:"):
        MemOSEmbeddings(wrong)


def test_an_embedder_that_loses_texts_is_named() -> None:
    with pytest.raises(EmbedderFailed, match="1 vectors came of 2 texts"):
        MemOSEmbeddings(lambda texts: [[1.0]]).embed_documents(["a", "b"])
