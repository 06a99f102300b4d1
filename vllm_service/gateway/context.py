"""One request on its way: what is known of it so far, what its answer is annotated with, and its row in the ledger."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import count

import msgspec
from msgspec.structs import replace

from vllm_service.catalog.model import OnDisconnect
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.plan import Step
from vllm_service.domain.requests import Outcome, RequestFacts, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.errors import ServiceError
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.config_snapshot import ConfigSnapshot, ServedModel
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.request_body import RequestFields
from vllm_service.http.messages import Request, ResponseWriter
from vllm_service.http.upstream import Answer, Upstream
from vllm_service.observability.tracing import RequestSpan, trace_headers
from vllm_service.resilience.attempts import Attempt, HedgeLoser
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.storage.protocol import Reservation

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")


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


_encode = msgspec.json.Encoder().encode
# %a writes a number as Python would, which is as JSON would.
_COST = (
    b',"cost_info":{"vllm_cost_usd":%a,"openai_cost_usd":%a,"savings_usd":%a,"savings_percentage":%a,"is_estimate":%b}'
)
_COST_UNKNOWN = (
    b',"cost_info":{"vllm_cost_usd":%b,"openai_cost_usd":%b,"savings_usd":%b,"savings_percentage":null,'
    b'"is_estimate":%b}'
)
_PERFORMANCE = (
    b',"performance_info":{"inference_time_ms":%.3f,"ttft_ms":%b,"tokens_per_second":%b,"cache_hit":%b,'
    b'"quality_score":null,%b}'
)
_BOOLEANS = (b"false", b"true")


def cost_info(cost_picousd: int | None, baseline_picousd: int | None, is_estimate: bool) -> bytes:
    """`,"cost_info":{...}`: a member to be added to an object that has some.

    is_estimate: the cost is the router's expectation of a worker's seconds, or of tokens that nobody counted.
    """
    if cost_picousd is None or not baseline_picousd:
        saved = None if cost_picousd is None or baseline_picousd is None else baseline_picousd - cost_picousd
        known = _usd(cost_picousd), _usd(baseline_picousd), _usd(saved)
        return _COST_UNKNOWN % (*known, _BOOLEANS[is_estimate])
    saved = baseline_picousd - cost_picousd
    usd = PICOUSD_PER_USD
    percentage = round(100 * saved / baseline_picousd, 3)
    return _COST % (cost_picousd / usd, baseline_picousd / usd, saved / usd, percentage, _BOOLEANS[is_estimate])


def performance_info(
    total_seconds: float,
    ttft_seconds: float | None,
    completion_tokens: int | None,
    is_cached: bool,
    place: bytes,
) -> bytes:
    """`,"performance_info":{...}`, likewise. place: of `provider_info`."""
    per_second = completion_tokens / total_seconds if completion_tokens and total_seconds > 0 else None
    return _PERFORMANCE % (
        total_seconds * 1000,
        b"null" if ttft_seconds is None else b"%.3f" % (ttft_seconds * 1000),
        b"null" if per_second is None else b"%.3f" % per_second,
        _BOOLEANS[is_cached],
        place,
    )


@lru_cache(maxsize=4096)
def provider_info(provider: str | None, reason: str, is_on_apple_silicon: bool) -> bytes:
    """The members of performance_info that say who answered, and why."""
    members = {"provider": provider, "apple_silicon_optimized": is_on_apple_silicon, "route_reason": reason}
    return _encode(members)[1:-1]


def spliced(document: bytes, *members: bytes) -> bytes:
    """The document with these members at its end; white space, or SSE's line breaks, may follow the object."""
    end = document.rindex(b"}")
    begin = document[:end]
    if begin.endswith((b"{", b" ", b"\n", b"\t", b"\r")) and begin.rstrip().endswith(b"{"):
        members = (members[0][1:], *members[1:])
    return b"".join((begin, *members, document[end:]))


def _usd(amount_picousd: int | None) -> bytes:
    return b"null" if amount_picousd is None else b"%a" % (amount_picousd / PICOUSD_PER_USD)


