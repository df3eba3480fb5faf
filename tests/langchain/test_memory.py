"""MemOSMemory in real agents: `create_agent`, with models that say what they are told to."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs the extra langchain")

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, SummarizationMiddleware
from langchain.tools import ToolRuntime
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_memos import MemOSMemory
from memos_core import InvalidArgument, MemOS, StoreUnavailable
from tests.conftest import Clock
from tests.langchain.models import Model, calling, kept, model, texts, thread
from tests.words import WordsEmbedder


def agent(llm: Model, memory: Any, *, tools: Sequence[Any] = (), **options: Any) -> Any:
    middleware = options.pop("middleware", ())
    if not isinstance(memory, MemOSMemory):
        memory = MemOSMemory(memory, user_id="ann", on_error="raise")
    return create_agent(llm, list(tools), middleware=[*middleware, memory], **options)


WAYS = {
    "sync": lambda a, content, *args, **kw: a.invoke({"messages": content}, *args, **kw),
    "async": lambda a, content, *args, **kw: asyncio.run(a.ainvoke({"messages": content}, *args, **kw)),
    "stream": lambda a, content, *args, **kw: list(
        a.stream({"messages": content}, *args, stream_mode=["messages", "values"], **kw)
    )[-1][1],
}


@pytest.fixture(params=sorted(WAYS))
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs an agent, in each of the ways there are."""
    return WAYS[request.param]


@pytest.fixture
def memory(open_store: Callable[..., MemOS], clock: Clock) -> MemOS:
    """An empty store whose clock goes on with each look at it, so that what came first is stored first."""
    return open_store(clock=lambda: clock.forward(seconds=1))


# --- recalling ---------------------------------------------------------------------------------------------------------


def test_what_was_said_in_one_run_is_put_before_the_model_in_a_later_one(memory: MemOS, ask: Any) -> None:
    llm = model()
    first = ask(agent(llm, memory), "I take my tea with lemon.")
    assert [str(m.text).strip() for m in first["messages"]] == ["I take my tea with lemon.", "All right."]
    ask(agent(llm, memory), "How do I take my tea?")
    assert llm.system(0) == ""
    assert "user: I take my tea with lemon." in llm.system(1)
    assert [m.content for m in llm.prompts[1] if isinstance(m, HumanMessage)] == ["How do I take my tea?"]


def test_the_question_itself_is_not_recalled_for_it(memory: MemOS) -> None:
    llm = model()
    agent(llm, memory).invoke({"messages": "How do I take my tea?"})
    assert llm.system() == ""


def test_what_is_still_in_the_context_is_not_recalled_beside_it(memory: MemOS) -> None:
    memory.add("Ann's tea comes from Assam.", actor="ann")
    llm = model()
    chat = agent(llm, memory, checkpointer=InMemorySaver())
    chat.invoke({"messages": "I take my tea with lemon."}, thread("1"))
    chat.invoke({"messages": "How do I take my tea?"}, thread("1"))
    assert "Assam" in llm.system()
    assert "lemon" not in llm.system()


def test_the_users_system_prompt_stays_in_front(memory: MemOS, ask: Any) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    llm = model()
    ask(agent(llm, memory, system_prompt="Be brief."), "tea?")
    assert llm.system().startswith("Be brief.\n\n<recalled-memories>")
    assert isinstance(llm.prompts[0][0], SystemMessage)
    assert sum(isinstance(m, SystemMessage) for m in llm.prompts[0]) == 1


