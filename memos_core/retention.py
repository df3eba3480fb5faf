"""How long an owner's memories are kept under a namespace. Pure: what the rules make of a memory.

A rule counts from when the words were handed in (`Origin.stored_at`): an edit, a share or an archive does not make them younger. It is
written down with each memory it holds for (`Lifespan.kept_until`), so that whatever asks whether a memory's time is over asks it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from .filters import decode_namespace, encode_namespace
from .types import MemCube, Namespace

RULE = "retain:"


def rule(owner: str, namespace: Namespace) -> str:
    """The name of an owner's rule for a namespace and all below it."""
    return RULE + encode_namespace((owner, *namespace))


def rules_of(owner: str, rules: Mapping[str, float]) -> dict[Namespace, timedelta]:
    """An owner's rules by namespace, from all rules by name (without `RULE`)."""
    paths = {decode_namespace(path): timedelta(seconds=seconds) for path, seconds in rules.items()}
    return {path[1:]: span for path, span in paths.items() if path[0] == owner}


def retained(cube: MemCube, rules: Mapping[str, float]) -> MemCube:
    """A memory that is kept as long as the shortest rule for it says; the same one if that is what it says already."""
    until = _until(cube, rules)
    return (
        cube if cube.lifespan.kept_until == until else replace(cube, lifespan=replace(cube.lifespan, kept_until=until))
    )


def overdue(cubes: Iterable[MemCube], now: datetime) -> list[MemCube]:
    """Those that no rule lets stay."""
    return [c for c in cubes if c.lifespan.kept_until is not None and c.lifespan.kept_until <= now]


def _until(cube: MemCube, rules: Mapping[str, float]) -> datetime | None:
    path = encode_namespace((cube.access.owner, *cube.namespace))
    spans = [seconds for prefix, seconds in rules.items() if path.startswith(prefix)]
    try:
        return cube.origin.stored_at + timedelta(seconds=min(spans)) if spans else None
    except OverflowError:  # after the year 9999
        return None
