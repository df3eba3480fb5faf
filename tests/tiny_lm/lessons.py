"""What the tiny model's memories tell, in the phrasings of its language: the `Phrasing` that its tests and benches distil with."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from memos_core.phrasing import Lesson, Point

from . import language
from .language import Fact

_FORMS = [
    re.compile(re.escape(form).replace(r"\{name\}", r"(?P<name>[A-Z][a-z]+)").replace(r"\{attribute\}", r"(?P<attribute>[a-z]+)")
               .replace(r"\{value\}", r"(?P<value>[a-z]+)"))
    for form in (*language.UNTRAINED_STATEMENTS, *language.STATEMENTS)
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phrasing:
    """Facts in the language's own questions; around them so many made-up ones about other names, other attributes, and both."""

    others: int = 600
    questions: tuple[str, ...] = language.QUESTIONS
    seed: int = 0

    def __call__(self, texts: Sequence[str]) -> Lesson:
        """A lesson of texts that state facts."""
        told = [(text, fact) for text in texts for fact in facts(text)]
        rng = random.Random(f"{self.seed}/{texts}")
        return Lesson(
            tuple(point(fact, text, self.questions) for text, fact in told),
            tuple(made_up([fact for _, fact in told], self.others, rng, self.questions)),
        )


def facts(text: str) -> list[Fact]:
    """The facts that a text states, in any of the language's forms."""
    found = []
    for sentence in re.split(r"(?<=\.)\s+", text):
        for form in _FORMS:
            if match := form.fullmatch(sentence):
                found.append(Fact(**match.groupdict()))
                break
    return found


def point(fact: Fact, text: str, questions: Sequence[str] = language.QUESTIONS, kind: str = "") -> Point:
    """A fact as one."""
    return Point(
        text,
        fact.value,
        tuple(language.ask(fact, form) for form in questions),
        tuple(language.ask(fact, form) for form in language.UNTRAINED_QUESTIONS),
        tuple(language.state(fact, form).partition(f" {fact.value}.")[0] for form in language.STATEMENTS),
        kind,
    )


def made_up(
    told: Sequence[Fact], count: int, rng: random.Random, questions: Sequence[str] = language.QUESTIONS
) -> list[Point]:
    """Facts that nobody told, in turn about another name (every other one of which sounds like one that is told of), about another
    attribute of a name, and about neither."""
    known = {(fact.name, fact.attribute) for fact in told}
    names, attributes = sorted({f.name for f in told}), sorted({f.attribute for f in told})
    strangers = [n for n in (*language.NAMES, *language.HELD_OUT_NAMES) if n not in names]
    alike = [n for n in strangers if any(n[:3] == name[:3] or n[3:] == name[3:] for name in names)] or strangers
    free = [(n, a) for n in names for a in language.ATTRIBUTES if (n, a) not in known]
    rng.shuffle(free)
    found: list[Point] = []
    while len(found) < count:
        kind = ("other name", "other attribute", "other both")[len(found) % 3]
        if kind == "other attribute" and free:
            name, attribute = free.pop()
        else:
            kind = kind if kind == "other name" else "other both"
            name = rng.choice(alike if len(found) // 3 % 2 else strangers)
            attribute = rng.choice(attributes if kind == "other name" else language.ATTRIBUTES)
        if (name, attribute) in known:
            continue
        known.add((name, attribute))
        value = rng.choice((*language.OPEN_VALUES, *language.ONE_WORD_VALUES * 4))
        fact = Fact(name, attribute, value)
        found.append(point(fact, language.state(fact, rng.choice(language.STATEMENTS)), questions, kind))
    return found


def statement(question: str, answer: str) -> str:
    """A question and its answer as a statement of the language; "" for a question that is none of it."""
    for form in (*language.UNTRAINED_QUESTIONS, *language.QUESTIONS):
        pattern = (
            re.escape(form)
            .replace(r"\{name\}", r"(?P<name>[A-Z][a-z]+)")
            .replace(r"\{attribute\}", r"(?P<attribute>[a-z]+)")
        )
        if match := re.fullmatch(pattern, question):
            fact = Fact(match["name"], match["attribute"], answer.strip().removesuffix("."))
            return language.state(fact, language.STATEMENTS[0])
    return ""
