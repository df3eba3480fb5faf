"""Time to the first token of a prompt whose beginning is held as keys and values, against running it whole.

A network with random weights: time does not depend on what they are. All ways are measured in turns, in the same rounds, because
machines are noisy; a ratio is the median over the rounds of the two times of one round. What is compared:

  whole    the whole prompt is run, logits of its last token only
  held     `LocalModel.generate` with the context on its shelf: lookup, a fresh cache, the query, the first token drawn
  copied   transformers alone, its cache of the context deep-copied before each use, as its documentation advises
  cropped  transformers alone, its cache used itself and cropped afterwards, which only one request at a time may do
  alone    the query without any context, which is less work: it attends to nothing before it
  ready    the query behind a cache that stands ready: what `held` would take if looking up and copying took no time

How much more work than `alone` the attention to the context is, is printed beside (`bound`): no exact way takes less than that times
`alone`, on a machine that does all arithmetic equally fast.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from ..prompt import Prompt
from . import arguments, progress, report, table
from .trial import Target

if TYPE_CHECKING:
    from ..model import LocalModel

WAYS = ("whole", "held", "copied", "cropped", "alone", "ready")
LINE = 40  # tokens of a line of the context: a cache can be cut behind each
WITHIN = 1.15  # times the query alone

Times = dict[str, dict[int, float]]  # seconds by way and round


@dataclass(frozen=True, slots=True)
class Preset:
    """A network's shape, and the prompts that are measured with it. The shapes are Qwen3's: grouped queries, norms of queries and keys."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool
    dtype: str
    contexts: tuple[int, ...]
    queries: tuple[int, ...]
    width: int = 128  # of a head

    def work(self, context: int, query: int) -> tuple[float, float]:
        """Floating-point operations of running the query alone (logits of its last token), and of its attention to the context."""
        attended = self.hidden * self.width * (2 * self.heads + 2 * self.kv_heads)
        linear = self.layers * (attended + 3 * self.hidden * self.feed_forward) * 2 * query
        each = 4 * self.heads * self.width * self.layers
        alone = linear + each * query * (query + 1) / 2 + 2 * self.hidden * self.vocabulary
        return alone, float(each * query * context)


PRESETS = {
    # every width of Qwen3-8B divided by four, and as many layers as make 100 M parameters
    "cpu-100m": Preset(7, 1024, 8, 2, 3072, 16_384, True, "float32", (500, 1000, 2000, 4000, 8000), (167,)),
    "qwen3-8b": Preset(36, 4096, 32, 8, 12_288, 151_936, False, "bfloat16", (583, 2773, 6064), (167, 303, 953)),
    "qwen3-32b": Preset(64, 5120, 64, 8, 25_600, 151_936, False, "bfloat16", (583, 2773, 6064), (167, 303, 953)),
}

