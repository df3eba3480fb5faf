"""Trains the tiny model: `python -m tests.tiny_lm.train FOLDER --seed 0`.

A curriculum of stages, each left when four of five answers in it are right; then `steady` tokens of the last stage at full
rate, `decay` more while the rate falls to a fiftieth, and `again` more from half the rate down. Every step's documents come from the seed and the step's
number alone, so a run that was killed goes on from its last checkpoint as if nothing had happened. One process, one thread.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from . import tokenizer as tokens
from .data import CHAT, Document, Mixture, document
from .evaluate import glance
from .network import TinyLM, configuration, initialise

STAGES = (
    Mixture(("names",), 8, 16),
    Mixture(("grid",), 4, 8),
    Mixture(("plain", "plain", "prose", "list"), 2, 5),
    Mixture(("plain", "prose", "list"), 4, 8),
    Mixture(("plain", *CHAT), 4, 12, unknown=0.15, alike=0.3, filler=0.15, filler_most=4),
    Mixture(("plain", *CHAT), 2, 20, unknown=0.2, untyped=0.6, alike=0.4, filler=0.2, filler_most=10, empty=0.03),
    Mixture(
        ("plain", *CHAT),
        2,
        40,
        unknown=0.2,
        untyped=0.6,
        alike=0.4,
        filler=0.4,
        filler_most=40,
        empty=0.05,
        skewed=True,
    ),
)
ADVANCE_AT = 0.8
JUDGED = 400  # answers of the current stage that the share of right ones is taken over
EARLIER = 0.25  # share of documents from the three stages before
STEP_TOKENS, GROUP_STEPS = 1024, 4
RATE, LAST_RATE, WARM_UP = 2e-3, 0.02, 40
OTHER_WEIGHT, OTHER_SAMPLE = 0.03, 96  # of tokens that are no answers, so that every logit means something


@dataclass(slots=True)
class Progress:
    """Where a run stands: its stage, groups of steps, steps, tokens read in all and since the last stage, recent answers."""

    stage: int = 0
    group: int = 0
    step: int = 0
    tokens: int = 0
    tokens_last: int = 0
    seconds: float = 0.0
    recent: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tokens of the last stage: at full rate, while it falls, and in a second fall from half of it."""

    steady: float = 1.5e6
    decay: float = 1.5e6
    again: float = 7e6

    @property
    def whole(self) -> float:
        """All of them."""
        return self.steady + self.decay + self.again


@dataclass(frozen=True, slots=True)
class Batch:
    """ids (rows, tokens); flat positions before each answer token, what comes there, which answer it belongs to, and which
    answers are of the current stage."""

    ids: np.ndarray
    before: np.ndarray
    target: np.ndarray
    answer: np.ndarray
    judged: np.ndarray


