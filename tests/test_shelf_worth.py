"""What the shelf is told of its blocks: those worth least go first, and of what nothing is said the one used longest ago."""

from __future__ import annotations

import pytest
import torch

from memos_core import resident
from memos_core.shelf import Shelf
from tests.networks import random_model

SIZE = 2 * 1 * 1 * 4 * 2 * 4  # bytes of a block of four tokens


def block(*ids: int) -> tuple[tuple[int, ...], torch.Tensor]:
    return ids, torch.ones(2, 1, 1, len(ids), 2)


def shelf(blocks: int) -> Shelf:
    return Shelf(torch.device("cpu"), blocks * SIZE, 0)


def held(found: Shelf, start: str, *ids: int) -> bool:
    return bool(found.find(start, ids, using=False))


def test_what_is_worth_least_makes_room_however_lately_it_was_used() -> None:
    found = shelf(2)
    dear, cheap = (found.put(n, n, *block(i, i, i, i)) for i, n in enumerate(("dear", "cheap")))
    assert dear
    assert cheap
    found.value({dear: 2.0, cheap: 1.0})
    found.find("cheap", (1, 1, 1, 1))
    found.put("new", "new", *block(9, 9, 9, 9))
    assert held(found, "dear", 0, 0, 0, 0)
    assert not held(found, "cheap", 1, 1, 1, 1)


def test_of_what_nothing_is_said_the_longest_unused_goes_and_what_is_only_expected_before_it() -> None:
    found = shelf(3)
    expected = found.put("expected", "expected", *block(1, 1, 1, 1))
    found.put("old", "old", *block(2, 2, 2, 2))
    found.put("young", "young", *block(3, 3, 3, 3))
    assert expected
    found.value({expected: -1.0})
    found.put("a", "a", *block(4, 4, 4, 4))
    assert not held(found, "expected", 1, 1, 1, 1)
    found.put("b", "b", *block(5, 5, 5, 5))
    assert not held(found, "old", 2, 2, 2, 2)
    assert held(found, "young", 3, 3, 3, 3)


def test_looking_is_not_using() -> None:
    found = shelf(2)
    found.put("old", "old", *block(1, 1, 1, 1))
    found.put("young", "young", *block(2, 2, 2, 2))
    assert held(found, "old", 1, 1, 1, 1)
    found.put("new", "new", *block(3, 3, 3, 3))
    assert not held(found, "old", 1, 1, 1, 1)


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_passage_is_put_there_as_far_as_there_is_room_for_its_tenant_alone_and_let_go(room: int) -> None:
    model = random_model()
    model.shelf = shelf(room)
    parts = [block(1, 2, 3, 4), block(5, 6, 7, 8)]
    ids = tuple(range(1, 9))
    assert resident.put(model, ("ann", "work"), parts, ["memory"]) == 4 * min(room, 2)
    keys, tokens = resident.keys(model, ("ann", "work"), ids)
    assert (len(keys), tokens) == (min(room, 2), 4 * min(room, 2))
    assert model.shelf.on_device(keys)
    assert resident.keys(model, ("bob", "work"), ids) == ([], 0)
    assert resident.let_go(model, ("ann", "work"), ids) == min(room, 2)
    assert model.shelf.held().blocks == 0


def test_a_passage_goes_from_the_shelf_with_its_memories() -> None:
    model = random_model()
    model.shelf = shelf(4)
    resident.put(model, ("ann",), [block(1, 2, 3, 4), block(5, 6, 7, 8)], ["memory"])
    assert model.shelf.forget(["memory"]) == 2
