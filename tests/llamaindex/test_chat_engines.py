"""MemOSMemory in LlamaIndex's chat engines, each in each of the ways that it can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, TextNode

from llamaindex_memos import MemOSMemory, MemOSRetriever
from memos_core import InvalidArgument, MemOS
from tests.llamaindex.conftest import contents, learnt, texts
from tests.llamaindex.llms import CONTEXT, ChatModel, CompletionModel

LEMON = "Ann takes her tea with lemon."


class Documents(BaseRetriever):
    """Finds the same page, whatever is asked."""

    def _retrieve(self, query_bundle: Any) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text="The kettle is in the {query_str} kitchen."), score=1.0)]


def _question_engine(memory: MemOSMemory, llm: Any, streaming: bool) -> CondenseQuestionChatEngine:
    pages = RetrieverQueryEngine.from_args(Documents(), llm=llm, streaming=streaming)
    return CondenseQuestionChatEngine.from_defaults(query_engine=pages, memory=memory, llm=llm)


ENGINES: dict[str, Callable[..., Any]] = {
    "simple": lambda memory, llm, streaming: SimpleChatEngine.from_defaults(memory=memory, llm=llm),
    "simple with a system prompt": lambda memory, llm, streaming: SimpleChatEngine.from_defaults(
        memory=memory, llm=llm, system_prompt="Be brief."
    ),
    "context": lambda memory, llm, streaming: ContextChatEngine.from_defaults(
        Documents(), memory=memory, llm=llm, system_prompt="Be brief."
    ),
    "condense plus context": lambda memory, llm, streaming: CondensePlusContextChatEngine.from_defaults(
        Documents(), memory=memory, llm=llm, system_prompt="Be brief."
    ),
    "condense question": _question_engine,
}


def _streamed(engine: Any, question: str, **options: Any) -> str:
    return "".join(engine.stream_chat(question, **options).response_gen)


async def _astreamed(engine: Any, question: str, **options: Any) -> str:
    response = await engine.astream_chat(question, **options)
    return "".join([word async for word in response.async_response_gen()])


WAYS: dict[str, Callable[..., str]] = {
    "chat": lambda engine, question, **options: str(engine.chat(question, **options)),
    "achat": lambda engine, question, **options: str(asyncio.run(engine.achat(question, **options))),
    "stream_chat": _streamed,
    "astream_chat": lambda engine, question, **options: asyncio.run(_astreamed(engine, question, **options)),
}


@pytest.fixture(params=list(WAYS))
def ask(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Asks a chat engine, in each of the ways there are."""
    return WAYS[request.param]


@pytest.fixture(params=list(ENGINES))
def chatting(request: pytest.FixtureRequest, ask: Callable[..., str]) -> Callable[..., Any]:
    """Makes each of the chat engines."""
    return partial(ENGINES[request.param], streaming=ask in (WAYS["stream_chat"], WAYS["astream_chat"]))


def prompts_with(llm: ChatModel, words: str) -> int:
    return sum(words in llm.text(i) for i in range(len(llm.prompts)))


# --- every chat engine, every way ----------------------------------------------------------------------------------------


def test_what_is_known_is_put_before_the_model_without_a_second_system_message(
    engine: MemOS, remembering: Any, chatting: Any, ask: Any
) -> None:
    engine.add(LEMON, actor="ann")
    engine.add("The secret tea of Tom.", actor="tom")
    llm = ChatModel("With lemon.")
    assert ask(chatting(remembering(), llm), "How does Ann take her tea?") == "With lemon."
    assert prompts_with(llm, LEMON)
    assert not prompts_with(llm, "Tom")
    assert all(len(llm.systems(i)) <= 1 for i in range(len(llm.prompts)))
    assert prompts_with(llm, "How does Ann take her tea?")


def test_a_turn_is_kept_and_learnt_once_and_recalled_in_another_session(
    engine: MemOS, remembering: Any, chatting: Any, ask: Any
) -> None:
    first = remembering()
    ask(chatting(first, ChatModel("I see.")), "I take my tea with lemon.")
    assert contents(first.get_all()) == [("user", "I take my tea with lemon."), ("assistant", "I see.")]
    assert texts(engine) == ["I take my tea with lemon.", "I see."]
    assert {c.origin.session for c in learnt(engine)} == {first.session_id}
    llm = ChatModel("Yes.")
    ask(chatting(remembering(), llm), "How is my tea?")
    assert prompts_with(llm, "user: I take my tea with lemon.")


