"""What is deleted while a move or an answer is under way does not come back as keys and values, on disk or in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from memos_core import LocalModel, MemCube, MemOS
from memos_core.shelf import Shelf
from tests.conftest import Clock
from tests.networks import random_model
from tests.test_tick import QUESTION, SLOW, ask, done, kept, told


@pytest.fixture
def open_slow(open_store: Callable[..., MemOS]) -> Callable[..., MemOS]:
    return lambda **options: open_store(**{"model": random_model(), "rates": SLOW, **options})


def in_memory(model: LocalModel, cubes: list[MemCube]) -> int:
    """Blocks that are held of any of these memories; they are not any more then."""
    return model.shelf.forget([c.id for c in cubes])


class Watched(Shelf):
    """A shelf that does something before the next block is put on it."""

    before: Callable[[], object] | None = None

    def put(self, *args: Any, **options: Any) -> str | None:
        if self.before is not None:
            do, self.before = self.before, None
            do()
        return super().put(*args, **options)


def watched(open_slow: Callable[..., MemOS]) -> tuple[MemOS, LocalModel, Watched]:
    """A store newly opened, whose model has a shelf that can be watched and on which there is nothing."""
    model = random_model()
    model.shelf = shelf = Watched(torch.device("cpu"), 64 << 20, 0)
    return open_slow(model=model), model, shelf


def test_what_a_tick_put_beside_the_model_goes_with_its_memories_though_nobody_asks_anything(
    open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    first = open_slow()
    cubes = told(first)
    ask(first, clock)
    first.tick()
    first.close()
    model = random_model()
    memory = open_slow(model=model)
    assert done(memory.tick().moves) == ["load activation"]
    assert model.shelf.held().blocks
    memory.delete([cubes[3].id])
    assert model.shelf.held().blocks == 0


def test_a_memory_that_is_deleted_while_it_is_loaded_does_not_stay_in_memory(
    open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    first = open_slow()
    cubes = told(first)
    ask(first, clock)
    first.tick()
    memory, model, shelf = watched(open_slow)
    shelf.before = lambda: first.delete([cubes[3].id])  # as another process would
    memory.tick()
    assert shelf.before is None
    assert in_memory(model, cubes) == 0


def test_a_memory_that_is_deleted_while_it_is_built_is_built_nowhere(
    open_slow: Callable[..., MemOS], clock: Clock
) -> None:
    with open_slow() as before:
        cubes = told(before)
        ask(before, clock)
    model = random_model()  # on whose shelf there is nothing: the build must run it
    assert model.token_bytes  # which is found by running it, once
    memory = open_slow(model=model)
    deleted = threading.Event()

    def delete(module: Any, args: Any) -> None:
        if not deleted.is_set():
            deleted.set()
            memory.delete([cubes[3].id])

    hook = model.network.register_forward_pre_hook(delete)
    try:
        report = memory.tick()
    finally:
        hook.remove()
    [build] = [c for c in report.moves if str(c.move.action) == "build"]
    assert build.outcome == "failed"
    assert cubes[3].id in build.detail
    assert kept(memory) == []
    assert memory._vault.db.site.files.listed("blobs") == {}
    assert in_memory(model, [cubes[3]]) == 0


@pytest.mark.parametrize("verb", ["delete", "update"])
def test_an_answer_that_is_under_way_does_not_bring_back_what_it_was_given(
    open_slow: Callable[..., MemOS], verb: str
) -> None:
    memory, model, shelf = watched(open_slow)
    cubes = told(memory, 3)
    change = {
        "delete": lambda: memory.delete([cubes[0].id]),
        "update": lambda: memory.update(cubes[0].id, "It is red."),
    }
    shelf.before = change[verb]  # once the text is recalled and run, before it is held
    memory.generate(QUESTION, max_tokens=2, session="talk")
    assert shelf.before is None
    assert in_memory(model, cubes[:1]) == 0
    assert cubes[0].text not in memory.generate(f"{QUESTION} Again?", max_tokens=2, session="talk").brief.text
