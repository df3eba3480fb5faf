"""What a store says of itself: one small record, with its checksum. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields

from .errors import Damaged, SchemaMismatch
from .types import SCHEMA


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the store is: the schema, the embedder (its fingerprint, or None, and how it embeds a fixed sentence), the
    current cubes table, the one that a re-embedding is filling, how many rows the vector index was trained on, while a
    transaction is under way, at which version each table counts (see `transactions`), and the id of the key that its log is
    signed with, if it is."""

    schema: int
    embedder: str | None
    dimension: int
    probe: tuple[float, ...]
    cubes: str = "cubes"
    filling: str | None = None
    trained: int = 0
    pinned: Mapping[str, int] = field(default_factory=dict)
    audit_key: str = ""


def signed(manifest: Manifest) -> str:
    """A manifest as text that tells if it was damaged."""
    text = json.dumps(asdict(manifest))
    return f"{zlib.crc32(text.encode())} {text}"


def verified(stored: str, path: str) -> Manifest:
    """The manifest in a text. Raises Damaged, or SchemaMismatch for one that another version of this project wrote."""
    sum, _, text = stored.partition(" ")
    if sum != str(zlib.crc32(text.encode())):
        raise Damaged(f"{path}/meta.lance: the manifest does not match its checksum: {stored[:80]!r}")
    raw = json.loads(text)
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if (
        not isinstance(schema, int) or not 1 <= schema <= SCHEMA
    ):  # records of an older one are migrated as they are read
        raise SchemaMismatch(
            f"{path} has store schema {schema}, this version reads {SCHEMA}: "
            "use the memos-adapters that wrote it, or a newer one"
        )
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(Manifest)}
    strange, lacking = sorted(raw.keys() - known), sorted(n for n, needed in known.items() if needed and n not in raw)
    if strange or lacking:
        what = (
            f"lacks {', '.join(lacking)}"
            if lacking
            else f"holds {', '.join(strange)}, which this version does not know"
        )
        raise SchemaMismatch(f"{path}/meta.lance: the manifest {what}: use the memos-adapters that wrote the store")
    return Manifest(**{**raw, "probe": tuple(raw["probe"])})
