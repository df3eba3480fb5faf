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
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from . import alteration
from .curriculum import Curriculum
from .errors import Ineffective, InvalidArgument
from .lora import LoRA, cast
from .model import LocalModel
from .practice import Practice, practice
from .rebuilds import Checkpoint
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

    def __init__(self, block: Block, units: Sequence[int]) -> None:
        self.block = block
        self.part = block.part(units)
        self.weights = self.part.weights
        self.optimizer = torch.optim.AdamW(self.weights, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
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
    checkpoint: Checkpoint | None = None,
) -> Distilled:
    """Train an adapter on exercises. Whether it is any good, the gate says.

    beside: other adapters of the model: units that the fewest of them change are trained, so that they can be fused.
    progress: called after every step; what it raises abandons the run, and nothing is left but the checkpoint.
    checkpoint: written at every check and at the end; the same run goes on from it after a kill. Whoever gave it removes it.

    Raises:
        InvalidArgument: the rank does not fit the model, or the adapter would be larger than `Recipe.bytes`.
        Unsupported: the network's last block is not one of units.
        Ineffective: the loss was no number before anything was learned.
        OutOfMemory: the device has no room for a step.
        Conflict: the checkpoint may not be written any more.
    """
    count = require_fit(model, recipe, lessons.points)
    # a caller's own modes are none of the training's
    with model.memory_errors(), torch.inference_mode(False), torch.enable_grad():
        block, run = Block(model), _run_of(model, lessons, recipe, count)
        found = None if checkpoint is None else _kept(checkpoint, run)
        if found is None:
            told = sha256(repr([e.ids for e in lessons.taught]).encode()).hexdigest()  # two stores do not choose alike
            student = _Student(block, block.chosen(count, beside, f"{recipe.seed}/{told}"))
        else:
            student = _resumed(block, *found)
        lora, why = student.lora(), _over(student, recipe)
        if not why:
            with alteration.plain():
                drill = practice(block, lessons, recipe.seed, model.device)
            keep = partial(_save, student, checkpoint, run)
            lora, why = _trained(student, drill, recipe, model.name, keep, progress)
    assert student.last is not None
    return Distilled(cast(lora, model.dtype), student.last, why)


# --- below ---------------------------------------------------------------------------------------------------------------


def _trained(
    student: _Student,
    drill: Practice,
    recipe: Recipe,
    name: str,
    keep: Callable[[], None],
    progress: Callable[[Progress], None],
) -> tuple[LoRA, str]:
    """The adapter at the end of its steps, and why they ended. keep: called at every check."""
    rate = recipe.rate if recipe.rate is not None else 2.56 / student.block.shape.hidden
    good, why = student.lora(), ""
    while not why:
        began = time.perf_counter()
        loss = _step(student, drill, recipe, rate)
        if not math.isfinite(loss):
            if student.step < recipe.check_every:
                raise Ineffective(
                    f"{name}: the loss was {loss} at step {student.step + 1}, before anything was learned"
                )
            return good, f"the loss was {loss} at step {student.step + 1}: the weights of the check before it"
        student.step += 1
        recall, unknown = (student.last.recall, student.last.unknown) if student.last else (0.0, 0.0)
        student.seconds += time.perf_counter() - began
        why = _over(student, recipe)
        looked = bool(why) or student.step % recipe.check_every == 0
        if looked:
            began = time.perf_counter()
            recall, unknown = drill.right(student.part)
            student.seconds += time.perf_counter() - began
        student.last = Progress(student.step, recipe.steps, loss, student.seconds, recall, unknown)
        if looked:
            good = student.lora()
            keep()
        progress(student.last)
    return good, why


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


def _step(student: _Student, drill: Practice, recipe: Recipe, rate: float) -> float:
    """One step; its loss. If that is no number, nothing is changed."""
    warm = max(1, recipe.steps // 10)
    scale = min((student.step + 1) / warm, (recipe.steps - student.step) / max(1, recipe.steps - warm))
    for group in student.optimizer.param_groups:
        group["lr"] = rate * scale
    student.optimizer.zero_grad(set_to_none=True)
    rng = random.Random(f"{recipe.seed}/{student.step}")
    loss = drill.loss(student.part, recipe, rng)
    if math.isfinite(value := float(loss.detach())):
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(student.weights, 1.0)
        student.optimizer.step()
    return value


# --- checkpoints -----------------------------------------------------------------------------------------------------------


def _run_of(model: LocalModel, lessons: Curriculum, recipe: Recipe, count: int) -> str:
    """Names a run: what it trains, on what, how. Budgets may change from one try to the next, and so may what other adapters there are:
    which units are trained is the run's own, from its first step to its last."""
    said = sha256(repr((model.fingerprint, replace(recipe, seconds=None, bytes=None), count, lessons.form)).encode())
    for e in (*lessons.taught, *lessons.unknown, *lessons.kept, *lessons.plain):
        said.update(repr((e.ids, e.at)).encode())
    return said.hexdigest()


def _save(student: _Student, checkpoint: Checkpoint | None, run: str) -> None:
    if checkpoint is None:
        return
    tensors = {}
    for i, weight in enumerate(student.weights):
        tensors[f"{i}.weight"] = weight.detach().cpu().contiguous()
        for name in ("exp_avg", "exp_avg_sq"):
            tensors[f"{i}.{name}"] = student.optimizer.state[weight][name].cpu().contiguous()
    last = student.last
    assert last is not None
    said = {"run": run, "units": student.part.units, "step": student.step, "seconds": student.seconds,
            "last": [last.step, last.steps, last.loss, last.seconds, last.recall, last.unknown]}  # fmt: skip
    checkpoint.write(save(tensors, {"distil": json.dumps(said)}))


def _kept(checkpoint: Checkpoint, run: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """What a checkpoint says of a run, and its tensors; None where it is of another run, or damaged: then it is begun anew."""
    data = checkpoint.read()
    if data is None:
        return None
    try:
        tensors = load(data)
        said = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["distil"])
        return (said, tensors) if said["run"] == run else None
    except (SafetensorError, ValueError, KeyError):
        return None


def _resumed(block: Block, said: dict[str, Any], tensors: dict[str, torch.Tensor]) -> _Student:
    student = _Student(block, said["units"])
    for i, weight in enumerate(student.weights):
        weight.data.copy_(tensors[f"{i}.weight"])
        student.optimizer.state[weight] = {
            "step": torch.tensor(float(said["step"])),
            **{n: tensors[f"{i}.{n}"].to(weight.device) for n in ("exp_avg", "exp_avg_sq")},
        }
    student.step, student.seconds = said["step"], said["seconds"]
    student.last = Progress(*said["last"])
    return student
