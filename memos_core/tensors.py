"""Blocks of keys and values as bytes of one blob, and back: safetensors behind a manifest. Knows the format; opens no files.

Layout: 8 bytes of length, a JSON manifest, then one safetensors file for each block. The blob's name is the hash of the manifest, which
holds each block's hash: the name vouches for all of it, and a block can be read, and checked, alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from .blobs import Blobs, digest
from .errors import Damaged, InvalidArgument

_FORMAT = "memos-kv/1"
_MOST = 64 << 20  # bytes of a manifest: more is a lie


@dataclass(frozen=True, slots=True)
class Part:
    """One block in a blob: where it begins, how many bytes it has, their hash, and the ids of its tokens."""

    start: int
    bytes: int
    digest: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a blob says of itself. `shape` is (layers, KV heads, head dimension); `bits` is 0 for tensors as they were, or 8."""

    model: str
    dtype: str
    shape: tuple[int, int, int]
    bits: int
    parts: tuple[Part, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids of all blocks."""
        return tuple(i for part in self.parts for i in part.ids)


def pack(
    blocks: Sequence[tuple[Sequence[int], torch.Tensor]], model: str, bits: int = 0
) -> tuple[str, list[bytes], Manifest]:
    """Blocks (token ids, tensor of [2, layers, heads, tokens, dimension]) as the name and the bytes of a blob, and its manifest."""
    _, layers, heads, _, width = blocks[0][1].shape
    bodies = [save(_packed(tensor, bits)) for _, tensor in blocks]
    parts, at = [], 0
    for (ids, _), body in zip(blocks, bodies, strict=True):
        parts.append(Part(at, len(body), digest(body), tuple(ids)))
        at += len(body)
    manifest = Manifest(
        model, str(blocks[0][1].dtype).removeprefix("torch."), (layers, heads, width), bits, tuple(parts)
    )
    head = json.dumps({
        "format": _FORMAT, "model": model, "dtype": manifest.dtype, "shape": manifest.shape, "bits": bits,
        "blocks": [[p.start, p.bytes, p.digest, p.ids] for p in parts],
    }).encode()  # fmt: skip
    return digest(head), [len(head).to_bytes(8, "little"), head, *bodies], manifest


def manifest_of(blobs: Blobs, name: str) -> Manifest:
    """The manifest of a blob. Raises Damaged for one that is not what its name says."""
    size = int.from_bytes(blobs.read(name, 0, 8), "little")
    if not 0 < size <= _MOST:
        raise Damaged(f"{blobs.path(name)}: its manifest cannot have {size} bytes")
    head = blobs.read(name, 8, size)
    if digest(head) != name:
        raise Damaged(f"{blobs.path(name)}: its manifest is not what was written")
    try:
        found = json.loads(head)
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']!r}")
        parts = tuple(Part(8 + size + s, n, d, tuple(ids)) for s, n, d, ids in found["blocks"])
        layers, heads, width = found["shape"]
        return Manifest(found["model"], found["dtype"], (layers, heads, width), found["bits"], parts)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{blobs.path(name)}: its manifest is none that this version reads: {error}") from error


def block(blobs: Blobs, name: str, manifest: Manifest, number: int) -> torch.Tensor:
    """One block's tensor, on the host, in the dtype that it was made in. Raises Damaged if it is not what was written."""
    part = manifest.parts[number]
    body = blobs.read(name, part.start, part.bytes)
    if digest(body) != part.digest:
        raise Damaged(f"{blobs.path(name)}: block {number} is not what was written")
    try:
        found = _unpacked(load(bytes(body)), getattr(torch, manifest.dtype))
    except Exception as error:  # a parser's own errors, on bytes that somebody else may have hashed
        raise Damaged(f"{blobs.path(name)}: block {number} holds no keys and values: {error}") from error
    layers, heads, width = manifest.shape
    if tuple(found.shape) != (2, layers, heads, len(part.ids), width):
        raise Damaged(
            f"{blobs.path(name)}: block {number} has shape {tuple(found.shape)}, and its manifest says otherwise"
        )
    return found


def _packed(tensor: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    if bits == 0:
        return {"kv": tensor.contiguous().cpu()}
    if bits != 8:
        raise InvalidArgument(f"bits: 0 (as they are) or 8 are known, not {bits!r}")
    keys, values = tensor.cpu().float()
    # keys have outliers in channels, values in tokens (KIVI, arXiv 2402.02750, section 3): each is scaled along the other axis
    key_scale = keys.abs().amax(dim=-2, keepdim=True).clamp(min=1e-8) / 127
    value_scale = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
    return {
        "keys": (keys / key_scale).round().to(torch.int8), "values": (values / value_scale).round().to(torch.int8),
        "key_scale": key_scale, "value_scale": value_scale,
    }  # fmt: skip


def _unpacked(found: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    if "kv" in found:
        kv: torch.Tensor = found["kv"]
        if kv.dtype != dtype:
            raise ValueError(f"{kv.dtype} where the manifest says {dtype}")
        return kv
    keys, values = (found[n].float() * found[f"{n[:-1]}_scale"] for n in ("keys", "values"))
    return torch.stack([keys, values]).to(dtype)
