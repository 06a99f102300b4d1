"""Persistent connections to providers, with only what the gateway needs: few system calls, little Python."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

from vllm_service.catalog.model import Provider
from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.domain.status import PoolsState, PoolState
from vllm_service.http.client_connection import Connection, ProviderAnswer
from vllm_service.http.fair_queue import HELD_PER_FREE, FairQueue, Flow, QueueBounds
from vllm_service.http.provider_lines import lines_of
from vllm_service.http.upstream import (
    ENDLESS,
    NO_SENDER,
    Answer,
    CutShort,
    NotReached,
    OutOfTime,
    Patience,
    ProviderFault,
    Sender,
    Sending,
    TimedOut,
    not_opened,
)
from vllm_service.http.write_buffer import WriteBuffer

#: Idle connections are closed after this. A server that closes one earlier (uvicorn, and with it vLLM, after 5 s) does
#: so visibly; routers on the way forget connections silently, but only after a minute and more.
KEEP_ALIVE_SECONDS = 55.0
#: Timeouts are as exact as this.
CHECK_INTERVAL_SECONDS = 0.25
#: A million tokens, each in an event of 1 KB. A stream holds no memory, so it is enough that the timer looks at it.
LONGEST_STREAM_BYTES = 2**30
#: Each reload of the configuration makes new Provider objects and so new pools; above this, empty ones are dropped.
MAX_EMPTY_POOLS = 64


class ConnectionPool:
    """Implements upstream.Upstream over asyncio and httptools. Belongs to one event loop; `close` ends it."""

    def __init__(
        self, tls: ssl.SSLContext | None = None, bounds: QueueBounds | None = None, *, is_shared: bool = True
    ) -> None:
        """Opens nothing yet. tls: how certificates are checked, by default with the system's authorities.

        bounds: how many requests may wait for a connection to one provider. is_shared: see FairQueue.
        """
        self._tls = tls
        self._new_queue = partial(FairQueue, bounds=bounds or QueueBounds(), is_shared=is_shared)
        # By the provider's identity, since hashing all its fields takes longer than a write. A pool holds its provider,
        # so an identity is not reused while its pool is here.
        self._pools: dict[int, _Pool] = {}
        #: How many requests may be under way, by the provider's name; see `limit`.
        self._limits: dict[str, int] = {}
        #: What is left of pools that were dropped: their refusals.
        self._dropped: dict[str, PoolState] = {}
        self._write_buffer: WriteBuffer | None = None
        self._timer: asyncio.TimerHandle | None = None

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
        """Implements upstream.Upstream."""
        pool = self._pools.get(id(provider)) or self._new_pool(provider)
        sending = sending or _Unobserved()
        return pool.send("POST", path, headers, body, patience, sending=sending, beginning=beginning, sender=sender)

    def ask(
        self, method: str, provider: Provider, path: str, body: bytes = b"", patience: Patience = ENDLESS
    ) -> Awaitable[Answer]:
        """Sends a small request of any method to `base_url + path`; errors as for `send`. body: JSON, or empty."""
        pool = self._pools.get(id(provider)) or self._new_pool(provider)
        return pool.send(method, path, b"", body, patience, sending=_Unobserved())

    def taken(self, provider: str) -> int:
        """Returns how many requests to the provider of this name are under way."""
        return sum(pool.queue.taken for pool in self._pools.values() if pool.provider.name == provider)

    def limit(self, provider: str, requests: int) -> None:
        """Sets how many requests may be under way at the provider of this name: what its workers can hold now."""
        self._limits[provider] = requests
        for pool in self._pools.values():
            if pool.provider.name == provider:
                pool.queue.resize(self._capacity(pool.provider))

    def status(self) -> PoolsState:
        """Returns what is taken, waits and was refused by provider, for metrics."""
        states = dict(self._dropped)
        for pool in self._pools.values():
            states[pool.provider.name] = pool.queue.state(states.get(pool.provider.name))
        return PoolsState(states)

    async def close(self) -> None:
        """Implements upstream.Upstream."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _capacity(self, provider: Provider) -> int:
        return min(provider.max_connections, self._limits.get(provider.name, provider.max_connections))

    def _new_pool(self, provider: Provider) -> _Pool:
        if self._write_buffer is None:
            self._write_buffer = WriteBuffer(asyncio.get_running_loop())
        try:
            queue = self._new_queue(self._capacity(provider))
            pool = self._pools[id(provider)] = _Pool(provider, self._tls_context, self._write_buffer, queue)
        except ValueError as error:  # a URL that the catalog would have refused; the provider came from elsewhere
            raise NotReached(f"no request can reach its base_url: {type(error).__name__}") from error
        self._check_pools()
        return pool

    def _tls_context(self) -> ssl.SSLContext:
        """Returns the context, made for the first provider with TLS: reading the certificates takes 20 ms."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _check_pools(self) -> None:
        """Ends connections that have been quiet for too long. One timer serves all of them."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for key, pool in list(self._pools.items()):
            if not pool.end_overdue(now) and len(self._pools) > MAX_EMPTY_POOLS:
                del self._pools[key]
                name = pool.provider.name
                self._dropped[name] = pool.queue.state(self._dropped.get(name))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(CHECK_INTERVAL_SECONDS, self._check_pools)


