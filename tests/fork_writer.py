"""A process that opens nothing, and whose children do: `python -m tests.fork_writer PATH CHILDREN ADDS`. Says what each ended with.
With "open" behind them it opens the store before; with "local", the embedder is a model that has embedded before, with two threads."""

from __future__ import annotations

import os
import sys

import lancedb  # noqa: F401  # as under a server that loads the application before it forks

from langchain_memos import MemOSRecallNode
from llamaindex_memos import MemOSRetriever  # noqa: F401
from memos_core import ForkedProcess, LocalEmbedder, MemOS
from tests.words import WordsEmbedder


def main() -> None:
    path, children, adds, *how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    embed = LocalEmbedder() if "local" in how else WordsEmbedder()
    if "local" in how:
        import torch

        torch.set_num_threads(2)
        embed(["tea with lemon"] * 64)
    node = MemOSRecallNode(path, embed=embed)
    if "open" in how:
        node.memory.add("I take my tea with lemon.", actor="ann")
        node.memory.search("tea", actor="ann")
    begun = []
    for child in range(children):
        if not (pid := os.fork()):
            sys.exit(
                write(node.memory, child, adds)
            )  # as a server's worker ends: the interpreter takes everything down
        begun.append(pid)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in begun))


def write(memory: MemOS, child: int, adds: int) -> int:
    """0 if all was stored, 3 if the fork was named."""
    try:
        for n in range(adds):
            memory.add(f"note {child} {n} of the tea", actor="ann")
        assert memory.search("tea", actor="ann")
    except ForkedProcess:
        return 3
    finally:
        memory.close()
    return 0


if __name__ == "__main__":
    main()
