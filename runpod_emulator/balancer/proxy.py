"""One request passed on to a worker, and its answer back, both within their limits; streams as they come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from aiohttp.client import _RequestContextManager
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from runpod_emulator.balancer.affinity import WORKER_HEADER
from runpod_emulator.endpoint.registry import Worker
from runpod_emulator.errors import ApiError, BadGateway, GatewayTimeout

#: What concerns one connection (RFC 9110, 7.6.1), and what the two ends set for themselves.
KEPT_HERE = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "host", "content-length", "expect", WORKER_HEADER.lower()}
)


@dataclass(frozen=True)
class Limits:
    """The longest that one request may take at a worker, and the largest answer."""

    seconds: float
    max_bytes: int


class Exchange:
    """One request at a worker, and its answer to the client."""

    def __init__(self, request: web.Request, worker: Worker, limits: Limits) -> None:
        #: The whole answer has been sent.
        self.is_complete = False
        self._request = request
        self._worker = worker
        self._limits = limits
        self._response: web.StreamResponse | None = None
        self._named = {WORKER_HEADER: worker.id}

    async def run(self, session: aiohttp.ClientSession, target: str, body: bytes) -> web.StreamResponse:
        """Sends the request to the worker and its answer to the client. target: the path with its query, encoded.

        Raises BadGateway for a worker without a whole answer or with one that is too large, and GatewayTimeout. Once
        the answer has begun, the client's connection is cut instead.
        """
        try:
            async with asyncio.timeout(self._limits.seconds), self._sent(session, target, body) as answer:
                return await self._pass_on(answer)
        except TimeoutError:
            late = f"worker {self._worker.id} did not end its answer within {self._limits.seconds:g} s"
            return self._fail(GatewayTimeout(late, self._named))
        except aiohttp.ClientError as error:
            cut = f"worker {self._worker.id} gave no whole answer: {type(error).__name__}"
            return self._fail(BadGateway(cut, self._named))
        except BadGateway as error:
            return self._fail(error)

    def _sent(self, session: aiohttp.ClientSession, target: str, body: bytes) -> _RequestContextManager:
        assert self._worker.address is not None
        return session.request(
            self._request.method,
            URL(self._worker.address.url(target), encoded=True),
            data=body or None,
            headers=_end_to_end(self._request.headers),
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )

    async def _pass_on(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self._check(answer.content_length or 0)
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers))
        response.headers.update(self._named)
        response.content_length = answer.content_length  # None: chunked
        await response.prepare(self._request)
        self._response = response
        sent = 0
        async for chunk in answer.content.iter_any():
            sent += len(chunk)
            self._check(sent)
            await response.write(chunk)
        await response.write_eof()
        self.is_complete = True
        return response

    def _check(self, size: int) -> None:
        if size > self._limits.max_bytes and self._request.method != "HEAD":
            too_large = f"the answer of worker {self._worker.id} is larger than {self._limits.max_bytes} bytes"
            raise BadGateway(too_large, self._named)

    def _fail(self, error: ApiError) -> web.StreamResponse:
        if self._response is None:
            raise error
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Returns the headers without those that concern one connection only."""
    named = {name.strip().lower() for value in headers.getall("Connection", ()) for name in value.split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in KEPT_HERE | named)