class RequestContext:
    """Filled in phase by phase; what stands here is what holds until then. Times are of time.monotonic."""

    key: ApiKey
    fields: RequestFields
    model: ServedModel
    facts: RequestFacts
    reservation: Reservation | None = None
    annotates = False
    trace: RequestSpan | None = None
    reason: str | None = None
    step: Step | None = None
    attempts = 0
    losers: Sequence[HedgeLoser] = ()
    sent: float | None = None
    first_byte: float | None = None
    said: AnswerText | None = None
    usage: Usage | None = None
    cost_picousd: int | None = None
    baseline_picousd: int | None = None
    is_estimate = False
    is_answered = False
    outcome = Outcome.COMPLETED
    status = 200
    error_code: str | None = None
    error: ServiceError | None = None
    #: As the ledger keeps them, see gateway/labels.py.
    labels: str | None = None

    def __init__(
        self,
        operation: Operation,
        request: Request,
        caller: ResponseWriter,
        request_id: str,
        *,
        configured: ConfigSnapshot,
        policy: ResiliencePolicy,
        upstream: Upstream,
    ) -> None:
        self.operation = operation
        self.request = request
        self.caller = caller
        self.headers = request.named
        self.request_id = request_id
        self.id_line = b"x-request-id: %b\r\n" % request_id.encode()
        self.configured = configured
        self.policy = policy
        self.upstream = upstream
        self.started_at = time.time()  # since 1970
        self.started = time.monotonic()

    def went_to(self, attempt: Attempt[Answer], on_disconnect: OnDisconnect) -> None:
        """The attempt that answers, as far as is known now. A caller who leaves ends it, or it is read to its end."""
        self.step, self.sent, self.first_byte = attempt.step, attempt.started_at, attempt.first_byte_at
        self.caller.stays = on_disconnect is OnDisconnect.DRAIN

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
        model, step = self.model, self.step
        if model.baseline is not None:
            self.baseline_picousd = model.baseline.cost_picousd(usage)
        if self.outcome is Outcome.CACHED:
            self.cost_picousd = 0
        elif step is not None:
            price = model.prices.get((step.provider, step.model))
            self.cost_picousd = step.cost_picousd if price is None else price.cost_picousd(usage)
            self.is_estimate = usage.estimated or (price is None and step.cost_picousd is not None)

    def annotated(self, document: bytes, now: float) -> bytes:
        """A whole answer, or the event that carries usage, with what is added to it; as it was where nothing is."""
        if not self.annotates:
            return document
        is_cached, usage = self.outcome is Outcome.CACHED, self.usage
        provider = None if self.step is None else self.step.provider
        return spliced(
            document,
            cost_info(self.cost_picousd, self.baseline_picousd, self.is_estimate),
            performance_info(
                now - self.started,
                self.first_byte - self.started if self.first_byte is not None and self.fields.stream else None,
                None if usage is None or is_cached else usage.completion_tokens,
                is_cached,
                provider_info(provider, self.reason or "", provider in self.configured.on_apple_silicon),
            ),
        )

    def answer_headers(self, content_type: bytes) -> bytes:
        """Header lines of its answer. content_type: a line, or more, each ended by CRLF."""
        provider = None if self.step is None else self.step.provider
        return content_type + self.id_line + _route_headers(provider, self.reason or "")

    def upstream_headers(self) -> bytes:
        """What goes with the request besides the provider's own headers; nothing else of the caller's does."""
        if self.trace is not None:
            return self.id_line + self.trace.headers()
        parent = self.headers.get(b"traceparent")
        return self.id_line if parent is None else self.id_line + trace_headers(parent, self.headers.get(b"tracestate"))

    def record(self, now: float) -> RequestRecord:
        """Returns its row in the ledger. now: of time.monotonic."""
        key: ApiKey | None = getattr(self, "key", None)
        facts: RequestFacts | None = getattr(self, "facts", None)
        step, started, sent, first = self.step, self.started, self.sent, self.first_byte
        # In two steps: beyond 15 names CPython 3.11 makes a dictionary of a call's arguments, 0.5 us more.
        asked = RequestRecord(
            request_id=self.request_id,
            started_at=self.started_at,
            key_id=key.id if key else "",
            organisation=key.organisation if key else "",
            operation=self.operation.name,
            model=facts.model if facts else "",
            stream=facts.stream if facts else False,
            outcome=self.outcome,
            status=self.status,
            error_code=self.error_code,
        )
        return replace(
            asked,
            provider=step.provider if step else None,
            upstream_model=step.model if step else None,
            usage=self.usage,
            cost_picousd=self.cost_picousd,
            baseline_picousd=self.baseline_picousd,
            queue_ms=None if sent is None else (sent - started) * 1000,
            ttft_ms=None if first is None else (first - started) * 1000,
            total_ms=(now - started) * 1000,
            attempts=self.attempts,
            route_reason=self.reason,
            labels=self.labels,
        )

    def record_of(self, loser: HedgeLoser, now: float) -> RequestRecord:
        """A row of its own for a hedge that lost: id and a suffix, cancelled, what it cost; docs/ledger.md."""
        step, usage, cost = loser
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
