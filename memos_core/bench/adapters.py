"""What the adapters cost over the engine, call by call; and LangGraph's store in memory, with the same embedder, beside it.

Each row is one call through an adapter. Of the time that it takes, the engine's own is taken off, and what the framework
takes for the same without a memory; the rest is the adapter's. Processor time is measured beside it: on a busy machine a
call that hands over to another thread also waits for its turn. Embedding is left out (vectors come from a table, as in
`store`). Frameworks that are not installed are left out by name. A further adapter is a further `Call` of its framework.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..memos import MemOS
from . import Timing, arguments, baselines, progress, report, table, timed
from .synthetic import Lookup, Memories, World

USER = "user0"
LIMIT = 2.0  # milliseconds that an adapter may take of a call, in the median
WARM = 5  # calls before those that count


Seconds = np.ndarray[Any, np.dtype[np.float64]]  # by the clock, and of the processor


class Clocked(MemOS):
    """An engine that adds up in `spent` the seconds that its verbs take, by the clock and of the processor. For one call at a
    time."""

    spent: Seconds = np.zeros(2)
    _inside = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == "items":
            return _ClockedItems(found, self)
        return self.clocked(found) if name in _VERBS else found

    def clocked(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        """A verb whose time counts, unless another verb calls it."""

        def counted(*args: Any, **options: Any) -> Any:
            if self._inside:
                return verb(*args, **options)
            self._inside, start = True, _now()
            try:
                return verb(*args, **options)
            finally:
                self.spent = self.spent + _now() - start
                self._inside = False

        return counted


class _ClockedItems:
    def __init__(self, items: Any, engine: Clocked) -> None:
        self._items = items
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return self._engine.clocked(getattr(self._items, name))


_VERBS = {"add", "update", "delete", "search", "brief", "get"}


@dataclass(frozen=True, slots=True)
class Call:
    """A call through an adapter, and what the framework does without a memory, if it does something. Both are given the
    number of the call."""

    name: str
    through: Callable[[int], object]
    bare: Callable[[int], object] | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What the calls work on: a store with memories of `USER`, texts to ask and to write, and a loop for what is async."""

    memory: Clocked
    embed: Lookup
    known: Memories
    questions: list[str]
    fresh: Iterator[str]
    loop: asyncio.Runner

    def question(self, i: int) -> str:
        """The i-th, over and over."""
        return self.questions[i % len(self.questions)]

    def say(self, role: str) -> dict[str, str]:
        """A turn that nobody has said before."""
        text = next(self.fresh)
        return {"role": role, "content": text, "id": text.rsplit(" ", 1)[-1]}


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    results: dict[str, Any] = {"rows": [], "beside": {}, "left_out": []}
    with tempfile.TemporaryDirectory(prefix="memos-bench-") as folder, ExitStack() as stack:
        setting = _setting(args, Path(folder), stack)
        for framework, (modules, calls) in FRAMEWORKS.items():
            if baselines.installed(*modules):
                results["rows"] += [_measured(framework, call, setting.memory, args.calls) for call in calls(setting)]
            else:
                results["left_out"].append(f"{framework}: not installed")
        if baselines.installed("langgraph.store.memory"):
            results["beside"] = _in_memory_store(setting, args.calls)
        else:
            results["left_out"].append("LangGraph InMemoryStore: not installed")
    _show(results)
    report("adapters", args, results)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("adapters", (__doc__ or "").split("\n")[0])
    parser.add_argument("--memories", type=int, default=1_000, help="in the store (default: 1,000)")
    parser.add_argument("--calls", type=int, default=100, help="of each kind (default: 100)")
    args = parser.parse_args(argv)
    if args.memories < 20 or args.calls < 5:
        parser.error("at least 20 memories and 5 calls are needed")
    return args


def _setting(args: argparse.Namespace, folder: Path, stack: ExitStack) -> Setting:
    world, embed = World(), Lookup()
    known = world.memories(args.memories, [USER], turns=20)
    embed.learn(known.texts, known.vectors)
    questions, vectors = world.questions(known, world.draw(len(known), min(args.calls, len(known))))
    embed.learn(questions, vectors)
    fresh = world.memories(40 * (args.calls + WARM), [USER], turns=20)
    embed.learn(fresh.texts, fresh.vectors)
    memory = stack.enter_context(Clocked(folder / "store", embed=embed))
    for rows in known.conversations():
        memory.add([known.message(r) for r in rows], actor=USER, session=known.sessions[rows[0]])
    return Setting(memory, embed, known, questions, iter(fresh.texts), stack.enter_context(asyncio.Runner()))


