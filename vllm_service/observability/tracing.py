"""The seam to tracing: a span for a request, and one for each attempt. Off, it costs a comparison with None."""

from __future__ import annotations

from typing import Protocol

from vllm_service.domain.plan import Step
from vllm_service.domain.requests import RequestRecord


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
