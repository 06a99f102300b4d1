"""The link to Redis: commands and scripts over one shared connection, and a few connections for subscriptions.

No command is sent again here. The first sending may have arrived, and only the caller can tell whether a second one
does harm.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from vllm_service.errors import ConfigurationError
from vllm_service.storage.redis_errors import CONNECTION_ERRORS, problem_of
from vllm_service.storage.redis_pipeline import Pipeline, PipelineBounds
from vllm_service.storage.server_urls import address_of, missing_file

#: For connections of their own: subscriptions, and the look at the start.
MAX_CONNECTIONS = 8
#: The files that a URL may name.
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")


class Script:
    """A Lua script. A call sends it by its digest; a server that lacks it gets its text."""

    def __init__(self, pipeline: Pipeline, text: str) -> None:
        self._pipeline = pipeline
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> asyncio.Future[Any]:
        """Sends it; returns the reply, to be awaited. Raises as Pipeline.send."""
        return self._pipeline.send("EVALSHA", self._digest, len(keys), *keys, *arguments, script=self._text)


class RedisLink:
    """The commands of one concern, in their order. Each concern has a link of its own, so that none waits for another.

    Raises ConfigurationError for a URL that cannot be used.
    """

    def __init__(self, url: str, bounds: PipelineBounds | None = None) -> None:
        bounds = bounds or PipelineBounds()
        if (fault := missing_file(url, _TLS_FILES)) is not None:
            raise ConfigurationError(f"REDIS_URL: {fault}", param="REDIS_URL")
        #: Host and port, for messages of the start.
        self.address = address_of(url, "REDIS_URL")
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS,
                timeout=bounds.silence_seconds,
                socket_timeout=bounds.silence_seconds,
                socket_connect_timeout=bounds.silence_seconds,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # the replies of RESP2 come in the order of the commands, and nothing comes unasked
            )
            # Connects to nothing, and shows here what the URL's options would raise later.
            pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError, OSError) as error:  # the text may quote the URL's password
            raise ConfigurationError(
                f"REDIS_URL: {type(error).__name__}: this is no URL of a Redis. Write redis://:PASSWORD@HOST:PORT/0, "
                "rediss:// for TLS, with %XX for signs in the password and without unknown options.",
                param="REDIS_URL",
            ) from None
        #: For subscriptions, which need connections of their own.
        self.client: Redis = Redis.from_pool(pool)
        self.pipeline = Pipeline(pool.make_connection, bounds)

    def script(self, package: str, name: str) -> Script:
        """Returns the Lua script in this file of a package."""
        return Script(self.pipeline, resources.files(package).joinpath(name).read_text("utf-8"))

    def call(self, *arguments: str | int | bytes) -> asyncio.Future[Any]:
        """Sends a command; returns its reply, to be awaited. Raises as Pipeline.send."""
        return self.pipeline.send(*arguments)

    async def problem(self) -> str | None:
        """Returns why Redis cannot be used now, and what to do; None if it answers."""
        try:
            await self.client.ping()
        except CONNECTION_ERRORS as error:
            return problem_of(error)
        return None

    async def close(self) -> None:
        """Closes every connection."""
        await self.pipeline.close()
        await self.client.aclose()
