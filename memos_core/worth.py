"""What a place is worth: seconds for a read from there, seconds for bringing something there, and who gets the room. Pure; arrays in,
arrays out.

Rent or buy: to do without is paid at every read, to make a form is paid once; making it when the two are even costs at most twice what
the best foreknowledge would (Karlin, Manasse, Rudolph & Sleator 1988, Competitive snoopy caching). Room goes by seconds saved for each
byte, from the next place down: the measure of GreedyDual-Size-Frequency (Cherkasova 1998, HPL-98-69R1), whose ageing clock the fading
of heat stands for. Keys, values and adapters are compared by it in one budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .holdings import Column, Place, Rates

Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
Indices = np.ndarray[Any, np.dtype[np.intp]]


def prefill_seconds(rates: Rates, tokens: Column) -> Floats:
    """Seconds for running texts of so many tokens [n]."""
    count = np.asarray(tokens, float)
    return np.asarray(count / rates.prefill + rates.attention * count**2)


def read_seconds(rates: Rates, without: Column, size: Column) -> Floats:
    """Seconds for a read of n things from each `Place` [n, places]: `without` where there is nothing [n], else of `size` bytes [n].
    From a place that is slower than doing without, doing without."""
    made = np.empty((len(without), len(Place)))
    made[:, Place.NOWHERE] = without
    for place, rate in ((Place.DISK, rates.disk), (Place.HOST, rates.host), (Place.DEVICE, rates.device)):
        made[:, place] = np.minimum(made[:, place - 1], size / rate)
    return made


def move_seconds(rates: Rates, making: Column, size: Column, place: Column, blob: Flags, at_hand: Flags) -> Floats:
    """Seconds for having n things of `size` bytes at each `Place` [n, places], from where they are: `place` [n], on disk as well where
    `blob` [n], on the device for the moment where `at_hand` [n]. `making` [n] is what it takes to make one that is nowhere."""
    copy = np.stack([np.zeros(len(size)), size / rates.write, size / rates.host, size / rates.device], axis=1)
    begun = np.choose(place, [making, size / rates.disk, size / rates.host, np.zeros(len(size))])
    seconds = np.empty_like(copy)
    for target in Place:
        down = np.where(blob, 0.0, copy[:, target]) if target is Place.DISK else copy[:, target]
        through = np.where(
            place == Place.DISK, (target is Place.DEVICE) * copy[:, Place.HOST], 0.0
        )  # the host's memory
        up = np.where(at_hand, copy[:, target], begun + np.where(place == Place.NOWHERE, copy[:, target], through))
        seconds[:, target] = np.where(place > target, down, np.where(place < target, up, 0.0))
    return seconds


def first_fit(order: Indices, uses: Floats, limits: Floats, needs: Floats | None = None) -> tuple[Indices, Floats]:
    """Which of `order` [m] get in, each in turn if what is left of every limit [resources] still covers its needs [n, resources] (by
    default what it uses [n, resources]); and what is left. The same as one by one, by whole stretches."""
    needs = uses if needs is None else needs
    left, rest, taken = limits.astype(float), order, [order[:0]]
    while rest.size:
        after = np.cumsum(uses[rest], axis=0)
        fits = ((after - uses[rest] + needs[rest]) <= left).all(axis=1)
        end = rest.size if fits.all() else int(np.argmin(fits))
        if end:
            taken.append(rest[:end])
            left = left - after[end - 1]
        rest = rest[end + 1 :]
        rest = rest[(needs[rest] <= left).all(axis=1)]
    return np.concatenate(taken), left


def break_even(reads: Column, saved: Floats, cost: Floats, factor: float) -> Flags:
    """Whether doing without has cost, over `reads` at `saved` seconds each, `factor` times the `cost` of making [n]."""
    return np.asarray(reads * saved >= factor * cost)


def places_below(budgets: Sequence[int]) -> tuple[Place, ...]:
    """For each place, the next one down that has room for anything, given bytes for each [places]."""
    found = []
    for place in Place:
        below = [p for p in Place if p < place and (budgets[p] > 0 or p is Place.NOWHERE)]
        found.append(max(below, default=Place.NOWHERE))
    return tuple(found)
