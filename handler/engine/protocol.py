"""What the worker asks of an engine. Implemented by `embedded.EmbeddedEngine`; small enough to fake in a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EngineRequest:
    """One HTTP request to the engine's API; `path` begins with a slash and may end in a query, never in a host."""

    method: str
    path: str
    body: bytes | None = None
    content_type: str = "application/json"


@dataclass(frozen=True)
class EngineResponse:
    """The head of the answer, and its body in pieces as they are made: cut anywhere, also inside a character."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]

    @property
    def is_stream(self) -> bool:
        """True for server-sent events."""
        return self.content_type.startswith("text/event-stream")

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.body])


class Engine(Protocol):
    """A model server. `start` first, `stop` last; in between any number of requests at the same time."""

    async def start(self) -> None:
        """Returns when requests can be served; raises ConfigurationError or EngineUnavailable."""

    def send(self, request: EngineRequest) -> AbstractAsyncContextManager[EngineResponse]:
        """The answer to one request. Leaving the context early aborts the request in the engine."""

    def request_fields(self, path: str) -> Collection[str]:
        """The body fields that the API takes at `path`; empty where it cannot tell."""

    @property
    def capacity(self) -> int:
        """How many requests it can run at the same time, as things stand now; at least 1."""

    @property
    def progress(self) -> int | None:
        """A number that changes whenever the engine has done work; None where it cannot tell."""

    async def check_health(self) -> None:
        """Raises EngineUnavailable when the engine cannot serve."""

    async def stop(self) -> None:
        """Ends the engine and its processes."""
