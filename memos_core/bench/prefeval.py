"""Whether the preference that a question is about is recalled: PrefEval's explicit preferences (Zhao et al. 2025).

Preferences are stored as stand-alone notes of one store, a namespace a topic, through the public verbs with their defaults:
the same code and the same settings as `locomo`. A question counts if its preference is among the first k, of all topics
pooled, or of its own. Words mislead here: question and preference share few.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..embed import LocalEmbedder
from ..memos import MemOS
from . import EmbeddingOnce, arguments, baselines, progress, report, table

KS = (1, 5, 10)
POOLED = "all topics pooled"

Recaller = Callable[[str, int], Sequence[str]]  # a question and k, to preferences, best first


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference, and a question that should bring it to mind."""

    topic: str
    preference: str
    question: str


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    pairs = [
        Pair(file.stem, p["preference"], p["question"])
        for file in sorted(args.data.glob("*.json"))
        for p in json.loads(file.read_text())
    ]
    if not pairs:
        print(f"prefeval: no JSON files in {args.data}", file=sys.stderr)
        return 2
    results = _measure(pairs, EmbeddingOnce(LocalEmbedder()))
    _show(results)
    report("prefeval", args, results)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("prefeval", (__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="PrefEval's JSON files, one a topic")
    return parser.parse_args(argv)


def _measure(pairs: Sequence[Pair], embed: EmbeddingOnce) -> dict[str, Any]:
    topics = {topic: [p for p in pairs if p.topic == topic] for topic in dict.fromkeys(p.topic for p in pairs)}
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="memos-bench-"))
        memory = stack.enter_context(MemOS(Path(folder) / "store", embed=embed))
        for topic, some in topics.items():
            memory.add([p.preference for p in some], namespace=("preferences", topic))
        for scope, some in ({POOLED: list(pairs)} | topics).items():
            progress(f"{scope}: {len(some)} questions")
            below = ("preferences",) if scope == POOLED else ("preferences", scope)
            recallers = {"memos": _engine(memory, below)} | _baselines(some, embed, f"{folder}/{scope}")
            found[scope] = {"questions": len(some)} | {n: _share(some, r) for n, r in recallers.items()}
    per_topic = [scope for scope in found if scope != POOLED]
    systems = [name for name in found[POOLED] if name != "questions"]
    found["mean over topics"] = {"questions": len(pairs)} | {
        s: {k: round(float(np.mean([found[t][s][k] for t in per_topic])), 4) for k in map(str, KS)} for s in systems
    }
    return {"preferences": len(pairs), "share_among_first": found}


def _engine(memory: MemOS, namespace: tuple[str, ...]) -> Recaller:
    return lambda question, k: [hit.cube.text for hit in memory.search(question, namespace=namespace, k=k)]


def _baselines(pairs: Sequence[Pair], embed: EmbeddingOnce, folder: str) -> dict[str, Recaller]:
    texts = [p.preference for p in pairs]

    def recaller(rank: baselines.Ranking) -> Recaller:
        return lambda question, k: [texts[row] for row in rank(question, embed([question])[0], k)]

    return {name: recaller(rank) for name, rank in baselines.rankings(folder, texts, embed(texts)).items()}


def _share(pairs: Sequence[Pair], recall: Recaller) -> dict[str, float]:
    """In which share of the questions the preference is among the first k, by k."""
    found = [(p.preference, recall(p.question, max(KS))) for p in pairs]
    return {str(k): round(float(np.mean([wanted in hits[:k] for wanted, hits in found])), 4) for k in KS}


def _show(results: Mapping[str, Any]) -> None:
    scopes = results["share_among_first"]
    systems = [name for name in scopes[POOLED] if name != "questions"]
    print(f"{results['preferences']} preferences. Share of questions whose preference is among the first k:\n")
    for scope in (POOLED, "mean over topics"):
        rows = [(s, *(f"{scopes[scope][s][str(k)]:.3f}" for k in KS)) for s in systems]
        print(table((scope, *(f"@{k}" for k in KS)), rows) + "\n")
    rows = [
        (scope, str(s["questions"]), *(f"{s[name]['5']:.3f}" for name in systems))
        for scope, s in scopes.items()
        if scope not in (POOLED, "mean over topics")
    ]
    print(table(("one topic, @5", "questions", *systems), rows))
    for scope in (POOLED, "mean over topics"):
        ours, theirs = scopes[scope]["memos"]["5"], scopes[scope]["exact dense"]["5"]
        print(
            f"target, {scope}: not below dense alone at 5: {'yes' if ours >= theirs else 'NO'} ({ours - theirs:+.3f})"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
