"""Names what a failure of Redis means: it is away, it refuses this one command, or it can do nothing just now."""

from __future__ import annotations

import re

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    DataError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ClusterDownError as ClusterDown
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from vllm_service.errors import ServiceError, StorageRefused, StorageUnavailable

#: What the driver raises for a connection that cannot be made or used.
CONNECTION_ERRORS = (RedisError, OSError, TimeoutError)
#: Errors of the server, which the same command may not meet later; redis-py has a class for some of them.
_OF_THE_SERVER = (ClusterDown, NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError, TryAgainError)
# The words of the others, at the beginning, or within the error of a script as Redis 6 writes it.
_SERVER_STATE = re.compile(
    r"^(?:Error running script.* -)?"
    r"(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|NOSCRIPT|OOM|READONLY|TRYAGAIN|UNKILLABLE)\b"
)
#: The states in which this server will take no command of ours: a new connection may reach another server.
_CONNECT_AGAIN = frozenset({"MASTERDOWN", "NOAUTH", "READONLY"})


def is_refusal(error: Exception) -> bool:
    """Returns whether Redis refused this command: a number out of range, a key of another type, a failing script."""
    if isinstance(error, DataError):
        return True
    return isinstance(error, ResponseError) and not isinstance(error, _OF_THE_SERVER) and _state(error) is None


def of_reply(error: ResponseError) -> ServiceError:
    """Returns our error for an error reply. It is about this command: the next one may be fine.

    The reply's text is left out: it may quote what was sent.
    """
    name = type(error).__name__
    if is_refusal(error):
        refused = StorageRefused(f"Redis refused this one command ({name}).")
        refused.__cause__ = error
        return refused
    state = _state(error)
    return StorageUnavailable(
        f"Redis, which holds the limits, cannot do this now ({state or name}). Try again; if it lasts, check Redis's "
        "log, its memory (maxmemory) and the rights of its user (ACL).",
        retry_after_seconds=1.0,
    )


def ends_connection(error: ResponseError) -> bool:
    """Returns whether a new connection may reach a server that does what this one will not."""
    return isinstance(error, ReadOnlyError) or _state(error) in _CONNECT_AGAIN


def is_silence(error: BaseException) -> bool:
    """Returns whether nothing that counts is at the address.

    A server that refuses this process, or is no Redis, is none: others may count there. One that loads its data is: it
    counts for no process.
    """
    answers = (AuthenticationError, AuthorizationError, InvalidResponse, ResponseError)
    return isinstance(error, BusyLoadingError) or not isinstance(error, answers)


def problem_of(error: BaseException) -> str:
    """Returns the failure in plain words. The driver's text is left out: it may quote what was sent."""
    name = type(error).__name__
    if isinstance(error, AuthenticationError | NoPermissionError) or "NOAUTH" in str(error):
        return f"Redis refuses the user or the password in REDIS_URL ({name}): correct it there."
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return f"Redis does not answer in time ({name}): check its load, and that no firewall drops the connection."
    if isinstance(error, BusyLoadingError):
        return f"Redis is still loading its data ({name}): it will answer soon."
    if isinstance(error, InvalidResponse):
        return f"What answers at REDIS_URL is no Redis ({name}): correct host and port there."
    if isinstance(error, RedisConnectionError | OSError):
        return f"Redis cannot be reached ({name}): start it, or correct REDIS_URL."
    return f"Redis does not take commands ({name}): check REDIS_URL and its log."


def _state(error: Exception) -> str | None:
    found = _SERVER_STATE.match(str(error))
    return None if found is None else found[1]
