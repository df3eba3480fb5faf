"""MemOSLLM over the tiny model, which really looks facts up: in its prompt, and in its memory."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra local")

from llama_index.core.chat_engine import SimpleChatEngine

from llamaindex_memos import MemOSLLM, MemOSMemory
from memos_core import LocalModel, MemOS
from tests.tiny_lm import language
from tests.words import WordsEmbedder

TINY = Path(__file__).parents[1] / "tiny_lm"
FACTS = language.draw_facts(random.Random(5), 8)


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return LocalModel(TINY)


def asked(fact: language.Fact) -> str:
    return language.ask(fact, language.QUESTIONS[0])


def right(answers: list[str]) -> int:
    return sum(said.strip() == language.answer(fact) for said, fact in zip(answers, FACTS, strict=True))


def test_a_chat_engine_answers_from_its_system_prompt(tiny: LocalModel, memory: MemOS) -> None:
    told = " ".join(language.state(fact, language.STATEMENTS[0]) for fact in FACTS)
    answers = []
    for i, fact in enumerate(FACTS):
        buffer = MemOSMemory(memory, user_id="ann", session_id=str(i), write=False)
        engine = SimpleChatEngine.from_defaults(llm=MemOSLLM(tiny, max_tokens=8), system_prompt=told, memory=buffer)
        answers.append("".join(engine.stream_chat(asked(fact)).response_gen))
    assert right(answers) >= 7


def test_facts_in_memory_are_answered_to_whose_they_are(tiny: LocalModel, tmp_path: Path) -> None:
    with MemOS(tmp_path / "store", embed=WordsEmbedder(), model=tiny) as memory:
        for fact in FACTS:
            memory.add(language.state(fact, language.STATEMENTS[0]), actor="ann")
        model = MemOSLLM(memory=memory, user_id="ann", max_tokens=8)
        assert right([model.complete(asked(fact)).text for fact in FACTS]) >= 7
        assert right([asyncio.run(model.acomplete(asked(fact), user_id="bob")).text for fact in FACTS]) == 0
