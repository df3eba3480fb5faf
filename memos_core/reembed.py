"""Give a store the vectors of another embedder, beside the requests and across kills.

A second cubes table is filled batch by batch; what is in it already (same id, same version) is not embedded again, so a killed
run goes on where it stopped. Only the last few changes are embedded while writers wait; then one commit switches the manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from . import filters, lifecycle
from .audit import checked_keys
from .embedding import Embedding, spoken
from .errors import NotAStore, StoreUnavailable
from .manifest import Manifest
from .sites import site
from .turns import Turn
from .types import Embedder, Policy
from .vault import Vault

_BATCH = 256
_LAST = 512  # changes few enough to embed while writers wait


def reembed(
    path: str | os.PathLike[str],
    embed: Embedder | str | None = None,
    *,
    storage_options: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    policy: Policy = Policy(),
    audit_key: bytes | Sequence[bytes] | None = None,
) -> int:
    """Rebuild all vectors with `embed` (it, path, storage_options and audit_key as for `MemOS`); how many memories there are, or 0 if it is the store's embedder.

    Requests of other processes go on until the switch; from then on they get EmbedderMismatch until they open the store anew.

    Raises:
        NotAStore: there is no store at the path. StoreUnavailable: another process is re-embedding it. AuditKeyRequired.
    """
    place = site(path, policy, storage_options)
    if not place.holds_store():
        raise NotAStore(f"{place.path} holds no store to re-embed")
    embedding = Embedding(embed)
    target = embedding.manifest()
    turn = place.turn("reembed")
    vault = Vault(place, policy, embedding.manifest, checked_keys(audit_key))
    try:
        vault.ledger.require_key()
        turn.acquire(0)
        embedding.bind(target, vault.path)
        return 0 if embedding.made(vault.manifest) else _fill_and_switch(vault, embedding, target, progress, turn)
    except TimeoutError:
        raise StoreUnavailable(f"{vault.path} is being re-embedded by another process") from None
    finally:
        turn.release()
        vault.close()


def _fill_and_switch(
    vault: Vault, embedding: Embedding, target: Manifest, progress: Callable[[int, int], None], turn: Turn
) -> int:
    name = "cubes_" + sha256(repr((target.embedder, target.dimension, target.probe)).encode()).hexdigest()[:12]
    if vault.manifest.filling not in (None, name):
        vault.db.drop(str(vault.manifest.filling))  # begun for an embedder that is no longer wanted
    vault.db.write_manifest(replace(vault.manifest, filling=name))
    vault.db.make_cubes(name, target.dimension)
    while len(todo := _outdated(vault, name)[0]) > _LAST:
        total = len(vault.versions(vault.manifest.cubes))
        done = total - len(todo)
        for start in range(0, len(todo), _BATCH):
            batch = todo[start : start + _BATCH]
            _embed(vault, embedding, name, target.dimension, batch, turn)
            progress(done := done + len(batch), total)
    with vault.writing():
        todo, gone = _outdated(vault, name)
        for start in range(0, len(todo), _BATCH):
            _embed(vault, embedding, name, target.dimension, todo[start : start + _BATCH], turn)
        turn.require()
        vault.drop_rows(name, gone)
        total = len(vault.versions(name))
        vault.switch(replace(target, cubes=name))
        progress(total, total)
    return total


def _outdated(vault: Vault, name: str) -> tuple[list[str], list[str]]:
    """Ids that the filling table lacks in their current version, and ids that are only there."""
    current, filled = vault.versions(vault.manifest.cubes), vault.versions(name)
    return [id for id, version in current.items() if filled.get(id) != version], [
        id for id in filled if id not in current
    ]


def _embed(vault: Vault, embedding: Embedding, name: str, dimension: int, ids: Sequence[str], turn: Turn) -> None:
    cubes = [row.cube for row in vault.rows(filters.one_of("id", ids))]
    wanted = [bool(c.text) and lifecycle.is_searched(c) for c in cubes]
    texts = [spoken(c.origin.speaker, c.text) for c, want in zip(cubes, wanted, strict=True) if want]
    vectors = iter(embedding.many(texts))
    with vault.writing():  # by turns too: whoever lost both cannot write any more
        turn.require()
        vault.drop_rows(name, [c.id for c in cubes])
        vault.fill(name, dimension, cubes, [next(vectors) if want else None for want in wanted])
