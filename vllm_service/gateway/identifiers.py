"""Request ids and W3C trace context: taken over from the caller when they are sound, made otherwise."""

from __future__ import annotations

import os
import re
from itertools import count

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")
_LONGEST_TRACESTATE = 512


class RequestIds:
    """Ids that are unique without asking the kernel for each: 64 random bits of the process, and a counter."""

    def __init__(self) -> None:
        self._process = os.urandom(8).hex()
        self._numbers = count(1)

    def of(self, sent: bytes | None) -> str:
        """The caller's id if it is made of at most 128 plain characters, else a new one."""
        if sent is not None and _REQUEST_ID.fullmatch(sent):
            return sent.decode("ascii")
        return f"req-{self._process}-{next(self._numbers):x}"


def trace_headers(traceparent: bytes | None, tracestate: bytes | None) -> bytes:
    """Header lines for the provider: the caller's trace with a span of our own; none without a valid traceparent."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or match.group(1) == b"ff":
        return b""
    lines = b"traceparent: 00-%b-%b-%b\r\n" % (match.group(2), os.urandom(8).hex().encode(), match.group(3))
    if tracestate and len(tracestate) <= _LONGEST_TRACESTATE:
        lines += b"tracestate: %b\r\n" % tracestate
    return lines
