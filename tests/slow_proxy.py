"""A TCP proxy in this process that delays bytes, swallows them, or breaks its connections: a network that is unwell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class SlowProxy:
    """Passes bytes on in both directions, `delay_seconds` late, whole and in order."""

    def __init__(self, target: int | Path) -> None:
        self._target = target
        #: Of the answers; the way there takes no time.
        self.delay_seconds = 0.0
        #: What comes is taken, and goes nowhere.
        self.swallows = False
        #: Connections that were made since the start.
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def cut(self) -> None:
        """Every connection ends at once, without a word."""
        for writer in self._open:
            writer.transport.abort()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if isinstance(self._target, Path):
            there = await asyncio.open_unix_connection(self._target)
        else:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, there[1]}
        ways = (self._pass(reader, there[1], 0.0), self._pass(there[0], writer, None))
        for way in ways:
            task = asyncio.create_task(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(65536):
                if not self.swallows:
                    seconds = self.delay_seconds if delay is None else delay
                    if seconds:
                        loop.call_later(seconds, writer.write, data)
                    else:
                        writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def slow_proxy(target: int | Path) -> AsyncIterator[SlowProxy]:
    """A running proxy before this port of 127.0.0.1, or this unix socket."""
    proxy = SlowProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
