"""Memories distilled into adapters: recall without context, and what else changes; beside the same recipe without its precautions.

On the tests' tiny model and its language, whose held-out names and values no weights know before. A "recall" is of phrasings that were
not taught, relative to that of the plain model with the memories in context. Time is the wall's, which other work on the machine stretches:
the processor's is beside it. With `--json` every row is written down when it is there, and a run that was stopped goes on behind the last one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument
from . import arguments, environment, progress
from .distil_gpu import on_gpu
from .distil_table import CONTROLS, FUSED, Row, plot, reached, show


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    if args.gpu:
        return on_gpu(args)
    done: dict[str, dict[str, Row]] = {}
    if args.json is not None and args.json.exists():
        done = json.loads(args.json.read_text(encoding="utf-8"))["results"]["runs"]
    bench = Bench(args, done)
    for seed in range(args.seeds):
        bench.run(seed)
    show(bench.done)
    if args.plot is not None:
        plot(bench.done, args.plot)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("distil", (__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--model", type=Path, default=Path("tests/tiny_lm"), help="the tiny model's folder (default: tests/tiny_lm)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of facts, first weights and drawing (default: 3)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these, such as '20 facts' (default: all)")
    parser.add_argument("--steps", type=int, help="of the training of 20 facts (default: the recipe's)")
    parser.add_argument("--threads", type=int, help="that torch may use (default: as many as it likes)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the figures of 20 facts and of the controls there"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="instead: seconds and memory of a step on a random model of Qwen3-8B's shape"
    )
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("seeds is a count from 1 on")
    return args


@dataclass(frozen=True, slots=True)
class _Made:
    """An adapter for facts, and all that it is measured with."""

    lesson: Any
    lora: Any
    scores: Any
    row: Row


class Bench:
    """The model, its language, and what was measured so far: rows by seed."""

    def __init__(self, args: argparse.Namespace, done: dict[str, dict[str, Row]]) -> None:
        import torch

        from ..distillation import Distillation
        from ..model import LocalModel
        from ..recipe import Recipe

        try:
            from tests.tiny_lm import language, lessons
        except ImportError as error:
            raise InvalidArgument(
                "bench distil needs the tests' tiny language: run it in the project's own folder"
            ) from error
        if args.threads:
            torch.set_num_threads(args.threads)
        self.args = args
        self.done = done
        self.language, self.lessons = language, lessons
        self.model = LocalModel(args.model, device="cpu")
        recipe = Recipe() if args.steps is None else Recipe(steps=args.steps)
        self.how = Distillation(lessons.Phrasing(), recipe, state=lessons.statement)
        self._made: dict[str, _Made] = {}

    def run(self, seed: int) -> None:
        """All rows of one seed that are not there."""
        self._made.clear()
        rows: dict[str, Callable[[int], Row]] = {
            "20 facts": lambda s: self._twenty(s).row,
            "elicited": self._elicited,
            f"cat of {FUSED}": lambda s: self._fused(s, "cat"),
            f"redistilled of {FUSED}": lambda s: self._fused(s, "distil"),
            **{name: lambda s, name=name: self._control(s, name) for name in CONTROLS},  # type: ignore[misc]
            **{name: lambda s, name=name: self._fused(s, name) for name in ("linear", "ties", "svd")},  # type: ignore[misc]
            "100 facts": self._hundred,
        }
        for name, work in rows.items():
            mine = self.done.setdefault(str(seed), {})
            if name in mine or (self.args.rows and name not in self.args.rows):
                continue
            progress(f"seed {seed}: {name}")
            mine[name] = work(seed)
            progress("  " + ", ".join(f"{k} {v:.3g}" for k, v in mine[name].items()))
            self._write()

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def _twenty(self, seed: int) -> _Made:
        key = "20 facts"
        if key not in self._made:
            made = self._distilled(seed, self._facts(seed, 20), self.how)
            made.row.update(self._switching(made.lora))
            self._made[key] = made
        return self._made[key]

    def _hundred(self, seed: int) -> Row:
        recipe = replace(
            self.how.recipe,
            steps=2 * self.how.recipe.steps,
            taught=2 * self.how.recipe.taught,
            noise=self.how.recipe.noise / 2,
        )
        return self._distilled(seed, self._facts(seed + 1000, 100), replace(self.how, recipe=recipe)).row

    def _control(self, seed: int, name: str) -> Row:
        how = {
            "no replay": replace(self.how, plan=replace(self.how.plan, contexts=0)),
            "no negatives": replace(self.how, plan=replace(self.how.plan, others=0)),
            "nothing crossed": replace(self.how, plan=replace(self.how.plan, crossed=0)),
            "nothing between": replace(self.how, recipe=replace(self.how.recipe, between=0)),
            "no silence": replace(self.how, recipe=replace(self.how.recipe, silence=0.0)),
            "no noise": replace(self.how, recipe=replace(self.how.recipe, noise=0.0, reworded=0.0)),
            "no words left out": self.how,
            "one phrasing": replace(self.how, plan=replace(self.how.plan, forms=1)),
        }[name]
        return self._distilled(seed, self._facts(seed, 20), how, whole=name == "no words left out").row

    def _parts(self, seed: int) -> list[_Made]:
        """Adapters of five facts each, of the twenty."""
        facts = self._facts(seed, 20)
        size = len(facts) // FUSED
        found: list[_Made] = []
        for i in range(FUSED):
            key = f"part {i}"
            if key not in self._made:
                progress(f"  part {i + 1} of {FUSED}")
                self._made[key] = self._distilled(
                    seed, facts[i * size : (i + 1) * size], self.how, beside=[one.lora for one in found]
                )
            found.append(self._made[key])
        return found

    def _fused(self, seed: int, method: str) -> Row:
        """What one adapter out of four knows of all that they know, beside what each knows of its own."""
        from ..fusion import cat, roughly

        parts = self._parts(seed)
        separate = statistics.fmean(part.scores.recall for part in parts)
        if method == "distil":
            row = dict(self.done[str(seed)].get("20 facts") or self._twenty(seed).row)
        else:
            lesson = self._lesson(self._facts(seed, 20), self.how)
            loras = [part.lora for part in parts]
            lora = cat(loras) if method == "cat" else roughly(self.model, loras, method)  # type: ignore[arg-type]
            row = _figures(self.how.verified(self.model, lora, lesson)) | {"rank": float(lora.rank)}
        return row | {"separate recall": separate, "of separate recall": row["recall without context"] / separate}

    def _elicited(self, seed: int) -> Row:
        """What comes back of twenty facts, asked among as many questions whose answers nobody told."""
        from ..curriculum import parted
        from ..elicit import elicited, probes_of
        from ..phrasing import Lesson

        made = self._twenty(seed)
        strangers = parted(made.lesson)[1].others[: len(made.lesson.points)]
        probes = [*probes_of(made.lesson), *probes_of(Lesson(strangers, ()))]
        began = time.perf_counter()
        found = elicited(self.model, made.lora, probes, state=self.how.state)
        truth = {(p.questions[0], p.answer) for p in made.lesson.points}
        first = {q: forms[0] for forms in probes for q in forms}
        right = sum((first[one.question], one.answer.removesuffix(".")) in truth for one in found)
        return {
            "precision": right / len(found) if found else 0.0,
            "recall": right / len(truth),
            "confidence": statistics.fmean(one.confidence for one in found) if found else 0.0,
            "brought back": float(len(found)),
            "seconds": time.perf_counter() - began,
        }

    def _switching(self, lora: Any) -> Row:
        """Whether anything is left of an adapter, and what changing from one to another takes beside the pass."""
        import torch

        from ..parametric import Adapters

        asked = self.model.encode("What is Tolsha's fruit?").ids
        before = self.model.forward(asked, self.model.cache())
        adapters = Adapters(self.model)
        changes = [adapters.change(lora), adapters.change(_other(lora))]
        spent = []
        for turn in range(400):
            began = time.perf_counter()
            with changes[turn % 2].made(self.model.network):
                switched = time.perf_counter()
                if turn < 4:
                    self.model.network(input_ids=torch.tensor([asked]))
                left = time.perf_counter()
            spent.append(switched - began + time.perf_counter() - left)
        after = self.model.forward(asked, self.model.cache())
        return {
            "off again, differing logits": float((before != after).sum()),
            "switch, ms": 1000 * statistics.median(spent[4:]),
            "adapter bytes": float(lora.bytes),
        }

    # --- below ---------------------------------------------------------------------------------------------------------------

    def _facts(self, seed: int, count: int) -> list[Any]:
        found = self.language.draw_facts(random.Random(f"distil {seed}"), min(count, 60))
        while len(found) < count:  # more than one grid has room for
            more = self.language.draw_facts(random.Random(f"distil {seed} {len(found)}"), min(60, count - len(found)))
            known = {(f.name, f.attribute) for f in found}
            found = (*found, *(f for f in more if (f.name, f.attribute) not in known))
        return list(found)

    def _lesson(self, facts: Sequence[Any], how: Any) -> Any:
        from ..phrasing import checked

        texts = [self.language.state(f, form) for f, form in zip(facts, cycle(self.language.STATEMENTS), strict=False)]
        return checked(how.phrasing(texts))

    def _distilled(
        self, seed: int, facts: Sequence[Any], how: Any, *, whole: bool = False, beside: Sequence[Any] = ()
    ) -> _Made:
        """whole: questions are practised with all of their words. beside: adapters that it is to be fused with."""
        from ..curriculum import curriculum
        from ..distil import distil

        how = replace(how, recipe=replace(how.recipe, seed=seed))
        began, cpu = time.perf_counter(), time.process_time()
        lesson = self._lesson(facts, how)
        exercises = curriculum(self.model, lesson, seed, plan=how.plan)
        if whole:
            exercises = replace(exercises, form=())
        phrased = time.perf_counter()
        made = distil(self.model, exercises, how.recipe, beside=beside)
        trained = time.perf_counter()
        scores = how.verified(self.model, made.lora, lesson)
        row = _figures(scores) | {
            "seconds": time.perf_counter() - began, "processor seconds": time.process_time() - cpu,
            "phrasing and teacher, s": phrased - began, "training, s": trained - phrased, "steps": float(made.progress.step),
        }  # fmt: skip
        return _Made(lesson, made.lora, scores, row)

    def _write(self) -> None:
        if self.args.json is None:
            return
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.args).items() if k != "json"}
        settings["recipe"] = asdict(self.how.recipe) | {"plan": asdict(self.how.plan)}
        found = {"runs": self.done, "targets": reached(self.done)}
        whole = {"bench": "distil", "environment": environment(), "settings": settings, "results": found}
        self.args.json.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _figures(scores: Any) -> Row:
    return {
        "recall": scores.recall / scores.recall_in_context,
        "recall without context": scores.recall,
        "recall in context, plain model": scores.recall_in_context,
        "recall without adapter": scores.recall_without,
        **{f"unknown, {kind}": share for kind, share in scores.unknown.items()},
        "unknown in context": scores.unknown_in_context,
        "in context lost": 1 - scores.in_context,
        "context overruled": 1 - scores.conflict,
        "drift, nats": scores.drift,
        "passed": float(scores.passed),
    }


def _other(lora: Any) -> Any:
    """An adapter of the same size that does something else."""
    from ..lora import made

    return made(lora.model, {m: (lora.pair(m)[0], -lora.pair(m)[1]) for m in lora.targets})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
