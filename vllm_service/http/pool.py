"""Kept connections to every provider: few system calls, no general client's options; what the gateway sends through."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from vllm_service.catalog.model import Provider
from vllm_service.http.client_connection import Connection, StreamOrWhole
from vllm_service.http.upstream import ENDLESS, Answer, CutShort, NotReached, Patience, ProviderFault, TimedOut
from vllm_service.http.write_buffer import WriteBuffer
from vllm_service.version import __version__

# A server that closes an idle connection earlier (uvicorn, and with it vLLM, after 5 s) is noticed at once; routers on
# the way, which forget in silence, keep it for a minute and more.
KEEP_ALIVE_SECONDS = 55.0
LOOK_EVERY_SECONDS = 0.25
FEW_POOLS = 64  # more than that are left from reloads of the configuration


class ConnectionPool:
    """An Upstream (protocol.py) over asyncio and httptools. Belongs to one event loop; `close` when done."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """tls: how certificates are checked; by default as the system does."""
        self._tls = tls
        # By the provider's identity: hashing all its fields takes longer than a write.
        self._pools: dict[int, _Pool] = {}
        self._outbox: WriteBuffer | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(
        self, provider: Provider, path: str, headers: bytes, body: bytes, patience: Patience = ENDLESS
    ) -> Awaitable[Answer]:
        """See protocol.Upstream."""
        pool = self._pools.get(id(provider)) or self._new_pool(provider)
        return pool.send("POST", path, headers, body, patience)

    def get(self, provider: Provider, path: str, patience: Patience = ENDLESS) -> Awaitable[Answer]:
        """GETs `base_url + path`; as `send` otherwise."""
        pool = self._pools.get(id(provider)) or self._new_pool(provider)
        return pool.send("GET", path, b"", b"", patience)

    def patch(self, provider: Provider, path: str, body: bytes, patience: Patience = ENDLESS) -> Awaitable[Answer]:
        """PATCHes JSON to `base_url + path`; as `send` otherwise. May arrive twice: it says what is to be."""
        pool = self._pools.get(id(provider)) or self._new_pool(provider)
        return pool.send("PATCH", path, b"", body, patience)

    async def close(self) -> None:
        """See protocol.Upstream."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _new_pool(self, provider: Provider) -> _Pool:
        if self._outbox is None:
            self._outbox = WriteBuffer(asyncio.get_running_loop())
        pool = self._pools[id(provider)] = _Pool(provider, self._tls_context, self._outbox)
        self._look()
        return pool

    def _tls_context(self) -> ssl.SSLContext:
        """Made once, when the first provider with TLS is asked: reading the certificates takes 20 ms."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _look(self) -> None:
        """Ends what has been quiet for too long; one timer for all connections."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for key, pool in list(self._pools.items()):
            if not pool.end_quiet(now) and len(self._pools) > FEW_POOLS:
                del self._pools[key]
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(LOOK_EVERY_SECONDS, self._look)


