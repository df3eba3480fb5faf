"""Ticks: what the scheduler plans is carried out, told of and not done twice; what fails does not stop the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import Carried, InvalidArgument, Kind, KVCache, MemCube, MemOS, Policy, Rates, SchedulePolicy, State
from tests.conftest import Clock
from tests.networks import random_model

QUESTION = "Which colour does house 3 have?"
SLOW = Rates(prefill=10.0, disk=1e9)  # a model that takes its time: what is asked twice is worth keeping


def told(memory: MemOS, count: int = 12, **options: Any) -> list[MemCube]:
    return [memory.add(f"The colour of house {i} is number {i * 7}.", **options)[0] for i in range(count)]


def ask(memory: MemOS, clock: Clock, times: int = 3, **options: Any) -> str:
    text = ""
    for _ in range(times):
        clock.forward(seconds=20)
        text = memory.generate(QUESTION, max_tokens=4, **options).text
    return text


def kept(memory: MemOS, **options: Any) -> list[MemCube]:
    rows = memory._vault.rows("kind = 'activation' AND state = 'activated'")
    return [r.cube for r in rows]


def done(moves: tuple[Carried, ...]) -> list[str]:
    return [f"{c.move.action} {c.move.form}" for c in moves if c.outcome == "done"]


@pytest.fixture
def open_slow(open_store: Callable[..., MemOS]) -> Callable[..., MemOS]:
    return lambda **options: open_store(**{"model": random_model(), "rates": SLOW, **options})


@pytest.fixture
def memory(open_slow: Callable[..., MemOS]) -> MemOS:
    return open_slow()


# --- keys and values ------------------------------------------------------------------------------------------------------


def test_what_is_asked_again_and_again_is_kept_and_opened_and_the_answer_is_the_same(
    memory: MemOS, open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    told(memory)
    before = ask(memory, clock)
    report = memory.tick()
    assert done(report.moves) == ["build activation"]
    [cube] = kept(memory)
    assert len(cube.lineage) == 12
    fresh = open_slow()
    reply = fresh.generate(QUESTION, max_tokens=4)
    assert reply.usage.cached > 100
    assert reply.text == before
    [event] = [e for e in memory.log(subject=cube.id, verb="schedule")]
    assert event.outcome == "ok"
    assert "reads without it have cost" in event.detail


def test_a_second_tick_finds_nothing_to_do(memory: MemOS, clock: Clock) -> None:
    told(memory)
    ask(memory, clock)
    assert memory.tick().moves
    assert memory.tick().moves == ()
