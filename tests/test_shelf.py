"""Held keys and values: what is found is what was put, within the budgets, whatever else happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memos_core import chain
from memos_core.shelf import Shelf

TOKEN = 2 * 2 * 4  # bytes of the keys and values of one token: one layer and head, of dimension 2, in four bytes
ROOTS = ("ann", "ben")
ACCELERATOR = torch.device("xpu")  # names a memory apart from the host's; no tensor of these tests lies there


def block_of(start: str, ids: Sequence[int]) -> torch.Tensor:
    """Keys and values of the last token's block that say by which tokens, from the root on, they were made."""
    total = torch.tensor([hash((start, tuple(ids[: i + 1]))) % 10_000 for i in range(len(ids))], dtype=torch.float32)
    return torch.stack([total, -total]).view(2, 1, 1, -1, 1).expand(2, 1, 1, len(ids), 2)


def put_all(shelf: Shelf, start: str, ids: Sequence[int], size: int, sources: Sequence[str] = ()) -> int:
    """Put a prompt in blocks of `size`, behind what is found of it; how many tokens of it are held then."""
    at, parent = 0, start
    for found in shelf.find(start, ids):
        if found.tokens < found.tensor.shape[-2]:
            if at + found.tokens == len(ids):
                return len(ids)
            break
        at, parent = at + found.tokens, found.key
    while at < len(ids):
        end = min(at + size, len(ids))
        key = shelf.put(start, parent, ids[at:end], block_of(start, ids[:end])[..., at:end, :].clone(), sources)
        if key is None:
            break
        at, parent = end, key
    return at


def found_of(shelf: Shelf, start: str, ids: Sequence[int]) -> int:
    """How many tokens are found; that they are the right ones is checked."""
    found = shelf.find(start, ids)
    tokens = sum(f.tokens for f in found)
    if found:
        joined = torch.cat([f.tensor[..., : f.tokens, :] for f in found], dim=-2)
        assert torch.equal(joined, block_of(start, ids[:tokens]))
    return tokens


@dataclass
class Prompts:
    """Token ids that often begin alike."""

    known: list[tuple[int, ...]] = field(default_factory=lambda: [()])

    def pick(self, which: int, cut: int, more: list[int]) -> tuple[int, ...]:
        chosen = self.known[which % len(self.known)]
        made = (*chosen[: cut % (len(chosen) + 1)], *more)
        self.known.append(made)
        return made


class Budgets(RuleBasedStateMachine):
    """Whatever is put, found and forgotten, in whatever order."""

    @initialize(device=st.integers(0, 14), host=st.integers(0, 10), two=st.booleans())
    def begin(self, device: int, host: int, two: bool) -> None:
        self.budgets = device * TOKEN, host * TOKEN if two else 0
        self.shelf = Shelf(ACCELERATOR if two else torch.device("cpu"), *self.budgets)
        self.prompts = Prompts()
        self.sources: dict[tuple[str, tuple[int, ...]], set[str]] = {}

    @rule(
        who=st.sampled_from(ROOTS), which=st.integers(0, 20), cut=st.integers(0, 20), size=st.integers(1, 8),
        more=st.lists(st.integers(0, 2), min_size=1, max_size=9), source=st.sampled_from(["", "m1", "m2"]),
    )  # fmt: skip
    def put(self, who: str, which: int, cut: int, size: int, more: list[int], source: str) -> None:
        ids = self.prompts.pick(which, cut, more)
        put_all(self.shelf, who, ids, size, [source] if source else [])

    @precondition(lambda self: len(self.prompts.known) > 1)
    @rule(who=st.sampled_from(ROOTS), which=st.integers(0, 50))
    def find(self, who: str, which: int) -> None:
        ids = self.prompts.known[which % len(self.prompts.known)]
        assert found_of(self.shelf, who, ids) <= len(ids)

    @rule(source=st.sampled_from(["m1", "m2"]))
    def forget(self, source: str) -> None:
        self.shelf.forget([source])
        assert not self.shelf.forget([source])

    @rule()
    def clear(self) -> None:
        self.shelf.clear()
        held = self.shelf.held()
        assert (held.device_bytes, held.host_bytes, held.blocks) == (0, 0, 0)

    @invariant()
    def budgets_hold(self) -> None:
        held = self.shelf.held()
        assert 0 <= held.device_bytes <= self.budgets[0]
        assert 0 <= held.host_bytes <= self.budgets[1]

    @invariant()
    def what_is_found_is_counted(self) -> None:
        seen = {
            f.key: f.tensor.nbytes for who in ROOTS for ids in self.prompts.known for f in self.shelf.find(who, ids)
        }
        held = self.shelf.held()
        assert sum(seen.values()) <= held.device_bytes + held.host_bytes
        assert len(seen) <= held.blocks

    def teardown(self) -> None:
        self.clear()  # with nothing left, nothing is counted


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=80, stateful_step_count=25)


