"""One store, many users: private by default, shared by name, and nobody sees a trace of the rest."""

import tempfile

from memos_core import MemOS, NotFound


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(folder) as memory:
        [plan] = memory.add("The surprise party for Tom is on Friday.", actor="ana", namespace=("home", "ana"))
        memory.add("Ana has been whispering on the phone all week.", actor="tom", namespace=("home", "tom"))

        print("Tom asks: ", [hit.cube.text for hit in memory.search("party on Friday", actor="tom")])
        try:
            memory.get(plan.id, actor="tom")
        except NotFound as error:
            print("Tom tries:", error)

        memory.share(plan.id, readers=["bea"], actor="ana")
        print("Bea asks: ", memory.search("party on Friday", actor="bea")[0].cube.text)

        memory.share(plan.id, readers=[], actor="ana")
        print("Revoked:  ", memory.search("party on Friday", actor="bea"))

        for event in reversed(memory.log(actor="ana")):
            print(f"log:       {event.actor} {event.verb} version {event.version}")


if __name__ == "__main__":
    main()
