"""Memories that climb and fall: what is asked for often is kept as keys and values, what nobody asks for is let go. On the tiny test model."""

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from memos_core import LocalModel, MemOS, Policy, Rates, SchedulePolicy

TINY = Path(__file__).parent.parent / "tests" / "tiny_lm"
FACTS = {
    "garden": ["Marrin's colour is blue.", "Marrin's fruit is plum.", "Zorpa's colour is teal.", "Zorpa's fruit is fig."],
    "stable": ["Kelvi's animal is hen.", "Kelvi's colour is red.", "Tolsha's animal is owl.", "Tolsha's colour is green."],
}  # fmt: skip
QUESTIONS = {"garden": "What is Zorpa's fruit?", "stable": "What is Kelvi's animal?"}
now = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)  # hours pass here in seconds


def main(model: str = str(TINY)) -> None:
    global now
    rates = Rates(prefill=2_000, disk=1e9)  # of a larger model: given, so that this says the same on every machine
    policy, schedule = Policy(kv_disk_bytes=600_000), SchedulePolicy(archive_after=timedelta(days=90))
    with (
        tempfile.TemporaryDirectory() as folder,
        MemOS(folder, model=LocalModel(model), policy=policy, schedule=schedule, rates=rates, clock=lambda: now) as memory,
    ):  # fmt: skip
        for place, facts in FACTS.items():
            for fact in facts:
                memory.add(fact, namespace=(place,))

        def ask(place: str, times: int) -> None:
            global now
            for _ in range(times):
                now += timedelta(seconds=20)
                reply = memory.generate(QUESTIONS[place], namespace=(place,), max_tokens=6)
            read, all_of_it = reply.usage.prefilled, reply.usage.input
            print(f"\n{QUESTIONS[place]}  {reply.text}  (asked {times} times; {read} of {all_of_it} tokens read)")

        def tick() -> None:
            for one in memory.tick().moves:
                print(f"    {one.move.action} {one.move.form}: {one.move.reason}")

        ask("garden", 6)  # climbs: from text to keys and values
        tick()
        now += timedelta(hours=20)
        ask("stable", 12)  # the disk has room for one: the other one falls
        tick()
        now += timedelta(days=120)  # nobody asks: out of search, and kept
        tick()
        cold = memory.log(verb="archive", limit=1)[0].subject
        print(f"\nWhy is {cold} held as it is?")
        for event in memory.why(cold).decisions[:3]:
            print(f"    {event.at:%Y-%m-%d}  {event.verb}: {event.detail}")


if __name__ == "__main__":
    main(*sys.argv[1:])
