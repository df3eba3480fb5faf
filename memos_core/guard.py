"""Whether an approximation is good enough: a share of its uses is compared with the exact result, and it is switched off when it strays.

Knows logits; knows no models. Which uses are compared follows from their count alone.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from dataclasses import dataclass

import torch

from .errors import InvalidArgument

log = logging.getLogger("memos_core")

_STEP = (math.sqrt(5) - 1) / 2  # multiples of the golden ratio fall evenly, and in step with no period of the requests


def divergence(exact: torch.Tensor, other: torch.Tensor) -> float:
    """KL of next-token distributions, exact against other, in nats, the mean over rows. Both are logits of shape [rows, vocabulary]."""
    sure, guess = (logits.double().log_softmax(-1) for logits in (exact, other))
    return float((sure.exp() * (sure - guess)).nansum(-1).mean())


@dataclass(frozen=True, slots=True)
class Watch:
    """What a guard has seen: uses, how many were compared, mean (of the last ones) and worst divergence in nats, and, once it is off,
    why."""

    on: bool
    uses: int
    compared: int
    mean: float
    worst: float
    why: str = ""


class Guard:
    """Watches an approximation. Safe for many threads.

    Args:
        threshold: the mean divergence (KL of the next-token distribution, exact against approximate, in nats) that switches it off.
        sample: share of uses that is compared, after the first `least`, which all are.
        least: comparisons before it judges.
        window: comparisons that the mean is over, the last ones.

    Example:
        >>> guard = Guard()
        >>> guard.due()  # use the approximation; compute the exact result too
        True
        >>> guard.saw(0.002).on  # the divergence between them
        True
    """

    def __init__(self, threshold: float = 0.05, sample: float = 0.05, *, least: int = 4, window: int = 50) -> None:
        if not threshold >= 0 or not 0 < sample <= 1:
            raise InvalidArgument(
                f"threshold, sample: nats and a share above 0 are needed, not {threshold!r} and {sample!r}"
            )
        if not 1 <= least <= window:
            raise InvalidArgument(f"least, window: 1 <= least <= window, not {least!r} and {window!r}")
        self.threshold = threshold
        self.sample = sample
        self.least = least
        self._seen: deque[float] = deque(maxlen=window)
        self._state = Watch(True, 0, 0, 0.0, 0.0)
        self._lock = threading.Lock()

    @property
    def state(self) -> Watch:
        """What was seen until now."""
        with self._lock:
            return self._state

    def due(self) -> bool:
        """Count a use; whether it is one to be compared. What is switched off is not used: then False."""
        with self._lock:
            now = self._state
            if not now.on:
                return False
            self._state = Watch(True, now.uses + 1, now.compared, now.mean, now.worst)
            return now.uses < self.least or (now.uses * _STEP) % 1 < self.sample

    def saw(self, divergence: float) -> Watch:
        """Take in a comparison; the state after it. A divergence that is no number counts as beyond every threshold."""
        value = divergence if math.isfinite(divergence) else math.inf
        with self._lock:
            now = self._state
            self._seen.append(value)
            mean, compared = sum(self._seen) / len(self._seen), now.compared + 1
            off = mean > self.threshold and (compared >= self.least or value == math.inf)
            why = now.why or (
                f"mean divergence {mean:.3g} over {len(self._seen)} comparisons is more than {self.threshold:g}"
                if off
                else ""
            )
            self._state = Watch(now.on and not off, now.uses, compared, mean, max(now.worst, value), why)
            if now.on and off:
                log.warning("an approximation was switched off: %s", why)
            return self._state

    def reset(self) -> None:
        """Switch it on again and forget what was seen."""
        with self._lock:
            self._seen.clear()
            self._state = Watch(True, 0, 0, 0.0, 0.0)
