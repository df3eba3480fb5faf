"""Memories of many users that nobody said: for measuring time, where what is said does not matter but its shape does.

Words follow Zipf's law over made-up words; vectors are clustered as embeddings are: 400 clusters in a latent space of 64
dimensions, embedded in 384, with noise. Turns of one session share a few clusters. The same seed makes the same data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np

from . import Vectors

WIDTH, LATENT, CLUSTERS = 384, 64, 400
_VOCABULARY, _WORDS = 30_000, 25
_SPEAKERS = ("Ada", "Bo")
_START = datetime(2024, 1, 1, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Memories:
    """N texts with unit vectors (N, 384), each of one user and one session of that user."""

    texts: list[str]
    vectors: Vectors
    users: list[str]
    sessions: list[str]
    turns: int  # of a session

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """The rows of each user."""
        found: dict[str, list[int]] = {}
        for row, user in enumerate(self.users):
            found.setdefault(user, []).append(row)
        return found

    def conversations(self) -> Iterator[range]:
        """The rows of each session, in order."""
        start = 0
        for row in range(1, len(self) + 1):
            if row == len(self) or (self.users[row], self.sessions[row]) != (self.users[start], self.sessions[start]):
                yield range(start, row)
                start = row

    def message(self, row: int) -> dict[str, object]:
        """A turn as a caller hands it in."""
        turn = row % self.turns
        return {
            "role": "user" if turn % 2 == 0 else "assistant",
            "name": _SPEAKERS[turn % 2],
            "content": self.texts[row],
            "timestamp": _START + timedelta(hours=row // self.turns, minutes=turn),
        }


class Lookup:
    """An embedder that costs nothing: vectors made before, by text. What it does not know gets a vector of its own."""

    dimension = WIDTH
    fingerprint = "bench-lookup"

    def __init__(self) -> None:
        self._vectors: dict[str, Vectors] = {}

    def learn(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Know these from now on."""
        self._vectors.update(zip(texts, vectors, strict=True))

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Vectors of shape [len(texts), 384]. A text may come with its speaker before it, as the engine embeds it."""
        found: Vectors = np.stack([self._find(t) for t in texts])
        return found

    def _find(self, text: str) -> Vectors:
        for known in (text, text.partition(": ")[2]):
            if known in self._vectors:
                return self._vectors[known]
        made: Vectors = _unit(np.random.default_rng(list(text.encode())).normal(size=WIDTH))
        return made


class World:
    """Where memories and questions of one seed come from."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._words = _vocabulary(self._rng)
        self._rarity = np.cumsum(1 / (np.arange(_VOCABULARY) + 2.7) ** 1.07)  # Zipf-Mandelbrot, as English
        self._rarity /= self._rarity[-1]
        self._centres = self._rng.normal(size=(CLUSTERS, LATENT))
        self._out = self._rng.normal(size=(LATENT, WIDTH)) / np.sqrt(WIDTH)
        self._made = 0

    def memories(self, count: int, users: Sequence[str], turns: int) -> Memories:
        """`count` memories, the same number for each user, in sessions of so many turns."""
        each = count // len(users)
        owners = [u for u in users for _ in range(each)]
        sessions = [f"session {row % each // turns}" for row in range(len(owners))]
        topics = self._rng.integers(CLUSTERS, size=(len(owners) // turns + 1, 3))
        picked = self._rng.integers(3, size=len(owners))
        clusters = topics[np.arange(len(owners)) // turns, picked]
        return Memories(self._texts(len(owners)), self._near(self._centres[clusters]), owners, sessions, turns)

    def draw(self, below: int, count: int) -> list[int]:
        """`count` whole numbers below one."""
        return [int(i) for i in self._rng.integers(below, size=count)]

    def questions(self, about: Memories, rows: Sequence[int]) -> tuple[list[str], Vectors]:
        """A question for each of some memories: three of its words and three others, its vector and noise."""
        noise = _unit(self._rng.normal(size=(len(rows), WIDTH)))
        vectors = _unit(about.vectors[list(rows)] + 0.5 * noise)
        texts = []
        for row in rows:
            words = about.texts[row].rstrip(".").lower().split()
            own = self._rng.choice(words, 3, replace=False)
            texts.append(" ".join(["What about", *own, *self._draw(3)]) + "?")
        return texts, vectors

    def _texts(self, count: int) -> list[str]:
        lengths = np.maximum(self._rng.poisson(_WORDS, count), 4)
        words = iter(self._draw(int(lengths.sum())))
        texts = []
        for length in lengths:
            # its number keeps every text unlike the others
            self._made += 1
            texts.append(" ".join([*(next(words) for _ in range(length - 1)), f"n{self._made}"]).capitalize() + ".")
        return texts

    def _draw(self, count: int) -> list[str]:
        found = np.searchsorted(self._rarity, self._rng.random(count))
        return [self._words[i] for i in np.minimum(found, _VOCABULARY - 1)]

    def _near(self, centres: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Vectors:
        made = np.empty((len(centres), WIDTH), np.float32)
        for start in range(0, len(centres), 10_000):
            some = centres[start : start + 10_000]
            latent = some + 0.5 * self._rng.normal(size=some.shape)
            noise = self._rng.normal(size=(len(some), WIDTH)) * 0.3 * np.sqrt(LATENT / WIDTH)
            made[start : start + len(some)] = _unit(latent @ self._out + noise)
        return made


def _unit(vectors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def _vocabulary(rng: np.random.Generator) -> list[str]:
    """Made-up words, short ones first, as the common ones are."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        size = 1 + len(words) ** 0.3 / 5
        count = int(np.clip(round(rng.normal(size, 0.5)), 1, 6))
        words["".join(rng.choice(syllables, count)) + rng.choice(["", "n", "s", "t", "r"])] = None
    return list(words)
