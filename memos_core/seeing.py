"""The verbs of looking at the scheduler: why a memory is held as it is, and how the store is held; each as far as the actor may read it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from . import filters
from .census import made_for
from .inquiry import Inquiry
from .redaction import Redaction
from .reports import Overview, Standing, Why
from .scheduler import Scheduler
from .telemetry import Telemetry
from .types import Event, MemCube, Text
from .upkeep import Upkeep
from .uses import Count, Used, warmth
from .validate import checked_id
from .vault import Vault

_VERBS = ("schedule", "archive", "expire", "convert", "outdate")
_DECISIONS = 20
_RECENT = 500  # decisions of an overview
_WARM = 50


class Seeing:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _clock: Callable[[], datetime]
    _inquiry: Inquiry
    _scheduler: Scheduler
    _telemetry: Telemetry
    _upkeep: Upkeep
    _vault: Vault

    if TYPE_CHECKING:

        def _who(self, actor: str | None) -> str: ...
        @property
        def _sensitivity(self) -> Redaction | None: ...

    def why(self, id: str, *, actor: str | None = None) -> Why:
        """Why a memory is held as it is: the last decisions about it and about what was made from it, and how it stands with the actor's
        scopes, in numbers. Raises NotFound."""
        who = self._who(actor)
        cube = self._inquiry.get(who, checked_id(id), None)
        derived = [c for c in self._inquiry.lineage(who, cube.id).children if not isinstance(c.payload, Text)]
        made: dict[str, list[str]] = self._upkeep.uses.recall("made") or {}
        about = {
            *(was for was, sources in made.items() if cube.id in sources),
            cube.id,
            *(c.id for c in derived),
            *((cube.attributes.get("scope") and (link.id for link in cube.lineage)) or ()),
        }
        decisions = self._decisions(who, filters.one_of("subject", sorted(about)), _DECISIONS)
        standings = [s for used in self._used(who) if (s := self._standing(used, cube, derived)) is not None]
        return Why(cube.id, cube.kind, cube.state, cube.usage, tuple(standings), tuple(decisions))

    def overview(self, *, actor: str | None = None) -> Overview:
        """How the store is held just now: by form, by place, over time, and what was decided; writes nothing."""
        who, now = self._who(actor), self._clock()
        where = filters.all_of(filters.readable_by(who), filters.current(now))
        texts = len(self._vault.columns(["id"], filters.all_of(where, "kind = 'plaintext'")))
        forms: dict[str, tuple[int, int]] = {"plaintext": (texts, 0)} if texts else {}
        for row in self._vault.rows(filters.all_of(where, "kind != 'plaintext'")):  # each counted where it is weighed
            payload = row.cube.payload
            count, size = forms.get(row.cube.kind, (0, 0))
            forms[row.cube.kind] = (count + 1, size + (0 if isinstance(payload, Text) else payload.bytes))
        leases = self._scheduler.leases.under_way() if self._vault.db.has("leases") else []
        warm: dict[str, float] = {}
        for used in self._used(who):
            for id, share in self._shares(used).items():
                warm[id] = max(share, warm.get(id, 0.0))
        readable = {
            r.cube.id
            for r in self._vault.by_ids(sorted(warm), filters.all_of(filters.readable_by(who), "kind = 'plaintext'"))
        }
        warmest = sorted(((id, share) for id, share in warm.items() if id in readable), key=lambda w: (-w[1], w[0]))
        return Overview(
            now, tuple((kind, *figures) for kind, figures in sorted(forms.items())), tuple(self._telemetry.processes(now)),
            tuple(self._telemetry.samples()), tuple((x.id, x.what) for x in leases if x.who == who),
            tuple(self._decisions(who, filters.one_of("verb", _VERBS[:3]), _RECENT)), tuple(warmest[:_WARM]),
        )  # fmt: skip

    # --- below -----------------------------------------------------------------------------------------------------------

    def _decisions(self, who: str, where: str, most: int) -> list[Event]:
        scope = f"actor = {filters.literal(who)} OR {filters.readable_by(who)}"
        events, redaction = (
            self._vault.events(filters.all_of(scope, where, filters.one_of("verb", _VERBS)), most),
            self._sensitivity,
        )
        return events if redaction is None else [redaction.told(who, e) for e in events]

    def _used(self, who: str) -> list[Used]:
        return self._upkeep.uses.by(who)

    def _shares(self, used: Used) -> dict[str, float]:
        scales, now = self._upkeep.uses.scales(), self._clock().timestamp()
        all = warmth(used.requests, scales, now)
        return {id: min(1.0, warmth(count, scales, now) / all) for id, count in used.members.items()} if all else {}

    def _standing(self, used: Used, cube: MemCube, derived: list[MemCube]) -> Standing | None:
        """How a memory stands with a scope; None where none of its requests wanted it."""
        if used.members.get(cube.id, Count()).reads == 0:
            return None
        now = self._clock()
        needed = [p.needed for p in self._telemetry.processes(now) if p.model == used.scope.model]
        requests = warmth(used.requests, self._upkeep.uses.scales(), now.timestamp())
        kept = any(made_for(c, used.scope) for c in derived)
        return Standing(
            used.scope.namespace, requests, self._shares(used)[cube.id], needed[-1] if needed else None, kept
        )
