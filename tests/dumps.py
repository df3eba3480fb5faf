"""Dumps to be bent: as the files of a folder, by path, with a manifest that is made to fit them or not."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from memos_core import MemOS

Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """The files of a dump."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def put(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write them to a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed(files: Mapping[str, bytes], target: Path, *, how: int = zipfile.ZIP_STORED) -> Path:
    """Write them to an archive, the manifest first."""
    with zipfile.ZipFile(target, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target


def manifest(files: Mapping[str, bytes]) -> Any:
    """The manifest, as JSON."""
    return json.loads(files["memos.json"])


def with_manifest(files: Mapping[str, bytes], change: Callable[[Any], object]) -> Files:
    """The same with another manifest."""
    said = manifest(files)
    change(said)
    return {**files, "memos.json": json.dumps(said).encode()}


def honest(files: Mapping[str, bytes], old: str, data: bytes, rows: int | None = None) -> Files:
    """A file with other bytes, under the name that these give it, with a manifest that says so: a lie that hashes do not find."""
    digest = sha256(data).hexdigest()
    new = f"{old.rpartition('-')[0]}-{digest[:16]}.arrow" if old.endswith(".arrow") else old

    def change(said: Any) -> None:
        entry = next(f for f in said["files"] if f["path"] == old)
        kind = {"memories": "memories", "history": "versions"}.get(old.split("/")[0])
        if rows is not None and kind:
            said["counts"][kind] += rows - entry["rows"]
            entry["rows"] = rows
        entry.update(path=new, bytes=len(data), sha256=digest)

    return with_manifest({**{n: d for n, d in files.items() if n != old}, new: data}, change)


def table(data: bytes) -> pa.Table:
    """The rows of a file."""
    return pa.ipc.open_file(io.BytesIO(data)).read_all()


def arrow(rows: pa.Table, **options: Any) -> bytes:
    """Rows as a file."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, rows.schema, **options) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def with_record(
    files: Mapping[str, bytes], change: Callable[[dict[str, Any]], object], folder: str = "memories"
) -> Files:
    """The first memory with another record (and, where that says another id or version, these too), all else fitting."""
    name = next(n for n in files if n.startswith(folder))
    rows = table(files[name])
    columns = rows.to_pydict()
    record = json.loads(columns["record"][0])
    change(record)
    columns["record"][0] = json.dumps(record)
    columns["id"][0], columns["version"][0] = str(record.get("id")), record.get("version", 1)
    if type(columns["version"][0]) is not int or columns["version"][0] >= 2**63:
        columns["version"][0] = 1
    return honest(files, name, arrow(pa.table(columns, schema=rows.schema)))


def contents(memory: MemOS) -> list[Any]:
    """All that is in a store and not expired, with its history."""
    hits = memory.search("tea", k=100_000)
    return sorted(((h.cube, tuple(memory.history(h.cube.id))) for h in hits), key=lambda pair: pair[0].id)
