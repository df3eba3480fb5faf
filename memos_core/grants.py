"""Grants: to whom, and in which calling context, a right is given. Pure.

A grant is a string: an actor's name, "group:NAME", "*" (everybody), or several conditions that hold together, as `grant` writes them:
"all:@purpose=support&support-bot". What an actor brings (its name, its groups, its calling context) is a set of conditions, too: a grant
holds if all of its conditions are among them. So the rights on what is derived are the grants that come of joining each grant of one
source with each of the next, and the database can test them as it tests names: by looking for one of the grants that hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce

from .errors import InvalidArgument
from .types import PUBLIC

GROUP = "group:"
JOINED = "all:"
_CONTEXT = "@"
_MOST = 256  # grants that a derived memory has: no chain of derivations multiplies them without end. Those left out let nobody in


@dataclass(frozen=True, slots=True)
class Context:
    """In which calling context something is done: what for, with which tool, by which agent. None: not said."""

    purpose: str | None = None
    tool: str | None = None
    agent: str | None = None

    @property
    def conditions(self) -> frozenset[str]:
        """What it brings."""
        said = ((name, getattr(self, name)) for name in self.__slots__)
        return frozenset(f"{_CONTEXT}{name}={_escaped(value)}" for name, value in said if value is not None)


class Caller(str):
    """An actor's name that knows what the actor brings: its conditions (`brings`), its context, and every grant in use that holds.

    It is the name for whoever takes it for one; as a plain string it has the rights of the name alone, never more.
    """

    __slots__ = ("brings", "context", "holding")
    brings: frozenset[str]
    context: Context
    holding: frozenset[str]

    @classmethod
    def of(cls, name: str, groups: Iterable[str], context: Context, joined: Iterable[str]) -> Caller:
        """joined: the grants of several conditions that are in use in the store."""
        known = cls(name)
        plain = frozenset({str(name), PUBLIC, *(GROUP + group for group in groups)})
        known.brings = frozenset(_condition(one) for one in plain - {PUBLIC}) | context.conditions
        known.context = context
        known.holding = plain | frozenset(one for one in joined if conditions(one) <= known.brings)
        return known


def grant(who: str, *, purpose: str | None = None, tool: str | None = None, agent: str | None = None) -> str:
    """A reader or writer who is one only in a calling context, such as `grant("support-bot", purpose="support")`.

    who: an actor, "group:NAME", or PUBLIC. The context is what is said by `MemOS.acting`. Raises InvalidArgument.
    """
    for name, value in (("who", who), ("purpose", purpose), ("tool", tool), ("agent", agent)):
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise InvalidArgument(f"{name}: a non-empty string is needed, not {value!r}")
    return joined(conditions(who) | Context(purpose, tool, agent).conditions)


@lru_cache(maxsize=65536)
def conditions(grant: str) -> frozenset[str]:
    """What must hold for a grant to hold; nothing for that of everybody."""
    if grant == PUBLIC:
        return frozenset()
    if not grant.startswith(JOINED):
        return frozenset({_condition(grant)})
    return frozenset(grant.removeprefix(JOINED).split("&"))


def joined(conditions: frozenset[str]) -> str:
    """The grant of several conditions."""
    if not conditions:
        return PUBLIC
    [one, *others] = sorted(conditions)
    if not others and not one.startswith(_CONTEXT):
        return _read(one)
    return JOINED + "&".join([one, *others])


def holding(actor: str) -> frozenset[str]:
    """Every grant in use that holds for an actor."""
    return actor.holding if isinstance(actor, Caller) else frozenset({actor, PUBLIC})


def holds(grants: Iterable[str], actor: str) -> bool:
    """Whether one of the grants holds for an actor."""
    brings = actor.brings if isinstance(actor, Caller) else frozenset({_condition(actor)})
    return any(conditions(one) <= brings for one in grants)


def meet(some: frozenset[str], others: frozenset[str]) -> frozenset[str]:
    """The grants that hold where one of both hold: none that can never hold, none that says less than another one does."""
    if some == others or PUBLIC in others:
        return some
    if PUBLIC in some:
        return others
    pairs = {conditions(a) | conditions(b) for a in some for b in others}
    found = [one for one in pairs if _is_possible(one)]
    kept = [one for one in found if not any(other < one for other in found)]
    return frozenset(joined(one) for one in sorted(kept, key=lambda one: (len(one), sorted(one)))[:_MOST])


def meet_all(several: Iterable[frozenset[str]]) -> frozenset[str]:
    """The same of any number, each once."""
    return reduce(meet, sorted(set(several), key=lambda grants: (len(grants), sorted(grants))), frozenset({PUBLIC}))


def within(some: frozenset[str], most: frozenset[str]) -> bool:
    """Whether, whoever is in which group, each grant holds only where one of `most` does."""
    wide = [conditions(one) for one in most]
    return all(any(two <= conditions(one) for two in wide) for one in some)


def groups(grants: Iterable[str]) -> set[str]:
    """The names of the groups in some grants."""
    names = (_read(condition) for one in grants for condition in conditions(one) if not condition.startswith(_CONTEXT))
    return {name.removeprefix(GROUP) for name in names if name.startswith(GROUP)}


def is_reserved(name: str) -> bool:
    """Whether a name means a grant and can be no actor's."""
    return name.startswith((GROUP, JOINED))


def _is_possible(conditions: frozenset[str]) -> bool:
    """Nobody has two names or acts in two contexts of one sort at once."""
    only = [c.partition("=")[0] if c.startswith(_CONTEXT) else "" for c in conditions if not c.startswith(GROUP)]
    return len(only) == len(set(only))


def _condition(name: str) -> str:
    return GROUP + _escaped(name.removeprefix(GROUP)) if name.startswith(GROUP) else _escaped(name)


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace("&", "%26").replace("@", "%40")


def _read(condition: str) -> str:
    return condition.replace("%40", "@").replace("%26", "&").replace("%25", "%")
