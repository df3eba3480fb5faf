"""Numbers for people: three figures and the unit in which they are read best. Pure."""

from __future__ import annotations


def time(seconds: float) -> str:
    """A length of time."""
    for most, unit, name in (
        (1e-3, 1e-6, "µs"),
        (1, 1e-3, "ms"),
        (120, 1, "s"),
        (7200, 60, "min"),
        (172_800, 3600, "h"),
    ):
        if abs(seconds) < most:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:.3g} days"


def size(count: int) -> str:
    """A number of bytes."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def rate(each: float) -> str:
    """Reads a second."""
    per, unit = next(((p, u) for p, u in ((1, "s"), (60, "min"), (3600, "h")) if each * p >= 1), (86_400, "day"))
    return f"{each * per:.2g} reads/{unit}"
