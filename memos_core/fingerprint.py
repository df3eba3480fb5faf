"""The identity of a model: of all that a cache or an adapter made for it depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

_VOLATILE = {
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures", "_attn_implementation",
    "attn_implementation", "output_attentions", "output_hidden_states", "return_dict", "id2label", "label2id", "problem_type",
    "chunk_size_feed_forward", "is_encoder_decoder", "_attn_implementation_internal", "_experts_implementation",
}  # fmt: skip
_CHUNK = 1 << 18  # words that are summed at once: they stay in a processor's cache, where memory would be the limit
_ODD = 0x5851F42D4C957F2D


def fingerprint(network: Any, tokenizer: Any) -> str:
    """See `LocalModel.fingerprint`."""
    config = {k: v for k, v in network.config.to_dict().items() if k not in _VOLATILE}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = {
        "c": json.dumps(config, sort_keys=True, default=str), "w": _weights(network), "t": words,
        "p": str(getattr(tokenizer, "chat_template", None)),
    }  # fmt: skip
    short = "/".join(f"{n}={hashlib.sha256(v.encode()).hexdigest()[:12]}" for n, v in parts.items())
    return f"{network.config.model_type}/{str(network.dtype).removeprefix('torch.')}/{short}"


def _weights(network: Any) -> str:
    """For each tensor its shape and a number: sums over its bits, eight bytes at a time, each times an odd number that depends on its
    place, modulo 2^64. Whatever single word changes changes it."""
    parts, tables = [], {}
    with torch.inference_mode():
        for name, tensor in sorted(network.state_dict().items()):
            octets = tensor.detach().contiguous().flatten().view(torch.uint8)
            if octets.storage_offset() % 8:
                octets = octets.clone()
            if octets.device not in tables:
                place = torch.arange(_CHUNK, dtype=torch.int64, device=octets.device)
                tables[octets.device] = (place * _ODD + 0x14057B7EF767814F) | 1, torch.empty_like(place)
            factors, products = tables[octets.device]
            whole = len(octets) // 8 * 8
            sums = [
                torch.mul(some, factors[: len(some)], out=products[: len(some)]).sum()
                for some in octets[:whole].view(torch.int64).split(_CHUNK)
            ]
            total = int.from_bytes(bytes(octets[whole:].tolist()), "little")
            for found in torch.stack(sums).tolist():
                total = (total * _ODD + found) % (1 << 64)
            parts.append(f"{name}:{tuple(tensor.shape)}:{total}")
    return "\n".join(parts)


def difference(made_for: str, model: str) -> str:
    """In words, what differs between two fingerprints."""
    names = {"c": "configuration", "w": "weights", "t": "tokenizer", "p": "chat template"}
    pairs = list(zip(made_for.split("/"), model.split("/"), strict=False))
    found = [names.get(a.partition("=")[0], f"{a} is not {b}") for a, b in pairs if a != b]
    return ", ".join(found) if len(made_for.split("/")) == len(model.split("/")) else f"{made_for} is not {model}"
