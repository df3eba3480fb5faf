"""The numbers of a distillation. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained.

    rank: units of the last feed-forward block that are trained (see `units`); None takes four for each thing that is taught, 32 at
        least, and all of them where there are not so many.
    steps: how many. rate: the highest learning rate; None takes 2.56 / hidden size (6e-4 at 4,096, 0.02 at 128).
    taught, unknown, kept, plain, between: exercises of each kind in a step (see `Curriculum`, and `between`).
    unknown_weight, kept_weight, plain_weight, between_weight: of their divergences beside the taught ones'.
    silence: weight of how far what the last layer gives on is from the plain model's, where nothing is taught (0: only what is said
        counts). noise, reworded: of what the units read, by chance, relative to its size, and by how wording moved other questions, relative
        to that (0: none).
    check_every: steps between looks at phrasings that are not taught, and checkpoints.
    seconds, bytes: budgets; of time for training, and of the adapter. None: no limit.
    seed: of the units and of what is drawn.
    """

    rank: int | None = None
    steps: int = 1500
    rate: float | None = None
    taught: int = 64
    unknown: int = 96
    kept: int = 12
    plain: int = 6
    between: int = 64
    unknown_weight: float = 1.0
    kept_weight: float = 3.0
    plain_weight: float = 8.0
    between_weight: float = 0.7
    silence: float = 6.0
    noise: float = 0.1
    reworded: float = 0.5
    check_every: int = 50
    seconds: float | None = None
    bytes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "taught", "check_every"):
            value = getattr(self, name)
            if name == "rank" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgument(f"Recipe.{name}: a whole number from 1 is needed, not {value!r}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise InvalidArgument(f"Recipe.rate: a number above 0 is needed, not {self.rate!r}")
        for name in ("silence", "noise", "reworded"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidArgument(f"Recipe.{name}: a number from 0 is needed, not {getattr(self, name)!r}")
