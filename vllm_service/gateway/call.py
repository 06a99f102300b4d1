"""One request on its way: what is known of it so far, and the row that it leaves behind."""

from __future__ import annotations

import time
from functools import lru_cache

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.requests import Outcome, RequestFacts, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.gateway.annotations import annotation
from vllm_service.gateway.incoming import Caller, Incoming
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.request_body import RequestFields
from vllm_service.gateway.served_models import Configured, ServedModel
from vllm_service.routing.plan import Step
from vllm_service.storage.protocol import Reservation


class Call:
    """Filled in phase by phase. Times are of time.monotonic, `started_at` apart."""

    key: ApiKey
    fields: RequestFields
    facts: RequestFacts
    model: ServedModel
    configured: Configured

    __slots__ = (
        "annotates", "attempts", "caller", "configured", "error_code", "facts", "fields", "first_byte", "headers",
        "key",
        "model", "operation", "outcome", "reason", "request", "request_id", "reservation", "sent", "started",
        "started_at", "status", "step", "usage",
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
        self.reason: str | None = None
        self.step: Step | None = None
        self.attempts = 0
        self.sent: float | None = None
        self.first_byte: float | None = None
        self.usage: Usage | None = None
        self.outcome = Outcome.COMPLETED
        self.status = 200
        self.error_code: str | None = None

    @property
    def cost_picousd(self) -> int | None:
        """By the provider's price of a token; where it has none, what the router expected; else unknown."""
        if self.outcome is Outcome.CACHED:
            return 0
        step = self.step
        if step is None or self.usage is None:
            return None
        price = self.model.prices.get((step.provider, step.model))
        return step.cost_picousd if price is None else price.cost_picousd(self.usage)

    @property
    def baseline_picousd(self) -> int | None:
        """What the configured baseline model would have cost; None where its price, or the usage, is unknown."""
        if self.usage is None or self.model.baseline is None:
            return None
        return self.model.baseline.cost_picousd(self.usage)

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
        )

    def answer_headers(self, content_type: bytes) -> bytes:
        """Header lines of its answer."""
        return b"content-type: %b\r\nx-request-id: %b\r\n%b" % (
            content_type,
            self.request_id.encode(),
            _route_headers(self.step.provider if self.step is not None else None, self.reason or ""),
        )

    def record(self, now: float) -> RequestRecord:
        """Its row in the ledger."""
        key = getattr(self, "key", None)
        facts = getattr(self, "facts", None)
        first_byte = self.first_byte
        step = self.step
        has_model = facts is not None
        return RequestRecord(
            request_id=self.request_id,
            started_at=self.started_at,
            key_id=key.id if key else "",
            organisation=key.organisation if key else "",
            operation=self.operation.name,
            model=facts.model if facts else "",
            outcome=self.outcome,
            status=self.status,
            provider=step.provider if step else None,
            upstream_model=step.model if step else None,
            usage=self.usage,
            cost_picousd=self.cost_picousd if has_model else None,
            baseline_picousd=self.baseline_picousd if has_model else None,
            stream=facts.stream if facts else False,
            queue_ms=None if self.sent is None else (self.sent - self.started) * 1000,
            ttft_ms=None if first_byte is None else (first_byte - self.started) * 1000,
            total_ms=(now - self.started) * 1000,
            attempts=self.attempts,
            error_code=self.error_code,
            route_reason=self.reason,
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
