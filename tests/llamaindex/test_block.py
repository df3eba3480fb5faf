"""MemOSMemoryBlock in core's `Memory`, and what `Memory` does to its blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import BaseMemoryBlock, Memory
from sqlalchemy.ext.asyncio import create_async_engine

from llamaindex_memos import MemOSMemoryBlock
from memos_core import InvalidArgument, MemOS
from tests.llamaindex.conftest import learnt, texts
from tests.llamaindex.llms import ChatModel, calling
from tests.words import WordsEmbedder

pytestmark = [  # LlamaIndex's own, in its agents
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

LEMON = "Ann takes her tea with lemon."


def user(content: str) -> ChatMessage:
    return ChatMessage(role="user", content=content)


def assistant(content: str | None) -> ChatMessage:
    return ChatMessage(role="assistant", content=content)


@pytest.fixture
def block(engine: MemOS) -> MemOSMemoryBlock:
    return MemOSMemoryBlock(engine, user_id="ann", on_error="raise")


@pytest.fixture
def memory_with() -> Iterator[Callable[..., Memory]]:
    """Makes core's memory, with a block; what it stores its messages in is closed at the end."""
    databases: list[Any] = []

    def make(block: MemOSMemoryBlock, session: str = "s", **options: Any) -> Memory:
        databases.append(create_async_engine("sqlite+aiosqlite:///:memory:"))
        return Memory.from_defaults(session_id=session, memory_blocks=[block], async_engine=databases[-1], **options)

    async def close() -> None:
        for database in databases:
            await database.dispose()

    yield make
    asyncio.run(close())


def test_it_is_a_block(block: MemOSMemoryBlock) -> None:
    assert "BaseMemoryBlock" in [kind.__name__.partition("[")[0] for kind in MemOSMemoryBlock.__mro__]
    assert isinstance(block, BaseMemoryBlock)
    assert block.name == "memos"


def test_what_is_known_is_put_before_the_model_and_what_is_said_is_learnt_once(
    engine: MemOS, block: Any, memory_with: Any
) -> None:
    engine.add(LEMON, actor="ann")
    engine.add("The secret tea of Tom.", actor="tom")
    llm = ChatModel("With lemon.", "I see.", "Both.")
    chat = SimpleChatEngine.from_defaults(memory=memory_with(block), llm=llm)
    for question in ("How does Ann take her tea?", "And I take coffee.", "What do I drink?"):
        asyncio.run(chat.achat(question))  # core's sync methods leave event loops behind
    assert LEMON in llm.text(0)
    assert "Tom" not in llm.text(0)
    assert len(llm.systems(0)) == 1
    said = ["How does Ann take her tea?", "With lemon.", "And I take coffee.", "I see.", "What do I drink?"]
    assert texts(engine) == [LEMON, *said]  # the last answer comes with the next question
    assert [c.origin.position for c in learnt(engine)][1:] == [0, 1, 2, 3, 4]
    assert {c.origin.session for c in learnt(engine)[1:]} == {"s"}


def test_an_agents_run_is_learnt_once_to_its_end(engine: MemOS, block: Any, memory_with: Any) -> None:
    def look() -> str:
        """Look."""
        return "tool output"

    engine.add(LEMON, actor="ann")
    llm = ChatModel(calling("look"), "With lemon.")
    agent = FunctionAgent(tools=[look], llm=llm, system_prompt="Be brief.")

    async def run(question: str) -> None:
        await agent.run(question, memory=memory)

    memory = memory_with(block)
    asyncio.run(run("How does Ann take her tea?"))
    assert LEMON in llm.text(0)
    assert LEMON in llm.text(1)
    asyncio.run(run("Thanks."))
    assert texts(engine) == [LEMON, "How does Ann take her tea?", "With lemon.", "Thanks.", "With lemon."]


def test_the_same_words_again_are_learnt_again(engine: MemOS, block: Any, memory_with: Any) -> None:
    memory = memory_with(block)

    async def talk() -> None:
        for _ in range(3):
            await memory.aput(user("ok"))
            await memory.aget()
            await memory.aget(input="ok")  # an agent that comes back
            await memory.aput(assistant("Next?"))
        await memory.aget()

    asyncio.run(talk())
    assert texts(engine) == ["ok", "Next?"] * 3


def test_what_leaves_the_queue_is_learnt_if_it_was_never_shown_and_not_twice(
    engine: MemOS, block: Any, memory_with: Any
) -> None:
    memory = memory_with(block, token_limit=120, token_flush_size=20)

    async def talk() -> None:
        for number in range(6):
            await memory.aput(user(f"Turn {number}: " + f"word{number} " * 10))
            if number % 2:
                await memory.aget()
            await memory.aput(assistant(f"Answer {number}."))
        await memory.aget()

    asyncio.run(talk())
    assert len(asyncio.run(memory.aget_all())) > len(asyncio.run(memory.aget()))  # something was flushed
    found = texts(engine)
    assert sorted(t.split(":")[0].strip(".") for t in found) == sorted(
        f"{kind} {n}" for kind in ("Turn", "Answer") for n in range(6)
    )