def test_a_system_prompt_of_blocks_keeps_its_blocks(memory: MemOS) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    llm, block = model(), {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    agent(llm, memory, system_prompt=SystemMessage(content=[block])).invoke({"messages": "tea?"})
    assert llm.prompts[0][0].content[0] == block
    assert "lemon" in llm.prompts[0][0].content[1]["text"]


def test_recalled_memory_stays_out_of_history_and_checkpoints(memory: MemOS, ask: Any) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    saver, llm = InMemorySaver(), model()
    chat = agent(llm, memory, checkpointer=saver, system_prompt="Be brief.")
    result = ask(chat, "tea?", thread("1"))
    assert "lemon" in llm.system()
    assert "lemon" not in str(result)
    assert "lemon" not in str(chat.get_state(thread("1")))
    assert "lemon" not in str([*saver.list(thread("1"))])
    assert b"lemon" not in b"".join(data[1] for data in saver.blobs.values())
    assert "lemon" not in str(saver.writes)


def test_recalled_memory_is_shown_to_nobody_who_streams_the_state(memory: MemOS) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    seen: list[str] = []

    def look(runtime: ToolRuntime) -> str:
        """Look."""
        seen.append(str(runtime.state))
        return "nothing"

    llm = model(calling("look"), "Done.")
    chat = agent(llm, memory, tools=[look])
    streamed = list(chat.stream({"messages": "tea?"}, stream_mode=["values", "updates", "messages"]))
    assert "lemon" in llm.system()
    assert "tea?" in seen[0]
    assert "lemon" not in str(seen) + str(streamed)


def test_one_turn_is_recalled_once_however_often_the_model_is_called(memory: MemOS) -> None:
    [lemon] = memory.add("Ann takes her tea with lemon.", actor="ann")

    def look() -> str:
        """Look."""
        return "nothing"

    llm = model(calling("look"), calling("look"), "Done.")
    agent(llm, memory, tools=[look]).invoke({"messages": "tea?"})
    assert [("lemon" in llm.system(i)) for i in range(3)] == [True, True, True]
    assert len({llm.system(i) for i in range(3)}) == 1
    memory.tick()
    assert memory.get(lemon.id, actor="ann").usage.reads == 1


def test_max_tokens_bounds_what_is_put_before_the_model(memory: MemOS) -> None:
    memory.add([f"Fact {i} about tea and lemons." for i in range(50)], actor="ann")
    llm = model()
    agent(llm, MemOSMemory(memory, user_id="ann", max_tokens=120)).invoke({"messages": "tea?"})
    assert 1 <= llm.system().count("Fact") < 12


def test_a_question_without_text_recalls_nothing_and_does_no_harm(memory: MemOS) -> None:
    image = {"type": "image", "url": "https://example.org/cat.png"}
    llm = model("A cat.")
    agent(llm, memory).invoke({"messages": [HumanMessage([image])]})
    assert texts(memory) == ["[image]", "A cat."]


def test_with_write_off_it_only_recalls(memory: MemOS) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")
    llm = model()
    agent(llm, MemOSMemory(memory, user_id="ann", write=False)).invoke({"messages": "tea?"})
    assert "lemon" in llm.system()
    assert texts(memory) == ["Ann takes her tea with lemon."]


# --- writing -----------------------------------------------------------------------------------------------------------


def test_a_turn_is_written_with_who_what_and_when(memory: MemOS, ask: Any) -> None:
    said = HumanMessage(
        "Good morning", id="m1", name="Ann", additional_kwargs={"timestamp": "2025-05-08T13:56:00+02:00"}
    )
    ask(agent(model("Morning!"), memory, checkpointer=InMemorySaver()), [said], thread("t1"))
    question, answer = kept(memory)
    assert (question.text, question.origin.role, question.origin.speaker) == ("Good morning", "user", "Ann")
    assert (question.origin.session, question.origin.position, question.origin.message_id) == ("t1", 0, "m1")
    assert question.origin.occurred_at is not None
    assert question.origin.occurred_at.isoformat() == "2025-05-08T11:56:00+00:00"
    assert (answer.text.strip(), answer.origin.role, answer.origin.session) == ("Morning!", "assistant", "t1")
    assert answer.access.owner == "ann"
    assert answer.namespace == ("default",)


@pytest.mark.parametrize("moment", ["2025-05-08T13:56:00", "yesterday", 1746712560.5, None])
def test_a_timestamp_that_says_no_moment_is_left_alone(memory: MemOS, moment: Any) -> None:
    said = HumanMessage("Good morning", additional_kwargs={"timestamp": moment})
    agent(model(), memory).invoke({"messages": [said]})
    assert kept(memory)[0].origin.occurred_at is None


def test_with_a_checkpointer_each_message_is_written_once(memory: MemOS, ask: Any) -> None:
    chat = agent(model("one", "two", "three"), memory, checkpointer=InMemorySaver())
    for content in ("first", "second", "third"):
        ask(chat, content, thread("1"))
    assert [t.strip() for t in texts(memory)] == ["first", "one", "second", "two", "third", "three"]
    assert [c.origin.position for c in kept(memory)] == [0, 1, 2, 3, 4, 5]
    assert all(c.version == 1 for c in kept(memory))


def test_a_deleted_memory_does_not_come_back_with_the_next_turn(memory: MemOS) -> None:
    chat = agent(model(), memory, checkpointer=InMemorySaver())
    chat.invoke({"messages": "my secret"}, thread("1"))
    memory.delete([c.id for c in kept(memory)], actor="ann")
    chat.invoke({"messages": "hello"}, thread("1"))
    assert texts(memory) == ["hello", "All right."]


def test_a_caller_who_keeps_the_history_has_only_the_new_turn_written(memory: MemOS, ask: Any) -> None:
    chat = agent(model("one", "two"), memory)
    history = ask(chat, "first")["messages"]
    ask(chat, [*history, HumanMessage("second")])
    bare = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "3rd"},
    ]
    ask(chat, bare)
    assert [t.strip() for t in texts(memory)] == ["first", "one", "second", "two", "3rd", "two"]
    assert len({c.origin.session for c in kept(memory)}) == 3


