"""Small networks with random weights and a tokenizer of bytes, for tests that need a model's arithmetic and not its knowledge.

What they say is noise, the same for the same seed. Any text can be tokenised, and every token decodes to its byte.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from memos_core import LocalModel

torch.set_num_threads(1)  # so small, a network is no faster on more, and far slower where others compute too

END, START, PAD = "<|im_end|>", "<|im_start|>", "<|pad|>"

CHATML = """\
{%- if tools %}{{ '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif -%}
{{ 'You may call these functions:\n' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor -%}
{{ 'A call is <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif -%}
{%- for message in messages if message.role != 'system' %}
{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}
"""
"""ChatML as Qwen and Hermes write it: tools in the system message, calls as JSON between tags."""


def byte_tokenizer(*, template: str | None = CHATML, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token for each byte, three special ones, and one for each word: 259 without words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    found.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    found.chat_template = template
    return found


KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "sliding": (MistralConfig, MistralForCausalLM, {"sliding_window": 32}),
}
"""Architectures, all with grouped queries; "sliding" is one whose layers see no further than 32 tokens."""


@lru_cache(maxsize=8)
def random_network(
    kind: str = "qwen3", *, seed: int = 0, window: int = 4096, words: int = 0, short: bool = False
) -> Any:
    """A network of 2 layers, 4 heads and 2 KV heads of dimension 16. short: every fourth token ends an answer, which would else be as long
    as it may. Shared by all who ask alike: leave it as it is."""
    config, network, more = KINDS[kind]
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    found = network(
        config(
            vocab_size=len(tokenizer) + words, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=window, initializer_range=0.2,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **more,
        )
    ).eval()  # fmt: skip
    if short:
        found.generation_config.eos_token_id = list(range(0, found.config.vocab_size, 4))
    return found


def random_model(
    kind: str = "qwen3",
    *,
    seed: int = 0,
    window: int = 4096,
    template: str | None = CHATML,
    words: Sequence[str] = (),
    short: bool = False,
    **options: Any,
) -> LocalModel:
    """A `LocalModel` over a random network (see there), with a shelf of its own. options: of `LocalModel.of`."""
    network = random_network(kind, seed=seed, window=window, words=len(words), short=short)
    return LocalModel.of(
        network, byte_tokenizer(template=template, words=words), **{"name": f"random-{kind}", **options}
    )


class RecitingNetwork(Qwen3ForCausalLM):
    """A network that says what it was told to, and knows the prompt from keys and values alone: a token's keys hold its id.

    Nothing else carries anything from one pass to the next, so that a wrong cache gives a wrong answer.
    """

    tokenizer: Any
    say: Callable[[str], str]
    opening: str

    def forward(self, input_ids: torch.Tensor, past_key_values: Any, **_: Any) -> CausalLMOutputWithPast:
        states = input_ids[:, None, :, None].to(torch.float32).expand(-1, 1, -1, 2)
        keys, _ = past_key_values.update(states, states, 0)
        rows = [self._next(row.tolist()) for row in keys[:, 0, :, 0].long()]
        logits = torch.zeros(len(rows), 1, self.config.vocab_size)
        for row, wanted in enumerate(rows):
            logits[row, 0, wanted] = 100.0
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def _next(self, ids: list[int]) -> int:
        begins = self._ids(self.opening)
        ends = [i + len(begins) for i in range(len(ids)) if ids[i : i + len(begins)] == begins]
        if not ends:
            return int(self.tokenizer.eos_token_id)
        said = ids[ends[-1] :]
        wanted = [*self._ids(self.say(self.tokenizer.decode(ids[: ends[-1]]))), self.tokenizer.eos_token_id]
        return wanted[len(said)] if said == wanted[: len(said)] and len(said) < len(wanted) else wanted[-1]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def reciting_model(
    say: Callable[[str], str] | str, *, window: int = 8192, template: str = CHATML, **options: Any
) -> LocalModel:
    """A `LocalModel` that answers a prompt (all of it, as its template wrote it) with what `say` makes of it, or with one text."""
    tokenizer = byte_tokenizer(template=template)
    network = RecitingNetwork(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, head_dim=2, max_position_embeddings=window, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    network.tokenizer = tokenizer
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True
    )
    network.opening = asked[asked.rindex(START) :]
    network.say = (lambda _: say) if isinstance(say, str) else say
    return LocalModel.of(network, tokenizer, **{"name": "reciting", **options})


class Recorder:
    """Says one reply after the other (the last for ever), once for each prompt; keeps the prompts, and the threads that asked."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies) or ["All right."]
        self.prompts: list[str] = []
        self.threads: set[int] = set()
        self.steps = 0

    def __call__(self, prompt: str) -> str:
        self.steps += 1
        self.threads.add(threading.get_ident())
        if prompt not in self.prompts:
            self.prompts.append(prompt)
        return self.replies[min(self.prompts.index(prompt), len(self.replies) - 1)]
