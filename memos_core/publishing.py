"""MemStore: sets of memories published at a version, signed, and pulled by difference into stores that never met the publisher's.

A publication is a dump in a folder of its own at a target, with terms and a signature in its manifest. It is published anew in the same
folder; the files of the version before stay until the next, for those who are pulling it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from os import PathLike

from . import filters, governance, parcel, signing
from .dumping import Dumper, DumpReport, Selection
from .embedding import Embedding, unit
from .errors import AccessDenied, DumpRefused, IllegalTransition, StoreUnavailable
from .leaving import Leaving
from .loading import Landed, Loader, LoadReport
from .parcel import Parcel, Publication
from .places import Place
from .subscriptions import Pulled, Subscription, Subscriptions
from .terms import Order
from .types import PUBLIC, Kind, State
from .vault import Vault
from .writing import Writer

log = logging.getLogger("memos_core")

Brought = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Offer:
    """A publication at a target: its terms, who signed it (a public key), how many memories and bytes it has, and when it was made.

    refused: why it cannot be loaded, if it was damaged or tampered with: then nothing of it is known but its name.
    """

    terms: Publication
    key: str
    memories: int
    bytes: int
    made_at: datetime | None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull did with one publication: the version that is here now, the files that were new of how many, what became of them (None:
    nothing was new), the memories that were withdrawn, and why it was not pulled, if it was not."""

    name: str
    number: int
    new_files: int
    files: int
    loaded: LoadReport | None = None
    withdrawn: int = 0
    refused: str | None = None


