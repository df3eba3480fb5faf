"""What one step of a distillation practises, and how far the student is from what it should be. Knows exercises and a twin in training.

Beside what is to be said, an adapter is asked to be *silent* where it knows nothing: on questions that nobody answered, on those that
have nothing to do with it, and between questions, every layer is to make of the tokens what it makes of them without the adapter. What
the distributions say there is not enough. The plain model is sure of "unknown", so an adapter could do much inside of it before a
divergence notices; a word further on, it comes out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import between
from .curriculum import Curriculum
from .exercises import Exercise, batches, divergences, tabled, through
from .parametric import Twin
from .wording import loosened

_LEAD, _TAUGHT_LEAD, _LEAD_WEIGHT = 5.0, 3.0, 0.5  # nats; see `_short`
_LOOSE = 0.3  # of the questions, with words of their form left out


@dataclass(frozen=True, slots=True)
class Weights:
    """Of what a step practises: how many rows of each kind, and what their loss counts beside the taught ones'. `silence` is the weight
    of what layers make of strangers, beside that of what is said of them."""

    taught: int
    unknown: int
    kept: int
    plain: int
    between: int
    unknown_weight: float
    kept_weight: float
    plain_weight: float
    between_weight: float
    silence: float


@dataclass(frozen=True, slots=True, eq=False)
class Practice:
    """A twin, the name of the adapter in it that is trained, and what it is trained on."""

    twin: Twin
    name: str
    lessons: Curriculum
    pairs: between.Pairs

    def gradients(self, weights: Weights, rng: random.Random, device: torch.device) -> float:
        """Add a step's gradients to the adapter's weights. The loss; if it is no number, they are not whole."""
        total = 0.0
        lessons, silence = self.lessons, weights.silence
        for kind, count, weight, lead, silent in (
            (lessons.taught, weights.taught, 1.0, _TAUGHT_LEAD, 0.0),
            (lessons.unknown, weights.unknown, weights.unknown_weight, _LEAD, silence),
            (lessons.kept, weights.kept, weights.kept_weight, _TAUGHT_LEAD, 0.0),
            (lessons.plain, weights.plain, weights.plain_weight, 0.0, silence / 2),
        ):
            drawn = rng.sample(kind, min(count, len(kind)))
            if lessons.form:
                drawn = [loosened(e, lessons.form, rng) if e.alone and rng.random() < _LOOSE else e for e in drawn]
            places = sum(len(e.at) for e in drawn)
            for some in batches(drawn, lambda e: len(e.ids)):
                strayed, moved = self._strayed(some, lead, bool(silent), device)
                loss = strayed.sum() / places
                if moved is not None:
                    loss = loss + silent * moved * len(some) / len(drawn)
                total += _backward(weight * loss)
        if weights.between and self.pairs.prompts:
            total += _backward(weights.between_weight * self._between(weights.between, silence, rng, device))
        return total

    # --- below -----------------------------------------------------------------------------------------------------------

    def _strayed(
        self, some: Sequence[Exercise], lead: float, silent: bool, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """By place how far the student is from what should be said; and how far its layers are from the plain model's."""
        table, places = tabled([e.ids for e in some], device), [e.at for e in some]
        before: list[torch.Tensor] = []
        if silent:
            with torch.no_grad():
                before = through(self.twin.network, table, places)[1]
        with self.twin.active([self.name]) as network:
            logits, after = through(network, table, places, layers=silent)
        likely = torch.cat([e.likely for e in some]).to(device)
        logs = torch.cat([e.logs for e in some]).to(device)
        return _apart(likely, logs, logits, lead), _moved(before, after) if silent else None

    def _between(self, rows: int, silence: float, rng: random.Random, device: torch.device) -> torch.Tensor:
        """The mean divergence from the plain model between questions, and how far the layers are from its."""
        network = self.twin.network
        batch = between.drawn(self.pairs, rows, rng, network.get_input_embeddings(), device)
        likely, logs, before = between.as_before(batch, network)
        with self.twin.active([self.name]):
            logits, after = through(network, {"inputs_embeds": batch.embedded}, batch.places)
        return _apart(likely, logs, logits, _LEAD).mean() + 0.7 * silence * _moved(before, after)


def _backward(loss: torch.Tensor) -> float:
    """The loss; if it is a number, with its gradients."""
    if math.isfinite(value := float(loss.detach())):
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    return value


def _apart(likely: torch.Tensor, logs: torch.Tensor, logits: torch.Tensor, lead: float) -> torch.Tensor:
    found = divergences(likely, logs, logits)
    return found + _LEAD_WEIGHT * _short(likely, logs, logits, lead) if lead else found


def _short(likely: torch.Tensor, logs: torch.Tensor, logits: torch.Tensor, enough: float) -> torch.Tensor:
    """By how many nats the teacher's choice leads all others less than with the teacher, of which some are enough. A divergence is next
    to nothing as soon as an answer is right by a hair; the questions beside those that are practised then come out wrong."""
    first = likely[:, :1]
    others = logits.scatter(-1, first, -math.inf).amax(-1)
    lead = logits.gather(-1, first)[:, 0] - others
    return ((logs[:, 0] - logs[:, 1]).clamp(max=enough) - lead).clamp(min=0)


def _moved(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> torch.Tensor:
    """How far layers' outputs are from what they were, squared and relative to their size: the mean over tokens and layers."""
    found = [((b - a).square().sum(-1) / a.square().sum(-1)).mean() for a, b in zip(before, after, strict=True)]
    return torch.stack(found).mean()
