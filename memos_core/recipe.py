"""The numbers of a distillation. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidArgument
from .validate import checked_numbers


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained.

    rank: units of the last feed-forward block that are trained (see `units`); None takes four for each thing that is taught, 32 at
        least, and all of them where there are not so many.
    steps: how many. rate: the highest learning rate, 1 at most; None takes 2.56 / hidden size (6e-4 at 4,096, 0.02 at 128).
    taught, unknown, kept, plain, between: exercises of each kind in a step (see `Curriculum`, and `between`); not at all places
        of those that stay as they are (see `practice`).
    unknown_weight, kept_weight, plain_weight, between_weight: of their divergences beside the taught ones'.
    silence: weight of how far what the last layer gives on is from the plain model's, where nothing is taught (0: only what is said
        counts); up to four times as much where fewer than 20 things are. noise, reworded: of what the units read, by chance, relative
        to its size, and by how wording moved other questions, relative to that (0: none).
    check_every: steps between looks at phrasings that are not taught, and checkpoints.
    seconds: for the steps and the looks alone, a step at least; working out the exercises before them, and the gate behind them, come on
        top and may take longer. bytes: of the adapter. None: no limit.
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
        checked_numbers(
            self, rank=(int, 1), steps=(int, 1), taught=(int, 1), unknown=(int, 0), kept=(int, 0), plain=(int, 0), between=(int, 0),
            unknown_weight=(float, 0), kept_weight=(float, 0), plain_weight=(float, 0), between_weight=(float, 0),
            silence=(float, 0), noise=(float, 0), reworded=(float, 0), check_every=(int, 1), rate=(float, 0, 1),
            seconds=(float, 0), bytes=(int, 1), seed=(int, -(2.0**62)),
        )  # fmt: skip
        for name in ("rate", "seconds"):
            if getattr(self, name) == 0:
                raise InvalidArgument(f"Recipe.{name}: a number above 0 is needed, not 0")
