"""LocalModel: a causal language model on this machine, that answers. The only module that knows transformers' generation.

Knows decoding; knows no memories. There is one forward path: a prompt is rendered, cut into tokens once, looked up in the shelf of held
keys and values, what is missing is prefilled, and tokens are drawn. Without anything held the same path prefills all of it, so an answer
does not depend on whether memory was used (to rounding: see the tests).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from . import alteration, chain, constraint
from .errors import MemOSError, OutOfMemory
from .network import Network
from .prompt import Prompt
from .requests import counted, patiently
from .sampling import Sampler
from .shelf import Opening
from .types import Generation, TokenUsage
from .validate import checked_decoding


class LocalModel(Network):
    """A causal language model with a chat template, on a GPU or the CPU.

    Args:
        name_or_path: a folder with weights and tokenizer, or a name that transformers knows.
        device: "cuda", "cpu", ...; None takes a GPU when there is one.
        dtype: a torch dtype or its name; None is the weights' own on a GPU and float32 on a CPU.
        cache_bytes: of keys and values kept on the device between requests.
        host_cache_bytes: of those that had to leave the device, in pinned memory of the host.

    Models whose layers all attend to everything get every feature. Of others (sliding windows, recurrent states) a prompt's cache is
    good only for going on at its end: `reuses_blocks` is False, and whole prompts are kept instead.

    Raises ModelUnavailable if it cannot be found or loaded.

    Example:
        >>> model = LocalModel("Qwen/Qwen3-0.6B")                                                     # doctest: +SKIP
        >>> model.generate([{"role": "user", "content": "Say hello."}], max_tokens=5).text            # doctest: +SKIP
        'Hello!'
    """

    def blocks(
        self,
        asked: Prompt,
        tokens: int,
        *,
        opened: Callable[[Prompt, int], Opening | None] | None = None,
        patient: bool = False,
    ) -> list[tuple[tuple[int, ...], torch.Tensor]]:
        """The keys and values of a prompt's first tokens as blocks: the ids of each, and a tensor of [2, layers, heads, tokens,
        dimension]. They are the plain network's, whatever changes it here. Raises Unsupported, ContextTooLong, OutOfMemory.

        opened: as in `stream`. patient: run in pieces, requests going before each."""
        self._require_blocks()
        self.require_room(tokens, 1)
        start = chain.root(self.fingerprint, ())
        cut = replace(asked, ids=asked.ids[:tokens], boundaries=tuple(b for b in asked.boundaries if b <= tokens))
        with alteration.plain():
            cache = self._prefilled(cut, start, 0, opened, patient=patient)[0]
        ends = [b.end for b in chain.blocks(cut.ids, cut.boundaries, start)]
        ends = [*(e for e in ends if e < tokens), tokens]
        return [(cut.ids[a:b], self.taken(cache, a, b)) for a, b in zip([0, *ends], ends, strict=False)]

    # --- answers -----------------------------------------------------------------------------------------------------------

    def generate(self, messages: Sequence[Mapping[str, Any]] | Prompt, **options: Any) -> Generation:
        """The whole answer; the arguments are those of `stream`."""
        pieces = self.stream(messages, **options)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # a generator's value is untyped here

    @alteration.lasting
    @counted
    def stream(
        self,
        messages: Sequence[Mapping[str, Any]] | Prompt,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tenant: Sequence[str] = (),
        keep: bool = True,
        sources: Sequence[tuple[int, str]] = (),
        opened: Callable[[Prompt, int], Opening | None] | None = None,
        **decoding: Any,
    ) -> Generator[str, None, Generation]:
        """The answer in pieces of text, as they are drawn; the generator's value is the `Generation`.

        Args:
            messages, tools: see `prompt`; or a prompt made before, and the tools in it.
            tenant: whose prompt it is. What is kept of it answers nobody else's.
            keep: hold the prompt's and the answer's keys and values for a prompt that begins alike, within the budgets.
            sources: (index of the first token, memory id) of the memories in the prompt.
            opened: called with the prompt and how many of its tokens are held here; what is held elsewhere of those behind them.
            decoding: the fields of `Decoding`: max_tokens, temperature, top_p, top_k, stop, seed, ...

        Raises:
            ContextTooLong: prompt and max_tokens do not fit the window.
            ModelTimeout: it took longer than was given; that is looked at between two tokens.
            OutOfMemory: the device has no room for the prompt, with nothing held beside it.
        """
        wanted = checked_decoding(decoding)
        held_to = constraint.of(self, tools, wanted)
        asked = messages if isinstance(messages, Prompt) else self.prompt(messages, tools=tools)
        self.require_room(len(asked.ids), wanted.max_tokens)
        began = time.perf_counter()
        changed = alteration.identity(self)
        start = chain.root(self.fingerprint, tenant, changed)
        elsewhere = None if changed else opened  # what is held elsewhere is the plain network's
        cache, logits, cached, trouble = self._prefilled(asked, start, wanted.max_tokens, elsewhere, sources)
        sampler = Sampler(self, wanted, asked, began, constraint=held_to)
        first: float | None = None
        running = False
        try:
            while True:
                id, done = sampler.draw(logits)
                if first is None:
                    first = time.perf_counter() - began
                if piece := sampler.piece():
                    yield piece
                if done:
                    break
                running = True
                logits = self.forward([id], cache, generating=True)
                running = False
        finally:
            if keep and not running:  # a cache in which a token failed is in no state to go on from
                with suppress(OutOfMemory), self.memory_errors():  # the answer is there all the same
                    self._keep(start, asked, sampler.ids, cache, sources)
        spent = TokenUsage(len(asked.ids), cached, len(sampler.ids), first or 0.0)
        return Generation(sampler.text, tuple(sampler.ids), sampler.finish, spent, trouble)

    def generate_batch(
        self, prompts: Sequence[Sequence[Mapping[str, Any]] | Prompt], **decoding: Any
    ) -> list[Generation]:
        """Answers to several prompts at once, left-padded to one length. Their caches are not kept."""
        asked = [p if isinstance(p, Prompt) else self.prompt(p) for p in prompts]
        wanted = checked_decoding(decoding)
        if not asked:
            return []
        longest = max(len(p.ids) for p in asked)
        self.require_room(longest, wanted.max_tokens)
        began = time.perf_counter()
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (longest - len(p.ids)) + list(p.ids) for p in asked])
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in asked], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = self.cache(room=longest + wanted.max_tokens)
        logits = self._run(ids, cache, attention_mask=mask, position_ids=positions)
        first = time.perf_counter() - began
        held = [constraint.of(self, (), wanted) for _ in asked]
        samplers = [Sampler(self, wanted, p, began, row=i, constraint=held[i]) for i, p in enumerate(asked)]
        while True:
            drawn = [s.draw(logits[i : i + 1]) if not s.finish else (pad, True) for i, s in enumerate(samplers)]
            if all(done for _, done in drawn):
                break
            mask = torch.cat([mask, mask.new_ones(len(asked), 1)], dim=1)
            positions = positions[:, -1:] + 1
            step = torch.tensor([[id] for id, _ in drawn])
            logits = self.forward(step, cache, generating=True, attention_mask=mask, position_ids=positions)
        return [
            Generation(s.text, tuple(s.ids), s.finish, TokenUsage(len(p.ids), 0, len(s.ids), first))
            for s, p in zip(samplers, asked, strict=True)
        ]

    # --- below -------------------------------------------------------------------------------------------------------------

    def _prefilled(
        self,
        asked: Prompt,
        start: str,
        more: int,
        opened: Callable[[Prompt, int], Opening | None] | None,
        sources: Sequence[tuple[int, str]] = (),
        *,
        patient: bool = False,
    ) -> tuple[Cache, torch.Tensor, int, str]:
        """The prompt's cache, the logits behind it, how many of its tokens were held, and what went wrong on the way."""
        run = partial(patiently, self.requests, self._run) if patient else self._run
        ids = asked.ids
        if not self.reuses_blocks:
            return self._from_snapshot(asked, start, sources)
        # one token must be run: it has the logits
        found = [(f.tensor, f.tokens) for f in self.shelf.find(start, ids[:-1])]
        held = sum(tokens for _, tokens in found)
        try:
            elsewhere = opened(asked, held) if opened else None
            with self.memory_errors():
                cache = self.cache(found, len(ids) - held + more)
                at = held if elsewhere is None else self._followed(cache, ids, held, elsewhere)
                return cache, run(ids[at:], cache), at - (elsewhere.front if elsewhere else 0), ""
        except MemOSError as error:  # what is held saves time; whatever is wrong with it must not cost the answer
            if not held and opened is None and not self.shelf.held().blocks:
                raise
            trouble = f"prefilled without what was held: {error}"
            full = isinstance(error, OutOfMemory)
        if full:
            found, held = [], 0
            self.shelf.clear()
        cache = self.cache(found, len(ids) - held + more)
        return cache, run(ids[held:], cache), held, trouble

    def _followed(self, cache: Cache, ids: Sequence[int], held: int, elsewhere: Opening) -> int:
        """Run what stands before an opening's blocks while they come, and put them behind it; the tokens that the cache has then."""
        at = held + elsewhere.front
        if elsewhere.front:
            self.forward(ids[held:at], cache)
        for tensor in elsewhere.blocks():
            there = tensor[..., : len(ids) - 1 - at, :].to(self.device, self.dtype, non_blocking=True)
            # the room behind tokens that were run was made in it, and takes no other's writes
            with torch.inference_mode():
                for i, layer in enumerate(cache.layers):
                    layer.update(there[0, i][None], there[1, i][None])
            at += there.shape[-2]
        return at

    def _from_snapshot(
        self, asked: Prompt, start: str, sources: Sequence[tuple[int, str]]
    ) -> tuple[Cache, torch.Tensor, int, str]:
        """The same for a model whose caches cannot be cut: from the longest whole prompt that this one begins with. The end of the
        system message is kept at once, since the next conversation begins with it too."""
        held, known = self.snapshots.find(start, asked.ids[:-1])
        cache = known or DynamicCache(config=self.network.config)
        at = held
        if held < asked.stable < len(asked.ids):
            self.forward(asked.ids[held : asked.stable], cache)
            at = asked.stable
            self.snapshots.put(start, asked.ids[:at], cache, [id for first, id in sources if first < at])
        return cache, self._run(asked.ids[at:], cache), held, ""

    def _keep(
        self, start: str, asked: Prompt, answer: Sequence[int], cache: Cache, sources: Sequence[tuple[int, str]]
    ) -> None:
        """Put what was run on the shelf: blocks up to the prompt's and the answer's last tokens. The token drawn last was not run.
        Generated positions that were changed are left out: in a prompt their tokens would not be."""
        apart = alteration.apart(self)
        ids = asked.ids[:-1] if apart else (*asked.ids, *answer[:-1])
        if not self.reuses_blocks:
            if not apart:
                self.snapshots.put(start, ids, cache, [id for _, id in sources])
            return
        boundaries = {b for b in asked.boundaries if b < len(ids)}
        ends = [b.end for b in chain.blocks(ids, sorted({*boundaries, len(ids)}), start)]
        at, parent = 0, start
        for found in self.shelf.find(start, ids):
            if found.tokens < found.tensor.shape[-2]:
                if at + found.tokens == len(ids):
                    return  # a longer block says all of it
                break
            at, parent = at + found.tokens, found.key
        for end in dict.fromkeys([*(e for e in ends if e > at), len(ids)]):
            if end > at:
                made_from = [id for first, id in sources if first < end]
                key = self.shelf.put(start, parent, ids[at:end], self.taken(cache, at, end), made_from)
                if key is None:
                    return
                at, parent = end, key
