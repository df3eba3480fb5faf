"""Conditions on an item's value, as LangGraph's stores mean them: as SQL text for the prefilter, and in plain Python. Pure.

    {"city": "Rome"}              equal: numbers as numbers, lists element by element; None also where there is nothing
    {"user": {"city": "Rome"}}    each of these conditions holds for the object's members
    {"age": {"$gte": 18}}         $eq $ne $gt $gte $lt $lte $in; several all hold

Values of different types are never equal and never compare, `$ne` holds where there is nothing. A dotted name means first the
member of just that name, then the nested one. What SQL cannot tell exactly (whole objects, numbers beyond 2**53) it lets
through, and `holds` decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .codec import checked_text
from .errors import InvalidArgument
from .filters import literal

_DEEPEST = 16
_EXACT = 2**53  # integers below are exact as doubles
_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", *_SIGNS, "$in")
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Test:
    """SQL that is true of every row that a condition holds for; `exact` if of no other."""

    sql: str
    exact: bool = True


def of_value(conditions: Mapping[str, Any] | None) -> Test | None:
    """The test of a filter on the column `attributes`; None if there is no condition.

    Raises InvalidArgument for an unknown operator, a name that cannot be one, and an operand that is not JSON.
    """
    if conditions is None:
        return None
    if not isinstance(conditions, Mapping):
        raise InvalidArgument(f"filter: a mapping of names to conditions is needed, not {type(conditions).__name__}")
    return _all([_named(name, wanted) for name, wanted in conditions.items()]) if conditions else None


def holds(conditions: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether a filter that `of_value` accepted holds for a value."""
    return all(_holds(_member(value, name), wanted) for name, wanted in conditions.items())


# --- in SQL ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A member of an object, or an element of a list: SQL for what it is in, and its name there."""

    inside: str
    name: str

    @property
    def node(self) -> str:
        """The JSON there; null if there is nothing."""
        return f"json_get({self.inside}, {literal(self.name)})"

    @property
    def shown(self) -> str:
        """It as text."""
        return f"json_extract({self.node}, '$')"

    @property
    def text(self) -> str:
        """The string there, null for anything else. Reading an object as a string is an error, and a condition beside it does
        not keep the database from trying: so what is no string is taken out of reach."""
        return f"json_get_string({_where(self.is_a(chr(34)), self.inside)}, {literal(self.name)})"

    @property
    def members(self) -> str:
        """What a member of it is in: it, if it is an object; a list would take a number for an index."""
        return _where(self.is_a("{"), self.node)

    def is_a(self, mark: str) -> str:
        """It begins so: '{' an object, '[' a list, '"' a string."""
        return f"starts_with({self.shown}, '{mark}')"


def _where(condition: str, value: str) -> str:
    """The value where a condition holds, else null: an array's element 0 is null."""
    return f"array_element(make_array({value}), CAST({condition} AS INT))"


def _named(name: Any, wanted: Any) -> Test:
    parts = _parts(name)
    flat = _Place("attributes", name)
    if len(parts) == 1:
        return _test(flat, wanted)
    inside = "attributes"
    for part in parts[:-1]:
        inside = _Place(inside, part).members
    literally, nested = _test(flat, wanted), _test(_Place(inside, parts[-1]), wanted)
    there = f"{flat.node} IS NOT NULL"
    return Test(
        f"(({there}) AND ({literally.sql})) OR (NOT ({there}) AND ({nested.sql}))", literally.exact and nested.exact
    )


def _parts(name: Any) -> list[str]:
    if not isinstance(name, str) or not name or name.count(".") > _DEEPEST:
        raise InvalidArgument(
            f"filter: a field name must be a non-empty string of at most {_DEEPEST} dots, not {name!r:.80}"
        )
    parts = checked_text(name, "filter").split(".")
    if "" in parts:
        raise InvalidArgument(f"filter: {name!r} has an empty name between its dots")
    return parts


def _test(place: _Place, wanted: Any, depth: int = 0) -> Test:
    """Of a condition on a place. No test is ever null: `NOT` and `OR` mean what they say."""
    if depth > _DEEPEST:
        raise InvalidArgument(f"filter: conditions are nested deeper than {_DEEPEST} levels")
    if not isinstance(wanted, Mapping):
        return _equal(place, wanted, depth)
    if any(isinstance(k, str) and k.startswith("$") for k in wanted):
        return _all([_operator(place, operator, operand, depth) for operator, operand in wanted.items()])
    members = []
    for name, condition in wanted.items():
        if not isinstance(name, str):
            raise InvalidArgument(f"filter: a field name must be a string, not {name!r:.80}")
        members.append(_test(_Place(place.node, checked_text(name, "filter")), condition, depth + 1))
    return _all([Test(f"COALESCE({place.is_a('{')}, false)"), *members])


