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
from vllm_service.gateway.said import Said
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
        "annotates",
        "attempts",
        "baseline_picousd",
        "caller",
        "configured",
        "cost_picousd",
        "error_code",
        "facts",
        "facts_or_none",
        "fields",
        "first_byte",
        "headers",
        "key",
        "key_or_none",
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
        self.reason: str | None = None
        self.step: Step | None = None
        self.attempts = 0
        self.sent: float | None = None
        self.first_byte: float | None = None
        self.usage: Usage | None = None
        self.cost_picousd: int | None = None
        self.baseline_picousd: int | None = None
        self.key_or_none: ApiKey | None = None
        self.facts_or_none: RequestFacts | None = None
        self.outcome = Outcome.COMPLETED
        self.status = 200
        self.error_code: str | None = None

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


@lru_cache(maxsize=4096)
def _route_headers(provider: str | None, reason: str) -> bytes:
    """Names and reasons are people's text: what a header cannot hold is replaced."""
    lines = (("x-provider", provider), ("x-route-reason", reason))
    return b"".join(
        b"%b: %b\r\n" % (name.encode(), "".join(c if " " <= c <= "~" else "?" for c in text).encode())
        for name, text in lines
        if text is not None
    )
