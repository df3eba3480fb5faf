"""One run of the store's bench: its settings, its data, and what it has found so far."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..memos import MemOS
from ..types import Policy
from . import Timing, Vectors
from .synthetic import Lookup, Memories, World

AUDITOR = "auditor"  # may read everybody's memories
SMALL = 1_000  # memories of the store that the large one is compared with
WARM = 10  # calls before those that count


@dataclass
class Target:
    """A number to reach."""

    what: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass
class Questions:
    """What is asked of a store that holds these memories; each is about one of them."""

    memories: Memories
    texts: list[str]
    vectors: Vectors
    rows: list[int]

    def owner(self, i: int) -> str:
        """Whose memory the i-th question is about."""
        return self.memories.users[self.rows[i]]

    def wanted(self, i: int) -> str:
        """The text of that memory."""
        return self.memories.texts[self.rows[i]]


@dataclass
class Run:
    """One run of the bench: what it works on, and what it has found so far."""

    args: argparse.Namespace
    folder: Path
    world: World = field(default_factory=World)
    lookup: Lookup = field(default_factory=Lookup)
    results: dict[str, Any] = field(default_factory=dict)
    searches: list[tuple[str, str, Timing, float | None]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def wants(self, part: str) -> bool:
        """Whether a part is to be measured."""
        return part not in self.args.skip

    def memories(self, count: int, users: Sequence[str]) -> Memories:
        """New ones, with vectors that the embedder knows."""
        made = self.world.memories(count, users, self.args.turns)
        self.lookup.learn(made.texts, made.vectors)
        return made

    def questions(self, about: Memories, users: Sequence[str], count: int) -> Questions:
        """Questions about memories of these users, in turn."""
        picked = self.world.draw(len(about.rows[users[0]]), count)
        rows = [about.rows[users[i % len(users)]][p] for i, p in enumerate(picked)]
        texts, vectors = self.world.questions(about, rows)
        self.lookup.learn(texts, vectors)
        return Questions(about, texts, vectors, rows)

    def store(self, name: str, policy: Policy = Policy()) -> MemOS:
        """A store in the run's folder, made or opened."""
        return MemOS(self.folder / name, embed=self.lookup, policy=policy)

    def leave_out(self, what: str) -> None:
        """Note what could not be measured, and why."""
        self.results.setdefault("left_out", []).append(what)

    def searched(self, system: str, scope: str, seconds: Sequence[float], found: float | None = None) -> Timing:
        """Note how long searches took, and in which share of them the memory asked about was among the first ten."""
        timing = Timing.of(seconds[WARM:] if len(seconds) > 2 * WARM else seconds)
        self.searches.append((system, scope, timing, found))
        self.results.setdefault("search", {}).setdefault(system, {})[scope] = asdict(timing) | {"found": found}
        return timing


def search_once(memory: MemOS, question: str, who: str) -> tuple[float, list[str]]:
    """Search one user's part, or, as the auditor, all: the seconds that it took, and the texts found."""
    start = time.perf_counter()
    hits = memory.search(question, actor=who, namespace=() if who == AUDITOR else (who,))
    return time.perf_counter() - start, [h.cube.text for h in hits]
