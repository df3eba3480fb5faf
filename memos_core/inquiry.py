"""Asking the store about its memories: versions, ancestry, the log, counts; each as far as the actor may read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from . import filters, governance
from .errors import Damaged, InvalidArgument, NotFound
from .types import SCHEMA, Ancestry, Event, MemCube, Stats
from .validate import checked_word
from .vault import Vault
from .writing import Writer


class Inquiry:
    """The questions of the verbs of these names. Safe for many threads."""

    def __init__(self, vault: Vault, writer: Writer, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._writer = writer
        self._clock = clock

    def get(self, who: str, id: str, version: int | None) -> MemCube:
        """A memory in its current version, with its usage, or in an earlier one."""
        if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
            raise InvalidArgument(f"version: a whole number is needed, not {version!r}")
        [cube] = self._writer.readable([id], who)
        if version is None or version == cube.version:
            return replace(cube, usage=self._vault.used([cube.id]).get(cube.id, cube.usage))
        for past in self._vault.past(cube.id):
            if past.version == version and governance.may_read(who, past.access):
                return past
        raise NotFound(f"memory {id!r} has no version {version!r}")

    def history(self, who: str, id: str) -> list[MemCube]:
        """All versions, oldest first."""
        [cube] = self._writer.readable([id], who)
        past = [c for c in self._vault.past(cube.id) if c.version < cube.version]
        if len(past) < cube.version - 1 and not self._came_without(cube.id):
            raise Damaged(f"{self._vault.path}/history.lance lacks versions of memory {cube.id}")
        return [*(c for c in past if governance.may_read(who, c.access)), cube]

    def _came_without(self, id: str) -> bool:
        """Whether a memory was loaded from a dump that did not hold all of its versions."""
        told = (
            f"subject = {filters.literal(id)} AND verb IN ('load', 'pull') AND starts_with(detail, 'without versions')"
        )
        return bool(self._vault.events(told, 1))

    def lineage(self, who: str, id: str) -> Ancestry:
        """One step each way."""
        [cube] = self._writer.readable([id], who)
        scope = filters.all_of(filters.readable_by(who), filters.current(self._clock()))
        parents = [link.id for link in cube.lineage]
        above = self._vault.rows(filters.all_of(scope, filters.one_of("id", parents))) if parents else []
        below = self._vault.rows(filters.all_of(scope, filters.contains_any("parents", [cube.id])))
        return Ancestry(cube, tuple(r.cube for r in above), tuple(r.cube for r in below))

    def log(
        self,
        who: str,
        wanted: Mapping[str, str | None],
        window: tuple[datetime | None, datetime | None],
        limit: int,
    ) -> list[Event]:
        """Events by their fields, within [start, end)."""
        start, end = window
        where = filters.all_of(
            f"actor = {filters.literal(who)} OR {filters.readable_by(who)}",
            *(f"{n} = {filters.literal(checked_word(v, n) or '')}" for n, v in wanted.items() if v is not None),
            None if start is None else f"at >= {filters.literal(start)}",
            None if end is None else f"at < {filters.literal(end)}",
        )
        return self._vault.events(where, limit)

    def stats(self, who: str, embedder: str) -> Stats:
        """Counts."""
        where = filters.all_of(filters.readable_by(who), filters.current(self._clock()))
        kinds, states = (Counter(self._vault.column(name, where)) for name in ("kind", "state"))
        sessions = {s for s in self._vault.column("session", where) if s is not None}
        return Stats(kinds.total(), dict(kinds), dict(states), len(sessions), SCHEMA, embedder)
