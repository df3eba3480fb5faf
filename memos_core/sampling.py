"""Drawing tokens from logits, one row of a batch each: when to stop, and the text so far. Knows transformers' processors."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .constraint import Constraint
from .errors import ModelTimeout
from .prompt import Prompt
from .toolcalls import THINK
from .types import Decoding


class Sampler:
    """Draws the tokens of one answer.

    `ids` holds those drawn (a token that ends the answer among them), `text` what they say (without it, and without a stop string),
    `finish` why it ended: "stop", "length", or "" as long as it did not.

    Args:
        model: a `LocalModel`.
        prompt: what stands before the answer.
        began: when it was asked, by `time.perf_counter`.
        row: of a batch; each draws by chances of its own.
        constraint: what the answer is held to.
    """

    def __init__(
        self,
        model: Any,
        decoding: Decoding,
        prompt: Prompt,
        began: float,
        *,
        row: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.finish = ""
        self._tokenizer = model.tokenizer
        self._decoding = decoding
        self._began = began
        self._prompt = list(prompt.ids)
        began_to_think = constraint is None and prompt.text.rstrip().endswith(THINK)
        self._opening = THINK if began_to_think else ""  # the template wrote it, and its end will be drawn
        self._ends = ends(model.tokenizer, model.network.generation_config)
        self._constraint = constraint
        self._processors = _processors(decoding, model.device)
        self._chance = torch.Generator(device="cpu")
        self._chance.manual_seed(decoding.seed + row if decoding.seed is not None else self._chance.seed())
        self._shown = 0  # characters handed out
        self._hold = max((len(s) for s in decoding.stop), default=1) - 1

    def draw(self, logits: torch.Tensor) -> tuple[int, bool]:
        """The next token from logits of shape [1, vocabulary], and whether the answer ends with it. Raises ModelTimeout if it was
        to be there by now."""
        taken = time.perf_counter() - self._began
        if self._decoding.timeout is not None and taken > self._decoding.timeout:
            raise ModelTimeout(f"after {taken:.1f} s there were {len(self.ids)} tokens and no end")
        if self._constraint is not None:  # first: else the likeliest may all be forbidden
            logits = self._constraint.masked(logits)
        if self._processors:
            so_far = torch.tensor([[*self._prompt, *self.ids]], device=logits.device)
            logits = self._processors(so_far, logits)
        if self._decoding.temperature == 0:
            id = int(logits.argmax(-1))
        else:  # on the host: the same seed draws the same on every device
            id = int(torch.multinomial(torch.softmax(logits.cpu(), -1), 1, generator=self._chance))
        self.ids.append(id)
        if id in self._ends:
            self.finish = "stop"
        else:
            self._decode()
            if self._constraint is not None:
                self._constraint.take(id)
                self.finish = self.finish or ("stop" if self._constraint.done else "")
        if not self.finish and len(self.ids) >= self._decoding.max_tokens:
            self.finish = "length"
        return id, bool(self.finish)

    def piece(self) -> str:
        """The text since the last call, as far as it can no longer become part of a stop string."""
        until = len(self.text) if self.finish else max(self._shown, len(self.text) - self._hold)
        if not self.finish and self.text.endswith("\ufffd"):  # half a character
            until = min(until, len(self.text.rstrip("\ufffd")))
        found, self._shown = self.text[self._shown : until], max(self._shown, until)
        return found

    def _decode(self) -> None:
        self.text = self._opening + self._tokenizer.decode(self.ids, skip_special_tokens=True)
        for stop in self._decoding.stop:
            at = self.text.find(stop)
            if at >= 0:
                self.text, self.finish = self.text[:at], "stop"


def ends(tokenizer: Any, settings: Any) -> frozenset[int]:
    """Tokens that end an answer: the model's own, and the tokenizer's."""
    named = getattr(settings, "eos_token_id", None)
    several = named if isinstance(named, list | tuple) else [named]
    return frozenset(i for i in (*several, tokenizer.eos_token_id) if i is not None)


def _processors(decoding: Decoding, device: torch.device) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.temperature not in (0, 1):
        found.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        found.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1.0:
        found.append(TopPLogitsWarper(decoding.top_p))
    return found
