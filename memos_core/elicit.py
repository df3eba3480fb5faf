"""What an adapter knows, brought back as text: by asking, and by believing little of what it says.

A thing counts as known by an adapter only if the base model does not say it, if several phrasings of the question agree on it, and if it
survives the round trip: stated in a context, the base model reads the same answer out of it. Knows models; knows no memories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidArgument
from .exercises import Quote, Said, asked, quoted, said
from .lora import LoRA
from .model import LocalModel
from .parametric import Adapters

State = Callable[[str, str], str]
"""A question and its answer into a sentence that says it, "" where that cannot be."""


@dataclass(frozen=True, slots=True)
class Elicited:
    """Something that an adapter knows: a question, its answer, and a sentence that states it.

    confidence: how sure the adapter is, from 0 to 1: by how much it prefers the likeliest token to the next, where it is least sure, the
        mean over the phrasings that agree. agreed: how many of how many `asked`.
    """

    question: str
    answer: str
    text: str
    confidence: float
    agreed: int
    asked: int


def together(question: str, answer: str) -> str:
    """The plainest statement: the question with its answer behind it."""
    return f"{question} {answer}"


def elicited(
    model: LocalModel,
    lora: LoRA,
    probes: Sequence[Sequence[str]],
    *,
    state: State = together,
    agree: int = 3,
    sure: float = 0.5,
    quote: Quote = quoted,
) -> list[Elicited]:
    """What an adapter knows of what is asked.

    probes: phrasings of each question, at least `agree`: more than it knows should be asked, for what is right is told from what is
        made up by asking. One with fewer is passed over. state: makes a statement of an answer. sure: the least confidence.

    Raises InvalidArgument where no question has so many.
    """
    enough = [tuple(dict.fromkeys(p)) for p in probes if len(set(p)) >= agree]
    if not enough:
        raise InvalidArgument(
            f"probes: what is known is told by {agree} phrasings or more that agree, and none of {len(probes)} questions has so many, "
            "of those that the adapter was made with too: give more phrasings of them"
        )
    probes = enough
    prompts = [asked(model, question) for phrasings in probes for question in phrasings]
    with_it = said(model, prompts, change=Adapters(model, lora.bytes).change(lora))
    without = said(model, prompts)
    candidates, at = [], 0
    for phrasings in probes:
        mine = list(zip(phrasings, with_it[at : at + len(phrasings)], without[at : at + len(phrasings)], strict=True))
        at += len(phrasings)
        if (one := _agreed(mine, state, agree)) is not None and one.confidence >= sure:
            candidates.append((one, phrasings))
    return [one for one, phrasings in candidates if _survives(model, one, phrasings, quote, agree)]


def recollected(
    model: LocalModel, lora: LoRA, stems: Sequence[str], *, draws: int = 8, most: int = 32, seed: int = 0
) -> list[str]:
    """Texts that an adapter goes on to from beginnings of sentences, most frequent first: what to ask about where nothing is known of
    its sources. Drawn, not believed: a phrasing makes questions of them, and `elicited` judges the answers.

    Raises InvalidArgument for no stems.
    """
    if not stems:
        raise InvalidArgument("stems: there is none")
    found: Counter[str] = Counter()
    begun = [model.encode(stem) for stem in stems]
    with Adapters(model, lora.bytes).used(lora):
        for draw in range(draws):
            drawn = model.generate_batch(
                begun,
                max_tokens=most,
                temperature=0.7 if draw else 0.0,
                seed=seed + draw,
            )
            for stem, answer in zip(begun, drawn, strict=True):
                # together: alone, an answer that begins with a space would lose it
                text = model.tokenizer.decode([*stem.ids, *answer.ids], skip_special_tokens=True)
                first = text.strip().split("\n")[0]
                found[first.partition(". ")[0].rstrip(".") + "."] += 1
    return [text for text, _ in found.most_common()]


# --- below ---------------------------------------------------------------------------------------------------------------


def _agreed(mine: Sequence[tuple[str, Said, Said]], state: State, agree: int) -> Elicited | None:
    """What enough phrasings say with the adapter and not without it."""
    news = [
        (question, answer) for question, answer, before in mine if plain(answer.text) not in ("", plain(before.text))
    ]
    if not news:
        return None
    words, count = Counter(plain(answer.text) for _, answer in news).most_common(1)[0]
    if count < agree:
        return None
    same = [(question, answer) for question, answer in news if plain(answer.text) == words]
    question, answer = same[0]
    margins = [float((a.logs[:, 0].exp() - a.logs[:, 1].exp()).min()) for _, a in same]
    text = state(question, answer.text.strip())
    if not text:
        return None
    return Elicited(question, answer.text.strip(), text, sum(margins) / len(margins), count, len(mine))


def _survives(model: LocalModel, one: Elicited, phrasings: Sequence[str], quote: Quote, agree: int) -> bool:
    """Whether the base model, with the statement before it, gives the same answer."""
    context = quote([one.text])
    answers = said(model, [asked(model, question, context) for question in phrasings])
    return sum(plain(a.text) == plain(one.answer) for a in answers) >= agree


def plain(text: str) -> str:
    """An answer without what makes no difference."""
    return " ".join(text.casefold().split()).strip(" .!\"'")


def probes_of(lesson: Any) -> list[tuple[str, ...]]:
    """The phrasings of each point of a lesson."""
    return [(*p.questions, *p.held_out) for p in lesson.points]