def _measured(framework: str, call: Call, memory: Clocked, calls: int) -> dict[str, Any]:
    progress(f"{framework}: {call.name}")
    without = call.bare or (lambda i: None)
    whole, engine, bare = [], [], []
    for i in range(calls + WARM):
        before = memory.spent
        whole.append(_taken(call.through, i))
        engine.append(memory.spent - before)
        bare.append(_taken(without, i))
    own = (np.asarray(whole) - np.asarray(engine))[WARM:]
    overhead, processor = (np.median(own, axis=0) - np.median(bare[WARM:], axis=0)) * 1000
    times = {"whole": whole, "engine": engine, "bare": bare}
    return {
        "framework": framework, "call": call.name,
        **{name: asdict(Timing.of([clock for clock, _ in found[WARM:]])) for name, found in times.items()},
        "overhead_ms": round(float(overhead), 3), "overhead_processor_ms": round(float(processor), 3), "met": bool(overhead <= LIMIT),
    }  # fmt: skip


def _taken(work: Callable[[int], object], i: int) -> Seconds:
    start = _now()
    work(i)
    return _now() - start


def _now() -> Seconds:
    return np.array((time.perf_counter(), time.process_time()))


# --- LangChain and LangGraph -------------------------------------------------------------------------------------------


def _langchain(setting: Setting) -> Iterator[Call]:
    """The parts of langchain_memos. Imported here: the engine stands below its adapters."""
    from langchain_memos import MemOSRecallNode, MemOSRetriever, MemOSWriteNode, create_memos_tools

    memory, run, ask, say = setting.memory, setting.loop.run, setting.question, setting.say
    yield from _langchain_agent(setting)

    retriever = MemOSRetriever(memory, user_id=USER)
    yield Call("MemOSRetriever.invoke", lambda i: retriever.invoke(ask(i)))
    yield Call("MemOSRetriever.ainvoke", lambda i: run(retriever.ainvoke(ask(i))))

    search_memory, remember, forget = create_memos_tools(memory, user_id=USER, on_error="raise")
    noted = [
        cube.id for cube in memory.add([next(setting.fresh) for _ in range(len(setting.questions) + WARM)], actor=USER)
    ]
    yield Call("search_memory.invoke", lambda i: search_memory.invoke({"query": ask(i)}))
    yield Call("search_memory.ainvoke", lambda i: run(search_memory.ainvoke({"query": ask(i)})))
    yield Call("remember.invoke", lambda i: remember.invoke({"text": next(setting.fresh)}))
    yield Call("forget.invoke", lambda i: forget.invoke({"id": noted[i % len(noted)]}))

    recall, write = MemOSRecallNode(memory, user_id=USER), MemOSWriteNode(memory, user_id=USER)
    yield Call("MemOSRecallNode.invoke", lambda i: recall.invoke({"messages": ask(i)}))
    yield Call("MemOSRecallNode.ainvoke", lambda i: run(recall.ainvoke({"messages": ask(i)})))
    yield Call("MemOSWriteNode.invoke", lambda i: write.invoke({"messages": [say("user"), say("assistant")]}))
    yield Call("MemOSWriteNode.ainvoke", lambda i: run(write.ainvoke({"messages": [say("user"), say("assistant")]})))


def _langchain_agent(setting: Setting) -> Iterator[Call]:
    """A run of an agent with the middleware (one recall, two writes), and one of an agent without it."""
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    from langchain_memos import MemOSMemory

    def agent(*middleware: Any) -> Any:
        replies = (AIMessage(next(setting.fresh)) for _ in iter(int, 1))
        return create_agent(GenericFakeChatModel(messages=replies), middleware=list(middleware))

    def asked() -> Any:
        return {"messages": [setting.say("user")]}

    reminded, bare, run = agent(MemOSMemory(setting.memory, user_id=USER, on_error="raise")), agent(), setting.loop.run
    yield Call("MemOSMemory, agent.invoke", lambda i: reminded.invoke(asked()), lambda i: bare.invoke(asked()))
    yield Call(
        "MemOSMemory, agent.ainvoke", lambda i: run(reminded.ainvoke(asked())), lambda i: run(bare.ainvoke(asked()))
    )


# --- LlamaIndex ----------------------------------------------------------------------------------------------------------


