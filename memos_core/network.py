"""The network of a causal language model, with its tokenizer, on this machine: what it is, its prompts, its passes.

Knows prompts, tokens and caches; draws no tokens, and looks nothing up.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from . import alteration, attention, constraint, prompt, rotation
from .devices import device_of, dtype_of
from .errors import ContextTooLong, InvalidArgument, ModelUnavailable, OutOfMemory, Unsupported
from .fingerprint import fingerprint
from .fork import Refusing, watch
from .prompt import Prompt
from .requests import Requests
from .room import Memory, empty, over
from .rotation import Rotation
from .sampling import ends
from .shelf import Shelf
from .snapshots import Snapshots


class Network(Refusing):
    """What `LocalModel` answers with, and everything else that runs tokens; its arguments are `LocalModel`'s."""

    _refusal = (
        "the threads that it computes with do not survive a fork, and a GPU cannot be used in one. Load it in the child"
    )

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
    ) -> Self:
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
        watch(self)
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

    def require_room(self, tokens: int, more: int) -> None:
        """Raise ContextTooLong where tokens of a prompt, and more of an answer, do not fit the window."""
        if tokens + more > self.window:
            raise ContextTooLong(
                f"{self.name}: {tokens} tokens of prompt and {more} of answer are more than its window of {self.window}"
            )

    # --- below -------------------------------------------------------------------------------------------------------------

    def _require_blocks(self) -> None:
        if not self.reuses_blocks:
            raise Unsupported(
                f"{self.name}: its layers do not all attend to everything: its caches cannot be cut or joined"
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
