"""Cubes as rows of Arrow tables, and back: the schemas of the store's tables. Knows Arrow; opens nothing.

A cube is read from its record, which carries a checksum; the other columns are there to filter, sort and index by. What is not searched
is at rest: it has no vector, and its words stand in its record, where no index of words sees them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from . import codec, filters, lifecycle
from .errors import Damaged
from .governance import readers_of
from .types import Access, MemCube

Vector = np.ndarray[Any, np.dtype[np.float32]]

_UTC = pa.timestamp("us", "UTC")
_STRINGS = pa.list_(pa.string())
_PAST_FIELDS = [
    pa.field("id", pa.string(), nullable=False), pa.field("version", pa.int64()), pa.field("readers", _STRINGS),
    pa.field("updated_at", _UTC), pa.field("text", pa.string()), pa.field("record", pa.string()),
    pa.field("checksum", pa.int64()),
]  # fmt: skip
_CUBE = [
    *_PAST_FIELDS, pa.field("seq", pa.int64()), pa.field("owner", pa.string()), pa.field("kind", pa.string()),
    pa.field("state", pa.string()), pa.field("namespace", pa.string()), pa.field("key", pa.string()),
    pa.field("session", pa.string()), pa.field("position", pa.int64()),
    pa.field("place", pa.string()), pa.field("message_id", pa.string()),
    pa.field("speaker", pa.string()), pa.field("role", pa.string()), pa.field("source", pa.string()),
    pa.field("semantic_type", pa.string()), pa.field("tags", _STRINGS), pa.field("parents", _STRINGS),
    pa.field("happened_at", _UTC), pa.field("expires_at", _UTC), pa.field("attributes", pa.json_()),
    pa.field("vector_checksum", pa.int64()), pa.field("priority", pa.float64()),
]  # fmt: skip
EVENTS = pa.schema([
    pa.field("id", pa.string(), nullable=False), pa.field("at", _UTC), pa.field("actor", pa.string()),
    pa.field("verb", pa.string()), pa.field("subject", pa.string()), pa.field("version", pa.int64()),
    pa.field("outcome", pa.string()), pa.field("detail", pa.string()), pa.field("readers", _STRINGS),
    pa.field("seq", pa.int64()), pa.field("number", pa.int64()), pa.field("checksum", pa.int64()), pa.field("link", pa.string()),
])  # fmt: skip
META = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.string())])
PAST = pa.schema(_PAST_FIELDS)
RULES = pa.schema(
    [pa.field("name", pa.string(), nullable=False), pa.field("value", pa.string()), pa.field("checksum", pa.int64())]
)
USAGE = pa.schema([
    pa.field("id", pa.string(), nullable=False), pa.field("reads", pa.int64()), pa.field("last_read_at", _UTC),
])  # fmt: skip

LEASES = pa.schema([
    pa.field("id", pa.string(), nullable=False), pa.field("holder", pa.string()), pa.field("until", _UTC),
    pa.field("attempt", pa.int64()), pa.field("who", pa.string()), pa.field("what", pa.string()),
])  # fmt: skip
USES = pa.schema([
    pa.field("key", pa.string(), nullable=False), pa.field("who", pa.string()), pa.field("namespace", pa.string()),
    pa.field("model", pa.string()), pa.field("id", pa.string()), pa.field("heat", pa.list_(pa.float64())),
    pa.field("at", pa.float64()), pa.field("reads", pa.int64()), pa.field("last", pa.float64()),
    pa.field("first", pa.float64()), pa.field("hours", pa.list_(pa.float64())),
])  # fmt: skip
LATER = {"leases": LEASES, "uses": USES, "scheduler": META, "rules": RULES}
"""Tables that a store gets when it first needs them: those made by earlier versions have none."""

_CHAINED = frozenset({("events", "link")})
"""Columns that a table may lack until opening the store has added them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A stored memory with what the store adds to it: its vector, if asked for, and the number of its last write."""

    cube: MemCube
    seq: int
    vector: Vector | None = None


RANKED = ["id", "seq", "text", "record", "checksum", "speaker", "place", "happened_at",
          "priority", "state", "expires_at", "vector", "vector_checksum"]  # fmt: skip
"""Columns of a `Candidate`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored memory as ranking needs it; its cube is decoded when it is a hit, which few candidates are."""

    id: str
    seq: int
    text: str
    speaker: str | None
    place: str | None
    happened_at: datetime
    priority: float
    state: str
    expires_at: datetime | None
    vector: Vector | None
    stored: MemCube | str  # the cube, or its record

    @property
    def cube(self) -> MemCube:
        """The memory."""
        if isinstance(self.stored, MemCube):
            return self.stored
        return codec.decode(self.stored, self.text)

    @classmethod
    def of(cls, row: Row) -> Candidate:
        """A row just written."""
        cube = row.cube
        return cls(
            cube.id, row.seq, cube.text, cube.origin.speaker, place(cube), cube.origin.happened_at, cube.priority,
            cube.state.value, cube.lifespan.ends_at, row.vector, cube,
        )  # fmt: skip


def cubes_schema(dimension: int) -> pa.Schema:
    """Of the cubes table, for vectors of a dimension."""
    return pa.schema([*_CUBE, pa.field("vector", pa.list_(pa.float32(), dimension))])


def lacking(name: str, found: pa.Schema, dimension: int) -> str | None:
    """What a stored table has not, or has too much, beside what this version writes; None: nothing. dimension: of the vectors."""
    known = {"history": PAST, "events": EVENTS, "usage": USAGE, "meta": META, **LATER}
    wanted = known.get(name) or cubes_schema(dimension)
    strange = [f.name for f in found if f.name not in wanted.names]
    missing = [n for n in wanted.names if n not in found.names and (name, n) not in _CHAINED]
    other = [
        f"{f.name} ({f.type}, not {wanted.field(f.name).type})" for f in found
        if f.name in wanted.names and f.name != "attributes" and f.type != wanted.field(f.name).type
    ]  # fmt: skip  # the JSON column reads back under Lance's own name for the type
    parts = (("no column", missing), ("another column", other), ("an unknown column", strange))
    return ", and ".join(f"{what} {', '.join(names)}" for what, names in parts if names) or None


def vector_sum(vector: Vector | None) -> int | None:
    """CRC-32 of a vector."""
    return None if vector is None else zlib.crc32(np.ascontiguousarray(vector, np.float32).tobytes())


def _columns(
    cubes: Sequence[MemCube],
    records: Sequence[str],
    seq: int,
    vectors: Sequence[Vector | None],
    *,
    resting: bool = True,
) -> dict[str, list[Any]]:
    """The columns of cubes, each whole: as quick for one as row by row, and twice as quick for thousands."""
    origins, texts = [c.origin for c in cubes], [c.text or None for c in cubes]
    if resting:
        rest = [t is not None and not lifecycle.is_searched(c) for c, t in zip(cubes, texts, strict=True)]
        records = [codec.at_rest(r, t or "") if s else r for r, t, s in zip(records, texts, rest, strict=True)]
        texts = [None if s else t for t, s in zip(texts, rest, strict=True)]
    return {
        "id": [c.id for c in cubes], "version": [c.version for c in cubes], "readers": [_readers(c.access) for c in cubes],
        "updated_at": [c.updated_at for c in cubes], "text": texts, "record": list(records),
        "checksum": [codec.checksum(r, t) for r, t in zip(records, texts, strict=True)], "seq": [seq] * len(cubes),
        "owner": [c.access.owner for c in cubes], "kind": [c.kind.value for c in cubes], "state": [c.state.value for c in cubes],
        "namespace": [filters.encode_namespace(c.namespace) for c in cubes], "key": [c.key for c in cubes],
        "session": [o.session for o in origins], "position": [o.position for o in origins], "place": [place(c) for c in cubes],
        "message_id": [o.message_id for o in origins], "speaker": [o.speaker for o in origins], "role": [o.role for o in origins],
        "source": [o.source for o in origins], "semantic_type": [c.semantic_type for c in cubes], "tags": [list(c.tags) for c in cubes],
        "parents": [[link.id for link in c.lineage] for c in cubes], "happened_at": [o.happened_at for o in origins],
        "expires_at": [c.lifespan.ends_at for c in cubes],
        "attributes": [json.dumps(c.attributes, ensure_ascii=False) if c.attributes else "{}" for c in cubes],
        "vector_checksum": [vector_sum(v) for v in vectors], "priority": [c.priority for c in cubes],
    }  # fmt: skip


@lru_cache(maxsize=4096)
def _readers(access: Access) -> list[str]:
    return sorted(readers_of(access))


def thread(cube: MemCube) -> str | None:
    """A session's name among all owners and namespaces, each of which may use the same label; ends in "/"."""
    if cube.origin.session is None:
        return None
    return filters.encode_namespace((cube.access.owner, *cube.namespace, cube.origin.session))


