"""Cubes as JSON records, and back, through every schema that ever was. Pure: knows shapes, not storage.

A record holds the whole header and the payload except the passage itself, which stands beside it as text. Defaults are left
out. What the store filters by is repeated in columns (`vault`), but a cube is always read from its record.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from .errors import InvalidArgument, SchemaMismatch
from .governance import readers_of
from .types import (
    SCHEMA,
    Access,
    Adapter,
    Kind,
    KVCache,
    Lifespan,
    Link,
    MemCube,
    Origin,
    Payload,
    SourceKind,
    State,
    Steering,
    Text,
    Usage,
)

Record = dict[str, Any]

MIGRATIONS: dict[int, Callable[[Record], Record]] = {}
"""From schema n to n + 1: a pure function on the record. Reading applies them in order; writing is always in SCHEMA."""

_PAYLOADS: Mapping[str, Callable[..., Payload]] = {
    "kv": KVCache, "steering": Steering, "adapter": Adapter,
}  # fmt: skip
_LARGEST = 2**63
_DEEPEST = 64


def encode(cube: MemCube) -> str:
    """The record of a cube as JSON text."""
    record = {
        "schema": SCHEMA, "id": cube.id, "version": cube.version, "kind": cube.kind, "state": cube.state,
        "namespace": cube.namespace, "payload": _payload(cube.payload), "key": cube.key,
        "origin": _plain(cube.origin), "access": _access(cube.access), "lifespan": _plain(cube.lifespan),
        "created_at": _time(cube.created_at), "updated_at": _time(cube.updated_at),
        "semantic_type": cube.semantic_type, "tags": cube.tags, "attributes": cube.attributes,
        "priority": cube.priority, "sensitivity": cube.sensitivity,
        "lineage": [[link.id, link.version, link.relation] for link in cube.lineage],
    }  # fmt: skip
    return json.dumps({k: v for k, v in record.items() if v not in (None, (), [], {})}, ensure_ascii=False)


def decode(text: str, passage: str | None, usage: Usage = Usage()) -> MemCube:
    """The cube of a record and its passage. Raises SchemaMismatch for a record from the future."""
    return decode_record(json.loads(text), passage, usage)


def decode_record(record: Record, passage: str | None, usage: Usage = Usage()) -> MemCube:
    """The same of a record that was parsed already."""
    r = _migrated(record)
    origin, span = r["origin"], r.get("lifespan", {})
    return MemCube(
        id=r["id"], version=r["version"], kind=Kind(r["kind"]), state=State(r["state"]),
        namespace=tuple(r["namespace"]), payload=_read_payload(r.get("payload"), passage), key=r.get("key"),
        origin=Origin(**{**origin, "kind": SourceKind(origin["kind"]), "stored_at": _read_time(origin["stored_at"]),
                         "occurred_at": _maybe_time(origin.get("occurred_at")), "provenance": tuple(origin.get("provenance", ()))}),
        access=_read_access(r["access"]),
        lifespan=_read_lifespan(span), usage=usage,
        created_at=_read_time(r["created_at"]), updated_at=_read_time(r["updated_at"]),
        semantic_type=r.get("semantic_type"), tags=tuple(r.get("tags", ())), attributes=r.get("attributes", {}),
        priority=r.get("priority", 0.5), sensitivity=tuple(r.get("sensitivity", ())),
        lineage=tuple(Link(*link) for link in r.get("lineage", ())),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outline:
    """What must be known of a memory to remove it: `seq` is its last write, `sources` what it was made from, `digest` the SHA-256 of its
    record and its words."""

    id: str
    version: int
    seq: int
    kind: str
    state: str
    owner: str
    readers: frozenset[str]
    sources: tuple[str, ...]
    digest: str


def outline(record: str, passage: str | None, seq: int) -> Outline:
    """The outline of a record, of which no cube is made."""
    r = _migrated(json.loads(record))
    return Outline(
        r["id"], r["version"], seq, r["kind"], r["state"], r["access"]["owner"], readers_of(_read_access(r["access"])),
        tuple(id for id, _, relation in r.get("lineage", ()) if relation != "supersedes"),
        sha256(f"{record}\0{passage or ''}".encode()).hexdigest(),
    )  # fmt: skip


def at_rest(record: str, passage: str) -> str:
    """A record with its passage in it, as it is stored of a memory that is not searched: no index of passages sees it."""
    return f"{json.dumps(passage, ensure_ascii=False)}\n{record}"


def awake(record: str, passage: str | None) -> tuple[str, str | None]:
    """The inverse; what is not at rest is as it is."""
    if not record.startswith('"'):  # a record alone is an object
        return record, passage
    said, _, rest = record.partition("\n")
    return rest, json.loads(said)


def checksum(record: str, passage: str | None) -> int:
    """CRC-32 of what a cube is read from: damage shows when it is read, not when it is believed."""
    return zlib.crc32((passage or "").encode(), zlib.crc32(record.encode()))


def checked_attributes(attributes: Mapping[str, Any] | None, argument: str = "attributes") -> dict[str, Any]:
    """A deep copy of the caller's attributes as plain JSON. Raises InvalidArgument for what JSON cannot hold exactly."""
    if attributes is None:
        return {}
    if not isinstance(attributes, Mapping):
        raise InvalidArgument(f"{argument}: a mapping is needed, not {type(attributes).__name__}")
    return {_name(k, argument): _checked(v, f"{argument}: {k!r}", 1) for k, v in attributes.items()}


