"""A store as it is at one moment, to be read in pieces while others write. Knows the vault's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import codec
from .errors import Damaged, StoreUnavailable
from .tables import vector_sum
from .vault import ALL, Vault

_LISTED = ["id", "version", "kind", "checksum", "vector_checksum"]
_READERS = "readers"
_WHOLE = ["id", "version", "text", "record", "checksum", "vector", "vector_checksum"]
_PAST = ["id", "version", "text", "record", "checksum"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A memory in a view: its row there, its versions before with their rows, and what changes when it does."""

    id: str
    row: int
    kind: str
    past: tuple[int, ...]
    has_vector: bool
    mark: str


class View:
    """The memories of a vault at one moment. Not safe for several threads."""

    def __init__(self, vault: Vault, cubes: Any, history: Any) -> None:
        self._vault = vault
        self._cubes = cubes
        self._history = history
        self.grants: set[str] | None = None
        """The grants of what was listed so far, if an empty set was put here to be filled: reading them takes time."""

    def listed(self, where: str, past_where: str | None) -> list[Listed]:
        """The memories that a condition holds for, and of their versions before those that another one holds for (None: none)."""
        with self._vault.db.guarded("cubes"):
            query = self._cubes.search().where(where).select([*_LISTED, *self._more()]).with_row_id(True)
            found = query.limit(ALL).to_arrow()
        self._learn(found)
        rows = zip(*(found[n].to_pylist() for n in (*_LISTED, "_rowid")), strict=True)
        past = {} if past_where is None else self._past(past_where)
        listed = []
        for id, version, kind, sum, vector, row in rows:
            before = sorted((v, r, s) for v, (r, s) in past.get(id, {}).items() if v < version)
            mark = repr((id, version, sum, vector, [(v, s) for v, _, s in before]))
            listed.append(Listed(id, row, kind, tuple(r for _, r, _ in before), vector is not None, mark))
        return listed

    def _past(self, where: str) -> dict[str, dict[int, tuple[int, int]]]:
        with self._vault.db.guarded("history"):
            query = (
                self._history.search()
                .where(where)
                .select(["id", "version", "checksum", *self._more()])
                .with_row_id(True)
            )
            found = query.limit(ALL).to_arrow()
        self._learn(found)
        past: dict[str, dict[int, tuple[int, int]]] = {}
        columns = (found[n].to_pylist() for n in ("id", "version", "_rowid", "checksum"))
        for id, version, row, sum in zip(*columns, strict=True):
            past.setdefault(id, {})[version] = (row, sum)
        return past

    def _more(self) -> list[str]:
        return [] if self.grants is None else [_READERS]

    def _learn(self, rows: pa.Table) -> None:
        if self.grants is not None:
            self.grants.update(pc.unique(pc.list_flatten(rows[_READERS].combine_chunks())).to_pylist())

    def memories(self, rows: Sequence[int]) -> pa.Table:
        """Current versions, checked against their sums; columns id, version, text, record, vector."""
        found = self._taken(self._cubes, "cubes", rows, _WHOLE)
        sums = found["vector_checksum"].to_pylist()
        for vector, sum in zip(_matrix(found["vector"]), sums, strict=True):
            if vector_sum(vector) != sum:
                raise Damaged(
                    f"{self._vault.path}: a vector does not match its checksum; `memosctl reembed` makes it anew"
                )
        return found.select(["id", "version", "text", "record", "vector"])

    def history(self, rows: Sequence[int]) -> pa.Table:
        """Versions before, checked against their sums; columns id, version, text, record."""
        return self._taken(self._history, "history", rows, _PAST).select(["id", "version", "text", "record"])

    def _taken(self, table: Any, name: str, rows: Sequence[int], columns: list[str]) -> pa.Table:
        with self._vault.db.guarded(name):
            found = table.take_row_ids(list(rows)).select(columns).to_arrow()
        parts = (found[n].to_pylist() for n in ("record", "text", "checksum"))
        said = list[tuple[str, str | None]]()
        for record, text, sum in zip(*parts, strict=True):
            if codec.checksum(record, text) != sum:
                raise Damaged(f"{self._vault.path}: a record does not match its checksum: {record[:80]!r}")
            said.append(codec.awake(record, text))
        for at, name in enumerate(("record", "text")):
            place = found.schema.get_field_index(name)
            found = found.set_column(place, found.schema.field(name), pa.array([s[at] for s in said], pa.string()))
        return found.sort_by([("id", "ascending"), ("version", "ascending")])


@contextmanager
def view(vault: Vault) -> Iterator[View]:
    """The store as it is now, until the end of the block: others write on, and no file of it is compacted away meanwhile."""
    turn, seconds = vault.db.site.turn("compact"), vault.db.policy.lock_seconds
    try:
        turn.acquire(seconds)
    except TimeoutError:
        raise StoreUnavailable(f"{vault.path} has been compacted for {seconds} s") from None
    try:
        with vault.writing():  # nobody is between history and cubes
            cubes = vault.db.pinned(vault.manifest.cubes)
            history = vault.db.pinned("history")
        yield View(vault, cubes, history)
    finally:
        turn.release()


def _matrix(column: pa.ChunkedArray) -> Iterator[np.ndarray[Any, np.dtype[np.float32]] | None]:
    for chunk in column.chunks:
        there = np.asarray(chunk.is_valid())
        flat = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, chunk.type.list_size)
        at = np.cumsum(there) - 1
        yield from (flat[at[i]] if there[i] else None for i in range(len(there)))
