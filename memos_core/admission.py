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
from functools import lru_cache
from hashlib import sha256
from typing import Any

from . import codec, grants, keyed
from .errors import DumpRefused, InvalidArgument, SchemaMismatch
from .placement import message_key, stable_id
from .types import Access, Adapter, Kind, KVCache, Lifespan, Link, MemCube, Origin, Steering, Text
from .validate import checked_actor, checked_actors, checked_namespace, checked_tags, checked_word

LARGEST_RECORD = 16 << 20
LARGEST_TEXT = 64 << 20
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KINDS = {
    Text: (Kind.PLAINTEXT,),
    KVCache: (Kind.ACTIVATION,),
    Steering: (Kind.ACTIVATION,),
    Adapter: (Kind.PARAMETRIC,),
}
_RELATIONS = {"derived", "supersedes", "merged", keyed.PASSAGE}
_FIELDS = {"schema", "id", "version", "kind", "state", "namespace", "payload", "key", "origin", "access", "lifespan", "created_at",
           "updated_at", "semantic_type", "tags", "attributes", "priority", "sensitivity", "lineage"}  # fmt: skip
_MOST = 2**31 - 1
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # only an escape can bring half of a character into a text that is UTF-8


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_constant)
_BROKEN = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    InvalidArgument,
    SchemaMismatch,
)


def cube_of(id: str, version: int, text: str | None, record: str, where: str) -> MemCube:
    """The memory of a row. Raises DumpRefused, naming the file, for one that is none."""
    if len(record) > LARGEST_RECORD or (text is not None and len(text) > LARGEST_TEXT):
        raise DumpRefused(
            f"{where}: a memory of {len(record) + len(text or ''):,} characters is more than a memory may have"
        )
    try:
        said = _JSON.decode(record)
        if not said.keys() <= _FIELDS:
            raise ValueError(f"there is no {min(said.keys() - _FIELDS)!r:.50} in a record")
        if _SURROGATE.search(record):
            json.dumps(said, ensure_ascii=False).encode()
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
    """Raise what is not as the verbs would have made it. (Said of every memory of every dump: written to be quick.)"""
    if type(cube.id) is not str or not _ID.fullmatch(cube.id):
        raise ValueError("its id is no UUID")
    _require(type(said["namespace"]) is list, "namespace")
    _sound_namespace(cube.namespace)
    _sound_access(cube.access)
    _require(cube.key is None or type(cube.key) is str, "key")
    _require(_is_word(cube.semantic_type), "semantic_type")
    _require(_is_whole(cube.version, 1), "version")
    _require(type(cube.priority) in (int, float) and 0 <= cube.priority <= 1, "priority")
    for name in ("tags", "sensitivity"):
        if name in said:
            _require(type(said[name]) is list, name)
            checked_tags(said[name])
    if "attributes" in said:
        codec.checked_attributes(said["attributes"])
    _require_origin(cube.origin)
    _require(_is_aware(cube.created_at) and _is_aware(cube.updated_at), "a time")
    if "lifespan" in said:
        _require_lifespan(cube.lifespan)
    _require(cube.kind in _KINDS[type(cube.payload)], "kind")
    if not isinstance(cube.payload, Text):
        _require_payload(cube)
    for link in cube.lineage:
        if (
            not _ID.fullmatch(link.id)
            or not _is_whole(link.version, 1)
            or link.relation not in _RELATIONS
            or link.id == cube.id
        ):
            raise ValueError("its lineage is none")


@lru_cache(maxsize=4096)
def _sound_namespace(namespace: tuple[str, ...]) -> None:
    checked_namespace(namespace)


@lru_cache(maxsize=4096)
def _sound_access(access: Access) -> None:
    checked_actor(access.owner)
    checked_actors(access.readers, "readers")
    checked_actors(access.writers, "writers")
    checked_actors(access.within or (), "within")


def _is_word(value: Any) -> bool:
    return value is None or (type(value) is str and value != "")


