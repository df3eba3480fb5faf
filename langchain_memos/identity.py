"""Whose memory a run is about. The one place where middleware, tools, nodes, retriever and chat model look for it.

Knows LangGraph's runtime and configuration; knows no store.

Three may name the user, and they are not trusted alike:

- the program, by `user_id=...`: a name or a callable. Its word stands.
- the server that authenticated somebody: `runtime.server_info.user`, which LangGraph makes of
  `configurable["langgraph_auth_user"]`. LangGraph's server strips that key and `langgraph_auth_user_id` from what clients send, and
  sets them itself; who runs a graph on a server of his own keeps them from his clients.
- the client, by `user_id` in the run's context or in `configurable` (the run's, the thread's or the assistant's: they arrive as one).
  LangGraph's server puts the name of whom it authenticated there if nobody sent one.

Where a server authenticated somebody, the client may name nobody else, unless the program trusts it to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from langgraph.config import get_config
from langgraph.runtime import get_runtime

from memos_core import PUBLIC, AccessDenied, InvalidArgument


class Client(Enum):
    """Stands for a user's name where the program trusts the client to give it."""

    TRUSTED = "trusted"


User = str | Callable[[Any], str] | Client | None
"""A user's name, or how to find it from the run's `Runtime` (None outside of a graph). None: the run itself says it."""


def user_of(given: User, runtime: Any = None, config: Mapping[str, Any] | None = None) -> str:
    """Whose memory it is: what was given; else whom the server authenticated; else the client's word, its context's before its
    configuration's. `Client.TRUSTED`: the client's word before the server's.

    runtime, config: of the run, as far as the caller has them; for the rest the run is asked that this is called in.

    Raises:
        AccessDenied: the client names somebody else than whom the server authenticated.
        InvalidArgument: nothing says it, or what says it is no name: there is no user whom everybody shares.
    """
    current = _current_runtime()
    runtime = current if runtime is None else runtime
    if given is not None and not isinstance(given, Client):
        return checked_user(given(runtime) if callable(given) else given)
    sent = (_in_context(runtime), configured("user_id", _config(runtime, config)))
    named = [name for name in sent if name is not None]
    if named and given is Client.TRUSTED:
        return checked_user(named[0])
    authenticated = _authenticated(runtime, current, config)
    if authenticated is not None:
        for name in named:
            if name != authenticated:
                raise AccessDenied(_refusal(authenticated, name))
        return authenticated
    if named:
        return checked_user(named[0])
    raise InvalidArgument(
        "user_id: whose memory is it? Say it by the argument user_id=..., by a user_id in the run's context, or by "
        'config={"configurable": {"user_id": ...}}'
    )


def field_user_of(given: User, trust_client_user: bool, config: Mapping[str, Any] | None = None) -> str:
    """`user_of`, for a component whose fields LangChain can make configurable: a client that sets the field `user_id` is a client.

    LangChain does not say who set a field: a name that the client sends as `user_id` too is taken for the client's.
    """
    user = user_of(checked_given(given, trust_client_user), config=config)
    if isinstance(given, str) and not trust_client_user and given == configured("user_id", config):
        authenticated = _authenticated(None, _current_runtime(), config)
        if authenticated is not None and given != authenticated:
            raise AccessDenied(_refusal(authenticated, given))
    return user


def checked_user(user: Any) -> str:
    """A user's name. Raises InvalidArgument for what is none."""
    if not isinstance(user, str) or not user.strip() or user == PUBLIC or any("\ud800" <= c <= "\udfff" for c in user):
        raise InvalidArgument(f"user_id: a non-empty string that names one user is needed, not {user!r:.80}")
    return user


def checked_given(given: Any, trust_client_user: Any = False) -> User:
    """What was given as `user_id`, its name checked if it is one; `Client.TRUSTED` if nothing was, and the client is trusted."""
    if not isinstance(trust_client_user, bool):
        raise InvalidArgument(f"trust_client_user: True or False is needed, not {trust_client_user!r:.80}")
    if given is None:
        return Client.TRUSTED if trust_client_user else None
    return given if callable(given) or isinstance(given, Client) else checked_user(given)


def configured(name: str, config: Mapping[str, Any] | None = None) -> Any:
    """A value of `config["configurable"]`: of this configuration, or else of the run that this is called in."""
    found = _configurable(config).get(name)
    return _configurable(_current_config()).get(name) if found is None else found


# --- whom the server authenticated -----------------------------------------------------------------------------------------


def _authenticated(runtime: Any, current: Any, config: Mapping[str, Any] | None) -> str | None:
    """Whom the server authenticated, or None.

    Every place is asked in which a server says it, because a part may be handed less than the run knows.

    Raises AccessDenied if two places name two users, InvalidArgument if a server authenticated somebody and gave no name.
    """
    places = [_of_server(runtime), _of_server(current)]
    places += [_of_configurable(c) for c in (_config(runtime, None), config, _current_config())]
    names = [checked_user(name) for name in places if name is not None]
    for name in names[1:]:
        if name != names[0]:
            raise AccessDenied(_refusal(names[0], name))
    return names[0] if names else None


def _of_server(runtime: Any) -> Any:
    return _identity(getattr(getattr(runtime, "server_info", None), "user", None))


def _of_configurable(config: Mapping[str, Any] | None) -> Any:
    found = _configurable(config)
    name = _identity(found.get("langgraph_auth_user"))
    return name or found.get("langgraph_auth_user_id") or name  # an empty id alone: the server authenticates nobody


def _identity(user: Any) -> Any:
    """The name that a server gave to a user; "" if it authenticated one without a name, None if it authenticated nobody."""
    if user is None or isinstance(user, str):
        return user or None

    def member(name: str, otherwise: Any) -> Any:
        return user.get(name, otherwise) if isinstance(user, Mapping) else getattr(user, name, otherwise)

    name = member("identity", None)
    if name is None or name == "":
        return "" if member("is_authenticated", True) else None
    return name


def _refusal(authenticated: str, named: Any) -> str:
    return (
        f"user_id: the server authenticated {authenticated!r:.80}, but the run names {named!r:.80}. Memory is that of the "
        "authenticated user: send no other user_id. To let clients name another user on purpose, give trust_client_user=True, or "
        "decide by user_id=..., a name or a callable from the run's Runtime to one"
    )


# --- where a run says it ---------------------------------------------------------------------------------------------------


def _config(runtime: Any, config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The configuration at hand: the one that was given, or else that of a tool's runtime."""
    return config if config is not None else getattr(runtime, "config", None)


def _configurable(config: Any) -> Mapping[str, Any]:
    return (config or {}).get("configurable") or {}


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