def test_a_thread_older_than_its_memory_is_written_as_a_whole(memory: MemOS) -> None:
    saver = InMemorySaver()
    create_agent(model("one"), checkpointer=saver).invoke({"messages": "first"}, thread("1"))
    agent(model("two"), memory, checkpointer=saver).invoke({"messages": "second"}, thread("1"))
    assert texts(memory) == ["first", "one", "second", "two"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_only_what_people_and_the_model_said_is_written(memory: MemOS, way: str) -> None:
    def look() -> str:
        """Look."""
        return "tool output"

    thought = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "It is "},
        {"type": "text", "text": "noon."},
    ]
    llm = model(calling("look"), calling("look", "One moment."), AIMessage(thought))
    said = [
        SystemMessage("Be brief."),
        HumanMessage("  "),
        HumanMessage([{"type": "text", "text": "What time is it?"}]),
    ]
    WAYS[way](agent(llm, memory, tools=[look]), said)
    assert texts(memory) == ["What time is it?", "One moment.", "It is noon."]


def test_a_summary_in_the_place_of_messages_is_not_taken_for_something_said(memory: MemOS) -> None:
    summary = HumanMessage("Here is a summary", additional_kwargs={"lc_source": "summarization"})
    agent(model(), memory).invoke({"messages": [summary, HumanMessage("And now?")]})
    assert texts(memory) == ["And now?", "All right."]


def test_a_thread_that_is_summarised_on_the_way_is_written_in_the_words_that_were_said(memory: MemOS, ask: Any) -> None:
    shorten = SummarizationMiddleware(model("A summary."), trigger=("messages", 4), keep=("messages", 2))
    llm = model("one", "two", "three", "four")
    chat = agent(llm, memory, middleware=[shorten], checkpointer=InMemorySaver())
    for content in ("first", "second", "third", "fourth"):
        ask(chat, content, thread("1"))
    assert any("summary" in str(m.content) for m in llm.prompts[-1])
    assert [t.strip() for t in texts(memory)] == ["first", "one", "second", "two", "third", "three", "fourth", "four"]


