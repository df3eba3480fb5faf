"""Requests go before what can wait: a build runs in pieces, each when nobody is served or it has waited for long enough."""

from __future__ import annotations

import threading
from typing import Any

import torch

from memos_core.requests import PIECE, Requests, patiently
from tests.networks import random_model


def test_work_that_can_wait_waits_while_a_request_is_under_way() -> None:
    requests, ran = Requests(), list[int]()
    going = threading.Event()

    def work() -> None:
        going.set()
        requests.wait(60)
        ran.append(1)

    with requests.one(), requests.one():
        thread = threading.Thread(target=work)
        thread.start()
        going.wait()
        assert ran == []
    thread.join()
    assert ran == [1]


def test_it_does_not_wait_for_ever() -> None:
    requests = Requests()
    with requests.one():
        assert not requests.wait(0.001)
    assert requests.wait(0)


def test_it_runs_in_pieces_and_asks_before_each() -> None:
    asked, pieces = list[float](), list[int]()

    class Watched(Requests):
        def wait(self, seconds: float) -> bool:
            asked.append(seconds)
            return True

    def run(ids: Any, cache: Any) -> int:
        pieces.append(len(ids))
        return len(pieces)

    assert patiently(Watched(), run, range(2 * PIECE + 5), None) == 3
    assert pieces == [PIECE, PIECE, 5]
    assert len(asked) == 3


def test_a_stream_is_a_request_from_its_first_step_to_its_end() -> None:
    model = random_model()
    pieces = model.stream([{"role": "user", "content": "hello"}], max_tokens=4)
    assert model.requests.wait(0)
    next(pieces)
    assert not model.requests.wait(0)
    pieces.close()
    assert model.requests.wait(0)


def test_blocks_made_in_pieces_are_those_made_at_once() -> None:
    model = random_model()
    asked = model.prompt(
        [{"role": "system", "content": "The colour of the house is red. " * 20}, {"role": "user", "content": "?"}]
    )
    whole, pieces = (model.blocks(asked, len(asked.ids), patient=patient) for patient in (False, True))
    assert len(asked.ids) > 2 * PIECE
    assert [ids for ids, _ in whole] == [ids for ids, _ in pieces]
    for (_, a), (_, b) in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