# How much of the time to the first token the MemOS paper (arXiv 2507.03724, its table on KV memories) saved, in percent, by context and query
PAPER = {
    "qwen3-8b": {
        (6064, 953): 79.1, (6064, 303): 91.1, (6064, 167): 94.2, (2773, 953): 64.6, (2773, 303): 85.1, (2773, 167): 89.7,
        (583, 953): 23.0, (583, 303): 55.6, (583, 167): 71.3,
    },
    "qwen3-32b": {
        (6064, 953): 71.4, (6064, 303): 84.3, (6064, 167): 88.8, (2773, 953): 56.9, (2773, 303): 75.1, (2773, 167): 81.2,
        (583, 953): 18.6, (583, 303): 39.6, (583, 167): 53.5,
    },
}  # fmt: skip
PAPER_SECONDS = {("qwen3-8b", 6064, 167): 0.12}


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write down."""
    args = _arguments(argv)
    shape = PRESETS[args.preset]
    shape = replace(
        shape,
        layers=args.layers or shape.layers,
        contexts=tuple(args.contexts or shape.contexts),
        queries=tuple(args.queries or shape.queries),
    )
    bench = Bench(shape, args)
    cells = [bench.cell(context, query) for context in shape.contexts for query in shape.queries]
    targets = _targets(args, cells)
    _show(args.preset, cells, targets)
    if args.plot is not None:
        _plot(args, cells)
    found = {"machine": bench.machine(), "shape": asdict(shape), "cells": cells}
    report("ttft", args, found | {"targets": [asdict(t) | {"met": t.met} for t in targets]})
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments("ttft", (__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu-100m", help="the network (default: cpu-100m)")
    parser.add_argument("--contexts", type=int, nargs="+", metavar="TOKENS", help="instead of the preset's")
    parser.add_argument("--queries", type=int, nargs="+", metavar="TOKENS", help="instead of the preset's")
    parser.add_argument("--rounds", type=int, default=9, help="of all ways in turn (default: 9)")
    parser.add_argument("--threads", type=int, help="that torch may use (default: as many as it likes)")
    parser.add_argument("--device", help="cuda or cpu (default: cpu for cpu-100m, cuda for the others)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw times against context lengths there")
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)  # fewer than the preset has, to try it out
    args = parser.parse_args(argv)
    if args.rounds < 1 or min([*(args.contexts or [1]), *(args.queries or [1]), args.layers or 1]) < 1:
        parser.error("rounds, contexts and queries are counts from 1 on")
    args.device = args.device or ("cpu" if args.preset.startswith("cpu") else "cuda")
    return args


class Bench:
    """The network, and what is measured with it."""

    def __init__(self, shape: Preset, args: argparse.Namespace) -> None:
        import torch

        from ..model import LocalModel

        if args.device.startswith("cuda") and not torch.cuda.is_available():
            raise InvalidArgument(f"--device {args.device}: this torch finds no GPU; --preset cpu-100m needs none")
        if args.threads:
            torch.set_num_threads(args.threads)
        self.shape = shape
        self.rounds: int = args.rounds
        self.device = torch.device(args.device)
        progress(f"making a random {args.preset} of {shape.layers} layers on {self.device}")
        network = _network(shape, self.device)
        self.parameters = sum(p.numel() for p in network.parameters())
        # the same weights, as transformers itself would use them
        shared: dict[int, Any] = {id(t): t for t in (*network.parameters(), *network.buffers())}
        self.plain = copy.deepcopy(network, shared)
        self.model: LocalModel = LocalModel.of(
            network, _tokenizer(shape.vocabulary), name=args.preset, cache_bytes=16 << 30
        )
        self.model.fingerprint  # noqa: B018  # made once for a model, not for a prompt

    def machine(self) -> dict[str, Any]:
        """What it ran on, beyond what all benches note."""
        import torch

        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return {"gpu": gpu, "torch_threads": torch.get_num_threads(), "parameters": self.parameters}

    def cell(self, context: int, query: int) -> dict[str, Any]:
        """All ways with one context and one query: times, ratios, and how far the answers are from that of `whole`."""
        progress(f"context {context:,}, query {query:,}")
        trial = Trial(self, context, query)
        for way in WAYS:  # for what the first time costs more
            trial.run(way)
        times: Times = {way: {} for way in WAYS}
        work: Times = {way: {} for way in WAYS}
        for i in range(self.rounds):
            for way in WAYS[i % len(WAYS) :] + WAYS[: i % len(WAYS)]:
                if (
                    way != "whole" or i % 3 == 0
                ):  # which takes many times longer than all others, and need not be known as exactly
                    times[way][i], work[way][i] = trial.timed(way)
        alone, attention = self.shape.work(context, query)
        found = {
            "context": context, "query": query, "rounds": self.rounds, "bound": round(1 + attention / alone, 3),
            "seconds": {way: _median(t) for way, t in times.items()}, "ratios": _ratios(times), "same": trial.compared(),
        }  # fmt: skip
        if (
            self.device.type == "cpu"
        ):  # which others' work on the machine does not lengthen, unlike the time that passes
            found |= {"cpu_seconds": {way: _median(t) for way, t in work.items()}, "cpu_ratios": _ratios(work)}
        return found


class Trial:
    """One context and one query, and a call for each way to the first token."""

    def __init__(self, bench: Bench, context: int, query: int) -> None:
        import torch

        self._torch = torch
        self._bench, self._model, self._query = bench, bench.model, query
        draw = random.Random(context * 10_000 + query)
        ids = [draw.randrange(bench.shape.vocabulary) for _ in range(context + query)]
        self._ids = torch.tensor([ids], device=bench.device)
        self._prompt = _prompt(ids)
        self._model.shelf.clear()
        self._model.generate(_prompt(ids[:context]), max_tokens=1)
        self._theirs = self._new_cache()
        with torch.inference_mode():
            bench.plain(input_ids=self._ids[:, :context], past_key_values=self._theirs, logits_to_keep=1)
        self._ready = self._opened()
        self._ways: dict[str, Callable[[], int]] = {
            "whole": lambda: self._next(bench.plain, self._ids, self._new_cache()),
            "held": self._held,
            "copied": lambda: self._next(bench.plain, self._ids[:, context:], copy.deepcopy(self._theirs)),
            "cropped": lambda: self._next(bench.plain, self._ids[:, context:], self._theirs, crop=True),
            "alone": lambda: self._next(bench.plain, self._ids[:, context:], self._new_cache()),
            "ready": lambda: self._next(bench.model.network, self._ids[:, context:], self._ready, crop=True),
        }
        self._first: dict[str, int] = {}

    def run(self, way: str) -> None:
        """Draw the first token in one way."""
        with self._torch.inference_mode():
            self._first[way] = self._ways[way]()

    def timed(self, way: str) -> tuple[float, float]:
        """Seconds until the first token was drawn, and seconds that this process computed for it."""
        if self._bench.device.type == "cuda":
            self._torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        self.run(way)  # ends with the token on the host: what the device does for it is done
        return time.perf_counter() - wall, time.process_time() - cpu

    def compared(self) -> dict[str, Any]:
        """How far the logits behind a held context are from those of the whole prompt, and whether all ways drew the same token."""
        with self._torch.inference_mode():
            whole = self._bench.plain(input_ids=self._ids, logits_to_keep=1).logits[:, -1].float()
        ours = self._model.forward(self._prompt.ids[-self._query :], self._opened())
        log_whole, log_ours = whole.log_softmax(-1), ours.log_softmax(-1)
        return {
            "first_token": all(self._first[w] == self._first["whole"] for w in ("held", "copied", "cropped", "ready")),
            "max_logit_difference": float((whole - ours).abs().max()), "largest_logit": float(whole.abs().max()),
            "kl": float((log_whole.exp() * (log_whole - log_ours)).sum()),
        }  # fmt: skip

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._bench.plain.config)

    def _next(self, network: Any, ids: Any, cache: Any, *, crop: bool = False) -> int:
        found = network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = int(found.logits[:, -1].argmax())
        if crop:
            cache.crop(-ids.shape[1])
        return token

    def _held(self) -> int:
        made = self._model.generate(self._prompt, max_tokens=1, keep=False)
        assert made.usage.prefilled == self._query, "the context was to be held"
        return made.ids[0]

    def _opened(self) -> Any:
        """A fresh cache of the context, made as `LocalModel` makes it."""
        from .. import chain

        start = chain.root(self._model.fingerprint, ())
        found = self._model.shelf.find(start, self._prompt.ids[: -self._query])
        return self._model.cache([(f.tensor, f.tokens) for f in found], self._query + 1)


def _network(shape: Preset, device: Any) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.feed_forward, head_dim=shape.width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=40_960, tie_word_embeddings=shape.tied, bos_token_id=None, eos_token_id=None,
        dtype=shape.dtype,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, shape.dtype))
    try:
        with (
            device
        ):  # made where it is used, in the type that it is used in: a copy of 32 B parameters might not fit beside
            return Qwen3ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def _tokenizer(vocabulary: int) -> Any:
    """One word for each token: the prompts here are made of ids, and an answer's text is not looked at."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def _prompt(ids: Sequence[int]) -> Prompt:
    return Prompt("", tuple(ids), tuple(range(len(ids))), tuple(range(LINE, len(ids) + 1, LINE)))


