"""The protocols of tracing, a span for each request and each attempt; and W3C trace context for when it is off."""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Protocol

from vllm_service.domain.plan import Step
from vllm_service.domain.requests import RequestRecord
from vllm_service.errors import ConfigurationError

# Version ff, and a trace or a span of zeros only, are not valid (W3C Trace Context, 3.2.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_LONGEST_TRACESTATE = 512


def trace_headers(traceparent: bytes | None, tracestate: bytes | None) -> bytes:
    """Returns header lines for the provider: the caller's trace, a new span id; none without a valid traceparent."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return b""
    lines = b"traceparent: 00-%b-%b-%b\r\n" % (match.group(1), os.urandom(8).hex().encode(), match.group(2))
    if tracestate and len(tracestate) <= _LONGEST_TRACESTATE:
        lines += b"tracestate: %b\r\n" % tracestate
    return lines


class RequestSpan(Protocol):
    """The span of one request. No method blocks, and no attribute holds a prompt."""

    def headers(self) -> bytes:
        """Returns header lines for the provider, by which its spans become children of this one."""
        ...

    def attempted(self, step: Step, seconds: float, outcome: str, status: int | None) -> None:
        """Notes an attempt that ends now and took `seconds`. status: HTTP's; None where there was no answer."""
        ...

    def end(self, row: RequestRecord) -> None:
        """Ends the span of a request that has ended."""
        ...


class Tracer(Protocol):
    """Makes the spans of requests."""

    def begin(self, operation: str, traceparent: bytes | None, tracestate: bytes | None) -> RequestSpan:
        """Returns the span of a request that begins, as part of the caller's trace if there is one."""
        ...


def require_exporter() -> None:
    """Raises ConfigurationError where the extra that exports spans is not installed. Imports it, which is slow."""
    try:
        import_module("vllm_service.observability.opentelemetry")
        import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        variable = "OTEL_EXPORTER_OTLP_ENDPOINT"
        message = f"{variable} is set, but {error.name} is not installed: pip install 'vllm-service[tracing]'."
        raise ConfigurationError(message, param=variable) from None
