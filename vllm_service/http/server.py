"""The gateway's HTTP server: takes connections, watches their times, and stops without breaking an answer."""

from __future__ import annotations

import asyncio
import socket
from email.utils import formatdate

from vllm_service.domain.status import ServerState
from vllm_service.errors import Overloaded
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.server_connection import EagerTask, Handler, ServerConnection
from vllm_service.http.write_buffer import WriteBuffer

LOOK_EVERY_SECONDS = 0.5


class HttpServer:
    """Calls `handle` in a task of its own for every request. Belongs to one event loop.

    Its connections share `date_line`, keep `tasks`, and ask whether it `is_stopping`.
    """

    def __init__(self, handle: Handler, limits: ConnectionLimits | None = None) -> None:
        self.limits = limits or ConnectionLimits()
        self.loop = asyncio.get_running_loop()
        self.outbox = WriteBuffer(self.loop)
        self.date_line = b""
        self.is_stopping = False
        self.handle = handle
        self._connections: set[ServerConnection] = set()
        self.tasks: set[EagerTask] = set()
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, listening: socket.socket) -> None:
        """Begins to take connections from a bound socket; there may be several."""
        if self._timer is None:
            self._look()
        server = await self.loop.create_server(lambda: ServerConnection(self), sock=listening, backlog=2048)
        self._servers.append(server)

    async def stop(self, within_seconds: float) -> bool:
        """Takes no more requests and lets those under way end; what has not by then is cut. Whether all have ended."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close_when_done()
        await asyncio.sleep(0)  # one that was read ahead begins with the next turn
        end = self.loop.time() + within_seconds
        while self.tasks and (left := end - self.loop.time()) > 0:  # one that was half received may still begin
            await asyncio.wait(set(self.tasks), timeout=left)
        late = set(self.tasks)
        for connection in list(self._connections):
            connection.leave()
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
        if self._timer is not None:
            self._timer.cancel()
        return not late

    def status(self) -> ServerState:
        """Returns what health and metrics show."""
        return ServerState(bool(self._servers), self.is_stopping, self.in_flight)

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return len(self.tasks)

    @property
    def connected(self) -> int:
        """Connections of callers."""
        return len(self._connections)

    # what connections call

    def opened(self, connection: ServerConnection) -> None:
        """Over the limit of connections the new one is told so and closed."""
        self._connections.add(connection)
        if self.connected > self.limits.connections:
            connection.refuse(Overloaded("The gateway has too many connections.", retry_after_seconds=1))

    def lost(self, connection: ServerConnection) -> None:
        """The connection is no more."""
        self._connections.discard(connection)

    def _look(self) -> None:
        """One timer for all connections: a timer for each request would cost more than parsing it."""
        now = self.loop.time()
        self.date_line = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self._connections):
            connection.check(now)
        self._timer = self.loop.call_later(LOOK_EVERY_SECONDS, self._look)
