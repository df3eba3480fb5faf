"""Training documents: contexts with facts, many questions after each, and which characters are answers. Pure.

A document is text, so training and tests share one tokenizer and one chat template; its answers are character spans. Facts
stand in the system message as prose, as a list or as the engine's brief, in the user's turns, in a tool's reply, or in
plain text without a chat; see `document`.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from memos_core.brief import FOOTER, HEADER

from . import language
from .language import Fact
from .tokenizer import END, TURN, TURN_END

Look = Literal["names", "grid", "plain", "prose", "list", "brief", "told", "tool"]
CHAT: tuple[Look, ...] = ("prose", "list", "brief", "told", "tool")
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer with one word.",
    "Answer from what follows.",
    "Use the notes below.",
    "Here is what I remember.",
    "These facts are known:",
    "Notes:",
    "Context:",
    "Memories:",
    "Facts:",
)
THANKS = ("Noted.", "Understood.", "Thank you.", "Okay, I will keep it in mind.")


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a stage's documents are drawn from.

    looks: each as likely as it is often there. fewest, most: facts of a context. unknown: share of questions that the context
    does not answer. untyped: share of contexts in which any attribute takes any value. alike: share of contexts in which names
    share their endings or beginnings. filler: share of contexts with other
    text among the facts, `filler_most` sentences at most. empty: share of contexts without any fact. skewed: counts of facts
    and of fillers are themselves uniform up to a uniform limit, so that long contexts are there, but few.
    """

    looks: tuple[Look, ...]
    fewest: int
    most: int
    unknown: float = 0.0
    untyped: float = 0.0
    alike: float = 0.0
    filler: float = 0.0
    filler_most: int = 0
    empty: float = 0.0
    skewed: bool = False

    def count(self, rng: random.Random, fewest: int, most: int) -> int:
        """A number of facts or of fillers."""
        return rng.randint(fewest, rng.randint(fewest, most) if self.skewed else most)


