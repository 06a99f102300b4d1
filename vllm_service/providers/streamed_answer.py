"""A provider's answer while a connection carries it: kept until it is whole, or relayed as it comes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Protocol

from vllm_service.providers.protocol import CutShort, ProviderFault

LONGEST_ANSWER_BYTES = 128 * 2**20
# Comments, which keep connections alive, are no events; an answer that only began one has not begun.
FIRST_EVENT = re.compile(rb"(?:^|\n)(?:data|event):.*?(?:\n\n|\r\n\r\n)", re.DOTALL)


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


class StreamOrWhole:
    """A provider's answer (protocol.Answer) while its connection still carries it, and after."""

    __slots__ = (
        "_connection",
        "_end",
        "_fault",
        "_is_over",
        "_kept",
        "_kept_bytes",
        "ends_with_connection",
        "headers",
        "is_stream",
        "received",
        "status",
    )

    def __init__(self, connection: Carrier) -> None:
        self._connection = connection
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._end: asyncio.Future[None] | None = None
        self._fault: ProviderFault | None = None
        self._is_over = False
        self.headers: dict[bytes, bytes] = {}
        self.status = 0
        self.is_stream = False
        self.ends_with_connection = False
        self.received: Callable[[bytes], None] | None = None

    @property
    def body(self) -> bytes:
        """What has come and was not relayed."""
        return self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)

    def keep(self, data: bytes) -> None:
        """Adds a piece to what is kept."""
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > LONGEST_ANSWER_BYTES:
            self._connection.fail(CutShort(f"the answer is longer than {LONGEST_ANSWER_BYTES} bytes"))

    def relay(self, receive: Callable[[bytes], None]) -> asyncio.Future[None]:
        """See protocol.Answer."""
        self._end = asyncio.get_running_loop().create_future()
        kept, self._kept = self._kept, []
        self.received = receive
        for data in kept:
            receive(data)
        if self._is_over:
            self.ended(self._fault)
        return self._end

    def ended(self, fault: ProviderFault | None) -> None:
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
