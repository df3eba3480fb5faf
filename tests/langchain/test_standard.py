"""LangChain's own conformance tests of each kind of part, as they come: none overridden, none left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs langchain-tests")

from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    ToolsIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests, ToolsUnitTests

from langchain_memos import MemOSEmbeddings, MemOSRetriever, MemOSVectorStore, create_memos_tools
from memos_core import MemOS
from tests.words import WordsEmbedder

SAID = ["I take my tea with lemon.", "My train leaves at nine.", "Pixel is my cat.", "I swim on Mondays."]


class _Filled:
    """A store with a few memories of ann's, for each test."""

    @pytest.fixture(autouse=True)
    def _filled(self, memory: MemOS) -> None:
        self.memory = memory
        self.ids = [memory.add(text, actor="ann")[0].id for text in SAID]


class TestRetriever(_Filled, RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return MemOSRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.memory, "user_id": "ann"}

    @property
    def retriever_query_example(self) -> str:
        return "How do I take my tea?"


class _Tool(_Filled):
    @property
    def tool_constructor(self) -> BaseTool:
        [tool] = create_memos_tools(self.memory, user_id="ann", names=[self.name], on_error="raise")
        return tool


class _SearchMemory(_Tool):
    name = "search_memory"

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "tea", "k": 2}


class _Remember(_Tool):
    name = "remember"

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"text": "Ann's sister is allergic to walnuts."}


class _Forget(_Tool):
    name = "forget"

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"id": self.ids[0]}


class TestSearchMemoryUnit(_SearchMemory, ToolsUnitTests): ...


class TestSearchMemory(_SearchMemory, ToolsIntegrationTests): ...


class TestRememberUnit(_Remember, ToolsUnitTests): ...


class TestRemember(_Remember, ToolsIntegrationTests): ...


class TestForgetUnit(_Forget, ToolsUnitTests): ...


class TestForget(_Forget, ToolsIntegrationTests): ...


class _Embeddings:
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return MemOSEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"embed": WordsEmbedder()}


class TestEmbeddingsUnit(_Embeddings, EmbeddingsUnitTests): ...


class TestEmbeddings(_Embeddings, EmbeddingsIntegrationTests): ...


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        store = MemOSVectorStore(tmp_path / "store", embed=self.get_embeddings(), user_id="ann")
        yield store
        store.close()
