"""The verbs that carry memories out of a store and into one: dump, load, bring in from elsewhere, publish, subscribe, pull."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import filters, governance, grants, leaving, lifecycle, reader
from .bringing import Bringer
from .dumping import Dumper, DumpReport, Selection
from .errors import AccessDenied, DumpRefused, InvalidArgument
from .forgetting import WHOLE
from .groups import Groups
from .importers import Foreign
from .loading import Loader, LoadReport
from .parcel import Publication, checked_name
from .places import Place
from .publishing import MemStore, Offer, PullReport
from .redaction import Redaction
from .subscriptions import Subscription, Subscriptions
from .terms import Order
from .types import Item, Kind
from .upkeep import Upkeep
from .validate import (
    checked_actor,
    checked_actors,
    checked_ids,
    checked_namespace,
    checked_number,
    checked_tags,
    checked_word,
)  # fmt: skip
from .vault import Vault
from .writing import Writer

if TYPE_CHECKING:
    from .model import LocalModel

_EVERY = tuple(Kind)


def _silent(done: int, total: int) -> None:
    pass


class Exchange:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _actor: str
    _clock: Callable[[], datetime]
    _bringer: Bringer
    _dumper: Dumper
    _groups: Groups
    _loader: Loader
    _memstore: MemStore
    _model: LocalModel | None
    _subscriptions: Subscriptions
    _upkeep: Upkeep
    _vault: Vault
    _writer: Writer

    if TYPE_CHECKING:

        def _who(self, actor: str | None) -> str: ...
        @property
        def _sensitivity(self) -> Redaction | None: ...

    def dump(
        self,
        target: str | PathLike[str],
        *,
        namespace: Sequence[str] = (),
        ids: Iterable[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        kinds: Iterable[Kind | str] | None = None,
        history: bool = True,
        redact: Callable[[str], str] | None = None,
        whole: bool = False,
        progress: Callable[[int, int], None] = _silent,
        actor: str | None = None,
    ) -> DumpReport:
        """Write memories that the actor may read to a folder, or to an archive if the target ends in ".zip"; the format is in `parcel`.

        A dump of before at the target is replaced, and of it only what changed; killed, the one of before is what is there. Others go
        on writing meanwhile: what is dumped is the store at one moment. Others' memories are in it as the store gives them to the actor (`Sensitivity`).

        Args:
            target: a path, or a URL that fsspec knows ("s3://bucket/dump", with s3fs installed).
            namespace, ids, filter, kinds: which, as in `search`; all of them together. What has expired is not among them.
            history: with the versions before, as far as the actor may read them.
            redact: makes of each text, and of each string among the attributes, what may leave. Ids, keys, namespaces, names of speakers and
                tags stay as they are. Memories in other forms than text are left out then: their tensors hold the words.
            whole: the store as it is: all owners' memories with their histories, groups and rules of retention, by the right of an operator
                (`grant_operator`). What the store holds to be sensitive is in it as the operator is given it. `load(as_they_are=True)` by who
                may act for all there makes the same of it elsewhere.
            progress: hears how many of how many memories are written.

        Raises:
            AccessDenied: whole, and the actor is no operator. NotFound: of one of the ids. InvalidArgument: the target holds something else. StoreUnavailable, Damaged.
        """
        who = self._who(actor)
        self._vault.ledger.require_key()
        wanted = self._selected(who, namespace, ids, filter, kinds, history, whole=whole)
        left = None if redact is None else leaving.as_said(redact)
        if self._sensitivity is not None and not grants.holds(self._sensitivity.raw, who):
            mine = f"owner = {filters.literal(str(who))}"
            if self._vault.count(filters.all_of(wanted.where, f"NOT ({mine})")):
                left = leaving.both(leaving.to_actor(self._sensitivity, who), left)
            else:  # and what is shared from now on is not among it
                wanted = replace(wanted, where=filters.all_of(wanted.where, mine))
        report = self._dumper.dump(wanted, Place(target), redact=left, progress=progress)
        what = f"{WHOLE} of {report.memories} memories" if whole else f"{report.memories} memories"
        self._writer.told_of(who, "dump", self._clock(), f"{what} to {report.target} as {report.dump}")
        return report

    def load(
        self,
        source: str | PathLike[str],
        *,
        owner: str | None = None,
        as_they_are: bool = False,
        kinds: Iterable[Kind | str] = _EVERY,
        trust: Iterable[str] | None = None,
        accept: str | None = None,
        model: LocalModel | None = None,
        progress: Callable[[int, int], None] = _silent,
        actor: str | None = None,
    ) -> LoadReport:
        """Take in a dump: brought here, verified whole, then visible in one commit. Killed, it is wholly here or not at all, and the next
        call goes on with what it had brought. Twice is once.

        A memory that is here in this version or a newer one stays as it is; one that was changed both here and there stays as it is here.
        Hashes say that a dump is what somebody wrote, not that it is true: keys, values, weights and vectors are taken on the word of who
        made it. From strangers take text (kinds=["plaintext"]).

        Args:
            owner: whose the memories become; None: the actor's. Those that were the owner's keep their readers, others are his alone, under ids
                of their own. Only an operator, or who opened a store without one, may name another.
            as_they_are: every memory keeps its owner and readers. Only for who owns them all, for an operator, or for who opened a store without one.
                A grant to a group comes in where the group is the same owner's here, or comes along: with its owner, an operator or who opened a
                store without one. Others are left out, and counted in the report.
            kinds: only of these forms.
            trust: public keys, one of which must have signed it.
            accept: the licence of a publication, word for word.
            model: whose tensors are of use here, None: the engine's; without any, those of all models are taken. Keys and values for
                another model are left out; its adapters are distilled anew by `tick`, if their sources came along, or else refused: the report
                says which. Vectors of another embedder are made anew from the text.
            progress: hears how many of how many bytes are done, each being brought and then read.

        Raises:
            DumpRefused: it is not what it says, or may not be loaded. AccessDenied. Nothing of it is here then.
        """
        who = self._who(actor)
        self._vault.ledger.require_key()
        order = Order(
            who, self._owner_of(who, owner, as_they_are), _kinds(kinds), _fingerprint(model or self._model),
            None if trust is None else frozenset(trust), accept,
        )  # fmt: skip
        report = self._loader.load(order, Place(source), progress=progress)
        self._upkeep.after_write()
        return report

    def bring_in(
        self,
        memories: Iterable[Foreign | Item],
        *,
        namespace: Sequence[str] = ("default",),
        progress: Callable[[int, int], None] = _silent,
        actor: str | None = None,
    ) -> tuple[int, int]:
        """Take in memories from another system, as one of `importers` reads them. Each becomes the actor's, below a namespace.

        In batches of one commit each: killed, it is called again, and what is here already is not doubled. What says something else there
        than when it was brought in gets its next version, unless it was changed here.

        Returns:
            How many memories there were, and how many of them were new or had changed.
        """
        found = self._bringer.bring(self._who(actor), memories, checked_namespace(namespace), progress)
        self._upkeep.after_write()
        return found

    # --- MemStore --------------------------------------------------------------------------------------------------------

    def publish(
        self,
        target: str | PathLike[str],
        name: str,
        *,
        key: str | PathLike[str],
        visibility: Iterable[str],
        about: str = "",
        tags: Iterable[str] = (),
        licence: str = "",
        expires_at: datetime | str | None = None,
        uses: int | None = None,
        namespace: Sequence[str] = (),
        ids: Iterable[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        kinds: Iterable[Kind | str] | None = None,
        redact: Callable[[str], str] | None = None,
        progress: Callable[[int, int], None] = _silent,
        actor: str | None = None,
    ) -> DumpReport:
        """Publish memories that the actor owns under a name at a target, in their current versions, signed; again, and it is the next
        version, of which only what changed is written and pulled.

        Terms are kept by stores that honour them, this engine's among them: they do not lock what was handed out.

        Args:
            key: a file with an Ed25519 private key, see `new_key`. Only who has it can publish the next version.
            visibility: who may load it: names of actors, or `PUBLIC`. Said, never assumed.
            about, tags: what subscribers find it by.
            licence: its text, which subscribers must accept word for word.
            expires_at: after it nobody loads it, and what was loaded is not returned any more.
            uses: how often one store may load it.
            namespace, ids, filter, kinds, redact: as in `dump`. What is sensitive in this store is left out, unless each of those who
                may load it is given it raw.

        Raises:
            AccessDenied: one of the ids is not the actor's; a memory was made from others' that not all of these may read; or somebody
                else published under the name. MissingPackage: without cryptography.
        """
        who = self._who(actor)
        self._vault.ledger.require_key()
        seen = tuple(sorted(checked_actors(visibility, "visibility")))
        if not seen:
            raise InvalidArgument("visibility: say who may load it: names, or PUBLIC")
        if several := [one for one in seen if grants.is_reserved(one)]:
            raise InvalidArgument(
                f"visibility: {several[0]!r} is no actor; no other store knows who is in a group here"
            )
        terms = Publication(
            _publication_name(name), 0, about, checked_tags(tags), seen, licence, reader.aware(expires_at, "expires_at"),
            None if uses is None else checked_number(uses, "uses"),
        )  # fmt: skip
        wanted = self._selected(who, namespace, ids, filter, kinds, history=False)
        if ids is not None:
            for cube in self._writer.readable(checked_ids(ids), who):
                governance.require_owner(who, cube)
        wanted = replace(wanted, where=filters.all_of(wanted.where, f"owner = {filters.literal(who)}"))
        left = None if redact is None else leaving.as_said(redact)
        if self._sensitivity is not None:
            left = leaving.both(leaving.to_all_of(self._sensitivity, seen), left)
        report = self._memstore.publish(wanted, Place(target), terms, key, left, progress)
        self._writer.told_of(
            who, "publish", self._clock(), f"{report.memories} memories to {report.target} as {report.dump}"
        )
        return report

    def offers(self, target: str | PathLike[str]) -> list[Offer]:
        """What is published at a target: terms, key, sizes. Signatures are checked, and what was damaged or tampered with is
        said to be refused, with the reason; whether a key is to be trusted is yours to say."""
        return self._memstore.offers(Place(target))

    def subscribe(
        self,
        target: str | PathLike[str],
        *,
        trust: Iterable[str],
        tags: Iterable[str] = (),
        like: str | None = None,
        least: float = 0.3,
        accept: Iterable[str] = (),
        kinds: Iterable[Kind | str] = (Kind.PLAINTEXT,),
        actor: str | None = None,
    ) -> Subscription:
        """Ask to follow what is published at a target; `pull` brings it.

        Args:
            trust: public keys; what others signed is not pulled.
            tags: any of them; none for whatever is there.
            like: what it should be about; its description must be as near as `least` (a cosine).
            accept: licences, word for word.
            kinds: text; other forms are taken on the publisher's word, see `load`.
        """
        keys = tuple(sorted({checked_word(k, "trust") or "" for k in trust}))
        if not keys:
            raise InvalidArgument("trust: name at least one public key; `offers` shows who signed what")
        wanted = Subscription(
            "", self._who(actor), Place(target).url, keys, checked_tags(tags), checked_word(like, "like"), float(least),
            tuple(accept), tuple(sorted(_kinds(kinds))),
        )  # fmt: skip
        return self._memstore.subscribe(wanted)

    def subscriptions(self, *, actor: str | None = None) -> list[Subscription]:
        """The actor's subscriptions."""
        return self._subscriptions.of(self._who(actor))

    def unsubscribe(self, id: str, *, actor: str | None = None) -> None:
        """End a subscription; what it brought stays. Raises NotFound."""
        self._subscriptions.remove(id, self._who(actor))

    def pull(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        progress: Callable[[int, int], None] = _silent,
        actor: str | None = None,
    ) -> list[PullReport]:
        """Bring what is new of the actor's subscriptions (None: all): only files that changed, each publication in one commit. What it
        brings is the actor's alone, apart from what is here, with vectors made here; what was withdrawn is removed, unless it was
        changed or frozen here. One publication that is refused does not stop the others: its report says why."""
        listed = None if ids is None else checked_ids(ids)
        self._vault.ledger.require_key()
        reports = self._memstore.pull(self._who(actor), listed, _fingerprint(self._model), progress)
        self._upkeep.after_write()
        return reports

    def _selected(
        self,
        who: str,
        namespace: Sequence[str],
        ids: Iterable[str] | None,
        filter: Mapping[str, Any] | None,
        kinds: Iterable[Kind | str] | None,
        history: bool,
        *,
        whole: bool = False,
    ) -> Selection:
        if whole:
            if namespace or ids is not None or filter is not None or kinds is not None or not history:
                raise InvalidArgument("whole: it is of all memories with their histories: leave out what selects some")
            self._groups.operators.require(who, "dump it whole")
        if filter is not None and not filters.matching(filter):
            raise InvalidArgument("filter: there is no condition in it; leave it out for all")
        wanted_kinds = None if kinds is None else _kinds(kinds)
        listed = None if ids is None else checked_ids(ids)
        if listed is not None:
            self._writer.readable(listed, who)
        readable, now = "true" if whole else filters.readable_by(who), self._clock()
        usable = "kind = 'plaintext' OR " + filters.in_states(lifecycle.SEARCHED)  # others may have lost their tensors
        where = filters.all_of(
            readable, filters.current(now), filters.under(checked_namespace(namespace, root=True)), filters.of_kinds(wanted_kinds),
            filters.matching(filter), None if listed is None else filters.one_of("id", listed), usable,
        )  # fmt: skip
        return Selection(who, where, readable if history else None, whole=whole)

    def _may_act_for_all(self, who: str) -> bool:
        """Whether an actor may add memories in others' names."""
        return self._groups.operators.may_act_for_all(who, str(self._actor))

    def _owner_of(self, who: str, owner: str | None, as_they_are: bool) -> str | None:
        if as_they_are:
            if owner is not None:
                raise InvalidArgument("owner, as_they_are: give one of them")
            return None
        wanted = who if owner is None else checked_actor(owner)
        if wanted != who and not self._may_act_for_all(who):
            raise AccessDenied(f"owner: {who!r} may not add memories in the name of {wanted!r}")
        return wanted


def _kinds(kinds: Iterable[Kind | str]) -> frozenset[Kind]:
    """Forms of memory, at least one: none of them is not all of them."""
    found = frozenset(_kind(k) for k in ([kinds] if isinstance(kinds, str) else kinds))
    if not found:
        raise InvalidArgument("kinds: none is given; leave it out for all")
    return found


def _kind(kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise InvalidArgument(f"kinds: {kind!r} is no form of memory; there are {', '.join(Kind)}") from None


def _fingerprint(model: LocalModel | None) -> str | None:
    return None if model is None else model.fingerprint


def _publication_name(name: str) -> str:
    try:
        return checked_name(name)
    except (DumpRefused, TypeError) as error:
        raise InvalidArgument(f"name: {error}") from None
