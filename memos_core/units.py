"""The last feed-forward block of a network as units, some of which can learn. Knows networks and tensors; knows no exercises.

A unit is a row of what the block reads with and a column of what it writes with: a pattern, and what is said where the pattern is there;
feed-forward blocks are such key-value memories (arXiv 2012.14913), and what the last one reads is the best key to what comes next that a
model has (kNN-LM, arXiv 1911.00172, compared). An adapter that changes some units of that block and nothing else is an exact LoRA: of
rank as many as there are units. Three things follow. All that comes before a unit is the plain model's, so it is computed once and not in
each step. Adapters of different units do not see one another, so they are fused exactly, by their sum. And keys and values of the
attention, which come before too, stay the plain model's.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .errors import Unsupported
from .lora import LoRA, made, require_bare
from .model import LocalModel


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the last feed-forward block of a network is: the name of the stack of layers, its own, and those of its layers that read
    and of the one that writes; the hidden size, and how many units there are."""

    stack: str
    name: str
    reads: tuple[str, ...]
    writes: str
    hidden: int
    size: int

    def bytes(self, count: int, itemsize: int) -> int:
        """The size of an adapter that changes so many units."""
        return (len(self.reads) + 1) * min(count, self.hidden) * (self.hidden + self.size) * itemsize


def shape(model: LocalModel) -> Shape:
    """Raises Unsupported for a network whose last feed-forward block is not made of units that are found, such as a mixture of experts,
    or one of layers that are no `Linear`, and for one that PEFT has wrapped."""
    require_bare(model.network)
    config = model.network.config.get_text_config()
    count, hidden = config.num_hidden_layers, config.hidden_size
    stacks = [
        (n, m) for n, m in model.network.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count
    ]
    if not stacks:
        raise Unsupported(f"{model.name}: it has no stack of {count} layers")
    stack, layers = stacks[0]
    found = [n for n, m in layers[-1].named_children() if "att" not in n.lower() and _linears(m)]
    linears = _linears(layers[-1].get_submodule(found[0])) if len(found) == 1 else {}
    writes = [n for n, m in linears.items() if m.in_features != hidden == m.out_features]
    if not writes and all(m.in_features == m.out_features == hidden for m in linears.values()):
        writes = _last_run(model, linears)  # as many units as hidden numbers: their shapes do not tell them apart
    reads = tuple(n for n, m in linears.items() if n not in writes and m.in_features == hidden)
    inner = {linears[n].out_features for n in reads} | {linears[n].in_features for n in writes}
    if not reads or len(writes) != 1 or len(inner) != 1 or len(linears) != len(reads) + 1:
        raise Unsupported(f"{model.name}: the last of its layers has no feed-forward block of units")
    return Shape(stack, f"{stack}.{count - 1}.{found[0]}", reads, writes[0], hidden, inner.pop())


