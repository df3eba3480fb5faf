"""Adapters as they are read from their blobs, and beside which models their weights are. Knows blobs, records and models.

What is read is kept, within the budget for adapters; what is beside a model is `parametric.Adapters`' own. Both let go of what is gone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING

from .blobs import Blobs
from .errors import Damaged, InvalidArgument
from .types import Adapter, MemCube

if TYPE_CHECKING:
    from .learned import Learned
    from .model import LocalModel
    from .parametric import Adapters


class Weights:
    """Those of one store. Safe for many threads. most_bytes: of adapters that are kept read, and of those beside each model."""

    def __init__(self, blobs: Blobs, most_bytes: int) -> None:
        self._blobs = blobs
        self._most = most_bytes
        self._read: OrderedDict[str, Learned] = OrderedDict()  # by blob
        self._digests: dict[str, str] = {}  # by blob, of all that were ever read: any of these may be beside a model
        self._resident: dict[int, Adapters] = {}
        self._lock = threading.RLock()

    def of(self, cube: MemCube) -> Learned:
        """What a cube's blob holds. Raises InvalidArgument for a cube that holds no adapter, Damaged for a blob that is not what was
        written."""
        from .learned import unpack

        if not isinstance(cube.payload, Adapter):
            raise InvalidArgument(f"ids: memory {cube.id} is held as {cube.kind}, not as an adapter")
        name = cube.payload.blob
        with self._lock:
            if name in self._read:
                self._read.move_to_end(name)
                return self._read[name]
        found = unpack(self._blobs, name)
        if found.lora.model != cube.payload.model:
            raise Damaged(
                f"{self._blobs.path(name)}: its adapter is for another model than the record of memory {cube.id} says"
            )
        with self._lock:
            self._digests[name] = found.lora.digest
            self._read[name] = found
            while len(self._read) > 1 and sum(one.lora.bytes for one in self._read.values()) > self._most:
                self._read.popitem(last=False)
        return found

    def beside(self, model: LocalModel) -> Adapters:
        """Those that are resident beside a model."""
        from .parametric import Adapters

        with self._lock:
            return self._resident.setdefault(id(model), Adapters(model, self._most))

    def is_beside(self, model: LocalModel | None, cube: MemCube) -> bool:
        """Whether an adapter's weights are beside a model now."""
        with self._lock:
            known = self._digests.get(cube.payload.blob) if isinstance(cube.payload, Adapter) else None
            adapters = self._resident.get(id(model))
        return known is not None and adapters is not None and known in adapters.held

    def forget(self, cubes: Collection[MemCube]) -> None:
        """Let go of the weights of adapters that are gone."""
        self._let_go({c.payload.blob for c in cubes if isinstance(c.payload, Adapter)})

    def settle(self) -> None:
        """The same for those that were deleted by whoever, perhaps while an answer ran with them: of what no blob is left, nothing may be
        beside a model."""
        with self._lock:
            held = {digest for adapters in self._resident.values() for digest in adapters.held}
            read = [blob for blob, digest in self._digests.items() if digest in held or blob in self._read]
        gone = {blob for blob in read if not self._blobs.has(blob)}
        there = {
            self._digests[blob] for blob in read if blob not in gone
        }  # judged anew: the same weights in another blob
        self._let_go({blob for blob in gone if self._digests[blob] not in there})

    # --- below -----------------------------------------------------------------------------------------------------------

    def _let_go(self, blobs: Collection[str]) -> None:
        with self._lock:
            for blob in blobs:
                self._read.pop(blob, None)
            digests = {self._digests[blob] for blob in blobs if blob in self._digests}
            resident = list(self._resident.values())
        for adapters in resident:
            adapters.drop(digests)