def place(cube: MemCube, distance: int = 0) -> str | None:
    """The place of a turn so many turns away in the same conversation."""
    talk, position = thread(cube), cube.origin.position
    return None if talk is None or position is None else f"{talk}{position + distance}"


def past(cubes: Sequence[MemCube]) -> pa.Table:
    """Rows for history."""
    columns = _columns(cubes, [codec.encode(c) for c in cubes], 0, [None] * len(cubes), resting=False)
    return pa.table({n: columns[n] for n in PAST.names}, schema=PAST)


def table_of(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows for one of the tables LATER."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=LATER[name])


def decoded(found: pa.Table, dimension: int, path: str) -> list[Row]:
    """Rows of a query, checked against their sums. Raises Damaged, naming the store, for one that is not what was written."""
    columns, vectors = _checked(found, dimension, path)
    rows = []
    for i, (record, text) in enumerate(zip(columns["record"], columns["text"], strict=True)):
        seq = columns["seq"][i] if "seq" in columns else 0
        rows.append(Row(codec.decode(record, text), seq, vectors[i]))
    return rows


def outlines(found: pa.Table, path: str) -> list[codec.Outline]:
    """The same of a query for record, text, checksum and seq, without cubes."""
    columns, _ = _checked(found, 0, path)
    return [
        codec.outline(*one) for one in zip(columns["record"], columns["text"], columns["seq"], strict=True)
    ]  # fmt: skip


def candidates(found: pa.Table, dimension: int, path: str) -> list[Candidate]:
    """The same of a query for the columns RANKED."""
    columns, vectors = _checked(found, dimension, path)
    plain = ("id", "seq", "text", "speaker", "place", "happened_at", "priority", "state", "expires_at")
    parts = zip(*(columns[n] for n in plain), vectors, columns["record"], strict=True)
    return [Candidate(id, seq, text or "", *rest) for id, seq, text, *rest in parts]


def _checked(found: pa.Table, dimension: int, path: str) -> tuple[dict[str, list[Any]], Sequence[Vector | None]]:
    columns = {n: found[n].to_pylist() for n in found.column_names if n != "vector"}
    asked = "vector" in found.column_names
    vectors = _matrix(found["vector"], dimension) if asked else [None] * found.num_rows
    for i, (record, text) in enumerate(zip(columns["record"], columns["text"], strict=True)):
        if codec.checksum(record, text) != columns["checksum"][i]:
            raise Damaged(f"{path}: a record does not match its checksum: {record[:80]!r}")
        if asked and vector_sum(vectors[i]) != columns["vector_checksum"][i]:
            raise Damaged(
                f"{path}: a vector does not match its checksum; `memosctl reembed` makes it anew: {record[:80]!r}"
            )
        columns["record"][i], columns["text"][i] = codec.awake(record, text)
    return columns, vectors


def encoded(
    cubes: Sequence[MemCube],
    vectors: Sequence[Vector | None],
    seq: int,
    dimension: int,
    records: Sequence[str | None] | None = None,
) -> pa.Table:
    """Rows for a cubes table. records: of those of which the record is known."""
    known, vectors = records or [None] * len(cubes), kept_vectors(cubes, vectors)
    columns = _columns(cubes, [r or codec.encode(c) for c, r in zip(cubes, known, strict=True)], seq, vectors)
    arrays = [
        pa.ExtensionArray.from_storage(pa.json_(), pa.array(columns[f.name], pa.string()))
        if f.name == "attributes" else pa.array(columns[f.name], f.type) for f in _CUBE
    ]  # fmt: skip
    return pa.table([*arrays, _vector_array(vectors, dimension)], names=[*columns, "vector"]).cast(
        cubes_schema(dimension)
    )


def kept_vectors(cubes: Sequence[MemCube], vectors: Sequence[Vector | None]) -> list[Vector | None]:
    """The vectors that are stored of these: what is not searched has none."""
    return [v if lifecycle.is_searched(c) else None for c, v in zip(cubes, vectors, strict=True)]


def _vector_array(vectors: Sequence[Vector | None], dimension: int) -> pa.Array:
    flat = np.zeros((len(vectors), dimension), np.float32)
    for i, vector in enumerate(vectors):
        if vector is not None:
            flat[i] = vector
    absent = pa.array([v is None for v in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), dimension, mask=absent)


def _matrix(column: pa.ChunkedArray, dimension: int) -> list[Vector | None]:
    array = column.combine_chunks()
    there = np.asarray(array.is_valid())
    flat = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)  # flatten leaves the null rows out
    at = np.cumsum(there) - 1
    return [flat[at[i]] if there[i] else None for i in range(len(there))]
