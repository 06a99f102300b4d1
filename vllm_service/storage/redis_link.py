"""The connections to Redis: one try for each command, short timeouts, and a rest after a failure.

Redis is "away" when it cannot be reached, does not answer in time, or answers that it can do nothing now. An error that
is about one command or its values ends that command alone: the next one may be fine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    DataError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from vllm_service.errors import ConfigurationError, StorageRefused, StorageUnavailable

Result = TypeVar("Result")
#: For connecting, for a free connection of the pool, and for each read and write.
TIMEOUT_SECONDS = 1.0
#: After a failure, commands fail at once for so long. Without the rest every request would wait for the whole timeout
#: while Redis is away; with it, only those do that arrive just after a rest.
REST_SECONDS = 0.5
MAX_CONNECTIONS = 64
# The words with which replies begin that are about the server and not about the command. redis-py has classes of their
# own for some more of them.
_SERVER_STATES = (
    *("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOPERM", "NOREPLICAS", "NOSCRIPT"),
    *("OOM", "READONLY", "TRYAGAIN", "UNKILLABLE"),
)


def is_refusal(error: Exception) -> bool:
    """Returns whether Redis refused this command: a number out of range, a key of another type, a failing script."""
    if isinstance(error, DataError):
        return True
    return type(error) is ResponseError and not str(error).startswith(_SERVER_STATES)


class RedisLink:
    """A pool of connections. Raises ours instead of the driver's errors, and StorageUnavailable at once during a rest.

    No command is sent again here. The first sending may have arrived, and only the caller can tell whether a second
    one does harm.
    """

    def __init__(
        self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS,
                timeout=timeout_seconds,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
            )
            # Connects to nothing, and shows here what the URL's options would raise later.
            pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError, OSError) as error:  # the text may quote the URL's password
            raise ConfigurationError(
                f"REDIS_URL: {type(error).__name__}: this is no URL of a Redis. Write redis://:PASSWORD@HOST:PORT/0, "
                "rediss:// for TLS, with %XX for signs in the password and without unknown options.",
                param="REDIS_URL",
            ) from None
        self.client: Redis = Redis.from_pool(pool)
        self._clock = clock
        self._resting_until = 0.0

    @property
    def is_resting(self) -> bool:
        """True for REST_SECONDS after a failure: commands then fail without being sent."""
        return self._clock() < self._resting_until

    def script(self, package: str, name: str) -> AsyncScript:
        """Returns the Lua script in this file of a package; redis-py loads it into a server that lacks it."""
        return self.client.register_script(resources.files(package).joinpath(name).read_text("utf-8"))

    async def execute(self, command: Callable[[], Awaitable[Result]]) -> Result:
        """Returns the reply to a command. Raises StorageUnavailable; if it has a cause, the command was sent.

        Raises StorageRefused for a refusal of this command, after which there is no rest.
        """
        if self._clock() < self._resting_until:
            raise _away("is away", self._resting_until - self._clock())
        try:
            return await command()
        except (RedisError, OSError, TimeoutError) as error:
            if is_refusal(error):
                # The reply's text is left out: it may quote what was sent.
                raise StorageRefused(f"Redis refused this one command ({type(error).__name__}).") from error
            self._resting_until = self._clock() + REST_SECONDS
            raise _away(f"does not answer ({type(error).__name__})", REST_SECONDS) from error

    async def problem(self) -> str | None:
        """Returns why Redis cannot be used now, and what to do; None if it answers."""
        try:
            await self.client.ping()
        except (RedisError, OSError, TimeoutError) as error:
            return _problem_of(error)
        return None

    async def close(self) -> None:
        """Closes every connection."""
        await self.client.aclose()


def _problem_of(error: Exception) -> str:
    """Returns the failure in plain words. The driver's text is left out: it may quote what was sent."""
    name = type(error).__name__
    if isinstance(error, AuthenticationError | NoPermissionError) or "NOAUTH" in str(error):
        return f"Redis refuses the user or the password in REDIS_URL ({name}): correct it there."
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return f"Redis does not answer in time ({name}): check its load, and that no firewall drops the connection."
    if isinstance(error, BusyLoadingError):
        return f"Redis is still loading its data ({name}): it will answer soon."
    if isinstance(error, RedisConnectionError | OSError):
        return f"Redis cannot be reached ({name}): start it, or correct REDIS_URL."
    return f"Redis does not take commands ({name}): check REDIS_URL and its log."


def _away(what: str, retry_after_seconds: float) -> StorageUnavailable:
    return StorageUnavailable(
        f"Redis, which holds the limits, {what}. Try again; if it lasts, check REDIS_URL and that Redis runs.",
        retry_after_seconds=retry_after_seconds,
    )
