"""The tiny model's tokenizer: one piece for each word of its language, two for each name, bytes for everything else.

A Unigram model whose pieces all weigh the same, so that the fewest pieces win. A space belongs to the word after it; the
first word of a line or of a message counts as if a space stood before it, so that a name is the same two tokens
wherever it stands. (What that costs: one space at the very start of a line is not given back by decoding.)
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memos_core.brief import FOOTER, HEADER

from . import language

END, TURN, TURN_END, UNK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"
SPECIALS = (END, TURN, TURN_END, UNK)
ROLES = ("system", "user", "assistant", "tool")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EXTRA = (
    "Q: A: You are a helpful assistant. Answer from what follows. These facts are known: Here is what I remember. Notes. Context: "
    "Noted. Understood. Thank you. Please remember this. Okay, I will keep it in mind. Answer with one word. Use the notes below. "
    "plaintext document note memory Memories: Question: Answer: Facts: no not yes and or but with from he she him her they his"
)
POSITIONS = 4096


def pieces() -> list[str]:
    """All ordinary pieces, sorted: words with their leading space, endings, signs, and the parts of dates."""
    templates = (
        *language.STATEMENTS, *language.UNTRAINED_STATEMENTS, *language.QUESTIONS, *language.UNTRAINED_QUESTIONS,
        *language.FILLERS, language.UNKNOWN, EXTRA, HEADER.split("\n", 1)[1],
    )  # fmt: skip
    texts = [re.sub(r"{\w+}('s)?", "", template) for template in templates]
    words = [word for text in texts for word in re.findall(r"[A-Za-z]+", text)]
    words += [*ROLES, *language.ATTRIBUTES, *language.ONE_WORD_VALUES]
    words += [*language.NOUNS, *language.ADJECTIVES, *language.VERBS, *language.PLACES]
    words += [*language.STARTS, *(start.capitalize() for start in language.STARTS)]
    spaced = ["▁" + word for word in words]
    spaced += ["▁", "▁\n", "▁-", "▁" + HEADER.split("\n")[0], "▁" + FOOTER]
    spaced += [f"▁[{year}" for year in range(2020, 2030)] + [f"▁{hour:02d}" for hour in range(24)]
    dates = [f"-{day:02d}" for day in range(1, 32)] + [f":{minute:02d}" for minute in range(60)]
    return sorted({*spaced, *dates, *language.ENDS, "'s", *".,?:;!-[]<>()'\"/", *"0123456789"})


def build() -> PreTrainedTokenizerFast:
    """The tokenizer, with its chat template."""
    vocabulary = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces()]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in vocabulary], SPECIALS.index(UNK), True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("\n"), "isolated"), pre_tokenizers.Metaspace("▁", "always", True)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse()]
        + [decoders.Replace(Regex(gap), "") for gap in ("▁(?=\n)", "(?<=\n)▁", r"(?<=\|>)▁", "^▁")]
        + [decoders.Replace("▁", " ")]
    )
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END, unk_token=UNK, chat_template=CHAT_TEMPLATE,
        model_max_length=POSITIONS, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def save(folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template into a folder."""
    build().save_pretrained(folder)