class _Pool:
    """One provider's connections."""

    def __init__(self, provider: Provider, tls_context: Callable[[], ssl.SSLContext], outbox: WriteBuffer) -> None:
        parts = urlsplit(provider.base_url)
        self._provider = provider
        self._outbox = outbox
        self._host = parts.hostname or ""
        self._tls = tls_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base_path = parts.path.rstrip("/")
        self._netloc = parts.netloc.rpartition("@")[2]
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._is_closing = False
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()

    async def send(self, method: str, path: str, headers: bytes, body: bytes, patience: Patience) -> StreamOrWhole:
        """Over a kept connection, else a new one. A kept one that ends unanswered had been closed: asked once more."""
        head = self._heads.get((method, path)) or self._head(method, path)
        request = b"%b%bcontent-length: %d\r\n\r\n%b" % (head, headers, len(body), body)
        connection = self._idle.pop() if self._idle else None
        is_kept = connection is not None
        own = self._provider.first_byte_timeout_seconds
        first_byte = own if patience is ENDLESS else patience.first_byte_seconds
        while True:
            if connection is None:
                connection = await self._connect(patience.connect_seconds)
            waiter = None
            try:
                is_alone = len(self._all) - len(self._idle) <= 1
                waiter = connection.ask(request, first_byte, patience.total_seconds, is_alone=is_alone)
                return await waiter
            except CutShort:
                if not is_kept or self._is_closing or not connection.was_stale:
                    raise
                connection, is_kept = None, False
            except asyncio.CancelledError:
                if waiter is not None:
                    connection.leave(waiter)
                raise

    def end_quiet(self, now: float) -> bool:
        """Ends what the provider keeps waiting for longer than its configuration allows, and what idles.

        Whether there is any connection left.
        """
        for connection in list(self._all):
            fault = self._fault(connection, now)
            if fault is not None:
                connection.fail(fault)
        return bool(self._all or self._opening or self._waiting)

    def _fault(self, connection: Connection, now: float) -> ProviderFault | None:
        provider, quiet = self._provider, now - connection.quiet_since
        if not connection.is_busy:
            return CutShort("idle") if quiet > KEEP_ALIVE_SECONDS else None
        if now > connection.ends_at:
            return TimedOut("the time that the request may take is over")
        if connection.is_paused:
            return None
        if connection.is_answering:
            longest, what = provider.idle_timeout_seconds, "silent for {:g} s within the answer"
        else:
            longest, what = connection.first_byte_seconds, "no answer within {:g} s"
        return TimedOut(what.format(longest)) if quiet > longest else None

    def close(self) -> None:
        """Ends every connection, in the middle of an answer too."""
        self._is_closing = True
        for connection in list(self._all):
            connection.fail(CutShort("the gateway is stopping"))

    async def _connect(self, seconds: float) -> Connection:
        provider = self._provider
        seconds = min(seconds, provider.connect_timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                while len(self._all) + self._opening >= provider.max_connections:
                    freed = await self._wait()
                    if freed is not None and freed.is_open:
                        return freed
                connection = await self._open()
        except TimeoutError as error:
            raise NotReached(f"no connection within {seconds:g} s") from error
        except OSError as error:
            raise NotReached(f"no connection: {type(error).__name__}") from error
        return connection

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        self._opening += 1
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop, self._outbox, self._freed), self._host, self._port, ssl=self._tls
            )
        except BaseException:
            self._opening -= 1
            self._wake(None)
            raise
        self._opening -= 1
        self._all.add(connection)
        return connection

    async def _wait(self) -> Connection | None:
        """Until it is this caller's turn: with a connection that is free, or None for the place of one that is gone."""
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake(turn.result())
            raise

    def _wake(self, connection: Connection | None) -> None:
        """Gives it to who has waited longest; nobody who comes later takes it first."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if connection is not None and connection.is_open:
            self._idle.append(connection)

    def _freed(self, connection: Connection) -> None:
        """Called by a connection that has carried its answer, or has ended."""
        if connection.is_open:
            if self._waiting:
                self._wake(connection)
            else:
                self._idle.append(connection)
            return
        if connection in self._idle:
            self._idle.remove(connection)
        if connection in self._all:
            self._all.discard(connection)
            self._wake(None)

    def _head(self, method: str, path: str) -> bytes:
        """All that is the same in every request to this path. The key is the provider's, never the caller's."""
        key = f"authorization: Bearer {self._provider.api_key}\r\n" if self._provider.api_key else ""
        head = (
            f"{method} {self._base_path}{path} HTTP/1.1\r\nhost: {self._netloc}\r\n{key}"
            f"content-type: application/json\r\naccept-encoding: identity\r\nuser-agent: vllm-service/{__version__}\r\n"
        )
        self._heads[method, path] = head.encode("latin-1")
        return self._heads[method, path]