def _checked(value: Any, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InvalidArgument(f"{where} is nested deeper than {_DEEPEST} levels, or in itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return checked_text(value, where)
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {_name(k, where): _checked(v, f"{where}: {k!r:.80}", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_checked(v, where, depth + 1) for v in value]
    raise InvalidArgument(f"{where} holds {value!r}, which is not plain JSON (64-bit, finite)")


def _name(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"{where}: names must be strings, not {key!r}")
    return checked_text(key, where)


def checked_text(text: str, argument: str) -> str:
    """The text itself; InvalidArgument if it cannot be written as UTF-8 (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{argument}: not valid Unicode at character {error.start}") from None
    return text


def _migrated(record: Record) -> Record:
    schema = record.get("schema", SCHEMA)
    if schema > SCHEMA:
        raise SchemaMismatch(
            f"record {record.get('id')} has schema {schema}, this version reads up to {SCHEMA}: upgrade"
        )
    for step in range(schema, SCHEMA):
        record = MIGRATIONS[step](record)
    return record


def _plain(part: Origin | Lifespan) -> Record:
    out: Record = {}
    for name in part.__slots__:
        value = getattr(part, name)
        if isinstance(value, datetime):
            value = _time(value)
        elif isinstance(value, timedelta):
            value = value.total_seconds()
        if value is not None and value != ():
            out[name] = value
    return out


def _access(access: Access) -> Record:
    listed = {"readers": sorted(access.readers), "writers": sorted(access.writers)}
    within = {} if access.within is None else {"within": sorted(access.within)}
    return {"owner": access.owner, **{k: v for k, v in listed.items() if v}, **within}


def _read_access(access: Record) -> Access:
    within = access.get("within")
    return Access(
        access["owner"], frozenset(access.get("readers", ())), frozenset(access.get("writers", ())),
        None if within is None else frozenset(within),
    )  # fmt: skip


def _read_lifespan(span: Record) -> Lifespan:
    half_life, ttl, frozen = span.get("half_life"), span.get("ttl"), span.get("frozen_from")
    return Lifespan(
        expires_at=_maybe_time(span.get("expires_at")),
        kept_until=_maybe_time(span.get("kept_until")),
        ttl=None if ttl is None else timedelta(seconds=ttl),
        valid_until=_maybe_time(span.get("valid_until")),
        half_life=None if half_life is None else timedelta(seconds=half_life),
        frozen_from=None if frozen is None else State(frozen),
    )


def _payload(payload: Payload) -> Record | None:
    if isinstance(payload, Text):
        return None  # the passage stands beside the record
    name = next(n for n, shape in _PAYLOADS.items() if shape is type(payload))
    return {"is": name, **{field: getattr(payload, field) for field in payload.__slots__}}


def _read_payload(record: Record | None, passage: str | None) -> Payload:
    if record is None:
        return Text(passage or "")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k != "is"}
    return _PAYLOADS[record["is"]](**fields)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _read_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _maybe_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
