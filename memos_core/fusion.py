"""One adapter out of several. Side by side is exact: the sum of what they do, at the sum of their ranks. All else is rough.

`cat` is what to use for facts; a smaller adapter comes from distilling the union of the sources again. The rough methods average or prune
A and B apart from each other, and what comes of it must be measured (the gate) before anybody relies on it. Knows tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from .errors import InvalidArgument, ModelMismatch
from .fingerprint import difference
from .lora import LoRA, made
from .model import LocalModel
from .parametric import Twin

Rough = Literal["svd", "linear", "ties", "dare_ties", "dare_linear", "magnitude_prune"]
ROUGH: tuple[Rough, ...] = ("svd", "linear", "ties", "dare_ties", "dare_linear", "magnitude_prune")


def cat(loras: Sequence[LoRA]) -> LoRA:
    """Adapters side by side: what all of them add, exactly. The rank is the sum of theirs.

    Raises InvalidArgument for fewer than two, ModelMismatch for adapters of different models.
    """
    _require_several(loras)
    pairs = {}
    for module in dict.fromkeys(m for lora in loras for m in lora.targets):
        parts = [lora.pair(module) for lora in loras if module in lora.targets]
        pairs[module] = (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1))
    return made(loras[0].model, pairs)


def roughly(model: LocalModel, loras: Sequence[LoRA], method: Rough, *, density: float = 0.5, seed: int = 0) -> LoRA:
    """Adapters as one of the rank of the first, by one of PEFT's methods, all with weight 1. What it does is not the sum of what they
    do: measure it.

    density: the share of entries that the pruning methods keep. seed: of those that prune by chance.
    Raises InvalidArgument for fewer than two, an unknown method, or ranks that differ; ModelMismatch for adapters of different models.
    """
    _require_several(loras)
    if method not in ROUGH:
        raise InvalidArgument(f"method: {method!r} is none of cat, {', '.join(ROUGH)}")
    if len({lora.rank for lora in loras}) > 1 and method != "svd":
        raise InvalidArgument(f"method: {method} needs adapters of one rank, not {sorted({p.rank for p in loras})}")
    if not 0 < density <= 1:
        raise InvalidArgument(f"density: a share above 0 is needed, not {density!r}")
    with model.exclusive() as network:  # nobody's hooks are in it
        twin = Twin(network)
    names = [f"part {i}" for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        twin.put(name, lora)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        twin.weigh(
            names, "whole", method, density
        )  # a name that PEFT does not know yet: to one that it knows it does nothing
    return made(loras[0].model, {m: (a.detach(), b.detach()) for m, (a, b) in twin.pairs("whole").items()})


def _require_several(loras: Sequence[LoRA]) -> None:
    if len(loras) < 2:
        raise InvalidArgument(f"adapters: two or more can be fused, not {len(loras)}")
    for other in loras[1:]:
        if other.model != loras[0].model:
            raise ModelMismatch(
                f"these adapters were made for different models ({difference(other.model, loras[0].model)})"
            )
