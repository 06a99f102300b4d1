"""Requests of commands to RunPod's APIs, over httpx2: one client for one command, closed at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpx2

from vllm_service.runpod.endpoint import Reply
from vllm_service.runpod.rest_api import LONGEST_BODY_BYTES, StreamedReply
from vllm_service.version import __version__

#: A live log may be silent for longer than any answer, so a stream has no time-out between two pieces.
_STREAMED = httpx2.Timeout(30.0, read=None)


class CommandHttp:
    """Implements endpoint.SendHttp and rest_api.StreamHttp. Follows no redirect: the key would go along."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """Sends one request and returns the whole answer. Raises OSError or TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            with _our_faults():
                async with self._client.stream(method, url, headers=dict(headers), content=body) as response:
                    content = await _bounded(response)
        return Reply(response.status_code, content, dict(response.headers))

    @asynccontextmanager
    async def stream(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[StreamedReply]:
        """Implements rest_api.StreamHttp."""
        with _our_faults():
            async with self._client.stream("GET", url, headers=dict(headers), timeout=_STREAMED) as response:
                yield StreamedReply(response.status_code, dict(response.headers), _pieces(response))


@asynccontextmanager
async def open_send() -> AsyncIterator[CommandHttp]:
    """Opens the connections of a command. Each request has its own time-out."""
    lines = {"user-agent": f"vllm-service/{__version__}", "accept-encoding": "identity"}
    async with httpx2.AsyncClient(headers=lines, timeout=None, follow_redirects=False) as client:
        yield CommandHttp(client)


@contextmanager
def _our_faults() -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as fault:
        if isinstance(fault, httpx2.TimeoutException):
            raise TimeoutError(type(fault).__name__) from None
        raise OSError(f"{type(fault).__name__}") from None


async def _bounded(response: httpx2.Response) -> bytes:
    """Returns the body; of an error that is too long, the beginning."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > LONGEST_BODY_BYTES:
            if response.status_code >= 400:
                break
            raise OSError(f"the answer is longer than {LONGEST_BODY_BYTES} bytes")
    return bytes(body)


async def _pieces(response: httpx2.Response) -> AsyncIterator[bytes]:
    with _our_faults():
        async for piece in response.aiter_raw():
            yield piece
