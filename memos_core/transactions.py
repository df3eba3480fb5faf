"""Transactions: writes to several tables that count together or not at all. Knows the database and its manifest; not what is written.

How. While a transaction is under way the manifest says at which version each table is *pinned*: who is outside reads those
versions, who is inside the newest ones. One commit, of the manifest without pins, makes all of it count; taking it back
restores the pinned versions first. A killed process leaves its pins: readers keep to them, and whoever next writes or opens the
store takes back what was begun. (The other ways: a branch of each table, which LanceDB here can make and not merge; an undo file
beside the tables, which readers would have to look for, and which a store on object storage could not switch in one step.)

A transaction belongs to a *context* (PEP 567): the thread that began it, and what is started from there with a copy of its context,
as `asyncio.to_thread` and LangGraph's executors do. Another task of the same event loop is outside.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from .errors import Conflict, MemOSError, StoreUnavailable
from .manifest import Manifest

Found = TypeVar("Found")
log = logging.getLogger("memos_core")
_TRIES = 10  # how often a reading is begun again because transactions keep beginning in the middle of it


@dataclass(slots=True, eq=False)
class Transaction:
    """One that is under way: the memories that it wrote or removed, the blobs that it made and those that it needs no more, and
    who is told at its end, under the lock, whether it was kept."""

    touched: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    unwanted: set[str] = field(default_factory=set)
    ends: list[Callable[[bool], object]] = field(default_factory=list)
    turn: threading.RLock = field(default_factory=threading.RLock)
    failed: BaseException | None = None  # of a transaction inside this one


_INSIDE: ContextVar[tuple[Transaction, ...]] = ContextVar("memos_core_inside", default=())
_VIEW: ContextVar[tuple[Any, Manifest, int] | None] = ContextVar("memos_core_view", default=None)


class Tables(Protocol):
    """What is asked of the database; see there."""

    path: str

    @property
    def manifest(self) -> Manifest:
        """As last seen."""

    @property
    def writes(self) -> bool:
        """Whether this thread is the only writer."""

    def fresh(self, *, again: bool = False) -> Manifest:
        """The manifest as it is now."""

    def seen(self, *, again: bool = False) -> tuple[int, Manifest]:
        """The same with the number of its version."""

    @property
    def seen_last(self) -> tuple[int, Manifest]:
        """The same without looking."""

    def versions(self) -> dict[str, int]:
        """Of each table that verbs write to."""

    def restore(self, name: str, version: int) -> None:
        """Make a table what it was."""

    def write_manifest(self, manifest: Manifest) -> None:
        """Switch to another one."""

    def writing(self, wait: float | None = None) -> AbstractContextManager[None]:
        """Be the only writer."""

    def uncompacted(self) -> AbstractContextManager[None]:
        """Keep compactions away."""


class Transactions:
    """The transactions of one open store, one at a time. Safe for many threads and processes."""

    def __init__(self, database: Tables) -> None:
        self._db = database
        self._under_way: Transaction | None = None
        self.witness: Callable[[Mapping[str, int]], Callable[[], None]] = lambda pins: lambda: None
        """Called before something is taken back; what it returns is called after, and tells of it."""

    @property
    def inside(self) -> Transaction | None:
        """The transaction that this context is inside of, if any."""
        under_way = self._under_way
        return under_way if under_way is not None and under_way in _INSIDE.get() else None

    def view(self) -> Manifest:
        """What this context reads by: the manifest, with pins if it is outside of a transaction that is under way."""
        if (held := _VIEW.get()) is not None and held[0] is self:
            return held[1]
        manifest = self._db.fresh()
        writes = self.inside is not None or (self._under_way is None and self._db.writes)
        return replace(manifest, pinned={}) if writes and manifest.pinned else manifest

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction until the end of the block; within another one, a part of that. An error takes all of it back, also one
        that was raised by an inner part and caught. Raises StoreUnavailable after `Policy.lock_seconds`."""
        if (outer := self.inside) is not None:
            try:
                yield outer
            except BaseException as error:
                outer.failed = outer.failed or error
                raise
            return
        self.require_turn()
        with self._db.uncompacted(), self._db.writing():  # in this order, as a compaction takes them
            manifest = self._db.fresh()
            self._db.write_manifest(replace(manifest, pinned=self._db.versions()))
            under_way = self._under_way = Transaction()
            _INSIDE.set((*_INSIDE.get(), under_way))
            kept, process = False, os.getpid()
            try:
                yield under_way
                if under_way.failed is not None:
                    raise under_way.failed
                self._db.write_manifest(replace(self._db.manifest, pinned={}))
                kept = True
            except BaseException:
                kept = self._undo()
                raise
            finally:
                self._under_way = None
                _INSIDE.set(tuple(t for t in _INSIDE.get() if t is not under_way))
                for end in (
                    under_way.ends if process == os.getpid() else ()
                ):  # else a fork leaves the block, and it is its parent's
                    end(kept)

    def require_turn(self) -> None:
        """Raise StoreUnavailable if another task of this very thread is inside a transaction: waiting would be for ever."""
        if self._under_way is not None and self.inside is None and self._db.writes:
            raise StoreUnavailable(
                f"{self._db.path}: another task of this thread is in a transaction: begin and end it without awaiting, or write "
                "from a thread of your own (asyncio.to_thread)"
            )

    def take_back(self) -> None:
        """Undo what a transaction began and did not end, if there is such. The caller holds the writers' lock, and nobody else is
        inside. May be killed and done again."""
        manifest = self._db.fresh(again=True)
        if not manifest.pinned:
            return
        self._db.write_manifest(
            manifest
        )  # refused if the turn lapsed and somebody took it over: then it was he who took this back
        tell = self.witness(manifest.pinned)
        for name, version in manifest.pinned.items():
            self._db.restore(name, version)
        tell()
        self._db.write_manifest(replace(manifest, pinned={}))

    def take_back_of_the_dead(self) -> None:
        """The same, if nobody is writing: then whoever began it was killed."""
        if self._db.fresh().pinned:
            try:
                with self._db.writing(wait=0):
                    pass  # taking the lock does it
            except StoreUnavailable:  # alive: readers keep to the pinned versions
                return

    def whole(self, read: Callable[[], Found]) -> Found:
        """What a reading of several steps finds, with each transaction wholly in it or not at all. Waits for nobody: it is done again
        if a transaction began in the middle, and keeps to the pinned versions if one is under way."""
        if ((held := _VIEW.get()) is not None and held[0] is self) or self.inside is not None or self._db.writes:
            return read()
        for again in range(_TRIES):
            # the first time by the manifest as it was seen last: if it is still that one at the end, it was all along
            seen, manifest = self._db.seen() if again else self._db.seen_last
            mark = _VIEW.set((self, manifest, seen))
            try:
                found = read()
                if (again and manifest.pinned) or self._db.seen()[0] == seen:
                    return found
            except MemOSError:  # perhaps only because of what is not to be seen, or of files that went after its end
                if self._db.seen()[0] == seen:
                    raise
            finally:
                _VIEW.reset(mark)
        with self._db.writing():
            return read()

    def require_whole(self) -> None:
        """Raise Conflict, upon which the reading is begun again, if a transaction began since it did: what it found up to now may be
        of one that is taken back, and is not to be kept for others."""
        held = _VIEW.get()
        if held is not None and held[0] is self and not held[1].pinned and self._db.seen()[0] != held[2]:
            raise Conflict(f"{self._db.path}: a transaction began or ended meanwhile: read again")

    def _undo(self) -> bool:
        """Take back this process's own transaction; whether it had been kept already when the error came."""
        try:
            kept = not self._db.fresh(again=True).pinned
            self.take_back()
        except MemOSError as error:
            log.warning("%s: a transaction is taken back by the next writer: %s", self._db.path, error)
            return False
        return kept
