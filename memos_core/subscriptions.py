"""What a store keeps of publications: how often each was loaded, who asked for which, and what came of them. Knows files of its own.

A subscription is a file, which says what is wanted and, by the files of each publication, which memories they brought, in which version:
so that the next pull brings what is new and takes away what was withdrawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import Damaged, DumpRefused, NotFound
from .files import Files
from .parcel import Publication

_FOLDER, _USES = "subscriptions", "publications/uses.json"


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
    """The subscriptions of one store. Safe for many threads and processes."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def put(self, subscription: Subscription) -> None:
        """Keep one, in the place of one with its id."""
        _write(self._files, f"{_FOLDER}/{subscription.id}.json", asdict(subscription))

    def of(self, actor: str) -> list[Subscription]:
        """An actor's, in the order of their ids. Raises Damaged."""
        names = sorted(f"{_FOLDER}/{name}" for name in self._files.listed(_FOLDER))
        found = [_subscription(_read(self._files, name), self._files.where(name)) for name in names]
        return [s for s in found if s.actor == actor]

    def get(self, id: str, actor: str) -> Subscription:
        """One of an actor's. Raises NotFound."""
        for subscription in self.of(actor):
            if subscription.id == id:
                return subscription
        raise NotFound(f"no subscription {id!r}")

    def remove(self, id: str, actor: str) -> None:
        """End one of an actor's. Raises NotFound."""
        self._files.remove([f"{_FOLDER}/{self.get(id, actor).id}.json"])


class Uses:
    """How often each publication was loaded into one store. The caller is the only writer."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def count(self, publication: Publication, key: str, where: str) -> None:
        """Count one more. Raises DumpRefused for more than its terms allow. (Counted first: a load that is killed then was one.)"""
        known = _read(self._files, _USES) if self._files.has(_USES) else {}
        name = f"{key}:{publication.name}"
        used = known.get(name, 0)
        if publication.uses is not None and used >= publication.uses:
            raise DumpRefused(f"{where}: its terms let a store load it {publication.uses} times, and that was done")
        _write(self._files, _USES, {**known, name: used + 1})


def _subscription(said: dict[str, Any], where: str) -> Subscription:
    try:
        pulled = {name: Pulled(p["number"], p["dump"], p["files"]) for name, p in said["pulled"].items()}
        lists = {name: tuple(said[name]) for name in ("trust", "tags", "accept", "kinds")}
        return Subscription(**{**said, **lists, "pulled": pulled})
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{where} is not what was written: {error}") from error


def _read(files: Files, name: str) -> dict[str, Any]:
    try:
        found = json.loads(files.read(name))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except (OSError, ValueError) as error:
        raise Damaged(f"{files.where(name)} is not what was written: {error}") from error


def _write(files: Files, name: str, said: Mapping[str, Any]) -> None:
    files.write(name, [json.dumps(said, ensure_ascii=False).encode()])
