"""Memory as nodes of any LangGraph graph: one recalls before the model answers, one writes what was said.

Knows a graph's state by its keys; whether it is a dictionary, a dataclass or a pydantic model does not matter.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda

from memos_core import Brief, InvalidArgument, MemOS

from .documents import as_document
from .engine import Engine, OnEngine, OnError, checked_count, checked_namespace
from .identity import User, checked_given, configured, user_of
from .messages import as_turns, last_turn, messages_in, question, said, seen_in, session_of


class _Node(OnEngine, RunnableLambda):  # type: ignore[misc]  # LangChain is untyped to this checker
    """A node for sync and async graphs; the engine never works on the event loop."""

    def __init__(
        self,
        work: Callable[[Any, RunnableConfig], dict[str, Any]],
        engine: Engine,
        user_id: User,
        keys: Mapping[str, str | None],
    ) -> None:
        for argument, key in keys.items():
            if key is not None and (not isinstance(key, str) or not key):
                raise InvalidArgument(f"{argument}: the name of a key of the graph's state is needed, not {key!r}")
        self._engine = engine
        self._user_id = user_id

        async def beside(state: Any, config: RunnableConfig) -> dict[str, Any]:
            return await asyncio.to_thread(work, state, config)

        super().__init__(work, beside, name=type(self).__name__)


class MemOSRecallNode(_Node):
    """Puts what is remembered about the turn's question under a key of the graph's state, as text for a prompt.

    Setup:
        ``pip install 'memos-adapters[offline,langchain]'``

    Instantiate:
        >>> from langchain_memos import MemOSRecallNode, MemOSWriteNode
        >>> recall, write = MemOSRecallNode("memories"), MemOSWriteNode("memories")    # doctest: +SKIP

    Use in a graph:
        >>> class State(MessagesState):
        ...     memory: str
        >>> graph = StateGraph(State)                                                   # doctest: +SKIP
        >>> graph.add_node("recall", recall)                                            # doctest: +SKIP
        >>> graph.add_node("answer", answer)  # puts state["memory"] into its prompt      doctest: +SKIP
        >>> graph.add_node("write", write)                                              # doctest: +SKIP

    Invoke:
        >>> graph.compile().invoke({"messages": "..."}, {"configurable": {"user_id": "ann"}})   # doctest: +SKIP

    Async:
        ``await graph.compile().ainvoke(...)``; the engine works in a thread.

    The key always gets a value, "" if nothing is remembered: what was recalled for the turn before does not stay. Unlike what
    `MemOSMemory` recalls, it is part of the state, and so of the checkpoints and of what is streamed.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        user_id: whose memories, as in `MemOSMemory`: a name, a callable from the `Runtime` to one, or None for the run's.
        trust_client_user: whether a run may name somebody else than its server authenticated, as in `MemOSMemory`.
        namespace: at or below which is recalled; () is everything that the user may read.
        max_tokens: of the text.
        messages_key: where the question is: a list of messages, of which the last one of a person counts, one message, or text.
        memory_key: where the text goes.
        documents_key: where the memories in it go as a list of `Document`, if anywhere.
        on_error: what to do if the memory fails: "warn" logs it and recalls nothing, "raise" raises.

    Raises:
        InvalidArgument: of the constructor, for an argument; of a run, if nobody says who the user is.
        AccessDenied: of a run, if its client names somebody else than whom the server authenticated.
        StoreClosed: of a run, if the `MemOS` was closed.
    """

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        user_id: User = None,
        trust_client_user: bool = False,
        namespace: Sequence[str] = ("default",),
        max_tokens: int = 1500,
        messages_key: str = "messages",
        memory_key: str = "memory",
        documents_key: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        self._namespace = checked_namespace(namespace, root=True)
        self._max_tokens = checked_count(max_tokens, "max_tokens")
        self._keys = (messages_key, memory_key, documents_key)
        super().__init__(
            self._recall, Engine(memory, embed, on_error=on_error), checked_given(user_id, trust_client_user),
            {"messages_key": messages_key, "memory_key": memory_key, "documents_key": documents_key},
        )  # fmt: skip

    def _recall(self, state: Any, config: RunnableConfig) -> dict[str, Any]:
        user = user_of(self._user_id, config=config)
        source, memory_key, documents_key = self._keys
        messages = messages_in(_value(state, source))
        asked = question(messages)
        words = None if asked is None else said(asked)

        def recall() -> Brief:
            assert words is not None
            return self.memory.brief(
                words, namespace=self._namespace, actor=user, max_tokens=self._max_tokens, leave_out=seen_in(messages)
            )

        nothing = Brief("", (), 0)
        brief = nothing if words is None else self._engine.attempt("recall", user, recall, nothing)
        update: dict[str, Any] = {memory_key: brief.text}
        if documents_key is not None:
            update[documents_key] = [as_document(cube) for cube in brief.cubes]
        return update


class MemOSWriteNode(_Node):
    """Writes the turn that a graph's state holds: from the last message of a person on. Changes nothing in the state.

    Setup, Instantiate, Use in a graph, Async: see `MemOSRecallNode`. It belongs where each turn passes, behind the answer; it may
    stand in several places: a message is written once, known by its id, or by its place in the thread. A run without a thread is
    a session of its own.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: LangChain `Embeddings`, or whatever `MemOS` takes.
        user_id: whose memories, as in `MemOSMemory`: a name, a callable from the `Runtime` to one, or None for the run's.
        trust_client_user: whether a run may name somebody else than its server authenticated, as in `MemOSMemory`.
        namespace: where it is written.
        messages_key: where the turn is: a list of messages, one message, or text, which is taken for a person's.
        answer_key: where the answer is, a message or text, if it is not among the messages.
        on_error: what to do if the memory fails: "warn" logs it and lets the graph go on, "raise" raises.

    Raises:
        InvalidArgument: of the constructor, for an argument; of a run, if nobody says who the user is.
        AccessDenied: of a run, if its client names somebody else than whom the server authenticated.
        StoreClosed: of a run, if the `MemOS` was closed.
    """

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        user_id: User = None,
        trust_client_user: bool = False,
        namespace: Sequence[str] = ("default",),
        messages_key: str = "messages",
        answer_key: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        self._namespace = checked_namespace(namespace)
        self._keys = (messages_key, answer_key)
        super().__init__(
            self._write, Engine(memory, embed, on_error=on_error), checked_given(user_id, trust_client_user),
            {"messages_key": messages_key, "answer_key": answer_key},
        )  # fmt: skip

    def _write(self, state: Any, config: RunnableConfig) -> dict[str, Any]:
        user = user_of(self._user_id, config=config)
        messages = messages_in(_value(state, self._keys[0]))
        new: list[BaseMessage] = [*last_turn(messages), *_answer(state, self._keys[1])]
        turns = as_turns(new)
        if turns:
            session = session_of(new, configured("thread_id", config))

            def add() -> None:
                self.memory.add(turns, namespace=self._namespace, actor=user, session=session)

            self._engine.attempt("write", user, add, None)
        return {}


def _answer(state: Any, key: str | None) -> list[BaseMessage]:
    """What a key that is there for answers holds: bare text is the model's."""
    value = None if key is None else _value(state, key)
    return [AIMessage(value)] if isinstance(value, str) and value else messages_in(value)


def _value(state: Any, key: str) -> Any:
    return state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)
