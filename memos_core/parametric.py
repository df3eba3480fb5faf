"""Adapters of one model: which of them its passes run with, and which are resident. The only module that knows PEFT.

The network itself is never touched. Beside it stands a *twin*: the same modules, made anew, over the very same weights (they take no
second room), and in the twin PEFT has wrapped the linear layers. A pass with an adapter is a pass of the twin; a pass without one never
meets PEFT, so it is bit-equal to what it was before there were any.

Knows networks and tensors; knows no memories.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

from . import alteration
from .alteration import Alteration
from .errors import InvalidArgument, MissingPackage, OutOfMemory, Unsupported
from .lora import LoRA, require_bare, require_fit
from .model import LocalModel

_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
          "_forward_pre_hooks_with_kwargs")  # fmt: skip
_MIXED = "adapters: rows of a batch that have adapters of their own cannot be run with others besides"


class Twin:
    """The modules of a network once more, over the same weights, with room for adapters. Not safe for several threads.

    `network` is the twin. Hooks on the modules of the original act on the twin's too. Raises Unsupported for a network that is spread
    over devices by hooks of accelerate's, or that carries adapters of its own; MissingPackage without PEFT.
    """

    def __init__(self, network: Any) -> None:
        if any(hasattr(m, "_hf_hook") for m in network.modules()):
            raise Unsupported(f"{network.config.model_type}: it is spread over devices, and adapters need it on one")
        require_bare(network)
        shared: dict[int, Any] = {id(p): torch.nn.Parameter(p.detach(), False) for p in network.parameters()}
        shared |= {id(b): b for b in network.buffers()}
        shared |= {id(c): c for c in (network.config, network.config.get_text_config())}
        for module in network.modules():
            shared |= {id(hooks): hooks for name in _HOOKS if (hooks := getattr(module, name, None)) is not None}
        self.network = copy.deepcopy(network, shared)
        self._tuner: Any = None
        self._layers: dict[str, Any] = {}
        self._active: list[str] = []  # one list for all layers: a switch is one assignment, not a walk over the modules
        self._mixed: list[str] = []  # what rows are run with

    @property
    def running(self) -> frozenset[str]:
        """The adapters that it is run with now."""
        return frozenset((*self._active, *self._mixed))

    def put(self, name: str, lora: LoRA) -> None:
        """Let an adapter's weights, copied to the network's device, be known under a name, which must be new."""
        peft = _peft()
        config = peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.rank, target_modules=list(lora.targets), lora_dropout=0.0, bias="none"
        )
        # modules without weights at first: none are drawn, and nobody's chance is disturbed
        if self._tuner is None:
            self._tuner = peft.LoraModel(self.network, config, name, low_cpu_mem_usage=True)
        else:
            self._tuner.peft_config[name] = config
            self._tuner.inject_adapter(self.network, name, autocast_adapter_dtype=False, low_cpu_mem_usage=True)
        self._layers = {n: m for n, m in self.network.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
        self._settle()
        device = self.network.device
        for module in lora.targets:
            layer = self._layers[module]
            for held, tensor in zip((layer.lora_A, layer.lora_B), lora.pair(module), strict=True):
                held[name].weight = torch.nn.Parameter(tensor.to(device, copy=True), False)

    def drop(self, name: str) -> None:
        """Forget an adapter."""
        self._tuner.delete_adapter(name)
        self._settle()

    def pairs(self, name: str) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        """An adapter's A and B as they are in the twin, by module."""
        return {n: (m.lora_A[name].weight, m.lora_B[name].weight) for n, m in self._layers.items() if name in m.lora_A}

    def weigh(self, names: Sequence[str], name: str, method: str, density: float) -> None:
        """Make one adapter of several by one of PEFT's rough methods, under a new name."""
        self._tuner.add_weighted_adapter(
            list(names), [1.0] * len(names), name, combination_type=method,
            density=None if method in ("linear", "svd") else density,
        )  # fmt: skip
        self._settle()

    @contextmanager
    def active(self, names: Sequence[str]) -> Iterator[Any]:
        """Run the twin with these adapters on top of those that are active, till the end of the block. Raises InvalidArgument within
        `mixed`: PEFT leaves out one of the two."""
        if self._mixed:
            raise InvalidArgument(_MIXED)
        before = list(self._active)
        self._active.extend(names)
        try:
            yield self.network
        finally:
            self._active[:] = before

    @contextmanager
    def mixed(self, names: Sequence[str | None]) -> Iterator[Any]:
        """Run each row of a batch with an adapter of its own, or with none, till the end of the block. Raises InvalidArgument within
        another such block, or within `active`."""
        if self.running:
            raise InvalidArgument(_MIXED)
        # PEFT's way in for this is PeftModel.forward, which asks transformers for what that has deprecated; and what is under it leaves
        # its hooks behind where a pass fails
        rows = [n or "__base__" for n in names]

        def named(module: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**inputs, "adapter_names": rows}

        hooks = [layer.register_forward_pre_hook(named, with_kwargs=True) for layer in self._layers.values()]
        self._mixed = [n for n in names if n]
        try:
            yield self.network
        finally:
            self._mixed = []
            for hook in hooks:
                hook.remove()

    def _settle(self) -> None:
        for layer in self._layers.values():
            layer._active_adapter = self._active
        self._tuner.eval()


