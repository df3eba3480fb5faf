"""LangChain's own conformance tests of chat models, over a network that knows nothing and is held to what is asked of it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs langchain-tests")
pytest.importorskip("llguidance", reason="needs the extra local")

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_memos import ChatMemOS
from tests.networks import random_model


class _Chat:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemOS

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": random_model()}


class TestChatUnit(_Chat, ChatModelUnitTests):
    pass


class TestChat(_Chat, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": random_model(), "temperature": 1.0, "seed": 1, "max_tokens": 600}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False
