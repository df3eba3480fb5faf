"""The verbs of memories in other forms than text, and of answers with memory: what `MemOS` can do with a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapters import AdapterTier
from .duplicates import Duplicates
from .errors import InvalidArgument
from .tiers import Tiers
from .types import (
    Access,
    Adapter,
    Brief,
    Kind,
    MemCube,
    Origin,
    Reply,
    SourceKind,
    State,
    Text,
)  # fmt: skip
from .upkeep import Upkeep
from .uses import UseScope
from .validate import (
    checked_id,  # fmt: skip
    checked_ids,
    checked_kind,
    checked_namespace,
    checked_number,
    checked_word,
)
from .vault import Vault
from .writing import Writer

if TYPE_CHECKING:
    from .answering import Answering
    from .distillation import Distillation
    from .model import LocalModel
    from .phrasing import Lesson


class Forms:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _clock: Callable[[], datetime]
    _model: LocalModel | None
    _adapters: AdapterTier
    _distillation: Distillation | None
    _duplicates: Duplicates
    _tiers: Tiers
    _upkeep: Upkeep
    _vault: Vault
    _writer: Writer
    _answering: Answering | None = None

    if TYPE_CHECKING:

        def _who(self, actor: str | None) -> str: ...
        def _require_open(self) -> None: ...
        def _shown(self, who: str, cube: MemCube) -> MemCube: ...
        def _recalled(
            self, query: str, namespace: Sequence[str], actor: str | None, max_tokens: int,
            leave_out: Callable[[MemCube], bool] | None,
        ) -> tuple[Brief, list[MemCube]]: ...  # fmt: skip

    def convert(
        self,
        ids: str | Iterable[str],
        to: Kind | str,
        *,
        model: LocalModel | None = None,
        distillation: Distillation | None = None,
        actor: str | None = None,
    ) -> list[MemCube]:
        """Hold memories in another form.

        Args:
            ids: memories that the actor may read.
            to: `Kind.ACTIVATION` computes the keys and values of their text, side by side, for a model: one memory, derived from
                these, that `generate` opens before all else. `Kind.PARAMETRIC` distils them into an adapter (a LoRA), which
                `generate` uses instead of their text if it passes its gate; of a memory of keys and values, with those as the teacher's
                context. `Kind.PLAINTEXT` gives such a memory up; its sources stay. An adapter without sources, adopted or not, is
                kept, and what it knows is brought back as new memories.
            model: for which; None: the engine's.
            distillation: how; None: the engine's.

        Returns:
            The derived memory, which for the same memories and model is the same; or the sources of those given up.

        Raises:
            InvalidArgument, NotFound, Unsupported, ContextTooLong, OutOfMemory, Ineffective: nothing was changed.
        """
        who, wanted = self._who(actor), checked_kind(to)
        cubes = self._writer.readable(checked_ids(ids), who)
        if wanted is Kind.PLAINTEXT:
            found = [s for c in cubes for s in self._as_text(who, c, model, distillation)]
        elif wanted is Kind.ACTIVATION:
            found = [self._tiers.to_activation(who, cubes, self._need_model(model))]
        else:
            found = [
                self._adapters.converted(who, cubes, self._need_model(model), self._how(distillation), self._tiers)
            ]
        self._upkeep.after_write()
        return [self._shown(who, cube) for cube in found]

    def fuse(
        self,
        ids: Iterable[str],
        *,
        method: str = "cat",
        model: LocalModel | None = None,
        distillation: Distillation | None = None,
        actor: str | None = None,
    ) -> MemCube:
        """One memory out of several. Of text: the first of them, merged, with the lines of the others, which are archived and linked to
        (see `duplicates`). Of adapters: one, verified again on all that they know. Who may read every source of it may read it.

        method: "cat" puts them side by side, which is exact, at the sum of their ranks; "distil" learns the union of their sources anew;
            those of `fusion.ROUGH` are of one rank and lose something: the gate's figures, in its attributes, say how much.
        """
        who = self._who(actor)
        cubes = self._writer.readable(checked_ids(ids), who)
        if all(isinstance(cube.payload, Text) for cube in cubes):
            made = self._duplicates.fuse(who, [cube.id for cube in cubes])
            self._upkeep.after_write()
            return made
        made = self._adapters.fused(who, cubes, self._need_model(model), self._how(distillation), method)
        self._upkeep.after_write()
        return made

    def adopt(
        self,
        folder: str | PathLike[str],
        *,
        namespace: Sequence[str] = ("default",),
        lesson: Lesson | None = None,
        model: LocalModel | None = None,
        actor: str | None = None,
    ) -> MemCube:
        """Keep a LoRA that PEFT saved somewhere else as a memory, checked against the model; see `lora.adopted`. With a lesson that says
        what it should know it is verified, and used if it passes."""
        who, where = self._who(actor), checked_namespace(namespace)
        made = self._adapters.adopted(who, Path(folder), where, self._need_model(model), self._how(None), lesson)
        self._upkeep.after_write()
        return made

    def elicit(
        self,
        id: str,
        probes: Sequence[Sequence[str]] = (),
        *,
        model: LocalModel | None = None,
        distillation: Distillation | None = None,
        actor: str | None = None,
    ) -> list[MemCube]:
        """Bring back what an adapter knows as memories of text, each with how sure it is; see `elicit.elicited`.

        probes: questions to ask beside those that it was tested with, the phrasings of each together, three or more.
        """
        who = self._who(actor)
        [cube] = self._writer.readable([checked_id(id)], who)
        found = self._adapters.elicited(who, cube, self._need_model(model), self._how(distillation), probes)
        self._upkeep.after_write()
        return found

    def compose(self, ids: Iterable[str], *, actor: str | None = None) -> MemCube:
        """One memory of keys and values out of several, side by side: opened as one, instead of the largest alone. The second and
        those after it are moved behind the first and run again in part, so it is an approximation: a share of its uses is compared
        with the exact result, and it is not used any more once their divergence passes 0.05 nats."""
        who = self._who(actor)
        cubes = self._writer.readable(checked_ids(ids), who)
        return self._tiers.composed(who, cubes, self._need_model())

    def add_steering(
        self,
        key: str,
        pairs: Sequence[tuple[Any, Any]],
        *,
        namespace: Sequence[str] = ("default",),
        layer: int | None = None,
        model: LocalModel | None = None,
        actor: str | None = None,
    ) -> MemCube:
        """Make a steering vector of contrast pairs (prompts with and without what is to be steered) and store it under a key, with
        the figures that say how well it works as its attributes; see `steering.extract`.

        Raises:
            Ineffective: the figures say that it does not work.
        """
        from .steering import extract

        who, where, now = self._who(actor), checked_namespace(namespace), self._clock()
        vector = extract(self._need_model(model), pairs, layer=layer)
        draft = MemCube(
            id="", version=1, kind=Kind.ACTIVATION, state=State.GENERATED, namespace=where, payload=Text(""),
            origin=Origin(SourceKind.DERIVATION, stored_at=now, model=self._need_model(model).name), access=Access(who),
            created_at=now, updated_at=now, key=checked_word(key, "key"),
        )  # fmt: skip
        return self._tiers.keep_vector(draft, vector)

    def generate(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        namespace: Sequence[str] = (),
        actor: str | None = None,
        session: str | None = None,
        max_brief_tokens: int = 1500,
        tools: Sequence[Mapping[str, Any]] | None = None,
        steer: Mapping[str, float] | None = None,
        **decoding: Any,
    ) -> Reply:
        """Answer with what is remembered; the arguments are those of `stream`."""
        pieces = self.stream(
            messages, namespace=namespace, actor=actor, session=session, max_brief_tokens=max_brief_tokens, tools=tools, steer=steer, **decoding
        )  # fmt: skip
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # a generator's value is untyped here

    def stream(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        namespace: Sequence[str] = (),
        actor: str | None = None,
        session: str | None = None,
        max_brief_tokens: int = 1500,
        tools: Sequence[Mapping[str, Any]] | None = None,
        steer: Mapping[str, float] | None = None,
        **decoding: Any,
    ) -> Generator[str, None, Reply]:
        """Answer with what is remembered, in pieces of text as they are drawn; the generator's value is the `Reply`. Nothing of the
        conversation is stored: `add` does that.

        Args:
            messages: a question, or a conversation as mappings with role and content, the last one asking.
            namespace: what is remembered at or below it is recalled.
            session: the conversation's name. What was recalled for its earlier questions stays where it was put, and only what a
                turn adds is run.
            max_brief_tokens: of what is recalled for the question; what is kept as keys and values (`convert`) comes on top.
            tools: JSON schemas of functions, shown to the model through its template.
            steer: ids of steering vectors, each with its strength in mean lengths of the residual stream.
            decoding: the fields of `Decoding`.

        Raises:
            InvalidArgument, NotFound, ModelError.
        """
        who, where = self._who(actor), checked_namespace(namespace, root=True)
        budget = checked_number(max_brief_tokens, "max_brief_tokens")
        self._require_open()
        self._vault.ledger.require_key()  # an answer is told of in the log
        from .answering import Asked  # these bring torch, which those who only remember need not have
        from .steering import steered

        def recall(question: str, leave_out: Callable[[MemCube], bool]) -> tuple[Brief, list[MemCube]]:
            return self._recalled(question, where, who, budget, leave_out)

        def wanted(found: Sequence[str]) -> None:
            self._upkeep.note(UseScope(who, where, self._need_model().fingerprint), found, self._clock())

        asked = Asked(who, where, checked_word(session, "session"), recall, wanted)
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        with ExitStack() as changes:
            for id, alpha in (steer or {}).items():
                vector = self._tiers.vector(self._writer.readable([checked_id(id)], who)[0])
                changes.enter_context(steered(self._need_model(), vector, alpha))
            pieces = self._answers().stream(asked, said, tools, decoding)
        brief, made = yield from pieces
        self._writer.tell(
            who, "generate", (*brief.cubes, *brief.known), self._clock(), detail=f"shown to {self._need_model().name}"
        )
        return Reply(made.text, brief, made.finish, made.usage)

    @property
    def model(self) -> LocalModel | None:
        """The model that was given for `generate` and for keeping keys and values."""
        return self._model

    def _as_text(
        self, who: str, cube: MemCube, model: LocalModel | None, distillation: Distillation | None
    ) -> list[MemCube]:
        if isinstance(cube.payload, Text):
            return [cube]
        if isinstance(cube.payload, Adapter) and not cube.lineage:
            return self._adapters.elicited(who, cube, self._need_model(model), self._how(distillation))
        return self._tiers.to_plaintext(who, cube)

    def _how(self, distillation: Distillation | None) -> Distillation:
        from .distillation import Distillation  # brings torch

        return distillation or self._distillation or Distillation()

    def _need_model(self, model: LocalModel | None = None) -> LocalModel:
        found = model or self._model
        if found is None:
            raise InvalidArgument("model: a LocalModel is needed: MemOS(..., model=LocalModel(...))")
        return found

    def _answers(self) -> Answering:
        from .answering import Answering

        if self._answering is None:
            self._answering = Answering(self._need_model(), self._tiers, self._adapters, self._writer.failed)
        return self._answering
