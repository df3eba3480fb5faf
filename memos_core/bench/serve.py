"""Serving with the scheduler: the same requests without it, with it, and with everything kept as keys and values.

Users ask about what they told, some of them and some of it far more often than the rest, and after a half others. Counted are the tokens
that the model ran, the time to the first token, what was held, and whether the answers are the same. A second part asks what a scheduler
at work costs those who search.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidArgument
from ..holdings import SchedulePolicy
from ..memos import MemOS
from ..types import Kind, Policy
from . import Timing, Vectors, arguments, progress, report, table, timed
from .trial import Target

if TYPE_CHECKING:
    from ..model import LocalModel

WAYS = ("none", "scheduler", "everything")
STARTS = ("Mar", "Zor", "Kel", "Tol", "Fen", "Lus", "Pel", "Bal", "Hal", "Jor", "Gal", "Dov")
ENDS = ("rin", "pa", "vi", "sho", "do", "ka", "mon", "chi")
VALUES = {"colour": ("red", "green", "blue", "teal"), "fruit": ("plum", "kiwi", "fig", "melon"), "animal": ("fox", "owl", "hen", "lion")}  # fmt: skip
PACE = timedelta(seconds=20)  # between two requests
SEARCHES, BETWEEN = 200, 0.02  # searches of a round, and seconds between them
TICK = 50  # requests between two ticks
WORDS, DIMENSION = re.compile(r"\w+"), 128


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks what, and what was told."""

    user: str
    question: str
    answer: str


@dataclass
class Served:
    """What serving took: for each request, the answer, tokens run, and seconds to the first; and beside the requests."""

    answers: list[str] = field(default_factory=list)
    prefilled: list[int] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    beside: float = 0.0
    disk: int = 0


class Clock:
    """The time of the requests, which is not that of the machine: hours pass in minutes."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time."""
        return self.now


