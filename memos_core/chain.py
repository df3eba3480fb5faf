"""A prompt as a chain of blocks, each known by the hash of all that stands before it and in it. Pure.

The identity of keys and values: attention makes a token's depend on every token before it, on the model, on the adapter in use, and
nothing else, so equal keys mean equal caches. The first link also holds whose prompts these are, so that no tenant's cache answers
another's (the block hashes of vLLM's prefix caching, with its extra keys, are the model for this).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

LEAST, MOST = 64, 256  # tokens of a block: from LEAST on it ends at the next boundary, at MOST it ends anywhere


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens [start, end) of a prompt. `key` names them with all that precedes them; `parent` is the key of the block before."""

    key: str
    parent: str
    start: int
    end: int


def root(model: str, tenant: Sequence[str], adapter: str = "") -> str:
    """Where the chains of one model, adapter and tenant begin."""
    return _hash("root", model, adapter, str(len(tenant)), *tenant)


def key(parent: str, ids: Sequence[int]) -> str:
    """The key of a block of tokens behind another block."""
    return _hash(parent, " ".join(map(str, ids)))


def blocks(ids: Sequence[int], boundaries: Iterable[int], start: str, *, least: int = LEAST) -> tuple[Block, ...]:
    """Token ids cut into blocks at boundaries. The cuts depend on what precedes them alone, so that prompts with a common
    beginning have common blocks. What follows the last cut is no block.

    boundaries: indices in (0, len(ids)] before which a sentence, message or line of memory ends, ascending.
    start: the `root`.
    """
    found: list[Block] = []
    at, parent = 0, start
    for boundary in boundaries:
        while boundary - at > MOST:
            found.append(_block(ids, parent, at, at + MOST))
            at, parent = at + MOST, found[-1].key
        if boundary - at >= least:
            found.append(_block(ids, parent, at, boundary))
            at, parent = boundary, found[-1].key
    return tuple(found)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginnings."""
    most = min(len(left), len(right))
    if left[:most] == right[:most]:  # nearly always, and many times faster than one by one
        return most
    return next((i for i in range(most) if left[i] != right[i]), most)


def _block(ids: Sequence[int], parent: str, start: int, end: int) -> Block:
    return Block(key(parent, ids[start:end]), parent, start, end)


def _hash(*parts: str) -> str:
    return sha256("".join(f"{len(p)}:{p}" for p in parts).encode()).hexdigest()[:32]
