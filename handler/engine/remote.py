"""An engine that already runs: an OpenAI-compatible server over HTTP. Its bytes are passed on without parsing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
from yarl import URL

from handler.engine.protocol import Answer, EngineRequest, Header, answer_of
from handler.errors import ConfigurationError, EngineUnavailable, NotBegun, StreamBroken

logger = logging.getLogger(__name__)

FAULTS = (aiohttp.ClientError, OSError, TimeoutError)  # all that aiohttp raises when a connection fails
# The ones of which nothing was sent: there was no connection.
UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
# What a proxy in front of a server that is gone answers, and vLLM once its engine has died.
GONE_STATUSES = frozenset({502, 503, 504})

PROBE_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
CONNECT_SECONDS = 10.0
# Below uvicorn's 5 s, so that no request leaves on a connection that vLLM is closing.
KEEP_ALIVE_SECONDS = 4.0


class RemoteEngine:
    """An `Engine`: the server at `base_url`, which is started and stopped elsewhere.

    base_url: with or without a closing `/v1`, since the paths of requests carry it. A user:password in it is used.
    capacity: how many requests to send at the same time; the server does not publish its own limit.
    start_timeout: how long `start` waits for the server's first answer, in seconds.
    patience: how many seconds the server may be out of reach before it counts as dead. A restart or one lost connection
    fails only the requests that meet it.
    """

    DEFAULT_CAPACITY = 256

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        capacity: int = DEFAULT_CAPACITY,
        start_timeout: float = 600.0,
        patience: float = 10.0,
    ) -> None:
        self._url, self._headers = _split(base_url, api_key)
        self._capacity = capacity
        self._start_timeout = start_timeout
        self._session: aiohttp.ClientSession | None = None
        self._patience = patience
        self._fault = ""
        self._down_since: float | None = None
        self._recovery: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Waits until the server answers; raises EngineUnavailable if it does not within `start_timeout`."""
        # aiohttp sets TCP_NODELAY itself. No limit here: the job loop decides how many requests run.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        )
        logger.info("waiting for the server at %s", self._url)
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._until_it_answers(self._session)
        except TimeoutError:
            await self.stop()
            raise EngineUnavailable(f"{self._url} gave no answer within {self._start_timeout:g} s") from None
        except BaseException:
            await self.stop()
            raise

    def send(self, request: EngineRequest) -> AbstractAsyncContextManager[Answer]:
        """Sends the request. Leaving early closes the connection, on which the server aborts."""
        return self._send(request)

    @asynccontextmanager
    async def _send(self, request: EngineRequest) -> AsyncIterator[Answer]:
        if self._session is None:
            raise NotBegun("the engine has not started")
        try:
            response = await self._session.request(
                request.method,
                self._target(request.path),
                data=request.body,
                headers=_headers(request),
                allow_redirects=False,
            )
        except UNSENT as error:
            raise NotBegun(self._failed(error)) from error
        except FAULTS as error:
            raise EngineUnavailable(self._failed(error)) from error
        if response.status in GONE_STATUSES:
            self._doubt(f"{self._url} answered with HTTP {response.status}")
        else:
            self._down_since = None
        try:
            body = _Body(response.content.readany, self._broke_off)
            content_type = response.headers.get("content-type", "")
            yield answer_of(response.status, content_type, body, tuple(self._answer_headers(response)))
        finally:
            response.close()  # after the end of the body it has given its connection back already

    def request_fields(self, path: str) -> Collection[str]:
        """Returns nothing: the fields are unknown here, and the server checks them itself."""
        del path
        return ()

    @property
    def capacity(self) -> int:
        """The configured number of requests at the same time; 0 from the first fault until the server answers again."""
        return self._capacity if self._down_since is None else 0

    @property
    def progress(self) -> int | None:
        """None: a server gives no sign of progress before the end of an answer that does not stream."""
        return None

    async def check_health(self) -> None:
        """Raises EngineUnavailable once the server is away for `patience`.

        Uses the last known state and sends nothing.
        """
        if self._session is None:
            raise EngineUnavailable("the engine has not started")
        if self._down_since is not None and _now() - self._down_since >= self._patience:
            raise EngineUnavailable(self._fault)

    async def stop(self) -> None:
        """Closes all connections; the server goes on."""
        session, self._session = self._session, None
        recovery, self._recovery = self._recovery, None
        if recovery is not None:
            recovery.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await recovery
        if session is not None:
            await session.close()

    def _answer_headers(self, response: aiohttp.ClientResponse) -> Iterator[Header]:
        """Yields the headers with names in lower case; a redirect below the path of `base_url` starts after it."""
        prefix = URL(self._url).raw_path.rstrip("/").encode()
        for name, value in response.raw_headers:
            if name.lower() == b"location" and prefix:
                yield b"location", re.sub(rb"^((?:\w+:)?//[^/]*)?" + re.escape(prefix) + rb"(?=/)", rb"\1", value)
            else:
                yield name.lower(), value

    def _target(self, path: str) -> URL:
        return URL(f"{self._url}{path}", encoded=True)

    def _failed(self, error: BaseException) -> str:
        """Doubts the server after a connection that failed, and returns the fault."""
        self._doubt(f"{self._url} cannot be reached: {type(error).__name__}")
        return self._fault

    def _broke_off(self, error: BaseException) -> StreamBroken:
        """Doubts the server after an answer that broke off, and returns the error of that answer."""
        self._failed(error)
        return StreamBroken(f"{self._url} broke off its answer: {type(error).__name__}")

    def _doubt(self, fault: str) -> None:
        """Remembers the fault and watches for its end in the background, so that no request has to try."""
        self._fault = fault
        if self._down_since is None:
            self._down_since = _now()
        if self._session is not None and (self._recovery is None or self._recovery.done()):
            self._recovery = asyncio.create_task(self._recover(self._session))

    async def _recover(self, session: aiohttp.ClientSession) -> None:
        try:
            await self._until_it_answers(session)
            self._down_since = None
        except ConfigurationError as error:
            self._fault = error.message

    async def _until_it_answers(self, session: aiohttp.ClientSession) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not await self._answers(session):
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        """Returns whether /v1/models or /health answers 200.

        Raises ConfigurationError where the API key is refused, or where the server sends callers elsewhere: a POST
        would lose its body on the way, so no redirect is followed.
        """
        for path in ("/v1/models", "/health"):
            try:
                probe = session.get(self._target(path), allow_redirects=False)
                async with asyncio.timeout(PROBE_SECONDS), probe as response:
                    if response.status in (401, 403):
                        raise ConfigurationError(f"{self._url} refuses the API key: HTTP {response.status}")
                    if 300 <= response.status < 400:
                        raise ConfigurationError(
                            f"{self._url} redirects to {_origin(response)}: set VLLM_BASE_URL to the server itself",
                            param="VLLM_BASE_URL",
                        )
                    if response.status == 200:
                        return True
            except FAULTS as error:
                logger.debug("%s: %s", self._url, error)
                return False
        return False


