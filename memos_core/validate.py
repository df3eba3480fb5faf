"""Checks of what callers pass, each raising InvalidArgument that names the argument. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from . import grants
from .codec import checked_text
from .errors import InvalidArgument
from .types import PUBLIC, Access, Decoding, Kind, MemCube, Namespace, Policy

LARGEST = 2**31 - 1  # what the database takes as a limit
_DAY = 86_400  # seconds
_MOST = 2.0**62  # of any number of a record


def checked_actor(actor: Any, *, public: bool = False) -> str:
    """A non-empty string; "*" only where everybody may be meant."""
    if not isinstance(actor, str) or not actor.strip():
        raise InvalidArgument(f"actor: a non-empty string is needed, not {actor!r}")
    if actor == PUBLIC and not public:
        raise InvalidArgument(f"actor: {PUBLIC!r} means everybody, and nobody can act as that")
    if grants.is_reserved(actor):
        raise InvalidArgument(f"actor: {actor!r} means several, and nobody can act as that")
    return checked_text(actor, "actor")


def checked_namespace(namespace: Any, *, root: bool = False) -> Namespace:
    """A tuple of non-empty labels; the empty one only where everything may be meant."""
    if isinstance(namespace, str) or not isinstance(namespace, Sequence):
        raise InvalidArgument(f"namespace: a tuple of labels is needed, such as ('app', 'alice'), not {namespace!r}")
    for label in namespace:
        if not isinstance(label, str) or not label:
            raise InvalidArgument(f"namespace: labels are non-empty strings, not {label!r}")
        checked_text(label, "namespace")
    if not namespace and not root:
        raise InvalidArgument("namespace: at least one label is needed")
    return tuple(namespace)


def checked_word(value: Any, argument: str) -> str | None:
    """A non-empty string, or None."""
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{argument}: a non-empty string is needed, not {value!r}")
    return checked_text(value, argument)


def checked_actors(actors: Any, argument: str) -> frozenset[str]:
    """Several actors, "*" among them if everybody is meant."""
    if isinstance(actors, str) or not isinstance(actors, Iterable):
        raise InvalidArgument(f"{argument}: a list of actors is needed, not {actors!r}")
    found = list(actors)
    for actor in found:
        if not isinstance(actor, str) or not actor.strip():
            raise InvalidArgument(f"{argument}: actors are non-empty strings, not {actor!r}")
        checked_text(actor, argument)
    return frozenset(found)


def checked_access(access: Any, owner: str) -> Access:
    """The access that was given, or the owner's alone. Raises InvalidArgument if somebody else would own it."""
    if access is None:
        return Access(owner)
    if not isinstance(access, Access):
        raise InvalidArgument(f"access: an Access is needed, not {type(access).__name__}")
    if access.owner != owner:
        raise InvalidArgument(f"access: its owner {access.owner!r} is not who adds, {owner!r}")
    readers = checked_actors(access.readers, "access.readers")
    writers = checked_actors(access.writers, "access.writers")
    return Access(
        owner, readers, writers, None if access.within is None else checked_actors(access.within, "access.within")
    )