def test_nothing_is_lost_for_a_block_that_can_never_fit() -> None:
    shelf = Shelf(torch.device("cpu"), 10 * TOKEN, 0)
    short, long = tuple(range(5)), tuple(range(20))
    assert put_all(shelf, "ann", short, 5) == 5
    assert shelf.put("ann", "ann", long, block_of("ann", long).clone()) is None
    assert found_of(shelf, "ann", long) == 5


def test_what_leaves_the_device_is_found_on_the_host() -> None:
    shelf = Shelf(ACCELERATOR, 10 * TOKEN, 20 * TOKEN)
    first, second = tuple(range(10)), tuple(range(100, 110))
    put_all(shelf, "ann", first, 5)
    put_all(shelf, "ann", second, 5)
    held = shelf.held()
    assert (held.device_bytes, held.host_bytes, held.blocks) == (10 * TOKEN, 10 * TOKEN, 4)
    assert found_of(shelf, "ann", first) == 10


def test_the_least_recently_used_goes_first() -> None:
    shelf = Shelf(torch.device("cpu"), 20 * TOKEN, 0)
    first, second, third = (tuple(range(n, n + 10)) for n in (0, 100, 200))
    put_all(shelf, "ann", first, 10)
    put_all(shelf, "ann", second, 10)
    shelf.find("ann", first)
    put_all(shelf, "ann", third, 10)
    assert [found_of(shelf, "ann", ids) for ids in (first, second, third)] == [10, 0, 10]


def test_prompts_that_part_within_a_block_are_both_found_whole() -> None:
    shelf = Shelf(torch.device("cpu"), 1 << 20, 0)
    first = tuple(range(20))
    second = (*range(10), *range(50, 80))  # its blocks of 10 end within the first's of 20
    third = (*range(10), 10, 11, *range(90, 120))
    put_all(shelf, "ann", first, 20)
    put_all(shelf, "ann", second, 10)
    put_all(shelf, "ann", third, 10)
    assert [found_of(shelf, "ann", ids) for ids in (first, second, third)] == [20, 40, 42]


def test_a_chain_may_be_longer_than_a_call_stack() -> None:
    shelf = Shelf(torch.device("cpu"), 1 << 20, 0)
    ids = tuple(range(3_000))
    at, parent = 0, "ann"
    for at in ids:
        parent = shelf.put("ann", parent, (at,), torch.zeros(2, 1, 1, 1, 1), ["m1"]) or ""
    assert len(shelf.find("ann", ids)) == 3_000
    assert shelf.forget(["m1"]) == 3_000


def test_room_on_the_host_is_not_made_by_dropping_what_precedes_the_block_that_needs_it() -> None:
    """The host has room for one block, and its parent lies there."""
    shelf = Shelf(ACCELERATOR, 8 * TOKEN, 4 * TOKEN)
    chained, other, third = tuple(range(8)), tuple(range(100, 108)), tuple(range(200, 208))
    put_all(shelf, "ann", chained[:4], 4)
    put_all(shelf, "ann", other, 8)
    put_all(shelf, "ann", chained, 4)
    assert (shelf.held().device_bytes, shelf.held().host_bytes) == (4 * TOKEN, 4 * TOKEN)
    put_all(shelf, "ann", third, 8)
    assert (shelf.held().device_bytes, shelf.held().host_bytes) == (8 * TOKEN, 4 * TOKEN)
    assert [found_of(shelf, "ann", ids) for ids in (chained, other, third)] == [4, 0, 8]


@pytest.mark.parametrize("forgotten", ["early", "late"])
def test_with_a_memory_goes_what_was_made_from_it_and_what_follows(forgotten: str) -> None:
    shelf = Shelf(torch.device("cpu"), 1 << 20, 0)
    first = shelf.put("ann", "ann", (1, 2), block_of("ann", (1, 2)).clone(), ["early"])
    assert first is not None
    shelf.put("ann", first, (3, 4), block_of("ann", (1, 2, 3, 4))[..., 2:, :].clone(), ["late"])
    assert shelf.forget([forgotten]) == (2 if forgotten == "early" else 1)
    assert found_of(shelf, "ann", (1, 2, 3, 4)) == (0 if forgotten == "early" else 2)


def test_one_roots_blocks_are_not_found_under_another() -> None:
    shelf = Shelf(torch.device("cpu"), 1 << 20, 0)
    ids = tuple(range(50))
    ann, ben = (chain.root("model", (name,)) for name in ROOTS)
    put_all(shelf, ann, ids, 8)
    assert found_of(shelf, ann, ids) == 50
    assert found_of(shelf, ben, ids) == 0
    assert found_of(shelf, chain.root("model", ("ann",), "an adapter"), ids) == 0
    assert found_of(shelf, chain.root("model", ("ann", "")), ids) == 0
