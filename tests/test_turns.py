"""Turns by a lease: one holder at a time, and another one when a holder is silent; by a register in memory and clocks that are set."""

from __future__ import annotations

import logging

import pytest

from memos_core import StoreUnavailable
from memos_core.turns import Entry, LeasedTurn


class Register:
    """An object in memory whose keeper has a clock of its own."""

    name = "memory"

    def __init__(self) -> None:
        self.said: str | None = None
        self.count = 0
        self.now = self.written = 1000.0
        self.is_down = False
        self.requests = 0

    def read(self) -> Entry | None:
        self._reach()
        return None if self.said is None else Entry(self.said, str(self.count), self.now - self.written)

    def write(self, said: str, before: Entry | None) -> Entry | None:
        self._reach()
        if (None if self.said is None else str(self.count)) != (None if before is None else before.tag):
            return None
        self.said, self.written = said, self.now
        self.count += 1
        return Entry(said, str(self.count))

    def _reach(self) -> None:
        self.requests += 1
        if self.is_down:
            raise StoreUnavailable("memory cannot be reached")


class Seconds:
    """Time of one process; waiting passes it, and the register's too."""

    def __init__(self, register: Register) -> None:
        self.now = 50.0
        self._register = register

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds
        self._register.now += seconds


@pytest.fixture
def register() -> Register:
    return Register()


@pytest.fixture
def seconds(register: Register) -> Seconds:
    return Seconds(register)


def turn(register: Register, seconds: Seconds) -> LeasedTurn:
    return LeasedTurn(register, 600.0, clock=seconds, wait=seconds.forward)


def test_one_has_it_and_the_other_waits_in_vain(register: Register, seconds: Seconds) -> None:
    one, other = turn(register, seconds), turn(register, seconds)
    one.acquire(0)
    began = seconds.now
    with pytest.raises(TimeoutError):
        other.acquire(20)
    assert 20 <= seconds.now - began < 21
    one.require()
    with pytest.raises(StoreUnavailable, match="lost its turn"):
        other.require()


def test_what_was_given_back_is_taken_at_once_and_nothing_is_left_unfinished(
    register: Register, seconds: Seconds
) -> None:
    one, other = turn(register, seconds), turn(register, seconds)
    one.acquire(0)
    one.release()
    assert other.acquire(0) is False
    other.release()
    assert one.acquire(0) is False


def test_who_comes_again_with_nobody_between_asks_once(register: Register, seconds: Seconds) -> None:
    one = turn(register, seconds)
    one.acquire(0)
    one.release()
    before = register.requests
    one.acquire(0)
    assert register.requests == before + 1


def test_one_that_is_silent_loses_it_and_learns_of_it_before_the_other_can_have_it(
    register: Register, seconds: Seconds
) -> None:
    one, other = turn(register, seconds), turn(register, seconds)
    one.acquire(0)
    register.is_down = True  # no renewal gets through
    seconds.forward(600)
    with pytest.raises(StoreUnavailable, match="lost its turn"):
        one.require()
    register.is_down = False
    with pytest.raises(TimeoutError):
        other.acquire(0)
    seconds.forward(3)
    assert other.acquire(0) is True  # whoever had it may be writing still
    one.release()
    other.require()


def test_asking_renews_it_in_time(register: Register, seconds: Seconds) -> None:
    one, other = turn(register, seconds), turn(register, seconds)
    one.acquire(0)
    for _ in range(5):
        seconds.forward(400)
        one.require()
    with pytest.raises(TimeoutError):
        other.acquire(0)


def test_one_that_cannot_be_renewed_is_good_for_the_rest_of_its_time(
    register: Register, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    one = turn(register, seconds)
    one.acquire(0)
    register.is_down = True
    seconds.forward(400)
    with caplog.at_level(logging.WARNING, "memos_core"):
        one.require()
    assert "not renewed" in caplog.text
    register.is_down = False
    one.require()
    seconds.forward(400)
    one.require()


def test_what_was_left_in_the_middle_tells_the_next_one_so(register: Register, seconds: Seconds) -> None:
    one, other = turn(register, seconds), turn(register, seconds)
    one.acquire(0)
    one.release(clean=False)
    assert other.acquire(0) is True
    other.release()
    assert one.acquire(0) is False


def test_what_was_taken_away_by_hand_tells_the_next_one_so_and_its_holder(register: Register, seconds: Seconds) -> None:
    one, other = turn(register, seconds), turn(register, seconds)
    one.acquire(0)
    register.said = None
    assert other.acquire(0) is True
    seconds.forward(400)
    with pytest.raises(StoreUnavailable, match="lost its turn"):
        one.require()
    one.release()
    other.require()


def test_one_whose_giving_back_got_lost_takes_it_again(register: Register, seconds: Seconds) -> None:
    one = turn(register, seconds)
    one.acquire(0)
    register.is_down = True
    one.release()
    register.is_down = False
    assert one.acquire(0) is True


def test_one_that_cannot_be_reached_says_so(register: Register, seconds: Seconds) -> None:
    register.is_down = True
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        turn(register, seconds).acquire(5)
