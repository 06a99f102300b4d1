"""One request on its way: what is known of it so far, and the row that it leaves behind."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import NamedTuple

from msgspec.structs import replace

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.requests import Outcome, RequestFacts, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.gateway.annotations import annotation
from vllm_service.gateway.failing_over import FailingOver
from vllm_service.gateway.incoming import Caller, Incoming
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.request_body import RequestFields
from vllm_service.gateway.said import Said
from vllm_service.gateway.served_models import Configured, ServedModel
from vllm_service.gateway.trace_context import trace_headers
from vllm_service.gateway.tracing import RequestSpan
from vllm_service.providers.protocol import Answer, Upstream
from vllm_service.routing.circuit_breaker import Admission
from vllm_service.routing.plan import Step
from vllm_service.storage.protocol import Reservation


class Sent:
    """The request at one place. Times are of time.monotonic; usage: of a whole answer, as its provider counted it."""

    answer: Answer

    __slots__ = ("admission", "answer", "at", "first_byte", "step", "usage")

    def __init__(self, step: Step, admission: Admission, at: float) -> None:
        self.step = step
        self.admission = admission
        self.at = at
        self.first_byte: float | None = None
        self.usage: Usage | None = None


class Loss(NamedTuple):
    """What a request cost at a place that did not answer; an estimate, unless its whole answer was there."""

    step: Step
    usage: Usage
    cost_picousd: int | None


class Call:
    """Filled in phase by phase. Times are of time.monotonic, `started_at` apart."""

    key: ApiKey
    fields: RequestFields
    facts: RequestFacts
    model: ServedModel
    configured: Configured
    failing_over: FailingOver
    upstream: Upstream

    __slots__ = (
        "annotates",
        "attempts",
        "baseline_picousd",
        "caller",
        "configured",
        "cost_picousd",
        "error_code",
        "facts",
        "facts_or_none",
        "failing_over",
        "fields",
        "first_byte",
        "headers",
        "is_answered",
        "is_estimate",
        "key",
        "key_or_none",
        "losses",
        "model",
        "operation",
        "outcome",
        "reason",
        "request",
        "request_id",
        "reservation",
        "said",
        "sent",
        "started",
        "started_at",
        "status",
        "step",
        "trace",
        "upstream",
        "usage",
    )  # fmt: skip

    def __init__(self, operation: Operation, request: Incoming, caller: Caller) -> None:
        self.operation = operation
        self.request = request
        self.caller = caller
        self.headers = dict(request.headers)
        self.started_at = time.time()
        self.started = time.monotonic()
        self.request_id = ""
        self.annotates = False
        self.reservation: Reservation | None = None
        self.said: Said | None = None
        self.trace: RequestSpan | None = None
        self.reason: str | None = None
        self.step: Step | None = None
        self.attempts = 0
        self.losses: list[Loss] = []
        self.sent: float | None = None
        self.first_byte: float | None = None
        self.usage: Usage | None = None
        self.cost_picousd: int | None = None
        self.is_estimate = False
        self.is_answered = False
        self.baseline_picousd: int | None = None
        self.key_or_none: ApiKey | None = None
        self.facts_or_none: RequestFacts | None = None
        self.outcome = Outcome.COMPLETED
        self.status = 200
        self.error_code: str | None = None

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """See Caller; the connection is free for its next request."""
        self.is_answered = True
        self.caller.answer(status, headers, body)

    def end(self) -> None:
        """The end of a stream; see Caller."""
        self.is_answered = True
        self.caller.end()

    def count(self, usage: Usage) -> None:
        """Its tokens are known, and with them what they cost, and would have cost at the baseline model.

        By the provider's price of a token; where it has none, what the router expected; else unknown.
        """
        self.usage = usage
        if self.model.baseline is not None:
            self.baseline_picousd = self.model.baseline.cost_picousd(usage)
        step = self.step
        if self.outcome is Outcome.CACHED:
            self.cost_picousd = 0
        elif step is not None:
            price = self.model.prices.get((step.provider, step.model))
            self.cost_picousd = step.cost_picousd if price is None else price.cost_picousd(usage)
            self.is_estimate = usage.estimated or (price is None and step.cost_picousd is not None)

    def annotation(self, now: float) -> bytes:
        """The members that are added to its answer."""
        is_cached = self.outcome is Outcome.CACHED
        ttft = self.first_byte - self.started if self.first_byte is not None and self.fields.stream else None
        return annotation(
            cost_picousd=self.cost_picousd,
            baseline_picousd=self.baseline_picousd,
            total_seconds=now - self.started,
            ttft_seconds=ttft,
            completion_tokens=None if self.usage is None or is_cached else self.usage.completion_tokens,
            provider=self.step.provider if self.step is not None else None,
            reason=self.reason or "",
            is_cached=is_cached,
            is_estimate=self.is_estimate,
        )

    def answer_headers(self, content_type: bytes) -> bytes:
        """Header lines of its answer."""
        return b"content-type: %b\r\nx-request-id: %b\r\n%b" % (
            content_type,
            self.request_id.encode(),
            _route_headers(self.step.provider if self.step is not None else None, self.reason or ""),
        )

    def upstream_headers(self) -> bytes:
        """What goes with the request besides the provider's own headers; nothing else of the caller's does."""
        lines = b"x-request-id: %b\r\n" % self.request_id.encode()
        if self.trace is not None:
            return lines + self.trace.headers()
        parent = self.headers.get(b"traceparent")
        return lines if parent is None else lines + trace_headers(parent, self.headers.get(b"tracestate"))

    def record(self, now: float) -> RequestRecord:
        """Its row in the ledger. By position: with names it takes a microsecond longer."""
        key, facts, step = self.key_or_none, self.facts_or_none, self.step
        return RequestRecord(
            self.request_id,
            self.started_at,
            key.id if key else "",
            key.organisation if key else "",
            self.operation.name,
            facts.model if facts else "",
            self.outcome,
            self.status,
            step.provider if step else None,
            step.model if step else None,
            self.usage,
            self.cost_picousd,
            self.baseline_picousd,
            facts.stream if facts else False,
            None if self.sent is None else (self.sent - self.started) * 1000,
            None if self.first_byte is None else (self.first_byte - self.started) * 1000,
            (now - self.started) * 1000,
            self.attempts,
            self.error_code,
            self.reason,
        )

    def record_of(self, loss: Loss, now: float) -> RequestRecord:
        """A row of its own for a hedge that lost: id and a suffix, cancelled, what it cost; docs/ledger.md."""
        step, usage, cost = loss
        return replace(
            self.record(now),
            request_id=f"{self.request_id}/hedge",
            outcome=Outcome.CANCELLED,
            status=499,
            provider=step.provider,
            upstream_model=step.model,
            usage=usage,
            cost_picousd=cost,
            baseline_picousd=None,
            ttft_ms=None,
            attempts=0,
            error_code=None,
            route_reason="hedge: another place began first",
        )


@lru_cache(maxsize=4096)
def _route_headers(provider: str | None, reason: str) -> bytes:
    """Names and reasons are people's text: what a header cannot hold is replaced."""
    lines = (("x-provider", provider), ("x-route-reason", reason))
    return b"".join(
        b"%b: %b\r\n" % (name.encode(), "".join(c if " " <= c <= "~" else "?" for c in text).encode())
        for name, text in lines
        if text is not None
    )
