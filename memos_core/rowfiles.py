"""Rows as Arrow IPC files, and back from files that anybody may have written. Knows Arrow; knows neither memories nor folders.

A file is read message by message, and refused before anything of it is decoded where it is compressed or holds dictionaries: then its
size is the size of what is in it, and no file is larger in memory than on disk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import DumpRefused

_MAGIC = b"ARROW1\x00\x00"
_NONE, _SCHEMA, _DICTIONARY, _BATCH = 0, 1, 2, 3  # types of messages, as the format numbers them
_TEXTS = [
    pa.field("id", pa.string(), nullable=False), pa.field("version", pa.int64(), nullable=False), pa.field("text", pa.string()),
    pa.field("record", pa.string(), nullable=False),
]  # fmt: skip
VERSIONS = pa.schema(_TEXTS)
"""Of a file of history."""


def memories(dimension: int) -> pa.Schema:
    """Of a file of memories, with vectors of a dimension."""
    return pa.schema([*_TEXTS, pa.field("vector", pa.list_(pa.float32(), dimension))])


def written(table: pa.Table, schema: pa.Schema) -> pa.Buffer:
    """Rows as the bytes of a file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.select(schema.names).cast(schema).combine_chunks())
    return sink.getvalue()


def read(file: pa.NativeFile, schema: pa.Schema, rows: int, where: str) -> Iterator[pa.RecordBatch]:
    """The batches of a file. Raises DumpRefused for one that is none, is of another schema, or does not have so many rows."""
    try:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DumpRefused(f"{where} is no Arrow file")
        _message(file, _SCHEMA, where)
        file.seek(len(_MAGIC))
        found = pa.ipc.read_schema(file)
        if not found.equals(schema):
            raise DumpRefused(f"{where} has the columns {_shown(found)}, and {_shown(schema)} are expected")
        left = rows
        while (message := _message(file, _BATCH, where)) is not None:
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate(full=True)
            for name in ("id", "version", "record"):
                if batch[name].null_count:
                    raise DumpRefused(f"{where}: {name} is missing in a row")
            left -= batch.num_rows
            if left < 0:
                break
            yield batch
    except (pa.ArrowException, OSError, ValueError, struct.error, EOFError, OverflowError, MemoryError) as error:
        if isinstance(error, DumpRefused):
            raise
        raise DumpRefused(f"{where} is no Arrow file that can be read: {error!s:.200}") from None
    if left:
        raise DumpRefused(f"{where} does not have the {rows:,} rows that the manifest says")


def vectors(batch: pa.RecordBatch, where: str) -> list[np.ndarray[Any, np.dtype[np.float32]] | None]:
    """The vectors of a batch; None where there is none. Raises DumpRefused for numbers that are not finite."""
    column = batch["vector"]
    there = np.asarray(column.is_valid())
    flat = (
        column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    )  # leaves the null rows out
    if column.flatten().null_count or not np.isfinite(flat).all():
        raise DumpRefused(f"{where}: a vector holds what is no finite number")
    at = np.cumsum(there) - 1
    return [flat[at[i]] if there[i] else None for i in range(len(there))]


def _message(file: pa.NativeFile, wanted: int, where: str) -> pa.Message | None:
    """The next message, if it is what it should be; None at the end."""
    try:
        message = pa.ipc.read_message(file)
    except EOFError:
        return None
    metadata = message.metadata.to_pybytes()
    kind, header = _header(metadata)
    if kind != wanted:
        raise DumpRefused(f"{where} holds dictionaries" if kind == _DICTIONARY else f"{where}: message of type {kind}")
    if kind == _BATCH and _field(metadata, header, 3):
        raise DumpRefused(f"{where} is compressed, so its size in memory is not known")
    return message


def _header(metadata: bytes) -> tuple[int, int]:
    """The type of a message and where its header is. A message is a FlatBuffers table: version, type, header, length of the body."""
    table = struct.unpack_from("<I", metadata, 0)[0]
    kind, header = _field(metadata, table, 1), _field(metadata, table, 2)
    if not kind or not header:
        return _NONE, 0
    return metadata[kind], header + struct.unpack_from("<I", metadata, header)[0]


def _field(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table is; 0 if it is not there."""
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, fields)[0]
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, fields + at)[0] if at < size else 0
    return table + offset if offset else 0


def _shown(schema: pa.Schema) -> str:
    names: Sequence[str] = [f"{f.name}: {f.type}" for f in schema][:12]
    return ", ".join(names)
