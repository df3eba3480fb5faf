"""MemOSMemory: long-term memory as middleware of `create_agent`.

Knows LangChain's hooks and which messages of a run are new; how memories are kept and found is the engine's.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.runtime import Runtime
from langgraph.types import Command, TracePolicy

from memos_core import MemOS

from .engine import Engine, OnEngine, OnError, checked_count, checked_namespace
from .identity import User, checked_given, configured, user_of
from .messages import (
    appended,
    fingerprints,
    is_summary,
    is_unmarked,
    last_turn,
    messages_in,
    placed_turns,
    question,
    said,
    seen_in,
    session_of,
)
from .tools import TOOLS, tools_on

_RUNS = 1000  # under way at once; the brief of one that falls out is recalled again


class MemOSState(AgentState):  # type: ignore[misc]  # LangChain is untyped to this checker
    """What one run, or one thread, has to know. Plain strings, because checkpointers keep them."""

    memos_run: Annotated[str, UntrackedValue, PrivateStateAttr]
    """Names this run, until it is interrupted: under it lies its brief."""
    memos_asked: Annotated[str, PrivateStateAttr]
    """What the turn under way was asked, for when a summary takes its place; empty between turns."""
    memos_answer: Annotated[str, PrivateStateAttr]
    """Id of the call by which the model gave its structured answer last."""
    memos_written: Annotated[list[str], PrivateStateAttr]
    """Fingerprints of the thread's messages that need not be written any more."""