@dataclass(slots=True)
class Document:
    """Text, and the spans of it (start, end) that are answers, with the stop sign after them where there is one."""

    text: str = ""
    answers: list[tuple[int, int]] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Text that is not an answer."""
        self.text += text

    def answer(self, text: str) -> None:
        """Text that is one."""
        self.answers.append((len(self.text), len(self.text) + len(text)))
        self.text += text

    def turn(self, role: str, content: str) -> None:
        """A whole turn of a chat, none of it an answer."""
        self.text += f"{TURN}{role}\n{content}{TURN_END}\n"

    def exchange(self, question: str, answer: str) -> None:
        """A question of the user's, and the assistant's answer to it."""
        self.turn("user", question)
        self.add(f"{TURN}assistant\n")
        self.answer(answer + TURN_END)
        self.add("\n")


def document(rng: random.Random, mixture: Mixture) -> Document:
    """One training document of a mixture: facts, then at least as many questions, drawn with replacement."""
    look = rng.choice(mixture.looks)
    count = 0 if rng.random() < mixture.empty else mixture.count(rng, mixture.fewest, mixture.most)
    typed, alike = rng.random() >= mixture.untyped, rng.random() < mixture.alike
    facts = language.draw_facts(rng, count, held_out=False, typed=typed, alike=alike)
    if look in ("names", "grid"):
        return _compact(rng, facts, by_name=look == "names")
    questions = [_question(rng, facts, mixture.unknown, alike=alike) for _ in range(max(count, 4))]
    sentences = [language.state(fact, rng.choice(language.STATEMENTS)) for fact in facts]
    if rng.random() < mixture.filler:
        sentences = _scatter(rng, sentences, mixture.count(rng, 1, mixture.filler_most))
    if look == "plain":
        return _plain(rng, sentences, questions)
    return _chat(rng, look, sentences, questions)


def _question(rng: random.Random, facts: Sequence[Fact], unknown: float, *, alike: bool) -> Fact:
    if facts and rng.random() >= unknown:
        return rng.choice(facts)
    return language.draw_absent(rng, facts, rng.choice(language.ABSENCES), held_out=False, alike=alike)


def _scatter(rng: random.Random, sentences: list[str], count: int) -> list[str]:
    """Fillers before, among or after the facts: scattered, or in one block of them."""
    fillers = [_noise(rng) if rng.random() < 0.05 else language.draw_filler(rng, held_out=False) for _ in range(count)]
    if rng.random() < 0.5:
        at = rng.randint(0, len(sentences))
        return [*sentences[:at], *fillers, *sentences[at:]]
    places = sorted(rng.sample(range(len(sentences) + count), count))
    mixed = list(sentences)
    for place, filler in zip(places, fillers, strict=True):
        mixed.insert(place, filler)
    return mixed


def _noise(rng: random.Random) -> str:
    """A line of invented words, which the tokenizer has only bytes for."""
    letters = string.ascii_lowercase + string.ascii_lowercase + string.ascii_letters + string.digits
    return " ".join("".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 5))) + "."


def _compact(rng: random.Random, facts: Sequence[Fact], *, by_name: bool) -> Document:
    """Name and value, or name, attribute and value, and nothing else: what the lookup is first learned on."""
    paper = Document()
    if by_name:
        facts = list({fact.name: fact for fact in facts}.values())
    for fact in [*facts, *rng.choices(facts, k=2 * len(facts))]:
        key = fact.name if by_name else f"{fact.name} {fact.attribute}"
        paper.add((" " if paper.text else "") + key)
        put = paper.add if paper.text.count(".") < len(facts) else paper.answer
        put(f" {fact.value}.")
    return paper


def _plain(rng: random.Random, sentences: Sequence[str], questions: Sequence[Fact]) -> Document:
    """Text without a chat. Half of them begin with the end-of-text sign, so that it may stand before any chunk."""
    paper = Document(END if rng.random() < 0.5 else "")
    paper.add(rng.choice((" ", " ", "\n")).join(sentences))
    gap = rng.choice((" ", "\n"))
    for fact in questions:
        if rng.random() < 0.3:
            before, _, after = language.state(fact, rng.choice(language.STATEMENTS)).partition(f" {fact.value}.")
            paper.add(gap + before)
            paper.answer(f" {fact.value}.")
            paper.add(after)
        else:
            paper.add(f"{gap}Q: {language.ask(fact, rng.choice(language.QUESTIONS))} A:")
            paper.answer(" " + language.answer(fact))
    return paper


def _chat(rng: random.Random, look: Look, sentences: list[str], questions: Sequence[Fact]) -> Document:
    paper = Document()
    system = rng.choice(SYSTEMS)
    if look in ("told", "tool"):
        early = (
            rng.randint(0, len(sentences)) if rng.random() < 0.3 else 0
        )  # some in the system message, the others later
        if early or rng.random() < 0.5:
            paper.turn("system", " ".join([system, *sentences[:early]]))
        _tell(rng, paper, look, sentences[early:], list(questions))
        return paper
    block = quote(rng, look, sentences)
    asked = [(language.ask(fact, rng.choice(language.QUESTIONS)), language.answer(fact)) for fact in questions]
    where = rng.random()
    if where < 0.2:  # the memories stand in the user's message, before the question
        if rng.random() < 0.7:
            paper.turn("system", system)
        asked[0] = (block + rng.choice(("\n", "\n\n", "\n\nQuestion: ")) + asked[0][0], asked[0][1])
    elif block or where < 0.6:
        paper.turn("system", block if where > 0.8 else system + rng.choice((" ", "\n", "\n\n")) + block)
    for question, reply in asked:
        paper.exchange(question, reply)
    return paper


def quote(rng: random.Random, look: Look, sentences: Sequence[str]) -> str:
    """The sentences as prose or lines, as a list, or as the engine's brief with its frame and its dated, attributed lines."""
    if look == "prose":
        return rng.choice((" ", " ", "\n")).join(sentences)
    if look == "list":
        return "".join(f"- {sentence}\n" for sentence in sentences)
    speakers = ["user", "assistant", "note", "document", "plaintext", "memory", rng.choice(language.NAMES)]
    speakers = rng.sample(speakers, rng.randint(1, 2))
    day = f"{rng.randint(2020, 2029)}-{rng.randint(1, 12):02d}-"
    lines = [
        f"- [{day}{rng.randint(1, 28):02d} {rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}] {rng.choice(speakers)}: {sentence}\n"
        for sentence in sentences
    ]
    return HEADER + "".join(lines) + FOOTER if lines else ""


def _tell(rng: random.Random, paper: Document, look: Look, sentences: list[str], questions: list[Fact]) -> None:
    """Facts in the user's turns, each confirmed by the assistant, or in a tool's replies; the questions after all of them."""
    at = 0
    while at < len(sentences):
        size = rng.randint(1, 6 if look == "told" else 12)
        said = " ".join(sentences[at : at + size])
        at += size
        if look == "told":
            asks = rng.choice(("", "", "Please remember this. "))
            paper.exchange(asks + said, rng.choice(THANKS))
            paper.answers.pop()  # which thanks it is, nobody can know
        else:
            paper.turn("tool", said)
    for fact in questions:
        paper.exchange(language.ask(fact, rng.choice(language.QUESTIONS)), language.answer(fact))
