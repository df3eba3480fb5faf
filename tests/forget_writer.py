"""A process that forgets a namespace and is killed while it does: `python -m tests.forget_writer`. Says on stdout when it begins."""

from __future__ import annotations

import os
import sys

from memos_core import MemOS
from tests.words import WordsEmbedder


def main() -> None:
    import memos_core.memos  # noqa: F401 - the slow part, before the signal

    os.write(1, b"ready\n")
    path = sys.stdin.readline().strip()
    with MemOS(path, embed=WordsEmbedder(), actor="ann") as memory:
        os.write(1, b"begin\n")
        memory.delete(("app",))
        os.write(1, b"done\n")
        sys.stdin.readline()


if __name__ == "__main__":
    main()
