"""Words: how a text becomes tokens, and which tokens of a question tell memories apart. Standard library only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

ASKING = (
    "Can you recommend something for me?", "What are some good options?", "Could you suggest a few ideas?",
    "What would you advise me to do?", "I am looking for something new. What do you recommend?",
    "Do you have any tips?", "How can I do this?", "Can you help me find it?", "Please tell me about it.",
    "What did they say?", "When did that happen?", "Where was it?", "Who was there?", "Why did they do it?",
    "Which one was it?", "How did it go?", "What is it called?", "What do you know about it?", "How many were there?",
    "Did they like it?", "Would they want to?",
)  # fmt: skip
"""Questions about nothing in particular; what a question's vector shares with theirs is its manner."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_UNSPACED = re.compile(r"([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+)")
WHEN = re.compile(r"\bwhen\b|\bhow long\b|\bwhat (?:date|day|month|year|time)\b", re.IGNORECASE)
_COMMON = (
    "a an the and or of to for in on at by with from as is are was were be been being am do does did done have has had"
    " can could would should will shall might must i me my mine we us our you your he him his she her they them"
    " their it its this that these those there here what which who whom whose when where why how some any so if but"
    " not no than then too very also about into don didn doesn isn aren wasn weren won wouldn couldn shouldn haven"
    " hasn hadn ain"
)
_MOMENTS = (
    "yesterday today tonight tomorrow ago last next week weekend month year day morning evening night recently since"
    " just soon january february march april may june july august september october november december monday tuesday"
    " wednesday thursday friday saturday sunday summer winter spring autumn fall birthday anniversary"
)
_REQUEST = (
    "suggest suggestion recommendation tip advice idea option good best great nice help need want like look looking"
    " find try new kind sort thing way"
)


def tokenize(text: str) -> list[str]:
    """The words of a text, case and accents folded, lightly stemmed; scripts without spaces as character bigrams."""
    return [token for token, _ in readings(text)]


def readings(text: str) -> list[tuple[str, str]]:
    """Tokens with the words that they stand for."""
    found: list[tuple[str, str]] = []
    for word in _WORD.findall(text):
        plain = word.lower()
        if plain.isascii():
            found.append((_stem(plain), word))
            continue
        letters = unicodedata.normalize("NFKD", word.casefold())
        plain = unicodedata.normalize("NFC", "".join(c for c in letters if not unicodedata.combining(c)))
        for odd, part in enumerate(_UNSPACED.split(plain)):
            if odd % 2:
                found.extend((part[i : i + 2], part) for i in range(max(len(part) - 1, 1)))
            elif part:
                found.append((_stem(part), word))
    return found


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    """Cuts English inflections, lightly, and long words: "adoption", "adopted" and "adopt" are one."""
    head, *rest = word.replace("’", "'").split("'")
    word = head if len(head) > 1 or head == "i" else head + "".join(rest)
    if len(word) < 4 or not word.isascii() or word.isdigit():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word[-1] == "s" and word[-2] not in "su":
        word = word[:-1]
    for ending in ("ing", "ed", "ly", "ion"):
        root = word[: -len(ending)]
        if word.endswith(ending) and len(root) >= 3 and any(c in "aeiouy" for c in root):
            word = root[:-1] if len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz" else root
            break
    word = word[:-1] if len(word) > 3 and word[-1] == "e" else word
    return (word[:-1] + "i" if len(word) > 3 and word[-1] == "y" else word)[:7]


STOP = frozenset(tokenize(_COMMON))
SELF, OTHER = frozenset(tokenize("user human")), frozenset(tokenize("assistant ai"))
PRONOUNS = frozenset({"i", "my", "me", "you", "your"})
DATES = frozenset(tokenize(_MOMENTS)) | {str(year) for year in range(1900, 2100)}
ASKED = STOP | frozenset(tokenize(_REQUEST)) | frozenset(token for asking in ASKING for token in tokenize(asking))


def count(text: str) -> Mapping[str, int]:
    """How often each token occurs, the commonest words left out. Kept for short texts: candidates come again and again."""
    return _counted(text) if len(text) <= 1_000 else _counted.__wrapped__(text)


@lru_cache(maxsize=8192)
def _counted(text: str) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for token in tokenize(text):
        if token not in STOP:
            counts[token] = counts.get(token, 0) + 1
    return counts
