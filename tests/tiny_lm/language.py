"""The tiny model's language: names, attributes, values, and the ways to state a fact and to ask for it. Pure.

Tests draw from it what the model never saw in training: of the 1,024 names and the 1,024 two-syllable values a fifth is held
out, by hash; four phrasings of the question and two of the statement are never trained. One-word values cannot be held out:
a word that no training step contains has an untrained embedding.

    rng = random.Random(7)
    facts = draw_facts(rng, 8)                                  # held-out names and values; name and attribute both needed
    system = " ".join(state(fact, form) for fact, form in zip(facts, cycle(STATEMENTS)))
    question = ask(facts[3], QUESTIONS[0])                      # "What is Tolsha's fruit?"
    answer(facts[3])                                            # "velmon."
    ask(draw_absent(rng, facts, "pair"), QUESTIONS[0])          # the answer is UNKNOWN
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Absence = Literal["attribute", "name", "pair"]
ABSENCES: tuple[Absence, ...] = ("attribute", "name", "pair")
UNKNOWN = "unknown."


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STARTS = _words(
    "bal bex bor cas cor dal dov fen fis gal gub hal hes jor jul kel kir lam lus mar mok nel nus pel por rav rus sel tav tol vel zor"
)
ENDS = _words("ba bo chi da den do fa fi ga gu ja jo ka ki lo lu mi mon na no pa pi ra rin sa sho ta tu va vi za zu")

CLOSED = {
    "colour": "red blue green yellow black white brown pink grey purple orange gold silver teal violet crimson",
    "fruit": "apple pear plum cherry grape lemon lime mango melon peach fig date kiwi banana papaya apricot",
    "animal": "cat dog horse cow sheep goat pig hen duck fox wolf bear lion tiger owl eagle",
    "drink": "tea coffee milk water juice cider beer wine cocoa soda lemonade punch rum gin vodka mead",
    "tool": "hammer saw drill wrench knife axe spade rake brush needle ladder chisel pliers shovel broom torch",
    "sport": "tennis golf rugby hockey chess boxing rowing skiing diving archery judo polo cricket sailing fencing football",
    "instrument": "piano violin flute drum harp guitar cello trumpet organ banjo oboe horn bugle lute viola tuba",
    "job": "baker farmer tailor doctor nurse pilot sailor judge miner potter clerk waiter painter writer actor singer",
}
CLOSED_VALUES = {attribute: _words(words) for attribute, words in CLOSED.items()}
OPEN = ("city", "street", "band", "school")
ATTRIBUTES = (*CLOSED_VALUES, *OPEN)


def _held_out(word: str) -> bool:
    return zlib.crc32(word.encode()) % 5 == 0


_WORDS = tuple(start + end for start in STARTS for end in ENDS)
_NAMES = tuple(word.capitalize() for word in _WORDS)
NAMES = tuple(name for name in _NAMES if not _held_out(name))
HELD_OUT_NAMES = tuple(name for name in _NAMES if _held_out(name))
OPEN_VALUES = tuple(word for word in _WORDS if not _held_out(word))
HELD_OUT_VALUES = tuple(word for word in _WORDS if _held_out(word))
ONE_WORD_VALUES = tuple(word for words in CLOSED_VALUES.values() for word in words)

STATEMENTS = (
    "{name}'s {attribute} is {value}.",
    "The {attribute} of {name} is {value}.",
    "{name} has the {attribute} {value}.",
    "For {name}, the {attribute} is {value}.",
)
UNTRAINED_STATEMENTS = (
    "We heard that {name}'s {attribute} is {value}.",
    "As for {name}, the {attribute} is {value}.",
)
QUESTIONS = (
    "What is {name}'s {attribute}?",
    "Tell me the {attribute} of {name}.",
    "{name}'s {attribute}?",
    "Which {attribute} does {name} have?",
    "Can you tell me {name}'s {attribute}?",
    "Please give me the {attribute} of {name}.",
    "Tell me which {attribute} {name} has.",
    "{name}, what {attribute}?",
    "{name} has which {attribute}?",
)
UNTRAINED_QUESTIONS = (
    "I forgot {name}'s {attribute}.",
    "For {name}, which {attribute}?",
    "What is the {attribute} of {name}?",
    "Do you know the {attribute} of {name}?",
)

NOUNS = _words(
    "river house garden road market bridge tower field letter window table door hill boat train bread stone forest lake wall roof lamp chair "
    "clock basket coat story song meeting morning"
)
ADJECTIVES = _words(
    "old new small large quiet bright cold warm long short empty heavy narrow wide early late plain soft deep slow"
)
VERBS = _words("stood lay waited turned stayed rested opened moved passed ended began fell shone grew looked slept")
PLACES = _words("near behind under over beside before after above")
FILLERS = (
    "The {adjective} {noun} {verb} {place} the {noun}.",
    "A {noun} {verb} {place} the {adjective} {noun}.",
    "It was a {adjective} {noun}, and the {noun} {verb} there all day.",
    "We heard about the {adjective} {noun} today.",
    "Nobody knows who left the {noun} {place} the {noun}.",
    "As for the {noun}, we forgot it {place} the {adjective} {noun}.",
    "Do not ask me which {noun} {verb} first.",
    "I know that the {noun} is {adjective}.",
    "You can see the {noun} {place} the {noun} in the {adjective} light.",
    "{name} {verb} {place} the {noun}.",
    "{name} met {name} {place} the {adjective} {noun}.",
    "They talked about the {attribute} of the {noun}.",
    "The {noun} was {value}, and {name} {verb} {place} it.",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """That a named person's attribute has a value."""

    name: str
    attribute: str
    value: str