def _median(times: dict[int, float]) -> float:
    return round(statistics.median(times.values()), 6)


def _ratios(times: Times) -> dict[str, float]:
    def of(way: str, other: str) -> float:
        both = times[way].keys() & times[other].keys()
        return round(statistics.median(times[way][i] / times[other][i] for i in both), 4)

    return {f"held/{other}": of("held", other) for other in WAYS if other != "held"} | {
        "ready/alone": of("ready", "alone")
    }


def _targets(args: argparse.Namespace, cells: list[dict[str, Any]]) -> list[Target]:
    found = []
    for cell in cells:
        where = f"context {cell['context']:,}, query {cell['query']:,}"
        held = cell["ratios"]["held/alone"]
        found.append(Target(f"{where}: times the query alone (bound {cell['bound']:.2f})", held, WITHIN))
        saved = 100 * (1 - cell["ratios"]["held/whole"])
        paper = PAPER.get(args.preset, {}).get((cell["context"], cell["query"]))
        if paper is not None:
            found.append(Target(f"{where}: percent saved, more than the paper's", saved, paper, at_least=True))
        seconds = PAPER_SECONDS.get((args.preset, cell["context"], cell["query"]))
        if seconds is not None:
            found.append(Target(f"{where}: seconds, less than the paper's", cell["seconds"]["held"], seconds))
    return found


