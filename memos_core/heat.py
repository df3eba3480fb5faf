"""How warm a memory is: reads that fade, on several time scales at once, and which of the scales tells best what is read next. Pure.

No one half-life suits a chat of minutes and a project of months. So reads are counted with several of them, and the weights of the
scales follow how likely each scale called the reads that came: prediction with expert advice, by the aggregating algorithm with fixed
shares (Herbster & Warmuth 1998, Tracking the best expert), so that a scale that was wrong for long can win again at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

HALF_LIVES = (60.0, 480.0, 3_840.0, 30_720.0, 245_760.0)
"""Seconds: from one minute in steps of eight to nearly three days."""

SHARE = 0.01
"""Of the weight, handed round evenly at every read: a scale is never further down than a few hundred reads can lift it."""

STRANGER = 0.05
"""Chance that every scale leaves for what it has never seen; it only keeps the chances from being 0."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Scales:
    """What a store knows about its time scales.

    weights: of each half-life, together 1. totals: faded reads of all subjects together, per half-life, as of `at`. subjects: how many
    were ever read, as far as known: what a scale that has no evidence would choose among.
    """

    weights: tuple[float, ...] = (1 / len(HALF_LIVES),) * len(HALF_LIVES)
    totals: tuple[float, ...] = (0.0,) * len(HALF_LIVES)
    at: float = 0.0
    subjects: int = 0


def faded(heat: Floats, at: Floats | float, now: float) -> Floats:
    """Counts of reads [..., scales] as of the times `at` (seconds), as they stand at `now`; a time to come counts as now."""
    idle = np.maximum(now - np.asarray(at, float), 0.0)
    return np.asarray(heat * np.exp2(-idle[..., None] / np.asarray(HALF_LIVES)), float)


def read(scales: Scales, heat: Floats, at: float, now: float) -> tuple[Scales, Floats]:
    """One read, at `now`, of a subject with counts `heat` [scales] as of `at`: the scales with what it taught, and the counts after it.

    Each scale had given this subject the chance of its share in the faded reads; the weights are multiplied by these chances.
    """
    before = faded(heat, at, now)
    totals = faded(np.asarray(scales.totals), scales.at, now)
    known = max(scales.subjects, 1)
    chances = (1 - STRANGER) * before / np.maximum(totals, 1e-12) + STRANGER / known
    weights = np.asarray(scales.weights) * chances
    weights = (1 - SHARE) * weights / weights.sum() + SHARE / len(weights)
    new = Scales(
        tuple(weights.tolist()),
        tuple((totals + 1).tolist()),
        max(now, scales.at),
        scales.subjects + (not heat.any()),
    )
    return new, before + 1


def rate(scales: Scales, heat: Floats, at: Floats, now: float, within: float = 0.0) -> Floats:
    """Reads a second that are expected of each subject, from its counts [n, scales] as of `at` [n]: its share of all reads, as the scales
    see it by their weights, times how often anything is read, by the scale on which that is most. In the mean over the next `within`
    seconds (0: just now), in which what each scale saw fades as its counts do: a burst is no promise for a day."""
    totals = np.maximum(faded(np.asarray(scales.totals), scales.at, now), 1e-12)
    often = float(
        (totals * math.log(2) / np.asarray(HALF_LIVES)).max()
    )  # a steady rate r adds up to r by the half-life over ln 2
    return np.asarray(faded(heat, at, now) @ (np.asarray(scales.weights) * _lasting(within) / totals * often), float)


def _lasting(within: float) -> Floats:
    """What is left of a rate that fades with each half-life, in the mean over so many seconds [scales]."""
    spans = within * math.log(2) / np.asarray(HALF_LIVES)
    return -np.expm1(-spans) / spans if within > 0 else np.ones(len(HALF_LIVES))


def prospect(heat: Floats, at: Floats, now: float) -> Floats:
    """Reads that are expected of each subject for as long as its counts [n, scales] say anything: each scale's rate for the mean life
    of its counts, which are the counts themselves, in the mean. Not by the weights, which say what is read next and not what will be."""
    return np.asarray(faded(heat, at, now).mean(axis=-1), float)