def test_a_conversation_goes_on_where_it_was(engine: MemOS, remembering: Any, chatting: Any, ask: Any) -> None:
    memory = remembering(session_id="s")
    ask(chatting(memory, ChatModel("Hello Ann.")), "I am Ann.")
    llm = ChatModel("Ann.")
    ask(chatting(remembering(session_id="s"), llm), "Who am I?")
    assert prompts_with(llm, "Hello Ann.")
    assert not prompts_with(llm, "recalled-memories")  # what it would recall stands in the conversation already
    assert contents(memory.get_all())[2:] == [("user", "Who am I?"), ("assistant", "Ann.")]
    assert texts(engine) == ["I am Ann.", "Hello Ann.", "Who am I?", "Ann."]


def test_reset_forgets_the_conversation_and_not_what_was_learnt(remembering: Any, chatting: Any, ask: Any) -> None:
    chat = chatting(remembering(), ChatModel("I see."))
    ask(chat, "I take my tea with lemon.")
    assert contents(chat.chat_history) == [("user", "I take my tea with lemon."), ("assistant", "I see.")]
    chat.reset()
    assert chat.chat_history == []
    llm = ChatModel("With lemon.")
    ask(chatting(chat._memory, llm), "How is my tea?")
    assert prompts_with(llm, "user: I take my tea with lemon.")


# --- one of them ---------------------------------------------------------------------------------------------------------


def test_a_history_handed_in_takes_the_place_of_the_conversation(engine: MemOS, remembering: Any, ask: Any) -> None:
    memory, llm = remembering(session_id="s"), ChatModel("All right.")
    chat = SimpleChatEngine.from_defaults(memory=memory, llm=llm)
    history = [ChatMessage(role="user", content="I have a cat."), ChatMessage(role="assistant", content="Its name?")]
    for _ in range(2):  # a caller who keeps the history himself hands it in each time
        ask(chat, "Miso.", chat_history=history)
        assert contents(memory.get_all()) == [
            ("user", "I have a cat."), ("assistant", "Its name?"), ("user", "Miso."), ("assistant", "All right.")
        ]  # fmt: skip
    assert texts(engine).count("I have a cat.") == texts(engine).count("Its name?") == 1


def test_a_chat_engine_makes_its_memory_by_a_subclass_that_says_whose(
    engine: MemOS, remembering: Any, ask: Any
) -> None:
    remembering()  # from now on the engine is found by its path

    class AnnsMemory(MemOSMemory):
        path: str = engine.path
        user_id: str = "ann"

    engine.add(LEMON, actor="ann")
    llm = ChatModel("With lemon.")
    chat = SimpleChatEngine.from_defaults(memory_cls=AnnsMemory, llm=llm)
    ask(chat, "How does Ann take her tea?")
    assert chat._memory.memory is engine
    assert chat._memory.token_limit in (
        CONTEXT - 256,
        CONTEXT * 3 // 4,
    )  # 0.14.0 hands over the model, later ones the limit
    assert LEMON in llm.text()


def test_a_chat_engine_that_makes_a_memory_of_nobody_is_told_how_to_say_whose(engine: MemOS) -> None:
    class SomebodysMemory(MemOSMemory):
        path: str = engine.path

    with pytest.raises(InvalidArgument, match=r"user_id=.*subclass"):
        SimpleChatEngine.from_defaults(memory_cls=SomebodysMemory, llm=ChatModel())


def test_it_works_with_a_model_that_completes(engine: MemOS, remembering: Any) -> None:
    engine.add(LEMON, actor="ann")
    llm = CompletionModel("With lemon.")
    assert str(SimpleChatEngine.from_defaults(memory=remembering(), llm=llm).chat("tea?")) == "With lemon."
    assert LEMON in llm.prompts[0]


def test_braces_in_a_memory_do_not_break_the_templates_of_context_engines(
    engine: MemOS, remembering: Any, ask: Any
) -> None:
    engine.add('Her tea is {"kind": "green", "of": {}} and {unknown}.', actor="ann")
    llm = ChatModel("Green.")
    ask(ContextChatEngine.from_defaults(Documents(), memory=remembering(), llm=llm), "What is her tea?")
    assert '{"kind": "green", "of": {}} and {unknown}' in llm.text()


def test_memory_and_retriever_of_one_store_serve_one_chat_engine(engine: MemOS, remembering: Any) -> None:
    engine.add("The boiler is serviced in October.", actor="ann", namespace=("manuals",))
    engine.add(LEMON, actor="ann")
    llm = ChatModel("In October.")
    chat = ContextChatEngine.from_defaults(
        MemOSRetriever(engine, actor="ann", namespace=("manuals",)), memory=remembering(), llm=llm
    )
    chat.chat("When is the boiler serviced, and is there tea?")
    assert "October" in llm.systems()[0]
    assert LEMON not in llm.systems()[0]
    assert LEMON in llm.text()
