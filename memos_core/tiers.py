"""Memories between their forms: text into keys and values for one model and back. Knows the vault, the blobs and the model.

A cube of keys and values is derived from exact versions of its sources: the engine's rules for what is derived (readers, changes,
deletions) hold for it, and its blob goes with it. It is found by its key, never by searching, and opened before all else in a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from itertools import takewhile
from typing import TYPE_CHECKING

from . import brief, filters, governance, lifecycle
from .blobs import Blobs
from .errors import InvalidArgument, OutOfMemory
from .placement import stable_id
from .types import Kind, KVCache, Link, MemCube, Namespace, Origin, Policy, SourceKind, State, Text
from .vault import Vault
from .writing import Writer

if TYPE_CHECKING:
    from .activation import Opener
    from .model import LocalModel


@dataclass(frozen=True, slots=True)
class Passage:
    """Memories whose keys and values are kept: the cube that keeps them, its sources as they are now, their text as a model reads
    it, and the character of it at which each source begins."""

    cube: MemCube
    sources: tuple[MemCube, ...]
    text: str
    starts: tuple[int, ...]


class Tiers:
    """The forms of one store's memories. Safe for many threads."""

    def __init__(
        self, vault: Vault, blobs: Blobs, writer: Writer, policy: Policy, clock: Callable[[], datetime]
    ) -> None:
        self._vault = vault
        self._blobs = blobs
        self._writer = writer
        self._policy = policy
        self._clock = clock
        self._openers: dict[int, Opener] = {}

    def opener(self, model: LocalModel) -> Opener:
        """What opens this store's blobs for a model."""
        from .activation import Opener

        return self._openers.setdefault(id(model), Opener(model, self._blobs))

    def close(self) -> None:
        """Let go of what opens blobs."""
        for opener in self._openers.values():
            opener.close()

    def to_activation(self, who: str, sources: Sequence[MemCube], model: LocalModel) -> MemCube:
        """Keys and values of memories side by side, as one cube. The same memories and model again: the same cube.

        Raises:
            InvalidArgument: a memory without text, or memories of namespaces with nothing in common.
            Unsupported, ContextTooLong, OutOfMemory: of the model; and OutOfMemory where `Policy.kv_disk_bytes` has no room.
        """
        from . import tensors

        for cube in sources:
            if not isinstance(cube.payload, Text):
                raise InvalidArgument(f"ids: memory {cube.id} is held as {cube.kind} already")
        where = _common([c.namespace for c in sources])
        access = governance.derived_access(who, [c.access for c in sources])
        text, _ = brief.passage(sources)
        name = f"kv:{sha256(repr((model.fingerprint, self._policy.kv_bits, text)).encode()).hexdigest()[:32]}"
        id = stable_id(who, where, "key", name)
        if (known := self._there(id)) is not None:
            return known
        asked = model.prompt([{"role": "system", "content": text}, {"role": "user", "content": "?"}])
        end = asked.token_at(asked.text.index(text) + len(text) - 1) + 1
        blob, parts, manifest = tensors.pack(model.blocks(asked, end), model.fingerprint, self._policy.kv_bits)
        size = sum(len(p) for p in parts)
        now = self._clock()
        cube = MemCube(
            id=id, version=1, kind=Kind.ACTIVATION, state=State.ACTIVATED, namespace=where, key=name,
            payload=KVCache(blob, model.fingerprint, len(manifest.ids), size),
            origin=Origin(SourceKind.DERIVATION, stored_at=now, model=model.name), access=access, created_at=now, updated_at=now,
            lineage=tuple(Link(c.id, c.version) for c in sources),
        )  # fmt: skip
        with self._vault.writing():
            self._writer.readable(
                [c.id for c in sources], who
            )  # deleted meanwhile: then there is nothing to derive from
            held = sum(self._blobs.sizes().values())
            if held + size > self._policy.kv_disk_bytes:
                raise OutOfMemory(
                    f"{size:,} bytes of keys and values do not fit beside {held:,} in Policy.kv_disk_bytes ({self._policy.kv_disk_bytes:,})"
                )
            self._blobs.write(parts, blob)
            return self._put(who, cube)

    def to_plaintext(self, who: str, cube: MemCube) -> list[MemCube]:
        """Give up the other form of memories; they are its sources, whose text was of record all along.

        Raises InvalidArgument for a cube without sources: nothing but itself says what is in it.
        """
        sources = self._writer.readable([link.id for link in cube.lineage], who) if cube.lineage else []
        if not sources:
            raise InvalidArgument(f"ids: memory {cube.id} was made from no memories here, so its text is not known")
        with self._vault.writing():
            rows = self._writer.readable_rows([cube.id], who)
            governance.require_owner(who, rows[0].cube)
            self._writer.remove(rows, who, self._clock())
        return sources

    def passages(self, who: str, namespace: Namespace, model: LocalModel) -> list[Passage]:
        """What is kept for a model of memories at or below a namespace that the actor may read, the largest first. One whose
        sources are no longer what it was made from is not among them."""
        where = filters.all_of(
            "kind = 'activation'", filters.readable_by(who), filters.under(namespace),
            filters.in_states(lifecycle.SEARCHED), filters.unexpired(self._clock()),
        )  # fmt: skip
        kept = [
            r.cube for r in self._vault.rows(where)
            if isinstance(r.cube.payload, KVCache) and r.cube.payload.model == model.fingerprint
        ]  # fmt: skip
        found = [p for cube in kept if (p := self._passage(who, cube)) is not None]
        return sorted(found, key=lambda p: (-len(p.sources), p.cube.id))

    def sweep(self) -> int:
        """Remove blobs that no memory needs: what a killed process left, and what was made from words that changed since."""
        with self._vault.writing():
            needed = self._vault.rows(filters.all_of("kind != 'plaintext'", filters.in_states(lifecycle.SEARCHED)))
            return self._blobs.sweep(r.cube.payload.blob for r in needed if not isinstance(r.cube.payload, Text))

    def _passage(self, who: str, cube: MemCube) -> Passage | None:
        rows = self._vault.by_ids([link.id for link in cube.lineage], filters.readable_by(who))
        now = self._clock()
        sources = [
            r.cube for r in rows if r.cube.state in lifecycle.SEARCHED and not lifecycle.has_expired(r.cube, now)
        ]
        if not sources or len(sources) < len(cube.lineage):
            return None
        text, starts = brief.passage(sources)
        return Passage(cube, tuple(sources), text, starts)

    def _there(self, id: str) -> MemCube | None:
        """A cube that is there and whole, as far as its blob's presence says."""
        for row in self._vault.by_ids([id], filters.in_states(lifecycle.SEARCHED)):
            payload = row.cube.payload
            if isinstance(payload, KVCache) and self._blobs.path(payload.blob).exists():
                return row.cube
        return None

    def _put(self, who: str, cube: MemCube) -> MemCube:
        rows = self._vault.by_ids([cube.id])
        if rows:  # outdated once, or without its blob, and made again
            cube = replace(lifecycle.replaced(rows[0].cube, cube), state=State.ACTIVATED)
            self._vault.replace([rows[0].cube], [cube], [None])
        else:
            self._vault.insert([cube], [None])
        self._writer.tell(who, "convert", [cube], self._clock(), detail=f"to {cube.kind}")
        return cube


def _common(namespaces: Sequence[Namespace]) -> Namespace:
    """The longest namespace that all are at or below."""
    found = [labels[0] for labels in takewhile(lambda labels: len(set(labels)) == 1, zip(*namespaces, strict=False))]
    if not found:
        raise InvalidArgument(f"ids: these memories have no namespace in common: {sorted(set(namespaces))[:3]}")
    return tuple(found)
