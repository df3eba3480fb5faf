"""ChatMemOS: a model on this machine as a LangChain chat model. Translates; prompts, caches and decoding are the engine's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from os import PathLike
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.runnables.config import run_in_executor
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import ConfigDict, Field

from memos_core import (
    AnswerStream,
    Generation,
    InvalidArgument,
    LocalModel,
    MemOS,
    Reply,
    Unsupported,
    checked_decoding,
)

from .dialogue import (
    as_chunk,
    as_message,
    as_prompt,
    awhole,
    chosen,
    form_of,
    json_schema_of,
    last_chunks,
    schema_of,
    whole,
)
from .engine import Engine, checked_count, checked_namespace
from .identity import checked_given, checked_user, configured, field_user_of

_DECODING = ("max_tokens", "temperature", "top_p", "top_k", "seed", "repetition_penalty", "timeout")
_PER_CALL = (
    *_DECODING, "tools", "tool_choice", "response_format", "parallel_tool_calls", "strict", "user_id", "session", "model",
    "stream",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call: the turns, the tools that are shown, whose it is, what the answer must be, and how it is drawn."""

    turns: list[dict[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    user: str | None
    session: str | None
    options: dict[str, Any]
    parallel: bool


class ChatMemOS(BaseChatModel):  # type: ignore[misc]  # LangChain is untyped to this checker
    """A language model on this machine that keeps what it has read: a prompt that begins like an earlier one is not read again.

    Setup:
        ``pip install 'memos-adapters[local,langchain]'``

    Instantiate:
        >>> from langchain_memos import ChatMemOS
        >>> model = ChatMemOS(model="Qwen/Qwen3-0.6B", temperature=0.7, max_tokens=500)    # doctest: +SKIP

    Invoke:
        >>> model.invoke("Say hello.")                                                    # doctest: +SKIP
        AIMessage(content='Hello!', ...)

    Stream:
        >>> for chunk in model.stream("Say hello."): print(chunk.text, end="")            # doctest: +SKIP

    Async:
        ``await model.ainvoke(...)``, ``async for chunk in model.astream(...)``; the model works in a thread, and a task that is
        cancelled stops it.

    Tools:
        >>> model.bind_tools([add], tool_choice="any").invoke("2 + 3?").tool_calls        # doctest: +SKIP
        Tools are shown by the model's own chat template. A forced call is held to the tools' names and schemas token by token.

    Structured output:
        >>> model.with_structured_output(Person).invoke("Ann is 30.")                     # doctest: +SKIP
        Every answer is JSON that fits the schema, unless it is cut off by max_tokens.

    With memory:
        >>> model = ChatMemOS(model="Qwen/Qwen3-0.6B", memory="memories", user_id="ann")   # doctest: +SKIP
        What is recalled for the last message is put before the model, what is kept as keys and values is opened, and nothing is
        written: give an agent `MemOSMemory` instead if it should remember what was said. `response_metadata["memories"]` says which
        memories were shown. The thread of a run, or `session`, names the conversation, of which each turn runs what it adds.

    Use in an agent:
        >>> agent = create_agent(model, tools=[add], middleware=[MemOSMemory("memories", user_id="ann")])  # doctest: +SKIP

    Usage:
        ``usage_metadata["input_token_details"]["cache_read"]`` says how many tokens of the prompt were held from earlier calls.

    Args:
        model: a `LocalModel`, or the folder or name of one, loaded now. Several `ChatMemOS` may share one. None: the memory's own.
        memory: a `MemOS`, or the path of one, opened at first use; None for a model without memory.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        schedule: True to let the memory tick by itself, and keep as keys and values what is asked for often, see `MemOS.start`.
        user_id: whose memories, and whose cache: a name, or a callable from the run's `Runtime` (None outside of a graph) to one.
            None: what the run's server, context or configuration says, as in `MemOSMemory`. Without memory it may be nobody. Who
            makes the field configurable (`configurable_fields`) under an id other than "user_id" lets the client choose.
        trust_client_user: whether a run may name somebody else than its server authenticated, as in `MemOSMemory`.
        namespace: memories at or below it; () is everything that the user may read.
        memory_tokens: of what is recalled for a call.
        max_tokens, temperature, top_p, top_k, seed, repetition_penalty: as in `Decoding`, whose defaults hold for None.
        stop: a string or several that end an answer and are not part of it.
        timeout: seconds that an answer may take.
        streaming: whether `invoke` streams too, for callbacks that want tokens.
        max_retries, api_key: LangChain's standard arguments; nothing fails here that would not fail again, and nobody asks for a key.

    `user_id`, `session` and those from `max_tokens` to `timeout` may be given to `invoke` and its like, or by `bind`, for that call.

    Raises:
        InvalidArgument: for an argument; of a call, if a memory is asked and nobody says whose.
        AccessDenied: of a call, if the client names somebody else than whom the server authenticated.
        ModelUnavailable: there is no such model.
        Of a call: ContextTooLong, ModelTimeout, OutOfMemory, StoreClosed, and Unsupported for tools that the chat template cannot show.
    """

    model_config = ConfigDict(extra="forbid")

    model: Any
    engine: Any = Field(default=None, exclude=True, repr=False)
    user_id: Any = None
    trust_client_user: bool = False
    namespace: tuple[str, ...] = ()
    memory_tokens: int = 1500
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    timeout: float | None = None
    streaming: bool | None = None
    max_retries: int | None = None

    def __init__(
        self,
        model: LocalModel | str | PathLike[str] | None = None,
        *,
        memory: MemOS | str | PathLike[str] | None = None,
        embed: Any = None,
        schedule: bool = False,
        **fields: Any,
    ) -> None:
        fields.pop("api_key", None)
        if embed is not None and memory is None:
            raise InvalidArgument("embed: it is of a memory that is given by its path")
        if model is None and isinstance(memory, MemOS):
            model = memory.model
        model = _loaded(model)
        if memory is not None:
            fields["engine"] = Engine(memory, embed, model=model, schedule=schedule)
        checked_given(fields.get("user_id"), fields.get("trust_client_user", False))
        if "namespace" in fields:
            fields["namespace"] = checked_namespace(fields["namespace"], root=True)
        if "memory_tokens" in fields:
            checked_count(fields["memory_tokens"], "memory_tokens")
        checked_decoding({k: fields[k] for k in (*_DECODING, "stop") if fields.get(k) is not None})
        if fields.get("engine") is not None:
            if fields.get("cache"):
                raise InvalidArgument(
                    "cache: answers depend on whose memory is asked, and LangChain's cache does not know it"
                )
            fields["cache"] = False
        super().__init__(model=model, **fields)

    @property
    def memory(self) -> MemOS | None:
        """The engine, opened now if it was not yet; None without memory."""
        return None if self.engine is None else self.engine.memory

    def close(self) -> None:
        """Let go of the store if it was opened here, by its path; the next use opens it again. The model stays."""
        if self.engine is not None:
            self.engine.close()

    # --- answers -------------------------------------------------------------------------------------------------------

    def _pieces(self, asked: _Asked) -> Generator[str, None, Generation | Reply]:
        """The answer as the model draws it: the one place in which memory comes to a prompt."""
        if self.memory is None:
            tenant = () if asked.user is None else (asked.user,)
            return self.model.stream(asked.turns, tools=asked.tools or None, tenant=tenant, **asked.options)  # type: ignore[no-any-return]
        return self.memory.stream(
            asked.turns, namespace=self.namespace, actor=asked.user, session=asked.session, max_brief_tokens=self.memory_tokens,
            tools=asked.tools or None, **asked.options,
        )  # fmt: skip

    def _told(self, messages: Sequence[BaseMessage], stop: Any, kwargs: Mapping[str, Any]) -> AnswerStream:
        asked = self._asked(messages, stop, kwargs)
        return AnswerStream(self._pieces(asked), asked.tools, parallel=asked.parallel)

    def _result(self, told: AnswerStream) -> ChatResult:
        message = as_message(told.answer, told.result, self.model.name)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunks(self, told: AnswerStream) -> Iterator[ChatGenerationChunk]:
        for text, reasoning in told:
            yield ChatGenerationChunk(message=as_chunk(text, reasoning))
        for message in last_chunks(told.answer, told.result, self.model.name):
            yield ChatGenerationChunk(message=message)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self._told(messages, stop, kwargs) as told:
            return self._result(told.read())

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        told = await run_in_executor(None, self._told, messages, stop, kwargs)
        try:
            return self._result(await run_in_executor(None, told.read))
        finally:  # a task that is cancelled leaves no thread behind that goes on answering
            await run_in_executor(None, told.close)

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        with self._told(messages, stop, kwargs) as told:
            for chunk in self._chunks(told):
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.message.content, chunk=chunk)
                yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        told = await run_in_executor(None, self._told, messages, stop, kwargs)
        chunks = self._chunks(told)
        try:
            while (chunk := await run_in_executor(None, next, chunks, None)) is not None:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.message.content, chunk=chunk)
                yield chunk
        finally:
            await run_in_executor(None, told.close)

    # --- what is asked -------------------------------------------------------------------------------------------------

    def _asked(self, messages: Sequence[BaseMessage], stop: Any, kwargs: Mapping[str, Any]) -> _Asked:
        if unknown := set(kwargs) - set(_PER_CALL):
            raise InvalidArgument(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(_PER_CALL)}")
        if kwargs.get("model", self.model.name) != self.model.name:
            raise InvalidArgument(
                f"model: {self.model.name} is loaded; for {kwargs['model']!r:.80} make a ChatMemOS of its own"
            )
        tools, choice = chosen(kwargs.get("tool_choice"), kwargs.get("tools") or ())
        schema = schema_of(kwargs.get("response_format"))
        options = {k: kwargs.get(k, getattr(self, k)) for k in _DECODING}
        options |= {"stop": self.stop if stop is None else stop, "tool_choice": choice, "schema": schema}
        turns = as_prompt(messages)
        if schema is not None and schema.get("properties"):
            turns.append({"role": "system", "content": form_of(schema)})
        user = self._user(kwargs.get("user_id"))
        wanted = {k: v for k, v in options.items() if v is not None}
        session = kwargs.get("session") or configured("thread_id")
        return _Asked(
            turns, tools, user, session and str(session), wanted, kwargs.get("parallel_tool_calls") is not False
        )

    def _user(self, given: Any) -> str | None:
        if given is not None:
            return checked_user(given)
        try:
            return field_user_of(self.user_id, self.trust_client_user)
        except InvalidArgument:
            if self.engine is None and self.user_id is None:
                return None  # a model without memory answers whoever asks
            raise

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model with tools: LangChain tools, functions, pydantic classes, TypedDicts or schemas.

        tool_choice: "auto" or None leaves it to the model, "any" (or "required", True) makes the answer one call, a tool's name
            (or OpenAI's or Anthropic's object) one call of that tool, "none" (or False) shows no tools.
        strict: forced calls always fit the schemas; others never need to.
        parallel_tool_calls: False keeps the first call of an answer.

        Raises Unsupported for a model whose chat template shows no tools, InvalidArgument for a choice that is none of them.
        """
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        if schemas and not self.model.calls_tools:
            raise Unsupported(f"{self.model.name}: its chat template knows no tools, so the model would never see them")
        chosen(tool_choice, schemas)
        more = {"tool_choice": tool_choice, "parallel_tool_calls": parallel_tool_calls}
        return self.bind(tools=schemas, **{k: v for k, v in more.items() if v is not None}, **kwargs)

    def with_structured_output(
        self,
        schema: Mapping[str, Any] | type,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model with answers as objects: of a pydantic class, or dicts for a TypedDict or JSON schema.

        method: "json_schema" shows the model the schema and holds its answer to it, "function_calling" does the same by a forced
            call, "json_mode" holds it to any JSON object, and your prompt says which.
        include_raw: give `{"raw", "parsed", "parsing_error"}` and raise nothing for an answer that cannot be parsed.
        strict: the first two methods are strict always.
        kwargs: further arguments of each call, see `bind`.

        Raises InvalidArgument for another method; of a call, OutputParserException for an answer that was cut off by `max_tokens`.
        """
        of_class = isinstance(schema, type) and is_basemodel_subclass(schema)
        traced = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}, **kwargs}
        if method == "function_calling":
            name = convert_to_openai_tool(schema)["function"]["name"]
            model = self.bind_tools([schema], tool_choice=name, **traced)
            parser: Any = (
                PydanticToolsParser(tools=[schema], first_tool_only=True)
                if of_class
                else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
            )
        elif method in ("json_schema", "json_mode"):
            form = {"type": "json_object"} if method == "json_mode" else {
                "type": "json_schema", "json_schema": {"schema": json_schema_of(schema)},
            }  # fmt: skip
            model = self.bind(response_format=form, **traced)
            parser = PydanticOutputParser(pydantic_object=schema) if of_class else JsonOutputParser()
        else:
            raise InvalidArgument(
                f"method: 'json_schema', 'function_calling' or 'json_mode' is needed, not {method!r:.80}"
            )
        parser = RunnableGenerator(whole, awhole) | parser
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")

    # --- what it is ----------------------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "memos"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        told = {k: getattr(self, k) for k in (*_DECODING, "stop") if getattr(self, k) is not None}
        return {"model_name": self.model.name, "fingerprint": self.model.fingerprint, **told}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        own = [self.stop] if isinstance(self.stop, str) else self.stop
        found = super()._get_ls_params(stop=stop if stop is not None else own, **kwargs)
        found["ls_model_name"] = kwargs.get("model", self.model.name)
        return found

    def _resolve_model_profile(self) -> Any:
        tools = self.model.calls_tools
        return {
            "max_input_tokens": self.model.window, "max_output_tokens": self.model.window, "text_inputs": True, "text_outputs": True,
            "tool_calling": tools, "tool_choice": tools, "structured_output": True,
        }  # fmt: skip

    def get_token_ids(self, text: str) -> list[int]:
        """The model's tokens of a text."""
        return list(self.model.encode(text).ids) if text else []

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the prompt that messages and tools become, the beginning of the answer included."""
        shown = [convert_to_openai_tool(tool) for tool in tools or ()]
        return len(self.model.prompt(as_prompt(messages), tools=shown).ids)


def _loaded(model: Any) -> Any:
    if isinstance(model, str | PathLike) and model != "":
        return LocalModel(str(model))
    if not callable(getattr(model, "stream", None)) or not callable(getattr(model, "prompt", None)):
        raise InvalidArgument(f"model: a LocalModel, or the folder or name of one, is needed, not {model!r:.80}")
    return model
