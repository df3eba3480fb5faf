"""Passages whose keys and values were made apart, as one stretch of a prompt: which tokens of it are whose. `compose` does the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import chain
from .compose import Block, Repair, independent, recompose
from .errors import Unsupported
from .model import LocalModel
from .prompt import Prompt


def composed(
    model: LocalModel,
    asked: Prompt,
    passages: Sequence[tuple[str, tuple[tuple[int, ...], torch.Tensor]]],
    *,
    repair: Repair = Repair(),
) -> tuple[list[tuple[tuple[int, ...], torch.Tensor]], float]:
    """Blocks (token ids, tensor of [2, layers, heads, tokens, dimension]) of the beginning of a prompt in which passages stand one
    behind the other, and the share of their tokens that was run again.

    passages: the text of each, and the ids and keys and values of a prompt that begins as this one does and holds it alone.

    Raises Unsupported if the tokenizer cuts a passage otherwise behind another one.
    """
    at = asked.text.index(passages[0][0])
    head = asked.token_at(at)
    ids, whole = passages[0][1]
    prefix = Block(ids[:head], whole[..., :head, :])
    blocks: list[Block] = []
    end = head
    for text, (ids, whole) in passages:
        begin = asked.token_at(at)
        own = ids[head:]
        if asked.ids[:head] != ids[:head] or asked.ids[begin : begin + len(own)] != own:
            raise Unsupported(f"{model.name}: its tokenizer cuts a passage otherwise behind another one")
        if begin > end:  # what stands between two passages
            blocks.append(independent(model, asked.ids[end:begin], prefix))
        blocks.append(Block(own, whole[..., head:, :], prefix.ids))
        at, end = at + len(text) + 1, begin + len(own)
    made = recompose(model, prefix, blocks, repair=repair)
    tensor = torch.cat([prefix.tensor.to(made.tensor), made.tensor], dim=-2)
    boundaries = [b for b in asked.boundaries if b < end]
    ends = [*(b.end for b in chain.blocks(asked.ids[:end], boundaries, "")), end]
    cuts = sorted(set(ends))
    return [(asked.ids[a:b], tensor[..., a:b, :]) for a, b in zip([0, *cuts], cuts, strict=False)], made.share