def test_text_that_is_no_unicode_is_mended(memory: MemOS) -> None:
    agent(model(), memory).invoke({"messages": [HumanMessage("half \ud83d smile \x00")]})
    assert texts(memory)[0] == "half ? smile \x00"


class _ModelFailed(Exception):
    pass


def test_what_the_user_said_stays_if_the_model_fails(memory: MemOS, ask: Any) -> None:
    chat = agent(model(_ModelFailed(), "Better now."), memory, checkpointer=InMemorySaver())
    with pytest.raises(_ModelFailed):
        ask(chat, "My train leaves at nine.", thread("1"))
    assert texts(memory) == ["My train leaves at nine."]
    ask(chat, "Again?", thread("1"))
    assert [t.strip() for t in texts(memory)] == ["My train leaves at nine.", "Again?", "Better now."]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_interrupted_run_goes_on_with_its_memory_and_is_written_once(memory: MemOS, way: str) -> None:
    memory.add("Ann takes her tea with lemon.", actor="ann")

    def approve() -> str:
        """Ask a person."""
        return str(interrupt("may I?"))

    llm, saver = model(calling("approve"), "Ordered."), InMemorySaver()
    chat = agent(llm, memory, tools=[approve], checkpointer=saver)
    paused = WAYS[way](chat, "Order my tea", thread("1"))
    assert paused["__interrupt__"]
    assert "Order my tea" in texts(memory)
    chat = agent(llm, memory, tools=[approve], checkpointer=saver)  # another process would make its own
    resume = Command(resume="yes")
    chat.invoke(resume, thread("1")) if way == "sync" else asyncio.run(chat.ainvoke(resume, thread("1")))
    assert isinstance(llm.prompts[1][-1], ToolMessage)
    assert llm.system(1) == llm.system(0)
    assert "lemon" in llm.system(1)
    assert texts(memory) == ["Ann takes her tea with lemon.", "Order my tea", "Ordered."]


# --- whose memory ------------------------------------------------------------------------------------------------------


@dataclass
class Context:
    user_id: str | None = None


def test_the_user_is_the_arguments_then_the_contexts_then_the_configurations(memory: MemOS) -> None:
    def run(user_id: Any = None, **kw: Any) -> None:
        middleware = MemOSMemory(memory, user_id=user_id, on_error="raise")
        agent(model(), middleware, context_schema=Context).invoke({"messages": "hi"}, **kw)

    configured = {"configurable": {"user_id": "config"}}
    run(config=configured)
    run(config=configured, context=Context())
    run(config=configured, context=Context("context"))
    run(config=configured, context={"user_id": "mapping"})
    run("argument", config=configured, context=Context("context"))
    run(lambda runtime: runtime.context.user_id + "!", config=configured, context=Context("called"))
    counted = {
        u: len(texts(memory, u)) for u in ("config", "context", "mapping", "argument", "called!", "ann", "local")
    }
    assert counted == {"config": 4, "context": 2, "mapping": 2, "argument": 2, "called!": 2, "ann": 0, "local": 0}


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_run_of_nobody_is_refused_before_the_model_is_called(memory: MemOS, ask: Any, on_error: Any) -> None:
    llm = model()
    with pytest.raises(InvalidArgument, match=r"user_id=.*context.*configurable"):
        ask(agent(llm, MemOSMemory(memory, on_error=on_error)), "hi")
    assert llm.prompts == []


@pytest.mark.parametrize("user", ["", " ", "*", 7])
def test_a_user_that_is_no_name_is_refused(memory: MemOS, user: Any) -> None:
    with pytest.raises(InvalidArgument, match="user_id"):
        MemOSMemory(memory, user_id=user)
    with pytest.raises(InvalidArgument, match="user_id"):
        agent(model(), MemOSMemory(memory)).invoke({"messages": "hi"}, {"configurable": {"user_id": user}})