class Words:
    """An embedder of hashed words: what is measured here is what comes after the search."""

    fingerprint, dimension = "bench-serve-words", DIMENSION

    def __call__(self, texts: Sequence[str], /) -> Vectors:
        """Vectors of length 1, of shape [texts, dimension]."""
        found = np.full((len(texts), DIMENSION), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in WORDS.findall(text.casefold()):
                found[row, zlib.crc32(word.encode()) % DIMENSION] += 1
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def main(argv: Sequence[str]) -> int:
    """Run it."""
    parser = arguments("serve", "requests with the scheduler, without it, and with everything kept as keys and values")
    parser.add_argument("model", help="a chat model's folder or name")
    parser.add_argument("--requests", type=int, default=2_000, help="default: 2000")
    parser.add_argument("--users", type=int, default=12, help="default: 12")
    parser.add_argument("--facts", type=int, default=12, help="told by each user; default: 12")
    parser.add_argument("--brief", type=int, default=200, help="tokens recalled for a question; default: 200")
    parser.add_argument("--passages", type=float, default=4.0, help="users whose facts fit on the device; default: 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw tokens and times there (needs matplotlib)")
    args = parser.parse_args(argv)
    from ..model import LocalModel

    told = {f"user{n}": facts(args.facts, random.Random(f"{args.seed}/{n}")) for n in range(args.users)}
    asked = requests(told, args.requests, random.Random(args.seed))
    size = int(args.passages * args.facts * 40) * LocalModel(args.model, cache_bytes=0).token_bytes
    served: dict[str, Served] = {}
    for way in WAYS:
        served[way] = serve(way, LocalModel(args.model, cache_bytes=size), told, asked, args.brief, size)
    searches = searching(LocalModel(args.model, cache_bytes=size), told, asked, args.brief)
    results = figures(served, asked, searches, size)
    targets = [
        Target("answers that are not those without a scheduler", results["ways"]["scheduler"]["other_answers"], 0),
        Target("tokens run, against no scheduler", results["ways"]["scheduler"]["prefilled_share"], 0.5),
        Target("p95 of search with the scheduler at work, against without", searches["ratio"], 1.5),
    ]
    results["targets"] = [asdict(t) | {"met": t.met} for t in targets]
    show(results, targets)
    if args.plot:
        plot(args.plot, served, str(args.model))
    report("serve", args, results)
    return 0


def facts(count: int, draw: random.Random) -> list[tuple[str, str, str]]:
    """Names, attributes and values; each name has each attribute once at most."""
    pairs = [(a + b, attribute) for a in STARTS for b in ENDS for attribute in VALUES]
    return [(name, attribute, draw.choice(VALUES[attribute])) for name, attribute in draw.sample(pairs, count)]


def requests(told: dict[str, list[tuple[str, str, str]]], count: int, draw: random.Random) -> list[Request]:
    """Users by Zipf's law, and each user's facts by it; after a half of the requests other users are the busy ones."""
    users = list(told)
    found: list[Request] = []
    for half in (users, users[::-1]):
        busy = draw.choices(half, [1 / (i + 1) for i in range(len(half))], k=count // 2)
        for user in busy:
            mine = told[user]
            name, attribute, value = draw.choices(mine, [1 / (i + 1) for i in range(len(mine))])[0]
            found.append(Request(user, f"What is {name}'s {attribute}?", f"{value}."))
    return found


def serve(
    way: str,
    model: LocalModel,
    told: dict[str, list[tuple[str, str, str]]],
    asked: Sequence[Request],
    brief: int,
    size: int,
) -> Served:
    """Answer all requests in one of the WAYS."""
    clock, served = Clock(), Served()
    disk = 64 << 30 if way == "everything" else 2 * size  # where nothing is left out, all must fit
    with tempfile.TemporaryDirectory() as folder, MemOS(
        folder, model=model, embed=Words(), clock=clock, policy=Policy(kv_disk_bytes=disk), schedule=SchedulePolicy(archive_after=None)
    ) as memory:  # fmt: skip
        for user, mine in told.items():
            cubes = [memory.add(f"{n}'s {a} is {v}.", namespace=(user,), actor=user)[0] for n, a, v in mine]
            if way == "everything":
                ids = [cube.id for cube in cubes]
                served.beside += timed(partial(memory.convert, ids, Kind.ACTIVATION, actor=user))
        for number, one in enumerate(asked, 1):
            clock.now += PACE
            reply = memory.generate(
                one.question, actor=one.user, namespace=(one.user,), max_tokens=8, max_brief_tokens=brief
            )
            served.answers.append(reply.text)
            served.prefilled.append(reply.usage.prefilled)
            served.first.append(reply.usage.seconds_to_first)
            if way == "scheduler" and number % TICK == 0:
                served.beside += timed(memory.tick)
            if number % 200 == 0:
                progress(f"{way}: {number}/{len(asked)} requests")
        served.disk = sum(f.stat().st_size for f in Path(folder, "blobs").glob("*"))
    return served


def searching(
    model: LocalModel,
    told: dict[str, list[tuple[str, str, str]]],
    asked: Sequence[Request],
    brief: int,
    rounds: int = 5,
) -> dict[str, Any]:
    """How long searches take while the scheduler builds a passage for every user, and while it does nothing; in turns."""
    times: dict[str, list[Timing]] = {"idle": [], "at_work": []}
    built = 0
    for number in range(rounds):
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder, MemOS(
            folder, model=model, embed=Words(), clock=clock, schedule=SchedulePolicy(archive_after=None, build_seconds=60)
        ) as memory:  # fmt: skip
            for user, mine in told.items():
                for name, attribute, value in mine:
                    memory.add(f"{name}'s {attribute} is {value}.", namespace=(user,), actor=user)
            for one in asked[: 10 * len(told)]:
                clock.now += PACE
                memory.generate(
                    one.question, actor=one.user, namespace=(one.user,), max_tokens=2, max_brief_tokens=brief
                )
            for way in ("idle", "at_work"):
                if way == "at_work":
                    memory.start(every=1.0)
                taken = []
                for one in asked[:SEARCHES]:
                    taken.append(timed(partial(memory.search, one.question, actor=one.user, namespace=(one.user,))))
                    time.sleep(BETWEEN)
                times[way].append(Timing.of(taken))
            memory.stop()
            built += sum(e.verb == "schedule" for user in told for e in memory.log(actor=user, by=user, limit=10_000))
        progress(f"search: round {number + 1}/{rounds}")
    idle, work = (float(np.median([t.p95 for t in times[way]])) for way in ("idle", "at_work"))
    return {"rounds": {way: [asdict(t) for t in found] for way, found in times.items()}, "moves": built, "p95_idle_ms": idle, "p95_at_work_ms": work, "ratio": round(work / idle, 3)}  # fmt: skip


def figures(served: dict[str, Served], asked: Sequence[Request], searches: dict[str, Any], size: int) -> dict[str, Any]:
    """What is kept of the runs."""
    plain = served["none"]
    ways = {}
    for way, one in served.items():
        ways[way] = {
            "prefilled": sum(one.prefilled), "prefilled_share": round(sum(one.prefilled) / sum(plain.prefilled), 4),
            "first_token": asdict(Timing.of(one.first)), "right": sum(a == r.answer for a, r in zip(one.answers, asked, strict=True)),
            "other_answers": sum(a != b for a, b in zip(one.answers, plain.answers, strict=True)),
            "seconds_beside": round(one.beside, 2), "disk_bytes": one.disk,
        }  # fmt: skip
    return {"requests": len(asked), "device_bytes": size, "ways": ways, "search": searches}


def show(results: dict[str, Any], targets: Sequence[Target]) -> None:
    """Print it."""
    rows = [
        (way, f"{one['prefilled']:,}", f"{one['prefilled_share']:.2f}", one["first_token"]["p50"], one["first_token"]["p95"],
         one["right"], one["other_answers"], one["seconds_beside"], f"{one['disk_bytes']:,}")
        for way, one in results["ways"].items()
    ]  # fmt: skip
    head = (
        "",
        "tokens run",
        "share",
        "first token p50 ms",
        "p95",
        "right",
        "other answers",
        "s beside",
        "bytes on disk",
    )
    print(table(head, rows))
    print(
        "\n" + table(("target", "measured", "wanted", "met"), [(t.what, t.measured, f"≤ {t.limit:g}", "yes" if t.met else "NO") for t in targets])
    )  # fmt: skip


def plot(file: Path, served: dict[str, Served], model: str) -> None:
    """Tokens run so far, and times to the first token, by request."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidArgument(f"--plot needs matplotlib: pip install matplotlib ({error})") from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = {"none": "no scheduler", "scheduler": "scheduler", "everything": "everything kept by hand"}
    for way, one in served.items():
        left.plot(np.cumsum(one.prefilled) / 1000, label=labels[way])
        right.plot(np.sort(np.asarray(one.first) * 1000), np.linspace(0, 1, len(one.first)), label=labels[way])
    left.set(xlabel="requests (other users are the busy ones from the half on)", ylabel="thousand tokens run")
    right.set(xlabel="milliseconds to the first token", ylabel="share of requests", xscale="log")
    figure.suptitle(Path(model).name)
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
