"""Memories between their forms: text into keys and values for one model and back. Knows the vault, the blobs and the model.

A cube of keys and values is derived from exact versions of its sources: the engine's rules for what is derived (readers, changes,
deletions) hold for it, and its blob goes with it. It is found by its key, never by searching, and opened before all else in a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from . import brief, filters, governance, lifecycle
from .blobs import Blobs, digest
from .derived import Derived, named
from .errors import Damaged, InvalidArgument, MemOSError
from .placement import stable_id
from .types import Kind, KVCache, MemCube, Namespace, Policy, State, Steering, Text
from .vault import Vault
from .writing import Writer

if TYPE_CHECKING:
    from .activation import Opener
    from .model import LocalModel
    from .prompt import Prompt
    from .steering import SteeringVector


@dataclass(frozen=True, slots=True)
class Passage:
    """Memories whose keys and values are kept: the cube that keeps them, its sources as they are now, their text as a model reads
    it, and the character of it at which each source begins."""

    cube: MemCube
    sources: tuple[MemCube, ...]
    text: str
    starts: tuple[int, ...]

    @property
    def blob(self) -> str:
        """Where the keys and values are."""
        assert isinstance(self.cube.payload, KVCache)
        return self.cube.payload.blob

    @property
    def exact(self) -> bool:
        """Whether they are what a prefill would give."""
        return not self.cube.attributes.get("composed")


class Tiers:
    """The forms of one store's memories. Safe for many threads."""

    def __init__(
        self,
        vault: Vault,
        blobs: Blobs,
        writer: Writer,
        derived: Derived,
        policy: Policy,
        clock: Callable[[], datetime],
    ) -> None:
        self._vault = vault
        self._blobs = blobs
        self._writer = writer
        self._derived = derived
        self._policy = policy
        self._clock = clock
        self._openers: dict[int, Opener] = {}

    def opener(self, model: LocalModel) -> Opener:
        """What opens this store's blobs for a model."""
        from .activation import Opener

        return self._openers.setdefault(id(model), Opener(model, self._blobs))

    def close(self) -> None:
        """Let go of what opens blobs."""
        for opener in self._openers.values():
            opener.close()

    def to_activation(
        self,
        who: str,
        sources: Sequence[MemCube],
        model: LocalModel,
        *,
        scope: Namespace | None = None,
        grown: KVCache | None = None,
    ) -> MemCube:
        """Keys and values of memories side by side, as one cube. The same memories and model again: the same cube.

        Args:
            scope: makes it the passage of the actor's requests under this namespace, in the order that is given.
            grown: of whose tokens those are taken that stand at the same place, instead of running them.

        Raises:
            InvalidArgument: a memory without text, or memories of namespaces with nothing in common.
            Unsupported, ContextTooLong, OutOfMemory: of the model; and OutOfMemory where `Policy.kv_disk_bytes` has no room.
        """
        for cube in sources:
            if not isinstance(cube.payload, Text):
                raise InvalidArgument(f"ids: memory {cube.id} is held as {cube.kind} already")
        text, _ = brief.passage(sources, ordered=scope is not None)
        draft = self._draft(who, sources, model, self._name(text, model, scope))
        if scope is not None:
            draft = replace(draft, attributes={"scope": list(scope)})
        if scope is None and (known := self._derived.there(draft.id)) is not None:  # who builds for a scope has looked
            return known
        asked, end = opening(model, text)
        opened = self._to_grow_from(grown, model)
        return self._keep(who, draft, sources, model.blocks(asked, end, opened=opened, patient=scope is not None))

    def _to_grow_from(self, grown: KVCache | None, model: LocalModel) -> Callable[[Prompt, int], Any] | None:
        """What opens keys and values that are exact, for this model and whole; None without any: all can be run instead."""
        if grown is None or grown.model != model.fingerprint or self._policy.kv_bits:
            return None
        try:
            return self.opener(model).opening(grown.blob)
        except MemOSError:
            return None

    def _name(self, text: str, model: LocalModel, scope: Namespace | None) -> str:
        digest = named(model.fingerprint, self._policy.kv_bits, text)
        return f"kv:{digest}" if scope is None else f"passage:{named(scope, digest)}"

    def name_of(self, who: str, sources: Sequence[MemCube], model: LocalModel, scope: Namespace) -> str:
        """The id that the passage of these memories has, or would have. Raises InvalidArgument as `to_activation` does."""
        text, _ = brief.passage(sources, ordered=True)
        return self._draft(who, sources, model, self._name(text, model, scope)).id

    def composed(self, who: str, cubes: Sequence[MemCube], model: LocalModel) -> MemCube:
        """One cube out of several of keys and values, side by side: their blocks moved to their places behind one another and a
        share of their tokens run again (`compose`). An approximation: what is opened of it is kept apart from what is exact.

        Raises InvalidArgument for fewer than two, or for one that is none, is for another model, or is outdated.
        """
        from .composition import composed

        if len(cubes) < 2:
            raise InvalidArgument(f"ids: two memories or more can be composed, not {len(cubes)}")
        parts = []
        for cube in cubes:
            current = cube.kind is Kind.ACTIVATION and cube.state in lifecycle.SEARCHED
            passage = self.passage(who, cube) if current else None
            if passage is None or not isinstance(cube.payload, KVCache):
                raise InvalidArgument(
                    f"ids: memory {cube.id} holds no keys and values of memories as they are now: convert them"
                )
            parts.append(passage)
        name = f"composed:{named(model.fingerprint, self._policy.kv_bits, *(p.text for p in parts))}"
        draft = self._draft(who, cubes, model, name)
        if (known := self._derived.there(draft.id)) is not None:
            return known
        opener = self.opener(model)
        asked, _ = opening(model, "\n".join(p.text for p in parts))
        blocks, share = composed(model, asked, [(p.text, opener.whole(p.blob)) for p in parts])
        draft = replace(draft, attributes={"composed": True, "recomputed": round(share, 4)})
        return self._keep(who, draft, cubes, blocks)

    def keep_vector(self, draft: MemCube, vector: SteeringVector) -> MemCube:
        """A steering vector as a memory under its owner's name for it; under a name that exists, its next version."""
        from .steering import to_bytes

        data = to_bytes(vector)
        blob = digest(data)
        cube = replace(
            draft, id=stable_id(draft.access.owner, draft.namespace, "key", draft.key or ""),
            payload=Steering(blob, vector.model, vector.layer, len(data)), attributes=asdict(vector.statistics),
        )  # fmt: skip
        with self._vault.writing():
            return self._derived.put(draft.access.owner, cube, [data])

    def vector(self, cube: MemCube) -> SteeringVector:
        """The vector that a memory holds. Raises InvalidArgument for one that holds none, Damaged for one that is not what was written."""
        from .steering import from_bytes

        if not isinstance(cube.payload, Steering):
            raise InvalidArgument(f"steer: memory {cube.id} holds no steering vector")
        data = bytes(self._blobs.read(cube.payload.blob, 0, cube.payload.bytes))
        if digest(data) != cube.payload.blob:
            raise Damaged(f"{self._blobs.path(cube.payload.blob)} is not what was written")
        return from_bytes(data)

    def to_plaintext(self, who: str, cube: MemCube) -> list[MemCube]:
        """Give up the other form of memories; they are its sources, whose text was of record all along.

        Raises InvalidArgument for a cube without sources: nothing but itself says what is in it.
        """
        sources = self._writer.readable([link.id for link in cube.lineage], who) if cube.lineage else []
        if not sources:
            raise InvalidArgument(f"ids: memory {cube.id} was made from no memories here, so its text is not known")
        self.give_up(who, cube)
        return sources

    def give_up(self, who: str, cube: MemCube) -> None:
        """Remove what is derived, whatever became of its sources. Raises NotFound for what is gone already; owner only."""
        with self._vault.writing():
            rows = self._writer.readable_rows([cube.id], who)
            governance.require_owner(who, rows[0].cube)
            self._writer.remove(rows, who, self._clock())

    def passages(self, who: str, namespace: Namespace, model: LocalModel) -> list[Passage]:
        """What is kept for a model of memories at or below a namespace that the actor may read, the largest first. One whose
        sources are no longer what it was made from is not among them."""
        where = filters.all_of(
            "kind = 'activation'", filters.readable_by(who), filters.under(namespace),
            filters.in_states(lifecycle.SEARCHED), filters.unexpired(self._clock()),
        )  # fmt: skip
        kept = [
            r.cube for r in self._vault.rows(where)
            if isinstance(r.cube.payload, KVCache) and r.cube.payload.model == model.fingerprint
        ]  # fmt: skip
        found = [p for cube in kept if (p := self.passage(who, cube)) is not None]
        return sorted(found, key=lambda p: (-len(p.sources), p.cube.id))

    def sweep(self) -> int:
        """Remove blobs that no memory needs: what a killed process left, and what was made from words that changed since."""
        with self._vault.writing():
            return self._writer.forgetting.sweep_blobs()

    def _draft(self, who: str, sources: Sequence[MemCube], model: LocalModel, name: str) -> MemCube:
        return self._derived.draft(
            who, sources, KVCache("", model.fingerprint, 0, 0), name, State.ACTIVATED, model.name
        )

    def _keep(
        self, who: str, draft: MemCube, sources: Sequence[MemCube], blocks: Sequence[tuple[Sequence[int], Any]]
    ) -> MemCube:
        """Write blocks down as the payload of a draft. Raises as `Derived.keep` does."""
        from . import tensors

        assert isinstance(draft.payload, KVCache)
        blob, parts, manifest = tensors.pack(blocks, draft.payload.model, self._policy.kv_bits)
        payload = KVCache(blob, draft.payload.model, len(manifest.ids), sum(len(p) for p in parts))
        asked_for = "scope" not in draft.attributes
        return self._derived.keep(who, replace(draft, payload=payload), sources, parts, asked_for=asked_for)

    def passage(self, who: str, cube: MemCube) -> Passage | None:
        """What a cube of keys and values keeps, as it is now; None if a source is gone, changed or not the actor's to read."""
        rows = self._vault.by_ids([link.id for link in cube.lineage], filters.readable_by(who))
        now = self._clock()
        if cube.attributes.get("composed"):
            there = {r.cube.id: r.cube for r in rows if r.cube.state in lifecycle.SEARCHED}
            parts = [self.passage(who, there[link.id]) for link in cube.lineage if link.id in there]
            whole = [p for p in parts if p is not None]
            if len(whole) < len(cube.lineage):
                return None
            return _side_by_side(cube, whole)
        sources = [
            r.cube for r in rows if r.cube.state in lifecycle.SEARCHED and not lifecycle.has_expired(r.cube, now)
        ]
        if not sources or len(sources) < len(cube.lineage) or not self._writer.shows(who, sources):
            return None
        ordered = cube.attributes.get("scope") is not None
        if ordered:
            places = {link.id: at for at, link in enumerate(cube.lineage)}
            sources.sort(key=lambda source: places[source.id])
        text, starts = brief.passage(sources, ordered=ordered)
        return Passage(cube, tuple(sources), text, starts)


def _side_by_side(cube: MemCube, parts: Sequence[Passage]) -> Passage:
    starts, at = list[int](), 0
    for part in parts:
        starts += [at + start for start in part.starts]
        at += len(part.text) + 1
    return Passage(cube, tuple(s for p in parts for s in p.sources), "\n".join(p.text for p in parts), tuple(starts))


def opening(model: LocalModel, text: str) -> tuple[Prompt, int]:
    """A prompt that begins with a passage, and the tokens of it up to the passage's end."""
    asked = model.prompt([{"role": "system", "content": text}, {"role": "user", "content": "?"}])
    return asked, asked.token_at(asked.text.index(text) + len(text) - 1) + 1
