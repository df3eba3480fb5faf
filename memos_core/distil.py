"""Distilling memories into an adapter: a student without them in context comes to say what the model says with them.

Each step draws exercises of every kind (`curriculum`) and lowers the divergence of the student's distributions from the teacher's. It
ends when phrasings that are not taught are answered, eight times in a row, and what is unknown is still unknown; or with its budget. What a
step draws follows from the seed and the step's number alone, so a run that was killed goes on from its last checkpoint as if nothing had
happened. The model is not changed, and may be used meanwhile: the student is a twin of its own.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import between
from .curriculum import Curriculum
from .errors import Ineffective, InvalidArgument, OutOfMemory
from .exercises import Probe, batches, followed
from .lora import LoRA, cast, linears, made
from .model import LocalModel
from .parametric import Twin
from .practice import Practice, Weights

_STUDENT = "student"
_ENOUGH = 8  # checks in a row: what is right by a hair gets its lead only while it is practised on
_B_RATE = 4.0  # learning rate of B in units of A's (LoRA+, arXiv 2402.12354)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of a distillation.

    rank: of the adapter; targets: ends of the names of the linear layers that it changes, () for all but the output's.
    steps: at most. rate: the highest learning rate; None takes 0.64 / hidden size (1.6e-4 at 4,096, 5e-3 at 128).
    taught, unknown, kept, plain: exercises of each kind in a step (see `Curriculum`); between: rows between questions (see `between`).
    unknown_weight, kept_weight, plain_weight, between_weight: of their divergences beside the taught ones'. silence: of what the layers
        make of strangers, beside what is said of them (see `practice`; 0: only what is said counts, and no second pass is made).
    check_every: steps between looks at phrasings that are not taught; enough: the share of those right that ends it.
    seconds, bytes: budgets; of time for training, and of the adapter. None: no limit.
    seed: of the first weights and of what is drawn.
    """

    rank: int = 32
    targets: tuple[str, ...] = ()
    steps: int = 270
    rate: float | None = None
    taught: int = 32
    unknown: int = 40
    kept: int = 3
    plain: int = 6
    between: int = 24
    unknown_weight: float = 1.0
    kept_weight: float = 3.0
    plain_weight: float = 8.0
    between_weight: float = 0.7
    silence: float = 1.5
    check_every: int = 15
    enough: float = 0.99
    seconds: float | None = None
    bytes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "taught", "check_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgument(f"Recipe.{name}: a whole number from 1 is needed, not {value!r}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise InvalidArgument(f"Recipe.rate: a number above 0 is needed, not {self.rate!r}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a distillation is: steps done of how many, the loss, seconds so far (of runs before a kill too), and the shares of what
    was not taught that come out right at the last look (facts, and questions that stay unknown)."""

    step: int
    steps: int
    loss: float
    seconds: float
    recall: float = 0.0
    unknown: float = 0.0


@dataclass(frozen=True, slots=True)
class Distilled:
    """An adapter, where its training stood in the end, and in words why it ended there."""

    lora: LoRA
    progress: Progress
    why: str


class _Student:
    """The twin in training, its optimiser, and how far it is."""

    def __init__(self, model: LocalModel, lessons: Curriculum, lora: LoRA) -> None:
        self.twin = Twin(model.network)
        self.twin.put(_STUDENT, lora)
        self.twin.hasten(_STUDENT)
        self.weights = [w for pair in self.twin.pairs(_STUDENT).values() for w in pair]
        for weight in self.weights:
            weight.requires_grad_(True)
        groups = [{"params": self.weights[::2], "times": 1.0}, {"params": self.weights[1::2], "times": _B_RATE}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
        self.practice = Practice(self.twin, _STUDENT, lessons, between.pairs(lessons.taught, lessons.unknown))
        self.step = 0
        self.seconds = 0.0
        self.enough = 0
        self.last: Progress | None = None

    def lora(self, model: str) -> LoRA:
        return made(model, {m: (a.detach(), b.detach()) for m, (a, b) in self.twin.pairs(_STUDENT).items()})


def distil(
    model: LocalModel,
    lessons: Curriculum,
    recipe: Recipe = Recipe(),
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Path | None = None,
) -> Distilled:
    """Train an adapter on exercises. Whether it is any good, the gate says.

    progress: called after every step; what it raises abandons the run, and nothing is left but the checkpoint.
    checkpoint: a file that is written at every check, from which the same run goes on after a kill, and which is gone when it is done.

    Raises:
        InvalidArgument: the rank or the targets do not fit the model, or the adapter would be larger than `Recipe.bytes`.
        Ineffective: the loss was no number before anything was learned.
        OutOfMemory: the device has no room for a step.
    """
    first = _first(model, recipe)
    student = _Student(model, lessons, first)
    run = _run_of(model, lessons, recipe)
    if checkpoint is not None:
        _resume(student, checkpoint, run)
    good, why = student.lora(model.fingerprint), _over(student, recipe)
    rate = recipe.rate if recipe.rate is not None else 0.64 / model.network.config.get_text_config().hidden_size
    try:
        while not why:
            began = time.perf_counter()
            loss = _step(student, recipe, rate, model.device)
            if not math.isfinite(loss):
                if student.step < recipe.check_every:
                    raise Ineffective(
                        f"{model.name}: the loss was {loss} at step {student.step + 1}, before anything was learned"
                    )
                if checkpoint is not None:
                    checkpoint.unlink(missing_ok=True)
                return _done(
                    model,
                    good,
                    student,
                    f"the loss was {loss} at step {student.step + 1}: the weights of the check before it",
                )
            student.step += 1
            recall, unknown = (student.last.recall, student.last.unknown) if student.last else (0.0, 0.0)
            looked = student.step % recipe.check_every == 0 or student.step == recipe.steps
            if looked:
                recall, unknown = _look(student, lessons.watched, model.device)
            student.seconds += time.perf_counter() - began
            student.last = Progress(student.step, recipe.steps, loss, student.seconds, recall, unknown)
            if looked:
                good = student.lora(model.fingerprint)
                student.enough = student.enough + 1 if min(recall, unknown) >= recipe.enough else 0
                if checkpoint is not None:
                    _save(student, checkpoint, run)
            why = _over(student, recipe)
            progress(student.last)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{model.name}: {model.device} has no room to train an adapter: {str(error).splitlines()[0]}"
        ) from error
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return _done(model, student.lora(model.fingerprint), student, why)


# --- below ---------------------------------------------------------------------------------------------------------------


def _done(model: LocalModel, lora: LoRA, student: _Student, why: str) -> Distilled:
    assert student.last is not None
    return Distilled(cast(lora, model.dtype), student.last, why)


def _over(student: _Student, recipe: Recipe) -> str:
    if student.enough >= _ENOUGH:
        return "what was not taught comes out right"
    if student.step >= recipe.steps:
        return "its steps are done"
    if recipe.seconds is not None and student.seconds >= recipe.seconds:
        return f"its {recipe.seconds:g} seconds are over"
    return ""


def adapter_bytes(model: LocalModel, recipe: Recipe) -> int:
    """The size of an adapter of this recipe for a model."""
    there = linears(model.network)
    return _size({n: m for n, m in there.items() if not recipe.targets or n.endswith(recipe.targets)}, recipe, model)


def _size(chosen: Mapping[str, torch.nn.Linear], recipe: Recipe, model: LocalModel) -> int:
    return sum(recipe.rank * (m.in_features + m.out_features) for m in chosen.values()) * model.dtype.itemsize


def _first(model: LocalModel, recipe: Recipe) -> LoRA:
    """An adapter that does nothing yet: B is zero."""
    there = linears(model.network)
    chosen = {n: m for n, m in there.items() if not recipe.targets or n.endswith(recipe.targets)}
    if not chosen:
        raise InvalidArgument(f"targets: {model.name} has no linear layer that ends with one of {recipe.targets}")
    least = min(min(m.in_features, m.out_features) for m in chosen.values())
    if recipe.rank > least:
        raise InvalidArgument(f"rank: {recipe.rank} is more than {least}, the smallest side of a layer of {model.name}")
    size = _size(chosen, recipe, model)
    if recipe.bytes is not None and size > recipe.bytes:
        raise InvalidArgument(f"rank: an adapter of rank {recipe.rank} has {size:,} bytes, more than {recipe.bytes:,}")
    draw = torch.Generator().manual_seed(recipe.seed)
    return made(
        model.fingerprint,
        {
            n: (
                (torch.rand(recipe.rank, m.in_features, generator=draw) * 2 - 1) / math.sqrt(m.in_features),
                torch.zeros(m.out_features, recipe.rank),
            )
            for n, m in chosen.items()
        },
    )


def _step(student: _Student, recipe: Recipe, rate: float, device: torch.device) -> float:
    """One step; its loss. If that is no number, nothing is changed."""
    warm = max(1, recipe.steps // 10)
    scale = min((student.step + 1) / warm, (recipe.steps - student.step) / max(1, recipe.steps - warm))
    for group in student.optimizer.param_groups:
        group["lr"] = rate * scale * group["times"]
    student.optimizer.zero_grad(set_to_none=True)
    rng = random.Random(f"{recipe.seed}/{student.step}")
    loss = student.practice.gradients(_weights(recipe), rng, device)
    if math.isfinite(loss):
        torch.nn.utils.clip_grad_norm_(student.weights, 1.0)
        student.optimizer.step()
    return loss


def _weights(recipe: Recipe) -> Weights:
    return Weights(**{f.name: getattr(recipe, f.name) for f in fields(Weights)})


def _look(student: _Student, watched: Sequence[Probe], device: torch.device) -> tuple[float, float]:
    """Shares of the probes that come out right: of recall, and of what stays unknown."""
    with torch.no_grad(), student.twin.active([_STUDENT]) as network:
        found = right(network, watched, device)
    shares = []
    for kind in ("recall", "unknown"):
        some = [ok for ok, p in zip(found, watched, strict=True) if p.kind == kind and p.right]
        shares.append(sum(some) / len(some) if some else 1.0)
    return shares[0], shares[1]


def right(network: Any, probes: Sequence[Probe], device: torch.device) -> list[bool]:
    """For each probe whether every token that is judged is the likeliest one in its place."""
    order = sorted(range(len(probes)), key=lambda i: len(probes[i].ids))
    found = [False] * len(probes)
    at = 0
    for some in batches((probes[i] for i in order), lambda p: len(p.ids)):
        logits = followed(network, [(p.ids, p.judged) for p in some], device)
        likeliest = logits.argmax(-1).tolist()
        for p in some:
            mine, likeliest = likeliest[: len(p.judged)], likeliest[len(p.judged) :]
            found[order[at]] = mine == [p.ids[i + 1] for i in p.judged]
            at += 1
    return found


# --- checkpoints -----------------------------------------------------------------------------------------------------------


def _run_of(model: LocalModel, lessons: Curriculum, recipe: Recipe) -> str:
    """Names a run: what it trains, on what, how. Budgets may change from one try to the next."""
    said = sha256(repr((model.fingerprint, replace(recipe, seconds=None, bytes=None), lessons.form)).encode())
    for e in (*lessons.taught, *lessons.unknown, *lessons.kept, *lessons.plain):
        said.update(repr((e.ids, e.at)).encode())
    return said.hexdigest()


def _save(student: _Student, file: Path, run: str) -> None:
    """Whole or not at all: a kill leaves the checkpoint before."""
    tensors = {}
    for i, weight in enumerate(student.weights):
        tensors[f"{i}.weight"] = weight.detach().cpu().contiguous()
        for name in ("exp_avg", "exp_avg_sq"):
            tensors[f"{i}.{name}"] = student.optimizer.state[weight][name].cpu().contiguous()
    last = student.last
    assert last is not None
    said = {"run": run, "step": student.step, "seconds": student.seconds, "enough": student.enough,
            "last": [last.step, last.steps, last.loss, last.seconds, last.recall, last.unknown]}  # fmt: skip
    new = file.with_suffix(".new")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, new, {"distil": json.dumps(said)})
    new.replace(file)


def _resume(student: _Student, file: Path, run: str) -> None:
    """Go on where a checkpoint of the same run stands; one of another run, or a damaged one, is begun anew."""
    try:
        with safe_open(file, "pt") as found:
            said = json.loads((found.metadata() or {})["distil"])
            if said["run"] != run:
                return
            tensors = {n: found.get_tensor(n) for n in found.keys()}  # noqa: SIM118  # it is no mapping
    except (FileNotFoundError, SafetensorError, OSError, ValueError, KeyError):
        return
    for i, weight in enumerate(student.weights):
        weight.data.copy_(tensors[f"{i}.weight"])
        student.optimizer.state[weight] = {
            "step": torch.tensor(float(said["step"])),
            **{n: tensors[f"{i}.{n}"].to(weight.device) for n in ("exp_avg", "exp_avg_sq")},
        }
    student.step, student.seconds, student.enough = said["step"], said["seconds"], said["enough"]
    student.last = Progress(*said["last"])
