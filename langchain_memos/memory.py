"""MemOSMemory: long-term memory as middleware of `create_agent`.

Knows LangChain's hooks and which messages of a run are new; how memories are kept and found is the engine's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AnyMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.types import Command

from memos_core import PUBLIC, InvalidArgument, MemOS, MemOSError

from .messages import appended, as_turns, last_turn, question, said

log = logging.getLogger("langchain_memos")

T = TypeVar("T")

_RUNS = 1000  # under way at once; the brief of one that falls out is recalled again


class MemOSState(AgentState):  # type: ignore[misc]  # LangChain is untyped to this checker
    """What one run, or one thread, has to know. Plain strings, because checkpointers keep them."""

    memos_run: Annotated[str, UntrackedValue, PrivateStateAttr]
    """Names this run, until it is interrupted: its brief, and its session where there is no thread."""
    memos_written: Annotated[str, PrivateStateAttr]
    """Id of the last message of the thread that was written."""


class MemOSMemory(AgentMiddleware):  # type: ignore[misc]  # LangChain is untyped to this checker
    """Gives an agent long-term memory: recalls before the model answers, writes what was said.

    Setup:
        ``pip install 'memos-adapters[offline,langchain]'`` (``[langchain]`` alone if you bring your own embedder).

    Instantiate:
        >>> from langchain_memos import MemOSMemory
        >>> memory = MemOSMemory("memories", user_id="ann")                             # doctest: +SKIP

    Invoke:
        >>> from langchain.agents import create_agent
        >>> agent = create_agent("openai:gpt-5", tools=[], middleware=[memory])         # doctest: +SKIP
        >>> agent.invoke({"messages": "I take my tea with lemon."})                     # doctest: +SKIP
        >>> agent.invoke({"messages": "How do I take my tea?"})                         # doctest: +SKIP

    Async:
        ``await agent.ainvoke(...)``; the engine works in a thread, never on the event loop.

    What is recalled for the last human message is appended to the system message of the model call; it enters neither the
    history nor a checkpoint. What people and the model said is written once: the human message before the model is called, so
    that it stays if the model fails, and the rest after the run. The session is the thread; a run without one is a session of
    its own, and of its input only the last turn is written, what precedes it being history. A message may carry its time in
    `additional_kwargs["timestamp"]`.

    One instance serves any number of users at once; an agent takes one instance.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        user_id: whose memories: a name, or a callable from the run's `Runtime` to one. None: `user_id` of the run's context
            (attribute or key), else `config["configurable"]["user_id"]`; a run with neither is refused.
        namespace: where memories are written, and at or below which they are recalled.
        max_tokens: of what is recalled for a turn.
        on_error: what to do if the memory fails: "warn" logs it and lets the agent go on without, "raise" raises.
        write: False to recall only.

    Raises:
        InvalidArgument: of the constructor, for an argument; of a run, if nobody says who the user is.
    """

    name = "MemOSMemory"
    state_schema = MemOSState

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        user_id: str | Callable[[Any], str] | None = None,
        namespace: Sequence[str] = ("default",),
        max_tokens: int = 1500,
        on_error: Literal["warn", "raise"] = "warn",
        write: bool = True,
    ) -> None:
        super().__init__()
        self.tools: list[Any] = []
        if not isinstance(memory, MemOS | str | os.PathLike) or memory == "":
            raise InvalidArgument(f"memory: a MemOS or the path of one is needed, not {memory!r}")
        if isinstance(memory, MemOS) and embed is not None:
            raise InvalidArgument("embed: the MemOS that was given has its embedder; give a path, or no embed")
        if user_id is not None and not callable(user_id):
            _checked_user(user_id)
        if isinstance(namespace, str) or not namespace or not all(isinstance(n, str) and n for n in namespace):
            raise InvalidArgument(f"namespace: a tuple of labels is needed, such as ('app',), not {namespace!r}")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InvalidArgument(f"max_tokens: a whole number from 1 is needed, not {max_tokens!r}")
        if on_error not in ("warn", "raise"):
            raise InvalidArgument(f"on_error: 'warn' or 'raise' is needed, not {on_error!r}")
        self._path = None if isinstance(memory, MemOS) else memory
        self._opened = memory if isinstance(memory, MemOS) else None
        self._opening = threading.Lock()
        self._embed = embed
        self._user_id = user_id
        self._namespace = tuple(namespace)
        self._max_tokens = max_tokens
        self._on_error = on_error
        self._write = write
        self._briefs: dict[
            str, tuple[str | None, str]
        ] = {}  # by run, while it lasts: state would show them to whoever streams it

    @property
    def memory(self) -> MemOS:
        """The engine, opened now if it was not yet."""
        with self._opening:
            if self._opened is None:
                assert self._path is not None
                # LangChain's Embeddings are objects with a method, the engine's are callables
                self._opened = MemOS(self._path, embed=getattr(self._embed, "embed_documents", self._embed))
            return self._opened

    def close(self) -> None:
        """Let go of the store if it was opened here, by its path; the next use opens it again."""
        with self._opening:
            if self._opened is not None and self._path is not None:
                self._opened.close()
                self._opened = None

    # --- hooks, each twice -------------------------------------------------------------------------------------------

    def before_agent(self, state: MemOSState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Refuse a run of nobody's before it costs anything; give the run a name."""
        self._user(runtime)
        return {"memos_run": _run_name()}

    async def abefore_agent(self, state: MemOSState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """`before_agent`, beside the event loop."""
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> Any:
        """Put what is recalled behind the system message; at the turn's first call, write what it was asked."""
        request, noted = self._remind(request)
        return _noting(handler(request), noted)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> Any:
        """`wrap_model_call`, the engine beside the event loop."""
        request, noted = await asyncio.to_thread(self._remind, request)
        return _noting(await handler(request), noted)

    def after_agent(self, state: MemOSState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Write what is not written yet."""
        self._briefs.pop(state.get("memos_run", ""), None)
        return self._remember(state, self._user(runtime)) or None

    async def aafter_agent(self, state: MemOSState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """`after_agent`, beside the event loop."""
        return await asyncio.to_thread(self.after_agent, state, runtime)

    # --- below the hooks ---------------------------------------------------------------------------------------------

    def _remind(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], dict[str, Any]]:
        """The request with what is recalled for its turn, and what to note in the state."""
        asked = question(request.state["messages"])
        if asked is None:
            return request, {}
        noted: dict[str, Any] = {}
        run = (
            request.state.get("memos_run") or _run_name()
        )  # it has none after a resume: then recalled anew, nothing is stale
        recalled_for, text = self._briefs.get(run, (None, ""))
        if recalled_for != asked.id:
            user = self._user(request.runtime)
            # recalled before it is written: else the best memory of a question is the question
            text = self._attempt("recall", user, lambda: self._recall(said(asked), user, request.messages), "")
            self._briefs[run] = (asked.id, text)
            for past in list(self._briefs)[:-_RUNS]:  # runs that failed never come to an end
                self._briefs.pop(past, None)
            noted = {"memos_run": run, **self._remember(request.state, user)}
        if text:
            request = request.override(system_message=appended(request.system_message, text))
        return request, noted

    def _recall(self, asked: str | None, user: str, messages: Sequence[AnyMessage]) -> str:
        if asked is None:
            return ""
        seen = {(m.id, said(m)) for m in messages}
        return self.memory.brief(
            asked, namespace=self._namespace, actor=user, max_tokens=self._max_tokens,
            leave_out=lambda cube: (cube.origin.message_id, cube.text) in seen,
        ).text  # fmt: skip

    def _remember(self, state: MemOSState, user: str) -> dict[str, Any]:
        """Write the messages that are not written; what to note in the state. A failed write is tried again by the next."""
        new = _unwritten(state)
        if not self._write or not new:
            return {}
        turns = as_turns(new)
        session = str(_configured("thread_id") or state.get("memos_run") or _run_name())

        def add() -> bool:
            if turns:
                self.memory.add(turns, namespace=self._namespace, actor=user, session=session)
            return True

        return {"memos_written": new[-1].id} if self._attempt("write", user, add, False) else {}

    def _attempt(self, verb: str, user: str, work: Callable[[], T], otherwise: T) -> T:
        try:
            return work()
        except Exception as error:  # whatever it is: on_error="warn" promises that the agent goes on
            if self._on_error == "raise":
                raise
            log.warning(
                "memory could not %s for %s, the agent goes on without: %s",
                verb, user, error, exc_info=not isinstance(error, MemOSError),
            )  # fmt: skip
            return otherwise

    def _user(self, runtime: Runtime[Any]) -> str:
        if self._user_id is not None:
            return _checked_user(self._user_id(runtime) if callable(self._user_id) else self._user_id)
        context = runtime.context
        found = context.get("user_id") if isinstance(context, Mapping) else getattr(context, "user_id", None)
        if found is None:
            found = _configured("user_id")
        if found is None:
            raise InvalidArgument(
                "user_id: whose memory is it? Say it by MemOSMemory(..., user_id=...), by a user_id in the run's context, or by "
                'config={"configurable": {"user_id": ...}}'
            )
        return _checked_user(found)


def _checked_user(user: Any) -> str:
    if not isinstance(user, str) or not user.strip() or user == PUBLIC:
        raise InvalidArgument(f"user_id: a non-empty string that names one user is needed, not {user!r}")
    return user


def _run_name() -> str:
    return f"run-{uuid.uuid4()}"


def _configured(name: str) -> Any:
    try:
        return get_config().get("configurable", {}).get(name)
    except RuntimeError:  # called by hand, outside of a run
        return None


def _unwritten(state: MemOSState) -> Sequence[AnyMessage]:
    """The messages after the last written one. If it is not there: of a kept thread all (the engine knows those that it has),
    else the last turn, because a caller who keeps the history himself hands all of it in at each run."""
    messages: Sequence[AnyMessage] = state["messages"]
    written = state.get("memos_written")
    for i in reversed(range(len(messages))):
        if written is not None and messages[i].id == written:
            return messages[i + 1 :]
    kept = _configured("__pregel_checkpointer") is not None  # LangGraph has no public way to ask this
    return messages if kept else last_turn(messages)


def _noting(response: Any, noted: dict[str, Any]) -> Any:
    return ExtendedModelResponse(response, Command(update=noted)) if noted else response
