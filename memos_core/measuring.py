"""What things cost on this machine: measured when it is first asked, refined by every prompt that is run and every blob that is read."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from .holdings import Rates
from .requests import PIECE
from .tiers import Tiers

if TYPE_CHECKING:
    from .model import LocalModel

_DISK = 500e6  # bytes a second, until a blob was read
_SAMPLE = 8 << 20  # bytes that are copied to see how fast the device's memory is


class Measured:
    """The rates of this process. given: what to go by instead of measuring."""

    def __init__(self, tiers: Tiers, given: Rates | None = None) -> None:
        self._tiers = tiers
        self._given = given
        self._device: dict[str, float] = {}

    def rates(self, model: LocalModel) -> Rates:
        """What is known now. The first time takes two short passes of the model."""
        if self._given is not None:
            return self._given
        opener = self._tiers.opener(model)
        if opener.running.value is None:
            opener.running.note(PIECE, _seconds_to_run(model))
        if str(model.device) not in self._device:
            self._device[str(model.device)] = _copied(model)
        known = Rates(prefill=opener.running.value or 1.0, disk=opener.loading.value or _DISK)
        return replace(known, device=self._device[str(model.device)])


def _seconds_to_run(model: LocalModel) -> float:
    """For PIECE tokens; the first pass of a network takes longer, and is not counted."""
    for _ in range(2):
        cache, began = model.cache(room=PIECE), time.perf_counter()
        model.forward([0] * PIECE, cache)[0, 0].item()  # on the host: the device has done it
        seconds = time.perf_counter() - began
    return seconds


def _copied(model: LocalModel) -> float:
    """Bytes a second that are copied on a model's device."""
    import torch

    there = torch.zeros(_SAMPLE, dtype=torch.uint8, device=model.device)
    for _ in range(2):
        began = time.perf_counter()
        there.clone()[-1].item()
        seconds = time.perf_counter() - began
    return _SAMPLE / seconds
