"""Memories one can carry: dumped and loaded under another embedder, and published by one store for another that never met it."""

import tempfile
from pathlib import Path

from memos_core import PUBLIC, MemOS, importers, new_key, public_key


def letters(texts):
    """Another embedder than the default one: how often each letter comes."""
    return [[1.0 + text.lower().count(chr(97 + i)) for i in range(26)] for text in texts]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with MemOS(folder / "ann", actor="ann") as ann:
            ann.add("Green tea is brewed at 70 degrees.", key="green", namespace=("tea",))
            ann.add("Black tea is brewed with boiling water.", key="black", namespace=("tea",))
            ann.add("My card number is 5555-1234.", namespace=("private",))

            # one file, without what is nobody's business
            dump = ann.dump(folder / "ann.zip", redact=lambda text: text.replace("5555-1234", "[card]"))
            print(f"dumped:    {dump.memories} memories, {dump.bytes:,} bytes")
            with MemOS(folder / "new", embed=letters, actor="ann") as new:
                done = new.load(folder / "ann.zip")
                print(
                    f"loaded:    {done.added} added, {done.embedded} embedded anew, twice: {new.load(folder / 'ann.zip').added}"
                )
                print("           " + new.search("card number")[0].cube.text)

            # a shelf that anybody may read; what lies there is signed
            new_key(folder / "key.pem")
            terms = {
                "key": folder / "key.pem",
                "visibility": [PUBLIC],
                "licence": "CC-BY-4.0",
                "tags": ["tea"],
                "about": "brewing tea",
            }
            ann.publish(folder / "shelf", "brewing", namespace=("tea",), **terms)

            with MemOS(folder / "zoe", embed=letters, actor="zoe") as zoe:
                for offer in zoe.offers(folder / "shelf"):
                    print(f"offered:   {offer.terms.name} version {offer.terms.number}, {offer.terms.licence}")
                trusted = public_key(folder / "key.pem")  # as Ann would give it to Zoe
                zoe.subscribe(folder / "shelf", trust=[trusted], tags=["tea"], accept=["CC-BY-4.0"])
                print(f"pulled:    {zoe.pull()[0].loaded.added} added")

                ann.add("Green tea is brewed at 75 degrees.", key="green", namespace=("tea",))
                ann.publish(folder / "shelf", "brewing", namespace=("tea",), **terms)
                print(f"pulled:    {zoe.pull()[0].loaded.updated} updated")
                print("           " + zoe.search("green tea degrees")[0].cube.text)

                export = {"results": [{"id": "1", "memory": "Zoe takes her tea with lemon.", "user_id": "zoe"}]}
                print(f"from mem0: {zoe.bring_in(importers.mem0(export))[1]} new")


if __name__ == "__main__":
    main()
