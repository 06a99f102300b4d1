"""RunPod's REST API, version 2: `https://api.runpod.io/v2/...`, for endpoints, templates, volumes, catalogue and bills.

The form is that of RunPod's published schema of 2026-08. Unknown members of answers stay in the documents and mean
nothing. A request that RunPod refuses with 429 was not carried out, and is sent again when its headers say so. A GET,
PATCH or DELETE is sent again after a fault of RunPod or the network; a POST is not, since it could create twice.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote, urlencode

from vllm_service.domain.event_stream import EventSplitter, TooLong
from vllm_service.domain.money import exact_number
from vllm_service.runpod import rest_errors
from vllm_service.runpod.concealed import secrets_in
from vllm_service.runpod.endpoint import FAULTS, Reply, SendHttp
from vllm_service.runpod.rate_limits import DEFAULT_WAIT_SECONDS, RateLimits, group_of
from vllm_service.runpod.rest_errors import RestCall, RestError

#: Of an answer. A list of a thousand endpoints with their environments has some MB.
LONGEST_BODY_BYTES = 16 * 2**20
#: Of one list.
MOST_PAGES = 200
_LONGEST_CURSOR = 4096
_ATTEMPTS = 4
_SHORTEST_PAUSE_SECONDS = 0.5
Json = dict[str, Any]
Query = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """An HTTP answer whose body comes in pieces. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    #: Raises OSError or TimeoutError when the connection breaks.
    pieces: AsyncIterator[bytes]


