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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument
from . import arguments, environment, progress, table

CONTROLS = ("no replay", "no negatives", "nothing between", "one phrasing")
FUSED = 4
TARGETS: dict[tuple[str, str], tuple[str, float]] = {
    ("20 facts", "recall"): (">=", 0.95),
    ("20 facts", "in context lost"): ("<=", 0.02),
    ("20 facts", "context overruled"): ("<=", 0.03),
    ("20 facts", "unknown, other name"): (">=", 0.95),
    ("20 facts", "unknown, other attribute"): (">=", 0.95),
    ("20 facts", "unknown in context"): (">=", 0.95),
    ("20 facts", "seconds"): ("<=", 60.0),
    ("20 facts", "off again, differing logits"): ("<=", 0.0),
    ("20 facts", "switch, ms"): ("<=", 1.0),
    ("100 facts", "recall"): (">=", 0.90),
    ("cat of 4", "of separate recall"): (">=", 0.90),
    ("redistilled of 4", "of separate recall"): (">=", 0.95),
    ("elicited", "precision"): (">=", 0.98),
    ("elicited", "recall"): (">=", 0.95),
}
"""By row and figure, what is to be reached."""

Row = dict[str, float]


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    if args.gpu:
        return _on_gpu(args)
    done: dict[str, dict[str, Row]] = {}
    if args.json is not None and args.json.exists():
        done = json.loads(args.json.read_text(encoding="utf-8"))["results"]["runs"]
    bench = Bench(args, done)
    for seed in range(args.seeds):
        bench.run(seed)
    _show(bench.done)
    if args.plot is not None:
        _plot(bench.done, args.plot)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("distil", (__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--model", type=Path, default=Path("tests/tiny_lm"), help="the tiny model's folder (default: tests/tiny_lm)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of facts, first weights and drawing (default: 3)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these, such as '20 facts' (default: all)")
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

        from ..distil import Recipe
        from ..distillation import Distillation
        from ..model import LocalModel

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
        self.how = Distillation(lessons.Phrasing(), Recipe(), state=lessons.statement)
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
            rank=2 * self.how.recipe.rank,
            steps=2 * self.how.recipe.steps,
            taught=2 * self.how.recipe.taught,
        )
        return self._distilled(seed, self._facts(seed + 1000, 100), replace(self.how, recipe=recipe)).row

    def _control(self, seed: int, name: str) -> Row:
        how = {
            "no replay": replace(self.how, plan=replace(self.how.plan, contexts=0)),
            "no negatives": replace(self.how, plan=replace(self.how.plan, others=0)),
            "nothing between": replace(self.how, recipe=replace(self.how.recipe, between=0)),
            "one phrasing": replace(self.how, plan=replace(self.how.plan, forms=1)),
        }[name]
        return self._distilled(seed, self._facts(seed, 20), how).row

    def _parts(self, seed: int) -> list[_Made]:
        """Adapters of five facts each, of the twenty."""
        facts = self._facts(seed, 20)
        size = len(facts) // FUSED
        found = []
        for i in range(FUSED):
            key = f"part {i}"
            if key not in self._made:
                progress(f"  part {i + 1} of {FUSED}")
                self._made[key] = self._distilled(seed, facts[i * size : (i + 1) * size], self.how)
            found.append(self._made[key])
        return found

    def _fused(self, seed: int, method: str) -> Row:
        """What one adapter out of four knows of all that they know, beside what each knows of its own."""
        from ..fusion import cat, roughly

        parts = self._parts(seed)
        separate = statistics.fmean(part.scores.recall for part in parts)
        whole = self._twenty(seed)
        if method == "distil":
            row = dict(whole.row)
        else:
            loras = [part.lora for part in parts]
            lora = cat(loras) if method == "cat" else roughly(self.model, loras, method)  # type: ignore[arg-type]
            row = _figures(self.how.verified(self.model, lora, whole.lesson)) | {"rank": float(lora.rank)}
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

    def _distilled(self, seed: int, facts: Sequence[Any], how: Any) -> _Made:
        from ..curriculum import curriculum
        from ..distil import distil
        from ..phrasing import checked

        texts = [self.language.state(f, form) for f, form in zip(facts, cycle(self.language.STATEMENTS), strict=False)]
        how = replace(how, recipe=replace(how.recipe, seed=seed))
        began, cpu = time.perf_counter(), time.process_time()
        lesson = checked(how.phrasing(texts))
        exercises = curriculum(self.model, lesson, seed, plan=how.plan)
        phrased = time.perf_counter()
        made = distil(self.model, exercises, how.recipe)
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
        found = {"runs": self.done, "targets": _targets(self.done)}
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


def _gathered(done: Mapping[str, Mapping[str, Row]]) -> dict[str, dict[str, list[float]]]:
    """Values of all seeds by row and figure."""
    found: dict[str, dict[str, list[float]]] = {}
    for rows in done.values():
        for name, row in rows.items():
            for figure, value in row.items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    return found


def _targets(done: Mapping[str, Mapping[str, Row]]) -> list[dict[str, Any]]:
    found = []
    gathered = _gathered(done)
    for (row, figure), (sign, wanted) in TARGETS.items():
        if values := gathered.get(row, {}).get(figure):
            mean = statistics.fmean(values)
            met = mean >= wanted if sign == ">=" else mean <= wanted
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found.append(
                {
                    "row": row,
                    "figure": figure,
                    "mean": mean,
                    "spread": spread,
                    "wanted": f"{sign} {wanted:g}",
                    "met": met,
                }
            )
    return found


def _show(done: Mapping[str, Mapping[str, Row]]) -> None:
    gathered = _gathered(done)
    for name, row in gathered.items():
        print(f"\n{name} ({len(next(iter(row.values())))} seeds)")
        rows = [(f, f"{statistics.fmean(v):.3f}", f"{min(v):.3f}", f"{max(v):.3f}") for f, v in row.items()]
        print(table(("figure", "mean", "least", "most"), rows))
    print()
    targets = _targets(done)
    print(table(("to reach", "wanted", "mean", "spread", "met"),
                [(f"{t['row']}: {t['figure']}", t["wanted"], f"{t['mean']:.3f}", f"{t['spread']:.3f}", "yes" if t["met"] else "NO")
                 for t in targets]))  # fmt: skip


def _plot(done: Mapping[str, Mapping[str, Row]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    gathered = _gathered(done)
    rows = [r for r in ("20 facts", *CONTROLS) if r in gathered]
    figures = {
        "recall": "recall", "unknown, other name": "unknown kept:\nother name", "unknown, other attribute": "unknown kept:\nother attribute",
        "unknown in context": "unknown kept:\nin a context", "in context lost": "answers from\ncontexts kept",
        "context overruled": "contradicting\ncontexts win",
    }  # fmt: skip
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    width = 0.8 / max(1, len(rows))
    for i, row in enumerate(rows):
        values = [gathered[row][f] for f in figures]
        turned = [
            [1 - v for v in some] if f.endswith(("lost", "overruled")) else some
            for f, some in zip(figures, values, strict=True)
        ]
        means = [statistics.fmean(some) for some in turned]
        reach = [
            [m - min(s) for m, s in zip(means, turned, strict=True)],
            [max(s) - m for m, s in zip(means, turned, strict=True)],
        ]
        axes.bar([j + i * width for j in range(len(figures))], means, width, yerr=reach, capsize=2, label=row)
    axes.set_xticks([j + 0.4 - width / 2 for j in range(len(figures))], list(figures.values()), fontsize=8)
    axes.axhline(0.95, color="grey", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share")
    axes.set_title(
        "20 facts in an adapter: with all precautions, and without one of them (bars: mean, least and most of the seeds)",
        fontsize=10,
    )
    figure.legend(fontsize=8, ncols=5, loc="outside lower center")
    figure.savefig(file, dpi=150)


def _on_gpu(args: argparse.Namespace) -> int:
    """Seconds and memory of a training step, and an adapter's bytes, on a random network of Qwen3-8B's shape."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from ..exercises import divergences, followed
    from ..lora import linears, made
    from ..parametric import Twin
    from . import report

    if not torch.cuda.is_available():
        raise InvalidArgument("--gpu: this torch finds no GPU")
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("cuda"):
        network = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    pairs = {
        n: (
            torch.randn(8, m.in_features, dtype=torch.bfloat16) / m.in_features**0.5,
            torch.zeros(m.out_features, 8, dtype=torch.bfloat16),
        )
        for n, m in linears(network).items()
    }
    lora = made("random", pairs)
    twin = Twin(network)
    twin.put("student", lora)
    weights = [w.requires_grad_(True) for pair in twin.pairs("student").values() for w in pair]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    before = torch.cuda.memory_allocated()
    rows = [(torch.randint(0, 150_000, (64,)).tolist(), list(range(56, 63))) for _ in range(32)]
    places = sum(len(at) for _, at in rows)
    likely = torch.randint(0, 150_000, (places, 32), device="cuda")
    logs = torch.full((places, 32), -4.0, device="cuda")
    seconds = []
    for _ in range(8):
        torch.cuda.synchronize()
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with twin.active(["student"]) as student:
            divergences(likely, logs, followed(student, rows, network.device)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    row = {
        "seconds a step of 32 rows of 64 tokens": statistics.median(seconds[2:]), "GiB beside the weights": (torch.cuda.max_memory_allocated() - before) / 2**30,
        "adapter bytes": float(lora.bytes),
    }  # fmt: skip
    print(table(("Qwen3-8B's shape", torch.cuda.get_device_name()), list(row.items())))
    report("distil-gpu", args, row)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
