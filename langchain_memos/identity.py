"""Whose memory a run is about. The one place where middleware, tools, nodes and retriever look for it.

Knows LangGraph's runtime and configuration; knows no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langgraph.config import get_config
from langgraph.runtime import get_runtime

from memos_core import PUBLIC, InvalidArgument

User = str | Callable[[Any], str] | None
"""A user's name, or how to find it from the run's `Runtime` (None outside of a graph). None: the run itself says it."""


def user_of(given: User, runtime: Any = None, config: Mapping[str, Any] | None = None) -> str:
    """Whose memory it is: of what was given, the run's context, its configuration and its server's user, the first that says.

    runtime, config: of the run, as far as the caller has them; for the rest the run is asked that this is called in.

    Raises InvalidArgument if nothing says it, or what says it is no name: there is no user whom everybody shares.
    """
    runtime = _current_runtime() if runtime is None else runtime
    if given is not None:
        return checked_user(given(runtime) if callable(given) else given)
    for look in (_in_context, lambda _: configured("user_id", config), _of_server):
        found = look(runtime)
        if found is not None:
            return checked_user(found)
    raise InvalidArgument(
        "user_id: whose memory is it? Say it by the argument user_id=..., by a user_id in the run's context, or by "
        'config={"configurable": {"user_id": ...}}'
    )


def checked_user(user: Any) -> str:
    """A user's name. Raises InvalidArgument for what is none."""
    if not isinstance(user, str) or not user.strip() or user == PUBLIC or any("\ud800" <= c <= "\udfff" for c in user):
        raise InvalidArgument(f"user_id: a non-empty string that names one user is needed, not {user!r:.80}")
    return user


def checked_given(given: Any) -> User:
    """What was given as `user_id`, its name checked if it is one."""
    return given if given is None or callable(given) else checked_user(given)


def configured(name: str, config: Mapping[str, Any] | None = None) -> Any:
    """A value of `config["configurable"]`: of this configuration, or else of the run that this is called in."""
    found = ((config or {}).get("configurable") or {}).get(name)
    return (_current_config().get("configurable") or {}).get(name) if found is None else found


def _current_config() -> Mapping[str, Any]:
    try:
        return get_config()  # type: ignore[no-any-return]  # LangGraph is untyped to this checker
    except RuntimeError:  # called by hand, outside of a run
        return {}


def _current_runtime() -> Any:
    try:
        return get_runtime()
    except (RuntimeError, KeyError):  # outside of a run; within a run that is no graph's
        return None


def _in_context(runtime: Any) -> Any:
    context = getattr(runtime, "context", None)
    return context.get("user_id") if isinstance(context, Mapping) else getattr(context, "user_id", None)


def _of_server(runtime: Any) -> Any:
    server = getattr(runtime, "server_info", None)
    return getattr(getattr(server, "user", None), "identity", None)