class Adapters:
    """The adapters of one model that are resident. Safe for many threads.

    Args:
        model: whose.
        most_bytes: of weights on its device; the least recently used one makes room.

    Example:
        >>> with Adapters(model).used(lora):                                                             # doctest: +SKIP
        ...     model.generate([{"role": "user", "content": "What is Ann's favourite tea?"}]).text
    """

    def __init__(self, model: LocalModel, most_bytes: int = 1 << 30) -> None:
        if isinstance(most_bytes, bool) or not isinstance(most_bytes, int) or most_bytes < 1:
            raise InvalidArgument(f"most_bytes: a number of bytes is needed, not {most_bytes!r}")
        self._model = model
        self._most = most_bytes
        self._twin: Twin | None = None
        self._held: OrderedDict[str, int] = OrderedDict()  # bytes by digest, the one used last at the end
        self._lock = threading.RLock()

    @property
    def held(self) -> dict[str, int]:
        """Bytes of the adapters that are resident, by digest, the least recently used first."""
        with self._lock:
            return dict(self._held)

    def change(self, lora: LoRA) -> Alteration:
        """Running with an adapter, as a change of the model's passes. Keys and values computed with it are its own.

        Raises ModelMismatch, InvalidArgument: it does not fit the model. OutOfMemory: it is larger than the budget.
        """
        self._require(lora)
        return Alteration(self._model, f"lora:{lora.digest}", "all", partial(self._run_with, (lora,)))

    def changes(self, loras: Sequence[LoRA | None]) -> Alteration:
        """Running each row of a batch with an adapter of its own, or none: for `LocalModel.generate_batch`. Raises as `change` does."""
        for lora in loras:
            if lora is not None:
                self._require(lora)
        if sum({p.digest: p.bytes for p in loras if p}.values()) > self._most:
            raise OutOfMemory(f"adapters: those of the batch are larger than the budget of {self._most:,} bytes")
        names = "+".join(lora.digest if lora else "-" for lora in loras)
        return Alteration(self._model, f"lora each:{names}", "all", partial(self._run_each_with, tuple(loras)))

    def used(self, lora: LoRA) -> AbstractContextManager[None]:
        """What this thread (or task) begins in the block is run with the adapter. Blocks may be nested: adapters add up.

        A pass raises OutOfMemory where those of all blocks are larger than the budget, InvalidArgument within `used_each` or a block of
        other `Adapters`.
        """
        return alteration.altered(self.change(lora))

    def used_each(self, loras: Sequence[LoRA | None]) -> AbstractContextManager[None]:
        """The same for the rows of a batch, in their order. A pass raises InvalidArgument for other than so many rows, and, with an adapter
        for any of them, where there are other blocks around."""
        return alteration.altered(self.changes(loras))

    def drop(self, digests: Iterable[str]) -> int:
        """Let go of the weights of adapters; how many bytes. One that is used after all is put there again."""
        with self._model.exclusive(), self._lock:
            gone = [(d, self._held.pop(d)) for d in list(digests) if d in self._held]
            for digest, _ in gone:
                self._there().drop(digest)
            return sum(size for _, size in gone)

    # --- below -----------------------------------------------------------------------------------------------------------

    def _require(self, lora: LoRA) -> None:
        require_fit(lora, self._model)
        if lora.bytes > self._most:
            raise OutOfMemory(f"adapter: {lora.bytes:,} bytes are more than the budget of {self._most:,}")

    def _there(self) -> Twin:
        if self._twin is None:
            self._twin = Twin(self._model.network)
        return self._twin

    def _require_alone(self, network: Any) -> None:
        """Other `Adapters` of the model have a twin of their own, and a pass is of one twin."""
        runs = getattr(network.__dict__.get("forward"), "__self__", None)
        mine = self._twin.network if self._twin is not None else None
        if isinstance(runs, torch.nn.Module) and runs is not network and runs is not mine:
            raise InvalidArgument("adapters: those of two `Adapters` of one model cannot be used in one pass")

    def _resident(self, loras: Iterable[LoRA]) -> Twin:
        """The twin with these adapters in it, and all that it is run with. Called during a pass: nobody else runs it."""
        wanted = {lora.digest: lora for lora in loras}
        with self._lock:
            twin = self._there()
            stay = {d: self._held[d] for d in twin.running} | {d: lora.bytes for d, lora in wanted.items()}
            if sum(stay.values()) > self._most:
                raise OutOfMemory(
                    f"adapters: {len(stay)} are used at once, whose {sum(stay.values()):,} bytes are more than the budget of {self._most:,}"
                )
            for digest, lora in wanted.items():
                if digest not in self._held:
                    while sum(self._held.values()) + lora.bytes > self._most:
                        oldest = next(d for d in self._held if d not in stay)
                        del self._held[oldest]
                        twin.drop(oldest)
                    twin.put(digest, lora)
                    self._held[digest] = lora.bytes
                self._held.move_to_end(digest)
            return twin

    @contextmanager
    def _run_with(self, loras: tuple[LoRA, ...], network: Any) -> Iterator[None]:
        self._require_alone(network)
        twin = self._resident(loras)
        with twin.active([lora.digest for lora in loras]), _run_instead(network, twin.network.forward):
            yield

    @contextmanager
    def _run_each_with(self, loras: tuple[LoRA | None, ...], network: Any) -> Iterator[None]:
        with _rows_counted(network, len(loras)):
            if not any(loras):
                yield
                return
            self._require_alone(network)
            twin = self._resident(lora for lora in loras if lora)
            with twin.mixed([p.digest if p else None for p in loras]), _run_instead(network, twin.network.forward):
                yield


@contextmanager
def _rows_counted(network: Any, count: int) -> Iterator[None]:
    """Let calls of a network with another number of rows raise InvalidArgument."""

    def counted(module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        given = [*args, *(inputs[k] for k in ("input_ids", "inputs_embeds") if inputs.get(k) is not None)]
        if given and len(given[0]) != count:
            raise InvalidArgument(f"adapters: {count} were given for a batch of {len(given[0])} rows")

    hook = network.register_forward_pre_hook(counted, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _run_instead(network: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Let calls of a network run another forward pass: one attribute of the instance, which is gone afterwards."""
    before = network.__dict__.get("forward")
    network.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del network.__dict__["forward"]
        else:
            network.__dict__["forward"] = before


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingPackage("adapters need PEFT: pip install 'memos-adapters[local]'") from error
    return peft
