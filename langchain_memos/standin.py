"""The demo's chat model when nobody names a real one. It understands nothing."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class StandIn(BaseChatModel):  # type: ignore[misc]  # LangChain is untyped to this checker
    """Repeats the best memory, and says that it does no more."""

    best: str

    @property
    def _llm_type(self) -> str:
        return "stand-in"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if self.best:
            text = f'[stand-in, no language model: it only repeats the best memory] "{self.best}"'
        else:
            text = "[stand-in, no language model: it has no memory to repeat]"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])
