"""What a store keeps of publications: how often each was loaded, who asked for which, and what came of them. Knows files of its own.

A subscription is a file, which says what is wanted and, by the files of each publication, which memories they brought, in which version:
so that the next pull brings what is new and takes away what was withdrawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import Damaged, DumpRefused, NotFound
from .parcel import Publication


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of one publication: its number, the name of the dump, and by its files the memories, each with its version."""

    number: int
    dump: str
    files: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """Publications that an actor wants to follow: those at a target, with one of these tags (none: with any), whose description is as
    near to `like` as `least` says, signed by one of the keys in `trust`, under one of the licences in `accept`."""

    id: str
    actor: str
    target: str
    trust: tuple[str, ...]
    tags: tuple[str, ...] = ()
    like: str | None = None
    least: float = 0.3
    accept: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("plaintext",)
    pulled: Mapping[str, Pulled] = field(default_factory=dict)

    def with_pulled(self, name: str, pulled: Pulled) -> Subscription:
        """The same, after a pull."""
        return replace(self, pulled={**self.pulled, name: pulled})


class Subscriptions:
    """The subscriptions of one store, in a folder of it that is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, subscription: Subscription) -> None:
        """Keep one, in the place of one with its id."""
        self._folder.mkdir(exist_ok=True)
        _write(self._folder / f"{subscription.id}.json", asdict(subscription))

    def of(self, actor: str) -> list[Subscription]:
        """An actor's, in the order of their ids. Raises Damaged."""
        files = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
        found = [_subscription(_read(file), file) for file in files]
        return [s for s in found if s.actor == actor]

    def get(self, id: str, actor: str) -> Subscription:
        """One of an actor's. Raises NotFound."""
        for subscription in self.of(actor):
            if subscription.id == id:
                return subscription
        raise NotFound(f"no subscription {id!r}")

    def remove(self, id: str, actor: str) -> None:
        """End one of an actor's. Raises NotFound."""
        self.get(id, actor)
        (self._folder / f"{id}.json").unlink(missing_ok=True)


class Uses:
    """How often each publication was loaded into one store. The caller is the only writer."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def count(self, publication: Publication, key: str, where: str) -> None:
        """Count one more. Raises DumpRefused for more than its terms allow. (Counted first: a load that is killed then was one.)"""
        known = _read(self._file) if self._file.exists() else {}
        name = f"{key}:{publication.name}"
        used = known.get(name, 0)
        if publication.uses is not None and used >= publication.uses:
            raise DumpRefused(f"{where}: its terms let a store load it {publication.uses} times, and that was done")
        _write(self._file, {**known, name: used + 1})


def _subscription(said: dict[str, Any], file: Path) -> Subscription:
    try:
        pulled = {name: Pulled(p["number"], p["dump"], p["files"]) for name, p in said["pulled"].items()}
        lists = {name: tuple(said[name]) for name in ("trust", "tags", "accept", "kinds")}
        return Subscription(**{**said, **lists, "pulled": pulled})
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{file} is not what was written: {error}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except (OSError, ValueError) as error:
        raise Damaged(f"{file} is not what was written: {error}") from error


def _write(file: Path, said: Mapping[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    os.replace(new, file)
