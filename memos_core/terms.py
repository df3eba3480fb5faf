"""On which terms a dump is loaded: what is asked for, and what its manifest allows. Decides on manifests; opens nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from . import parcel, signing
from .embedding import SAME, unit
from .errors import DumpRefused
from .manifest import Manifest
from .parcel import Parcel, Source
from .types import PUBLIC, Kind


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be loaded and how.

    owner: whose it becomes; None: as it is. kinds: of these forms. model: the fingerprint of the model here, None if there is none.
    trust: public keys, one of which must have signed; None asks for none. accept: the licence that was accepted. only: paths of
    files, None for all. stranger: it comes from one: kept apart from what is here, read by the owner alone, its vectors made here.
    brought: what came from there before, by id, in which version.
    """

    who: str
    owner: str | None
    kinds: frozenset[Kind] = frozenset(Kind)
    model: str | None = None
    trust: Collection[str] | None = None
    accept: str | None = None
    only: Collection[str] | None = None
    stranger: bool = False
    brought: Mapping[str, int] = field(default_factory=dict)
    verb: str = "load"


def require_terms(found: Parcel, order: Order, now: datetime, url: str) -> None:
    """Raise DumpRefused for a dump on whose terms it may not be loaded: by signature, visibility, licence, or time."""
    if found.signature is not None:
        signing.require_signed(parcel.body(found), found.signature, url)
    if order.trust is not None and (found.signature is None or found.signature["key"] not in order.trust):
        by = "nobody" if found.signature is None else found.signature["key"]
        raise DumpRefused(f"{url} is signed by {by}, and that is none of the keys that are trusted")
    terms = found.publication
    if terms is None:
        return
    if PUBLIC not in terms.visibility and order.who not in terms.visibility:
        raise DumpRefused(f"{url} is not visible to {order.who!r}")
    if terms.expires_at is not None and terms.expires_at <= now:
        raise DumpRefused(f"{url}: its time was over at {terms.expires_at.isoformat()}")
    if terms.licence and order.accept != terms.licence:
        raise DumpRefused(f"{url}: its licence must be accepted, word for word (accept=): {terms.licence[:200]}")


def made_by(source: Source, here: Manifest) -> bool:
    """Whether the vectors of a dump are those of the store's embedder."""
    if source.dimension != here.dimension:
        return False
    if source.fingerprint is not None or here.embedder is not None:
        return source.fingerprint == here.embedder
    if not source.probe or not here.probe:
        return False
    return float(unit(np.asarray(source.probe, np.float32)) @ unit(np.asarray(here.probe, np.float32))) >= SAME
