"""MemOSMemory: long-term memory as middleware of `create_agent`.

Knows LangChain's hooks and which messages of a run are new; how memories are kept and found is the engine's.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

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
from langgraph.runtime import Runtime
from langgraph.types import Command, TracePolicy

from memos_core import MemOS

from .engine import Engine, OnEngine, OnError, checked_count, checked_namespace
from .identity import User, checked_given, configured, user_of
from .messages import appended, as_turns, last_turn, question, said, seen_in, session_of
from .tools import TOOLS, tools_on

_RUNS = 1000  # under way at once; the brief of one that falls out is recalled again


class MemOSState(AgentState):  # type: ignore[misc]  # LangChain is untyped to this checker
    """What one run, or one thread, has to know. Plain strings, because checkpointers keep them."""

    memos_run: Annotated[str, UntrackedValue, PrivateStateAttr]
    """Names this run, until it is interrupted: under it lies its brief."""
    memos_written: Annotated[str, PrivateStateAttr]
    """Id of the last message of the thread that was written."""


class MemOSMemory(OnEngine, AgentMiddleware):  # type: ignore[misc]  # LangChain is untyped to this checker
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

    One instance serves any number of users and agents at once; an agent takes one instance.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        user_id: whose memories: a name, or a callable from the run's `Runtime` to one. None: whom LangGraph's server authenticated;
            where it authenticated nobody, `user_id` of the run's context (attribute or key), else
            `config["configurable"]["user_id"]`. A run with none of them is refused, and so is one that names somebody else than
            the server does. Where some may act for others, a callable says who:
            ``lambda runtime: runtime.context.user_id if is_admin(runtime.server_info.user) else runtime.server_info.user.identity``.
        trust_client_user: True to believe a run that names somebody else than the server does: for clients that are programs of
            your own.
        namespace: where memories are written, and at or below which they are recalled.
        max_tokens: of what is recalled for a turn.
        on_error: what to do if the memory fails: "warn" logs it and lets the agent go on without, "raise" raises.
        write: False to recall only.
        schedule: True to let the memory tick by itself, off the way of requests, see `MemOS.start`.
        tools: True to offer the agent the tools of `create_memos_tools` as well, or the names of some of them.
        trace_policy: what of the hooks' inputs and outputs goes into traces, see LangChain's `AgentMiddleware.trace_policy`.
            The model's own span shows its prompt, with what was recalled, in any case.

    Raises:
        InvalidArgument: of the constructor, for an argument; of a run, if nobody says who the user is.
        AccessDenied: of a run, if its client names somebody else than whom the server authenticated.
        StoreClosed: of a run, if the `MemOS` was closed.
    """

    name = "MemOSMemory"
    state_schema = MemOSState

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        user_id: User = None,
        trust_client_user: bool = False,
        namespace: Sequence[str] = ("default",),
        max_tokens: int = 1500,
        on_error: OnError = "warn",
        write: bool = True,
        schedule: bool = False,
        tools: bool | Sequence[str] = False,
        trace_policy: TracePolicy | None = None,
    ) -> None:
        super().__init__()
        self._engine = Engine(memory, embed, on_error=on_error, schedule=schedule)
        self._user_id = checked_given(user_id, trust_client_user)
        self._namespace = checked_namespace(namespace)
        self._max_tokens = checked_count(max_tokens, "max_tokens")
        self._write = write
        names = TOOLS if tools is True else tools or ()
        self.tools: list[Any] = tools_on(self._engine, user_id=self._user_id, namespace=self._namespace, names=names)
        self.trace_policy = trace_policy
        # by run, while it lasts: state would show them to whoever streams it
        self._briefs: dict[str, tuple[str | None, str]] = {}

    # --- hooks, each twice -------------------------------------------------------------------------------------------

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
        return self._remember(state, user_of(self._user_id, runtime), runtime) or None

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
        # it has none after a resume: then recalled anew, nothing is stale
        run = request.state.get("memos_run") or _run_name()
        recalled_for, text = self._briefs.get(run, (None, ""))
        if recalled_for != asked.id:
            user = user_of(self._user_id, request.runtime)
            # recalled before it is written: else the best memory of a question is the question
            text = self._recall(said(asked), user, request.messages)
            self._briefs[run] = (asked.id, text)
            for past in list(self._briefs)[:-_RUNS]:  # runs that failed never come to an end
                self._briefs.pop(past, None)
            noted = {"memos_run": run, **self._remember(request.state, user, request.runtime)}
        if text:
            request = request.override(system_message=appended(request.system_message, text))
        return request, noted

    def _recall(self, asked: str | None, user: str, messages: Sequence[AnyMessage]) -> str:
        if asked is None:
            return ""

        def recall() -> str:
            return self.memory.brief(
                asked, namespace=self._namespace, actor=user, max_tokens=self._max_tokens, leave_out=seen_in(messages)
            ).text

        return self._engine.attempt("recall", user, recall, "")

    def _remember(self, state: MemOSState, user: str, runtime: Runtime[Any]) -> dict[str, Any]:
        """Write the messages that are not written; what to note in the state. A failed write is tried again by the next."""
        new = _unwritten(state, runtime)
        if not self._write or not new:
            return {}
        turns = as_turns(new)
        session = session_of(state["messages"], configured("thread_id"), state.get("memos_run"))

        def add() -> bool:
            if turns:
                self.memory.add(turns, namespace=self._namespace, actor=user, session=session)
            return True

        return {"memos_written": new[-1].id} if self._engine.attempt("write", user, add, False) else {}


def _run_name() -> str:
    return f"run-{uuid.uuid4()}"


def _unwritten(state: MemOSState, runtime: Runtime[Any]) -> Sequence[AnyMessage]:
    """The messages after the last written one. Where none is marked as written: of a kept thread all (the engine knows those
    that it has), else the last turn, because a caller who keeps the history himself hands all of it in at each run."""
    messages: Sequence[AnyMessage] = state["messages"]
    written = state.get("memos_written")
    for i in reversed(range(len(messages))):
        if written is not None and messages[i].id == written:
            return messages[i + 1 :]
    if written is not None:  # it was shortened from the front, as summaries do: what is left came later
        return messages
    return messages if _is_kept(runtime) else last_turn(messages)


def _is_kept(runtime: Runtime[Any]) -> bool:
    """Whether a checkpointer keeps this agent's messages from run to run.

    LangGraph has no public way to ask: the thread's id in `execution_info` and in the configuration is there without a
    checkpointer too. Where the key that tells is gone, a thread is taken for one that is not kept, and loses nothing but what was
    said before its memory was switched on. An agent within another graph is handed the messages by that one, as by a caller.
    """
    place = getattr(getattr(runtime, "execution_info", None), "checkpoint_ns", "")  # none if a hook is called by hand
    return "|" not in place and configured("__pregel_checkpointer") is not None


def _noting(response: Any, noted: dict[str, Any]) -> Any:
    return ExtendedModelResponse(response, Command(update=noted)) if noted else response
