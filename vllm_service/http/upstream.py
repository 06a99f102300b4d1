"""The seam to providers: one request out, one answer back, whole or as a stream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from vllm_service.catalog.model import Provider


class Answer(Protocol):
    """What a provider said. Either whole (`body` holds all of it) or a stream of server-sent events, to be relayed.

    headers: lower-case names; of a repeated one the last.
    """

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The headers."""
        ...

    @property
    def body(self) -> bytes:
        """The whole body; of a stream, what has come until it is relayed."""
        ...

    @property
    def is_stream(self) -> bool:
        """Whether the body is still to be relayed."""
        ...

    def has_begun(self) -> bool:
        """Of a stream: whether its first event, which is no comment, is there and whole."""
        ...

    def relay(self, receive: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Calls `receive` with what has come and with each piece as it comes. Done when the body has ended.

        Raises (the future) CutShort, or TimedOut when the provider fell silent.
        """
        ...

    def pause(self) -> None:
        """Reads no further until `resume`: whoever reads the answer is slower than the provider."""
        ...

    def resume(self) -> None:
        """Reads on."""
        ...

    def close(self) -> None:
        """Leaves the answer; in the middle of one this ends the connection, and the provider stops."""
        ...


class Patience(msgspec.Struct, frozen=True, gc=False):
    """Seconds that one sending may take, instead of the provider's configured ones: see resilience/retry_schedule.py.

    The time to connect counts only where it is less.
    """

    connect_seconds: float = math.inf
    first_byte_seconds: float = math.inf
    total_seconds: float = math.inf


ENDLESS = Patience()


class Upstream(Protocol):
    """Sends requests to providers."""

    def send(
        self, provider: Provider, path: str, headers: bytes, body: bytes, patience: Patience = ENDLESS
    ) -> Awaitable[Answer]:
        """POSTs JSON to `base_url + path` with the provider's own key.

        headers: more header lines, each ended by CRLF. Returns when a whole answer is there, or of a stream (a 200 of
        type text/event-stream) the first whole event. Cancelling it closes the connection.

        Raises NotReached, CutShort or TimedOut; those are all the errors that there are, faults of our own apart.
        """
        ...

    async def close(self) -> None:
        """Closes every connection."""
        ...


class ProviderFault(Exception):
    """The provider did not answer as HTTP wants it.

    ProviderFault
    ├── NotReached   no connection could be made; nothing was sent
    ├── TimedOut     it fell silent: before the answer, or within it
    └── CutShort     the connection ended, or what came is not HTTP
    """


class NotReached(ProviderFault):
    """No connection could be made, or none was free in time; the request was not sent."""


class TimedOut(ProviderFault):
    """No byte came for as long as the provider's configuration allows."""


class CutShort(ProviderFault):
    """The answer ended before its end, or is not HTTP."""
