"""Writers take turns on a store that many machines share: a lease on one small object, which lapses when its holder is dead.

Knows an object that can be written on condition (`Register`); not where it is. How long ago it was written is told by the clock of
whoever keeps it, and its holder counts from before it asked: so the holder gives up first, whatever the clocks of the machines say.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .errors import MemOSError, StoreUnavailable

log = logging.getLogger("memos_core")
_SLACK = 2.0  # seconds that ages may be wrong by: they are told in whole seconds, by more than one server
_FIRST, _LAST = 0.02, 0.5  # seconds between two looks of one who waits


@dataclass(frozen=True, slots=True)
class Entry:
    """What a register said: the words, the tag of that state, and how many seconds ago it was written."""

    said: str
    tag: str
    age: float = 0.0


class Register(Protocol):
    """One small object that is written on condition. All methods raise StoreUnavailable where it cannot be reached."""

    name: str

    def read(self) -> Entry | None:
        """What it says; None if it was never written."""

    def write(self, said: str, before: Entry | None) -> Entry | None:
        """Write, if it still is in the state `before` (None: never written). None if it is not: nothing was written then."""


class Turn(Protocol):
    """The right to write, which one process at a time has. For one thread at a time. `name`: how to call it in a message."""

    name: str

    def acquire(self, seconds: float) -> bool:
        """Wait for it for so long; whether whoever had it may not have ended what he was writing. Raises TimeoutError."""

    def require(self) -> None:
        """Raise StoreUnavailable if it is not held any more; if it returns, it is held for a while yet."""

    def release(self, *, clean: bool = True) -> None:
        """Give it back. clean: all that was written under it was written, or refused."""


class LeasedTurn:
    """A turn by a register. It is renewed while it is held, by a thread of its own.

    seconds: how long it is held without renewal; a dead holder keeps others waiting for so long, and two seconds.
    clock, wait: of this process, in seconds.
    """

    def __init__(
        self, register: Register, seconds: float, *, clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.name = register.name
        self._register = register
        self._seconds = seconds
        self._clock = clock
        self._wait = wait
        self._me = uuid.uuid4().hex
        self._process = os.getpid()
        self._count = 0
        self._entry: Entry | None = None  # as written by this process last
        self._held = False
        self._until = 0.0
        self._lock = threading.RLock()
        self._over = threading.Event()

    def acquire(self, seconds: float) -> bool:
        """Wait for it for so long; whether whoever had it may not have ended what he was writing. Raises TimeoutError."""
        end, pause = self._clock() + seconds, _FIRST
        clean = self._entry is not None and self._take(self._entry)  # nobody else came since: one request
        if clean:
            return False
        while True:
            found = self._register.read()
            if (found is None or self._is_free(found)) and self._take(found):
                return found is None or not found.said.startswith(
                    "free"
                )  # None: it was taken away from somebody, maybe
            left = end - self._clock()
            if left <= 0:
                raise TimeoutError
            self._wait(min(left, pause * (0.5 + random.random())))
            pause = min(_LAST, 1.5 * pause)

    def require(self) -> None:
        """Raise StoreUnavailable if it is not held any more; if it returns, it is held for half of its time yet, unless it cannot be
        renewed: then for what is left of it."""
        with self._lock:
            if self._held and self._until - self._clock() < self._seconds / 2:
                self._renew()
            if not self._held or self._until <= self._clock():
                self._held = False
                raise StoreUnavailable(
                    f"{self.name}: this process was silent for too long and lost its turn to write; what it was writing was "
                    "given up, and what was acknowledged before is stored. Do it again"
                )

    def release(self, *, clean: bool = True) -> None:
        """Give it back. clean: all that was written under it was written, or refused. Where it cannot be given back it lapses."""
        if self._process != os.getpid():  # a fork has not got it, and would take it from its parent
            return
        with self._lock:
            self._over.set()
            held, self._held, before = self._held, False, self._entry
            self._entry = None
            if held and before is not None:
                try:
                    given = self._register.write(self._words("free" if clean else "left"), before)
                    self._entry = given if clean else None
                except StoreUnavailable as error:
                    log.warning("%s was not given back and will lapse: %s", self.name, error)

    def _is_free(self, found: Entry) -> bool:
        state, holder, *_ = found.said.split()
        return state != "held" or holder == self._me or found.age > self._seconds + _SLACK

    def _take(self, before: Entry | None) -> bool:
        with self._lock:
            begun = self._clock()
            self._entry = self._register.write(self._words("held"), before)
            if self._entry is None:
                return False
            self._held, self._until, self._over = True, begun + self._seconds, threading.Event()
        threading.Thread(target=self._keep, args=(self._over,), name="memos-turn", daemon=True).start()
        return True

    def _keep(self, over: threading.Event) -> None:
        """Renew it until it is over."""
        while not over.wait(self._seconds / 4):
            with self._lock:
                if over.is_set() or not self._held:
                    return
                self._renew()

    def _renew(self) -> None:
        begun = self._clock()
        try:
            entry = self._register.write(self._words("held"), self._entry)
        except MemOSError as error:  # the next try may reach it in time
            log.warning("%s was not renewed: %s", self.name, error)
            return
        if entry is None:
            self._held = False
        else:
            self._entry, self._until = entry, begun + self._seconds

    def _words(self, state: str) -> str:
        self._count += 1  # never the same twice: the tag follows from the words
        return f"{state} {self._me} {self._count}"
