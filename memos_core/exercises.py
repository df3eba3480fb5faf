"""Exercises for an adapter: tokens, and what the model itself says behind them when it has the memories before it.

The teacher is the model, with what an answer needs in its context; the student will be the same model with an adapter and without that
context (context distillation: arXiv 2209.15189; for facts, with questions in many forms: Prompt Distillation, arXiv 2412.14964). Here the
teacher is asked. Knows prompts and logits; knows no adapters and no memories' records.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import alteration, chain
from .alteration import Alteration, altered
from .brief import FOOTER, HEADER
from .model import LocalModel
from .phrasing import Lesson, Point, contradicted
from .prompt import Prompt
from .sampling import ends

LIKELY = 32  # tokens whose probabilities are kept of a distribution; the rest counts as one
_BATCH = 8192  # tokens of a batch
_SHARED = 16  # tokens from which on a common beginning is run once


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a model says to a prompt, greedily: token ids (one that ends the answer among them), text, and the distribution that each
    was taken from: its likeliest tokens and their log-probabilities, of shape [tokens, likely]."""

    prompt: Prompt
    ids: tuple[int, ...]
    text: str
    likely: torch.Tensor
    logs: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Exercise:
    """Tokens, and the distributions that are to follow those at the positions `at` (see `Said`). `alone`: no context is before it."""

    ids: tuple[int, ...]
    at: tuple[int, ...]
    likely: torch.Tensor
    logs: torch.Tensor
    alone: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A question to test with: `ids` are a prompt and the right answer behind it; of those at `judged` each must be the likeliest
    there. `right` is False where the model did not find the answer with the memory before it."""

    ids: tuple[int, ...]
    judged: tuple[int, ...]
    right: bool
    kind: str = ""


Quote = Callable[[Sequence[str]], str]
"""Texts as they stand before a model."""


def quoted(texts: Sequence[str]) -> str:
    """Texts as recalled memories: data, framed as `brief` frames it."""
    return HEADER + "".join(f"- [2026-01-01 00:00] note: {text}\n" for text in texts) + FOOTER


def asked(model: LocalModel, question: str, context: str = "", turns: Sequence[tuple[str, str]] = ()) -> Prompt:
    """A question behind a context and earlier turns (question and answer each). Without a chat template, as plain text."""
    if getattr(model.tokenizer, "chat_template", None):
        said = [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
        head = [{"role": "system", "content": context}] if context else []
        return model.prompt([*head, *said, {"role": "user", "content": question}])
    before = "".join(f"Q: {q} A: {a}\n" for q, a in turns)
    return model.encode(f"{context}\n{before}Q: {question} A:" if context else f"{before}Q: {question} A:")


def begun(model: LocalModel, stem: str, context: str = "") -> Prompt:
    """A sentence that is to be finished, behind a context, on a line of its own."""
    return model.encode(f"{context}\n{stem}" if context else stem)


# --- the teacher -------------------------------------------------------------------------------------------------------------


def said(
    model: LocalModel,
    prompts: Sequence[Prompt],
    *,
    most: int = 40,
    held: Sequence[tuple[Sequence[int], torch.Tensor]] = (),
    change: Alteration | None = None,
) -> list[Said]:
    """What the plain model, or one that is changed, says to prompts. What they have in common at their beginnings is run once.

    most: tokens of an answer. held: keys and values of their beginning that are there already, as blocks (token ids, tensor of
        [2, layers, heads, tokens, dimension]): those are not run at all.

    Raises ContextTooLong, before anything is run, for a prompt that does not fit the window with so many tokens behind it; OutOfMemory.
    """
    found: list[Said] = []
    for prompt in prompts:
        model.require_room(len(prompt.ids), most)
    changed = altered(change) if change is not None else nullcontext()
    with alteration.plain(), torch.inference_mode(), model.memory_errors(), changed:
        for some in _batches(prompts, lambda p: len(p.ids) + most):
            found += _said(model, some, most, held)
    return found


def _said(
    model: LocalModel, prompts: Sequence[Prompt], most: int, held: Sequence[tuple[Sequence[int], torch.Tensor]]
) -> list[Said]:
    cache, shared = _begun(model, [p.ids for p in prompts], held, most)
    longest = max(len(p.ids) for p in prompts) - shared
    pads = [longest - (len(p.ids) - shared) for p in prompts]
    ids = torch.tensor([[0] * pad + list(p.ids[shared:]) for p, pad in zip(prompts, pads, strict=True)])
    mask = torch.ones((len(prompts), shared + longest), dtype=torch.long, device=model.device)
    for row, pad in enumerate(pads):
        mask[row, shared : shared + pad] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    stop = torch.tensor(sorted(ends(model.tokenizer, model.network.generation_config)), device=model.device)
    logits = model.forward(ids, cache, attention_mask=mask, position_ids=positions)
    drawn, likely, logs = [], [], []
    over = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    while True:
        top = logits.log_softmax(-1).topk(min(LIKELY, logits.shape[-1]), -1)
        drawn.append(torch.where(over, -1, top.indices[:, 0]))
        likely.append(top.indices)
        logs.append(top.values)
        over = over | torch.isin(top.indices[:, 0], stop)
        if len(drawn) == most or bool(over.all()):
            break
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1
        logits = model.forward(top.indices[:, :1], cache, attention_mask=mask, position_ids=positions)
    words, all_likely, all_logs = (torch.stack(t, 1).cpu() for t in (drawn, likely, logs))
    found = []
    for row, prompt in enumerate(prompts):
        answer = tuple(i for i in words[row].tolist() if i >= 0)
        text = model.tokenizer.decode(answer, skip_special_tokens=True)
        found.append(Said(prompt, answer, text, all_likely[row, : len(answer)], all_logs[row, : len(answer)]))
    return found


def _begun(
    model: LocalModel, prompts: Sequence[Sequence[int]], held: Sequence[tuple[Sequence[int], torch.Tensor]], room: int
) -> tuple[Any, int]:
    """A cache with a row for each prompt, filled with what they have in common at their beginnings, and how many tokens that is."""
    shared = _common(prompts)
    if not model.reuses_blocks or shared < _SHARED:
        return model.cache(), 0
    blocks, at = [], 0
    for ids, tensor in held:
        same = min(chain.common(ids, prompts[0][at:]), shared - at)
        if same:
            blocks.append((tensor.to(model.device, model.dtype), same))
        at += same
        if same < len(ids):
            break
    front = model.cache(blocks, shared - at)
    if at < shared:
        model.forward(prompts[0][at:shared], front)
    front.batch_repeat_interleave(len(prompts))
    return front, shared


def followed(
    network: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device, cache: Any = None
) -> torch.Tensor:
    """The logits behind positions of rows of tokens, float32, of shape [positions of all rows, vocabulary]. Padded at the end, which
    no token before it sees, so there is no mask; and the output head runs at the wanted positions only.

    cache: an empty one, and what the rows have in common at their beginnings is run once.
    """
    ids = [ids for ids, _ in rows]
    start = 0 if cache is None else min(_common(ids), *(at[0] for _, at in rows))
    more: dict[str, Any] = {"use_cache": False}
    if start:
        more = {"use_cache": True, "past_key_values": cache}
        network(input_ids=torch.tensor([ids[0][:start]], device=device), logits_to_keep=1, **more)
        cache.batch_repeat_interleave(len(rows))
    wanted = sorted({i - start for _, at in rows for i in at})
    column_of = {position: i for i, position in enumerate(wanted)}
    inputs = tabled([one[start:] for one in ids], device)
    logits: torch.Tensor = network(**inputs, **more, logits_to_keep=torch.tensor(wanted, device=device)).logits
    picked = [(row, column_of[i - start]) for row, (_, at) in enumerate(rows) for i in at]
    row, column = torch.tensor(picked, device=device).T
    return logits[row, column].float()


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens rows have in common at their beginnings, but for the last of the shortest."""
    shared = min(len(ids) for ids in rows) - 1
    for other in rows[1:]:
        shared = min(shared, chain.common(rows[0], other))
    return shared


