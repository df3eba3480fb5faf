"""What the scheduler leaves behind to be looked at: how full each place is, over time, and what each process that ticks has seen.

Kept in the store as a few JSON values, so that another process (`memosctl top`) can show them. They hold figures, and actors' names beside
their own counts; no memory's words or id.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np

from .holdings import Place, Snapshot
from .reports import DONE, Carried, Counted, Process, Sample
from .tally import Tally
from .uses import Uses

_SAMPLES = 300  # of the past that are kept
_APART = 30.0  # seconds between two of them at least, unless something moved
_GONE = 600.0  # seconds after which a process that said nothing is not shown
_CURVE = 40  # points of the curve of what bytes save


class Telemetry:
    """The figures of one store. Safe for many threads."""

    def __init__(self, uses: Uses) -> None:
        self._uses = uses
        self._id = str(uuid.uuid4())

    def note(
        self,
        snapshot: Snapshot,
        carried: Sequence[Carried],
        now: datetime,
        needed: float,
        model: Any,
        tally: Tally | None,
    ) -> tuple[Sample, Process]:
        """Write down how things are after a plan was carried out, as this process sees it."""
        held, (device, host) = model.shelf.held(), model.shelf.budgets
        blobs = snapshot.kv_blob | (snapshot.kv_place == Place.DISK)
        sample = Sample(
            now.timestamp(), int(snapshot.kv_bytes[blobs].sum()), held.host_bytes, held.device_bytes,
            int(snapshot.adapter_bytes[snapshot.adapter_place > Place.NOWHERE].sum()), sum(c.outcome == DONE for c in carried),
        )  # fmt: skip
        samples = self.samples()
        if sample.moves or not samples or sample.at - samples[-1].at >= _APART:
            self._uses.remember("samples", [asdict(s) for s in (*samples, sample)[-_SAMPLES:]])
        tally = tally or Tally()
        mine = Process(
            self._id, now.timestamp(), model.fingerprint, held.device_bytes, device, held.host_bytes, host, snapshot.budgets.disk,
            snapshot.rates.prefill, snapshot.rates.disk, needed, tally.counted(),
            tuple((who, tally.counted(who)) for who in tally.actors()), curve(snapshot, now.timestamp()),
        )  # fmt: skip
        others = [p for p in self.processes(now) if p.id != self._id]
        self._uses.remember("processes", [asdict(p) for p in (*others, mine)])
        return sample, mine

    def samples(self) -> list[Sample]:
        """The past, oldest first."""
        return [Sample(**said) for said in self._uses.recall("samples") or ()]

    def processes(self, now: datetime) -> list[Process]:
        """The processes that ticked in the last minutes."""
        found = [_process(said) for said in self._uses.recall("processes") or ()]
        return [p for p in found if now.timestamp() - p.at <= _GONE]


def curve(s: Snapshot, now: float) -> tuple[tuple[int, float], ...]:
    """What bytes on disk save: (bytes, seconds saved an hour), with what is worth most for its bytes first, so many points at most."""
    from . import heat

    each = (
        heat.rate(s.scales, s.heat, s.heat_at, now) * 3_600 * (s.tokens / s.rates.prefill - s.kv_bytes / s.rates.disk)
    )
    there = np.flatnonzero((s.kv_bytes > 0) & (each > 0))
    order = there[np.argsort(-each[there] / s.kv_bytes[there], kind="stable")]
    size, saved = np.cumsum(s.kv_bytes[order]), np.cumsum(each[order])
    picked = np.unique(np.linspace(0, len(order) - 1, min(_CURVE, len(order))).astype(int)) if len(order) else order
    return tuple((int(size[i]), round(float(saved[i]), 6)) for i in picked.tolist())


def _process(said: dict[str, Any]) -> Process:
    return Process(**{
        **said, "answered": Counted(**said["answered"]), "curve": tuple((size, saved) for size, saved in said["curve"]),
        "by_actor": tuple((who, Counted(**counts)) for who, counts in said["by_actor"]),
    })  # fmt: skip
