"""Memories as adapters: distilled, verified, chosen for an answer, outdated, fused, brought back. Knows the vault, the blobs and the model.

A cube that holds an adapter is derived from exact versions of its sources: the engine's rules for what is derived (readers, changes,
deletions) hold for it, and its blob goes with it. Only one that passed the gate is activated, and only an activated one is ever chosen.
An adopted one has no sources: it is not rebuildable, and was verified only if a lesson came with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import brief, filters, governance, lifecycle
from .blobs import Blobs
from .derived import Derived, named
from .errors import (
    AccessDenied,
    Conflict,
    ContextTooLong,
    Ineffective,
    InvalidArgument,
    MemOSError,
    ModelMismatch,
    NotFound,
    StoreUnavailable,
    Unsupported,
)
from .files import Files
from .placement import stable_id
from .rebuilds import Rebuild, Rebuilds, UnderWay
from .types import (
    Access,
    Adapter,
    Kind,
    KVCache,
    Lifespan,
    Link,
    MemCube,
    Namespace,
    Origin,
    Policy,
    SourceKind,
    State,
    Text,
)
from .vault import Vault
from .weights import Weights
from .writing import Writer

if TYPE_CHECKING:
    from .alteration import Alteration
    from .curriculum import Held
    from .distillation import Distillation
    from .learned import Learned
    from .lora import LoRA
    from .model import LocalModel
    from .phrasing import Lesson, Phrasing
    from .tiers import Tiers

USED = (State.ACTIVATED, State.MERGED)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """An adapter for an answer: its cube, the memories that it was made from, as they are now, those of them that it was found to know,
    and running the model with it."""

    cube: MemCube
    sources: tuple[MemCube, ...]
    knows: tuple[MemCube, ...]
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
        self._writer = writer
        self._derived = derived
        self._clock = clock
        self.under_way = UnderWay(files)
        self.rebuilds = Rebuilds(files)
        self.weights = Weights(blobs, policy.adapter_bytes)
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
        """An adapter that knows what memories say. The same memories, model, phrasing and recipe again: the same cube, judged by the
        gate that is asked for now. One that fails its gate is stored as failed, with its scores, and never chosen. Killed, it goes on
        where it was when it is asked for again.

        Raises:
            InvalidArgument: a memory without text, or one that is archived or over; memories of namespaces, or with readers, that have
                nothing in common; a rank that does not fit. AccessDenied: one that is not shown to the actor whole.
            Ineffective: nothing can be learned from them. OutOfMemory: no room on the device or the disk.
            Conflict: a source changed while it was made, or was deleted.
        """
        from .learned import Learned

        self._require_whole(who, sources)
        text, _ = brief.passage(sources)
        name = named(model.fingerprint, how.recipe, how.plan, _by_name(how.phrasing), text)
        draft = self._draft(who, sources, model, f"lora:{name}")
        if (known := self._derived.there(draft.id)) is not None:
            return self._judged(who, known, how)
        try:
            with (
                self._vault.writing()
            ):  # a deletion came before, and is noticed here; or comes after, and takes what is begun
                checkpoint = self.under_way.begin(draft.id, [c.id for c in sources])
                self._writer.readable([c.id for c in sources], who)
            beside = self._beside(who, draft.namespace, model)
            lora, why, scores, questions = how.run(model, sources, checkpoint, held, beside)
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
        `fusion.ROUGH`. It is verified again, on all that their sources say, and readers are those of every source. One that was never
        verified (it was adopted without a lesson) cannot pass as a part either: nothing says what it is for.

        Raises InvalidArgument for fewer than two, one that holds no adapter or is outdated, or none of them with sources; ModelMismatch;
        AccessDenied as `distilled` does.
        """
        from . import fusion
        from .learned import Learned

        if len(cubes) < 2:
            raise InvalidArgument(f"ids: two adapters or more can be fused, not {len(cubes)}")
        ids = list(dict.fromkeys(link.id for cube in cubes for link in cube.lineage))
        made_from = {c.id: c for c in (self._writer.readable(ids, who) if ids else [])}
        learned = [self.weights.of(cube) for cube in cubes]
        for cube, one in zip(cubes, learned, strict=True):
            now = _words([made_from[link.id] for link in cube.lineage])
            if cube.state not in lifecycle.SEARCHED or one.words != now:
                raise InvalidArgument(
                    f"ids: memory {cube.id} is outdated ({cube.state}): what it was made from changed"
                )
            if one.lora.model != model.fingerprint:
                raise ModelMismatch(f"memory {cube.id} is an adapter for another model")
        sources = [c for c in made_from.values() if isinstance(c.payload, Text)]
        if not sources:
            raise InvalidArgument(
                "ids: none of these adapters has sources, so nothing says what the fused one should know"
            )
        if method == "distil":
            return self.distilled(who, sources, model, how)
        self._require_whole(who, sources)
        parts = [one.lora for one in learned]
        lora = fusion.cat(parts) if method == "cat" else fusion.roughly(model, parts, method)  # type: ignore[arg-type]
        adopted = [c for c in made_from.values() if c not in sources] + [c for c in cubes if not c.lineage]
        every = list({c.id: c for c in (*sources, *adopted)}.values())
        name = named(lora.digest, _by_name(how.phrasing))
        draft = self._draft(who, every, model, f"{method}:{name}")
        unverified = [c.id for c, one in zip(cubes, learned, strict=True) if one.scores is None]
        said = [f"memory {id}, which it was made of, was never verified" for id in unverified]
        if (known := self._derived.there(draft.id)) is not None:
            return self._judged(who, known, how, said)
        lesson, quote = how.lesson(model, sources)
        scores = how.verified(model, lora, lesson, quote)
        scores = replace(scores, failures=(*scores.failures, *said))
        found = Learned(lora, method, f"of {len(cubes)} adapters", scores, how.questions(lesson), _words(every))
        return self._keep(who, draft, every, found)

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
        questions = () if lesson is None else how.questions(lesson)
        found = Learned(lora, "adopted", "made elsewhere", scores, questions)
        if (known := self._derived.there(draft.id)) is None:
            return self._keep(who, draft, [], found)
        return known if lesson is None else self._anew(who, known, found)

    def elicited(
        self, who: str, cube: MemCube, model: LocalModel, how: Distillation, probes: Sequence[Sequence[str]] = ()
    ) -> list[MemCube]:
        """What an adapter knows, as memories of text that are derived from it: found by the questions in its manifest, and by `probes`,
        phrasings of each question. Their attributes hold the question and how sure it is; see `elicit`. They end with the first of what
        the adapter was made from.

        Raises InvalidArgument where there is nothing to ask, and for an adapter that failed its gate, or is of memories that changed, ended
        or are not shown to the actor whole: what it says is not what they say. Conflict if that becomes so meanwhile.
        """
        learned = self.weights.of(cube)
        self._require_current(who, cube, learned)
        asked = [*learned.questions, *map(tuple, probes)]
        if not asked:
            raise InvalidArgument(
                f"probes: nothing is known of the sources of memory {cube.id}: give questions to ask it"
            )
        found = how.elicited(model, learned.lora, asked)
        cubes, now = [], self._clock()
        with self._vault.writing():
            try:
                [cube] = self._writer.readable([cube.id], who)
                sources = self._require_current(who, cube, learned)
            except (InvalidArgument, NotFound) as error:
                raise Conflict(f"memory {cube.id} changed while it was asked: {error}") from error
            ends = [end for c in (cube, *sources) if (end := c.lifespan.ends_at) is not None]
            for one in found:
                draft = MemCube(
                    id="", version=1, kind=Kind.PLAINTEXT, state=State.GENERATED, namespace=cube.namespace, payload=Text(one.text),
                    key=f"elicited:{cube.id}:{named(one.question)}", lifespan=Lifespan(expires_at=min(ends, default=None)),
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
        whose sources are what it was made from, the one that was made from most. One that cannot be read is passed over, and an event
        says why."""
        there = [cube for cube in self._there(who, model, filters.under(namespace)) if _in_use(cube)]
        for cube in sorted(there, key=lambda c: (-len(c.lineage), c.id)):
            sources = self._sources(who, cube)
            if sources is None:
                continue
            try:
                learned = self.weights.of(cube)
                if not learned.passed or learned.words != _words(sources):
                    continue
                knows = tuple(c for c in sources if learned.knows(c.text))
                return Known(cube, tuple(sources), knows, self.weights.beside(model).change(learned.lora))
            except MemOSError as error:
                self._writer.failed(who, "open", f"{type(error).__name__}: {error}")
        return None

    # --- following the sources -----------------------------------------------------------------------------------------------

    def rebuild(self, model: LocalModel, how: Distillation, *, most: int = 1) -> list[MemCube]:
        """Make again what lost a source to a deletion, for this model and from the text that is left; at most so many. What cannot be
        made any more is told of in an event, and no longer wanted; what changed meanwhile is still."""
        made = []
        for wanted in [r for r in self.rebuilds.wanted() if r.model == model.fingerprint][:most]:
            if self._derived.there(wanted.id) is not None:  # the deletion was taken back, or somebody was quicker
                self.rebuilds.done(wanted)
                continue
            try:
                rows = self._vault.by_ids(wanted.sources, filters.readable_by(wanted.owner))
                there = {row.cube.id: row.cube for row in rows if row.cube.state in lifecycle.SEARCHED}
                sources = [there[id] for id in wanted.sources if id in there and isinstance(there[id].payload, Text)]
                if sources:
                    made.append(self.distilled(wanted.owner, sources, model, how))
            except (
                Conflict,
                NotFound,
                StoreUnavailable,
            ):  # a source changed or went meanwhile: wanted as it is now, at the next tick
                continue
            except MemOSError as error:
                self._writer.failed(wanted.owner, "rebuild", f"adapter {wanted.id}: {type(error).__name__}: {error}")
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
        self.weights.forget(adapters)

    # --- below ---------------------------------------------------------------------------------------------------------------

    def _there(self, who: str, model: LocalModel, *more: str | None) -> list[MemCube]:
        """Adapters for a model that the actor may read and that are not outdated."""
        where = filters.all_of(
            "kind = 'parametric'", filters.readable_by(who), filters.in_states(lifecycle.SEARCHED),
            filters.unexpired(self._clock()), *more,
        )  # fmt: skip
        return [r.cube for r in self._vault.rows(where) if _model_of(r.cube) == model.fingerprint]

    def _beside(self, who: str, namespace: Namespace, model: LocalModel) -> list[LoRA]:
        """Adapters that a new one may once be fused with: of namespaces that have something in common with its own. One that cannot be
        read is none."""
        found = []
        for cube in self._there(who, model, filters.under(namespace[:1])):
            try:
                found.append(self.weights.of(cube).lora)
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

    def _require_whole(self, who: str, sources: Sequence[MemCube]) -> None:
        """Raise unless these are texts as they are now, of which the actor is shown every word: what an adapter learns, it says."""
        now = self._clock()
        for cube in sources:
            if not isinstance(cube.payload, Text):
                raise InvalidArgument(f"ids: memory {cube.id} is held as {cube.kind}, and only text can be distilled")
            if cube.state not in lifecycle.SEARCHED or lifecycle.has_expired(cube, now):
                raise InvalidArgument(
                    f"ids: memory {cube.id} is {cube.state} or over, and only what counts can be distilled"
                )
            if not self._writer.shows(who, [cube]):
                raise AccessDenied(
                    f"memory {cube.id}: words of it are not shown to {who}, and an adapter would say them"
                )

    def _require_current(self, who: str, cube: MemCube, learned: Learned) -> list[MemCube]:
        """What an adapter was made from, if that is what its memories say now. Raises InvalidArgument if not, or if it failed its gate."""
        sources = self._sources(who, cube) if cube.state in lifecycle.SEARCHED else None
        if sources is None or (sources and learned.words != _words(sources)):
            raise InvalidArgument(
                f"ids: memory {cube.id} is outdated ({cube.state}): what it was made from changed, ended, or is not {who}'s to read"
            )
        if learned.scores is not None and not learned.passed:
            raise InvalidArgument(f"ids: memory {cube.id} failed its gate: what it says is not what its memories say")
        return sources

    def _judged(self, who: str, cube: MemCube, how: Distillation, more: Sequence[str] = ()) -> MemCube:
        """An adapter that is there, by the gate that is asked for now. more: what fails it besides."""
        from .gate import judged

        learned = self.weights.of(cube)
        assert learned.scores is not None
        scores = judged(learned.scores, how.gate)
        return self._anew(who, cube, replace(learned, scores=replace(scores, failures=(*scores.failures, *more))))

    def _anew(self, who: str, cube: MemCube, found: Learned) -> MemCube:
        """An adapter with another verdict than it has: as its next version. One that is frozen stays as it is."""
        from .learned import verdict

        if cube.state is State.FROZEN or found.scores == self.weights.of(cube).scores:
            return cube
        with self._vault.writing():
            if (now := self._derived.there(cube.id)) is None or now.version != cube.version:
                raise Conflict(f"memory {cube.id} changed while it was verified")
            record, parts = _recorded(cube, found)
            self.weights.forget([cube])
            return self._derived.put(who, record, parts, told=verdict(found))

    def _draft(self, who: str, sources: Sequence[MemCube], model: LocalModel, name: str) -> MemCube:
        payload = Adapter("", model.fingerprint, (), 0, 0)
        return self._derived.draft(who, sources, payload, name, State.GENERATED, model.name)

    def _keep(self, who: str, draft: MemCube, sources: Sequence[MemCube], learned: Learned) -> MemCube:
        """Write an adapter down as the payload of a draft, activated if it passed. Raises as `Derived.keep` does."""
        from .learned import verdict

        cube, parts = _recorded(draft, learned)
        return self._derived.keep(who, cube, sources, parts, told=verdict(learned))


def _recorded(draft: MemCube, learned: Learned) -> tuple[MemCube, list[bytes]]:
    """A draft with an adapter as its payload, activated if it passed, and the bytes of its blob."""
    from .learned import pack, told

    blob, parts = pack(learned)
    lora = learned.lora
    payload = Adapter(blob, lora.model, lora.targets, lora.rank, sum(len(part) for part in parts))
    state = State.ACTIVATED if learned.passed else State.GENERATED
    return replace(draft, payload=payload, state=state, attributes=told(learned)), parts


def _words(sources: Sequence[MemCube]) -> str:
    """A hash of what memories say, under whatever ids: a frozen adapter is not outdated by a change of them, and is not used after it
    either."""
    said = (c.payload.blob if isinstance(c.payload, Adapter) else c.text for c in sources)
    return named(*sorted(said)) if sources else ""


def _by_name(phrasing: Phrasing | None) -> str:
    """A phrasing as it is called in every process: a function by its name, an object by its type and what it holds."""
    if phrasing is None:
        return ""
    made: Any = phrasing if hasattr(phrasing, "__qualname__") else type(phrasing)
    held = {n: v for n, v in getattr(phrasing, "__dict__", {}).items() if not callable(v)}
    if is_dataclass(phrasing):  # it may have slots
        held = {f.name: v for f in fields(phrasing) if not callable(v := getattr(phrasing, f.name))}
    return f"{made.__module__}.{made.__qualname__}{held}"


def _in_use(cube: MemCube) -> bool:
    frozen_from = cube.lifespan.frozen_from if cube.state is State.FROZEN else None
    return isinstance(cube.payload, Adapter) and (frozen_from or cube.state) in USED


def _model_of(cube: MemCube) -> str:
    assert isinstance(cube.payload, Adapter)
    return cube.payload.model
