"""What an answer must look like: JSON that fits a schema, or a call of a tool. Only tokens that can become it may be drawn.

Knows grammars, by llguidance; knows no network. A model that was never taught JSON writes none without this, and a good one now and
then writes something else; with it every answer that is not cut off can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import prompt
from .errors import InvalidArgument, MissingPackage, Unsupported
from .toolcalls import CLOSE, OPEN
from .types import Decoding

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
"""One way of writing each value, so that nobody draws blanks for ever. Keywords that no grammar can hold are left to the caller."""


class Constraint:
    """Where in its `grammar` an answer is. Of one answer."""

    def __init__(self, vocabulary: Any, grammar: str) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(vocabulary, grammar, log_level=0)
        if self._matcher.is_error():
            raise InvalidArgument(f"schema: no grammar can be made of it: {self._matcher.get_error()}")

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of shape [1, vocabulary], those of tokens that may not come next at minus infinity."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: logits.shape[-1]].astype(bool)).to(logits.device)
        return logits.masked_fill(~allowed, -torch.inf)

    def take(self, id: int) -> None:
        """Go on by the token that was drawn."""
        self._matcher.consume_token(id)

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())


def of(model: Any, tools: Sequence[Mapping[str, Any]] | None, wanted: Decoding) -> Constraint | None:
    """What holds a `LocalModel`'s answer to what is wanted of it, if anything does."""
    if wanted.tool_choice is None and wanted.schema is None:
        return None
    template = prompt.template(model.tokenizer, tools)
    return Constraint(model.vocabulary, grammar(tools, wanted.tool_choice, wanted.schema, template))


def vocabulary(tokenizer: Any, size: int, ends: Sequence[int]) -> Any:
    """A tokenizer as grammars need it; takes a second for a large one. size: of the logits. ends: tokens that end an answer.

    Raises MissingPackage without llguidance, Unsupported for a tokenizer whose tokens have no bytes.
    """
    try:
        from llguidance.hf import from_tokenizer
    except ImportError as error:
        raise MissingPackage("answers of a given form need llguidance: pip install 'memos-adapters[local]'") from error
    try:
        return from_tokenizer(tokenizer, n_vocab=size, eos_token=list(ends))
    except ValueError as error:
        raise Unsupported(f"the tokenizer cannot hold answers to a form: {error}") from error


def grammar(
    tools: Sequence[Mapping[str, Any]] | None, choice: str | None, schema: Mapping[str, Any] | None, template: str
) -> str:
    """The grammar of one call of a tool, of JSON that fits a schema, or of either.

    choice: "any" tool, or the name of the one; None with a schema leaves it to the model whether to call one of the tools first.
    template: the model's chat template, which shows in what form it writes calls.

    Raises InvalidArgument if there is no such tool.
    """
    ways = []
    if choice is not None or tools:
        ways += _calls(tools or (), choice or "any", template)
    if schema is not None:
        ways.append(f"%json {json.dumps({**closed(schema), 'x-guidance': _COMPACT})}")
    return "start: " + "\n     | ".join(ways) + "\n"


def _calls(tools: Sequence[Mapping[str, Any]], choice: str, template: str) -> list[str]:
    functions = [tool.get("function", tool) for tool in tools]
    chosen = [f for f in functions if choice in ("any", f["name"])]
    if not chosen:
        raise InvalidArgument(
            f"tool_choice: {choice!r} is none of {', '.join(f['name'] for f in functions) or 'no tools'}"
        )
    key = "arguments" if '"arguments"' in template or '"parameters": ' not in template else "parameters"
    before, after = (f"{OPEN}\n", f"\n{CLOSE}") if OPEN in template else ("", "")
    found = []
    for function in chosen:
        schema = {
            "type": "object",
            "properties": {},
            **closed(function.get("parameters") or {}),
            "x-guidance": _COMPACT,
        }
        head = f'{before}{{"name": {_literal(function["name"])}, "{key}": '
        found.append(f"{_literal(head)} %json {json.dumps(schema)} {_literal('}' + after)}")
    return found


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema whose objects hold nothing but what they name, where it does not say otherwise: what is not named, nobody reads."""
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
            found[key] = {name: closed(s) if isinstance(s, Mapping) else s for name, s in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            found[key] = closed(value)
        elif key in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            found[key] = [closed(s) if isinstance(s, Mapping) else s for s in value]
        else:
            found[key] = value
    if "properties" in found:
        found.setdefault("additionalProperties", False)
    return found
