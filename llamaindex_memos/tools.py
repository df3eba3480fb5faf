"""MemOSToolSpec: memory as tools that an agent's model calls. Every answer, refusals among them, is a text that the model can act on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.tools.tool_spec.base import BaseToolSpec

from memos_core import AccessDenied, Hit, IllegalTransition, InvalidArgument, MemOS, MemOSError, NotFound, StoreClosed

from .engine import Engine, checked_count, checked_labels, checked_user
from .longterm import log

_MOST = 20  # memories in an answer: what a model reads, and what fits beside a conversation


class MemOSToolSpec(BaseToolSpec):  # type: ignore[misc]  # LlamaIndex is untyped to this checker
    """Tools to search, add and delete memories of one user.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        user_id: whose memories. There is no default user.
        namespace: where memories are written, and at or below which they are found.
        max_characters: of a memory that a model may write.

    Raises:
        InvalidArgument: nobody says whose memory it is, or an argument is wrong. The tools themselves answer.

    Examples:
        ```python
        from llama_index.core.agent.workflow import FunctionAgent
        from llamaindex_memos import MemOSToolSpec

        tools = MemOSToolSpec("memories", user_id="ann").to_tool_list()
        agent = FunctionAgent(tools=tools, llm=llm)
        ```
    """

    spec_functions = [  # noqa: RUF012  # as the base class declares it
        ("search_memory", "asearch_memory"), ("remember", "aremember"), ("forget", "aforget"),
    ]  # fmt: skip

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        user_id: str | None = None,
        embed: Any = None,
        namespace: Sequence[str] = ("default",),
        max_characters: int = 4_000,
    ) -> None:
        self._engine = Engine(memory, embed)
        self._user = checked_user(user_id)
        self._namespace = checked_labels(namespace)
        self._max_characters = checked_count(max_characters, "max_characters")

    def close(self) -> None:
        """Let go of the store if it was opened by its path; the next use opens it again."""
        self._engine.close()

    def search_memory(self, query: str, k: int = 5) -> str:
        """Search what is remembered about the user. Give the query as a full question or statement, and k, from 1 to 20, for
        how many memories you want. Each line of the answer is one memory: [id] date speaker: text."""
        asked, wrong = _text(query, "query", self._max_characters)
        count = _whole(k)
        if wrong:
            return wrong
        if count is None or count < 1:
            return f"k: {k!r:.40} is not a whole number from 1 to {_MOST}. Nothing was searched."

        def search() -> str:
            hits = self._engine.memory.search(asked, namespace=self._namespace, actor=self._user, k=min(count, _MOST))
            return "\n".join(map(_line, hits)) or "Nothing is remembered about that."

        return self._answer("search", search)

    def remember(self, text: str) -> str:
        """Remember something about the user for later conversations: one fact, preference or event, as a full sentence that can be
        understood alone. The answer names the new memory's id."""
        wanted, wrong = _text(text, "text", self._max_characters)
        if wrong:
            return wrong

        def add() -> str:
            [cube] = self._engine.memory.add(wanted, namespace=self._namespace, actor=self._user, source="tool")
            return f"Remembered as [{cube.id}]."

        return self._answer("remember", add)

    def forget(self, id: str) -> str:
        """Delete one memory for good, because it is wrong or the user asks for it. The id is what search_memory shows in brackets."""
        wanted, wrong = _text(id, "id", 200)
        if wrong:
            return wrong

        def delete() -> str:
            self._engine.memory.delete([wanted.strip("[]")], actor=self._user)
            return "Forgotten."

        return self._answer("forget", delete)

    async def asearch_memory(self, query: str, k: int = 5) -> str:
        """`search_memory`, beside the event loop."""
        return await asyncio.to_thread(self.search_memory, query, k)

    async def aremember(self, text: str) -> str:
        """`remember`, beside the event loop."""
        return await asyncio.to_thread(self.remember, text)

    async def aforget(self, id: str) -> str:
        """`forget`, beside the event loop."""
        return await asyncio.to_thread(self.forget, id)

    def _answer(self, verb: str, work: Callable[[], str]) -> str:
        try:
            return work()
        except NotFound:
            return "There is no memory with this id. Find the id with search_memory; nothing was changed."
        except (AccessDenied, IllegalTransition) as error:
            return f"Not possible: {error}. Nothing was changed."
        except InvalidArgument as error:
            return f"Not understood: {error!s:.200}"
        except StoreClosed:  # no failure of the memory, but of the program that goes on using it
            raise
        except MemOSError as error:  # not the model's trouble: it goes on without, and the log has the reason
            log.warning("a tool could not %s for %s: %s", verb, self._user, error)
            return "The memory is not available right now. Go on without it."


def _text(value: Any, name: str, most: int) -> tuple[str, str]:
    """The text, and what is wrong with it, one of them empty."""
    if not isinstance(value, str) or not value.strip():
        return "", f"{name}: give a text. Nothing was done."
    if len(value) > most:
        return "", f"{name}: {len(value)} characters are too many; say it in at most {most}. Nothing was done."
    return value.encode("utf-8", "replace").decode().strip(), ""  # half a surrogate pair cannot be stored


def _whole(value: Any) -> int | None:
    """A model's number: whole, also as a float or in quotes."""
    try:
        return None if isinstance(value, bool) or int(value) != float(value) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _line(hit: Hit) -> str:
    origin = hit.cube.origin
    who = origin.speaker or origin.role or "note"
    return f"[{hit.cube.id}] {origin.happened_at:%Y-%m-%d} {who}: {' '.join(hit.cube.text.split())}"
