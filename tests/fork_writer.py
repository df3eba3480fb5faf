"""A process that opens nothing, and whose children do: `python -m tests.fork_writer PATH CHILDREN ADDS`. Says what each ended with."""

from __future__ import annotations

import os
import sys

import lancedb  # noqa: F401  # as under a server that loads the application before it forks

from langchain_memos import MemOSRecallNode
from llamaindex_memos import MemOSRetriever  # noqa: F401
from memos_core import MemOS
from tests.words import WordsEmbedder


def main() -> None:
    path, children, adds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    node = MemOSRecallNode(path, embed=WordsEmbedder())
    begun = []
    for child in range(children):
        if not (pid := os.fork()):
            memory: MemOS = node.memory
            stored = [memory.add(f"note {child} {n} of the tea", actor="ann") for n in range(adds)]
            node.close()
            sys.exit(len(stored) != adds)
        begun.append(pid)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in begun))


if __name__ == "__main__":
    main()
