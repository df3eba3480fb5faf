"""Distilling memories into an adapter: a student without them in context comes to say what the model says with them.

The student is the model with some units of its last feed-forward block trained (`units`), so that a step costs little and what comes of it
is an exact LoRA. Each step draws exercises of every kind (`curriculum`) and lowers the divergence of the student's distributions from the
teacher's (`practice`). It ends with its steps or with its budget. What a step draws follows from the seed and the step's number alone, so
a run that was killed goes on from its last checkpoint as if nothing had happened. The model is not changed, and may be used meanwhile.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import alteration
from .curriculum import Curriculum
from .errors import Ineffective, InvalidArgument, OutOfMemory
from .lora import LoRA, cast
from .model import LocalModel
from .practice import Practice, practice
from .recipe import Recipe
from .units import Block, Shape, shape

_LEAST, _EACH = 32, 4  # units: at least, and for each thing that is taught


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
    """The units in training, their optimiser, and how far they are."""

    def __init__(
        self, block: Block, units: Sequence[int], lessons: Curriculum, seed: int, device: torch.device
    ) -> None:
        self.block = block
        self.part = block.part(units)
        self.weights = self.part.weights
        self.optimizer = torch.optim.AdamW(self.weights, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
        with alteration.plain():
            self.practice: Practice = practice(block, lessons, seed, device)
        self.step = 0
        self.seconds = 0.0
        self.last: Progress | None = None

    def lora(self) -> LoRA:
        return self.block.lora(self.part)


def distil(
    model: LocalModel,
    lessons: Curriculum,
    recipe: Recipe = Recipe(),
    *,
    beside: Sequence[LoRA] = (),
    progress: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Path | None = None,
) -> Distilled:
    """Train an adapter on exercises. Whether it is any good, the gate says.

    beside: other adapters of the model: units that the fewest of them change are trained, so that they can be fused.
    progress: called after every step; what it raises abandons the run, and nothing is left but the checkpoint.
    checkpoint: a file that is written at every check, from which the same run goes on after a kill, and which is gone when it is done.

    Raises:
        InvalidArgument: the rank does not fit the model, or the adapter would be larger than `Recipe.bytes`.
        Unsupported: the network's last block is not one of units.
        Ineffective: the loss was no number before anything was learned.
        OutOfMemory: the device has no room for a step.
    """
    count = require_fit(model, recipe, lessons.points)
    block = Block(model)
    told = sha256(repr([e.ids for e in lessons.taught]).encode()).hexdigest()  # two stores do not choose the same ones
    units = block.chosen(count, beside, f"{recipe.seed}/{told}")
    rate = recipe.rate if recipe.rate is not None else 2.56 / block.shape.hidden
    try:
        student = _Student(block, units, lessons, recipe.seed, model.device)
        run = _run_of(model, lessons, recipe, units)
        if checkpoint is not None:
            _resume(student, checkpoint, run)
        good, why = student.lora(), _over(student, recipe)
        while not why:
            began = time.perf_counter()
            loss = _step(student, recipe, rate)
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
                recall, unknown = student.practice.right(student.part)
            student.seconds += time.perf_counter() - began
            student.last = Progress(student.step, recipe.steps, loss, student.seconds, recall, unknown)
            if looked:
                good = student.lora()
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
    return _done(model, student.lora(), student, why)


# --- below ---------------------------------------------------------------------------------------------------------------


def _done(model: LocalModel, lora: LoRA, student: _Student, why: str) -> Distilled:
    assert student.last is not None
    return Distilled(cast(lora, model.dtype), student.last, why)


def _over(student: _Student, recipe: Recipe) -> str:
    if student.step >= recipe.steps:
        return "its steps are done"
    if recipe.seconds is not None and student.seconds >= recipe.seconds:
        return f"its {recipe.seconds:g} seconds are over"
    return ""


def adapter_bytes(model: LocalModel, recipe: Recipe, points: int = 1) -> int:
    """The size of an adapter of this recipe, for a model that is taught so many things. Raises Unsupported as `distil` does."""
    found = shape(model)
    return found.bytes(_count(found, recipe, points), model.dtype.itemsize)


def _count(found: Shape, recipe: Recipe, points: int) -> int:
    return recipe.rank or min(found.size, max(_LEAST, _EACH * points))


def require_fit(model: LocalModel, recipe: Recipe, points: int = 1) -> int:
    """How many units are trained for so many things. Raises InvalidArgument where a model has not so many, or their adapter is too large,
    and Unsupported as `distil` does."""
    found = shape(model)
    if recipe.rank is not None and recipe.rank > found.size:
        raise InvalidArgument(f"rank: {recipe.rank} is more than the {found.size} units of {model.name}'s last block")
    count, size = _count(found, recipe, points), adapter_bytes(model, recipe, points)
    if recipe.bytes is not None and size > recipe.bytes:
        raise InvalidArgument(f"rank: an adapter of {count} units has {size:,} bytes, more than {recipe.bytes:,}")
    return count


def _step(student: _Student, recipe: Recipe, rate: float) -> float:
    """One step; its loss. If that is no number, nothing is changed."""
    warm = max(1, recipe.steps // 10)
    scale = min((student.step + 1) / warm, (recipe.steps - student.step) / max(1, recipe.steps - warm))
    for group in student.optimizer.param_groups:
        group["lr"] = rate * scale
    student.optimizer.zero_grad(set_to_none=True)
    rng = random.Random(f"{recipe.seed}/{student.step}")
    loss = student.practice.loss(student.part, recipe, rng)
    if math.isfinite(value := float(loss.detach())):
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(student.weights, 1.0)
        student.optimizer.step()
    return value


# --- checkpoints -----------------------------------------------------------------------------------------------------------


def _run_of(model: LocalModel, lessons: Curriculum, recipe: Recipe, units: Sequence[int]) -> str:
    """Names a run: what it trains, on what, how. Budgets may change from one try to the next."""
    said = sha256(repr((model.fingerprint, replace(recipe, seconds=None, bytes=None), units, lessons.form)).encode())
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
    said = {"run": run, "step": student.step, "seconds": student.seconds,
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
    student.step, student.seconds = said["step"], said["seconds"]
    student.last = Progress(*said["last"])
