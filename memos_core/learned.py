"""An adapter with what is known of it, as the bytes of one blob: safetensors behind a manifest. Knows the format; trains nothing.

Layout: 8 bytes of length, a JSON manifest, one safetensors file. The blob's name is the hash of the manifest, which holds the hash of the
file and the gate's verdict: so nobody makes an adapter pass by changing a record.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .blobs import Blobs, digest
from .errors import Damaged
from .gate import Scores
from .lora import LoRA, packed, unpacked

_FORMAT = "memos-lora/1"
_MOST = 64 << 20  # bytes of a manifest: more is a lie


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """An adapter; how it was made ("distilled", "cat", "adopted", ...) and in words how that ended; what the gate measured, None where
    nothing could be; the questions by which what it knows was tested, the phrasings of each point together; and a hash of the words that
    it was made from, "" where those are not known."""

    lora: LoRA
    made: str
    why: str = ""
    scores: Scores | None = None
    questions: tuple[tuple[str, ...], ...] = ()
    words: str = ""

    def knows(self, text: str) -> bool:
        """Whether it was found to say what a text says, so that this need not stand before it."""
        return self.scores is not None and digest(text.encode()) in self.scores.learned

    @property
    def passed(self) -> bool:
        """Whether it may be used without being asked for."""
        return self.scores is not None and self.scores.passed


def pack(learned: Learned) -> tuple[str, list[bytes]]:
    """The name and the bytes of its blob."""
    body = packed(learned.lora)
    head = json.dumps({
        "format": _FORMAT, "model": learned.lora.model, "made": learned.made, "why": learned.why, "bytes": len(body),
        "digest": digest(body), "scores": None if learned.scores is None else asdict(learned.scores), "questions": learned.questions, "words": learned.words,
    }).encode()  # fmt: skip
    return digest(head), [len(head).to_bytes(8, "little"), head, body]


def unpack(blobs: Blobs, name: str) -> Learned:
    """What a blob holds. Raises Damaged for one that is not what its name says."""
    size = int.from_bytes(blobs.read(name, 0, 8), "little")
    where = str(blobs.path(name))
    if not 0 < size <= _MOST:
        raise Damaged(f"{where}: its manifest cannot have {size} bytes")
    head = blobs.read(name, 8, size)
    if digest(head) != name:
        raise Damaged(f"{where}: its manifest is not what was written")
    try:
        said = json.loads(head)
        if said["format"] != _FORMAT:
            raise ValueError(f"format {said['format']!r}")
        scores = None if said["scores"] is None else _scores(said["scores"])
        questions = tuple(tuple(forms) for forms in said["questions"])
        model, made, why, words, length, body_name = (
            said[k] for k in ("model", "made", "why", "words", "bytes", "digest")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{where}: its manifest is none that this version reads: {error}") from error
    body = blobs.read(name, 8 + size, length)
    if digest(body) != body_name:
        raise Damaged(f"{where}: its weights are not what was written")
    return Learned(unpacked(model, bytes(body), where), made, why, scores, questions, words)


def told(learned: Learned) -> dict[str, Any]:
    """What its owner sees of an adapter: how it was made, and what the gate says."""
    found: dict[str, Any] = {"made": learned.made, "why": learned.why, "passed": learned.passed}
    if (scores := learned.scores) is not None:
        figures = {
            "recall": scores.recall, "recall_in_context": scores.recall_in_context, "unknown_in_context": scores.unknown_in_context,
            "in_context": scores.in_context, "conflict": scores.conflict, "drift": scores.drift,
        }  # fmt: skip
        found |= {name: round(figure, 4) for name, figure in figures.items()}
        found |= {
            "unknown": {kind: round(share, 4) for kind, share in scores.unknown.items()},
            "failures": list(scores.failures),
        }
    return found


def verdict(learned: Learned) -> str:
    """In words, what the gate says of an adapter."""
    if learned.scores is None:
        return "not verified"
    return "passed" if learned.passed else "failed its gate"


def _scores(said: dict[str, Any]) -> Scores:
    return Scores(**{**said, "failures": tuple(said["failures"]), "learned": tuple(said.get("learned", ()))})
