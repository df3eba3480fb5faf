"""Answers with memory: what stands where in the prompt, and what a conversation runs again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memos_core import Kind, MemOS, StoreClosed
from tests.networks import random_model


@pytest.fixture
def memory(open_store: Callable[..., MemOS]) -> MemOS:
    return open_store(model=random_model(window=8192))


def test_what_is_recalled_is_shown_and_said(memory: MemOS) -> None:
    [tea] = memory.add("I take my tea with lemon.")
    reply = memory.generate("How do I take my tea?", max_tokens=3)
    assert [c.id for c in reply.brief.cubes] == [tea.id]
    assert "I take my tea with lemon." in reply.brief.text
    assert reply.usage.output == 3
    assert reply.finish == "length"


def test_pieces_are_the_text(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.")
    pieces = list(memory.stream("How do I take my tea?", max_tokens=20))
    assert len(pieces) > 1
    assert "".join(pieces) == memory.generate("How do I take my tea?", max_tokens=20).text


def test_each_turn_of_a_conversation_runs_what_it_added(memory: MemOS) -> None:
    for i in range(10):
        memory.add(f"House {i} is painted in colour number {i * 7}.")
    memory.convert([h.cube.id for h in memory.search("house", k=10)], Kind.ACTIVATION)
    memory.generate("What is there?", max_tokens=1)
    messages, ran, last = [], 0, 0
    for i in range(40):
        messages.append({"role": "user", "content": f"Tell me about house {i % 10} again, for the {i}th time."})
        reply = memory.generate(messages, session="talk", max_tokens=8)
        messages.append({"role": "assistant", "content": reply.text})
        if i == 0:
            first = reply.usage.input
        else:
            ran += reply.usage.prefilled
        last = reply.usage.input
    assert ran <= 1.05 * (last - first)


def test_what_a_conversation_was_shown_is_not_shown_again(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.")
    messages = [{"role": "user", "content": "How do I take my tea?"}]
    first = memory.generate(messages, session="talk", max_tokens=3)
    memory.add("My tea is from Assam.")
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "Where is my tea from?"}]
    second = memory.generate(messages, session="talk", max_tokens=3)
    assert [c.text for c in second.brief.cubes] == ["My tea is from Assam."]


def test_a_turn_asked_again_is_answered_alike(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.")
    messages = [{"role": "user", "content": "How do I take my tea?"}]
    first = memory.generate(messages, session="talk", max_tokens=8)
    again = memory.generate(messages, session="talk", max_tokens=8)
    assert again.text == first.text
    assert again.brief == first.brief


def test_a_deleted_memory_leaves_the_conversations_that_it_was_shown_in(memory: MemOS) -> None:
    [tea] = memory.add("I take my tea with lemon.")
    messages = [{"role": "user", "content": "How do I take my tea?"}]
    memory.generate(messages, session="talk", max_tokens=3)
    memory.delete(tea.id)
    reply = memory.generate(messages, session="talk", max_tokens=3)
    assert reply.brief.cubes == ()


def test_nothing_of_the_conversation_is_stored(memory: MemOS) -> None:
    memory.generate("Do you remember me?", max_tokens=3)
    assert memory.stats().memories == 0


def test_who_was_shown_what_is_in_the_log(memory: MemOS) -> None:
    [tea] = memory.add("I take my tea with lemon.")
    memory.generate("How do I take my tea?", max_tokens=3)
    [event] = memory.log(verb="generate")
    assert event.subject == tea.id
    assert event.detail == "shown to random-qwen3"


def test_a_system_message_of_the_callers_stays(memory: MemOS) -> None:
    memory.add("I take my tea with lemon.")
    said = [{"role": "system", "content": "You are a butler."}, {"role": "user", "content": "How do I take my tea?"}]
    with_it = memory.generate(said, max_tokens=3)
    without = memory.generate(said[1:], max_tokens=3)
    assert with_it.usage.input > without.usage.input
    assert with_it.brief == without.brief


def test_a_closed_engine_says_so(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(model=random_model())
    memory.close()
    with pytest.raises(StoreClosed):
        memory.generate("hello")
