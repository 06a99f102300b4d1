"""The seam to tracing: a span for a request, one for each attempt; and W3C trace context. Off, it costs nothing."""

from __future__ import annotations

import os
import re
from typing import Protocol

from vllm_service.domain.plan import Step
from vllm_service.domain.requests import RequestRecord

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


class RequestSpan(Protocol):
    """One request. Nothing here blocks, and nothing holds a prompt."""

    def headers(self) -> bytes:
        """Header lines for the provider: the trace goes on below this span."""
        ...

    def attempted(self, step: Step, seconds: float, outcome: str, status: int | None) -> None:
        """An attempt has ended just now, and took so long. status: HTTP's; None where there was no answer."""
        ...

    def end(self, row: RequestRecord) -> None:
        """The request has ended."""
        ...


class Tracer(Protocol):
    """Where spans come from."""

    def begin(self, operation: str, traceparent: bytes | None, tracestate: bytes | None) -> RequestSpan:
        """A request has come, as part of the caller's trace if it names one."""
        ...
