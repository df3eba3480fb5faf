"""A kept passage on the shelf of a model: put there ahead of the requests that open it, weighed, moved out. Knows the model's shelf and
the chain of blocks; knows no memories.

What stands on the shelf is one tenant's: a passage is held under the scope whose requests open it, and answers nobody else's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from . import chain

if TYPE_CHECKING:
    import torch

    from .model import LocalModel

Part = tuple[Sequence[int], "torch.Tensor"]


def keys(model: LocalModel, tenant: Sequence[str], ids: Sequence[int]) -> tuple[list[str], int]:
    """The blocks of some tokens that are held, in order, and how many of the tokens they have."""
    found = model.shelf.find(chain.root(model.fingerprint, tenant), ids, using=False)
    return [f.key for f in found], sum(f.tokens for f in found)


def put(model: LocalModel, tenant: Sequence[str], parts: Sequence[Part], sources: Collection[str]) -> int:
    """Hold blocks (token ids, tensor of [2, layers, heads, tokens, dimension]) behind one another; how many tokens of them are held
    then, which is fewer where there is no room.

    sources: ids of the memories that they were made from.
    """
    parent = start = chain.root(model.fingerprint, tenant)
    held = 0
    for ids, tensor in parts:
        moved = tensor.to(model.device, model.dtype)
        key = model.shelf.put(start, parent, ids, moved, sources)
        if key is None:
            break
        parent, held = key, held + len(ids)
    return held


def let_go(model: LocalModel, tenant: Sequence[str], ids: Sequence[int]) -> int:
    """Drop the blocks of some tokens, and what follows them; how many."""
    return model.shelf.drop(keys(model, tenant, ids)[0][:1])