def checked_policy(policy: Any) -> Policy:
    """The policy, if its numbers can be."""
    if not isinstance(policy, Policy):
        raise InvalidArgument(f"policy: a Policy is needed, not {type(policy).__name__}")
    for name in ("resident_memories", "resident_total", "index_from", "compact_every", "candidates", "flush_usage"):
        value, least = getattr(policy, name), 0 if name.startswith("resident") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidArgument(f"Policy.{name}: a whole number from {least} is needed, not {value!r}")
    for name in ("kv_disk_bytes", "adapter_bytes"):
        value = getattr(policy, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidArgument(f"Policy.{name}: bytes, a whole number from 0, are needed, not {value!r}")
    if policy.kv_bits not in (0, 8):
        raise InvalidArgument(f"Policy.kv_bits: 0, as they are, or 8 is needed, not {policy.kv_bits!r}")
    if not isinstance(policy.lock_seconds, int | float) or not 0 <= policy.lock_seconds <= 30 * _DAY:
        raise InvalidArgument(
            f"Policy.lock_seconds: seconds up to {30 * _DAY:,}, a month, are needed, not {policy.lock_seconds!r}"
        )
    if not isinstance(policy.lease_seconds, int | float) or not 1 <= policy.lease_seconds <= _DAY:
        raise InvalidArgument(
            f"Policy.lease_seconds: seconds from 1 to {_DAY:,}, a day, are needed, not {policy.lease_seconds!r}"
        )
    if not isinstance(policy.keep_versions, timedelta) or policy.keep_versions < timedelta(seconds=1):
        raise InvalidArgument(
            f"Policy.keep_versions: a timedelta from one second is needed, not {policy.keep_versions!r}"
        )
    if not isinstance(policy.keep_withdrawn, timedelta) or policy.keep_withdrawn < timedelta(0):
        raise InvalidArgument(f"Policy.keep_withdrawn: a timedelta is needed, not {policy.keep_withdrawn!r}")
    return policy


def checked_decoding(settings: Mapping[str, Any]) -> Decoding:
    """How to draw an answer, from the fields of `Decoding` by name; `stop` may be one string."""
    if unknown := set(settings) - set(Decoding.__slots__):
        raise InvalidArgument(
            f"decoding: there is no {', '.join(sorted(unknown))}; there are {', '.join(Decoding.__slots__)}"
        )
    stop = settings.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    found = Decoding(**{**settings, "stop": stops})
    if not all(isinstance(s, str) and s for s in stops):
        raise InvalidArgument(f"stop: non-empty strings are needed, not {stop!r}")
    checked_number(found.max_tokens, "max_tokens")
    for name, least, most in (("temperature", 0, math.inf), ("top_p", 0, 1), ("repetition_penalty", 0, math.inf)):
        value = getattr(found, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not least <= value <= most
            or value == math.inf
        ):
            raise InvalidArgument(f"{name}: a number from {least} to {most} is needed, not {value!r}")
    if found.top_p == 0 or found.repetition_penalty == 0:
        raise InvalidArgument("top_p, repetition_penalty: 0 leaves nothing to draw from")
    if isinstance(found.top_k, bool) or not isinstance(found.top_k, int) or found.top_k < 0:
        raise InvalidArgument(f"top_k: a whole number from 0 is needed, not {found.top_k!r}")
    if found.seed is not None and (isinstance(found.seed, bool) or not isinstance(found.seed, int)):
        raise InvalidArgument(f"seed: a whole number is needed, not {found.seed!r}")
    if not isinstance(found.schema, Mapping | None):
        raise InvalidArgument(f"schema: a JSON schema is needed, not {found.schema!r:.100}")
    if checked_word(found.tool_choice, "tool_choice") and found.schema is not None:
        raise InvalidArgument("tool_choice, schema: an answer that is a call is not JSON beside; give one of them")
    checked_seconds(found.timeout, "timeout")
    return found


def checked_numbers(record: Any, **limits: tuple[type, float] | tuple[type, float, float]) -> None:
    """Fields of a record that are numbers: of each int, or float for any finite number; the least, and the most. One that is None by
    default may be."""
    defaults = {f.name: f.default for f in fields(record)}
    for name, (kind, least, *more) in limits.items():
        value, most = getattr(record, name), more[0] if more else _MOST
        if value is None and defaults[name] is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, int if kind is int else int | float)
            or not least <= value <= most
        ):
            span = f"from {least:g} to {most:g}" if more else f"from {least:g}"
            words = "whole number" if kind is int else "number"
            raise InvalidArgument(f"{type(record).__name__}.{name}: a {words} {span} is needed, not {value!r}")


def checked_seconds(seconds: Any, argument: str) -> float | None:
    """A positive number of seconds, or None."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidArgument(f"{argument}: a positive number of seconds is needed, not {seconds!r}")
    return seconds


def checked_tags(tags: Any) -> tuple[str, ...]:
    """Tags, each once."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidArgument(f"tags: a list of strings is needed, not {tags!r}")
    return tuple(dict.fromkeys(checked_word(t, "tags") or "" for t in tags))


def checked_kind(kind: Any) -> Kind:
    """A form of memory."""
    try:
        return Kind(kind)
    except ValueError:
        raise InvalidArgument(f"to: {kind!r} is no form of memory; there are {', '.join(Kind)}") from None


def checked_number(value: Any, argument: str) -> int:
    """A whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(f"{argument}: a whole number from 1 is needed, not {value!r}")
    return min(value, LARGEST)


def checked_id(id: Any) -> str:
    """One id, a memory standing for its own."""
    return checked_ids([id])[0]


def checked_ids(ids: Any) -> list[str]:
    """One id or several, memories standing for their ids."""
    several = [ids] if isinstance(ids, str | MemCube) else ids
    if not isinstance(several, Iterable):
        raise InvalidArgument(f"id: a string is needed, not {ids!r}")
    found = [i.id if isinstance(i, MemCube) else i for i in several]
    for id in found:
        if not isinstance(id, str) or not id:
            raise InvalidArgument(f"id: a non-empty string is needed, not {id!r}")
        checked_text(id, "id")
    if not found:
        raise InvalidArgument("ids: there is none in it")
    return found


def checked_end(ttl: Any, now: datetime) -> datetime | None:
    """When a time to live that begins now is over: a positive span, given as a timedelta or in seconds."""
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, timedelta | int | float):
        raise InvalidArgument(f"ttl: a timedelta or seconds are needed, not {ttl!r}")
    try:
        span = ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl)
    except (OverflowError, ValueError):
        raise InvalidArgument(f"ttl: {ttl!r} seconds are no span of time") from None
    if span <= timedelta(0):
        raise InvalidArgument(f"ttl: {ttl!r} is over before it begins")
    try:
        return now + span
    except OverflowError:
        raise InvalidArgument(f"ttl: {ttl!r} ends after the year 9999; leave it out for ever") from None
