"""Figures of the scheduler for OpenTelemetry, where its API is installed; else nothing. No figure says whose or which a memory is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .reports import Carried, Process, Sample


class Metrics:
    """The instruments of one store in this process, on the application's meter provider."""

    def __init__(self) -> None:
        try:
            from opentelemetry import metrics
        except ImportError:  # an optional look from outside
            self._meter: Any = None
            return
        meter = self._meter = metrics.get_meter("memos_core")
        self._held = meter.create_gauge("memos.held", unit="By", description="keys, values and adapters held, by place")
        self._budget = meter.create_gauge("memos.budget", unit="By", description="what may be held, by place")
        self._moves = meter.create_counter("memos.moves", description="moves carried out, by action and outcome")
        self._ticks = meter.create_histogram("memos.tick", unit="s", description="what a tick takes")
        self._tokens = meter.create_gauge("memos.tokens", description="tokens of prompts so far, all and held")
        self._first = meter.create_gauge("memos.first_token", unit="s", description="time to the first token")

    def ticked(self, carried: Sequence[Carried], seconds: float) -> None:
        """Take in a tick, of so many seconds in all, and what became of its moves."""
        if self._meter is None:
            return
        for one in carried:
            self._moves.add(1, {"action": str(one.move.action), "form": str(one.move.form), "outcome": one.outcome})
        self._ticks.record(seconds)

    def note(self, sample: Sample, process: Process) -> None:
        """Take in how things are after a plan that a model took part in was carried out."""
        if self._meter is None:
            return
        for place, held, budget in (
            ("device", process.device, process.device_budget), ("host", process.host, process.host_budget),
            ("disk", sample.disk + sample.adapters, process.disk_budget),
        ):  # fmt: skip
            self._held.set(held, {"place": place})
            self._budget.set(budget, {"place": place})
        self._tokens.set(process.answered.tokens, {"kind": "all"})
        self._tokens.set(process.answered.cached, {"kind": "held"})
        self._first.set(process.answered.p50, {"quantile": "0.5"})
        self._first.set(process.answered.p95, {"quantile": "0.95"})
