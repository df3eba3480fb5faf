"""Models that say what they are told to: by completion, by chat, by calls of tools. They keep what they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, MessageRole
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection

CONTEXT = 4_096


def calling(tool: str, content: str | None = None, **arguments: Any) -> ChatMessage:
    """An answer that calls a tool."""
    call = {"id": f"call-{tool}", "name": tool, "arguments": arguments}
    return ChatMessage(role="assistant", content=content, additional_kwargs={"tool_calls": [call]})


class ChatModel(FunctionCallingLLM):
    """Answers with `replies`, one after the other, the last for ever: texts, messages, exceptions to raise, or functions of the prompt."""

    replies: list[Any]
    prompts: list[list[ChatMessage]]
    calls_functions: bool = True
    _at_once: Any = PrivateAttr(default=None)

    def __init__(self, *replies: Any, at_once: Any = None, **fields: Any) -> None:
        super().__init__(replies=list(replies) or ["All right."], prompts=[], **fields)
        self._at_once = at_once

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=CONTEXT,
            is_chat_model=True,
            is_function_calling_model=self.calls_functions,
            model_name="scripted",
        )

    def systems(self, call: int = -1) -> list[str]:
        """What the system messages of a prompt said."""
        return [str(m.content) for m in self.prompts[call] if m.role == MessageRole.SYSTEM]

    def text(self, call: int = -1) -> str:
        """A whole prompt."""
        return "\n".join(map(str, self.prompts[call]))

    def _next(self, messages: Sequence[ChatMessage]) -> ChatMessage:
        self.prompts.append([m.model_copy(deep=True) for m in messages])
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Callable):
            reply = reply(messages)
        if isinstance(reply, Exception):
            raise reply
        return (
            reply.model_copy(deep=True)
            if isinstance(reply, ChatMessage)
            else ChatMessage(role="assistant", content=reply)
        )

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=self._next(messages))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        if self._at_once is not None:
            await self._at_once.wait()
        return self.chat(messages)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        message = self._next(messages)

        def words() -> Any:
            said = ""
            for word in (message.content or "").split(" "):
                delta = word if not said else f" {word}"
                said += delta
                yield ChatResponse(message=ChatMessage(role="assistant", content=said), delta=delta)
            yield ChatResponse(message=message, delta="")

        return words()

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        stream = self.stream_chat(messages)

        async def words() -> Any:
            for response in stream:
                yield response

        return words()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=str(self._next([ChatMessage(role="user", content=prompt)]).content))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self.complete(prompt)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        text = self.complete(prompt).text
        return iter([CompletionResponse(text=text, delta=text)])

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        response = self.complete(prompt)

        async def once() -> Any:
            yield CompletionResponse(text=response.text, delta=response.text)

        return once()

    def _prepare_chat_with_tools(
        self, tools: Any, user_msg: Any = None, chat_history: Any = None, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        return {"messages": [*(chat_history or []), *([user_msg] if user_msg else [])]}

    def get_tool_calls_from_response(self, response: ChatResponse, **kwargs: Any) -> list[ToolSelection]:
        calls = response.message.additional_kwargs.get("tool_calls", [])
        return [ToolSelection(tool_id=c["id"], tool_name=c["name"], tool_kwargs=c["arguments"]) for c in calls]


class CompletionModel(CustomLLM):
    """Completes prompts with one text."""

    reply: str = "All right."
    prompts: list[str]

    def __init__(self, reply: str = "All right.") -> None:
        super().__init__(reply=reply, prompts=[])

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=CONTEXT, model_name="completion")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        return CompletionResponse(text=self.reply)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self.prompts.append(prompt)
        return iter([CompletionResponse(text=self.reply, delta=self.reply)])