def _llamaindex(setting: Setting) -> Iterator[Call]:
    """The parts of llamaindex_memos: a memory's calls one by one, and a turn of a chat engine with it and with core's buffer."""
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.chat_engine import SimpleChatEngine
    from llama_index.core.llms import MockLLM
    from llama_index.core.memory import ChatMemoryBuffer

    from llamaindex_memos import MemOSMemory, MemOSRetriever, MemOSToolSpec

    memory, run, ask = setting.memory, setting.loop.run, setting.question

    def said() -> ChatMessage:
        return ChatMessage(role="user", content=next(setting.fresh))

    def remembering() -> MemOSMemory:
        return MemOSMemory(memory, user_id=USER, on_error="raise")

    put, get = remembering(), remembering()
    get.put_messages([said() for _ in range(20)])
    yield Call("MemOSMemory.put", lambda i: put.put(said()))
    yield Call("MemOSMemory.aput", lambda i: run(put.aput(said())))
    yield Call("MemOSMemory.get, of 20 messages", lambda i: get.get(input=ask(i)))
    yield Call("MemOSMemory.aget, of 20 messages", lambda i: run(get.aget(input=ask(i))))

    def chat(memory: object) -> SimpleChatEngine:
        return SimpleChatEngine.from_defaults(llm=MockLLM(max_tokens=5), memory=memory)

    reminded, bare = chat(remembering()), chat(ChatMemoryBuffer.from_defaults())
    yield Call(
        "MemOSMemory, chat_engine.chat",
        lambda i: reminded.chat(next(setting.fresh)),
        lambda i: bare.chat(next(setting.fresh)),
    )

    retriever, tools = MemOSRetriever(memory, actor=USER), MemOSToolSpec(memory, user_id=USER)
    yield Call("MemOSRetriever.retrieve", lambda i: retriever.retrieve(ask(i)))
    yield Call("search_memory", lambda i: tools.search_memory(ask(i)))
    yield Call("remember", lambda i: tools.remember(next(setting.fresh)))


FRAMEWORKS: dict[str, tuple[tuple[str, ...], Callable[[Setting], Iterator[Call]]]] = {
    "langchain_memos": (("langchain", "langgraph"), _langchain),
    "llamaindex_memos": (("llama_index.core",), _llamaindex),
}
"""For each adapter package: what it needs installed, and what is called."""


# --- beside it ---------------------------------------------------------------------------------------------------------


def _in_memory_store(setting: Setting, calls: int) -> dict[str, Any]:
    """LangGraph's InMemoryStore with the same memories, embedder and questions: one search for ten, one put. It keeps nothing."""
    from langgraph.store.memory import InMemoryStore

    progress("LangGraph InMemoryStore")
    # lists of floats, as its contract says: that is what it is given in use
    index: Any = {
        "dims": setting.embed.dimension,
        "embed": lambda texts: setting.embed(list(texts)).tolist(),
        "fields": ["text"],
    }
    store = InMemoryStore(index=index)
    where = ("memories", USER)
    for row, text in enumerate(setting.known.texts):
        store.put(where, str(row), {"text": text})
    searches = [timed(lambda: store.search(where, query=setting.question(i), limit=10)) for i in range(calls + WARM)]  # noqa: B023
    fresh = [next(setting.fresh) for _ in range(calls)]
    puts = [timed(lambda: store.put(where, text, {"text": text})) for text in fresh]  # noqa: B023
    finds = [timed(lambda: setting.memory.search(setting.question(i), actor=USER)) for i in range(calls + WARM)]  # noqa: B023
    adds = [timed(lambda: setting.memory.add(setting.say("user"), actor=USER, session="beside")) for _ in range(calls)]
    return {
        "search": {"InMemoryStore": asdict(Timing.of(searches[WARM:])), "MemOS": asdict(Timing.of(finds[WARM:]))},
        "write": {"InMemoryStore": asdict(Timing.of(puts)), "MemOS": asdict(Timing.of(adds))},
    }


def _show(results: dict[str, Any]) -> None:
    print(table(("call", "p50 ms", "the engine's", "the framework's", "overhead", "of it processor", f"≤ {LIMIT:g} ms"), [
        (r["call"], r["whole"]["p50"], r["engine"]["p50"], r["bare"]["p50"], r["overhead_ms"], r["overhead_processor_ms"], "yes" if r["met"] else "NO")
        for r in results["rows"]
    ]))  # fmt: skip
    if results["beside"]:
        print("\n" + table(("one call", "system", "p50 ms", "p95 ms"), [
            (what, system, t["p50"], t["p95"]) for what, systems in results["beside"].items() for system, t in systems.items()
        ]))  # fmt: skip
    for missing in results["left_out"]:
        print(f"left out: {missing}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