class _Unobserved:
    """A Sending of which no report is needed."""

    was_sent = False

    def waited(self, seconds: float) -> None:
        """Implements upstream.Sending."""


class _Pool:
    """One provider's connections: at most its `max_connections`, those being opened included."""

    def __init__(
        self,
        provider: Provider,
        tls_context: Callable[[], ssl.SSLContext],
        write_buffer: WriteBuffer,
        queue: FairQueue,
    ) -> None:
        parts = urlsplit(provider.base_url)
        self.provider = provider
        self._write_buffer = write_buffer
        self._host = parts.hostname or ""
        self._tls = tls_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base_path = parts.path.rstrip("/")
        self._base_path.encode("ascii")  # raises ValueError
        self._lines = lines_of(provider, parts.netloc.rpartition("@")[2])
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[Connection] = []
        #: Open ones, idle or busy.
        self._all: set[Connection] = set()
        self._is_closing = False
        #: What is taken of it is one connection, busy or being opened. A new one is opened only while none is idle, so
        #: there are never more connections than its capacity.
        self.queue = queue

    async def send(
        self,
        method: str,
        path: str,
        headers: bytes,
        body: bytes,
        patience: Patience,
        *,
        sending: Sending,
        beginning: StreamBeginning | None = None,
        sender: Sender = NO_SENDER,
    ) -> ProviderAnswer:
        """Sends a request over an idle connection, else over a new one, and returns its answer."""
        head = self._heads.get((method, path)) or self._head(method, path)
        request = b"%b%bcontent-length: %d\r\n\r\n%b" % (head, headers, len(body), body)
        first_byte = self.provider.first_byte_timeout_seconds if patience is ENDLESS else patience.first_byte_seconds
        queue = self.queue
        is_repeated = False
        while True:
            # FairQueue.take, without its two calls: nearly every request may take a connection at once.
            flow = queue.flows.get(sender.organisation)
            if flow is not None and not flow.waiting and flow.held < HELD_PER_FREE * (queue.free - 1):
                flow.held += 1
                queue.free -= 1
            else:
                flow = await self._turn(sender, patience, sending)
            # The one used last: it is the least likely to be closed by now, and the others reach their idle time.
            is_kept = bool(self._idle)
            connection = self._idle.pop() if is_kept else await self._connect(flow, patience.connect_seconds)
            connection.flow = flow
            waiter = None
            try:
                is_alone = queue.capacity - queue.free <= 1
                waiter = connection.request(
                    request, first_byte, patience.total_seconds, is_alone=is_alone, beginning=beginning
                )
                sending.was_sent = True
                return await waiter
            except CutShort:
                if waiter is None:  # it was closed already, and carries nothing
                    connection.flow = None
                    queue.give_back(flow)
                if is_repeated or not is_kept or not self._is_unread(connection):
                    raise
                is_repeated = True
                sending.was_sent = False
            except asyncio.CancelledError:
                if waiter is not None:
                    connection.abandon(waiter)
                raise

    def _is_unread(self, connection: Connection) -> bool:
        """Returns whether the request over this kept connection, which has ended, is to be sent once more.

        The provider may close an idle connection just when a request is written to it. Such a request was not read. Any
        other may have been: sending it again could be paid for twice.
        """
        return connection.was_stale and not self._is_closing

    def end_overdue(self, now: float) -> bool:
        """Ends connections that are idle or silent for too long. Returns true if the pool is still in use."""
        for connection in list(self._all):
            fault = self._fault(connection, now)
            if fault is not None:
                connection.fail(fault)
        return bool(self._all or self.queue.taken or self.queue.length)

    def _fault(self, connection: Connection, now: float) -> ProviderFault | None:
        """Returns the reason to end a connection, or None."""
        quiet_seconds = now - connection.quiet_since
        if not connection.is_busy:
            return CutShort("idle") if quiet_seconds > KEEP_ALIVE_SECONDS else None
        if now > connection.ends_at:
            return OutOfTime("the time that the request may take is over")
        if connection.received_bytes > LONGEST_STREAM_BYTES:
            return CutShort(f"the stream is longer than {LONGEST_STREAM_BYTES} bytes")
        if connection.is_paused:  # the caller is slow, not the provider
            return None
        if connection.is_streaming:  # a whole answer may be silent behind its head until it is complete
            longest = self.provider.idle_timeout_seconds
            return TimedOut(f"silent for {longest:g} s within the answer") if quiet_seconds > longest else None
        longest = connection.first_byte_seconds
        return TimedOut(f"no answer within {longest:g} s") if quiet_seconds > longest else None

    def close(self) -> None:
        """Ends every connection, those in the middle of an answer too."""
        self._is_closing = True
        for connection in list(self._all):
            connection.fail(CutShort("the gateway is stopping"))

    async def _turn(self, sender: Sender, patience: Patience, sending: Sending) -> Flow:
        """Takes the right to a connection for a request, when it is its turn. Raises NoFreeConnection."""
        queue = self.queue
        flow = queue.flow(sender.organisation)
        if queue.take(flow):
            return flow
        turn = queue.line_up(flow, sender.id)
        came_at = asyncio.get_running_loop().time()
        seconds = min(patience.first_byte_seconds, self.provider.queue_seconds)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except TimeoutError:
            queue.leave(flow, sender.id, turn)
            raise queue.refusal(f"none was free within {seconds:g} s") from None
        except asyncio.CancelledError:
            queue.leave(flow, sender.id, turn)
            raise
        sending.waited(asyncio.get_running_loop().time() - came_at)
        return flow

    async def _connect(self, flow: Flow, seconds: float) -> Connection:
        """Returns a new connection for this flow, which has taken the right to it. Raises NotReached."""
        seconds = min(seconds, self.provider.connect_timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                return await self._open()
        except BaseException as error:  # a cancellation too: the next request may open a connection instead
            self.queue.give_back(flow)
            if isinstance(error, TimeoutError):
                raise NotReached(f"no connection within {seconds:g} s") from error
            # Of a host or port, uvloop and asyncio raise all of these.
            if isinstance(error, OSError | ValueError | OverflowError):
                raise not_opened(error) from error
            raise

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(loop, self._write_buffer, self._freed), self._host, self._port, ssl=self._tls
        )
        self._all.add(connection)
        return connection

    def _freed(self, connection: Connection) -> None:
        """Called by a connection that has carried its answer or has ended."""
        if connection.is_open:
            self._idle.append(connection)
        else:
            if connection in self._idle:
                self._idle.remove(connection)
            self._all.discard(connection)
        flow = connection.flow
        if flow is None:
            return
        connection.flow = None
        # FairQueue.give_back, without its call.
        queue = self.queue
        flow.held -= 1
        queue.free += 1
        if queue.length:
            queue.serve()

    def _head(self, method: str, path: str) -> bytes:
        """Returns the head's part that is the same for every request to this path, and keeps it.

        The key is the provider's, never the caller's. Identity encoding: events are read and passed on as they are.
        """
        self._heads[method, path] = f"{method} {self._base_path}{path} HTTP/1.1\r\n".encode("ascii") + self._lines
        return self._heads[method, path]
