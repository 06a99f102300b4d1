"""Writes at the end of a turn: what came for a connection within it goes out in one piece, and wakes its peer once."""

from __future__ import annotations

import asyncio


class WriteBuffer:
    """One for each event loop is enough. A turn is what the loop does between two looks at its sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: list[Writer] = []

    def add(self, writer: Writer) -> None:
        """It has something to write."""
        writers = self._writers
        if not writers:
            self._loop.call_soon(self._flush)
        writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()


class Writer(asyncio.Protocol):
    """The writing half of a connection."""

    def __init__(self, outbox: WriteBuffer) -> None:
        self._outbox = outbox
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []

    def write(self, data: bytes) -> None:
        """At the end of this turn, if there is still a connection then."""
        if not self._unsent:
            self._outbox.add(self)
        self._unsent.append(data)

    def write_now(self, data: bytes) -> None:
        """At once, unless something waits before it: for what is alone in its turn."""
        if self._unsent:
            self._unsent.append(data)
        elif self._transport is not None:
            self._transport.write(data)

    def flush(self) -> None:
        """Now."""
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