def test_users_of_one_instance_at_the_same_time_see_nothing_of_each_other(memory: MemOS) -> None:
    users = ["ann", "bob", "cid", "dot"]
    for user in users:
        memory.add(f"The code word of {user} is {user}-word.", actor=user)
    llm = model(asked_at_once=threading.Barrier(len(users), timeout=30))
    chat = agent(llm, MemOSMemory(memory, on_error="raise"))

    def run(user: str) -> None:
        chat.invoke({"messages": f"I am {user}. What is my code word?"}, {"configurable": {"user_id": user}})

    with ThreadPoolExecutor(len(users)) as pool:
        list(pool.map(run, users))
    assert len(llm.prompts) == len(users)
    for prompt in llm.prompts:
        [me] = [u for u in users if f"I am {u}." in prompt[-1].content]
        assert [u for u in users if f"{u}-word" in prompt[0].content] == [me]
    for user in users:
        assert [u for u in users if f"I am {u}." in str(texts(memory, user))] == [user]
        assert len(texts(memory, user)) == 3


def test_async_users_at_the_same_time_see_nothing_of_each_other(memory: MemOS) -> None:
    users = [f"user{i}" for i in range(6)]
    llm = model()
    chat = agent(llm, MemOSMemory(memory, on_error="raise"), checkpointer=InMemorySaver())

    async def run(user: str) -> None:
        for content in (f"My code word is {user}-word.", "What is my code word?"):
            await chat.ainvoke({"messages": content}, thread(f"{user} {content[:4]}", user_id=user))

    async def all_of_them() -> None:
        await asyncio.gather(*map(run, users))

    asyncio.run(all_of_them())
    seen = [sorted(u for u in users if f"{u}-word" in str(prompt)) for prompt in llm.prompts]
    assert sorted(seen) == sorted([[u] for u in users] * 2)


def test_the_engine_never_works_on_the_event_loops_thread(open_store: Any) -> None:
    threads: set[threading.Thread] = set()

    class Watched(WordsEmbedder):
        def __call__(self, texts: Sequence[str], /) -> Any:
            threads.add(threading.current_thread())
            return super().__call__(texts)

    chat = agent(model(), open_store(embed=Watched()), checkpointer=InMemorySaver())
    threads.clear()
    asyncio.run(chat.ainvoke({"messages": "hello"}, thread("1")))
    assert threads
    assert threading.current_thread() not in threads  # asyncio.run loops on this one


# --- when the memory fails ---------------------------------------------------------------------------------------------


class _Broken(WordsEmbedder):
    """Works until it is told to fail."""

    failing = False

    def __call__(self, texts: Sequence[str], /) -> Any:
        if self.failing:
            raise OSError("the embedder is away")
        return super().__call__(texts)


