"""MemOSLLM: a model on this machine as a LlamaIndex LLM. Translates; prompts, caches and decoding are the engine's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from os import PathLike
from typing import Any, TypeVar

from llama_index.core.base.llms.generic_utils import (
    astream_chat_response_to_completion_response,
    chat_response_to_completion_response,
    stream_chat_response_to_completion_response,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

from memos_core import (
    AnswerStream,
    Decoding,
    Generation,
    InvalidArgument,
    LocalModel,
    MemOS,
    Reply,
    checked_decoding,
)

from .dialogue import as_prompt, as_response, calls_in, chosen, described, so_far
from .engine import Engine, checked_count, checked_user

_DECODING = ("max_tokens", "temperature", "top_p", "top_k", "seed", "repetition_penalty", "stop", "timeout")
_PER_CALL = (*_DECODING, "schema", "tools", "tool_choice", "parallel_tool_calls", "user_id", "session_id")


F = TypeVar("F", bound=Callable[..., Any])


def _chat(function: F) -> F:
    """LlamaIndex's callbacks and events for a chat, typed."""
    return llm_chat_callback()(function)  # type: ignore[no-any-return]  # LlamaIndex is untyped to this checker


def _completion(function: F) -> F:
    """The same for a completion."""
    return llm_completion_callback()(function)  # type: ignore[no-any-return]  # LlamaIndex is untyped to this checker


