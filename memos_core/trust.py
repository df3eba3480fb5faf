"""The verbs by which memory is trusted: what may be seen, what is forgotten, and proof of both. What `MemOS` inherits."""

from __future__ import annotations

from .audit import Audit
from .validate import checked_word
from .vault import Vault


class Trust:
    """What `MemOS` inherits: it has the store, and says who acts."""

    _vault: Vault

    def verify(self, head: str | None = None) -> Audit:
        """Hold the log against its chain of hashes: every event that was changed, removed, inserted or moved is named.

        Args:
            head: the `head` of an earlier verification, kept where nobody who writes to the store can write: then a log that was
                forged as a whole since then is found, too.

        Writes nothing. It tells how many events there are and nothing of any of them: it is for whoever runs the store.
        """
        return self._vault.ledger.verify(checked_word(head, "head"))
