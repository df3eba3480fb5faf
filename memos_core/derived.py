"""What is made from memories and lies in a blob: its header, whether it is there, and writing it down. Knows the vault and the blobs, and
neither models nor what is in a blob.

A cube that is derived names the exact versions of its sources, is read by those who may read them all, and is found under a name that says
what it was made of: made again, it is the same cube.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from itertools import takewhile

from . import filters, governance, lifecycle
from .blobs import Blobs
from .errors import Conflict, InvalidArgument, OutOfMemory
from .placement import stable_id
from .types import Adapter, Kind, KVCache, Link, MemCube, Namespace, Origin, Policy, SourceKind, State, Steering
from .vault import Vault
from .writing import Writer


class Derived:
    """What is derived in one store. Safe for many threads."""

    def __init__(
        self, vault: Vault, blobs: Blobs, writer: Writer, policy: Policy, clock: Callable[[], datetime]
    ) -> None:
        self._vault = vault
        self._blobs = blobs
        self._writer = writer
        self._policy = policy
        self._clock = clock
        self.make_room: Callable[[int], object] = lambda size: None
        """Called with the bytes that are missing before something that was asked for is refused for want of room."""

    def draft(
        self, who: str, sources: Sequence[MemCube], payload: KVCache | Adapter, name: str, state: State, model: str
    ) -> MemCube:
        """The header of what is derived from memories, before its payload is made. Raises InvalidArgument for memories of namespaces
        with nothing in common."""
        where, now = _common([c.namespace for c in sources]), self._clock()
        kind, how = (
            (Kind.ACTIVATION, SourceKind.DERIVATION)
            if isinstance(payload, KVCache)
            else (Kind.PARAMETRIC, SourceKind.TUNING)
        )
        return MemCube(
            id=stable_id(who, where, "key", name), version=1, kind=kind, state=state, namespace=where, key=name, payload=payload,
            origin=Origin(how, stored_at=now, model=model, provenance=lifecycle.provenance(sources)),
            access=governance.derived_access(who, [c.access for c in sources]), created_at=now, updated_at=now,
            lineage=tuple(Link(c.id, c.version) for c in sources),
        )  # fmt: skip

    def there(self, id: str) -> MemCube | None:
        """A cube that is there and whole, as far as its blob's presence says."""
        for row in self._vault.by_ids([id], filters.in_states(lifecycle.SEARCHED)):
            payload = row.cube.payload
            if isinstance(payload, KVCache | Adapter) and self._blobs.has(payload.blob):
                return row.cube
        return None

    def keep(
        self,
        who: str,
        cube: MemCube,
        sources: Sequence[MemCube],
        parts: Sequence[bytes],
        *,
        told: str = "",
        asked_for: bool = True,
    ) -> MemCube:
        """Write a cube down with its blob; what somebody else made meanwhile is as good. asked_for: room may be made for it.

        Raises Conflict if a source changed since, OutOfMemory where `Policy.kv_disk_bytes` has no room.
        """
        with self._vault.writing():
            current = self._writer.readable([c.id for c in sources], who) if sources else []
            for before, now in zip(sources, current, strict=True):
                if (before.payload, before.access) != (now.payload, now.access):
                    raise Conflict(f"memory {now.id} changed while its {cube.kind} form was made: convert it again")
            if (known := self.there(cube.id)) is not None:
                return known
            return self.put(who, cube, parts, told=told, asked_for=asked_for)

    def put(
        self, who: str, cube: MemCube, parts: Sequence[bytes], *, told: str = "", asked_for: bool = True
    ) -> MemCube:
        """The same without a look at sources; what there is of it becomes the version before. The caller holds `vault.writing()`."""
        assert isinstance(cube.payload, KVCache | Steering | Adapter)
        size = sum(len(part) for part in parts)
        if asked_for:
            self._free(size)
        held = sum(self._blobs.sizes().values())
        if held + size > self._policy.kv_disk_bytes:
            raise OutOfMemory(
                f"{size:,} bytes of tensors do not fit beside {held:,} in Policy.kv_disk_bytes ({self._policy.kv_disk_bytes:,})"
            )
        self._blobs.write(parts, cube.payload.blob)
        rows = self._vault.by_ids([cube.id])
        if rows:  # outdated once, or without its blob, and made again
            cube = replace(lifecycle.replaced(rows[0].cube, cube), state=cube.state)
            self._vault.replace([rows[0].cube], [cube], [None])
        else:
            self._vault.insert([cube], [None])
        self._writer.tell(
            who, "convert", [cube], self._clock(), detail=f"to {cube.kind}" + (f": {told}" if told else "")
        )
        return cube

    def _free(self, size: int) -> None:
        lacking = sum(self._blobs.sizes().values()) + size - self._policy.kv_disk_bytes
        if lacking > 0:
            self.make_room(lacking)


def named(*parts: object) -> str:
    """A name for what is made of these."""
    return sha256(repr(parts).encode()).hexdigest()[:32]


def _common(namespaces: Sequence[Namespace]) -> Namespace:
    """The longest namespace that all are at or below."""
    alike = takewhile(lambda labels: len(set(labels)) == 1, zip(*namespaces, strict=False))
    found = tuple(labels[0] for labels in alike)
    if not found:
        raise InvalidArgument(f"ids: these memories have no namespace in common: {sorted(set(namespaces))[:3]}")
    return found
