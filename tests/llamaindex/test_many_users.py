"""Many users at once in one process and one event loop: nothing lost, nothing mixed, and the loop never held up by us."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine

from llamaindex_memos import MemOSMemory
from memos_core import MemOS
from tests.llamaindex.conftest import contents, texts
from tests.llamaindex.llms import ChatModel
from tests.words import WordsEmbedder


@pytest.fixture(autouse=True)
def nothing_old_to_collect() -> Iterator[None]:
    """What other tests left behind is not walked through while the loop is watched."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Watched(WordsEmbedder):
    """Knows which threads the engine works in."""

    threads: set[threading.Thread]

    def __call__(self, texts: Sequence[str], /) -> Any:
        self.threads.add(threading.current_thread())
        return super().__call__(texts)


async def _watch(done: asyncio.Event) -> list[float]:
    """How long the loop's own thread worked between two looks, in seconds of its processor time."""
    worked = []
    while not done.is_set():
        before = time.thread_time()
        await asyncio.sleep(0.001)
        worked.append(time.thread_time() - before)
    return worked


@pytest.mark.parametrize(("users", "turns"), [(8, 3), pytest.param(50, 20, marks=pytest.mark.slow)])
def test_no_turn_is_lost_and_none_is_seen_by_another_user(open_store: Any, users: int, turns: int) -> None:
    embed = Watched()
    embed.threads = set()
    engine: MemOS = open_store(embed=embed)
    embed.threads.clear()
    names = [f"user{number}" for number in range(users)]
    llms = {name: ChatModel(lambda prompt: f"Heard: {prompt[-1].blocks[-1].text}") for name in names}
    memories = {name: MemOSMemory(engine, user_id=name, session_id="s", on_error="raise") for name in names}

    async def live(name: str) -> None:
        chat = SimpleChatEngine.from_defaults(memory=memories[name], llm=llms[name])
        for turn in range(turns):
            await chat.achat(f"Turn {turn}: the code word of {name} is {name}-word.")

    async def all_of_them() -> list[float]:
        done = asyncio.Event()
        watching = asyncio.create_task(_watch(done))
        await asyncio.gather(*map(live, names))
        done.set()
        return await watching

    worked = asyncio.run(all_of_them())
    assert threading.current_thread() not in embed.threads  # asyncio.run loops on this one
    assert max(worked) < 0.05
    for name in names:
        said = [f"Turn {turn}: the code word of {name} is {name}-word." for turn in range(turns)]
        heard = [f"Heard: {words}" for words in said]
        expected = [pair for turn in zip(said, heard, strict=True) for pair in turn]
        assert [m.content for m in memories[name].get_all()] == expected
        assert sorted(texts(engine, name)) == sorted(expected)
        for call in range(turns):
            assert {other for other in names if f"{other}-word" in llms[name].text(call)} == {name}


def test_what_is_put_at_once_into_one_memory_is_all_kept(engine: MemOS) -> None:
    memory = MemOSMemory(engine, user_id="ann", on_error="raise")

    async def all_of_them() -> None:
        await asyncio.gather(*(memory.aput(ChatMessage(role="user", content=str(number))) for number in range(8)))

    asyncio.run(all_of_them())
    assert sorted(str(m.content) for m in memory.get_all()) == sorted(texts(engine)) == [str(n) for n in range(8)]


def test_conversations_of_one_session_in_several_memories_lose_nothing(engine: MemOS) -> None:
    async def live(number: int) -> None:
        memory = MemOSMemory(engine, user_id="ann", session_id="s", on_error="raise")
        for turn in range(4):
            await memory.aput(ChatMessage(role="user", content=f"{number}: {turn}"))

    async def all_of_them() -> None:
        await asyncio.gather(*map(live, range(4)))

    asyncio.run(all_of_them())
    found = contents(MemOSMemory(engine, user_id="ann", session_id="s").get_all())
    said = [str(content) for _, content in found]
    assert sorted(said) == sorted(f"{number}: {turn}" for number in range(4) for turn in range(4))
    for number in range(4):  # each in its own order
        assert [s for s in said if s.startswith(f"{number}:")] == [f"{number}: {turn}" for turn in range(4)]
    assert sorted(texts(engine)) == sorted(said)
