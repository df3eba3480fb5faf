"""What one step of a distillation practises, and how far the student is from what it should be. Knows exercises and units in training.

All that comes before the units is the plain model's. So every exercise is worked out once, before the first step: what the units read at
each place where something is to be said, and what the last layer gives on there. A step then is a matter of the units and of what comes
behind them, whatever the length of a context. Of what is to stay as it is, a step works on the places where answers begin and on a share
of the others.

Beside what is to be said, the units are asked to be *silent* where they know nothing: what the last layer gives on is to stay what it
was. And what they read is blurred a little (training with noise, Bishop 1995), by chance and by how other questions changed when words
of their form were left out: so what they take for known keeps a distance from all that is not, on both sides, most of all in the
directions in which wording moves it, and a question that nobody practised falls on the right one.
"""

from __future__ import annotations

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

_LEAD, _LEAD_WEIGHT = 5.0, 0.5  # nats; see `_apart`
_LOOSE = 0.5  # of the questions, with words of their form left out
# of the places behind an answer's first, in a step: what is said there hardly ever changes (all places drawn alike, and with them the
# first of answers behind a context: of a hundred facts .868 were recalled for .932)
_SOME, _SPARED = 0.4, ("unknown", "kept", "between")
_VERSIONS = {"taught": 6, "unknown": 2}  # of each: so that one is drawn about as often as another
_BETWEEN, _ROWS = 3000, 200  # rows between questions, and of a batch of them
# things taught from which on silence has its plain weight; how much more of it there is of few
_MANY, _QUIETEST = 20, 4.0
KINDS = ("taught", "unknown", "kept", "plain", "between")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Exercises of a kind, worked out. By place: what the units read, what the last layer gives on (each of the hidden size), and the
    distribution that is to follow (see `Said`). begin: the places where an answer begins. By exercise: the places of each of its versions."""

    read: torch.Tensor
    given: torch.Tensor
    likely: torch.Tensor
    logs: torch.Tensor
    begin: frozenset[int]
    versions: tuple[tuple[range, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Practice:
    """All that is practised, by kind, and what is watched; how many things are taught. reworded [n, hidden size]: how what is read before
    an answer differed where words of a question's form were left out."""

    block: Block
    rows: dict[str, Rows]
    reworded: torch.Tensor
    watched: tuple[Probe, ...]
    seen: tuple[torch.Tensor, torch.Tensor, tuple[range, ...]] | None
    points: int = 1

    def loss(self, part: Part, recipe: Recipe, rng: random.Random) -> torch.Tensor:
        """Of a step: the divergences of what is drawn, and what the units do where they should do nothing."""
        drawn = {
            k: self._drawn(rows, getattr(recipe, k), _SOME if k in _SPARED else 1.0, rng)
            for k, rows in self.rows.items()
            if getattr(recipe, k)
        }

        def each(what: str) -> torch.Tensor:
            return torch.cat([getattr(self.rows[k], what)[at] for k, (at, _) in drawn.items()])

        read = each("read").float()
        read = self._blurred(read, recipe, torch.Generator(read.device).manual_seed(rng.getrandbits(62)))
        added, given = part.added(read), each("given")
        logits = self.block.logits((given + added).to(given.dtype))
        # of all places at once: to cut what has the size of the vocabulary into kinds, and to put their gradients together, takes longer
        # than all else
        terms = [self._weighed(kind, recipe) for kind in drawn]
        counts = torch.tensor([len(at) for at, _ in drawn.values()])
        apart, silence, enough = torch.tensor(terms).repeat_interleave(counts, 0).to(read.device).T
        shares = torch.cat([some for _, some in drawn.values()])
        away = apart * _apart(each("likely"), each("logs"), logits, enough)
        total: torch.Tensor = (shares * (away + silence * _moved(given.float(), added))).sum()
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

    def _weighed(self, kind: str, recipe: Recipe) -> tuple[float, float, float]:
        """The weights of what is said and of silence, and the lead that is enough (0: it does not matter)."""
        weight = 1.0 if kind == "taught" else getattr(recipe, f"{kind}_weight")
        return weight, weight * _silence(kind, recipe, self.points), 0.0 if kind == "plain" else _LEAD

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
    def _drawn(rows: Rows, count: int, share: float, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        """Of so many exercises the places where answers begin, and a share of the others; and what each counts, as if all were there: 1
        in all."""
        chosen = rng.sample(rows.versions, min(count, len(rows.versions)))
        versions = [v[0] if len(v) == 1 or rng.random() >= _LOOSE else rng.choice(v[1:]) for v in chosen]
        every = [place for at in versions for place in at]
        places = [place for place in every if place in rows.begin or rng.random() < share]
        counts = torch.tensor([1.0 if place in rows.begin else 1 / share for place in places]) / len(every)
        return torch.tensor(places, device=rows.read.device), counts.to(rows.read.device)


def practice(block: Block, lessons: Curriculum, seed: int, device: torch.device) -> Practice:
    """Work out what a curriculum's exercises, versions of them with words left out, and rows between questions are practised with."""
    rng = random.Random(f"{seed}/practice")
    rows = {}
    for kind in KINDS[:-1]:
        if exercises := getattr(lessons, kind):
            rows[kind] = _worked_out(block, exercises, _VERSIONS.get(kind, 0), lessons.form, rng, device)
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
    block: Block,
    exercises: Sequence[Exercise],
    versions: int,
    form: Sequence[int],
    rng: random.Random,
    device: torch.device,
) -> Rows:
    every: list[Exercise] = list(exercises)
    mine = []
    for place, one in enumerate(exercises):
        more = [loosened(one, form, rng) for _ in range(versions)] if form and one.alone else []
        mine.append([place, *range(len(every), len(every) + len(more))])
        every += more
    read, given, places = _states(block, [(e.ids, e.at) for e in every], device)
    likely, logs = torch.cat([e.likely for e in every]), torch.cat([e.logs for e in every])
    begin = frozenset(
        place
        for one, where in zip(every, places, strict=True)
        for place, i in zip(where, one.at, strict=True)
        if i - 1 not in one.at
    )
    versions_at = tuple(tuple(places[i] for i in some) for some in mine)
    return Rows(read, given, likely.to(device), logs.to(device), begin, versions_at)


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
    begin = frozenset(at.start for (at,) in places)
    return Rows(read, given, torch.cat(likely), torch.cat(logs), begin, tuple(places))


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


def _apart(likely: torch.Tensor, logs: torch.Tensor, logits: torch.Tensor, enough: torch.Tensor) -> torch.Tensor:
    """By place, the divergence, and by how many nats the teacher's choice leads the next one less than with the teacher, of which some are
    enough. A divergence is next to nothing as soon as an answer is right by a hair; questions beside those that are practised then come
    out wrong."""
    first = likely[:, :1]
    others = logits.detach().scatter(-1, first, -torch.inf).argmax(-1, keepdim=True)
    lead = logits.gather(-1, torch.cat([first, others], -1)) @ torch.tensor([1.0, -1.0], device=logits.device)
    short = (torch.minimum(logs[:, 0] - logs[:, 1], enough) - lead).clamp(min=0)
    return divergences(likely, logs, logits) + _LEAD_WEIGHT * torch.where(enough > 0, short, 0.0)


def _moved(given: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """By place, how much is added to what is given on, squared and relative to its size."""
    return added.square().sum(-1) / given.square().sum(-1).clamp(min=1e-12)
