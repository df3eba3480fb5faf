"""A process that dumps or loads until it is killed: `python -m tests.carry_worker`. Imports, then waits for what to do."""

from __future__ import annotations

import json
import os
import sys

from memos_core import MemOS
from tests.words import WordsEmbedder


def main() -> None:
    import memos_core.memos  # noqa: F401 - the slow part, before the signal

    os.write(1, b"ready\n")
    said = json.loads(sys.stdin.readline())
    with MemOS(said["store"], embed=WordsEmbedder(), actor="ann") as memory:
        os.write(1, b"begun\n")
        if said["do"] == "dump":
            memory.dump(said["place"])
        else:
            memory.load(said["place"])
        os.write(1, b"done\n")


if __name__ == "__main__":
    main()
