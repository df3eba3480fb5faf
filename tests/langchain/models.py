"""A chat model that says what it is told to, and what a memory holds: shared by the tests of the LangChain parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from memos_core import MemCube, MemOS


class Model(BaseChatModel):
    """Answers with `replies`, one after the other, the last for ever; keeps the prompts. An exception is raised."""

    replies: list[Any]
    prompts: list[list[BaseMessage]]
    asked_at_once: Any = None

    @property
    def _llm_type(self) -> str:
        return "test"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Model:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        reply = self._next(messages)
        calls = [
            {"name": c["name"], "args": json.dumps(c["args"]), "id": c["id"], "index": i}
            for i, c in enumerate(reply.tool_calls)
        ]
        for word in str(reply.content).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(word + " "))
        yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=calls))

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        if self.asked_at_once is not None:
            self.asked_at_once.wait()
        self.prompts.append(messages)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, AIMessage) else AIMessage(reply)

    def system(self, call: int = -1) -> str:
        """What the system message of a call said."""
        return "".join(str(m.text) for m in self.prompts[call] if isinstance(m, SystemMessage))


def calling(tool: str, content: str = "", **arguments: Any) -> AIMessage:
    return AIMessage(content, tool_calls=[{"name": tool, "args": arguments, "id": "call-1"}])


def model(*replies: Any, **options: Any) -> Model:
    return Model(replies=list(replies) or ["All right."], prompts=[], **options)


def thread(name: str, **more: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": name, **more}}


def kept(memory: MemOS, actor: str = "ann") -> list[MemCube]:
    """All memories of an actor, as they came."""
    cubes = [h.cube for h in memory.search("what was said", actor=actor, k=1000)]
    return sorted(cubes, key=lambda c: (c.origin.stored_at, c.origin.position or 0, c.origin.role != "user"))


def texts(memory: MemOS, actor: str = "ann") -> list[str]:
    return [c.text for c in kept(memory, actor)]
