"""The load-balancing worker on real sockets, with a fake engine behind it, stopped by a real SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from handler.door.flags import Door
from handler.engine.protocol import Answer, Engine, EngineRequest
from handler.http import mode
from handler.settings import ALLOWED_PATHS
from tests.support import FakeEngine

SSE = "text/event-stream; charset=utf-8"
CHAT = "/v1/chat/completions"


@dataclass
class SlowEngine(FakeEngine):
    """Loads until it is told that it has loaded."""

    loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        await self.loaded.wait()
        await super().start()


@dataclass
class FailingEngine(FakeEngine):
    """Fails before it answers."""

    error: Exception | None = None

    @asynccontextmanager
    async def send(self, request: EngineRequest) -> AsyncIterator[Answer]:
        if self.error:
            raise self.error
        async with super().send(request) as response:
            yield response


@dataclass
class Held:
    """An answer that sends one event, then waits for leave to send the rest; knows whether it was dropped."""

    pieces: tuple[bytes, ...] = (b"data: 1\n\n", b"data: 2\n\n")
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: EngineRequest) -> AsyncIterator[bytes]:
        first, *rest = self.pieces
        yield first
        self.reached.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.dropped.set()
            raise
        for piece in rest:
            yield piece


@dataclass
class Running:
    """The worker under test: a client of each of its ports, and its end."""

    main: aiohttp.ClientSession
    health: aiohttp.ClientSession
    task: asyncio.Task[int]
    port: int

    async def ping(self) -> int:
        async with self.health.get("/ping") as response:
            assert await response.read() == b""
            return response.status

    async def ping_until(self, status: int) -> None:
        async with asyncio.timeout(5):
            while await self.ping() != status:
                pass

    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def worker(
    engine: Engine,
    *,
    two_ports: bool = False,
    drain_seconds: float = 5,
    door: Door = mode.OPEN,
    host: str = "127.0.0.1",
) -> AsyncIterator[Running]:
    """Serves `engine` on free ports; at the end sends SIGTERM if the worker still runs."""
    ports: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    serving = mode.serve(
        engine,
        host=host,
        port=0,
        health_port=await free_port() if two_ports else 0,
        allowed_paths=ALLOWED_PATHS,
        max_body_bytes=1000,
        drain_seconds=drain_seconds,
        stall_seconds=0.05,
        door=door,
        on_listening=lambda *both: ports.set_result(both),
    )
    task = asyncio.create_task(serving)
    main, health = await ports
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{main}") as client,
        aiohttp.ClientSession(f"http://127.0.0.1:{health}") as health_client,
    ):
        running = Running(client, health_client, task, main)
        try:
            yield running
        finally:
            if not task.done():
                running.terminate()
            await task


async def free_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        return port
