"""Removing what is over, again and again, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from memos_core import MemOSError, StoreClosed

log = logging.getLogger("langchain_memos")


class Sweeper:
    """Calls `sweep`, which says how many it removed, at intervals. A failure is logged and the next turn tries again."""

    def __init__(self, sweep: Callable[[], int]) -> None:
        self._sweep = sweep
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._done: Future[None] = Future()

    def start(self, minutes: float) -> Future[None]:
        """Begin, unless it runs already; a future that is done when it has stopped, and whose cancelling stops it."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                stopping, self._done = threading.Event(), Future()
                self._done.add_done_callback(lambda _: stopping.set())
                self._thread = threading.Thread(
                    target=self._run, args=(minutes * 60, stopping, self._done), name="memos-sweeper", daemon=True
                )
                self._thread.start()
            return self._done

    def stop(self, timeout: float | None = None) -> bool:
        """Stop it; whether it has stopped within so many seconds (None: wait as long as it takes)."""
        with self._lock:
            thread, done = self._thread, self._done
        if thread is None:
            return True
        _finish(done)
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self, seconds: float, stopping: threading.Event, done: Future[None]) -> None:
        while not stopping.wait(seconds):
            try:
                if count := self._sweep():
                    log.info("swept %d expired items", count)
            except StoreClosed:
                break
            except MemOSError as error:
                log.warning("sweeping expired items failed, the next turn tries again: %s", error)
        _finish(done)


def _finish(done: Future[None]) -> None:
    with suppress(InvalidStateError):  # it was cancelled, or somebody else has finished it
        done.set_result(None)
