"""LocalModel: a causal language model on this machine. The only module that knows transformers' generation.

Knows prompts, tokens, caches and decoding; knows no memories. There is one forward path: a prompt is rendered, cut into tokens once,
looked up in the shelf of held keys and values, what is missing is prefilled, and tokens are drawn. Without anything held the same path
prefills all of it, so an answer does not depend on whether memory was used (to rounding: see the tests).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from . import alteration, attention, chain, constraint, prompt, rotation
from .devices import device_of, dtype_of
from .errors import ContextTooLong, InvalidArgument, MemOSError, ModelUnavailable, OutOfMemory, Unsupported
from .fingerprint import fingerprint
from .prompt import Prompt
from .requests import Requests, counted, patiently
from .room import Memory, empty, over
from .rotation import Rotation
from .sampling import Sampler, ends
from .shelf import Opening, Shelf
from .snapshots import Snapshots
from .types import Generation, TokenUsage
from .validate import checked_decoding


class LocalModel:
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

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache_bytes: int = 2 << 30,
        host_cache_bytes: int = 4 << 30,
    ) -> None:
        if not isinstance(name_or_path, str | Path) or not str(name_or_path):
            raise InvalidArgument(f"name_or_path: a model's folder or name is needed, not {name_or_path!r}")
        where = device_of(device)
        wanted = dtype_of(dtype) or ("auto" if where.type != "cpu" else torch.float32)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
            network = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=wanted)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelUnavailable(f"{name_or_path}: no causal language model could be loaded: {error}") from error
        self._set_up(network, tokenizer, str(name_or_path), where, cache_bytes, host_cache_bytes)

    @classmethod
    def of(
        cls,
        network: Any,
        tokenizer: Any,
        *,
        name: str = "unnamed",
        device: str | torch.device | None = None,
        cache_bytes: int = 2 << 30,
        host_cache_bytes: int = 4 << 30,
    ) -> LocalModel:
        """A model that is in memory already: a transformers causal language model and its tokenizer. `device` None: where it is."""
        model = cls.__new__(cls)
        where = network.device if device is None else device_of(device)
        model._set_up(network, tokenizer, name, where, cache_bytes, host_cache_bytes)
        return model

    def _set_up(
        self, network: Any, tokenizer: Any, name: str, device: torch.device, cache_bytes: int, host_cache_bytes: int
    ) -> None:
        if not tokenizer("Is there a token?", add_special_tokens=False)["input_ids"]:
            raise ModelUnavailable(f"{name}: its tokenizer is empty; are the tokenizer's files beside the weights?")
        for argument, value in (("cache_bytes", cache_bytes), ("host_cache_bytes", host_cache_bytes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidArgument(f"{argument}: a number of bytes is needed, not {value!r}")
        self.name = name
        self.network = network.to(device).eval()
        weakref.finalize(self, attention.borrow(self.network)).atexit = False
        self.tokenizer = tokenizer
        self.device = device
        self.dtype: torch.dtype = network.dtype
        self.shelf = Shelf(device, cache_bytes, host_cache_bytes)
        self.snapshots = Snapshots(cache_bytes)
        self._lock = threading.RLock()  # one forward pass at a time; never held while tokens are handed out
        self._memory = Memory()
        self.requests = Requests()
        self._tokenizing = threading.Lock()  # fast tokenizers refuse two threads at once

    # --- what it is ------------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Identity of all that a cache or an adapter depends on: "type/dtype/c=configuration and RoPE/w=weights/t=tokenizer/p=template".

        The weights' part is a sum over their bits with position-dependent factors: made on the device, at its memory's speed.
        """
        return fingerprint(self.network, self.tokenizer)

    @property
    def window(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return int(getattr(self._text_config, "max_position_embeddings", 0) or 2**31)

    @cached_property
    def reuses_blocks(self) -> bool:
        """Whether every layer attends to everything, with heads of one size: caches can be cut, joined and re-positioned."""
        with torch.inference_mode():
            cache = DynamicCache(config=self.network.config)
            self.network(input_ids=torch.tensor([[0, 0]], device=self.device), past_key_values=cache, logits_to_keep=1)
        shapes = {
            tuple(t.shape) for layer in cache.layers for t in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if t is not None
        }  # fmt: skip
        return all(type(layer) is DynamicLayer for layer in cache.layers) and len(shapes) == 1

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Layers, KV heads and head dimension of a model that `reuses_blocks`."""
        self._require_blocks()
        cache = self.cache()
        with torch.inference_mode():
            self.network(input_ids=torch.tensor([[0]], device=self.device), past_key_values=cache, logits_to_keep=1)
        keys = cache.layers[0].keys
        return len(cache.layers), keys.shape[1], keys.shape[3]

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        layers, heads, width = self.shape
        return 2 * layers * heads * width * self.dtype.itemsize

    @cached_property
    def rotation(self) -> Rotation:
        """How its keys turn with their position, which is what moving them takes. Raises Unsupported, by name, where they cannot be."""
        return rotation.of(self)

    @cached_property
    def calls_tools(self) -> bool:
        """Whether its chat template can show it tools."""
        return "tools" in prompt.template(self.tokenizer, [{}])

    @cached_property
    def vocabulary(self) -> Any:
        """Its tokens as grammars need them, see `constraint`."""
        stops = sorted(ends(self.tokenizer, self.network.generation_config))
        with self._tokenizing:
            return constraint.vocabulary(self.tokenizer, self._text_config.vocab_size, stops)

    @property
    def _text_config(self) -> Any:
        return self.network.config.get_text_config()

    # --- prompts -----------------------------------------------------------------------------------------------------------

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        answering: bool = True,
    ) -> Prompt:
        """Messages as the model's tokens, through its chat template.

        messages: mappings with role and content, as chat templates take them. Several system messages become one, in front, since
            many templates take no more; a template that knows no system role gets its text at the head of the first user message.
        tools: JSON schemas of functions that the template may show. answering: whether the model's own turn begins at the end.

        Raises InvalidArgument for what the template refuses, Unsupported for a model without a template.
        """
        with self._tokenizing:
            return prompt.render(self.tokenizer, messages, tools, answering, self.name)

    def encode(self, text: str) -> Prompt:
        """A text as tokens, without a template; nothing is added. Raises InvalidArgument for a text without tokens."""
        with self._tokenizing:
            return prompt.encode(self.tokenizer, text)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        with self._tokenizing:
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # --- passes ------------------------------------------------------------------------------------------------------------

    def cache(self, blocks: Sequence[tuple[torch.Tensor, int]] = (), room: int = 0) -> Cache:
        """A fresh cache over copies of blocks (tensors of [2, layers, heads, tokens, dimension], and how many tokens of each), with
        room for more tokens before it must grow."""
        if not self.reuses_blocks:
            return DynamicCache(config=self.network.config)
        layers = self._text_config.num_hidden_layers
        return over(blocks, layers, room, self.dtype, self.device, self._memory) if blocks else empty(layers, room)

    def forward(
        self, ids: Sequence[int] | torch.Tensor, cache: Cache, *, generating: bool = False, **inputs: Any
    ) -> torch.Tensor:
        """Run tokens behind a cache, which grows by them; the logits of the last, float32, of shape [rows, vocabulary].

        generating: whether tokens are drawn behind each: then changes of the network that are for generated positions act too.
        inputs: further arguments of the network, such as position_ids or attention_mask.
        """
        rows = ids if isinstance(ids, torch.Tensor) else torch.tensor([list(ids)])
        with self._lock, torch.inference_mode(), self.memory_errors(), ExitStack() as changes:
            for change in alteration.active(self):
                if generating or change.positions == "all":
                    changes.enter_context(change.made(self.network))
            out = self.network(
                input_ids=rows.to(self.device), past_key_values=cache, use_cache=True, **{"logits_to_keep": 1, **inputs}
            )
            return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def taken(self, cache: Cache, start: int, end: int) -> torch.Tensor:
        """A copy of tokens [start, end) of a cache's first row, of shape [2, layers, heads, tokens, dimension]."""
        with torch.inference_mode():
            kept = [layer.keys for layer in cache.layers] + [layer.values for layer in cache.layers]
            whole = torch.stack([t[0, :, start:end] for t in kept])
            return whole.view(2, len(cache.layers), *whole.shape[1:])

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
        self._require_room(tokens, 1)
        start = chain.root(self.fingerprint, ())
        cut = replace(asked, ids=asked.ids[:tokens], boundaries=tuple(b for b in asked.boundaries if b <= tokens))
        with alteration.plain():
            cache = self._prefilled(cut, start, 0, opened, patient=patient)[0]
        ends = [b.end for b in chain.blocks(cut.ids, cut.boundaries, start)]
        ends = [*(e for e in ends if e < tokens), tokens]
        return [(cut.ids[a:b], self.taken(cache, a, b)) for a, b in zip([0, *ends], ends, strict=False)]

    @contextmanager
    def exclusive(self) -> Iterator[Any]:
        """The network, for nobody else until the end of the block: for those who change it for a while."""
        with self._lock:
            yield self.network

    @contextmanager
    def memory_errors(self) -> Iterator[None]:
        """Let a device without room raise OutOfMemory."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"{self.name}: {self.device} has no room left: {str(error).splitlines()[0]}") from error

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
        self._require_room(len(asked.ids), wanted.max_tokens)
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
        self._require_room(longest, wanted.max_tokens)
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

    def _require_blocks(self) -> None:
        if not self.reuses_blocks:
            raise Unsupported(
                f"{self.name}: its layers do not all attend to everything: its caches cannot be cut or joined"
            )

    def _require_room(self, tokens: int, more: int) -> None:
        if tokens + more > self.window:
            raise ContextTooLong(
                f"{self.name}: {tokens} tokens of prompt and {more} of answer are more than its window of {self.window}"
            )

    def _run(self, ids: Sequence[int] | torch.Tensor, cache: Cache, **inputs: Any) -> torch.Tensor:
        """The end of a prompt, and the logits behind it. Its last token generates: where that makes a difference it is run apart."""
        rows = ids if isinstance(ids, torch.Tensor) else torch.tensor([list(ids)])
        last = rows.shape[1] - 1
        if last and alteration.apart(self):
            self.forward(rows[:, :last], cache, **{k: v[:, :last] for k, v in inputs.items()})
            # the mask is of all tokens
            inputs = {k: v if k == "attention_mask" else v[:, last:] for k, v in inputs.items()}
            rows = rows[:, last:]
        return self.forward(rows, cache, generating=True, **inputs)

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
