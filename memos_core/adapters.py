"""Memories as adapters: distilled, verified, chosen for an answer, outdated, fused, brought back. Knows the vault, the blobs and the model.

A cube that holds an adapter is derived from exact versions of its sources: the engine's rules for what is derived (readers, changes,
deletions) hold for it, and its blob goes with it. Only one that passed the gate is activated, and only an activated one is ever chosen.
An adopted one has no sources: it is not rebuildable, and was verified only if a lesson came with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from . import brief, filters, governance, lifecycle
from .blobs import Blobs
from .derived import Derived, named
from .errors import (
    Conflict,
    ContextTooLong,
    Damaged,
    Ineffective,
    InvalidArgument,
    MemOSError,
    ModelMismatch,
    NotFound,
    Unsupported,
)
from .files import Files
from .placement import stable_id
from .rebuilds import Rebuild, Rebuilds, UnderWay
from .types import Access, Adapter, Kind, KVCache, Link, MemCube, Namespace, Origin, Policy, SourceKind, State, Text
from .vault import Vault
from .writing import Writer

if TYPE_CHECKING:
    from .alteration import Alteration
    from .curriculum import Held
    from .distillation import Distillation
    from .gate import Scores
    from .learned import Learned
    from .lora import LoRA
    from .model import LocalModel
    from .parametric import Adapters
    from .phrasing import Lesson
    from .tiers import Tiers

USED = (State.ACTIVATED, State.MERGED)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """An adapter for an answer: its cube, the memories that it knows, as they are now, and running the model with it."""

    cube: MemCube
    sources: tuple[MemCube, ...]
    change: Alteration


class AdapterTier:
    """The adapters of one store. Safe for many threads.

    files: the store's own; checkpoints of distillations under way and wanted rebuilds are among them.
    """

    def __init__(
        self,
        vault: Vault,
        blobs: Blobs,
        writer: Writer,
        derived: Derived,
        policy: Policy,
        clock: Callable[[], datetime],
        files: Files,
    ) -> None:
        self._vault = vault
        self._blobs = blobs
        self._writer = writer
        self._derived = derived
        self._policy = policy
        self._clock = clock
        self.under_way = UnderWay(files)
        self.rebuilds = Rebuilds(files)
        self._resident: dict[int, Adapters] = {}
        self._read: OrderedDict[str, Learned] = OrderedDict()  # by blob
        self._lock = threading.RLock()
        writer.removing = self._bereaved

    # --- making --------------------------------------------------------------------------------------------------------------

    def converted(
        self, who: str, cubes: Sequence[MemCube], model: LocalModel, how: Distillation, tiers: Tiers
    ) -> MemCube:
        """Memories of text, or one of their keys and values, as an adapter. Raises as `distilled` does."""
        if len(cubes) == 1 and isinstance(cubes[0].payload, KVCache):
            passage = tiers.passage(who, cubes[0]) if cubes[0].state in lifecycle.SEARCHED else None
            if passage is None or not passage.exact:
                raise InvalidArgument(f"ids: memory {cubes[0].id} is outdated or an approximation: distil its sources")
            ids, tensor = tiers.opener(model).whole(passage.blob)
            return self.distilled(who, passage.sources, model, how, (passage.text, [(ids, tensor)]))
        return self.distilled(who, cubes, model, how)

    def distilled(
        self, who: str, sources: Sequence[MemCube], model: LocalModel, how: Distillation, held: Held | None = None
    ) -> MemCube:
        """An adapter that knows what memories say. The same memories, model and recipe again: the same cube. One that fails its gate is
        stored as failed, with its scores, and never chosen. Killed, it goes on where it was when it is asked for again.

        Raises:
            InvalidArgument: a memory without text; memories of namespaces, or with readers, that have nothing in common; a rank or targets
                that do not fit. Ineffective: nothing can be learned from them. OutOfMemory: no room on the device or the disk.
            Conflict: a source changed while it was made, or was deleted.
        """
        from .learned import Learned

        for cube in sources:
            if not isinstance(cube.payload, Text):
                raise InvalidArgument(f"ids: memory {cube.id} is held as {cube.kind}, and only text can be distilled")
        text, _ = brief.passage(sources)
        draft = self._draft(who, sources, model, f"lora:{named(model.fingerprint, how.recipe, how.plan, text)}")
        if (known := self._derived.there(draft.id)) is not None:
            return known
        try:
            with (
                self._vault.writing()
            ):  # a deletion came before, and is noticed here; or it comes after, and takes what is begun
                checkpoint = self.under_way.begin(draft.id, [c.id for c in sources])
                self._writer.readable([c.id for c in sources], who)
            lora, why, scores, questions = how.run(model, sources, checkpoint, held, self._beside(who, model))
            made = self._keep(who, draft, sources, Learned(lora, "distilled", why, scores, questions, _words(sources)))
        except (Ineffective, InvalidArgument, Unsupported, ContextTooLong, Conflict, NotFound) as error:
            self.under_way.end(draft.id)
            known = self._derived.there(draft.id) if isinstance(error, Conflict) else None
            if known is None:
                raise
            return known  # another process was quicker, and ended it
        self.under_way.end(draft.id)
        return made

    def fused(
        self, who: str, cubes: Sequence[MemCube], model: LocalModel, how: Distillation, method: str = "cat"
    ) -> MemCube:
        """One adapter out of several: "cat" side by side, exactly; "distil" from the union of their sources; or one of
        `fusion.ROUGH`. It is verified again, on all that they know, and readers are those of every source.

        Raises InvalidArgument for fewer than two, one that holds no adapter or is outdated, or none of them with sources; ModelMismatch.
        """
        from . import fusion
        from .learned import Learned

        if len(cubes) < 2:
            raise InvalidArgument(f"ids: two adapters or more can be fused, not {len(cubes)}")
        learned = [self.learned(cube) for cube in cubes]
        for cube, one in zip(cubes, learned, strict=True):
            if cube.state not in lifecycle.SEARCHED:
                raise InvalidArgument(f"ids: memory {cube.id} is {cube.state}: what it was made from changed")
            if one.lora.model != model.fingerprint:
                raise ModelMismatch(f"memory {cube.id} is an adapter for another model")
        ids = list(dict.fromkeys(link.id for cube in cubes for link in cube.lineage))
        sources = self._writer.readable(ids, who) if ids else []
        if not sources:
            raise InvalidArgument(
                "ids: none of these adapters has sources, so nothing says what the fused one should know"
            )
        if method == "distil":
            return self.distilled(who, sources, model, how)
        parts = [one.lora for one in learned]
        lora = fusion.cat(parts) if method == "cat" else fusion.roughly(model, parts, method)  # type: ignore[arg-type]
        unsourced = [c for c in cubes if not c.lineage]
        draft = self._draft(who, [*sources, *unsourced], model, f"{method}:{named(lora.digest)}")
        if (known := self._derived.there(draft.id)) is not None:
            return known
        lesson, quote = how.lesson(model, sources)
        scores = how.verified(model, lora, lesson, quote)
        found = Learned(
            lora, method, f"of {len(cubes)} adapters", scores, how.questions(lesson), _words([*sources, *unsourced])
        )
        return self._keep(who, draft, [*sources, *unsourced], found)

    def adopted(
        self,
        who: str,
        folder: str | Path,
        namespace: Namespace,
        model: LocalModel,
        how: Distillation,
        lesson: Lesson | None = None,
    ) -> MemCube:
        """A LoRA that PEFT saved somewhere else, as a memory. With a lesson it is verified, and used if it passes; without one nothing
        says what it is for: it is kept, and used only where it is asked for. Raises as `lora.adopted` does."""
        from . import lora as loras
        from .learned import Learned

        lora, base = loras.adopted(folder, model)
        scores = None if lesson is None else how.verified(model, lora, lesson)
        now = self._clock()
        name = f"adopted:{lora.digest}"
        draft = MemCube(
            id=stable_id(who, namespace, "key", name), version=1, kind=Kind.PARAMETRIC, state=State.GENERATED, namespace=namespace,
            key=name, payload=Adapter("", model.fingerprint, lora.targets, lora.rank, 0),
            origin=Origin(SourceKind.IMPORT, stored_at=now, source=base or None, model=model.name), access=Access(who),
            created_at=now, updated_at=now,
        )  # fmt: skip
        if (known := self._derived.there(draft.id)) is not None:
            return known
        questions = () if lesson is None else how.questions(lesson)
        return self._keep(who, draft, [], Learned(lora, "adopted", "made elsewhere", scores, questions))

    def elicited(
        self, who: str, cube: MemCube, model: LocalModel, how: Distillation, probes: Sequence[Sequence[str]] = ()
    ) -> list[MemCube]:
        """What an adapter knows, as memories of text that are derived from it: found by the questions in its manifest, and by `probes`,
        phrasings of each question. Their attributes hold the question and how sure it is; see `elicit`.

        Raises InvalidArgument where there is nothing to ask.
        """
        from .elicit import elicited

        learned = self.learned(cube)
        asked = [*learned.questions, *map(tuple, probes)]
        if not asked:
            raise InvalidArgument(
                f"probes: nothing is known of the sources of memory {cube.id}: give questions to ask it"
            )
        found = elicited(model, learned.lora, asked, state=how.state)
        cubes, now = [], self._clock()
        for one in found:
            name = f"elicited:{cube.id}:{named(one.question)}"
            draft = MemCube(
                id="", version=1, kind=Kind.PLAINTEXT, state=State.GENERATED, namespace=cube.namespace, payload=Text(one.text), key=name,
                origin=Origin(SourceKind.DERIVATION, stored_at=now, source="elicited", model=model.name, provenance=cube.provenance),
                access=governance.derived_access(who, [cube.access]), created_at=now, updated_at=now,
                attributes={"question": one.question, "answer": one.answer, "confidence": round(one.confidence, 4), "agreed": one.agreed},
                lineage=(Link(cube.id, cube.version),),
            )  # fmt: skip
            cubes.append(self._writer.add_derived(draft))
        return cubes

    # --- using ---------------------------------------------------------------------------------------------------------------

    def chosen(self, who: str, namespace: Namespace, model: LocalModel) -> Known | None:
        """The adapter for an answer: of those for a model at or below a namespace that the actor may read, that passed the gate, and
        whose sources are what it was made from, the one that knows most memories. One that cannot be read is passed over, and an
        event says why."""
        there = [cube for cube in self._there(who, model, filters.under(namespace)) if _in_use(cube)]
        for cube in sorted(there, key=lambda c: (-len(c.lineage), c.id)):
            sources = self._sources(who, cube)
            if sources is None:
                continue
            try:
                learned = self.learned(cube)
                if not learned.passed or learned.words != _words(sources):
                    continue
                return Known(cube, tuple(sources), self.adapters(model).change(learned.lora))
            except MemOSError as error:
                self._writer.failed(who, "open", f"{type(error).__name__}: {error}")
        return None

    def learned(self, cube: MemCube) -> Learned:
        """What a cube's blob holds. Raises InvalidArgument for a cube that holds no adapter, Damaged for a blob that is not what was
        written."""
        from .learned import unpack

        if not isinstance(cube.payload, Adapter):
            raise InvalidArgument(f"ids: memory {cube.id} is held as {cube.kind}, not as an adapter")
        name = cube.payload.blob
        with self._lock:
            if name in self._read:
                self._read.move_to_end(name)
                return self._read[name]
        found = unpack(self._blobs, name)
        if found.lora.model != cube.payload.model:
            raise Damaged(
                f"{self._blobs.path(name)}: its adapter is for another model than the record of memory {cube.id} says"
            )
        with self._lock:
            self._read[name] = found
            while (
                len(self._read) > 1 and sum(one.lora.bytes for one in self._read.values()) > self._policy.adapter_bytes
            ):
                self._read.popitem(last=False)
        return found

    def scores(self, cube: MemCube) -> Scores | None:
        """What the gate measured of an adapter; None where nothing could be."""
        return self.learned(cube).scores

    def adapters(self, model: LocalModel) -> Adapters:
        """Those that are resident beside a model."""
        from .parametric import Adapters

        with self._lock:
            return self._resident.setdefault(id(model), Adapters(model, self._policy.adapter_bytes))

    def is_resident(self, cube: MemCube, model: LocalModel | None) -> bool:
        """Whether an adapter's weights are beside a model now."""
        with self._lock:
            known = self._read.get(cube.payload.blob) if isinstance(cube.payload, Adapter) else None
            beside = self._resident.get(id(model))
        return known is not None and beside is not None and known.lora.digest in beside.held

    # --- following the sources -----------------------------------------------------------------------------------------------

    def forget(self, cubes: Collection[MemCube]) -> None:
        """Let go of the weights of adapters that are gone."""
        with self._lock:
            gone = [self._read.pop(c.payload.blob, None) for c in cubes if isinstance(c.payload, Adapter)]
            digests = [one.lora.digest for one in gone if one is not None]
            resident = list(self._resident.values())
        for adapters in resident:
            adapters.drop(digests)

    def rebuild(self, model: LocalModel, how: Distillation, *, most: int = 1) -> list[MemCube]:
        """Make again what lost a source to a deletion, for this model; at most so many. What cannot be made any more is told of in an
        event, and no longer wanted."""
        made = []
        for wanted in [r for r in self.rebuilds.wanted() if r.model == model.fingerprint][:most]:
            if self._derived.there(wanted.id) is not None:  # the deletion was taken back, or somebody was quicker
                self.rebuilds.done(wanted)
                continue
            try:
                sources = []
                for id in wanted.sources:
                    try:
                        sources += self._writer.readable([id], wanted.owner)
                    except NotFound:  # gone too, meanwhile
                        continue
                if sources:
                    made.append(self.distilled(wanted.owner, sources, model, how))
            except (
                Conflict,
                NotFound,
            ):  # a source changed or went while it was made: it is wanted as it is now, at the next tick
                continue
            except (Ineffective, InvalidArgument, Unsupported, ContextTooLong) as error:
                self._writer.failed(wanted.owner, "rebuild", f"adapter {wanted.id}: {error}")
            self.rebuilds.done(wanted)
        return made

    def _bereaved(self, ids: Collection[str], forms: Sequence[MemCube]) -> None:
        """Before memories are deleted, some of them in other forms: want the adapters that were made from them again, without them."""
        gone = set(ids)
        self.under_way.abandon(gone)
        adapters = [c for c in forms if isinstance(c.payload, Adapter)]
        for cube in adapters:
            rest = tuple(link.id for link in cube.lineage if link.id not in gone)
            if rest and len(rest) < len(cube.lineage) and _in_use(cube):
                self.rebuilds.put(Rebuild(cube.id, cube.access.owner, _model_of(cube), rest))
        self.forget(adapters)

    # --- below ---------------------------------------------------------------------------------------------------------------

    def _there(self, who: str, model: LocalModel, *more: str | None) -> list[MemCube]:
        """Adapters for a model that the actor may read and that are not outdated."""
        where = filters.all_of(
            "kind = 'parametric'", filters.readable_by(who), filters.in_states(lifecycle.SEARCHED),
            filters.unexpired(self._clock()), *more,
        )  # fmt: skip
        return [r.cube for r in self._vault.rows(where) if _model_of(r.cube) == model.fingerprint]

    def _beside(self, who: str, model: LocalModel) -> list[LoRA]:
        """Adapters that a new one may once be fused with. One that cannot be read is none."""
        found = []
        for cube in self._there(who, model):
            try:
                found.append(self.learned(cube).lora)
            except MemOSError as error:
                self._writer.failed(who, "open", f"{type(error).__name__}: {error}")
        return found

    def _sources(self, who: str, cube: MemCube) -> list[MemCube] | None:
        """The memories that an adapter was made from, as they are now; None if one is gone, outdated or not the actor's to read."""
        if not cube.lineage:
            return []
        rows = self._vault.by_ids([link.id for link in cube.lineage], filters.readable_by(who))
        now = self._clock()
        found = [r.cube for r in rows if r.cube.state in lifecycle.SEARCHED and not lifecycle.has_expired(r.cube, now)]
        return found if len(found) == len(cube.lineage) and self._writer.shows(who, found) else None

    def _draft(self, who: str, sources: Sequence[MemCube], model: LocalModel, name: str) -> MemCube:
        payload = Adapter("", model.fingerprint, (), 0, 0)
        return self._derived.draft(who, sources, payload, name, State.GENERATED, model.name)

    def _keep(self, who: str, draft: MemCube, sources: Sequence[MemCube], learned: Learned) -> MemCube:
        """Write an adapter down as the payload of a draft, activated if it passed. Raises as `Derived.keep` does."""
        from .learned import pack, told, verdict

        blob, parts = pack(learned)
        lora: LoRA = learned.lora
        cube = replace(
            draft, payload=Adapter(blob, lora.model, lora.targets, lora.rank, sum(len(part) for part in parts)),
            state=State.ACTIVATED if learned.passed else State.GENERATED, attributes=told(learned),
        )  # fmt: skip
        return self._derived.keep(who, cube, sources, parts, told=verdict(learned))


def _words(sources: Sequence[MemCube]) -> str:
    """A hash of what memories say: a frozen adapter is not outdated by a change of them, and is not used after it either."""
    return named(*sorted((c.id, c.text) for c in sources)) if sources else ""


def _in_use(cube: MemCube) -> bool:
    frozen_from = cube.lifespan.frozen_from if cube.state is State.FROZEN else None
    return isinstance(cube.payload, Adapter) and (frozen_from or cube.state) in USED


def _model_of(cube: MemCube) -> str:
    assert isinstance(cube.payload, Adapter)
    return cube.payload.model
