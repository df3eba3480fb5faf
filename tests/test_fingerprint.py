"""The part of a model's identity that its weights are: whatever changes in them changes it, and nothing else does."""

from __future__ import annotations

import pytest
import torch

from memos_core.fingerprint import fingerprint
from tests.networks import byte_tokenizer, random_network


class Holding(torch.nn.Module):
    """A network that consists of one tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("held", tensor)
        self.config, self.dtype = random_network().config, torch.float32


def identity(tensor: torch.Tensor) -> str:
    return fingerprint(Holding(tensor), byte_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("size", [1, 3, 9, 1_000, 2_200_007])
def test_a_change_of_one_number_anywhere_is_seen(dtype: torch.dtype, size: int) -> None:
    tensor = (torch.rand(size, generator=torch.Generator().manual_seed(size)) * 4).to(dtype)
    first = identity(tensor)
    assert identity(tensor.clone()) == first
    for place in {0, size // 2, size - 1}:
        other = tensor.clone()
        other[place] += 1
        assert identity(other) != first


def test_numbers_that_change_places_are_seen() -> None:
    tensor = torch.arange(600_000, dtype=torch.float32)
    assert len({identity(t) for t in (tensor, tensor.flip(0), tensor.roll(2), tensor.view(2, -1))}) == 4


def test_how_a_tensor_lies_in_memory_is_not_seen() -> None:
    whole = torch.rand(51, 40)
    for view in (whole[1:], whole[:, 3:], whole.T, whole.flatten()[1:]):
        assert identity(view) == identity(view.clone(memory_format=torch.contiguous_format))