class MemStore:
    """The publications and subscriptions of one store. Safe for many threads."""

    def __init__(
        self,
        vault: Vault,
        writer: Writer,
        dumper: Dumper,
        loader: Loader,
        embedding: Embedding,
        subscriptions: Subscriptions,
        clock: Callable[[], datetime],
    ) -> None:
        self._vault = vault
        self._writer = writer
        self._dumper = dumper
        self._loader = loader
        self._embedding = embedding
        self._subscriptions = subscriptions
        self._clock = clock

    def publish(
        self,
        wanted: Selection,
        target: Place,
        terms: Publication,
        key: str | PathLike[str],
        redact: Leaving | None,
        progress: Callable[[int, int], None],
    ) -> DumpReport:
        """Publish memories that the actor owns; the version is one more than what is there.

        Raises AccessDenied for what was made from memories that others may not show to whom it is published, or where somebody else
        publishes under the name.
        """
        self._require_right(wanted, terms)
        place = target.below(terms.name)
        public = signing.public_key(key)
        before = self._before(place)
        if before is not None and (before.signature is None or before.signature["key"] != public):
            raise AccessDenied(f"{place.url} was published with another key")
        number = 1 + (before.publication.number if before is not None and before.publication is not None else 0)

        def finish(found: Parcel) -> Parcel:
            stated = replace(found, publication=replace(terms, number=number))
            return replace(stated, signature=signing.signed(parcel.body(stated), key))

        return self._dumper.dump(wanted, place, redact=redact, progress=progress, finish=finish)

    def offers(self, target: Place) -> list[Offer]:
        """What is published at a target, signed by whom it says, or refused. A folder that holds nothing of a dump is passed over."""
        found = []
        for name in target.folders():
            place = target.below(name)
            try:
                found.append(self._offer(place, name))
            except (DumpRefused, StoreUnavailable) as error:
                if _holds_a_dump(place):
                    log.warning("publication %s: %s", name, error)
                    found.append(Offer(Publication(name, 0), "", 0, 0, None, refused=str(error)))
        return found

    @staticmethod
    def _offer(place: Place, name: str) -> Offer:
        """One publication. Raises DumpRefused for one that is damaged, not signed, or another's than its folder says."""
        there = parcel.read(place.manifest(), place.url)
        if there.publication is None or there.signature is None:
            lacks = "no publication" if there.publication is None else "not signed"
            raise DumpRefused(f"{place.url} is {lacks}: what is published says so and is signed")
        if there.publication.name != name:
            raise DumpRefused(f"{place.url} was published as {there.publication.name!r}: it was moved or renamed")
        signing.require_signed(parcel.body(there), there.signature, name)
        size = sum(f.bytes for f in there.files)
        return Offer(there.publication, there.signature["key"], there.counts["memories"], size, there.made_at)

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Keep a subscription, under an id of its own."""
        made = replace(subscription, id=str(uuid.uuid4()))
        self._subscriptions.put(made)
        return made

    def pull(
        self, who: str, ids: Iterable[str] | None, model: str | None, progress: Callable[[int, int], None]
    ) -> list[PullReport]:
        """Bring what is new of the publications that an actor's subscriptions ask for; one report each, sorted by name."""
        asked = self._subscriptions.of(who) if ids is None else [self._subscriptions.get(i, who) for i in ids]
        reports = []
        for subscription in asked:
            target = Place(subscription.target)
            offers = self.offers(target)
            for name in sorted(subscription.pulled.keys() - {o.terms.name for o in offers}):
                gone = f"{target.below(name).url} holds no publication any more; what it brought stays"
                reports.append(PullReport(name, subscription.pulled[name].number, 0, 0, refused=gone))
            for offer in self._matching(subscription, offers):
                try:
                    if offer.refused is not None:
                        raise DumpRefused(offer.refused)
                    report = self._pull(subscription, target, offer, model, progress)
                except DumpRefused as error:
                    report = PullReport(offer.terms.name, offer.terms.number, 0, 0, refused=str(error))
                reports.append(report)
                subscription = self._subscriptions.get(subscription.id, who)
        return sorted(reports, key=lambda r: r.name)

    def _matching(self, wanted: Subscription, offers: Sequence[Offer]) -> list[Offer]:
        if refused := [o for o in offers if o.refused is not None]:  # what it was about is not known any more
            return [*refused, *self._matching(wanted, [o for o in offers if o.refused is None])]
        found = [o for o in offers if not wanted.tags or not set(wanted.tags).isdisjoint(o.terms.tags)]
        if wanted.like is None or not found:
            return found
        asked, *about = self._embedding.many(
            [wanted.like, *(f"{o.terms.about} {' '.join(o.terms.tags)}" for o in found)]
        )
        return [o for o, v in zip(found, about, strict=True) if float(unit(asked) @ unit(v)) >= wanted.least]

    def _pull(
        self, wanted: Subscription, target: Place, offer: Offer, model: str | None, progress: Callable[[int, int], None]
    ) -> PullReport:
        name = offer.terms.name
        place, before = target.below(name), wanted.pulled.get(name)
        found = self._loader.manifest(place)
        assert found.publication is not None
        identity, number = parcel.identity(found), found.publication.number
        if before is not None and (number < before.number or (number == before.number and identity != before.dump)):
            raise DumpRefused(
                f"{place.url} is at version {number}, and version {before.number} was here: it was turned back"
            )
        if before is not None and identity == before.dump:
            return PullReport(name, number, 0, len(found.files))
        known = {} if before is None else before.files
        new = [f for f in found.files if f.path not in known]
        accept = found.publication.licence if found.publication.licence in wanted.accept else None
        order = Order(
            wanted.actor, wanted.actor, frozenset(Kind(k) for k in wanted.kinds), model, frozenset(wanted.trust), accept,
            frozenset(f.path for f in new), stranger=True, verb="pull",
            brought={id: version for ids in known.values() for id, version in ids.items()},
        )  # fmt: skip
        here: dict[str, dict[str, int]] = {}
        landed: Landed = here.update
        report = self._loader.load(order, place, progress=progress, landed=landed)
        files = {f.path: here.get(f.path, known.get(f.path, {})) for f in found.files}
        withdrawn = self._withdraw(wanted.actor, known, files)
        self._subscriptions.put(wanted.with_pulled(name, Pulled(number, identity, files)))
        return PullReport(name, number, len(new), len(found.files), report, withdrawn)

    def _withdraw(self, who: str, before: Brought, after: Brought) -> int:
        """Remove what came with an earlier version and is in this one no more, unless it was changed or frozen here."""
        old = {id: version for ids in before.values() for id, version in ids.items()}
        kept = {id for ids in after.values() for id in ids}
        gone = {id: version for id, version in old.items() if id not in kept}
        removed = 0
        with self._vault.writing():
            for row in self._vault.by_ids(sorted(gone), f"owner = {filters.literal(who)}"):
                if row.cube.version == gone[row.cube.id] and row.cube.state is not State.FROZEN:
                    try:
                        self._writer.remove([row], who, self._clock())
                        removed += 1
                    except IllegalTransition:  # something that was made of it is frozen
                        continue
        return removed

    def _before(self, place: Place) -> Parcel | None:
        if place.size(parcel.MANIFEST) is None:
            return None
        return parcel.read(place.manifest(), place.url)

    def _require_right(self, wanted: Selection, terms: Publication) -> None:
        """What was made from others' memories goes only to those who may read these."""
        made = self._vault.rows(filters.all_of(wanted.where, "array_length(parents) > 0"))
        links = {link.id for row in made for link in row.cube.lineage if link.relation != "supersedes"}
        audience = frozenset(terms.visibility)
        for row in self._vault.by_ids(sorted(links)):
            readers = governance.readers_of(row.cube.access)
            if row.cube.access.owner != wanted.who and PUBLIC not in readers and not audience <= readers:
                raise AccessDenied(
                    "some of these memories were made from others' that may not be shown to whom they would be published"
                )


def _holds_a_dump(place: Place) -> bool:
    """Whether a folder holds a manifest, or files of a dump whose manifest was taken away."""
    folders = ("memories/", "history/", "payloads/")
    return place.size(parcel.MANIFEST) is not None or any(name.startswith(folders) for name in place.names())
