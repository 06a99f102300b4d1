"""Implements tracing with OpenTelemetry's SDK, whose batch processor sends from a thread. Imported only if it is on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from vllm_service.domain.plan import Step
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.storage.ledger.rows import span_attributes
from vllm_service.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer as OpenTelemetryTracer
    from opentelemetry.util.types import AttributeValue

_context = TraceContextTextMapPropagator()
#: The longest wait for the last spans at the end.
CLOSING_MILLISECONDS = 5000


class Tracing:
    """Implements tracing.Tracer. Spans wait in memory, at most as many as the SDK allows."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({SERVICE_NAME: "vllm-service", SERVICE_VERSION: __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("vllm_service", __version__)

    @classmethod
    def to(cls, endpoint: str) -> Tracing:
        """Returns tracing to a collector. endpoint: its base URL for OTLP over HTTP (OTEL_EXPORTER_OTLP_ENDPOINT)."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        return cls(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))

    def begin(self, operation: str, traceparent: bytes | None, tracestate: bytes | None) -> RequestSpan:
        """Implements Tracer."""
        carrier = {"traceparent": (traceparent or b"").decode("latin-1")}
        if tracestate:
            carrier["tracestate"] = tracestate.decode("latin-1")
        context = _context.extract(carrier) if traceparent else None
        return RequestSpan(self._tracer, self._tracer.start_span(operation, context, SpanKind.SERVER))

    def close(self) -> None:
        """Sends the spans that wait. Blocks for as long as that takes, at most CLOSING_MILLISECONDS."""
        self._provider.force_flush(CLOSING_MILLISECONDS)
        self._provider.shutdown()


class RequestSpan:
    """Implements tracing.RequestSpan. Names follow OpenTelemetry's conventions for generative AI where there is one."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: OpenTelemetryTracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def headers(self) -> bytes:
        """Returns the W3C headers that the SDK's propagator makes of this span."""
        carrier: dict[str, str] = {}
        _context.inject(carrier, set_span_in_context(self._span))
        return b"".join(b"%b: %b\r\n" % (name.encode(), value.encode("latin-1")) for name, value in carrier.items())

    def attempted(self, step: Step, seconds: float, outcome: str, status: int | None) -> None:
        """Adds a child span that began `seconds` ago and ends now."""
        now = time.time_ns()
        attributes: dict[str, AttributeValue] = {
            "gen_ai.provider.name": step.provider,
            "gen_ai.request.model": step.model,
            "vllm_service.outcome": outcome,
        }
        if status:
            attributes["http.response.status_code"] = status
        span = self._tracer.start_span(
            f"attempt {step.provider}",
            set_span_in_context(self._span),
            SpanKind.CLIENT,
            attributes,
            start_time=now - int(seconds * 1e9),
        )
        if outcome == "failed":
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    def end(self, row: RequestRecord) -> None:
        """Ends the span, with the known columns of the row as attributes."""
        span = self._span
        span.update_name(f"{row.operation} {row.model}".strip())
        span.set_attributes(span_attributes(row))
        if row.outcome is Outcome.FAILED:
            span.set_status(Status(StatusCode.ERROR))
        span.end()
