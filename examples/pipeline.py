"""A memory pipeline in plain Python: retrieve, augment, update, archive. Four functions under a transaction: all of it, or nothing."""

import tempfile

from memos_core import MemCube, MemOS


def retrieve(memory: MemOS, news: str) -> list[MemCube]:
    """What is known about it."""
    return [hit.cube for hit in memory.search(news, k=3, filter={"semantic_type": "address"})]


def augment(known: list[MemCube], news: str) -> str:
    """Stands in for a model that writes one text out of several."""
    earlier = ", ".join(cube.text.split()[-1] for cube in known)
    return f"{news} (before: {earlier})"


def update(memory: MemOS, known: list[MemCube], text: str) -> MemCube:
    """The first of them says it from now on."""
    return memory.update(known[0].id, text) if known else memory.add(text, semantic_type="address")[0]


def archive(memory: MemOS, known: list[MemCube]) -> None:
    """The others are kept, and found no more."""
    for cube in known[1:]:
        memory.archive(cube.id)


def learn(memory: MemOS, news: str) -> MemCube:
    with memory.transaction():
        known = retrieve(memory, news)
        cube = update(memory, known, augment(known, news))
        archive(memory, known)
        if "?" in news:
            raise ValueError("that is no news")  # takes all of it back
    return cube


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(folder) as memory:
        memory.add("Ines lives in Porto", semantic_type="address")
        memory.add("Ines lives in Lisbon", semantic_type="address")
        try:
            learn(memory, "Ines lives in Faro?")
        except ValueError as error:
            print(f"{error}:", sorted(hit.cube.text for hit in memory.search("Ines")))
        print("learned:", learn(memory, "Ines lives in Braga").text)
        print("found:", [hit.cube.text for hit in memory.search("Where does Ines live?")])


if __name__ == "__main__":
    main()