def _is_aware(moment: datetime | None) -> bool:
    return moment is None or moment.tzinfo is not None


def _require_origin(origin: Origin) -> None:
    words = (origin.role, origin.speaker, origin.session, origin.message_id, origin.source, origin.model, origin.digest)
    _require(all(map(_is_word, words)), "its origin")
    _require(origin.position is None or (type(origin.position) is int and 0 <= origin.position < 2**62), "position")
    _require(all(type(one) is str and _ID.fullmatch(one) for one in origin.provenance), "provenance")
    _require(_is_aware(origin.stored_at) and _is_aware(origin.occurred_at), "a time of its origin")


def _require_lifespan(span: Lifespan) -> None:
    _require(all(map(_is_aware, (span.expires_at, span.valid_until, span.kept_until))), "lifespan")
    for length in (span.half_life, span.ttl):
        _require(length is None or timedelta(0) < length, "lifespan")


def _require_payload(cube: MemCube) -> None:
    payload = cube.payload
    assert not isinstance(payload, Text)
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


# --- whose it becomes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms memories are taken in: whose they become (None: as they are), and until when they may be returned. `publisher`: the
    key of a stranger who signed them; then they are kept apart from all that is here, under ids and without keys of their own."""

    owner: str | None
    expires_at: datetime | None = None
    publisher: str | None = None


def id_here(cube: MemCube, owner: str, publisher: str | None = None) -> str:
    """The id under which a memory is kept for an owner; the same whenever it is asked."""
    if publisher is not None:
        return given_id(cube.id, owner, publisher)
    if cube.access.owner == owner and _is_own(cube):
        return cube.id
    if cube.key is not None:
        return stable_id(owner, cube.namespace, "key", cube.key)
    if cube.origin.message_id is not None:
        for named in (None, cube.origin.session):
            if cube.id == message_key(cube.access.owner, cube.namespace, named, cube.origin.message_id):
                return message_key(owner, cube.namespace, named, cube.origin.message_id)
    return given_id(cube.id, owner)


def given_id(id: str, owner: str, publisher: str | None = None) -> str:
    """An id for a memory that cannot keep its own: random to all who know neither."""
    said = f"{len(owner)}:{owner}{id}{publisher or ''}"
    return str(uuid.UUID(bytes=sha256(said.encode()).digest()[:16], version=4))


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
    if cube.id == id and not cube.lineage and terms.expires_at is None and terms.owner in (None, cube.access.owner):
        return cube
    lineage = tuple(replace(link, id=there) for link in cube.lineage if (there := names(link)) is not None)
    is_theirs = terms.publisher is None and terms.owner in (None, cube.access.owner)
    span, end = cube.lifespan, terms.expires_at
    if end is not None and (span.expires_at is None or span.expires_at > end):
        span = replace(span, expires_at=end)
    origin = (
        cube.origin if cube.id == id else replace(cube.origin, provenance=cube.provenance)
    )  # what it came from stays
    return replace(
        cube, id=id, origin=origin, access=cube.access if is_theirs else Access(terms.owner or ""), lineage=lineage, lifespan=span,
        key=cube.key if terms.publisher is None else None,
    )  # fmt: skip


def groups_of(access: Access) -> set[str]:
    """The names of the groups that an access names."""
    return grants.groups(access.readers | access.writers | (access.within or frozenset()))


def without_groups(access: Access, known: frozenset[str]) -> Access:
    """An access without the grants that name another group than these: nobody knows who is in that, or will be."""
    if groups_of(access) <= known:
        return access

    def kept(some: frozenset[str]) -> frozenset[str]:
        return frozenset(one for one in some if grants.groups([one]) <= known)

    within = None if access.within is None else kept(access.within)
    return replace(access, readers=kept(access.readers), writers=kept(access.writers), within=within)


def with_access_of(cube: MemCube, here: MemCube) -> MemCube:
    """A memory with the readers that its owner gave to the version that is here."""
    return replace(cube, access=here.access)