class MemOSLLM(FunctionCallingLLM):  # type: ignore[misc]  # LlamaIndex is untyped to this checker
    """A language model on this machine that keeps what it has read: a prompt that begins like an earlier one is not read again.

    It calls functions through the model's own chat template (`metadata.is_function_calling_model` says whether that can), and where a
    call is required, as for `structured_predict`, it is held to the tool's name and schema token by token. System messages become
    one. With a memory, what is recalled for the last question is put before the model, what is kept as keys and values is opened,
    and nothing is written: give the chat engine or agent a `MemOSMemory` instead if it should remember what was said.

    Args:
        model: a `LocalModel`, or the folder or name of one, loaded now. Several may share one. None: the memory's own.
        memory: a `MemOS` that answers with this model, or the path of one, opened at first use. None: a model without memory.
        embed: the embedder, for a path: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        schedule: True to let the memory tick by itself, and keep as keys and values what is asked for often, see `MemOS.start`.
        user_id: whose memories, and whose cache. Without memory it may be nobody.
        session_id: the conversation, of which each turn runs what it adds; for a model with memory.
        namespace: memories at or below it; () is everything that the user may read.
        memory_tokens: of what is recalled for a call.
        max_tokens, temperature, top_p, top_k, seed, repetition_penalty, stop, timeout: as in `Decoding`, whose defaults hold for None.

    `user_id`, `session_id` and those of the last line may be given to `chat`, `complete` and their like for that call; so may `schema`,
    a JSON schema that the answer is held to. Responses say in `raw["usage"]` and `additional_kwargs` what they took, `cached_tokens`
    among it, and in `raw["memories"]` which memories were shown.

    Raises:
        InvalidArgument: for an argument; of a call, if a memory is asked and nobody says whose.
        ModelUnavailable: there is no such model.
        Of a call: ContextTooLong, ModelTimeout, OutOfMemory, StoreClosed, and Unsupported for tools that the chat template cannot show.

    Examples:
        ```python
        from llama_index.core.agent.workflow import FunctionAgent
        from llamaindex_memos import MemOSLLM

        llm = MemOSLLM("Qwen/Qwen3-0.6B", max_tokens=500)
        print(llm.complete("Say hello."))
        agent = FunctionAgent(llm=llm, tools=[add])
        ```
    """

    user_id: str | None = Field(default=None, description="Whose memories, and whose cache.")
    session_id: str | None = Field(default=None, description="Which conversation.")
    namespace: tuple[str, ...] = Field(default=(), description="Where memories are recalled.")
    memory_tokens: int = Field(default=1_500, description="Tokens of what is recalled.")
    max_tokens: int | None = Field(default=None, description="Tokens of an answer, at the most.")
    temperature: float | None = Field(default=None, description="0 takes the likeliest token.")
    top_p: float | None = Field(default=None, description="Share of the likeliest tokens to draw from.")
    top_k: int | None = Field(default=None, description="Number of the likeliest tokens to draw from.")
    seed: int | None = Field(default=None, description="The same draws the same answer.")
    repetition_penalty: float | None = Field(default=None, description="Above 1, repeats become less likely.")
    stop: str | list[str] | None = Field(default=None, description="What ends an answer and is not part of it.")
    timeout: float | None = Field(default=None, description="Seconds that an answer may take.")

    _model: Any = PrivateAttr()
    _engine: Engine | None = PrivateAttr(default=None)

    def __init__(
        self,
        model: LocalModel | str | PathLike[str] | None = None,
        *,
        memory: MemOS | str | PathLike[str] | None = None,
        embed: Any = None,
        schedule: bool = False,
        **fields: Any,
    ) -> None:
        if unknown := sorted(set(fields) - set(type(self).model_fields)):
            raise InvalidArgument(
                f"{unknown[0]}: there is no such argument; there are {', '.join(type(self).model_fields)}"
            )
        if embed is not None and memory is None:
            raise InvalidArgument("embed: it is of a memory that is given by its path")
        if fields.get("user_id") is not None:
            checked_user(fields["user_id"])
        if "memory_tokens" in fields:
            checked_count(fields["memory_tokens"], "memory_tokens")
        namespace = fields.get("namespace", ())
        if isinstance(namespace, str) or not all(isinstance(label, str) and label for label in namespace):
            raise InvalidArgument(f"namespace: a tuple of labels is needed, such as ('app',), not {namespace!r}")
        checked_decoding({k: fields[k] for k in _DECODING if fields.get(k) is not None})
        if model is None and isinstance(memory, MemOS):
            model = memory.model
        model = _loaded(model)
        engine = None if memory is None else Engine(memory, embed, model, schedule)
        if engine is not None and isinstance(memory, MemOS):
            _ = engine.answering
        super().__init__(**fields)
        self._model, self._engine = model, engine

    @classmethod
    def class_name(cls) -> str:
        """The class's name in serialised form."""
        return "MemOSLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What the model is: its real window, and whether its template can show it tools."""
        return LLMMetadata(
            context_window=self._model.window,
            num_output=self.max_tokens or Decoding().max_tokens,
            is_chat_model=True,
            is_function_calling_model=self._model.calls_tools,
            model_name=self._model.name,
        )

    @property
    def model(self) -> Any:
        """The `LocalModel`."""
        return self._model

    def close(self) -> None:
        """Let go of the store if it was opened by its path; the next use opens it again. The model stays."""
        if self._engine is not None:
            self._engine.close()

    # --- chat ----------------------------------------------------------------------------------------------------------

    def _pieces(
        self, turns: list[dict[str, Any]], tools: Any, options: dict[str, Any]
    ) -> Generator[str, None, Generation | Reply]:
        """The answer as the model draws it: the one place in which memory comes to a prompt."""
        user, session = options.pop("user_id"), options.pop("session_id")
        if self._engine is None:
            return self._model.stream(turns, tools=tools or None, tenant=() if user is None else (user,), **options)  # type: ignore[no-any-return]
        return self._engine.answering.stream(
            turns, namespace=self.namespace, actor=checked_user(user), session=session, max_brief_tokens=self.memory_tokens,
            tools=tools or None, **options,
        )  # fmt: skip

    def _told(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> AnswerStream:
        options = self._options(kwargs)
        tools, choice = chosen(options.pop("tool_choice", None), options.pop("tools", None) or ())
        parallel = options.pop("parallel_tool_calls", True)
        if choice is not None:
            options["tool_choice"] = choice
        return AnswerStream(self._pieces(as_prompt(messages), tools, options), tools, parallel=parallel)

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if unknown := set(kwargs) - set(_PER_CALL):
            raise InvalidArgument(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(_PER_CALL)}")
        own = {name: getattr(self, name) for name in _DECODING}
        given = {**own, **{k: v for k, v in kwargs.items() if v is not None}}
        told = {k: v for k, v in given.items() if v is not None}
        return {"user_id": self.user_id, "session_id": self.session_id, **told}

    def _response(self, told: AnswerStream, delta: str | None = None) -> ChatResponse:
        return as_response(told.answer, told.result, self._model.name, delta)

    def _responses(self, told: AnswerStream) -> Iterator[ChatResponse]:
        for text, reasoning in told:
            yield so_far(told.answer, text, reasoning)
        yield self._response(told, delta="")

    @_chat
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """An answer."""
        with self._told(messages, kwargs) as told:
            return self._response(told.read())

    @_chat
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        """An answer as it is drawn."""
        return self._streamed(self._told(messages, kwargs))

    @_chat
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """An answer, drawn in a thread; a task that is cancelled stops the model."""
        told = await asyncio.to_thread(self._told, messages, kwargs)
        return await self._awaited(told)

    @_chat
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        """An answer as it is drawn in a thread."""
        return self._astreamed(await asyncio.to_thread(self._told, messages, kwargs))

    def _streamed(self, told: AnswerStream) -> Generator[ChatResponse, None, None]:
        with told:
            yield from self._responses(told)

    async def _astreamed(self, told: AnswerStream) -> Any:
        responses = self._responses(told)
        try:
            while (response := await asyncio.to_thread(next, responses, None)) is not None:
                yield response
        finally:
            await asyncio.to_thread(told.close)

    async def _awaited(self, told: AnswerStream) -> ChatResponse:
        try:
            return self._response(await asyncio.to_thread(told.read))
        finally:  # who no longer waits leaves no thread behind that goes on answering
            await asyncio.to_thread(told.close)

    # --- completion ----------------------------------------------------------------------------------------------------

    def _completed(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> AnswerStream:
        """A prompt is a person's message, unless it is formatted: then it is the model's own text, and memory has no place in it."""
        if not formatted:
            return self._told([ChatMessage(role=MessageRole.USER, content=self.completion_to_prompt(prompt))], kwargs)
        options = self._options(kwargs)
        user, _ = options.pop("user_id"), options.pop("session_id")
        tenant = () if user is None else (user,)
        return AnswerStream(self._model.stream(self._model.encode(prompt), tenant=tenant, **options))

    @_completion
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """An answer to a text. formatted: the text is a prompt already, in the model's own format."""
        with self._completed(prompt, formatted, kwargs) as told:
            return chat_response_to_completion_response(self._response(told.read()))

    @_completion
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """The same as it is drawn."""
        return stream_chat_response_to_completion_response(self._streamed(self._completed(prompt, formatted, kwargs)))

    @_completion
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete`, in a thread."""
        told = await asyncio.to_thread(self._completed, prompt, formatted, kwargs)
        return chat_response_to_completion_response(await self._awaited(told))

    @_completion
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """`stream_complete`, in a thread."""
        told = await asyncio.to_thread(self._completed, prompt, formatted, kwargs)
        return astream_chat_response_to_completion_response(self._astreamed(told))

    # --- tools ---------------------------------------------------------------------------------------------------------

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        asked = ChatMessage(role=MessageRole.USER, content=user_msg) if isinstance(user_msg, str) else user_msg
        return {
            "messages": [*(chat_history or []), *([asked] if asked is not None else [])],
            "tools": [described(tool) for tool in tools],
            "tool_choice": tool_choice or ("any" if tool_required else None),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of an answer. Raises ValueError if there is none and one was needed."""
        calls = calls_in(response.message)
        if not calls and error_on_no_tool_call:
            raise ValueError(f"Expected at least one tool call, but got {len(calls)} tool calls.")
        return [
            ToolSelection(tool_id=c.tool_call_id or "", tool_name=c.tool_name, tool_kwargs=c.tool_kwargs) for c in calls
        ]


def _loaded(model: Any) -> Any:
    if isinstance(model, str | PathLike) and model != "":
        return LocalModel(str(model))
    if not callable(getattr(model, "stream", None)) or not callable(getattr(model, "prompt", None)):
        raise InvalidArgument(f"model: a LocalModel, or the folder or name of one, is needed, not {model!r:.80}")
    return model
