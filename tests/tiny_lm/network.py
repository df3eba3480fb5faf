"""The tiny model as a plain module with the parameter names of Qwen3, and how it is initialised.

Same logits as `Qwen3ForCausalLM` of the same configuration, in less time: no masks, no caches, and only those positions go
through the output head that a loss looks at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3Config

LOOK_BACK = (1, 2, 3, 4)  # no further than a fact is long: with 1 to 8 the lookup hardly forms
FREQUENCIES = 6  # of RoPE, that a look-back head's query turns by


def configuration(vocabulary: int, end: int, pad: int) -> Qwen3Config:
    """Three layers, eight query heads over four key heads, tied embeddings."""
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=True,
        attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        eos_token_id=end, pad_token_id=pad, bos_token_id=None, dtype="float32",
    )  # fmt: skip


class Norm(nn.Module):
    """RMS normalisation over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention with grouped queries; x (batch, tokens, width), turn is RoPE's (cosine, sine), each (tokens, head_dim)."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.size)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.size)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.size)
        self.o_proj = nn.Linear(self.heads * self.size, config.hidden_size)
        self.q_norm = Norm(self.size, config.rms_norm_eps)
        self.k_norm = Norm(self.size, config.rms_norm_eps)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        batch, tokens, _ = x.shape
        query = _rotate(self.q_norm(self.q_proj(x).view(batch, tokens, self.heads, self.size)).transpose(1, 2), turn)
        key = _rotate(self.k_norm(self.k_proj(x).view(batch, tokens, self.kv_heads, self.size)).transpose(1, 2), turn)
        value = self.v_proj(x).view(batch, tokens, self.kv_heads, self.size).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * turn[0] + torch.cat((-second, first), dim=-1) * turn[1]


class MLP(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then the feed-forward part, each added to what goes in."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Everything below the output head."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)


class TinyLM(nn.Module):
    """`forward` gives hidden states (batch, tokens, width) for ids (batch, tokens); `logits` takes any of them to the vocabulary."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.model = Trunk(config)
        pace = rope_frequencies(config)
        angles = torch.outer(torch.arange(config.max_position_embeddings, dtype=torch.float32), pace).repeat(1, 2)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.embed_tokens(ids)
        turn = (self.cosine[: ids.shape[1]], self.sine[: ids.shape[1]])
        for layer in self.model.layers:
            x = layer(x, turn)
        return self.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.model.embed_tokens.weight.T


def rope_frequencies(config: Qwen3Config) -> Tensor:
    """Radians by which each pair of a head's dimensions turns from one position to the next, (head_dim / 2,)."""
    half = config.head_dim // 2
    return 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(half, dtype=torch.float32) / half)


@torch.no_grad()
def initialise(network: TinyLM, config: Qwen3Config, seed: int) -> None:
    """Normal weights, and a lookup written into the attention that training would take long to find.

    Layer 0: each head looks exactly 1, 2, 3 or 4 tokens back, by its biases and RoPE alone, and writes the token it finds, read
    through one orthonormal basis (`seen`), back through another (`past`). Layer 1: keys read the past, queries the token
    itself and the past, so that a token attends to where the same words have just gone by. Layer 2: query and key share a
    basis, so that like attends to like. Layers 1 and 2 copy what they attend to. Embeddings are about as large as what layer
    0 writes: three times smaller or twice larger, and the lookup did not form. All of it stays trainable.
    """
    draw = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if name.endswith("bias"):
            weight.zero_()
        elif weight.dim() == 2:
            weight.normal_(0, 0.12 if "embed" in name else 0.02, generator=draw)
            if name.endswith("down_proj.weight"):
                weight /= math.sqrt(2 * config.num_hidden_layers)

    def basis() -> Tensor:
        return torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size, generator=draw))[0]

    first, second, third = (layer.self_attn for layer in network.model.layers)
    seen, past, like = basis(), basis(), basis()
    _look_back(first, rope_frequencies(config))
    _copy(first, seen, past)
    _match(second, query=seen + past, key=past, draw=draw)
    _match(third, query=like, key=like, draw=draw)
    for attention in (second, third):
        whole = basis()
        _copy(attention, whole, whole)


def _look_back(attention: Attention, pace: Tensor) -> None:
    size, half = attention.size, attention.size // 2
    for norm, projection in ((attention.q_norm, attention.q_proj), (attention.k_norm, attention.k_proj)):
        norm.weight.fill_(3.0)
        projection.weight *= 0.2
    for head in range(attention.kv_heads):
        attention.k_proj.bias[head * size : head * size + FREQUENCIES] = 1.0
    for head in range(attention.heads):
        angle = LOOK_BACK[head % len(LOOK_BACK)] * pace[:FREQUENCIES]
        attention.q_proj.bias[head * size : head * size + FREQUENCIES] = angle.cos()
        attention.q_proj.bias[head * size + half : head * size + half + FREQUENCIES] = -angle.sin()


def _match(attention: Attention, *, query: Tensor, key: Tensor, draw: torch.Generator) -> None:
    """Queries and keys by slices of two bases (width, width), with noise, so that heads of one group may part."""
    width, size, group = len(query), attention.size, attention.heads // attention.kv_heads
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.fill_(1.5)
    grouped = query.T.view(attention.kv_heads, size, width).repeat_interleave(group, 0).reshape(-1, width)
    for projection, rows in ((attention.q_proj, grouped), (attention.k_proj, key.T)):
        noise = torch.randn(rows.shape, generator=draw) * 0.3 / math.sqrt(width)
        projection.weight.copy_((rows + noise) / math.sqrt(size))


def _copy(attention: Attention, read: Tensor, write: Tensor) -> None:
    """Values read by slices of one basis (width, width), written out by those of another."""
    width, size, group = len(read), attention.size, attention.heads // attention.kv_heads
    grouped = write.T.view(attention.kv_heads, size, width).repeat_interleave(group, 0).reshape(-1, width)
    attention.v_proj.weight.copy_(0.3 * read.T)
    attention.o_proj.weight.copy_(0.3 * grouped.T)
