"""The pipe into which a worker writes: read at once, so that nothing holds the worker, kept, and copied."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO

from runpod_emulator.endpoint.output import WorkerOutput

PIECE_BYTES = 64 * 1024
#: For the last lines, once the worker has ended. A process that has left its group may hold the pipe open.
LAST_LINES_SECONDS = 1.0


@asynccontextmanager
async def output_pipe(output: WorkerOutput, copy: Callable[[bytes], object]) -> AsyncIterator[IO[bytes]]:
    """Opens the end that a process writes to, which has to be closed here once the process has it.

    All that comes is added to `output` and given to `copy`. Leaving waits for the last lines.
    """
    reading, writing = os.pipe()
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
    )
    reader = asyncio.create_task(_read(stream, output, copy))
    try:
        with os.fdopen(writing, "wb", buffering=0) as file:
            yield file
        await asyncio.wait((reader,), timeout=LAST_LINES_SECONDS)
    finally:
        reader.cancel()
        transport.close()


class WholeLines:
    """Passes on output as whole lines, so that those of several workers do not run into one another."""

    def __init__(self, put: Callable[[bytes], object]) -> None:
        self._put = put
        self._rest = b""

    def add(self, piece: bytes) -> None:
        """Takes output, cut anywhere. A line that is longer than a piece is passed on in parts."""
        end = piece.rfind(b"\n") + 1
        if end or len(self._rest) + len(piece) > PIECE_BYTES:
            self._put(self._rest + piece[: end or None])
            self._rest = piece[end:] if end else b""
        else:
            self._rest += piece

    def close(self) -> None:
        """Passes on an unfinished line, and ends it."""
        if self._rest:
            self._put(self._rest + b"\n")


async def _read(stream: asyncio.StreamReader, output: WorkerOutput, copy: Callable[[bytes], object]) -> None:
    while piece := await stream.read(PIECE_BYTES):
        output.add(piece)
        copy(piece)
