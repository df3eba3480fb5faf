"""ChatMemOS over the tiny model, which really looks facts up: in its prompt, in its memory, in kept keys and values."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

pytest.importorskip("langchain_core", reason="needs the extra langchain")
pytest.importorskip("torch", reason="needs the extra local")

from langchain_core.messages import HumanMessage, SystemMessage

from langchain_memos import ChatMemOS
from memos_core import Kind, LocalModel, MemOS
from tests.tiny_lm import language
from tests.words import WordsEmbedder

TINY = Path(__file__).parents[1] / "tiny_lm"
FACTS = language.draw_facts(random.Random(3), 8)


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return LocalModel(TINY)


def asked(fact: language.Fact) -> str:
    return language.ask(fact, language.QUESTIONS[0])


def test_facts_in_the_prompt_are_answered(tiny: LocalModel) -> None:
    model = ChatMemOS(model=tiny, max_tokens=8)
    told = SystemMessage(" ".join(language.state(fact, language.STATEMENTS[0]) for fact in FACTS))
    answers = model.batch([[told, HumanMessage(asked(fact))] for fact in FACTS])
    right = sum(m.text.strip() == language.answer(fact) for m, fact in zip(answers, FACTS, strict=True))
    assert right >= 7
    assert answers[-1].usage_metadata["input_token_details"]["cache_read"] > 50


def test_facts_in_memory_are_answered_as_text_and_as_keys_and_values(tiny: LocalModel, tmp_path: Path) -> None:
    with MemOS(tmp_path / "store", embed=WordsEmbedder(), model=tiny, actor="ann") as memory:
        kept = [memory.add(language.state(fact, language.STATEMENTS[0]))[0].id for fact in FACTS]
        model = ChatMemOS(memory=memory, user_id="ann", max_tokens=8)
        as_text = [model.invoke(asked(fact)) for fact in FACTS]
        memory.convert(kept, Kind.ACTIVATION)
        as_keys = [asyncio.run(model.ainvoke(asked(fact))) for fact in FACTS]
        nobodys = model.invoke(asked(FACTS[0]), user_id="bob")
    for answers in (as_text, as_keys):
        assert sum(m.text.strip() == language.answer(fact) for m, fact in zip(answers, FACTS, strict=True)) >= 7
    assert set(as_keys[0].response_metadata["memories"]) == set(kept)
    details = [
        m.usage_metadata["input_token_details"]["cache_read"] / m.usage_metadata["input_tokens"] for m in as_keys
    ]
    assert min(details) > 0.8
    assert nobodys.text.strip() != language.answer(FACTS[0])
    assert nobodys.response_metadata["memories"] == []