def test_a_block_of_another_process_knows_what_was_learnt(engine: MemOS) -> None:
    history = [user("I have a cat."), assistant("Its name?"), user("Miso."), assistant("Lovely.")]
    for _ in range(2):  # a new block knows only what the engine knows
        block = MemOSMemoryBlock(engine, user_id="ann", on_error="raise")
        asyncio.run(block.aget(history, session_id="s"))
    block = MemOSMemoryBlock(engine, user_id="ann", on_error="raise")
    asyncio.run(block.aput(history[:3], from_short_term_memory=True, session_id="s"))
    assert texts(engine) == [m.content for m in history]


def test_one_block_serves_several_sessions_and_mixes_nothing(engine: MemOS, block: Any, memory_with: Any) -> None:
    one, other = memory_with(block, "1"), memory_with(block, "2")

    async def talk() -> None:
        for memory, name in ((one, "lemon"), (other, "mint")):
            await memory.aput(user(f"The code word is {name}."))
            await memory.aget()
        for memory in (one, other):
            await memory.aput(user("What is the code word?"))
            await memory.aget()

    asyncio.run(talk())
    by_session = {s: sorted(c.text for c in learnt(engine) if c.origin.session == s) for s in ("1", "2")}
    assert by_session == {
        "1": ["The code word is lemon.", "What is the code word?"], "2": ["The code word is mint.", "What is the code word?"]
    }  # fmt: skip


def test_blocks_are_handed_the_same_messages_and_change_none(block: Any) -> None:
    messages = [user("I have a cat."), assistant(None)]
    before = [m.model_copy(deep=True) for m in messages]
    asyncio.run(block.aget(messages, session_id="s", initial_token_count=7, anything="else"))
    assert messages == before
    assert asyncio.run(block.aget(None)) == asyncio.run(block.aget([])) == ""


def test_it_recalls_once_for_a_question_and_works_beside_the_event_loop(open_store: Callable[..., MemOS]) -> None:
    embed = WordsEmbedder()
    engine = open_store(embed=embed)
    engine.add(LEMON, actor="ann")
    block = MemOSMemoryBlock(engine, user_id="ann", on_error="raise")

    async def ask(*messages: ChatMessage) -> str:
        return str(await block.aget(list(messages), session_id="s"))

    first = asyncio.run(ask(user("tea?")))
    before = embed.texts
    assert asyncio.run(ask(user("tea?"))) == asyncio.run(ask(user("tea?"), user("tea?"))) == first
    assert embed.texts == before
    assert LEMON in first


class _Broken(WordsEmbedder):
    failing = False

    def __call__(self, texts: Sequence[str], /) -> Any:
        if self.failing:
            raise RuntimeError("CUDA out of memory")
        return super().__call__(texts)


def test_a_chat_goes_on_without_an_engine_that_fails(
    open_store: Callable[..., MemOS], caplog: pytest.LogCaptureFixture, memory_with: Any
) -> None:
    embed = _Broken()
    engine = open_store(embed=embed)
    block = MemOSMemoryBlock(engine, user_id="ann")
    llm = ChatModel("All right.")
    chat = SimpleChatEngine.from_defaults(memory=memory_with(block), llm=llm)
    embed.failing = True
    assert str(asyncio.run(chat.achat("I have a cat."))) == "All right."
    assert "CUDA out of memory" in caplog.text
    embed.failing = False
    asyncio.run(chat.achat("She is grey."))
    assert sorted(texts(engine)) == ["All right.", "I have a cat.", "She is grey."]
    strict = MemOSMemoryBlock(engine, user_id="ann", on_error="raise")
    embed.failing = True
    with pytest.raises(Exception, match="CUDA out of memory"):
        asyncio.run(strict.aget([user("tea?")], session_id="s"))


@pytest.mark.parametrize(("priority", "kept"), [(1, False), (0, True)])
def test_where_the_limit_is_exceeded_the_recalled_text_goes_unless_it_is_to_stay(
    engine: MemOS, memory_with: Any, priority: int, kept: bool
) -> None:
    engine.add(LEMON, actor="ann")
    block = MemOSMemoryBlock(engine, user_id="ann", on_error="raise", priority=priority)
    memory = memory_with(block, token_limit=100, chat_history_token_ratio=1.0)

    async def ask() -> list[ChatMessage]:
        await memory.aput(user("tea? " + "word " * 60))
        return await memory.aget()

    assert (LEMON in str(asyncio.run(ask()))) is kept


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"user_id": None}, "user_id"), ({"user_id": " "}, "user_id"), ({"memory": None}, "memory"), ({"namespace": "x"}, "namespace"),
        ({"max_tokens": 0}, "max_tokens"), ({"on_error": "x"}, "on_error"), ({"usr": "ann"}, "usr"), ({"embed": len}, "embed"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_name(engine: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}:"):
        MemOSMemoryBlock(arguments.pop("memory", engine), **{"user_id": "ann", **arguments})


def test_it_opens_a_path_and_has_the_options_of_all_blocks(tmp_path: Any) -> None:
    block = MemOSMemoryBlock(
        tmp_path / "store",
        embed=WordsEmbedder(),
        user_id="ann",
        name="known",
        priority=0,
        accept_short_term_memory=False,
    )
    assert not (tmp_path / "store").exists()
    asyncio.run(block.aput([user("not taken")], from_short_term_memory=True, session_id="s"))
    asyncio.run(block.aget([user("I have a cat.")], session_id="s"))
    assert texts(block.memory) == ["I have a cat."]
    assert (block.name, block.priority) == ("known", 0)
    block.close()