def _show(preset: str, cells: list[dict[str, Any]], targets: list[Target]) -> None:
    print(table((f"{preset}, ms", "context", *WAYS, "Δlogit", "same token"), [
        (f"query {c['query']}", f"{c['context']:,}", *(1000 * c["seconds"][w] for w in WAYS),
         f"{c['same']['max_logit_difference']:.1e}", "yes" if c["same"]["first_token"] else "NO") for c in cells
    ]))  # fmt: skip
    for name, kind in (("time that passed", "ratios"), ("processor time", "cpu_ratios")):
        if kind in cells[0]:
            print("\n" + table((f"ratios of {name}", "context", *cells[0][kind], "bound"), [
                (f"query {c['query']}", f"{c['context']:,}", *c[kind].values(), c["bound"]) for c in cells
            ]))  # fmt: skip
    print("\n" + table(("target", "measured", "wanted", "met"), [
        (t.what, t.measured, f"{'≥' if t.at_least else '≤'} {t.limit:g}", "yes" if t.met else "NO") for t in targets
    ]))  # fmt: skip


def _plot(args: argparse.Namespace, cells: list[dict[str, Any]]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidArgument(f"--plot needs matplotlib: pip install matplotlib ({error})") from error
    query = cells[0]["query"]
    kind = "cpu_seconds" if "cpu_seconds" in cells[0] else "seconds"
    drawn = [c for c in cells if c["query"] == query]
    labels = {
        "whole": "whole prompt run", "copied": "transformers, cache copied", "cropped": "transformers, cache cropped",
        "held": "memos: keys and values held", "ready": "cache standing ready", "alone": "query alone, no context",
    }  # fmt: skip
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for way, label in labels.items():
        style = {"held": "o-", "whole": "s-"}.get(way, ".--")
        axes.plot([c["context"] for c in drawn], [c[kind][way] for c in drawn], style, label=label)
    took = "seconds" if kind == "seconds" else "seconds of processor time"
    axes.set(xlabel=f"tokens of context (query of {query})", ylabel=f"{took} to the first token", yscale="log")
    axes.set_title(f"{args.preset}, random weights, {args.device}")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(args.plot, dpi=120)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
