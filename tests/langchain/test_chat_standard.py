"""LangChain's own conformance tests of chat models, as they come: none overridden.

What the suite asks of a model's wits (which tool, which argument, a joke) is known by heart here. All between a message and an answer
is real: template, tokens, keys and values, the grammar of forced calls, what is read out of the answer. That a network without any
wits is held to a schema as well, test_constraint shows.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs langchain-tests")
pytest.importorskip("llguidance", reason="needs the extra local")

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_memos import ChatMemOS
from tests.networks import random_model, reciting_model

JOKE = {"setup": "Why did the cat sit on the computer?", "punchline": "To keep an eye on the mouse."}
CALLS = {
    r"magic_function\(3\)": ("magic_function", {"input": 3}),
    r"magic_function_no_args\(\)": ("magic_function_no_args", {}),
    r"Pirate": ("greeting_generator", {"answer_style": "pirate"}),
    r"weather in San Francisco": ("get_weather", {"location": "San Francisco, CA"}),
    r"'(你好啊集团|こんにちは株式会社)'": ("unicode_customer", {"customer_name": "", "description": "a company"}),
    r"3 \+ 4": ("my_adder_tool", {"a": 3, "b": 4}),
    r"user\nHello!": ("magic_function", {"input": 1}),
}


def by_heart(prompt: str) -> str:
    """The answers that the suite hopes for."""
    asked = prompt.rpartition("<|im_start|>user")[2]
    if "joke about cats" in asked:
        return json.dumps(JOKE)
    if "<|im_start|>tool" not in asked:
        for pattern, (name, arguments) in CALLS.items():
            if (found := re.search(pattern, "user" + asked)) and f'"{name}"' in prompt:
                named = {**arguments, "customer_name": found[1]} if "customer_name" in arguments else arguments
                call = json.dumps({"name": name, "arguments": named}, ensure_ascii=False)
                return f"<tool_call>\n{call}\n</tool_call>"
    return "Hello, and how are you?"


class TestChatUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemOS

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": random_model()}


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemOS

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": reciting_model(by_heart)}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # a ChatMemOS has the weights of one model in memory; another model is another ChatMemOS

    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatMemOS(**self.chat_model_params)
        model.invoke("Hello, I am Ann.")
        answers = list(model.stream("Hello, I am Bob.")) if stream else [model.invoke("Hello, I am Bob.")]
        answer = sum(answers[1:], answers[0])
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 0
        return answer
