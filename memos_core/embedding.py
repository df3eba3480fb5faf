"""An embedder held to its contract and to its store. Knows vectors; knows no model."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import numpy as np

from .embed import as_embedder
from .errors import EmbedderFailed, EmbedderMismatch, MemOSError
from .manifest import Manifest
from .recall import ASKING
from .tables import Vector
from .types import SCHEMA, Embedder

_PROBE = "The quick brown fox jumps over the lazy dog."
SAME = 0.999  # cosine from which two embeddings of the probe are by the same model: devices differ in the 6th digit


def spoken(speaker: str | None, text: str) -> str:
    """What is embedded for a memory: who speaks is part of what is meant."""
    return text if speaker is None else f"{speaker}: {text}"


class Embedding:
    """Checks every vector, and, where the embedder carries no fingerprint, that it is the one that the store knows."""

    def __init__(self, embed: Embedder | str | os.PathLike[str] | None) -> None:
        self._embed = as_embedder(embed)
        self._fingerprint: str | None = getattr(self._embed, "fingerprint", None)
        self._expected: Manifest | None = None
        self._path = ""
        self._proven = False
        self._asking: Vector | None = None
        self._lock = threading.Lock()

    @property
    def embedder(self) -> Embedder:
        """The callable."""
        return self._embed

    @property
    def name(self) -> str:
        """The embedder in words."""
        return self._fingerprint or str(getattr(self._embed, "__qualname__", type(self._embed).__qualname__))

    def manifest(self) -> Manifest:
        """A new store's manifest. Asks the embedder for its dimension, or embeds the probe to learn it."""
        dimension = getattr(self._embed, "dimension", None)
        if self._fingerprint is not None and isinstance(dimension, int):
            return Manifest(SCHEMA, self._fingerprint, dimension, ())
        probe = self._call([_PROBE])[0]
        if not probe.any():
            raise EmbedderFailed(f"embed: {self.name} made nothing but zeros of a sentence")
        return Manifest(SCHEMA, self._fingerprint, len(probe), tuple(round(float(x), 6) for x in probe))

    def bind(self, manifest: Manifest, path: str) -> None:
        """Hold to a store's embedder from now on. Raises EmbedderMismatch at once where fingerprints tell, or else with
        the first text."""
        self._expected, self._path = manifest, path
        if manifest.embedder is not None and self._fingerprint is not None:
            if manifest.embedder != self._fingerprint:
                raise self._mismatch(f"{self._fingerprint} is not {manifest.embedder}")
            self._proven = True

    def made(self, manifest: Manifest) -> bool:
        """Whether a store's vectors come from this embedder."""
        if manifest.embedder is not None and self._fingerprint is not None:
            return manifest.embedder == self._fingerprint
        if not manifest.probe:
            return False  # the store knows its embedder by a fingerprint, and this one carries none
        probe = self._call([_PROBE])[0]
        known = np.asarray(manifest.probe, np.float32)
        return len(probe) == len(known) and float(unit(known) @ unit(probe)) >= SAME

    def many(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text."""
        if not texts:
            return []
        self._prove()
        return list(self._call(texts))

    def one(self, text: str) -> Vector:
        """The vector of one text."""
        return self.many([text])[0]

    def asking(self) -> Vector:
        """The vectors of `recall.ASKING`: what questions have in common whatever they ask. Embedded once."""
        if self._asking is None:
            self._asking = np.stack(self.many(ASKING))
        return self._asking

    def _prove(self) -> None:
        if self._proven:
            return
        with self._lock:
            assert self._expected is not None
            if not self.made(self._expected):
                raise self._mismatch(
                    "it embeds a known sentence differently"
                    if self._expected.probe
                    else f"it carries no fingerprint, and the store's is {self._expected.embedder}"
                )
            self._proven = True

    def _mismatch(self, why: str) -> EmbedderMismatch:
        return EmbedderMismatch(
            f"{self._path} was written with another embedder than {self.name} ({why}): "
            f"pass that one as embed=, or rebuild the vectors with `memosctl reembed {self._path}`"
        )

    def _call(self, texts: Sequence[str]) -> Vector:
        try:
            found = np.asarray(self._embed(list(texts)), dtype=np.float32)
        except MemOSError:
            raise
        except Exception as error:  # the embedder is the caller's code: whatever it raises is named as its failure
            raise EmbedderFailed(
                f"embed: {self.name} failed on {len(texts)} texts: {type(error).__name__}: {error}"
            ) from error
        if found.ndim != 2 or len(found) != len(texts) or found.shape[1] == 0:
            raise EmbedderFailed(f"embed: {self.name} made {found.shape} of {len(texts)} texts, not one vector each")
        if self._expected is not None and self._proven and found.shape[1] != self._expected.dimension:
            raise EmbedderFailed(
                f"embed: {self.name} made vectors of {found.shape[1]} numbers, the store has {self._expected.dimension}"
            )
        if not np.isfinite(found).all():
            raise EmbedderFailed(f"embed: {self.name} returned numbers that are not finite")
        return found


def unit(vector: Vector) -> Vector:
    """The vector at length 1; zeros stay zeros."""
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector
