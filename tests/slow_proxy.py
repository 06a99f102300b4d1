"""A TCP proxy in this process that delays bytes, swallows them, or breaks its connections: a network that is unwell."""

from __future__ import annotations

import asyncio
import contextlib
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
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        for way in (self._there(reader, there[1]), self._read(there[0], late), self._write(writer, late)):
            task = asyncio.create_task(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not self.swallows:
                    writer.write(data)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]]) -> None:
        now = asyncio.get_running_loop().time
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                late.put_nowait((now() + self.delay_seconds, data))
        late.put_nowait((now(), b""))

    async def _write(self, writer: asyncio.StreamWriter, late: asyncio.Queue[tuple[float, bytes]]) -> None:
        """One after the other, whatever the delay has become meanwhile: a connection keeps the order of its bytes."""
        now = asyncio.get_running_loop().time
        while True:
            at, data = await late.get()
            await asyncio.sleep(max(0.0, at - now()))
            if not data:
                break
            if not self.swallows:
                writer.write(data)
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