def test_an_agent_goes_on_without_a_memory_that_fails(
    open_store: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    embed = _Broken()
    memory = open_store(embed=embed)
    embed.failing = True
    chat = agent(model(), MemOSMemory(memory, user_id="ann"), checkpointer=InMemorySaver())
    with caplog.at_level(logging.WARNING, "langchain_memos"):
        result = ask(chat, "hello", thread("1"))
    assert str(result["messages"][-1].text).strip() == "All right."
    assert {r.levelname for r in caplog.records if r.name == "langchain_memos"} == {"WARNING"}
    assert "memory could not recall for ann" in caplog.text
    assert "the embedder is away" in caplog.text
    embed.failing = False
    ask(chat, "again", thread("1"))
    assert [t.strip() for t in texts(memory)] == ["hello", "All right.", "again", "All right."]


def test_a_memory_that_fails_stops_the_agent_if_asked_to(open_store: Any, ask: Any) -> None:
    embed = _Broken()
    memory = open_store(embed=embed)
    embed.failing = True
    with pytest.raises(Exception, match="the embedder is away"):
        ask(agent(model(), MemOSMemory(memory, user_id="ann", on_error="raise")), "hello")


# --- making one --------------------------------------------------------------------------------------------------------


def test_a_path_is_opened_at_first_use_and_closed_by_close(tmp_path: Path, embed: WordsEmbedder) -> None:
    path = tmp_path / "memories"
    middleware = MemOSMemory(path, embed=embed, user_id="ann", on_error="raise")
    assert not path.exists()
    agent(model(), middleware).invoke({"messages": "hello"})
    assert texts(middleware.memory) == ["hello", "All right."]
    middleware.close()
    agent(model(), middleware).invoke({"messages": "again"})
    assert len(texts(middleware.memory)) == 4
    middleware.close()
    middleware.close()


def test_close_leaves_a_memory_open_that_was_opened_elsewhere(memory: MemOS) -> None:
    middleware = MemOSMemory(memory)
    assert middleware.memory is memory
    middleware.close()
    memory.add("still open")


def test_a_path_that_cannot_be_opened_says_so_at_first_use(tmp_path: Path, embed: WordsEmbedder) -> None:
    (tmp_path / "file").write_text("no store")
    middleware = MemOSMemory(tmp_path / "file", embed=embed, user_id="ann", on_error="raise")
    with pytest.raises(StoreUnavailable):
        agent(model(), middleware).invoke({"messages": "hello"})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"memory": None}, "memory"), ({"memory": ""}, "memory"), ({"memory": 5}, "memory"), ({"embed": len}, "embed"),
        ({"namespace": "app"}, "namespace"), ({"namespace": ()}, "namespace"), ({"namespace": ("",)}, "namespace"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "9"}, "max_tokens"), ({"on_error": "ignore"}, "on_error"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_name(memory: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}:"):
        MemOSMemory(arguments.pop("memory", memory), **arguments)


def test_it_writes_and_recalls_at_its_namespace(memory: MemOS) -> None:
    memory.add("Tea elsewhere.", actor="ann", namespace=("other",))
    memory.add("Tea below.", actor="ann", namespace=("app", "notes"))
    llm = model()
    agent(llm, MemOSMemory(memory, user_id="ann", namespace=("app",))).invoke({"messages": "tea?"})
    assert "Tea below." in llm.system()
    assert "elsewhere" not in llm.system()
    assert len(memory.search("tea", actor="ann", namespace=("app",))) == 3


def test_it_gets_along_with_other_middleware(memory: MemOS, ask: Any) -> None:
    class Shout(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(system_message=SystemMessage("SHOUT. " + (request.system_prompt or ""))))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(
                request.override(system_message=SystemMessage("SHOUT. " + (request.system_prompt or "")))
            )

    memory.add("Ann takes her tea with lemon.", actor="ann")
    llm = model()
    ask(agent(llm, memory, middleware=[Shout()]), "tea?")
    assert llm.system().startswith("SHOUT.")
    assert "lemon" in llm.system()


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import langchain_memos, sys; "
        "heavy = {'torch', 'langchain', 'langchain_core', 'llama_index', 'lancedb'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'MemOSMemory' in dir(langchain_memos); "
        "langchain_memos.MemOSMemory; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_missing_framework_is_named_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['langchain'] = None; import langchain_memos\n"
        "from memos_core import MissingPackage\n"
        "try: langchain_memos.MemOSMemory\n"
        "except MissingPackage as error: assert \"pip install 'memos-adapters[langchain]'\" in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_takes_langchain_embeddings_for_a_path(tmp_path: Path) -> None:
    class Words(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[float(x) for x in v] for v in WordsEmbedder()(texts)]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    middleware = MemOSMemory(tmp_path / "store", embed=Words(), user_id="ann")
    middleware.memory.add("Ann has a cat called Miso.", actor="ann")
    assert middleware.memory.search("cat", actor="ann")[0].cube.text == "Ann has a cat called Miso."
    middleware.close()
