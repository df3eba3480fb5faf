"""A linear layer with its LoRA as one function, for training: fewer operations, and nothing is kept that is not needed.

It computes x W' + b + (x A') B', and of its gradients those of x, A and B. Knows tensors and the layers that a twin has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.T
        y = rows @ w.T if bias is None else torch.addmm(bias, rows, w.T)
        y.addmm_(low, b.T)
        ctx.save_for_backward(rows, w, a, b, low)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, w, a, b, low = ctx.saved_tensors
        [given] = gradients
        g = given.reshape(-1, given.shape[-1])
        back = g @ b
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (g @ w).addmm_(back, a).view(*given.shape[:-1], -1)
        return of_x, None, None, back.T @ rows, g.T @ low


def fits(layer: Any, name: str) -> bool:
    """Whether a layer of PEFT's can run as one function with an adapter: it is a plain linear layer in the adapter's dtype."""
    base = layer.base_layer
    return (
        type(base) is torch.nn.Linear and name in layer.lora_A and layer.lora_A[name].weight.dtype == base.weight.dtype
    )


def run(layer: Any, name: str, active: Sequence[str], x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A pass of the layer: with one adapter as one function, else as PEFT does it. Its scaling must be 1."""
    if list(active) != [name] or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
    base = layer.base_layer
    return _Product.apply(x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight)  # type: ignore[no-any-return, no-untyped-call]
