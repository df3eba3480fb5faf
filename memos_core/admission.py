"""What memories from elsewhere must be to be taken in. Pure: decides on records; opens nothing.

A record from a file is read as strictly as a caller's arguments are: a value that the verbs could never have stored refuses the dump that
it is in. An id is kept where it can be the memory's own: one that its owner's name for it gives (`placement.stable_id`), or a random one.
Everything else, and everything that changes its owner, gets an id made from owner and old id, so that loading again finds it again and
nobody claims, or learns of, a memory of somebody else by its id.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from . import codec, keyed
from .errors import DumpRefused, InvalidArgument, SchemaMismatch
from .placement import message_key, stable_id
from .types import Access, Adapter, Kind, KVCache, Lifespan, Link, MemCube, Origin, Steering, Text
from .validate import checked_actor, checked_actors, checked_namespace, checked_tags, checked_word

LARGEST_RECORD = 16 << 20
LARGEST_TEXT = 64 << 20
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KINDS = {Text: (Kind.PLAINTEXT,), KVCache: (Kind.ACTIVATION,), Steering: (Kind.ACTIVATION,), Adapter: (Kind.PARAMETRIC,)}
_RELATIONS = {"derived", "supersedes", "merged", keyed.PASSAGE}
_FIELDS = {"schema", "id", "version", "kind", "state", "namespace", "payload", "key", "origin", "access", "lifespan", "created_at",
           "updated_at", "semantic_type", "tags", "attributes", "priority", "sensitivity", "lineage"}  # fmt: skip
_MOST = 2**31 - 1
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, InvalidArgument, SchemaMismatch)


def cube_of(id: str, version: int, text: str | None, record: str, where: str) -> MemCube:
    """The memory of a row. Raises DumpRefused, naming the file, for one that is none."""
    if len(record) > LARGEST_RECORD or (text is not None and len(text) > LARGEST_TEXT):
        raise DumpRefused(f"{where}: a memory of {len(record) + len(text or ''):,} characters is more than a memory may have")
    try:
        said = json.loads(record, parse_constant=_constant)
        if unknown := set(said) - _FIELDS:
            raise ValueError(f"there is no {min(unknown)!r:.50} in a record")
        cube = codec.decode_record(said, text)
        _require_sound(cube, said)
    except _BROKEN as error:
        if isinstance(error, DumpRefused):
            raise
        raise DumpRefused(f"{where}: memory {id!r:.80} is none: {error!s:.200}") from None
    if (cube.id, cube.version) != (id, version):
        raise DumpRefused(f"{where}: the record of memory {id!r:.80} is that of {cube.id!r:.80} version {cube.version}")
    return cube


def _require_sound(cube: MemCube, said: Mapping[str, Any]) -> None:
    """Raise what is not as the verbs would have made it."""
    if not isinstance(cube.id, str) or not _ID.fullmatch(cube.id):
        raise ValueError("its id is no UUID")
    _require(isinstance(said["namespace"], list), "namespace")
    checked_namespace(cube.namespace)
    for name in ("key", "semantic_type"):
        checked_word(getattr(cube, name), name) if name != "key" or cube.key else None
    _require(isinstance(cube.key, str | None), "key")
    _require(_is_whole(cube.version, 1), "version")
    _require(type(cube.priority) in (int, float) and 0 <= cube.priority <= 1, "priority")
    checked_tags(said.get("tags", []))
    checked_tags(said.get("sensitivity", []))
    codec.checked_attributes(said.get("attributes", {}))
    _require_origin(cube.origin)
    checked_actor(cube.access.owner)
    checked_actors(cube.access.readers, "readers")
    checked_actors(cube.access.writers, "writers")
    for moment in (cube.created_at, cube.updated_at, cube.lifespan.expires_at, cube.lifespan.valid_until):
        _require(moment is None or moment.utcoffset() is not None, "a time")
    _require_lifespan(cube.lifespan)
    _require(cube.kind in _KINDS[type(cube.payload)], "kind")
    _require_payload(cube)
    for link in cube.lineage:
        if not _ID.fullmatch(link.id) or not _is_whole(link.version, 1) or link.relation not in _RELATIONS or link.id == cube.id:
            raise ValueError("its lineage is none")


def _require_origin(origin: Origin) -> None:
    for name in ("role", "speaker", "session", "message_id", "source", "model", "digest"):
        checked_word(getattr(origin, name), name)
    _require(origin.position is None or (type(origin.position) is int and 0 <= origin.position < 2**62), "position")
    for moment in (origin.stored_at, origin.occurred_at):
        _require(moment is None or moment.utcoffset() is not None, "a time of its origin")


def _require_lifespan(span: Lifespan) -> None:
    for length in (span.half_life, span.ttl):
        _require(length is None or timedelta(0) < length, "lifespan")


def _require_payload(cube: MemCube) -> None:
    payload = cube.payload
    if isinstance(payload, Text):
        codec.checked_text(payload.text, "text")
        return
    _require(re.fullmatch(r"[0-9a-f]{64}", payload.blob) is not None, "the name of its tensors")
    checked_word(payload.model, "model")
    _require(_is_whole(payload.bytes, 1, 2**62), "the size of its tensors")
    if isinstance(payload, KVCache):
        _require(_is_whole(payload.tokens, 1), "tokens")
        _require(bool(cube.lineage), "keys and values that were made from no memories: lineage")
    elif isinstance(payload, Steering):
        _require(_is_whole(payload.layer, 0), "layer")
    else:
        _require(_is_whole(payload.rank, 1), "rank")
        _require(bool(payload.targets) and all(isinstance(t, str) and t for t in payload.targets), "targets")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what}: not what a memory has there")


def _is_whole(value: Any, least: int, most: int = _MOST) -> bool:
    return type(value) is int and least <= value <= most


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# --- whose it becomes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms memories are taken in: whose they become (None: as they are), and until when they may be returned."""

    owner: str | None
    expires_at: datetime | None = None


