"""What `bench distil` found beside what is to be reached: as tables, and drawn."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import table

Row = dict[str, float]
CONTROLS = (
    "no replay",
    "no negatives",
    "nothing crossed",
    "nothing between",
    "no silence",
    "no noise",
    "no words left out",
    "one phrasing",
)
FUSED = 4
TARGETS: dict[tuple[str, str], tuple[str, float]] = {
    ("20 facts", "recall"): (">=", 0.95),
    ("20 facts", "in context lost"): ("<=", 0.02),
    ("20 facts", "context overruled"): ("<=", 0.03),
    ("20 facts", "unknown, other name"): (">=", 0.95),
    ("20 facts", "unknown, other attribute"): (">=", 0.95),
    ("20 facts", "unknown in context"): (">=", 0.95),
    ("20 facts", "seconds"): ("<=", 60.0),
    ("20 facts", "off again, differing logits"): ("<=", 0.0),
    ("20 facts", "switch, ms"): ("<=", 1.0),
    ("100 facts", "recall"): (">=", 0.90),
    ("cat of 4", "of separate recall"): (">=", 0.90),
    ("redistilled of 4", "of separate recall"): (">=", 0.95),
    ("elicited", "precision"): (">=", 0.98),
    ("elicited", "recall"): (">=", 0.95),
}
"""By row and figure, what is to be reached."""


def _gathered(done: Mapping[str, Mapping[str, Row]]) -> dict[str, dict[str, list[float]]]:
    """Values of all seeds by row and figure."""
    found: dict[str, dict[str, list[float]]] = {}
    for rows in done.values():
        for name, row in rows.items():
            for figure, value in row.items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    return found


def reached(done: Mapping[str, Mapping[str, Row]]) -> list[dict[str, Any]]:
    """Each figure that has a target: its mean and spread over seeds, and whether it is met."""
    found = []
    gathered = _gathered(done)
    for (row, figure), (sign, wanted) in TARGETS.items():
        if values := gathered.get(row, {}).get(figure):
            mean = statistics.fmean(values)
            met = mean >= wanted if sign == ">=" else mean <= wanted
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found.append(
                {
                    "row": row,
                    "figure": figure,
                    "mean": mean,
                    "spread": spread,
                    "wanted": f"{sign} {wanted:g}",
                    "met": met,
                }
            )
    return found


def show(done: Mapping[str, Mapping[str, Row]]) -> None:
    """Print all rows, and what is to be reached."""
    gathered = _gathered(done)
    for name, row in gathered.items():
        print(f"\n{name} ({len(next(iter(row.values())))} seeds)")
        rows = [(f, f"{statistics.fmean(v):.3f}", f"{min(v):.3f}", f"{max(v):.3f}") for f, v in row.items()]
        print(table(("figure", "mean", "least", "most"), rows))
    print()
    targets = reached(done)
    print(table(("to reach", "wanted", "mean", "spread", "met"),
                [(f"{t['row']}: {t['figure']}", t["wanted"], f"{t['mean']:.3f}", f"{t['spread']:.3f}", "yes" if t["met"] else "NO")
                 for t in targets]))  # fmt: skip


def plot(done: Mapping[str, Mapping[str, Row]], file: Path) -> None:
    """Draw 20 facts beside the controls. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    gathered = _gathered(done)
    rows = [r for r in ("20 facts", *CONTROLS) if r in gathered]
    figures = {
        "recall": "recall", "unknown, other name": "unknown kept:\nother name", "unknown, other attribute": "unknown kept:\nother attribute",
        "unknown in context": "unknown kept:\nin a context", "in context lost": "answers from\ncontexts kept",
        "context overruled": "contradicting\ncontexts win",
    }  # fmt: skip
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    width = 0.8 / max(1, len(rows))
    for i, row in enumerate(rows):
        values = [gathered[row][f] for f in figures]
        turned = [
            [1 - v for v in some] if f.endswith(("lost", "overruled")) else some
            for f, some in zip(figures, values, strict=True)
        ]
        means = [statistics.fmean(some) for some in turned]
        reach = [
            [m - min(s) for m, s in zip(means, turned, strict=True)],
            [max(s) - m for m, s in zip(means, turned, strict=True)],
        ]
        axes.bar([j + i * width for j in range(len(figures))], means, width, yerr=reach, capsize=2, label=row)
    axes.set_xticks([j + 0.4 - width / 2 for j in range(len(figures))], list(figures.values()), fontsize=8)
    axes.axhline(0.95, color="grey", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share")
    axes.set_title(
        "20 facts in an adapter: with all precautions, and without one of them (bars: mean, least and most of the seeds)",
        fontsize=10,
    )
    figure.legend(fontsize=8, ncols=5, loc="outside lower center")
    figure.savefig(file, dpi=150)
