"""Who runs a store: names in its rules, which may dump it whole and load memories in others' names. Knows the rules; nothing of memories.

The first is named by whoever has the store's files, since he has them anyway; from then on an operator names the others.
"""

from __future__ import annotations

from .errors import AccessDenied, InvalidArgument, NotFound
from .validate import checked_actor
from .vault import Vault

OPERATOR = "operator:"


class Operators:
    """The operators of one store. Safe for many threads and processes."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def names(self) -> frozenset[str]:
        """Who they are."""
        return frozenset(self._vault.rules.under(OPERATOR))

    def may_act_for_all(self, who: str, opener: str) -> bool:
        """Whether an actor may add memories in others' names: an operator, or, of a store without one, who opened it."""
        return who in (self.names() or {opener})

    def require(self, who: str, what: str) -> None:
        """Raise AccessDenied for whoever is none."""
        if who not in self.names():
            raise AccessDenied(
                f"only an operator of the store may {what}, and {str(who)!r} is none: see grant_operator"
            )

    def add(self, name: str, who: str) -> frozenset[str]:
        """Name an operator; all of them. Raises AccessDenied for whoever is none, where there is one."""
        wanted = str(checked_actor(name))
        with self._vault.writing():
            if self.names():
                self.require(who, "name another")
            self._vault.rules.put({OPERATOR + wanted: {"by": str(who)}})
            return self.names()

    def remove(self, name: str, who: str) -> frozenset[str]:
        """Take the right back; those that are left. Raises NotFound for whoever is none, InvalidArgument for the last one: then whoever
        came next would name himself."""
        with self._vault.writing():
            self.require(who, "take the right from one")
            names = self.names()
            if name not in names:
                raise NotFound(f"no operator {name!r}")
            if names == {name}:
                raise InvalidArgument(f"name: {name!r} is the last operator: name another one first")
            self._vault.rules.drop(OPERATOR + name)
            return names - {name}