def id_here(cube: MemCube, owner: str) -> str:
    """The id under which a memory is kept for an owner; the same whenever it is asked."""
    if cube.access.owner == owner and _is_own(cube):
        return cube.id
    if cube.key is not None:
        return stable_id(owner, cube.namespace, "key", cube.key)
    if cube.origin.message_id is not None:
        for named in (None, cube.origin.session):
            if cube.id == message_key(cube.access.owner, cube.namespace, named, cube.origin.message_id):
                return message_key(owner, cube.namespace, named, cube.origin.message_id)
    return given_id(cube.id, owner)


def given_id(id: str, owner: str) -> str:
    """An id for a memory that cannot keep its own: random to all who know neither."""
    return str(uuid.UUID(bytes=sha256(f"{len(owner)}:{owner}{id}".encode()).digest()[:16], version=4))


def _is_own(cube: MemCube) -> bool:
    """Whether nobody but its owner could have a memory of this id, or nobody could guess it."""
    owner, message = cube.access.owner, cube.origin.message_id
    if cube.key is not None:
        return cube.id == stable_id(owner, cube.namespace, "key", cube.key)
    return cube.id[14] == "4" or (
        message is not None
        and any(cube.id == message_key(owner, cube.namespace, s, message) for s in (None, cube.origin.session))
    )


def taken_in(cube: MemCube, id: str, terms: Terms, names: Callable[[Link], str | None]) -> MemCube:
    """A memory as it is kept here. `names` says what another memory is called here, None for one that its owner may not know of."""
    lineage = tuple(replace(link, id=there) for link in cube.lineage if (there := names(link)) is not None)
    access = cube.access if terms.owner in (None, cube.access.owner) else Access(terms.owner or "")
    span, end = cube.lifespan, terms.expires_at
    if end is not None and (span.expires_at is None or span.expires_at > end):
        span = replace(span, expires_at=end)
    return replace(cube, id=id, access=access, lineage=lineage, lifespan=span)


def with_access_of(cube: MemCube, here: MemCube) -> MemCube:
    """A memory with the readers that its owner gave to the version that is here."""
    return replace(cube, access=here.access)
