"""Who may see what, in which context; who did what; and forgetting, with proof: groups, purposes, a log that cannot be changed in silence."""

import tempfile
from pathlib import Path

from memos_core import Access, MemOS, grant


def words_in_files(folder: Path, words: bytes) -> int:
    return sum(words in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(Path(folder) / "store", actor="shop") as memory:
        memory.group("support", ["mia", "ben", "shop"])
        readers = frozenset({"group:support", grant("ticket-bot", purpose="support")})
        [address] = memory.add("Mrs Okafor lives at 12 Quarry Lane.", access=Access("shop", readers))

        def asks(who: str, purpose: str | None = None) -> None:
            with memory.acting(purpose=purpose):
                found = [hit.cube.text for hit in memory.search("Where does Mrs Okafor live?", actor=who)]
            print(f"{who}, {purpose or 'no purpose said'}: {found or 'nothing'}")

        asks("mia")
        asks("ticket-bot")
        asks("ticket-bot", "marketing")
        asks("ticket-bot", "support")
        memory.group("support", ["ben", "shop"])  # mia left
        asks("mia")

        checked = memory.verify()
        print(f"log: {checked.events} events, sound: {checked.sound}")

        receipt = memory.delete(address.id)
        memory.purge()
        print(f"forgotten: {len(receipt.ids)} memory, handed out before: {list(receipt.handed_out) or 'nowhere'}")
        print(f"files that still hold it: {words_in_files(Path(folder), b'Quarry Lane')}")
        later = memory.verify(checked.head)
        print(f"log: {later.events} events, sound: {later.sound}, and it goes on from the head that was kept")
        for event in reversed(memory.log(subject=address.id)):
            print(f"  {event.actor} {event.verb} version {event.version}")


if __name__ == "__main__":
    main()
