"""A process that may have few files open: `python -m tests.descriptor_writer PATH LIMIT ROUNDS ADDS`.

Each round adds to sessions, ticks and searches. Says after how many adds how many files are open and how many bytes are resident, at the
tenth of the rounds and at the end; then how many files are open after a purge and after closing. What fails is said as well.
"""

from __future__ import annotations

import os
import resource
import sys
from datetime import timedelta

from memos_core import MemOS, Policy
from tests.words import WordsEmbedder


def files() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # one is that of the listing


def resident() -> int:
    with open("/proc/self/statm") as said:
        return int(said.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    path, (limit, rounds, adds) = sys.argv[1], map(int, sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    # old versions go soon, so that most ticks compact, as one does that comes every minute
    # and little is kept in memory by policy, so that what is resident beside it is seen
    policy = Policy(keep_versions=timedelta(seconds=1), resident_memories=200, resident_total=200)
    memory = MemOS(path, embed=WordsEmbedder(), actor="ann", policy=policy)
    for round in range(rounds):
        for i in range(adds):
            memory.add(f"note {round * adds + i} of the tea with lemon", session=f"session {round}")
        memory.tick()
        assert memory.search(f"note {round * adds} of the tea")
        if round + 1 in (rounds // 10, rounds):
            print("at", (round + 1) * adds, files(), resident(), flush=True)
    memory.purge()
    print("purged", files(), flush=True)
    memory.close()
    print("closed", files(), flush=True)


if __name__ == "__main__":
    main()
