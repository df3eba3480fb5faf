"""How memories become an adapter, from first to last: phrase them, let the model answer, train, verify. Knows the steps, not the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import brief
from .curriculum import Held, Plan, curriculum
from .distil import Distilled, Progress, distil, require_fit
from .elicit import Elicited, State, elicited, probes_of, together
from .errors import Ineffective, MemOSError, Unsupported
from .exercises import Quote
from .gate import Gate, Scores, verified
from .lora import LoRA
from .model import LocalModel
from .phrasing import Asking, Lesson, Phrasing, checked
from .rebuilds import Checkpoint
from .recipe import Recipe
from .types import MemCube, Text


@dataclass(frozen=True, slots=True)
class Distillation:
    """What is given for it.

    phrasing: texts into a lesson; None asks the model itself, which must be one that chats.
    recipe: of the training; plan: how many exercises of what; gate: what must be reached.
    state: a question and its answer into a statement, for bringing back what an adapter knows.
    progress: called after each step of the training; what it raises abandons it, to be gone on with later.
    """

    phrasing: Phrasing | None = None
    recipe: Recipe = Recipe()
    plan: Plan = Plan()
    gate: Gate = Gate()
    state: State = together
    progress: Callable[[Progress], None] = lambda progress: None

    def lesson(self, model: LocalModel, sources: Sequence[MemCube]) -> tuple[Lesson, Quote]:
        """What memories tell, and how they stand before the model: as in a brief. Raises Ineffective where the phrasing fails."""
        phrase = self.phrasing or _asking(model)
        try:
            found = phrase([c.text for c in sources])
        except MemOSError:
            raise
        except Exception as error:  # it is the caller's
            raise Ineffective(f"phrasing: {type(error).__name__}: {error}") from error
        return checked(found), quoting(sources)

    def run(
        self,
        model: LocalModel,
        sources: Sequence[MemCube],
        checkpoint: Checkpoint | None = None,
        held: Held | None = None,
        beside: Sequence[LoRA] = (),
    ) -> tuple[LoRA, str, Scores, tuple[tuple[str, ...], ...]]:
        """An adapter that knows what memories say; why its training ended; what the gate measured; and the questions it was tested with.

        checkpoint: see `distil`: a training that it has to its end is gone on with at the gate.
        held: the memories as a context whose keys and values are there, to be taught from. beside: adapters of the model that there are;
            other units than theirs are trained where there are enough, so that they can be fused.
        """
        require_fit(model, self.recipe)  # before anything is worked out
        lesson, quote = self.lesson(model, sources)
        exercises = curriculum(model, lesson, self.recipe.seed, plan=self.plan, quote=quote, held=held)
        found: Distilled = distil(
            model, exercises, self.recipe, beside=beside, progress=self.progress, checkpoint=checkpoint
        )
        scores = self.verified(model, found.lora, lesson, quote, held)
        return found.lora, found.why, scores, self.questions(lesson)

    def verified(
        self, model: LocalModel, lora: LoRA, lesson: Lesson, quote: Quote | None = None, held: Held | None = None
    ) -> Scores:
        """What the gate measures of an adapter."""
        options: dict[str, Any] = {} if quote is None else {"quote": quote}
        return verified(model, lora, checked(lesson), gate=self.gate, seed=self.recipe.seed, held=held, **options)

    def elicited(self, model: LocalModel, lora: LoRA, probes: Sequence[Sequence[str]]) -> list[Elicited]:
        """What an adapter knows; see `elicit.elicited`."""
        return elicited(model, lora, probes, state=self.state)

    def questions(self, lesson: Lesson) -> tuple[tuple[str, ...], ...]:
        """The phrasings of each point, for bringing it back."""
        return tuple(probes_of(lesson))


def quoting(sources: Sequence[MemCube]) -> Quote:
    """Texts as they stand in a brief, each with the date and the speaker of its memory, made-up ones with those of the first."""
    lines = {cube.text: brief.line(cube) for cube in sources}

    def quote(texts: Sequence[str]) -> str:
        told = (lines.get(text) or brief.line(replace(sources[0], payload=Text(text))) for text in texts)
        return brief.HEADER + "".join(told) + brief.FOOTER

    return quote


def _asking(model: LocalModel) -> Asking:
    if not getattr(model.tokenizer, "chat_template", None):
        raise Unsupported(f"{model.name}: it does not chat, so it cannot phrase questions: give a phrasing")

    def answer(messages: Sequence[Mapping[str, Any]]) -> str:
        return model.generate(messages, max_tokens=400, keep=False).text

    return Asking(answer)
