"""Conditions on memories, as SQL text for the store's prefilter. Pure: builds strings, runs nothing.

Every value goes through `literal`, every column name comes from this file: nothing that a caller says is ever pasted.
Backslash is no escape in this dialect, a doubled quote is (see the property test against hostile strings).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from . import grants
from .codec import checked_text
from .errors import InvalidArgument
from .types import Kind, Namespace, State

_DEEPEST = 16  # dots in a name
Scalar = str | bool | int | float | None

HEADER = {"semantic_type": "semantic_type", "session": "session", "speaker": "speaker", "role": "role", "key": "key",
          "source": "source"}  # fmt: skip
"""Names in a filter that mean a header field; any other name, or `attributes.NAME`, means an attribute."""


def literal(value: str | int | float | datetime) -> str:
    """A value as SQL text."""
    if isinstance(value, datetime):
        return f"timestamp '{value.astimezone(UTC).isoformat()}'"
    if isinstance(value, str):
        return "'" + checked_text(value, "filter").replace("'", "''") + "'"
    return repr(value)


def all_of(*conditions: str | None) -> str:
    """The conjunction of those given."""
    return " AND ".join(f"({c})" for c in conditions if c)


def one_of(column: str, values: Iterable[str]) -> str:
    """column IN values; false for no values, which the dialect cannot say itself."""
    listed = ", ".join(literal(v) for v in values)
    return f"{column} IN ({listed})" if listed else "false"


def contains_any(column: str, values: Iterable[str]) -> str:
    """A list column holds one of the values."""
    listed = ", ".join(literal(v) for v in values)
    return f"array_has_any({column}, [{listed}])" if listed else "false"


def readable_by(actor: str) -> str:
    """The actor's right to read, as the store sees it (`governance.may_read`)."""
    return contains_any("readers", sorted(grants.holding(actor)))


def under(namespace: Namespace) -> str | None:
    """At or below a namespace; None for the root."""
    return starting("namespace", encode_namespace(namespace)) if namespace else None


@lru_cache(maxsize=4096)
def encode_namespace(namespace: Namespace) -> str:
    """Labels as one sortable path that ends in '/': no label can look like two, or like the start of another."""
    return "".join(label.replace("%", "%25").replace("/", "%2F") + "/" for label in namespace)


def decode_namespace(path: str) -> Namespace:
    """The inverse of `encode_namespace`."""
    return tuple(part.replace("%2F", "/").replace("%25", "%") for part in path.split("/")[:-1])


def in_states(states: Iterable[State]) -> str:
    """In one of the states."""
    return one_of("state", (s.value for s in states))


def starting(column: str, path: str) -> str:
    """A column of paths, each ending in "/" or going on after it, starts with one. A half-open range: an index serves it."""
    return f"{column} >= {literal(path)} AND {column} < {literal(path[:-1] + '0')}"  # '0' follows '/'


def of_kinds(kinds: Iterable[Kind | str] | None) -> str | None:
    """Of one of the kinds; None for any. Raises InvalidArgument for a kind that does not exist."""
    if kinds is None:
        return None
    try:
        return one_of("kind", sorted(Kind(k).value for k in ([kinds] if isinstance(kinds, str) else kinds)))
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"kinds: {error}; there are {', '.join(Kind)}") from None


def unexpired(now: datetime) -> str:
    """Not past its time; a frozen memory has none."""
    return f"expires_at IS NULL OR expires_at > {literal(now)} OR state = 'frozen'"


def current(now: datetime) -> str:
    """Not expired, swept or not yet."""
    return all_of("state != 'expired'", unexpired(now))


def lapsed(now: datetime) -> str:
    """Past its time, and not frozen: what a tick removes."""
    return f"NOT ({unexpired(now)})"


def withdrawn(until: datetime) -> str:
    """Taken back by a rollback up to a time."""
    return f"state = 'expired' AND updated_at <= {literal(until)}"


def over(now: datetime, until: datetime) -> str:
    """Past its time, or taken back by a rollback up to a time."""
    return f"({lapsed(now)}) OR ({withdrawn(until)})"


def happened(since: datetime | None, until: datetime | None) -> str | None:
    """Within [since, until)."""
    return all_of(
        None if since is None else f"happened_at >= {literal(since)}",
        None if until is None else f"happened_at < {literal(until)}",
    ) or None  # fmt: skip


def matching(conditions: Mapping[str, Any] | None) -> str | None:
    """A filter such as {"city": "Rome", "age": {"$gte": 18}, "tags": {"$in": ["work"]}}, all of it holding.

    Operators: $eq $ne $gt $gte $lt $lte $in. Numbers compare as numbers, strings by code point, and values of different
    types never match; `$ne` also holds where the attribute is missing. A dotted name means first the attribute of just
    that name, then the nested one. `tags` holds if the memory has the tag.
    """
    if conditions is None:
        return None
    if not isinstance(conditions, Mapping):
        raise InvalidArgument(f"filter: a mapping of names to conditions is needed, not {type(conditions).__name__}")
    if not conditions:
        return None
    return all_of(*(_field(name, wanted) for name, wanted in conditions.items()))