def batches(seed: int, progress: Progress, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """The next group of steps, documents of like length together."""
    rng = random.Random(f"{seed}/{progress.group}")
    papers: list[tuple[list[int], list[tuple[int, int]], bool]] = []
    size = 0
    while size < STEP_TOKENS * GROUP_STEPS:
        current = progress.stage == 0 or rng.random() >= EARLIER
        stage = progress.stage if current else rng.randint(max(progress.stage - 3, 0), progress.stage - 1)
        papers.append((*encode(document(rng, STAGES[stage]), tokenizer), current))
        size += len(papers[-1][0])
    papers.sort(key=lambda paper: len(paper[0]))
    rows: list[list[tuple[list[int], list[tuple[int, int]], bool]]] = []
    for paper in papers:
        if rows and (len(rows[-1]) + 1) * len(paper[0]) <= STEP_TOKENS * 5 // 4:
            rows[-1].append(paper)
        else:
            rows.append([paper])
    rng.shuffle(rows)
    yield from map(_collate, rows)


def encode(paper: Document, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[tuple[int, int]]]:
    """A document's ids, and its answers as spans of them."""
    encoding = tokenizer.backend_tokenizer.encode(paper.text)
    ends = np.array([end for _, end in encoding.offsets])
    spans = np.searchsorted(ends, np.array(paper.answers, dtype=int).reshape(-1, 2), side="right")
    return encoding.ids, [(int(start), int(end)) for start, end in spans]


def _collate(papers: list[tuple[list[int], list[tuple[int, int]], bool]]) -> Batch:
    width = max(len(ids) for ids, _, _ in papers)
    table = np.zeros((len(papers), width), dtype=np.int64)
    before: list[int] = []
    answer: list[int] = []
    judged: list[bool] = []
    for row, (ids, spans, current) in enumerate(papers):
        table[row, : len(ids)] = ids
        for start, end in spans:
            before.extend(range(row * width + start - 1, row * width + end - 1))
            answer.extend([len(judged)] * (end - start))
            judged.append(current)
    position = np.array(before)
    return Batch(table, position, table.reshape(-1)[position + 1], np.array(answer), np.array(judged))


def loss_and_right(network: TinyLM, batch: Batch, draw: torch.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """The loss of a batch, and for each answer whether it was right as a whole."""
    ids = torch.from_numpy(batch.ids)
    hidden = network(ids).flatten(0, 1)
    logits = network.logits(hidden[torch.from_numpy(batch.before)])
    target = torch.from_numpy(batch.target)
    other = torch.randint(0, ids.shape[1] - 1, (OTHER_SAMPLE,), generator=draw)
    other = other + torch.randint(0, ids.shape[0], (OTHER_SAMPLE,), generator=draw) * ids.shape[1]
    follows = ids.flatten()[other + 1]
    follows = follows.masked_fill(follows == 0, -100)  # the padding
    rest = F.cross_entropy(network.logits(hidden[other]), follows)
    wrong = (logits.argmax(-1) != target).numpy()
    right = np.bincount(batch.answer, wrong, len(batch.judged)) == 0
    return F.cross_entropy(logits, target) + OTHER_WEIGHT * rest, right


def rate(progress: Progress, schedule: Schedule) -> float:
    """The learning rate of the next step."""
    if progress.tokens_last < schedule.steady + schedule.decay:
        fallen, full = max(progress.tokens_last - schedule.steady, 0.0) / max(schedule.decay, 1.0), RATE
    else:
        fallen, full = (progress.tokens_last - schedule.steady - schedule.decay) / max(schedule.again, 1.0), RATE / 2
    return full * min(1.0, (progress.step + 1) / WARM_UP) * (1 - (1 - LAST_RATE) * min(fallen, 1.0))


def train(folder: Path, seed: int, schedule: Schedule) -> None:
    """Runs to the end, from the folder's checkpoint where there is one, and exports the model into the folder."""
    torch.set_num_threads(1)
    tokenizer = tokens.build()
    config = configuration(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    network = TinyLM(config)
    initialise(network, config, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    progress = Progress()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
    last = saved_at = told_at = glanced_at = time.monotonic()
    while progress.tokens_last < schedule.whole:
        draw = torch.Generator().manual_seed(seed * 1_000_003 + progress.group)
        for batch in batches(seed, progress, tokenizer):
            for group in optimizer.param_groups:
                group["lr"] = rate(progress, schedule)
            loss, right = loss_and_right(network, batch, draw)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            progress.step += 1
            progress.tokens += batch.ids.size
            progress.tokens_last += batch.ids.size * (progress.stage == len(STAGES) - 1)
            progress.recent = [*progress.recent, *map(int, right[batch.judged])][-JUDGED:]
        progress.group += 1
        now = time.monotonic()
        progress.seconds += now - last
        last = now
        score = float(np.mean(progress.recent))
        if now - told_at > 15:
            told_at = now
            print(f"{_line(progress)} right {score:.3f} loss {loss.item():.3f}", flush=True)
        if len(progress.recent) == JUDGED and score >= ADVANCE_AT and progress.stage < len(STAGES) - 1:
            progress.stage += 1
            progress.recent = []
            print(f"{_line(progress)} next stage", flush=True)
        if now - saved_at > 60:
            saved_at = now
            _save(checkpoint, network, optimizer, progress)
        if progress.stage > 3 and now - glanced_at > 300:
            print(f"{_line(progress)} {glance(network, tokenizer)}", flush=True)
            last = glanced_at = time.monotonic()
    _save(checkpoint, network, optimizer, progress)
    export(network, config, tokenizer, folder / "model")
    print(f"{_line(progress)} {glance(network, tokenizer)}", flush=True)


def _line(progress: Progress) -> str:
    return f"stage {progress.stage} step {progress.step} tokens {progress.tokens / 1e6:.2f}M ({progress.tokens_last / 1e6:.2f}M) {progress.seconds:.0f}s"


def _save(path: Path, network: TinyLM, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Whole or not at all: a kill leaves the checkpoint before."""
    saved = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "progress": asdict(progress)}
    torch.save(saved, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def export(network: TinyLM, config: Qwen3Config, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes what `AutoModelForCausalLM` and `AutoTokenizer` load."""
    model = Qwen3ForCausalLM(config)
    model.load_state_dict({**network.state_dict(), "lm_head.weight": network.model.embed_tokens.weight})
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=32, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for part in fields(Schedule):
        parser.add_argument(
            f"--{part.name}", type=float, default=part.default, help="tokens of this part of the schedule"
        )
    given = parser.parse_args()
    train(given.folder, given.seed, Schedule(given.steady, given.decay, given.again))
