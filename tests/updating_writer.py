"""A process that changes one memory again and again beside others: `python -m tests.updating_writer PATH ID VERB COUNT`. Says how often it
was refused."""

from __future__ import annotations

import sys

from memos_core import Conflict, Item, MemOS
from tests.words import WordsEmbedder


def main(path: str, id: str, verb: str, count: str) -> None:
    refused = 0
    with MemOS(path, embed=WordsEmbedder(), actor="ann") as memory:
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(int(count)):
            try:
                if verb == "update":
                    memory.update(id, f"line {n}", mode="append")
                elif verb == "share":
                    memory.share(id, readers=[f"reader {n}"])
                elif verb == "archive and restore":
                    memory.archive(id)
                    memory.restore(id, 1)
                else:
                    memory.items.put([Item(("shared",), "k", {"n": n}, (f"value {n}",))])
            except Conflict:
                refused += 1
    print(refused, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
