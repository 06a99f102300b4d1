"""The interface to providers: one request out, one answer back, whole or as a stream."""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.event_stream import StreamBeginning


class Answer(Protocol):
    """A provider's answer. Either whole (`body` holds all of it) or a stream of server-sent events, to be relayed."""

    @property
    def status(self) -> int:
        """Returns the HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Returns the last header of each name; names in lower case."""
        ...

    @property
    def body(self) -> bytes:
        """Returns the whole body; of a stream, the bytes that have come and are not relayed yet."""
        ...

    @property
    def is_stream(self) -> bool:
        """Returns true if the body is a stream whose first content, or an error, has come; it is to be relayed."""
        ...

    def relay(self, receive: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Calls `receive` with the bytes that have come and with each piece as it comes.

        The future is done when the body has ended. It fails with CutShort, or with TimedOut after a long silence.
        """
        ...

    def pause(self) -> None:
        """Stops reading until `resume`, because the caller reads slower than the provider sends."""
        ...

    def resume(self) -> None:
        """Reads on after `pause`."""
        ...

    def close(self) -> None:
        """Drops the answer; before its end this closes the connection, so that the provider stops generating."""
        ...


class Patience(msgspec.Struct, frozen=True, gc=False):
    """Seconds that one attempt may take, by its deadline; resilience/retry_schedule.py computes them."""

    #: The provider's own connect timeout holds too; the shorter of the two counts.
    connect_seconds: float = math.inf
    #: Replaces the provider's own first-byte timeout.
    first_byte_seconds: float = math.inf
    total_seconds: float = math.inf
    #: Whether the provider's own limit is the one that holds until a connection is there, or until the first byte.
    connect_is_own: bool = True
    first_byte_is_own: bool = True
    #: Whether the attempt has (most of) the time that every request may take, which no caller has shortened.
    is_whole: bool = True


#: The provider's configured times alone.
ENDLESS = Patience()


class Sending(Protocol):
    """One sending of a request, as far as an upstream reports on it."""

    #: Whether the request has been written. A request that only waited for a connection has not been.
    was_sent: bool

    def waited(self, seconds: float) -> None:
        """Called when the request has waited so long for a connection, which is not the provider's time."""
        ...


class Sender(Protocol):
    """The key of a request: organisations share a provider's connections fairly, and so do the keys of each."""

    @property
    def id(self) -> str:
        """Returns the key's public id."""
        ...

    @property
    def organisation(self) -> str:
        """Returns the organisation that the key belongs to."""
        ...


class _NoSender(NamedTuple):
    id: str = ""
    organisation: str = ""


#: The sender of requests that belong to no organisation, such as the gateway's own.
NO_SENDER: Sender = _NoSender()


class Upstream(Protocol):
    """Sends requests to providers."""

    def send(
        self,
        provider: Provider,
        path: str,
        headers: bytes,
        body: bytes,
        patience: Patience = ENDLESS,
        *,
        beginning: StreamBeginning | None = None,
        sending: Sending | None = None,
        sender: Sender = NO_SENDER,
    ) -> Awaitable[Answer]:
        """POSTs JSON to `base_url + path` with the provider's own key.

        headers: more header lines, each ended by CRLF. beginning: of a request for a stream; it is fed with the body of
        a 200, and the answer is returned once its `feed` returns true. Without it, and for everything that is no
        stream of events, the answer is returned when it is whole. sending: its `was_sent` is set when the request is
        written. sender: by it the connections to the provider are shared out. Cancelling this closes the connection.

        Raises NotReached, CutShort or TimedOut for anything that the provider or the network does, NoFreeConnection
        where this process is too busy, and RuntimeError for a fault of the gateway's own.
        """
        ...

    async def close(self) -> None:
        """Closes every connection."""
        ...


class ProviderFault(Exception):
    """The provider sent no complete HTTP answer.

    ProviderFault
    ├── NoFreeConnection  this process uses all connections that the request may take; nothing was sent
    ├── NotReached        no connection could be made; nothing was sent
    ├── TimedOut          it fell silent before or within the answer
    │   └── OutOfTime         the time of the request is over, which says nothing about the provider
    └── CutShort          the connection ended, or the bytes are not HTTP
    """

    #: Whether the provider may have taken the request and be generating still: the request has been written.
    may_be_running = True


class NoFreeConnection(ProviderFault):
    """None of the provider's connections was free in time, or too many requests wait already.

    The request was not sent. That says something about the load of this process, and nothing about the provider.
    """

    may_be_running = False


class NotReached(ProviderFault):
    """No connection could be made. The request was not sent, so it is safe to repeat."""

    may_be_running = False


class TimedOut(ProviderFault):
    """No byte came for as long as the provider's configuration allows."""


class OutOfTime(TimedOut):
    """The time that the request may take is over."""


class CutShort(ProviderFault):
    """The answer broke off, is too long, or is not HTTP."""


#: Errors that say something about this machine alone: its files, ports or memory are used up.
_OWN_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


def not_opened(error: Exception) -> NotReached | NoFreeConnection:
    """Returns the fault of a connection that could not be opened."""
    if isinstance(error, OSError) and error.errno in _OWN_SHORTAGES:
        return NoFreeConnection(f"this machine opens no connection now ({type(error).__name__})")
    return NotReached(f"no connection: {type(error).__name__}")
