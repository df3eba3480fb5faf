"""A small deterministic embedder: hashed words, so that texts which share words are near. No model, no download."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

DIMENSION = 64
_WORDS = re.compile(r"\w+")


class WordsEmbedder:
    """Each word adds one to one of `dimension` places; the vector has length 1 (a text without words has a place too)."""

    def __init__(self, dimension: int = DIMENSION, *, salt: str = "", fingerprint: str | None = "words") -> None:
        self.dimension = dimension
        self.calls = 0
        self.texts = 0
        self._salt = salt
        if fingerprint is not None:
            self.fingerprint = f"{fingerprint}:{dimension}:{salt}"

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        self.calls += 1
        self.texts += len(texts)
        found = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in _WORDS.findall(text[:5_000].casefold()) or [""]:
                found[row, zlib.crc32((self._salt + word).encode("utf-8", "replace")) % self.dimension] += 1.0
        return found / np.linalg.norm(found, axis=1, keepdims=True)
