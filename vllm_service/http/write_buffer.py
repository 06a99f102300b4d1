"""Joins the writes of one turn of the event loop, so that each connection sends once and wakes its peer once."""

from __future__ import annotations

import asyncio


class WriteBuffer:
    """Flushes all writers of an event loop at the end of a turn, which is one pass of the loop over its callbacks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: list[Writer] = []

    def add(self, writer: Writer) -> None:
        """Flushes the writer at the end of this turn."""
        writers = self._writers
        if not writers:
            # Runs after the callbacks that are ready now, and so after all that one read of the sockets causes.
            self._loop.call_soon(self._flush)
        writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()


class Writer(asyncio.Protocol):
    """The writing half of a connection."""

    __slots__ = ("_transport", "_unsent", "_write_buffer")

    def __init__(self, write_buffer: WriteBuffer) -> None:
        self._write_buffer = write_buffer
        #: None before the connection is made and after it has ended.
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Writes at the end of this turn, if the connection still exists then."""
        if not self._unsent:
            self._write_buffer.add(self)
        self._unsent.append(data)

    def write_now(self, data: bytes) -> None:
        """Writes at once, for data that is alone in its turn; data behind unsent data keeps its order and waits."""
        if self._unsent:
            self._unsent.append(data)
        elif self._transport is not None:
            self._transport.write(data)

    def flush(self) -> None:
        """Writes what is unsent."""
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
