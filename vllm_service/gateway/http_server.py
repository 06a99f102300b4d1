"""The gateway's HTTP server: takes connections, watches their times, and stops without breaking an answer."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from vllm_service.errors import Overloaded, ServiceError
from vllm_service.gateway.client_connection import ClientConnection
from vllm_service.gateway.eager_task import EagerTask
from vllm_service.gateway.error_answers import error_body, error_headers
from vllm_service.gateway.incoming import Caller, Incoming
from vllm_service.gateway.limits import ConnectionLimits
from vllm_service.logs import place_of

LOOK_EVERY_SECONDS = 0.5
_log = logging.getLogger(__name__)

Handler = Callable[[Incoming, Caller], Awaitable[None]]


class HttpServer:
    """Calls `handle` in a task of its own for every request. Belongs to one event loop."""

    def __init__(self, handle: Handler, limits: ConnectionLimits | None = None) -> None:
        self.limits = limits or ConnectionLimits()
        self.loop = asyncio.get_running_loop()
        self.date_line = b""
        self.is_stopping = False
        self._handle = handle
        self._connections: set[ClientConnection] = set()
        self._tasks: set[asyncio.Future[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, listening: socket.socket) -> None:
        """Begins to take connections from a bound socket; there may be several."""
        if self._timer is None:
            self._look()
        server = await self.loop.create_server(lambda: ClientConnection(self), sock=listening, backlog=2048)
        self._servers.append(server)

    async def stop(self, within_seconds: float) -> bool:
        """Takes no more requests and lets those under way end; what has not by then is cut. Whether all have ended."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close_when_done()
        end = self.loop.time() + within_seconds
        while self._tasks and (left := end - self.loop.time()) > 0:  # one that was half received may still begin
            await asyncio.wait(set(self._tasks), timeout=left)
        late = set(self._tasks)
        for connection in list(self._connections):
            connection.close_at_once()
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
        if self._timer is not None:
            self._timer.cancel()
        return not late

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return len(self._tasks)

    @property
    def connected(self) -> int:
        """Connections of callers."""
        return len(self._connections)

    # what connections call

    def task_for(self, request: Incoming, caller: Caller) -> EagerTask | asyncio.Task[None]:
        """What will answer the request: an EagerTask, yet to be begun; within another task, one that asyncio begins."""
        answering = self._answer(request, caller)
        task: EagerTask | asyncio.Task[None]
        if asyncio.current_task(self.loop) is None:
            task = EagerTask(answering, self.loop, self._tasks.discard)
        else:
            task = self.loop.create_task(answering)
            task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)
        return task

    def opened(self, connection: ClientConnection) -> None:
        """Over the limit of connections the new one is told so and closed."""
        self._connections.add(connection)
        if len(self._connections) > self.limits.connections:
            connection.refuse(Overloaded("The gateway has too many connections.", retry_after_seconds=1))

    def lost(self, connection: ClientConnection) -> None:
        """The connection is no more."""
        self._connections.discard(connection)

    async def _answer(self, request: Incoming, caller: Caller) -> None:
        """An error here is the gateway's own: the caller learns no more than that."""
        try:
            await self._handle(request, caller)
        except asyncio.CancelledError:
            caller.abort()
        except Exception as failure:
            _log.error("a request could not be answered: %s", place_of(failure))
            error = ServiceError("The gateway failed on this request.")
            if caller.has_begun:
                caller.abort()
            else:
                caller.answer(500, error_headers(error), error_body(error, None))

    def _look(self) -> None:
        """One timer for all connections: a timer for each request would cost more than parsing it."""
        now = self.loop.time()
        self.date_line = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self._connections):
            connection.check(now)
        self._timer = self.loop.call_later(LOOK_EVERY_SECONDS, self._look)
