"""What one step of a distillation practises, and how far the student is from what it should be. Knows exercises and units in training.

All that comes before the units is the plain model's. So every exercise is worked out once, before the first step: what the units read at
each place where something is to be said, and what the last layer gives on there. A step then is a matter of the units and of what comes
behind them, whatever the length of a context.

Beside what is to be said, the units are asked to be *silent* where they know nothing: what the last layer gives on is to stay what it
was. And what they read is blurred a little (training with noise, Bishop 1995), by chance and by how other questions changed when words
of their form were left out: so what they take for known keeps a distance from all that is not, on both sides, most of all in the
directions in which wording moves it, and a question that nobody practised falls on the right one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from . import between
from .curriculum import Curriculum
from .exercises import LIKELY, Exercise, Probe, batches, divergences, tabled
from .recipe import Recipe
from .units import Block, Part
from .wording import loosened

_LEAD, _LEAD_WEIGHT = 5.0, 0.5  # nats; see `_short`
_LOOSE, _VERSIONS = 0.5, 6  # of the questions, with words of their form left out; so many versions of each
_BETWEEN, _ROWS = 3000, 200  # rows between questions, and of a batch of them
_MANY, _QUIETEST = (
    20,
    4.0,
)  # things taught from which on silence has its plain weight; how much more of it there is of few
KINDS = ("taught", "unknown", "kept", "plain", "between")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Exercises of a kind, worked out. By place: what the units read, what the last layer gives on (each of the hidden size), and the
    distribution that is to follow (see `Said`). By exercise: the places of each of its versions."""

    read: torch.Tensor
    given: torch.Tensor
    likely: torch.Tensor
    logs: torch.Tensor
    versions: tuple[tuple[range, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Practice:
    """All that is practised, by kind, and what is watched; how many things are taught. reworded [n, hidden size]: how what is read before an answer differed where
    words of a question's form were left out."""

    block: Block
    rows: dict[str, Rows]
    reworded: torch.Tensor
    watched: tuple[Probe, ...]
    seen: tuple[torch.Tensor, torch.Tensor, tuple[range, ...]] | None
    points: int = 1

    def loss(self, part: Part, recipe: Recipe, rng: random.Random) -> torch.Tensor:
        """Of a step: the divergences of what is drawn, and what the units do where they should do nothing."""
        drawn = {k: self._drawn(rows, getattr(recipe, k), rng) for k, rows in self.rows.items() if getattr(recipe, k)}
        read = torch.cat([self.rows[k].read[at] for k, at in drawn.items()]).float()
        read = self._blurred(read, recipe, torch.Generator(read.device).manual_seed(rng.getrandbits(62)))
        added = part.added(read)
        given = torch.cat([self.rows[k].given[at] for k, at in drawn.items()])
        logits = self.block.logits((given + added).to(given.dtype))
        total, start = torch.zeros((), device=read.device), 0
        for kind, at in drawn.items():
            here, rows = slice(start, start + len(at)), self.rows[kind]
            start = here.stop
            loss = _apart(rows.likely[at], rows.logs[at], logits[here], 0.0 if kind == "plain" else _LEAD).mean()
            if silence := _silence(kind, recipe, self.points):
                loss = loss + silence * _moved(given[here].float(), added[here])
            total = total + (1.0 if kind == "taught" else getattr(recipe, f"{kind}_weight")) * loss
        return total

    def right(self, part: Part) -> tuple[float, float]:
        """Shares of what is watched that come out right: of recall, and of what stays unknown."""
        if self.seen is None:
            return 1.0, 1.0
        read, given, places = self.seen
        with torch.no_grad():
            likeliest = self.block.logits((given + part.added(read.float())).to(given.dtype)).argmax(-1).tolist()
        shares = []
        for kind in ("recall", "unknown"):
            some = [
                likeliest[at.start : at.stop] == [p.ids[i + 1] for i in p.judged]
                for p, at in zip(self.watched, places, strict=True)
                if p.kind == kind and p.right
            ]
            shares.append(sum(some) / len(some) if some else 1.0)
        return shares[0], shares[1]

    # --- below -----------------------------------------------------------------------------------------------------------

    def _blurred(self, read: torch.Tensor, recipe: Recipe, draw: torch.Generator) -> torch.Tensor:
        """What units read as it might have been read: by chance, and in other words."""

        def chance(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw, device=read.device)

        if recipe.noise:
            read = read + recipe.noise * read.square().mean().sqrt() * chance(*read.shape)
        if recipe.reworded and len(self.reworded):
            some = torch.randint(len(self.reworded), (len(read),), generator=draw, device=read.device)
            read = read + recipe.reworded * chance(len(read), 1) * self.reworded[some].float()
        return read

    @staticmethod
    def _drawn(rows: Rows, count: int, rng: random.Random) -> torch.Tensor:
        chosen = rng.sample(rows.versions, min(count, len(rows.versions)))
        versions = [v[0] if len(v) == 1 or rng.random() >= _LOOSE else rng.choice(v[1:]) for v in chosen]
        return torch.tensor([place for at in versions for place in at], device=rows.read.device)


def practice(block: Block, lessons: Curriculum, seed: int, device: torch.device) -> Practice:
    """Work out what a curriculum's exercises, versions of them with words left out, and rows between questions are practised with."""
    rng = random.Random(f"{seed}/practice")
    rows = {}
    for kind in KINDS[:-1]:
        if exercises := getattr(lessons, kind):
            rows[kind] = _worked_out(block, exercises, lessons.form, rng, device)
    pairs = between.pairs(lessons.taught, lessons.unknown, lessons.form)
    if pairs.prompts:
        rows["between"] = _between(block, pairs, rng, device)
    moved = [
        rows[k].read[one.start] - rows[k].read[v[0].start]
        for k in ("taught", "unknown")
        for v in (rows[k].versions if k in rows else ())
        for one in v[1:]
    ]
    reworded = torch.stack(moved) if moved else torch.empty(0, block.shape.hidden, device=device)
    watched = [p for p in lessons.watched if p.right]
    seen = None
    if watched:
        seen = _states(block, [(p.ids, p.judged) for p in watched], device)
    return Practice(block, rows, reworded, tuple(watched), seen, lessons.points)


# --- below ---------------------------------------------------------------------------------------------------------------


def _worked_out(
    block: Block, exercises: Sequence[Exercise], form: Sequence[int], rng: random.Random, device: torch.device
) -> Rows:
    every: list[Exercise] = list(exercises)
    mine = []
    for at, one in enumerate(exercises):
        more = [loosened(one, form, rng) for _ in range(_VERSIONS)] if form and one.alone else []
        mine.append([at, *range(len(every), len(every) + len(more))])
        every += more
    read, given, places = _states(block, [(e.ids, e.at) for e in every], device)
    likely, logs = torch.cat([e.likely for e in every]), torch.cat([e.logs for e in every])
    versions = tuple(tuple(places[i] for i in some) for some in mine)
    return Rows(read, given, likely.to(device), logs.to(device), versions)


def _between(block: Block, pairs: between.Pairs, rng: random.Random, device: torch.device) -> Rows:
    found, places, start = [], [], 0
    for _ in range(_BETWEEN // _ROWS):
        batch = between.drawn(pairs, _ROWS, rng, block.embeddings, device)
        found.append(block.states({"inputs_embeds": batch.embedded}, batch.places))
        for at in batch.places:
            places.append((range(start, start + len(at)),))
            start += len(at)
    read, given = (torch.cat(some) for some in zip(*found, strict=True))
    likely, logs = [], []
    with torch.no_grad():
        for some in torch.split(given, 1024):
            top = block.logits(some).log_softmax(-1).topk(LIKELY, -1)
            likely.append(top.indices)
            logs.append(top.values)
    return Rows(read, given, torch.cat(likely), torch.cat(logs), tuple(places))


def _states(
    block: Block, rows: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, tuple[range, ...]]:
    """What is read and given on at the places of rows of tokens, in their order, and where those of each row stand."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    where: dict[int, range] = {}
    found, start = [], 0
    for some in batches(order, lambda i: len(rows[i][0])):
        found.append(block.states(tabled([rows[i][0] for i in some], device), [rows[i][1] for i in some]))
        for i in some:
            where[i] = range(start, start + len(rows[i][1]))
            start = where[i].stop
    back = torch.tensor([place for i in range(len(rows)) for place in where[i]], device=device)
    read, given = (torch.cat(each)[back] for each in zip(*found, strict=True))
    ends = list(accumulate(len(at) for _, at in rows))
    return read, given, tuple(range(end - len(at), end) for end, (_, at) in zip(ends, rows, strict=True))


def _silence(kind: str, recipe: Recipe, points: int) -> float:
    """What small adapters say to strangers adds up where they are fused: several of them are to be no louder than one that knows as much."""
    shares = {"taught": 0.0, "plain": 0.5, "between": 0.7}
    return recipe.silence * min(_QUIETEST, max(1.0, _MANY / points)) * shares.get(kind, 1.0)


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


def _moved(given: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """How much is added to what is given on, squared and relative to its size: the mean over places."""
    return (added.square().sum(-1) / given.square().sum(-1)).mean()
