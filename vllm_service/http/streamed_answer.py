"""A provider's answer while a connection carries it: kept until it is whole, or relayed as it comes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from vllm_service.http.upstream import CutShort, ProviderFault

LONGEST_ANSWER_BYTES = 128 * 2**20
# Of a stream, before its first event is whole: comments and pings, and then the event itself.
LONGEST_BEGINNING_BYTES = 16 * 2**20
# Comments, which keep connections alive, are no events; an answer that only began one has not begun.
_EVENT_BEGINS = re.compile(rb"(?:^|\n)(?:data|event):")
_EVENT_ENDS = re.compile(rb"\n\n|\r\n\r\n")
_LONGEST_MARK = len(b"\nevent:")  # no other is longer; a piece may end within one


class Carrier(Protocol):
    """The connection."""

    def fail(self, fault: ProviderFault) -> None:
        """Ends it."""
        ...

    def pause(self) -> None:
        """Reads no further."""
        ...

    def resume(self) -> None:
        """Reads on."""
        ...


class StreamOrWhole(msgspec.Struct, eq=False):
    """A provider's answer (protocol.Answer) while its connection still carries it, and after."""

    _connection: Carrier
    headers: dict[bytes, bytes]
    status: int = 0
    is_stream: bool = False
    ends_with_connection: bool = False
    received: Callable[[bytes], None] | None = None
    _kept: bytes | bytearray = b""
    _end: asyncio.Future[None] | None = None
    _fault: Exception | None = None
    _is_over: bool = False
    _has_event: bool = False
    _searched: int = 0  # bytes in which nothing was found

    @property
    def body(self) -> bytes:
        """What has come and was not relayed."""
        if not isinstance(self._kept, bytes):
            self._kept = bytes(self._kept)
        return self._kept

    def keep(self, data: bytes) -> None:
        """Adds a piece to what is kept: the most come in one."""
        kept = self._kept
        if not kept:
            self._kept = data
        elif isinstance(kept, bytes):
            self._kept = bytearray(kept + data)
        else:
            kept += data
        most = LONGEST_BEGINNING_BYTES if self.is_stream else LONGEST_ANSWER_BYTES
        if len(self._kept) > most:
            what = "first event" if self.is_stream else "answer"
            self._connection.fail(CutShort(f"the {what} is longer than {most} bytes"))

    def has_begun(self) -> bool:
        """See protocol.Answer. What was searched once is not searched again when more has come."""
        kept = self._kept
        if not self._has_event:
            found = _EVENT_BEGINS.search(kept, self._searched)
            if found is not None:
                self._has_event, self._searched = True, found.end()
        if self._has_event and _EVENT_ENDS.search(kept, self._searched) is not None:
            return True
        self._searched = max(self._searched, len(kept) - _LONGEST_MARK + 1)
        return False

    def relay(self, receive: Callable[[bytes], None]) -> asyncio.Future[None]:
        """See protocol.Answer."""
        self._end = asyncio.get_running_loop().create_future()
        kept, self._kept = self.body, b""
        self.received = receive
        if kept:
            receive(kept)
        if self._is_over:
            self.ended(self._fault)
        return self._end

    def ended(self, fault: Exception | None) -> None:
        """Called by the connection: the body is complete, or broken."""
        self._is_over, self._fault = True, fault
        if self._end is None or self._end.done():
            return
        if fault is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(fault)
            self._end.exception()  # whoever has left does not look

    def pause(self) -> None:
        """See protocol.Answer."""
        if not self._is_over:
            self._connection.pause()

    def resume(self) -> None:
        """See protocol.Answer."""
        if not self._is_over:
            self._connection.resume()

    def close(self) -> None:
        """See protocol.Answer."""
        if not self._is_over:
            self._connection.fail(CutShort("left before its end"))
