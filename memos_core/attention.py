"""Attention of a few new tokens to many cached ones, exact and without copies. Knows transformers' attention functions; knows no prompts.

With a cache, transformers' own path writes the keys and values of grouped queries out once for each query head, in every layer, to
apply a mask to them. But all that is cached comes before all that is new, so only the new tokens among themselves need a mask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

NAME = "memos"  # of the implementation, in transformers' registries
_PLAIN = "_behind_a_prefix"  # marks masks that say no more than "all that is cached, and no later token"
_HALF = (torch.float16, torch.bfloat16)
_borrowers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # how many models use a network through this module
_lock = threading.Lock()


def borrow(network: Any) -> Callable[[], None]:
    """Let a network use this attention; what it gives undoes that, when the last who borrowed it calls it.

    Networks that were told to use another attention than torch's own, and those that do not attend to everything, are left alone.
    Every call that is not a plain continuation of a cache (padding, other masks, training) goes to transformers' own function.
    """
    with _lock:
        used = _borrowers.get(network, 0)
        if not used:
            if not _is_suited(network):
                return lambda: None
            AttentionInterface.register(NAME, attention)
            AttentionMaskInterface.register(NAME, mask)
            network.set_attn_implementation(NAME)
        _borrowers[network] = used + 1
    return lambda: _give_back(network)


def mask(q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: int = 0, **inputs: Any) -> torch.Tensor | None:
    """transformers' own mask; marked if it says only that the last `q_length` of `kv_length` tokens follow each other."""
    whole = isinstance(q_offset, int) and kv_offset == 0 and q_offset + q_length == kv_length
    if q_length not in (1, kv_length):  # for a cache with room at its end None would mean "from the first on"
        inputs["allow_is_causal_skip"] = False
    built = sdpa_mask(q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset, **inputs)
    plain = inputs.get("mask_function") is causal_mask_function and inputs.get("attention_mask") is None
    if built is not None and whole and plain:
        setattr(built, _PLAIN, True)
    return built  # type: ignore[no-any-return]  # transformers is untyped to this checker


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of queries of shape [rows, heads, new tokens, dimension] to keys and values of [rows, KV heads, all tokens, dimension];
    the result is [rows, new tokens, heads, dimension]."""
    new = query.shape[2]
    plain = getattr(attention_mask, _PLAIN, False) or (attention_mask is None and new == 1)
    special = dropout or key.shape != value.shape or more.get("position_bias") is not None or query.requires_grad
    if plain and not special:
        half = query.dtype in _HALF  # in which the sum of two pieces would be rounded once more
        if query.device.type == "cpu" and (new == 1 or not half):
            return _in_two_pieces(query, key, value, scaling).transpose(1, 2).contiguous(), None
        if query.device.type == "cuda" and half and new > 1:
            seen = causal_lower_right(new, key.shape[2])  # no tensor, but the name of a mask: flash attention knows it
            found = scaled_dot_product_attention(query, key, value, seen, scale=scaling, enable_gqa=True)
            return found.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(  # type: ignore[no-any-return]
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
    )


def _in_two_pieces(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """To the cached tokens without a mask, and to the new ones among themselves.

    A softmax over a union of sets is the sets' softmaxes weighted by their sums (FlashAttention, arXiv 2205.14135, section 3.1). To
    the cached tokens all query heads of a group go as one long query, so that a group's keys are read once.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    rows, heads, new, width = query.shape
    behind = key.shape[2] - new if new > 1 else key.shape[2]
    grouped = query.reshape(rows, key.shape[1], -1, width)
    cached, cached_sum = flash(grouped, key[:, :, :behind], value[:, :, :behind], scale=scaling)
    cached = cached.reshape(rows, heads, new, width)
    if new == 1:
        return cached  # type: ignore[no-any-return]  # torch.ops is untyped
    own, own_sum = flash(query, key[:, :, behind:], value[:, :, behind:], is_causal=True, scale=scaling)
    share = torch.sigmoid(own_sum - cached_sum.reshape(rows, heads, new)).unsqueeze(-1)
    return torch.lerp(cached, own, share)


def _is_suited(network: Any) -> bool:
    layers = DynamicCache(config=network.config).layers
    ours = network.config._attn_implementation == "sdpa" and all(type(layer) is DynamicLayer for layer in layers)
    return ours and hasattr(network, "set_attn_implementation")


def _give_back(network: Any) -> None:
    with _lock:
        left = _borrowers.pop(network, 0) - 1
        if left > 0:
            _borrowers[network] = left
        elif network.config._attn_implementation == NAME:
            network.set_attn_implementation("sdpa")