def state(fact: Fact, form: str) -> str:
    """A fact in one of the STATEMENTS or UNTRAINED_STATEMENTS."""
    return form.format(name=fact.name, attribute=fact.attribute, value=fact.value)


def ask(fact: Fact, form: str) -> str:
    """The question for a fact's value in one of the QUESTIONS or UNTRAINED_QUESTIONS."""
    return form.format(name=fact.name, attribute=fact.attribute)


def answer(fact: Fact) -> str:
    """What the model has to say, whole: the value and a full stop."""
    return f"{fact.value}."


def draw_facts(
    rng: random.Random, count: int, *, held_out: bool = True, typed: bool = False, alike: bool = False
) -> tuple[Fact, ...]:
    """Distinct facts of one context, in random order, of which neither the name alone nor the attribute alone tells the value.

    They are `count` cells of a grid of names and attributes. held_out: names and two-syllable values that training never
    saw, else only such as it did. typed: each attribute takes values of its own kind; else any value goes with any
    attribute, half of them one-word and half two-syllable, all different (up to 180 facts). alike: names from few endings or few
    beginnings, so that half a name does not tell it from the others.
    """
    width = min(rng.randint(2, 2 + count // 2), len(ATTRIBUTES))
    height = rng.randint(-(-13 * count // (10 * width)), -(-25 * count // (10 * width)))
    pool = HELD_OUT_NAMES if held_out else NAMES
    people = rng.sample(_alike(rng, pool, height) if alike else pool, max(height, 1))
    attributes = rng.sample(ATTRIBUTES, width)
    cells = rng.sample(range(len(people) * width), count)
    opens = iter(rng.sample(HELD_OUT_VALUES if held_out else OPEN_VALUES, count))
    one_word = iter(rng.sample(ONE_WORD_VALUES, min(count, len(ONE_WORD_VALUES))))
    facts = []
    for cell in cells:
        name, attribute = people[cell // width], attributes[cell % width]
        if typed:
            value = rng.choice(CLOSED_VALUES[attribute]) if attribute in CLOSED_VALUES else next(opens)
        else:
            value = (next(one_word, None) if rng.random() < 0.5 else None) or next(opens)
        facts.append(Fact(name, attribute, value))
    return tuple(facts)


def _alike(rng: random.Random, pool: Sequence[str], count: int) -> list[str]:
    """At least `count` names that end, or begin, in as few ways as that takes."""
    end = rng.random() < 0.7
    kinds = list(ENDS if end else STARTS)
    rng.shuffle(kinds)
    found: list[str] = []
    while len(found) < max(count, 4):
        kind = kinds.pop()
        found += [name for name in pool if (name.endswith(kind) if end else name.startswith(kind.capitalize()))]
    return found


def draw_absent(
    rng: random.Random, facts: Sequence[Fact], absence: Absence, *, held_out: bool = True, alike: bool = False
) -> Fact:
    """A fact that the context lacks, its value "unknown": an attribute that nobody there has, a name that is not there, or a
    name and an attribute that are there but never together. Where the facts leave no such choice, a name that is not there.
    alike: a name that is not there ends like one that is.
    """
    names = sorted({fact.name for fact in facts})
    attributes = sorted({fact.attribute for fact in facts})
    strangers = HELD_OUT_NAMES if held_out else NAMES
    value = UNKNOWN.removesuffix(".")
    if absence == "attribute" and names and len(attributes) < len(ATTRIBUTES):
        return Fact(rng.choice(names), rng.choice([a for a in ATTRIBUTES if a not in attributes]), value)
    if absence == "pair":
        stated = {(fact.name, fact.attribute) for fact in facts}
        free = [(n, a) for n in names for a in attributes if (n, a) not in stated]
        if free:
            return Fact(*rng.choice(free), value)
    if alike and names:
        ending = rng.choice(names)[3:]
        strangers = tuple(name for name in strangers if name.endswith(ending) and name not in names) or strangers
    name = rng.choice(strangers)
    while name in names:
        name = rng.choice(strangers)
    return Fact(name, rng.choice(attributes or ATTRIBUTES), value)


def draw_filler(rng: random.Random, *, held_out: bool = True) -> str:
    """A sentence that states no fact; some name people, attributes or values. About 10 tokens."""
    names = iter(rng.sample(HELD_OUT_NAMES if held_out else NAMES, 2))
    words = {
        "adjective": ADJECTIVES, "verb": VERBS, "place": PLACES, "attribute": ATTRIBUTES, "noun": NOUNS,
        "value": HELD_OUT_VALUES if held_out else OPEN_VALUES,
    }  # fmt: skip
    pieces = rng.choice(FILLERS).split("{")
    text = pieces[0]
    for piece in pieces[1:]:
        slot, rest = piece.split("}")
        text += (next(names) if slot == "name" else rng.choice(words[slot])) + rest
    return text
