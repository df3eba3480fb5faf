"""The verbs that carry memories out of a store and into one: dump, load, bring in from elsewhere, publish, subscribe, pull."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import filters, lifecycle
from .dumping import Dumper, DumpReport, Selection
from .errors import AccessDenied, InvalidArgument
from .loading import Loader, LoadReport, Order
from .places import Place
from .types import Kind
from .upkeep import Upkeep
from .validate import checked_actor, checked_ids, checked_namespace
from .writing import Writer

if TYPE_CHECKING:
    from .model import LocalModel

_EVERY = tuple(Kind)


def _silent(done: int, total: int) -> None:
    pass


class Exchange:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _clock: Callable[[], datetime]
    _dumper: Dumper
    _loader: Loader
    _model: LocalModel | None
    _upkeep: Upkeep
    _writer: Writer

    if TYPE_CHECKING:

        def _who(self, actor: str | None) -> str: ...

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
        progress: Callable[[int, int], None] = _silent,
        actor: str | None = None,
    ) -> DumpReport:
        """Write memories that the actor may read to a folder, or to an archive if the target ends in ".zip"; the format is in `parcel`.

        A dump of before at the target is replaced, and of it only what changed; killed, the one of before is what is there. Others go
        on writing meanwhile: what is dumped is the store at one moment.

        Args:
            target: a path, or a URL that fsspec knows ("s3://bucket/dump", with s3fs installed).
            namespace, ids, filter, kinds: which, as in `search`; all of them together. What has expired is not among them.
            history: with the versions before, as far as the actor may read them.
            redact: makes of each text, and of each string among the attributes, what may leave. Ids, keys, namespaces, names of speakers and
                tags stay as they are. Memories in other forms than text are left out then: their tensors hold the words.
            progress: hears how many of how many memories are written.

        Raises:
            NotFound: of one of the ids. InvalidArgument: the target holds something else. StoreUnavailable, Damaged.
        """
        wanted = self._selected(self._who(actor), namespace, ids, filter, kinds, history)
        return self._dumper.dump(wanted, Place(target), redact=redact, progress=progress)

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
                of their own. Only who opened the store may name another.
            as_they_are: every memory keeps its owner and readers. Only for who owns them all, or who opened the store.
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
        order = Order(
            who, self._owner_of(who, owner, as_they_are), frozenset(_kind(k) for k in kinds), _fingerprint(model or self._model),
            None if trust is None else frozenset(trust), accept,
        )  # fmt: skip
        report = self._loader.load(order, Place(source), progress=progress)
        self._upkeep.after_write()
        return report

    def _selected(
        self,
        who: str,
        namespace: Sequence[str],
        ids: Iterable[str] | None,
        filter: Mapping[str, Any] | None,
        kinds: Iterable[Kind | str] | None,
        history: bool,
    ) -> Selection:
        listed = None if ids is None else checked_ids(ids)
        if listed is not None:
            self._writer.readable(listed, who)
        readable, now = filters.readable_by(who), self._clock()
        whole = filters.all_of("kind = 'plaintext' OR " + filters.in_states(lifecycle.SEARCHED))  # others may have lost their tensors
        where = filters.all_of(
            readable, filters.current(now), filters.under(checked_namespace(namespace, root=True)), filters.of_kinds(kinds),
            filters.matching(filter), None if listed is None else filters.one_of("id", listed), whole,
        )  # fmt: skip
        return Selection(who, where, readable if history else None)

    def _owner_of(self, who: str, owner: str | None, as_they_are: bool) -> str | None:
        if as_they_are:
            if owner is not None:
                raise InvalidArgument("owner, as_they_are: give one of them")
            return None
        wanted = who if owner is None else checked_actor(owner)
        if wanted != who and who != self._who(None):
            raise AccessDenied(f"owner: {who!r} may not add memories in the name of {wanted!r}")
        return wanted


def _kind(kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise InvalidArgument(f"kinds: {kind!r} is no form of memory; there are {', '.join(Kind)}") from None


def _fingerprint(model: LocalModel | None) -> str | None:
    return None if model is None else model.fingerprint