@runtime_checkable
class StreamHttp(Protocol):
    """A SendHttp that can also hand out an answer piece by piece, as commands need it for logs."""

    def stream(self, url: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[StreamedReply]:
        """Sends a GET and enters its answer when the head has come. Raises OSError or TimeoutError."""
        ...


class RestApi:
    """Sends requests with one key. Raises RestError, whose message says what to do.

    timeout_seconds: of each attempt. longest_wait_seconds: of all waits of one call together; with 0 every call is one
    attempt. longest_body_bytes: of an answer. clock: monotonic seconds.
    """

    def __init__(
        self,
        origin: str,
        api_key: str | None,
        send: SendHttp,
        *,
        timeout_seconds: float = 30.0,
        longest_wait_seconds: float = 60.0,
        longest_body_bytes: int = LONGEST_BODY_BYTES,
        limits: RateLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._origin = origin.rstrip("/")
        self._key = api_key or ""
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._send = send
        self._timeout_seconds = timeout_seconds
        self._longest_wait_seconds = longest_wait_seconds
        self._longest_body_bytes = longest_body_bytes
        self._limits = limits or RateLimits()
        self._clock = clock
        self._sleep = sleep

    async def get(self, path: str, query: Query | None = None) -> Json:
        """Returns the document at a path such as `/v2/serverless`. Numbers with a fraction are Decimal."""
        return await self._call("GET", path, query)

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Creates something and returns it. Never sent twice, unless RunPod refused it for its rate limit."""
        return await self._call("POST", path, body=body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        """Changes the fields in `body` and returns the whole document; `{}` where the answer has no body."""
        return await self._call("PATCH", path, body=body)

    async def delete(self, path: str) -> None:
        """Deletes something. Not found counts as done, if an attempt before it was not answered."""
        await self._call("DELETE", path)

    def spacing_seconds(self, method: str, path: str) -> float | None:
        """Returns how far apart such requests may be when they never pause; None until an answer has named a limit."""
        return self._limits.spacing_seconds(group_of(self._origin, self._key, method, path))

    async def pages(self, path: str, name: str, query: Query | None = None) -> AsyncIterator[Json]:
        """Yields the objects of a list, page by page. name: of the list in the document, such as `endpoints`.

        The published schema has whole lists; where an answer has `nextCursor`, it is sent back as `cursor`.
        """
        call = self._named("GET", path)
        cursors: set[str] = set()
        asked = dict(query or {})
        for _ in range(MOST_PAGES):
            document = await self.get(path, asked)
            items = document.get(name)
            if not isinstance(items, list):
                raise rest_errors.not_a_list(call, f"the answer has no list {name!r}")
            for item in items:
                if isinstance(item, dict):
                    yield item
            cursor = document.get("nextCursor")
            if not isinstance(cursor, str) or not cursor:
                return
            if cursor in cursors or len(cursor) > _LONGEST_CURSOR:
                raise rest_errors.not_a_list(call, "the list's pages do not end: a cursor comes again, or is too long")
            cursors.add(cursor)
            asked["cursor"] = cursor
        raise rest_errors.not_a_list(call, f"the list has more than {MOST_PAGES} pages")

    async def events(
        self, path: str, query: Query | None = None, *, longest_seconds: float = 600.0
    ) -> AsyncGenerator[Json, None]:
        """Yields the objects of a stream of events, such as the log lines of a worker, until it or the time ends.

        Raises TypeError where the `send` is no StreamHttp.
        """
        if not isinstance(self._send, StreamHttp):
            raise TypeError("events() needs a send that streams, such as open_send's")
        call = self._named("GET", path)
        ends_at = asyncio.get_running_loop().time() + longest_seconds
        try:
            async with self._send.stream(self._url(path, query), self._headers) as reply:
                if reply.status != 200:
                    body = await _beginning(reply.pieces, self._timeout_seconds)
                    raise rest_errors.refused(call, Reply(reply.status, body, reply.headers))
                async for document in _documents(reply.pieces, ends_at):
                    yield document
        except (*FAULTS, TooLong) as fault:
            raise rest_errors.not_answered(call, fault) from None

    async def _call(
        self, method: str, path: str, query: Query | None = None, body: Mapping[str, Any] | None = None
    ) -> Json:
        call = self._named(method, path, body)
        group = group_of(self._origin, self._key, method, path)
        url = self._url(path, query)
        content = b"" if body is None else json.dumps(body).encode()
        wait_left = self._longest_wait_seconds
        for attempt in range(_ATTEMPTS):
            while (held := self._limits.wait_seconds(group, self._clock())) > 0:
                if held > wait_left:
                    raise rest_errors.held_back(call, held)
                wait_left -= held
                await self._sleep(held)
            try:
                return self._taken(call, group, await self._attempt(method, url, content))
            except FAULTS as fault:
                failure = rest_errors.not_answered(call, fault)
            except RestError as error:
                failure = error
            if attempt and method == "DELETE" and failure.status == 404:
                return {}
            pause = _pause_seconds(method, failure, attempt)
            if pause is None or pause > wait_left or attempt == _ATTEMPTS - 1:
                raise failure
            wait_left -= pause
            await self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, method: str, url: str, content: bytes) -> Reply:
        return await self._send(method, url, self._headers, content, self._timeout_seconds)

    def _taken(self, call: RestCall, group: str, reply: Reply) -> Json:
        """Returns the document of an answer, and notes what it says about the limits. Raises RestError."""
        self._limits.note(group, reply.status, reply.headers, self._clock())
        if not 200 <= reply.status < 300:
            raise rest_errors.refused(call, reply)
        if reply.status == 204 or (call.method == "DELETE" and not reply.body):
            return {}
        return _document(call, reply, self._longest_body_bytes)

    def _named(self, method: str, path: str, body: object = None) -> RestCall:
        return RestCall(method, path, tuple(secret for secret in (self._key, *secrets_in(body)) if secret))

    def _url(self, path: str, query: Query | None) -> str:
        return f"{self._origin}{path}?{urlencode(query)}" if query else f"{self._origin}{path}"


def endpoint_path(endpoint_id: str) -> str:
    """Returns the path of one endpoint."""
    return f"/v2/serverless/{quote(endpoint_id, safe='')}"


def _pause_seconds(method: str, failure: RestError, attempt: int) -> float | None:
    """Returns the pause before the next attempt; None if there is none."""
    if failure.status == 429:
        return max(failure.retry_after_seconds or DEFAULT_WAIT_SECONDS, _SHORTEST_PAUSE_SECONDS)
    if method == "POST" or not failure.is_transient:
        return None
    return max(failure.retry_after_seconds or 0.0, _SHORTEST_PAUSE_SECONDS * 2.0**attempt)


def _document(call: RestCall, reply: Reply, longest_bytes: int) -> Json:
    if len(reply.body) > longest_bytes:
        raise rest_errors.not_runpod(call, reply, f"more than {longest_bytes} bytes")
    try:
        document = json.loads(reply.body, parse_float=exact_number, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise rest_errors.not_runpod(call, reply, "no JSON" if reply.body else "nothing in it") from None
    if not isinstance(document, dict):
        raise rest_errors.not_runpod(call, reply, "JSON that is no object")
    return document


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


async def _beginning(pieces: AsyncIterator[bytes], seconds: float) -> bytes:
    """Returns an error's body, or the beginning of one that is too long."""
    body = bytearray()
    async with asyncio.timeout(seconds):
        async for piece in pieces:
            body += piece
            if len(body) > LONGEST_BODY_BYTES:
                break
    return bytes(body)


async def _documents(pieces: AsyncIterator[bytes], ends_at: float) -> AsyncIterator[Json]:
    """Yields the JSON objects of the events until the stream or the loop's time ends; other events mean nothing."""
    splitter = EventSplitter()
    loop = asyncio.get_running_loop()
    while loop.time() < ends_at:
        try:
            async with asyncio.timeout_at(ends_at):
                piece = await anext(pieces, None)
        except TimeoutError:
            if loop.time() >= ends_at:
                return
            raise
        if piece is None:
            return
        for event in splitter.feed(piece):
            if (document := _object(event.data)) is not None:
                yield document


def _object(data: bytes) -> Json | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