class _Body:
    """The pieces as the socket gives them. Thinner than aiohttp's iterator with a generator around it."""

    __slots__ = ("_broke_off", "_read")

    def __init__(
        self, read: Callable[[], Awaitable[bytes]], broke_off: Callable[[BaseException], StreamBroken]
    ) -> None:
        self._read = read
        self._broke_off = broke_off

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._read()
        except FAULTS as error:
            raise self._broke_off(error) from error
        if not piece:
            raise StopAsyncIteration
        return piece


def _headers(request: EngineRequest) -> list[tuple[str, str]]:
    given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
    return [("Content-Type", request.content_type), *given]


def _origin(response: aiohttp.ClientResponse) -> str:
    """Returns where a redirect leads, without a path or credentials, which may be secret."""
    try:
        return str(response.url.join(URL(response.headers.get("location", ""))).origin())
    except ValueError:
        return "another address"


def _now() -> float:
    return asyncio.get_running_loop().time()


def _split(base_url: str, api_key: str | None) -> tuple[str, dict[str, str]]:
    """Returns the URL without credentials and without `/v1`, and the headers that every request carries."""
    try:
        url = URL(base_url)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise ConfigurationError("VLLM_BASE_URL: expected a URL such as http://127.0.0.1:8000", param="VLLM_BASE_URL")
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    elif url.user:
        pair = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    return str(url.with_user(None)).rstrip("/").removesuffix("/v1").rstrip("/"), headers
