"""Who acts, with all that this brings: the groups that the store says it is in, and the calling context. Knows the store's rules.

A membership is asked for at each request, so that one that was taken away counts from the next request on, in every process, for memories
and for all that was derived from them: rights name the group, not its members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from . import filters, grants
from .errors import AccessDenied, InvalidArgument, NotFound
from .grants import Caller, Context
from .operators import Operators
from .validate import checked_actor, checked_actors
from .vault import ALL, GRANT, Vault

_context: ContextVar[Context] = ContextVar("calling context", default=Context())  # noqa: B039 - it is frozen


@contextmanager
def acting(context: Context) -> Iterator[None]:
    """What this thread (or task) asks for in the block is asked for in this context."""
    before = _context.set(context)
    try:
        yield
    finally:
        _context.reset(before)


class Groups:
    """The groups of one store. Safe for many threads and processes."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.operators = Operators(vault)
        self._read: tuple[Mapping[str, Any], dict[str, set[str]], list[str]] = ({}, {}, [])

    def caller(self, actor: str) -> Caller:
        """An actor with what it brings now. One that was made before keeps the context that it was made in."""
        context = actor.context if isinstance(actor, Caller) else _context.get()
        name, (_, groups, joined) = str(checked_actor(actor)), self._known()
        return Caller.of(name, groups.get(name, ()), context, joined)

    def put(self, name: str, members: Iterable[str], who: str) -> frozenset[str]:
        """Say who is in a group, from now on: exactly these. Whoever names it first owns it, and nobody else changes it. What others granted
        to a name that no group has yet is not to be had by naming it."""
        rule, wanted = grants.GROUP + _checked_name(name), checked_actors(members, "members")
        if wrong := sorted(m for m in wanted if m == "*" or grants.is_reserved(m)):
            raise InvalidArgument(f"members: {wrong[0]!r} is no single actor")
        with self._vault.writing():
            known = self._vault.rules.all().get(rule)
            if (known is None and not is_free(self._vault, name, who)) or (known and known["owner"] != who):
                raise AccessDenied(f"group {name!r} is another's: choose another name")
            self._vault.rules.put({rule: {"owner": str(who), "members": sorted(wanted)}})
        return wanted

    def members(self, name: str, who: str) -> frozenset[str]:
        """Who is in a group. Raises NotFound for those who are neither in it nor its owner."""
        known = self._vault.rules.all().get(grants.GROUP + _checked_name(name), {"owner": None, "members": []})
        if not _is_in(known, who):
            raise NotFound(f"no group {name!r}")
        return frozenset(known["members"])

    def require_known(self, readers: Iterable[str], who: str) -> None:
        """Raise InvalidArgument for a grant to a group that the actor is not in: it would not know to whom it gives what."""
        named = grants.groups(readers)
        known = self._vault.rules.all() if named else {}
        for name in sorted(named):
            if (rule := known.get(grants.GROUP + name)) is None or not _is_in(rule, who):
                raise InvalidArgument(f"readers, writers: there is no group {name!r} that {str(who)!r} owns or is in")

    def _known(self) -> tuple[Mapping[str, Any], dict[str, set[str]], list[str]]:
        """The groups of each actor, and the grants of several conditions, as of the rules that were read last."""
        rules = self._vault.rules.all()
        if rules is not self._read[0]:
            groups: dict[str, set[str]] = {}
            for rule, value in rules.items():
                for member in value["members"] if rule.startswith(grants.GROUP) else ():
                    groups.setdefault(member, set()).add(rule.removeprefix(grants.GROUP))
            self._read = (rules, groups, [r.removeprefix(GRANT) for r in rules if r.startswith(GRANT)])
        return self._read


def is_free(vault: Vault, name: str, who: str) -> bool:
    """Whether a group may be made in an actor's name: nothing that others own, or did, is granted to one of that name."""
    named = grants.GROUP + name.removeprefix(grants.GROUP)
    joined = [rule for rule in vault.rules.under(GRANT) if name.removeprefix(grants.GROUP) in grants.groups([rule])]
    granted = filters.contains_any("readers", sorted([named, *joined]))
    mine = filters.literal(str(who))
    with vault.db.guarded("history"):
        past = vault.db.table("history").search().where(granted).select(["id"]).limit(ALL).to_arrow()["id"]
    ids = past.unique().to_pylist()
    with vault.db.guarded("events"):
        told = vault.db.table("events").count_rows(filters.all_of(granted, f"actor != {mine}"))
    others = [vault.count(filters.all_of(where, f"owner != {mine}")) for where in (granted, filters.one_of("id", ids))]
    return not told and not any(others)


def _is_in(rule: Mapping[str, Any], who: str) -> bool:
    members: Sequence[str] = rule["members"]
    return who == rule["owner"] or who in members


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InvalidArgument(f"name: a group's name is a non-empty string, not {name!r}")
    return name.removeprefix(grants.GROUP)
