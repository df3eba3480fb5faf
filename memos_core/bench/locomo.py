"""How much of what answers a question is recalled: LoCoMo's conversations (Maharana et al. 2024), without a language model.

Each conversation becomes a store of its own, filled session by session through the public verbs with their defaults. A question
counts by the share of its evidence turns among the first k hits; the mean over questions is the recall. The file is LoCoMo's
JSON; nothing of it is kept.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..embed import LocalEmbedder
from ..embedding import spoken
from ..memos import MemOS
from . import EmbeddingOnce, arguments, baselines, progress, report, table

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}  # 5 has no evidence to find
_EVIDENCE = re.compile(r"D:?(\d+):(\d+)")  # also "D8:6; D9:17" and "D:11:26"
_TARGETS = {10: 0.80, 50: 0.92}

Recaller = Callable[[str, int], Sequence[str]]  # a question and k, to turn ids, best first


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing said."""

    id: str
    session: str
    speaker: str
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the turns that answer it."""

    text: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """All that two people said to each other, and questions about it; `unusable` questions name no turn that is there."""

    name: str
    turns: list[Turn]
    questions: list[Question]
    unusable: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Which share of a question's evidence one system had among the first k, by k."""

    system: str
    category: int
    recall: dict[int, float]


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    conversations = [conversation(c) for c in json.loads(args.data.read_text())][: args.limit]
    embed = EmbeddingOnce(LocalEmbedder())
    answers = [a for c in conversations for a in _ask(c, embed, args)]
    results = _results(conversations, answers, args.k)
    _show(results, args.k)
    report("locomo", args, results)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("locomo", (__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="LoCoMo's JSON")
    parser.add_argument("--limit", type=int, help="only the first conversations")
    parser.add_argument(
        "-k", "--k", type=int, nargs="+", default=[5, 10, 20, 50], help="recall at these (default: 5 10 20 50)"
    )
    parser.add_argument("--skip-baselines", action="store_true", help="the engine alone")
    return parser.parse_args(argv)


def conversation(raw: Mapping[str, Any]) -> Conversation:
    """One conversation of LoCoMo's JSON."""
    turns = list(_turns(raw["conversation"]))
    there = {t.id for t in turns}
    asked = [
        Question(q["question"], q["category"], frozenset(_ids(q.get("evidence") or ()) & there))
        for q in raw["qa"]
        if q["category"] in CATEGORIES
    ]
    usable = [q for q in asked if q.evidence]
    return Conversation(str(raw.get("sample_id", "?")), turns, usable, len(asked) - len(usable))


def _turns(raw: Mapping[str, Any]) -> Iterator[Turn]:
    sessions = sorted((k for k in raw if re.fullmatch(r"session_\d+", k)), key=lambda k: int(k.split("_")[1]))
    for session in sessions:
        # "1:56 pm on 8 May, 2023"; whose clock it was is not said
        at = datetime.strptime(raw[f"{session}_date_time"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for turn in raw[session]:
            photo = f" [shares a photo: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
            if text := (turn["text"] + photo).strip():
                yield Turn(_plain(turn["dia_id"]), session, turn["speaker"], text, at)


def _ids(evidence: Sequence[str]) -> set[str]:
    return {f"D{int(a)}:{int(b)}" for text in evidence for a, b in _EVIDENCE.findall(text)}


def _plain(id: str) -> str:
    return next(iter(_ids([id])), id)


def _ask(conversation: Conversation, embed: EmbeddingOnce, args: argparse.Namespace) -> Iterator[Answer]:
    progress(f"{conversation.name}: {len(conversation.turns)} turns, {len(conversation.questions)} questions")
    with tempfile.TemporaryDirectory(prefix="memos-bench-") as folder:
        with MemOS(Path(folder) / "store", embed=embed) as memory:
            _tell(memory, conversation.turns)
            yield from _asked("memos", conversation, lambda q, k: _found(memory, q, k), args.k)
        if not args.skip_baselines:
            for name, rank in _baselines(conversation.turns, embed, folder).items():
                yield from _asked(name, conversation, rank, args.k)


def _tell(memory: MemOS, turns: Sequence[Turn]) -> None:
    for session in dict.fromkeys(t.session for t in turns):
        memory.add(
            [
                {"role": "user", "name": t.speaker, "content": t.text, "id": t.id, "timestamp": t.at}
                for t in turns
                if t.session == session
            ],
            session=session,
        )


def _found(memory: MemOS, question: str, k: int) -> list[str]:
    return [hit.cube.origin.message_id or "" for hit in memory.search(question, k=k)]


def _asked(system: str, conversation: Conversation, recall: Recaller, ks: Sequence[int]) -> Iterator[Answer]:
    for question in conversation.questions:
        found = recall(question.text, max(ks))
        shares = {k: len(question.evidence.intersection(found[:k])) / len(question.evidence) for k in ks}
        yield Answer(system, question.category, shares)


def _baselines(turns: Sequence[Turn], embed: EmbeddingOnce, folder: str) -> dict[str, Recaller]:
    texts = [spoken(t.speaker, t.text) for t in turns]  # what the engine embeds

    def recaller(rank: baselines.Ranking) -> Recaller:
        return lambda question, k: [turns[row].id for row in rank(question, embed([question])[0], k)]

    return {name: recaller(rank) for name, rank in baselines.rankings(f"{folder}/raw", texts, embed(texts)).items()}


def _results(conversations: Sequence[Conversation], answers: Sequence[Answer], ks: Sequence[int]) -> dict[str, Any]:
    def recall(of: Sequence[Answer]) -> dict[str, float]:
        return {str(k): round(float(np.mean([a.recall[k] for a in of])), 4) for k in ks}

    systems: dict[str, Any] = {}
    for system in dict.fromkeys(a.system for a in answers):
        mine = [a for a in answers if a.system == system]
        by_category = {
            name: {"questions": len(some), **recall(some)}
            for number, name in CATEGORIES.items()
            if (some := [a for a in mine if a.category == number])
        }
        systems[system] = {"recall": recall(mine), "by_category": by_category}
    return {
        "conversations": [c.name for c in conversations],
        "turns": sum(len(c.turns) for c in conversations),
        "questions": sum(len(c.questions) for c in conversations),
        "questions_without_usable_evidence": sum(c.unusable for c in conversations),
        "recall_at": systems,
    }


def _show(results: Mapping[str, Any], ks: Sequence[int]) -> None:
    print(
        f"{len(results['conversations'])} conversations, {results['turns']:,} turns, {results['questions']} questions"
        f" ({results['questions_without_usable_evidence']} left out: no usable evidence). Recall of evidence turns at k:\n"
    )
    head = ("", "questions", *(f"@{k}" for k in ks))
    systems = results["recall_at"].items()
    rows = [(name, str(results["questions"]), *(f"{s['recall'][str(k)]:.3f}" for k in ks)) for name, s in systems]
    print(table(head, rows))
    for category in CATEGORIES.values():
        rows = [
            (name, str(c["questions"]), *(f"{c[str(k)]:.3f}" for k in ks))
            for name, s in systems
            if (c := s["by_category"].get(category))
        ]
        if rows:
            print("\n" + table((category, *head[1:]), rows))
    reached = results["recall_at"]["memos"]["recall"]
    for k, wanted in _TARGETS.items():
        if k in ks:
            print(
                f"\ntarget on the development half: recall at {k} ≥ {wanted:.2f}: {'yes' if reached[str(k)] >= wanted else 'NO'}",
                end="",
            )
    print()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