def _operator(place: _Place, operator: str, operand: Any, depth: int) -> Test:
    if operator not in OPERATORS:
        raise InvalidArgument(f"filter: {operator!r} is no operator; there are {' '.join(OPERATORS)}")
    if operator == "$in":
        if isinstance(operand, str | bytes) or not isinstance(operand, Sequence | set | frozenset):
            raise InvalidArgument(f"filter: $in takes a list, not {operand!r:.80}")
        tests = [_same(place, one, depth) for one in operand]
        return Test(" OR ".join(f"({t.sql})" for t in tests) or "false", all(t.exact for t in tests))
    if operator in _SIGNS:
        return _compared(place, _SIGNS[operator], operand)
    test = _same(place, operand, depth)
    if operator == "$eq":
        return test
    return Test(f"NOT ({test.sql})") if test.exact else Test("true", exact=False)


def _compared(place: _Place, sign: str, operand: Any) -> Test:
    if operand is None or isinstance(operand, bool | Mapping | list | tuple):
        return Test("false")
    if isinstance(operand, str):
        return Test(f"COALESCE({place.text} {sign} {literal(checked_text(operand, 'filter'))}, false)")
    number = _number(operand)
    if abs(number) >= _EXACT:
        return Test(f"TRY_CAST({place.shown} AS DOUBLE) IS NOT NULL", exact=False)
    return Test(f"COALESCE(TRY_CAST({place.shown} AS DOUBLE) {sign} {float(number)!r}, false)")


def _same(place: _Place, operand: Any, depth: int) -> Test:
    """The operand of `$eq`, `$ne` or `$in`: an object stands for itself, not for conditions."""
    if isinstance(operand, Mapping):
        _checked(operand, depth)
        return Test(f"COALESCE({place.is_a('{')}, false)", exact=False)
    return _equal(place, operand, depth, whole=True)


def _equal(place: _Place, wanted: Any, depth: int, *, whole: bool = False) -> Test:
    if depth > _DEEPEST:
        raise InvalidArgument(f"filter: values are nested deeper than {_DEEPEST} levels")
    if wanted is None:
        return Test(f"COALESCE({place.shown} = 'null', true)")
    if isinstance(wanted, bool):
        return Test(f"COALESCE({place.shown} = '{str(wanted).lower()}', false)")
    if isinstance(wanted, str):
        return Test(f"COALESCE({place.text} = {literal(checked_text(wanted, 'filter'))}, false)")
    if isinstance(wanted, list | tuple):
        each = _same if whole else _test
        parts = [each(_Place(place.node, str(i)), one, depth + 1) for i, one in enumerate(wanted)]
        size = f"COALESCE({place.is_a('[')} AND json_array_length({place.node}, '$') = {len(wanted)}, false)"
        return _all([Test(size), *parts])
    number = _number(wanted)
    test = f"COALESCE(TRY_CAST({place.shown} AS DOUBLE) = {float(number)!r}, false)"
    return Test(test) if abs(number) < _EXACT else Test(test, exact=False)


def _number(operand: Any) -> int | float:
    if isinstance(operand, float) and math.isfinite(operand):
        return operand
    if isinstance(operand, int) and -(2**63) <= operand < 2**63:
        return operand
    raise InvalidArgument(f"filter: {operand!r:.80} is not plain JSON (64-bit, finite)")


def _checked(operand: Any, depth: int) -> None:
    """Refuse what no value can be equal to, because it is not JSON."""
    if depth > _DEEPEST:
        raise InvalidArgument(f"filter: values are nested deeper than {_DEEPEST} levels")
    if isinstance(operand, Mapping | list | tuple):
        for one in operand.values() if isinstance(operand, Mapping) else operand:
            _checked(one, depth + 1)
    elif operand is not None and not isinstance(operand, str | bool):
        _number(operand)


def _all(tests: Sequence[Test]) -> Test:
    return Test(" AND ".join(f"({t.sql})" for t in tests), all(t.exact for t in tests))


# --- in Python ---------------------------------------------------------------------------------------------------------


def _member(value: Mapping[str, Any], name: str) -> Any:
    if name in value:
        return value[name]
    found: Any = value
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _holds(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping) and any(isinstance(k, str) and k.startswith("$") for k in wanted):
        return all(_satisfies(value, operator, operand) for operator, operand in wanted.items())
    if isinstance(wanted, Mapping):
        return isinstance(value, Mapping) and all(_holds(value.get(n, _ABSENT), w) for n, w in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(_holds(v, w) for v, w in zip(value, wanted, strict=True))
        )
    return _alike(value, wanted)


def _satisfies(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$in":
        return any(_alike(value, one) for one in operand)
    if operator in ("$eq", "$ne"):
        return _alike(value, operand) is (operator == "$eq")
    text = isinstance(value, str) and isinstance(operand, str)
    if not text and not (_is_number(value) and _is_number(operand)):
        return False
    order = (value > operand) - (value < operand)
    return bool({"$gt": order > 0, "$gte": order >= 0, "$lt": order < 0, "$lte": order <= 0}[operator])


def _alike(value: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and not true; nothing is null."""
    if value is _ABSENT or value is None:
        return other is None
    if isinstance(other, Mapping):
        return (
            isinstance(value, Mapping)
            and value.keys() == other.keys()
            and all(_alike(value[k], other[k]) for k in other)
        )
    if isinstance(other, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(other) and all(map(_alike, value, other))
    if _is_number(value) and _is_number(other):
        return bool(value == other)
    return type(value) is type(other) and bool(value == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
