"""Whole caches of whole prompts, for models whose caches cannot be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from memos_core.snapshots import Snapshots, size_of
from tests.networks import random_network


def filled(ids: list[int]) -> Any:
    """The cache of a network with sliding windows of 32 tokens."""
    network = random_network("sliding")
    cache = DynamicCache(config=network.config)
    with torch.inference_mode():
        network(input_ids=torch.tensor([ids]), past_key_values=cache)
    return cache


def memory_of(cache: Any) -> int:
    """Bytes of all memory that a cache's tensors lie in, whether they use it or not."""
    found = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for y in cache.layers for t in (y.keys, y.values)
    }
    return sum(found.values())


def test_a_snapshot_takes_no_more_memory_than_is_counted() -> None:
    long = list(range(200))
    snapshots = Snapshots(1 << 20)
    assert snapshots.put("ann", long, filled(long))
    known = snapshots.find("ann", [*long, 7])[1]
    assert memory_of(known) <= snapshots.bytes <= 2 * 2 * 2 * 16 * 4 * 32 + 64


def test_the_budget_holds_and_the_least_recently_used_goes_first() -> None:
    prompts = [[n] * 50 for n in (1, 2, 3)]
    caches = [filled(p) for p in prompts]
    snapshots = Snapshots(2 * size_of(caches[0]))
    snapshots.put("ann", prompts[0], caches[0])
    snapshots.put("ann", prompts[1], caches[1])
    snapshots.find("ann", prompts[0])
    snapshots.put("ann", prompts[2], caches[2])
    assert [snapshots.find("ann", p)[0] for p in prompts] == [50, 0, 50]
    assert snapshots.bytes <= 2 * size_of(caches[0])
    assert not Snapshots(10).put("ann", prompts[0], caches[0])


def test_what_is_handed_out_is_a_copy() -> None:
    ids = list(range(50))
    snapshots = Snapshots(1 << 20)
    snapshots.put("ann", ids, filled(ids))
    first = snapshots.find("ann", ids)[1]
    before = [layer.keys.clone() for layer in first.layers]
    with torch.inference_mode():
        random_network("sliding")(input_ids=torch.tensor([[9, 9]]), past_key_values=first)
        first.layers[0].keys.zero_()
    second = snapshots.find("ann", ids)[1]
    assert all(torch.equal(a, layer.keys) for a, layer in zip(before, second.layers, strict=True))


@pytest.mark.parametrize("asked", [list(range(49)), [*range(49), 99], [1, 2]])
def test_a_snapshot_is_good_for_going_on_at_its_end_only(asked: list[int]) -> None:
    snapshots = Snapshots(1 << 20)
    snapshots.put("ann", list(range(50)), filled(list(range(50))))
    assert snapshots.find("ann", asked) == (0, None)
    assert snapshots.find("ben", list(range(60))) == (0, None)
    assert snapshots.find("ann", list(range(60)))[0] == 50


def test_with_a_memory_goes_what_was_made_from_it() -> None:
    snapshots = Snapshots(1 << 20)
    for source in ("m1", "m2"):
        ids = [ord(source[1])] * 40
        snapshots.put("ann", ids, filled(ids), [source])
    assert snapshots.forget(["m1"]) == 1
    assert snapshots.find("ann", [ord("1")] * 40)[0] == 0
    assert snapshots.find("ann", [ord("2")] * 40)[0] == 40
    assert snapshots.forget(["m2"]) == 1
    assert snapshots.bytes == 0