class Block:
    """The last feed-forward block of a model's network, and what comes after it. Raises Unsupported as `shape` does, and where something
    else than a sum stands between a unit and the network's last norm."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self.shape = shape(model)
        self._block = model.network.get_submodule(self.shape.name)
        self._layer = model.network.get_submodule(self.shape.stack)[-1]
        self._linears = _linears(self._block)
        self._tail = self._behind_layers()
        self._require_units()

    @property
    def embeddings(self) -> Any:
        """Token ids into embeddings."""
        return self._model.network.get_input_embeddings()

    def states(
        self, inputs: Mapping[str, torch.Tensor], places: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the block reads, and what the last layer gives on, at places (positions of each row) of rows without padding before
        them: each of shape [places of all rows, hidden size]."""
        row, column = torch.tensor([(r, i) for r, at in enumerate(places) for i in at], device=self._model.device).T
        read, given, _ = self._passed(inputs)
        return read[row, column], given[row, column]

    def logits(self, given: torch.Tensor) -> torch.Tensor:
        """What is said behind what the last layer gives on, float32."""
        for module in self._tail:
            given = module(given)
        return given.float()

    def chosen(self, count: int, beside: Sequence[LoRA], seed: str) -> list[int]:
        """So many units, or all: by chance, of those that the fewest of other adapters change."""
        units, taken = list(range(self.shape.size)), self.taken(beside)
        random.Random(seed).shuffle(units)
        return sorted(sorted(units, key=lambda u: taken[u])[:count])

    def part(self, units: Sequence[int]) -> Part:
        """Some units, to be trained."""
        at = torch.tensor(list(units), device=self._model.device)
        memo: dict[int, Any] = {}
        for name, linear in self._linears.items():
            weight = linear.weight.detach().float()
            memo[id(linear)] = (
                _linear(weight[at], linear.bias, at) if name in self.shape.reads else _linear(weight[:, at])
            )
        with self._model.exclusive():  # nobody's hooks are copied
            block = copy.deepcopy(self._block, memo)
        return Part(block, [*self.shape.reads, self.shape.writes], units)

    def lora(self, part: Part) -> LoRA:
        """What training changed, as an adapter: with so many units as the hidden size or fewer, of their number as its rank."""
        at = torch.tensor(part.units)
        pairs = {}
        for name, change in part.changes().items():
            change = change.cpu()
            wide = len(at) > self.shape.hidden
            if name in self.shape.reads:  # change: [units, hidden]
                put = torch.zeros(self.shape.size, len(at)).index_put_((at, torch.arange(len(at))), torch.tensor(1.0))
                pair = (torch.eye(self.shape.hidden), put @ change) if wide else (change, put)
            else:  # change: [hidden, units]
                take = torch.zeros(len(at), self.shape.size).index_put_((torch.arange(len(at)), at), torch.tensor(1.0))
                pair = (change @ take, torch.eye(self.shape.hidden)) if wide else (take, change)
            pairs[f"{self.shape.name}.{name}"] = pair
        return made(self._model.fingerprint, pairs)

    def taken(self, loras: Sequence[LoRA]) -> Counter[int]:
        """By unit, how many of these adapters change it."""
        module = f"{self.shape.name}.{self.shape.writes}"
        found: Counter[int] = Counter()
        for lora in loras:
            if module in lora.targets:
                a, _ = lora.pair(module)
                found.update(a.abs().sum(0).nonzero()[:, 0].tolist() if a.shape[1] == self.shape.size else [])
        return found

    # --- below -----------------------------------------------------------------------------------------------------------

    def _passed(
        self, inputs: Mapping[str, torch.Tensor], added: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the block reads, what the last layer gives on, and the logits behind the last place, of a pass of the plain network.
        added: to what the block writes."""
        kept: dict[str, torch.Tensor] = {}

        def reading(module: Any, args: Any) -> None:
            kept["read"] = args[0]

        def written(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
            return out + added if added else out

        def giving(module: Any, args: Any, out: Any) -> None:
            kept["given"] = out[0] if isinstance(out, tuple) else out

        with self._model.exclusive() as network, torch.no_grad():
            hooks = [
                self._block.register_forward_pre_hook(reading),
                self._block.register_forward_hook(written),
                self._layer.register_forward_hook(giving),
            ]
            try:
                logits = network(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            finally:
                for hook in hooks:
                    hook.remove()
        return kept["read"], kept["given"], logits

    def _behind_layers(self) -> list[Any]:
        """The modules that run behind the last layer, in their order."""
        network = self._model.network
        names = self.shape.stack.split(".")[:-1]
        above = [network, *(network.get_submodule(".".join(names[: i + 1])) for i in range(len(names)))]
        parts = [m for parent in above for m in parent.children() if all(m is not one for one in above)]
        order: list[Any] = []

        def ran(module: Any, args: Any, out: Any) -> None:
            order.append(module)

        with self._model.exclusive(), torch.no_grad():
            hooks = [m.register_forward_hook(ran) for m in (*parts, self._layer)]
            try:
                network(input_ids=self._some(), use_cache=False)
            finally:
                for hook in hooks:
                    hook.remove()
            return [_still(module) for module in order[order.index(self._layer) + 1 :]]

    def _some(self) -> torch.Tensor:
        return torch.tensor([self._model.encode("What is known of units?").ids], device=self._model.device)

    def _require_units(self) -> None:
        """What units are taken for must be so: that they add up to the block, and that what is added to the block is added to what the
        last layer gives on, of which the tail makes the logits."""
        inputs = {"input_ids": self._some()}
        read, given, _ = self._passed(inputs)
        _, _, wanted = self._passed(inputs, 0.5)
        found = self.logits(given[:, -1] + 0.5)
        with self._model.exclusive(), torch.no_grad():
            half = self.shape.size // 2
            parts = [self.part(range(half)), self.part(range(half, self.shape.size))]
            summed = sum(p.now(read.float()) for p in parts)
            bias = self._linears[self.shape.writes].bias
            whole = self._block(read).float() - (0 if bias is None else bias.float())
        near = 1e-3 if read.dtype == torch.float32 else 0.1
        for one, other in ((found, wanted.float()), (summed, whole)):
            if not (one - other).norm() <= near * other.norm():
                raise Unsupported(
                    f"{self._model.name}: {self.shape.name} is no sum of units whose output is only added"
                )


class Part:
    """Units with weights of their own, float32, that start as the network's."""

    def __init__(self, block: Any, names: Sequence[str], units: Sequence[int]) -> None:
        self.units = tuple(units)
        self.now = block
        self.before = copy.deepcopy(block)
        self.now.requires_grad_(False)
        self.before.requires_grad_(False)
        self._names = tuple(names)
        for weight in self.weights:
            weight.requires_grad_(True)

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [self.now.get_submodule(name).weight for name in self._names]

    def added(self, read: torch.Tensor) -> torch.Tensor:
        """What the units, as they are now, add to what the block wrote before: by place, of the hidden size."""
        return self.now(read) - self.before(read)  # type: ignore[no-any-return]

    def changes(self) -> dict[str, torch.Tensor]:
        """By the layer's name within the block, how far its weights are from what they were."""
        return {
            n: (self.now.get_submodule(n).weight - self.before.get_submodule(n).weight).detach() for n in self._names
        }


def _still(module: Any) -> Any:
    """The module once more, over the same weights, to which no gradients come."""
    shared: dict[int, Any] = {id(p): torch.nn.Parameter(p.detach(), False) for p in module.parameters()}
    return copy.deepcopy(module, shared | {id(b): b for b in module.buffers()})


def _last_run(model: LocalModel, linears: Mapping[str, Any]) -> list[str]:
    """The one of some layers that a pass runs last."""
    order: list[str] = []

    def ran(name: str, module: Any, args: Any, out: Any) -> None:
        order.append(name)

    with model.exclusive() as network, torch.no_grad():
        hooks = [m.register_forward_hook(partial(ran, n)) for n, m in linears.items()]
        try:
            network(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    return order[-1:]


def _linears(module: Any) -> dict[str, Any]:
    return {n: m for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)}


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None, at: torch.Tensor | None = None) -> torch.nn.Linear:
    # without weights at first: none are drawn, and nobody's chance is disturbed
    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = torch.nn.Parameter(weight.clone())
    if bias is not None and at is not None:
        made.bias = torch.nn.Parameter(bias.detach().float()[at])
    return made