def _field(name: Any, wanted: Any) -> str:
    if not isinstance(name, str) or not name or name.count(".") > _DEEPEST:
        raise InvalidArgument(
            f"filter: a field name must be a non-empty string of at most {_DEEPEST} dots, not {name!r:.80}"
        )
    tests = wanted if isinstance(wanted, Mapping) else {"$eq": wanted}
    if not tests:
        raise InvalidArgument(f"filter: {name!r} has no condition")
    for operator in tests:
        if operator not in _OPERATORS:
            raise InvalidArgument(f"filter: {operator!r} is no operator; there are {' '.join(_OPERATORS)}")
    build = _tag if name == "tags" else _header if name in HEADER else _attribute
    return all_of(*(build(name, operator, value) for operator, value in tests.items()))


def _tag(name: str, operator: str, value: Any) -> str:
    if operator == "$in":
        return contains_any("tags", [_string(name, v) for v in _listed(name, value)])
    has = contains_any("tags", [_string(name, value)])
    if operator == "$eq":
        return has
    if operator == "$ne":
        return f"({has}) IS NOT TRUE"
    raise InvalidArgument(f"filter: tags take $eq, $ne and $in, not {operator}")


def _header(name: str, operator: str, value: Any) -> str:
    column = HEADER[name]
    if operator == "$in":
        return one_of(column, [_string(name, v) for v in _listed(name, value)])
    if value is None:
        return _null(f"{column} IS NULL", operator, name)
    test = f"{column} {_SIGNS[operator]} {literal(_string(name, value))}"
    return f"({column} = {literal(value)}) IS NOT TRUE" if operator == "$ne" else test


def _attribute(name: str, operator: str, value: Any) -> str:
    if operator == "$in":
        return " OR ".join(_attribute(name, "$eq", v) for v in _listed(name, value)) or "false"
    if operator == "$ne":
        return f"({_attribute(name, '$eq', value)}) IS NOT TRUE"
    node = _node(name.removeprefix("attributes."))
    shown = f"json_extract({node}, '$')"
    if value is None:
        return _null(f"{shown} = 'null'", operator, name)
    if isinstance(value, bool):
        if operator != "$eq":
            raise InvalidArgument(f"filter: {name!r}: {operator} needs a number or a string, not {value!r}")
        return f"{shown} = '{str(value).lower()}'"
    if isinstance(value, str):
        return f"{_text(name)} {_SIGNS[operator]} {literal(value)}"
    if isinstance(value, int | float) and abs(value) < 2**63:  # also refuses nan
        return f"TRY_CAST({shown} AS DOUBLE) {_SIGNS[operator]} {float(value)!r}"
    raise InvalidArgument(f"filter: {name!r}: {value!r} is no string, finite number, boolean or None")


def _node(name: str) -> str:
    return _path(name, lambda inside, last: f"json_get({inside}, {literal(last)})")


def _text(name: str) -> str:
    return _path(name.removeprefix("attributes."), _string_in)


def _string_in(inside: str, last: str) -> str:
    """The string under a name, null for anything else. Reading an object as a string is an error, and a condition beside it
    does not keep the database from trying: so what is no string is first taken out of reach (element 0 of an array is null)."""
    is_string = f"starts_with(json_extract(json_get({inside}, {literal(last)}), '$'), '\"')"
    return f"json_get_string(array_element(make_array({inside}), CAST({is_string} AS INT)), {literal(last)})"


def _path(name: str, read: Callable[[str, str], str]) -> str:
    """The attribute of exactly this name or else the nested one: `read(object, name)` of it."""
    flat = read("attributes", name)
    head, *rest = name.split(".")
    if not rest:
        return flat
    nested = f"json_get(attributes, {literal(head)})"
    for part in rest[:-1]:
        nested = f"json_get({nested}, {literal(part)})"
    return f"COALESCE({flat}, {read(nested, rest[-1])})"


def _null(test: str, operator: str, name: str) -> str:
    if operator not in ("$eq", "$ne"):
        raise InvalidArgument(f"filter: {name!r}: {operator} cannot compare with None")
    return test if operator == "$eq" else f"({test}) IS NOT TRUE"


def _listed(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | set | frozenset):
        raise InvalidArgument(f"filter: {name!r}: $in takes a list, not {value!r}")
    return list(value)


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"filter: {name!r} is compared with a string, not {value!r}")
    return value


_SIGNS = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS: tuple[str, ...] = (*_SIGNS, "$in")
