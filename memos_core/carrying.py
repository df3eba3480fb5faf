"""Moves of the plan carried out, each so that doing it twice is doing it once. Knows the forms of memories; decides nothing.

What touches the disk is done under a lease of its subject, so that of several processes one does it; what only touches this process's
memory needs none. A build that another process finished in the meantime is found, not repeated.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from . import governance, resident
from .adapters import AdapterTier
from .census import Subject
from .derived import Derived
from .errors import MemOSError, NotFound
from .holdings import Action, Move, Place
from .leases import Leases
from .tiers import Tiers
from .types import Adapter, KVCache, MemCube
from .uses import Uses, UseScope

if TYPE_CHECKING:
    from .distillation import Distillation
    from .model import LocalModel


class Carrier:
    """Carries out the moves of one store. Safe for many threads."""

    def __init__(self, derived: Derived, tiers: Tiers, adapters: AdapterTier, uses: Uses, leases: Leases) -> None:
        self._derived = derived
        self._tiers = tiers
        self._adapters = adapters
        self._uses = uses
        self._leases = leases

    def carry(
        self, move: Move, subject: Subject, model: LocalModel, how: Distillation | None
    ) -> tuple[bool, MemCube | None]:
        """Carry out a move of keys and values or of an adapter; whether it was for this process to do, and the cube that it is about.
        Raises whatever the work raises."""
        from_disk = move.action is Action.DROP and move.source is Place.DISK
        shared = from_disk or move.action in (Action.BUILD, Action.DISTIL)
        what = f"{move.action} {move.form} {move.source.name} {move.target.name}: {move.reason}".lower()
        with self._leases.held(subject.id, who=subject.who, what=what) if shared else nullcontext(True) as mine:
            if not mine:
                return False, None
            if move.action is Action.BUILD:
                if self._derived.there(subject.id) is not None:
                    return False, None  # somebody else did, after this was planned
                return True, self._build(subject, model)
            if move.action is Action.DISTIL:
                assert how is not None, "without it no subject is distillable"
                return True, self._adapters.distilled(subject.who, subject.sources, model, how)
            if move.action in (Action.LOAD, Action.PREFETCH):
                self._load(subject, model)
            elif move.source is Place.DISK:
                self._give_up(subject)
            else:
                self._let_go(move, subject, model)
            return True, subject.cube

    def _build(self, subject: Subject, model: LocalModel) -> MemCube:
        """The passage of a scope, out of what there is of the one before it; that one goes, as the new one is there."""
        assert subject.scope is not None, "only a scope's passage is ever built"
        before = max(subject.former, key=lambda c: len(c.lineage), default=None)
        grown = before.payload if before is not None and isinstance(before.payload, KVCache) else None
        made = self._tiers.to_activation(subject.who, subject.sources, model, scope=subject.scope, grown=grown)
        for old in subject.former:
            if old.id != made.id:
                self._give_up(Subject(old.id, subject.who, cube=old))
        return made

    def _load(self, subject: Subject, model: LocalModel) -> None:
        cube = subject.cube or self._derived.there(subject.id)  # it may have been built just now
        if cube is not None and isinstance(cube.payload, KVCache) and subject.scope is not None:
            parts = self._tiers.opener(model).parts(cube.payload.blob)
            tenant, ids = (subject.who, *subject.scope), [id for part, _ in parts for id in part]
            resident.put(model, tenant, parts, [link.id for link in cube.lineage])
            if (
                self._derived.there(cube.id) is None
            ):  # removed since it was read, by whoever: before it was put, nothing was to forget
                resident.let_go(model, tenant, ids)
        elif cube is not None and isinstance(cube.payload, Adapter):
            self._adapters.weights.of(cube)  # read; the first use puts it beside the model
            if self._derived.there(cube.id) is None:  # likewise
                self._adapters.weights.forget([cube])

    def _let_go(self, move: Move, subject: Subject, model: LocalModel) -> None:
        cube = subject.cube
        if cube is not None and isinstance(cube.payload, Adapter):
            self._adapters.weights.forget([cube])
        elif cube is not None and isinstance(cube.payload, KVCache) and subject.scope is not None:
            tenant = (subject.who, *subject.scope)
            ids = self._tiers.opener(model).manifest(cube.payload.blob).ids
            if move.target is Place.HOST:
                model.shelf.demote(resident.keys(model, tenant, ids)[0])
            else:
                resident.let_go(model, tenant, ids)
            self._uses.restart(UseScope(subject.who, subject.scope, model.fingerprint))

    def _give_up(self, subject: Subject) -> None:
        """Remove what is derived; its text is of record all along. What is gone already is."""
        cube = subject.cube
        if cube is None:
            return
        try:
            self._tiers.give_up(subject.who, cube)
        except NotFound:
            return
        if subject.scope is not None and isinstance(cube.payload, KVCache):
            self._uses.restart(UseScope(subject.who, subject.scope, cube.payload.model))

    def readers(self, subject: Subject, cube: MemCube | None) -> frozenset[str]:
        """Who may see in the log what was done."""
        found = cube or subject.cube
        return frozenset({subject.who}) if found is None else governance.readers_of(found.access)

    def keys(self, subject: Subject, model: LocalModel) -> list[str]:
        """The blocks of a scope's passage that are on the model's shelf."""
        cube = subject.cube
        if cube is None or subject.scope is None or not isinstance(cube.payload, KVCache):
            return []
        try:
            ids = self._tiers.opener(model).manifest(cube.payload.blob).ids
        except MemOSError:  # what is wrong with it is told of where it is opened
            return []
        return resident.keys(model, (subject.who, *subject.scope), ids)[0]