@dataclass(slots=True)
class _Run:
    """A run under way."""

    asked: str | None = None
    """The question's id, or its words if it has none."""
    words: str = ""
    """The question's words."""
    brief: str = ""
    """What was recalled for it."""
    session: str | None = None
    """Where its messages are written."""
    heard: tuple[AIMessage, ...] = ()
    """What the model said in it, call by call."""


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

    Messages may come without ids, as text, tuples or dictionaries. A message of a thread that comes again under its id with other
    words is a new version of its memory. A message that is removed from a thread (`RemoveMessage`) stays remembered, because
    summaries and trimming remove messages too; `MemOS.delete` and `MemOS.forget` make forget. A structured answer is remembered as
    JSON. What other middleware puts beside the model's answers (notices of limits, refusals) is not something that the model
    said, and is not written.

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
        self._runs: dict[str, _Run] = {}

    # --- hooks, each twice -------------------------------------------------------------------------------------------

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> Any:
        """Put what is recalled behind the system message; at the turn's first call, write what it was asked."""
        request, run, noted = self._remind(request)
        return _noting(handler(request), run, noted)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> Any:
        """`wrap_model_call`, the engine beside the event loop."""
        request, run, noted = await asyncio.to_thread(self._remind, request)
        return _noting(await handler(request), run, noted)

    def after_agent(self, state: MemOSState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Write what is not written yet."""
        run = self._runs.pop(state.get("memos_run", ""), None) or _Run()
        user = user_of(self._user_id, runtime)
        messages = messages_in(state["messages"])
        noted = self._remember(state, _without_notices(messages, run.heard), run, user, runtime)
        return noted | ({"memos_asked": ""} if state.get("memos_asked") else {}) or None

    async def aafter_agent(self, state: MemOSState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """`after_agent`, beside the event loop."""
        return await asyncio.to_thread(self.after_agent, state, runtime)

    # --- below the hooks ---------------------------------------------------------------------------------------------

    def _remind(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], _Run, dict[str, Any]]:
        """The request with what is recalled for its turn, the run, and what to note in the state."""
        state, messages = request.state, messages_in(request.state["messages"])
        # it has no name after a resume: then recalled anew, nothing is stale
        name = state.get("memos_run") or _run_name()
        run, noted = self._runs.setdefault(name, _Run()), {}
        for past in list(self._runs)[:-_RUNS]:  # runs that failed never come to an end
            self._runs.pop(past, None)
        question_now = question(messages)
        # nobody asked, or a summary stands for it
        before = run.words or state.get("memos_asked")
        words = (before if question_now is None else said(question_now)) or ""
        asked = (question_now.id if question_now is not None else run.asked) or words or None
        if run.asked != asked:
            user = user_of(self._user_id, request.runtime)
            run.session = session_of(messages, configured("thread_id"), name)
            # recalled before it is written: else the best memory of a question is the question
            run.brief = self._recall(words, user, [*messages_in(request.messages), HumanMessage(words)])
            run.asked, run.words = asked, words
            noted = {"memos_run": name, "memos_asked": words}
            noted |= self._remember(state, messages, run, user, request.runtime)
        elif _lost(messages, run.heard):
            noted = self._remember(state, messages, run, user_of(self._user_id, request.runtime), request.runtime)
        if not state.get("memos_run"):
            noted["memos_run"] = name
        if run.brief:
            request = request.override(system_message=appended(request.system_message, run.brief))
        return request, run, noted

    def _recall(self, asked: str, user: str, messages: Sequence[AnyMessage]) -> str:
        if not asked:
            return ""

        def recall() -> str:
            return self.memory.brief(
                asked, namespace=self._namespace, actor=user, max_tokens=self._max_tokens, leave_out=seen_in(messages)
            ).text

        return self._engine.attempt("recall", user, recall, "")

    def _remember(
        self, state: MemOSState, messages: Sequence[AnyMessage], run: _Run, user: str, runtime: Runtime[Any]
    ) -> dict[str, Any]:
        """Write the messages that are not written; what to note in the state. A failed write is tried again by the next."""
        if not self._write:
            return {}
        new, prints = _unwritten(state, [*_lost(messages, run.heard), *messages], runtime)
        session = run.session or session_of(messages, configured("thread_id"), state.get("memos_run"))

        def add() -> bool:
            if new:
                self.memory.add(new, namespace=self._namespace, actor=user, session=session)
            return True

        if prints == state.get("memos_written") or not self._engine.attempt("write", user, add, False):
            return {}
        return {"memos_written": prints}


def _run_name() -> str:
    return f"run-{uuid.uuid4()}"


def _unwritten(
    state: MemOSState, messages: Sequence[AnyMessage], runtime: Runtime[Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The turns to write, and the fingerprints of all. What is not written, or says something else since: of a kept thread in which
    nothing is marked as written all (the engine knows what it has), else the last turn, because a caller who keeps the history
    himself hands all of it in at each run."""
    answers = [state.get("memos_answer") or ""]
    placed = list(placed_turns(messages, answers))
    prints = list(fingerprints(messages, answers))
    written = state.get("memos_written")
    if written is not None:
        known = set(written)
        new = [turn for (_, turn), names in zip(placed, prints, strict=True) if known.isdisjoint(names)]
    elif _is_kept(runtime):
        new = [turn for _, turn in placed]
    else:
        last = {id(message) for message in last_turn(messages)}
        new = [turn for message, turn in placed if id(message) in last]
    return new, [by_id or by_place for by_id, by_place in prints]


def _lost(messages: Sequence[AnyMessage], heard: Sequence[AIMessage]) -> list[AIMessage]:
    """What the model said in this run and a summary stands for, which nobody has written."""
    if not any(map(is_summary, messages)):
        return []
    there = {m.id for m in messages}
    return [m for m in heard if m.id not in there]


def _without_notices(messages: Sequence[AnyMessage], heard: Sequence[AIMessage]) -> list[AnyMessage]:
    """The messages of a run at its end, without what was put beside the model's answers. It is known by where it stands: behind the
    question, unmarked, and from none of the run's model calls, whose last answer is there as well (a middleware that rewrites
    an answer puts another message in its place). Where the model was not called at all, whatever answered in its place is the answer."""
    if not heard:
        return list(messages)
    asked = question(messages)
    start = next((i for i, m in enumerate(messages) if m is asked), 0)
    ids = {m.id for m in heard}
    is_rewritten = heard[-1].id not in {m.id for m in messages}
    return [
        m for i, m in enumerate(messages)
        if i < start or not is_unmarked(m) or m.id in ids or is_rewritten
    ]  # fmt: skip


def _is_kept(runtime: Runtime[Any]) -> bool:
    """Whether a checkpointer keeps this agent's messages from run to run.

    LangGraph has no public way to ask: the thread's id in `execution_info` and in the configuration is there without a
    checkpointer too. Where the key that tells is gone, a thread is taken for one that is not kept, and loses nothing but what was
    said before its memory was switched on. An agent within another graph is handed the messages by that one, as by a caller.
    """
    place = getattr(getattr(runtime, "execution_info", None), "checkpoint_ns", "")  # none if a hook is called by hand
    return "|" not in place and configured("__pregel_checkpointer") is not None


def _noting(response: Any, run: _Run, noted: dict[str, Any]) -> Any:
    """The response with what to note in the state; the run hears what the model said."""
    result = getattr(response, "result", ())
    run.heard += tuple(m for m in result if isinstance(m, AIMessage))
    if getattr(response, "structured_response", None) is not None:
        for confirmation in (m for m in result if isinstance(m, ToolMessage)):
            noted["memos_answer"] = confirmation.tool_call_id
    return ExtendedModelResponse(response, Command(update=noted)) if noted else response
