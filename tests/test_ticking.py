"""Ticks in a thread of their own: started, stopped and closed at any time, by anybody; requests do not wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from memos_core import InvalidArgument, MemOS
from tests.conftest import Clock
from tests.networks import random_model
from tests.test_tick import QUESTION, SLOW, ask, kept, told


@pytest.fixture
def memory(open_store: Callable[..., MemOS]) -> MemOS:
    return open_store(model=random_model(), rates=SLOW)


def ticking() -> int:
    return [t.name for t in threading.enumerate()].count("memos-tick")


def test_started_it_ticks_by_itself_until_it_is_stopped(memory: MemOS, clock: Clock) -> None:
    told(memory)
    ask(memory, clock)
    memory.start(every=0.01)
    memory.start(every=0.01)
    assert ticking() == 1
    memory.flush()
    assert len(kept(memory)) == 1
    memory.stop()
    memory.stop()
    assert ticking() == 0


def test_started_by_many_at_once_it_is_started_once_and_stopped_by_many_it_is_stopped(
    open_store: Callable[..., MemOS],
) -> None:
    memory = open_store()
    failures = list[BaseException]()

    def all_at_once(verb: Callable[[], None]) -> None:
        together = threading.Barrier(16)

        def one() -> None:
            together.wait()
            try:
                verb()
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=one) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(3):
        all_at_once(memory.start)
        assert ticking() == 1
        all_at_once(memory.stop)
        assert ticking() == 0
    assert failures == []


class Steps:
    """A clock that does something at its next call by the ticks' thread."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.do: Callable[[], object] | None = None
        self.done = threading.Event()

    def __call__(self) -> datetime:
        if threading.current_thread().name == "memos-tick":
            if self.do is not None:
                do, self.do = self.do, None
                do()
            else:
                self.done.set()
        return self.clock()


def test_a_tick_that_fails_in_a_way_that_nobody_thought_of_is_followed_by_the_next(
    open_store: Callable[..., MemOS], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("nobody thought of it")

    steps = Steps(clock)
    memory = open_store(clock=steps)
    steps.do = fail
    memory.start(every=0.001)
    assert steps.done.wait(60)
    memory.stop()
    assert "nobody thought of it" in caplog.text


def test_it_may_be_stopped_from_within_a_tick_and_started_again(open_store: Callable[..., MemOS], clock: Clock) -> None:
    steps = Steps(clock)
    memory = open_store(clock=steps)
    stopped = threading.Event()

    def stop() -> None:
        memory.stop()
        stopped.set()

    steps.do = stop
    memory.start(every=0.001)
    assert stopped.wait(60)
    memory.start(every=0.001)
    memory.stop()
    while ticking():  # the first one ends with its tick
        pass
    memory.add("The colour of the house is red.")
    assert memory.tick().moves == ()


def test_started_again_before_the_tick_that_was_interrupted_has_ended_it_goes_on(
    open_store: Callable[..., MemOS], clock: Clock
) -> None:
    within, go_on, again = threading.Event(), threading.Event(), threading.Event()
    first = list[threading.Thread]()

    def ticking_clock() -> datetime:
        me = threading.current_thread()
        if me.name == "memos-tick" and not first:
            first.append(me)
            within.set()
            go_on.wait(60)
        elif me.name == "memos-tick" and me is not first[0]:
            again.set()
        return clock()

    memory = open_store(clock=ticking_clock)
    memory.start(every=0.001)
    assert within.wait(60)
    memory.interrupt()
    memory.start(every=0.001)
    go_on.set()
    assert again.wait(60)
    memory.stop()


def test_who_searches_or_writes_does_not_wait_for_a_build(open_store: Callable[..., MemOS], clock: Clock) -> None:
    with open_store(model=random_model(), rates=SLOW) as before:
        told(before)
        ask(before, clock)
    memory = open_store(model=random_model(), rates=SLOW)  # whose shelf is empty: the build must run the model
    assert memory._model is not None
    assert memory._model.token_bytes  # which is found by running it, once
    building, go_on = threading.Event(), threading.Event()

    def stop_here(module: Any, args: Any) -> None:
        assert threading.current_thread().name == "memos-tick"
        building.set()
        go_on.wait(60)

    hook = memory._model.network.register_forward_pre_hook(stop_here)
    try:
        memory.start(every=60)
        assert building.wait(60)
        assert memory.search(QUESTION, k=1)
        assert memory.brief(QUESTION).cubes
        assert memory.add("The colour of house 99 is red.")
        assert kept(memory) == []
    finally:
        go_on.set()
        hook.remove()
    memory.flush()
    assert len(kept(memory)) == 1


def test_closing_stops_it(memory: MemOS) -> None:
    memory.start(every=0.01)
    memory.close()
    assert ticking() == 0


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), True, "often"])
def test_a_span_that_is_none_is_refused(memory: MemOS, every: Any) -> None:
    with pytest.raises(InvalidArgument, match="every"):
        memory.start(every)


def test_flush_is_the_end_of_all_that_is_pending(memory: MemOS, clock: Clock) -> None:
    told(memory)
    ask(memory, clock)
    memory.flush()
    assert len(kept(memory)) == 1
    assert memory.tick().moves == ()
