"""The gateway's HTTP server: takes connections, watches their times, and stops without breaking an answer."""

from __future__ import annotations

import asyncio
import socket
from email.utils import formatdate

from vllm_service.domain.status import ServerState
from vllm_service.errors import Overloaded
from vllm_service.http.byte_budget import ByteBudget
from vllm_service.http.connection_share import ConnectionShare
from vllm_service.http.eager_task import EagerTask
from vllm_service.http.head_check import HeadCheck
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.server_connection import Handler, ServerConnection
from vllm_service.http.write_buffer import WriteBuffer

#: Timeouts of connections are as exact as this; the date header needs no more than a second.
CHECK_INTERVAL_SECONDS = 0.5
#: Between two looks at requests that are still received when the server stops.
STOP_INTERVAL_SECONDS = 0.05
#: For tasks that were cancelled after the grace to end by themselves.
CANCEL_SECONDS = 5


class HttpServer:
    """Calls `handle` in a task of its own for every request. Belongs to one event loop.

    Implements server_connection.Server, which explains the public attributes.
    """

    def __init__(
        self, handle: Handler, limits: ConnectionLimits | None = None, head_check: HeadCheck | None = None
    ) -> None:
        self.limits = limits or ConnectionLimits()
        self.loop = asyncio.get_running_loop()
        self.head_check = head_check or HeadCheck(self.loop.time)
        self.budget = ByteBudget(self.limits.buffered_bytes)
        self._share = ConnectionShare(self.limits.connections, self.limits.address_connections)
        self.write_buffer = WriteBuffer(self.loop)
        self.date_line = b""
        self.is_stopping = False
        self.handle = handle
        self._connections: set[ServerConnection] = set()
        self.tasks: set[EagerTask] = set()
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, listening: socket.socket) -> None:
        """Begins to take connections from a bound socket. May be called once for each of several sockets."""
        if self._timer is None:
            self._check_connections()
        server = await self.loop.create_server(lambda: ServerConnection(self), sock=listening, backlog=2048)
        self._servers.append(server)

    async def stop(self, within_seconds: float) -> bool:
        """Takes no more requests, lets those under way end, and cuts those that have not after `within_seconds`.

        A request is under way once its key has been found: an upload goes on. Returns true if all have ended by
        themselves.
        """
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close_when_done()
        await asyncio.sleep(0)  # a request that was read ahead begins in the next turn, and counts as under way
        await self._answers_under_way(within_seconds)
        late = set(self.tasks)
        for connection in list(self._connections):
            connection.disconnect()
        for task in late:  # also those that would outlive their caller
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)
        if self._timer is not None:
            self._timer.cancel()
        return not late

    async def _answers_under_way(self, within_seconds: float) -> None:
        end = self.loop.time() + within_seconds
        while (left := end - self.loop.time()) > 0:
            if self.tasks:
                await asyncio.wait(set(self.tasks), timeout=left)
            elif any(connection.is_to_be_answered for connection in self._connections):
                await asyncio.sleep(min(left, STOP_INTERVAL_SECONDS))
            else:
                return

    def status(self) -> ServerState:
        """Returns the state that health and metrics show."""
        return ServerState(
            bool(self._servers),
            self.is_stopping,
            self.in_flight,
            connections=self.connected,
            buffered_bytes=self.budget.held_bytes,
            refusals=dict(self.head_check.refusals),
        )

    @property
    def in_flight(self) -> int:
        """Returns the number of requests that are being answered."""
        return len(self.tasks)

    @property
    def connected(self) -> int:
        """Returns the number of callers' connections."""
        return len(self._connections)

    # Called by connections

    def opened(self, connection: ServerConnection) -> None:
        """Counts a new connection; one over a limit is refused with 503 and closed."""
        self._connections.add(connection)
        reason = self._share.opened(connection, self.connected, self._connections, self.loop.time())
        if reason is not None:
            connection.refuse(Overloaded(f"{reason}; try again later.", retry_after_seconds=1))
            if self._share.must_cut(self.connected):
                connection.disconnect()

    def lost(self, connection: ServerConnection) -> None:
        """Forgets a connection that has ended."""
        self._connections.discard(connection)
        self._share.lost(connection)

    def _check_connections(self) -> None:
        """Ends connections that waited too long and renews the date header.

        One timer serves all connections: a timer for each request would cost more than parsing the request.
        """
        now = self.loop.time()
        self.date_line = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self._connections):
            connection.check(now)
        self._timer = self.loop.call_later(CHECK_INTERVAL_SECONDS, self._check_connections)
