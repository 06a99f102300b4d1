"""W3C trace context: taken over from the caller when it is sound."""

from __future__ import annotations

import os
import re

# Version ff, and a trace or a span of zeros only, are not valid (W3C Trace Context, 3.2.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_LONGEST_TRACESTATE = 512


def trace_headers(traceparent: bytes | None, tracestate: bytes | None) -> bytes:
    """Header lines for the provider: the caller's trace with a span of our own; none without a valid traceparent."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return b""
    lines = b"traceparent: 00-%b-%b-%b\r\n" % (match.group(1), os.urandom(8).hex().encode(), match.group(2))
    if tracestate and len(tracestate) <= _LONGEST_TRACESTATE:
        lines += b"tracestate: %b\r\n" % tracestate
    return lines