def tabled(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Rows of tokens as a network takes them, padded at the end."""
    longest = max(len(ids) for ids in rows)
    return {"input_ids": torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in rows], device=device)}


def divergences(likely: torch.Tensor, logs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL of each distribution (its likeliest tokens, and all others as one) against that of logits, in nats, of shape [positions]."""
    theirs = logits.gather(-1, likely) - logits.logsumexp(-1, keepdim=True)
    known = (logs.exp() * (logs - theirs)).sum(-1)
    if likely.shape[-1] == logits.shape[-1]:
        return known
    rest = (1 - logs.exp().sum(-1)).clamp(min=1e-6)
    other = (1 - theirs.exp().sum(-1)).clamp(min=1e-6)
    return known + rest * (rest.log() - other.log())


# --- exercises and probes ----------------------------------------------------------------------------------------------------


def exercise(prompt: Sequence[int], answer: Said, *, alone: bool = False) -> Exercise:
    """To say behind a prompt what was said, perhaps behind another one. alone: no context is before the question."""
    first = len(prompt) - 1
    at = tuple(range(first, first + len(answer.ids)))
    return Exercise((*prompt, *answer.ids[:-1]), at, answer.likely, answer.logs, alone)


def probe(prompt: Sequence[int], answer: Said, words: str, tokenizer: Any, kind: str = "") -> Probe:
    """Whether behind a prompt it is said what was said, perhaps behind another one: the words that matter, or else all of it."""
    judged = _holding(answer, words, tokenizer)
    first = len(prompt) - 1
    places = judged or range(len(answer.ids))
    return Probe((*prompt, *answer.ids), tuple(first + i for i in places), bool(judged or not words), kind)


def _holding(answer: Said, words: str, tokenizer: Any) -> list[int]:
    """The tokens of an answer that hold words, [] where it does not."""
    at = answer.text.casefold().find(words.casefold()) if words else -1
    if at < 0:
        return []
    lengths = [len(tokenizer.decode(answer.ids[: i + 1], skip_special_tokens=True)) for i in range(len(answer.ids))]
    starts = [0, *lengths[:-1]]
    return [i for i, (s, e) in enumerate(zip(starts, lengths, strict=True)) if e > at and s < at + len(words) and e > s]


def sentence(answer: Said, tokenizer: Any) -> Said:
    """What was said up to the end of its first sentence: what comes behind the end of a sentence that was begun is any text."""
    for count in range(1, len(answer.ids)):
        text = tokenizer.decode(answer.ids[:count], skip_special_tokens=True)
        if text.rstrip().endswith((".", "!", "?")) or "\n" in text.lstrip():
            return replace(
                answer, ids=answer.ids[:count], text=text, likely=answer.likely[:count], logs=answer.logs[:count]
            )
    return answer


def conversation(model: LocalModel, context: str, answers: Sequence[tuple[str, Said]]) -> Exercise | None:
    """Questions and answers behind one context, one after the other: what the plain model says in each place. None if none is found,
    or if all of it does not fit the window."""
    turns = [(question, answer.text) for question, answer in answers]
    prompt = asked(model, answers[-1][0], context, turns[:-1])
    ids = (*prompt.ids, *answers[-1][1].ids)
    at: list[int] = []
    place = len(context)
    for question, text in turns[:-1]:
        start = prompt.text.find(text, prompt.text.find(question, place) + len(question))
        if start < 0 or not text:
            return None
        place = start + len(text)
        at += range(prompt.token_at(start) - 1, prompt.token_at(place - 1) + 1)
    at += range(len(prompt.ids) - 1, len(ids) - 1)
    if len(ids) > model.window:
        return None
    with model.memory_errors(), model.exclusive() as network, torch.inference_mode():
        logits = followed(network, [(ids, at)], model.device)
    top = logits.log_softmax(-1).topk(min(LIKELY, logits.shape[-1]), -1)
    return Exercise(ids, tuple(at), top.indices.cpu(), top.values.cpu())


def contexts(
    rng: random.Random, lesson: Lesson, count: int, size: tuple[int, int], *, conflicts: int = 0
) -> Iterator[tuple[list[Point], list[Point]]]:
    """Made-up points that stand together in a context, and those to ask for behind it: some that it tells, fewer that it does not.
    With conflicts, among them are so many points of the memories, with answers that are not theirs."""
    others = list(lesson.others)
    for _ in range(count):
        there = rng.sample(others, max(0, min(rng.randint(*size), len(others) - 1)))
        pool = (*lesson.points, *others)
        changed = [
            contradicted(p, rng.choice(pool)) for p in rng.sample(lesson.points, min(conflicts, len(lesson.points)))
        ]
        against = [p for p in changed if p is not None]
        said = {p.questions[0] for p in there}
        absent = [p for p in rng.sample(others, min(len(others), 8)) if p.questions[0] not in said][:3]
        asked_for = [*against, *rng.sample(there, min(len(there), 6 - len(against))), *absent]
        there = [*there, *against]
        rng.shuffle(there)
        rng.shuffle(asked_for)
        yield there, asked_for


def _batches(items: Sequence[Any], size: Callable[[Any], int], most: float = math.inf) -> Iterator[list[Any]]:
    """Runs of items whose sizes, padded to the largest, are a batch; none is padded by more than a factor, and a few tokens."""
    some: list[Any] = []
    for item in items:
        if some:
            longest, shortest = max(size(i) for i in (*some, item)), min(size(i) for i in (*some, item))
            if (len(some) + 1) * longest > _BATCH or longest > most * shortest + 8:
                yield some
                some = []
        some.append(item)
    if some:
        yield some


def batches(rows: Iterable[Any], size: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Rows of like length together, so that little of a batch is padding."""
    yield from _batches(sorted(rows, key=size), size, 1.4)
