"""Blobs as a dump carries them, a manifest and safetensors files, and back. Knows the layout of blobs; reads no tensors.

A blob of keys and values, or of an adapter, is a length, a manifest and its tensors (`tensors`, `learned`); its name is the hash of the
manifest, which holds the hashes of the tensors. A blob of a steering vector is one safetensors file, and its name that file's hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from .blobs import Blobs
from .errors import Damaged, DumpRefused
from .types import Adapter, KVCache, Payload, Steering, Text

_MOST = 64 << 20  # bytes of a manifest or of a safetensors header
_CHUNK = 8 << 20
_STEERING = "memos-steering/1"
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [start, start + bytes) of a blob, which are one file of a dump."""

    start: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What a payload's manifest says: its bytes, the pieces of tensors, and what it was made for."""

    head: bytes
    pieces: tuple[Piece, ...]
    said: dict[str, Any]
    framed: bool  # whether the manifest is part of the blob

    @property
    def bytes(self) -> int:
        """Of the whole blob."""
        return sum(p.bytes for p in self.pieces) + (8 + len(self.head) if self.framed else 0)


def outline_of(blobs: Blobs, payload: KVCache | Steering | Adapter) -> Outline:
    """How a blob is divided. Raises Damaged for one that is not what its name says."""
    where = blobs.path(payload.blob)
    try:
        if isinstance(payload, Steering):
            said = {"format": _STEERING, "model": payload.model, "bytes": payload.bytes, "digest": payload.blob}
            return parsed(json.dumps(said).encode(), payload.blob, where)
        size = int.from_bytes(blobs.read(payload.blob, 0, 8), "little")
        return parsed(bytes(blobs.read(payload.blob, 8, min(size, _MOST))), payload.blob, where)
    except DumpRefused as error:
        raise Damaged(f"{where} cannot be read as it was written: {error}") from error


def parsed(head: bytes, name: str, where: str) -> Outline:
    """What a payload's manifest says. Raises DumpRefused for one that is not what its name says."""
    try:
        said = json.loads(head)
        if said["format"] == "memos-kv/1":
            bodies = [Piece(int(s), int(n), str(d)) for s, n, d, _ in said["blocks"]]
        elif said["format"] in ("memos-lora/1", _STEERING):
            bodies = [Piece(0, int(said["bytes"]), str(said["digest"]))]
        else:
            raise ValueError(f"format {said['format']!r:.50}")
        if not isinstance(said["model"], str) or any(p.bytes < 8 for p in bodies) or not bodies:
            raise ValueError("it names no model, or no tensors")
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DumpRefused(f"{where}: its manifest is none that this version reads: {error!s:.200}") from None
    framed = said["format"] != _STEERING
    if name != (sha256(head).hexdigest() if framed else said["digest"]):
        raise DumpRefused(f"{where}: its manifest is not the one that its name gives the hash of")
    at = 0
    for piece in bodies:
        if piece.start != at:
            raise DumpRefused(f"{where}: its tensors do not follow one another")
        at += piece.bytes
    shift = 8 + len(head) if framed else 0
    return Outline(head, tuple(Piece(p.start + shift, p.bytes, p.digest) for p in bodies), said, framed)


def read_piece(blobs: Blobs, name: str, piece: Piece) -> Iterator[bytearray]:
    """The bytes of one file of tensors. Raises Damaged if they are not what was written."""
    said, at = sha256(), 0
    while at < piece.bytes:
        chunk = blobs.read(name, piece.start + at, min(_CHUNK, piece.bytes - at))
        said.update(chunk)
        at += len(chunk)
        yield chunk
    if said.hexdigest() != piece.digest:
        raise Damaged(f"{blobs.path(name)} is not what was written")


def joined(outline: Outline, files: Sequence[Path], target: BinaryIO) -> None:
    """Write the blob that these files of tensors were taken from."""
    if outline.framed:
        target.write(len(outline.head).to_bytes(8, "little"))
        target.write(outline.head)
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                target.write(chunk)


def require_fit(outline: Outline, files: Sequence[Path], payload: Payload, where: str) -> None:
    """Raise DumpRefused where tensors are not what a memory's record says that they are: another model's, of other sizes, or none."""
    assert not isinstance(payload, Text)
    said = outline.said
    kind = {KVCache: "memos-kv/1", Adapter: "memos-lora/1", Steering: _STEERING}[type(payload)]
    if said["format"] != kind:
        raise DumpRefused(f"{where}: its tensors are {said['format']}, and its record says {kind}")
    if said["model"] != payload.model:
        raise DumpRefused(f"{where}: its tensors are another model's than its record says")
    if payload.bytes != outline.bytes:
        raise DumpRefused(f"{where}: its record says {payload.bytes!r} bytes of tensors, and there are {outline.bytes}")
    shapes = [_shapes(path, f"{where}: {path.name}") for path in files]
    try:
        if isinstance(payload, KVCache):
            fits = _keys_fit(said, shapes, payload)
        elif isinstance(payload, Adapter):
            fits = _adapter_fits(shapes[0], payload)
        else:
            fits = all(len(shape) <= 2 for shape in shapes[0].values())
    except (ValueError, TypeError, KeyError) as error:
        raise DumpRefused(f"{where}: its tensors cannot be understood: {error!s:.200}") from None
    if not fits:
        raise DumpRefused(f"{where}: its tensors have other shapes than its manifest and its record say")


def _keys_fit(said: dict[str, Any], shapes: Sequence[dict[str, tuple[int, ...]]], payload: KVCache) -> bool:
    layers, heads, width = said["shape"]
    counts = [len(ids) for _, _, _, ids in said["blocks"]]
    for tokens, found in zip(counts, shapes, strict=True):
        whole = (2, layers, heads, tokens, width)
        if "kv" in found:
            if set(found) != {"kv"} or found["kv"] != whole:
                return False
        elif any(found.get(n) != whole[1:] for n in ("keys", "values")):
            return False
    return payload.tokens == sum(counts)


def _adapter_fits(shapes: dict[str, tuple[int, ...]], payload: Adapter) -> bool:
    first, second = ".lora_A.weight", ".lora_B.weight"
    modules = sorted(n.removeprefix("base_model.model.").removesuffix(first) for n in shapes if n.endswith(first))
    ranks = {
        s[0] if n.endswith(first) else s[1] for n, s in shapes.items() if n.endswith((first, second)) and len(s) == 2
    }
    return tuple(modules) == payload.targets and len(shapes) == 2 * len(modules) and ranks == {payload.rank}


def _shapes(path: Path, where: str) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes in a safetensors file, by name. Raises DumpRefused for what is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MOST, size - 8):
            raise DumpRefused(f"{where}: no safetensors file: a header of {length:,} bytes")
        head = file.read(length)
    try:
        said = json.loads(head)
        said.pop("__metadata__", None)
        at, found = 0, {}
        for name, tensor in sorted(said.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = tensor["data_offsets"]
            shape = tuple(int(n) for n in tensor["shape"])
            count = 1
            for n in shape:
                count *= n
            if begin != at or end - begin != count * _SIZES[tensor["dtype"]] or min(shape, default=1) < 0:
                raise ValueError(f"{name!r:.100} does not have the bytes that its shape needs")
            at, found[name] = end, shape
        if at != size - 8 - length:
            raise ValueError("there is more in it than its tensors")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DumpRefused(f"{where}: no safetensors file: {error!s:.200}") from None
    return found
