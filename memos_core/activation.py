"""Keys and values on disk against the model that made them: what to load of a prompt, and what to run instead.

Knows blobs and their format, and the model's tokens; knows no memories. Loading is not always cheaper than running: the two rates are
measured as they occur, and of the blocks that match a prompt those are loaded that come sooner than they could be run (the split of
Cake, arXiv 2410.03065: the front is run while the back is loaded).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from . import chain, tensors
from .blobs import Blobs
from .errors import ContextTooLong, ModelMismatch
from .fingerprint import difference
from .model import LocalModel
from .prompt import Prompt
from .shelf import Opening

_WEIGHT = 0.3  # of the newest measurement in a rate's running mean


class Rate:
    """Something per second, as a running mean of what was measured; None until something was."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._lock = threading.Lock()

    def note(self, amount: float, seconds: float) -> None:
        """Take in one measurement."""
        if amount > 0 and seconds > 0:
            with self._lock:
                now = amount / seconds
                self.value = now if self.value is None else (1 - _WEIGHT) * self.value + _WEIGHT * now


def plan(tokens: list[int], sizes: list[int], run_rate: float | None, load_rate: float | None) -> int:
    """How many of the first blocks to run while the others are loaded, so that both are done soonest.

    tokens, sizes: of each block, in order. Rates are tokens and bytes per second; while one is unknown, all is loaded, which measures it.
    """
    if run_rate is None or load_rate is None:
        return 0
    run, load = 0.0, sum(sizes) / load_rate
    best, soonest = 0, load
    for i, (count, size) in enumerate(zip(tokens, sizes, strict=True), 1):
        run += count / run_rate
        load -= size / load_rate
        if max(run, load) < soonest:
            best, soonest = i, max(run, load)
    return best


class Opener:
    """Opens blobs for one model. Safe for many threads."""

    def __init__(self, model: LocalModel, blobs: Blobs) -> None:
        self._model = model
        self._blobs = blobs
        self._thread = ThreadPoolExecutor(1, "memos-load")
        self.loading = Rate()
        self.running = Rate()

    def close(self) -> None:
        """Finish what is under way."""
        self._thread.shutdown()

    def manifest(self, name: str) -> tensors.Manifest:
        """A blob's manifest, if the blob is for this model. Raises Damaged, ModelMismatch, ContextTooLong."""
        found = tensors.manifest_of(self._blobs, name)
        if found.model != self._model.fingerprint:
            raise ModelMismatch(
                f"{self._blobs.path(name)} was made for another model ({difference(found.model, self._model.fingerprint)})"
            )
        if len(found.ids) >= self._model.window:
            raise ContextTooLong(
                f"{self._blobs.path(name)}: {len(found.ids)} tokens do not fit the window of {self._model.window}"
            )
        return found

    def whole(self, name: str) -> tuple[tuple[int, ...], torch.Tensor]:
        """All of a blob: its token ids, and one tensor of [2, layers, heads, tokens, dimension]."""
        found = self.manifest(name)
        blocks = [tensors.block(self._blobs, name, found, n) for n in range(len(found.parts))]
        return found.ids, torch.cat(blocks, dim=-2)

    def parts(self, name: str) -> list[tuple[tuple[int, ...], torch.Tensor]]:
        """The blocks of a blob, in order: the ids of each, and a tensor of [2, layers, heads, tokens, dimension]."""
        found, began = self.manifest(name), time.perf_counter()
        blocks = [(part.ids, tensors.block(self._blobs, name, found, n)) for n, part in enumerate(found.parts)]
        self.loading.note(sum(part.bytes for part in found.parts), time.perf_counter() - began)
        return blocks

    def opening(self, name: str) -> Callable[[Prompt, int], Opening | None]:
        """What of a blob follows the tokens of a prompt that are held already: for `LocalModel.stream(opened=...)`. The blob
        is read, and checked, when it is called. Raises as `manifest` does."""
        found = self.manifest(name)

        def opened(asked: Prompt, held: int) -> Opening | None:
            return self._opening(name, found, asked, held)

        return opened

    def _opening(self, name: str, found: tensors.Manifest, asked: Prompt, held: int) -> Opening | None:
        same = min(chain.common(found.ids, asked.ids), len(asked.ids) - 1)
        if same <= held:
            return None
        wanted, at = [], 0
        for number, part in enumerate(found.parts):
            start, end = max(at, held), min(at + len(part.ids), same)
            if start < end:
                wanted.append((number, start - at, end - at))
            at += len(part.ids)
        counts = [end - start for _, start, end in wanted]
        front = plan(counts, [found.parts[n].bytes for n, _, _ in wanted], self.running.value, self.loading.value)
        if front == len(wanted):
            return None
        coming = self._thread.submit(self._load, name, found, wanted[front:])
        return Opening(sum(counts[:front]), coming.result)

    def _load(self, name: str, found: tensors.Manifest, wanted: list[tuple[int, int, int]]) -> list[torch.Tensor]:
        began = time.perf_counter()
        blocks = [tensors.block(self._blobs, name, found, n)[..., start:end, :] for n, start, end in wanted]
        self.loading.note(sum(found.parts[n].bytes for n, _, _ in wanted), time.perf_counter() - began)
        return blocks
