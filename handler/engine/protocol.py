"""The seam between the worker and its engine: requests, answers, and what an engine offers. Small enough to fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class EngineRequest:
    """One HTTP request to the engine's API."""

    method: str
    #: Begins with a slash and may end in a query, never in a host.
    path: str
    body: bytes | None = None
    content_type: str = "application/json"
    #: Further headers of the caller, with names in lower case. Requests that differ only in these are equal.
    headers: tuple[Header, ...] = field(default=(), compare=False)
    #: The body before it was written as JSON, where it is at hand.
    document: dict[str, Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer in server-sent events, which come while they are made. Its status is 2xx."""

    status: int
    content_type: str
    #: Cut anywhere, also inside an event or a character.
    pieces: AsyncIterator[bytes]
    #: All of the engine's, with names in lower case.
    headers: Sequence[Header] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """An answer that means something only as a whole; also every refusal."""

    status: int
    content_type: str
    #: Cut anywhere.
    pieces: AsyncIterator[bytes]
    #: All of the engine's, with names in lower case.
    headers: Sequence[Header] = ()

    async def read(self) -> bytes:
        """Returns the whole body."""
        return b"".join([piece async for piece in self.pieces])


Answer = Stream | Document
#: How the content type of a `Stream` begins.
EVENT_STREAM = "text/event-stream"


def is_success(status: int) -> bool:
    """Returns whether the status is that of an answer. A redirect or an interim status is none, as is an error."""
    return 200 <= status < 300


def answer_of(status: int, content_type: str, pieces: AsyncIterator[bytes], headers: Sequence[Header] = ()) -> Answer:
    """Returns the answer in its kind, by its status and its content type."""
    is_stream = is_success(status) and content_type.lower().startswith(EVENT_STREAM)
    return (Stream if is_stream else Document)(status, content_type, pieces, headers)


class Engine(Protocol):
    """A model server. `start` first, `stop` last; in between any number of requests at the same time."""

    async def start(self) -> None:
        """Returns when requests can be served; raises ConfigurationError or EngineUnavailable."""

    def send(self, request: EngineRequest) -> AbstractAsyncContextManager[Answer]:
        """Returns the answer to one request, as a context. Leaving it early aborts the request in the engine.

        Raises NotBegun where the engine cannot serve and the request has not reached it.
        """

    def request_fields(self, path: str) -> Collection[str]:
        """Returns the body fields that the API takes at `path`; nothing where they are unknown."""

    @property
    def capacity(self) -> int:
        """How many requests the engine can run at the same time, as things stand now; 0 while it cannot serve."""

    @property
    def progress(self) -> int | None:
        """A number that changes whenever the engine has done work; None while no request is inside, or if unknown."""

    async def check_health(self) -> None:
        """Raises EngineUnavailable when the engine cannot serve."""

    async def stop(self) -> None:
        """Ends the engine and its processes."""
