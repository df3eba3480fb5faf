"""Going back: several changes as one, a name for a moment, what changed since, being there again, and trying things on a copy."""

import tempfile

from memos_core import MemOS


def show(title: str, memory: MemOS) -> None:
    print(f"{title:22}", sorted(hit.cube.text for hit in memory.search("plan", k=10)))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(folder) as memory:
        [trip] = memory.add("The plan: a week in Lyon.")
        [hotel] = memory.add("The plan for the nights: Hotel Bellecour.")
        memory.snapshot("before the change")

        try:
            with memory.transaction():  # all of it, or nothing
                memory.update(trip.id, "The plan: a week in Turin.")
                memory.archive(hotel.id)
                raise ConnectionError("the booking failed")
        except ConnectionError as error:
            show(f"{error}:", memory)

        with memory.transaction():
            memory.update(trip.id, "The plan: a week in Turin.")
            memory.archive(hotel.id)
            memory.add("The plan for the nights: a flat in Via Po.")
        show("booked:", memory)

        found = memory.diff("before the change")
        print(
            f"since then:            {len(found.added)} added, {len(found.changed)} changed, {len(found.removed)} removed"
        )

        with memory.branch("what if") as trial:  # a copy that costs no room
            trial.rollback("before the change")
            show("what if we go back:", trial)
        show("nothing happened:", memory)

        memory.rollback("before the change", id=trip.id)
        show("one memory goes back:", memory)
        memory.rollback("before the change")
        show("all of it goes back:", memory)
        print("and nothing is lost:  ", [f"v{cube.version} {cube.text}" for cube in memory.history(trip.id)])


if __name__ == "__main__":
    main()
