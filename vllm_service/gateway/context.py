"""The state of one request on its way through the gateway, the members added to its answer, and its ledger row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from vllm_service.catalog.model import OnDisconnect
from vllm_service.domain.answers import Form
from vllm_service.domain.cost_basis import BOOKED, EXPECTED
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.plan import Plan, Step
from vllm_service.domain.pricing import charged_picousd
from vllm_service.domain.reported_usage import ReportedUsage
from vllm_service.domain.requests import CACHED, Outcome, RequestFacts, RequestRecord
from vllm_service.domain.usage import TokenBounds, Usage, counted
from vllm_service.errors import ServiceError
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.config_snapshot import ConfigSnapshot, ServedModel
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.request_body import RequestFields
from vllm_service.http.messages import Request, ResponseWriter
from vllm_service.http.upstream import Answer, Upstream
from vllm_service.observability.tracing import RequestSpan, trace_headers
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import CutAttempt
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.storage.protocol import Reservation

_encode = msgspec.json.Encoder().encode
# The annotations are bytes templates, since they are filled in for every request. %a writes a number as repr does,
# which is valid JSON for finite numbers.
_COST = (
    b',"cost_info":{"vllm_cost_usd":%a,"openai_cost_usd":%a,"savings_usd":%a,"savings_percentage":%a,'
    b'"is_estimate":%b,"cost_basis":%b}'
)
_COST_UNKNOWN = (
    b',"cost_info":{"vllm_cost_usd":%b,"openai_cost_usd":%b,"savings_usd":%b,"savings_percentage":null,'
    b'"is_estimate":%b,"cost_basis":%b}'
)
_PERFORMANCE = (
    b',"performance_info":{"inference_time_ms":%.3f,"ttft_ms":%b,"tokens_per_second":%b,"cache_hit":%b,'
    b'"quality_score":null,%b}'
)
_DRAIN = OnDisconnect.DRAIN
_BOOLEANS = (b"false", b"true")
# What a known cost rests on, by is_estimate. No bill is there yet when a request ends.
_BASES = (b'"booked"', b'"expected"')


def cost_info(cost_picousd: int | None, baseline_picousd: int | None, is_estimate: bool) -> bytes:
    """Returns `,"cost_info":{...}`: a member to append to a JSON object that has members already.

    Costs are in pico-dollars; None is an unknown cost, which is written as null. is_estimate: the cost is the router's
    expectation of a worker's seconds, or is based on estimated tokens.
    """
    if cost_picousd is None or not baseline_picousd:
        saved = None if cost_picousd is None or baseline_picousd is None else baseline_picousd - cost_picousd
        known = _usd(cost_picousd), _usd(baseline_picousd), _usd(saved)
        basis = b"null" if cost_picousd is None else _BASES[is_estimate]
        return _COST_UNKNOWN % (*known, _BOOLEANS[is_estimate], basis)
    saved = baseline_picousd - cost_picousd
    usd = PICOUSD_PER_USD
    percentage = round(100 * saved / baseline_picousd, 3)
    dollars = cost_picousd / usd, baseline_picousd / usd, saved / usd
    return _COST % (*dollars, percentage, _BOOLEANS[is_estimate], _BASES[is_estimate])


def performance_info(
    total_seconds: float,
    ttft_seconds: float | None,
    completion_tokens: int | None,
    is_cached: bool,
    provider_members: bytes,
) -> bytes:
    """Returns `,"performance_info":{...}`, in the same form. provider_members: the result of `provider_info`."""
    per_second = completion_tokens / total_seconds if completion_tokens and total_seconds > 0 else None
    return _PERFORMANCE % (
        total_seconds * 1000,
        b"null" if ttft_seconds is None else b"%.3f" % (ttft_seconds * 1000),
        b"null" if per_second is None else b"%.3f" % per_second,
        _BOOLEANS[is_cached],
        provider_members,
    )


@lru_cache(maxsize=4096)
def provider_info(provider: str | None, reason: str, is_on_apple_silicon: bool) -> bytes:
    """Returns the members of performance_info that name the provider and the reason for its choice."""
    members = {"provider": provider, "apple_silicon_optimized": is_on_apple_silicon, "route_reason": reason}
    return _encode(members)[1:-1]


def spliced(document: bytes, *members: bytes) -> bytes:
    """Returns the document with these members appended to its object; the rest stays byte for byte.

    White space or SSE's line breaks may follow the object.
    """
    end = document.rindex(b"}")
    begin = document[:end]
    # In an empty object the first member has no comma before it. The cheap test spares most documents the rstrip.
    if begin.endswith((b"{", b" ", b"\n", b"\t", b"\r")) and begin.rstrip().endswith(b"{"):
        members = (members[0][1:], *members[1:])
    return b"".join((begin, *members, document[end:]))


def _usd(amount_picousd: int | None) -> bytes:
    return b"null" if amount_picousd is None else b"%a" % (amount_picousd / PICOUSD_PER_USD)


class RequestContext:
    """One request's state. `Gateway` fills it in phase by phase; a class attribute is the value until then.

    Times without another note are seconds of time.monotonic.
    """

    #: Set when the key has been accepted; `fields`, `model` and `facts` follow in this order.
    key: ApiKey
    #: The body's fields that the gateway reads.
    fields: RequestFields
    model: ServedModel
    #: What the router decides by.
    facts: RequestFacts
    #: What a provider's counts are judged by; set with `facts`.
    bounds: TokenBounds
    #: The request's share of its key's limits; None until the limits have let it by.
    reservation: Reservation | None = None
    #: Whether cost_info and performance_info are added to the answer.
    annotates = False
    trace: RequestSpan | None = None
    #: The reason of the route: the plan's, and what happened on the way.
    reason: str | None = None
    #: The offer that answers, as far as is known; None before the first attempt and for cached answers.
    step: Step | None = None
    #: The number of attempts that were sent.
    attempts = 0
    #: The attempts whose answers are not used, and their cost, without one that the row itself is about.
    cuts: Sequence[CutAttempt] = ()
    #: None until it is made.
    plan: Plan | None = None
    #: Whether an attempt was sent to a provider and came to nothing.
    was_sent = False
    #: When the attempt at `step` was sent.
    sent_at: float | None = None
    #: When the answer's first content came.
    first_byte_at: float | None = None
    #: The text whose tokens are counted if the provider sends no usage; kept only for models with a tokenizer.
    answer_text: AnswerText | None = None
    #: What the provider has reported, where `usage` is not only that.
    reported: ReportedUsage | None = None
    usage: Usage | None = None
    cost_picousd: int | None = None
    #: The cost of the same usage at the baseline model.
    baseline_picousd: int | None = None
    #: Whether `cost_picousd` is the router's expectation or rests on estimated tokens.
    is_estimate = False
    #: Whether a whole answer or a stream's end was written; the connection may serve its next request since then.
    is_answered = False
    outcome = Outcome.COMPLETED
    #: The row's HTTP status; 499 when the caller has left.
    status = 200
    error_code: str | None = None
    #: The error that the caller gets; it is raised to a caller within this process.
    error: ServiceError | None = None
    #: What passes the stream on; None until it has begun.
    relay: EventRelay | None = None
    #: Notes which worker has read the conversation; None where no load balancer has named one.
    learn_worker: Callable[[], None] | None = None
    #: The labels as the ledger keeps them, see gateway/labels.py.
    labels: str | None = None

    def __init__(
        self,
        operation: Operation,
        request: Request,
        writer: ResponseWriter,
        request_id: str,
        *,
        snapshot: ConfigSnapshot,
        policy: ResiliencePolicy,
        upstream: Upstream,
    ) -> None:
        self.operation = operation
        self.request = request
        self.writer = writer
        self.headers = request.headers_by_name
        self.request_id = request_id
        self.id_line = b"x-request-id: %b\r\n" % request_id.encode()
        self.snapshot = snapshot
        self.policy = policy
        self.upstream = upstream
        #: The arrival in seconds since 1970, for the row and for the quotas' days.
        self.started_at = time.time()
        #: The arrival by the monotonic clock, for durations.
        self.started = time.monotonic()

    def sent_to(self, attempt: Attempt[Answer], on_disconnect: OnDisconnect) -> None:
        """Records the attempt that is expected to answer.

        on_disconnect: with DRAIN the answer is read to its end after its caller has left; otherwise it is cancelled.
        """
        self.step = attempt.step
        self.sent_at = attempt.started_at
        self.first_byte_at = attempt.first_byte_at
        self.writer.outlives_caller = on_disconnect is _DRAIN

    @property
    def is_streamed(self) -> bool:
        """True if the caller has requested a stream. Embeddings are never streamed, whatever their request says."""
        return self.fields.stream is True and self.operation.form is not Form.EMBEDDINGS

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Writes a whole answer (see ResponseWriter), after which the connection may serve its next request."""
        self.is_answered = True
        self.writer.answer(status, headers, body)

    def end(self) -> None:
        """Ends a stream (see ResponseWriter), after which the connection may serve its next request."""
        self.is_answered = True
        self.writer.end()

    def count(self, usage: Usage) -> None:
        """Sets the usage, its cost, and its cost at the baseline model; replaces what an earlier call has set.

        The cost is by the provider's price of a token; without one, what the router expected; else unknown.
        """
        self.usage = usage
        model = self.model
        step = self.step
        if model.baseline is not None:
            self.baseline_picousd = charged_picousd(model.baseline, usage)
        if self.outcome is CACHED:
            self.cost_picousd = 0
        elif step is not None:
            offer = (step.provider, step.model)
            price = model.prices.get(offer)
            self.cost_picousd = step.cost_picousd if price is None else charged_picousd(price, usage)
            is_expected = price is None and step.cost_picousd is not None
            self.is_estimate = usage.estimated or is_expected or offer in model.estimated

    def count_cut(self) -> None:
        """Counts the attempt at `step` if it was cut before its answer began: the row of the request is about it."""
        for cut in self.cuts:
            if cut.step is self.step:
                self.cuts = [other for other in self.cuts if other is not cut]
                self.count(cut.usage)
                return

    def count_again(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Replaces what was estimated by what a tokenizer has counted; the provider's own counts stay."""
        usage = counted(self.reported, replace(self.bounds, prompt_tokens=prompt_tokens), lambda: answer_tokens)
        self.count(usage)

    def annotated(self, document: bytes, now: float) -> bytes:
        """Returns a whole answer, or the event that carries usage, with its annotations; unchanged if it gets none.

        now: seconds of time.monotonic.
        """
        if not self.annotates:
            return document
        is_cached = self.outcome is CACHED
        usage = self.usage
        provider = None if self.step is None else self.step.provider
        return spliced(
            document,
            cost_info(self.cost_picousd, self.baseline_picousd, self.is_estimate),
            performance_info(
                now - self.started,
                self.first_byte_at - self.started if self.first_byte_at is not None and self.fields.stream else None,
                None if usage is None or is_cached else usage.completion_tokens,
                is_cached,
                provider_info(provider, self.reason or "", provider in self.snapshot.on_apple_silicon),
            ),
        )

    def answer_headers(self, content_type: bytes) -> bytes:
        """Returns the header lines of the answer. content_type: one line or more, each ended by CRLF."""
        provider = None if self.step is None else self.step.provider
        return content_type + self.id_line + _route_headers(provider, self.reason or "")

    def upstream_headers(self) -> bytes:
        """Returns the header lines for the provider besides its own: the request's id and its trace.

        The caller's other headers stay here: one of them is the gateway's key.
        """
        if self.trace is not None:
            return self.id_line + self.trace.headers()
        parent = self.headers.get(b"traceparent")
        return self.id_line if parent is None else self.id_line + trace_headers(parent, self.headers.get(b"tracestate"))

    def record(self, now: float) -> RequestRecord:
        """Returns the request's row in the ledger. now: seconds of time.monotonic.

        A request that was refused early lacks a key or facts; its row has empty texts there.
        """
        key: ApiKey | None = getattr(self, "key", None)
        facts: RequestFacts | None = getattr(self, "facts", None)
        step = self.step
        first_byte_at = self.first_byte_at
        offer = None if step is None or step.cost_picousd is None else (step.provider, step.model)
        is_own = offer is not None and self.model.prices.get(offer) is None  # it waits to be booked, also if it failed
        known = None if self.cost_picousd is None else EXPECTED if self.is_estimate else BOOKED
        # In two steps: beyond 15 names CPython 3.11 makes a dictionary of a call's arguments, 0.5 us more.
        request_part = RequestRecord(
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
            request_part,
            provider=step.provider if step else None,
            upstream_model=step.model if step else None,
            usage=self.usage,
            cost_picousd=self.cost_picousd,
            cost_basis=EXPECTED if is_own else known,
            baseline_picousd=self.baseline_picousd,
            queue_ms=None if self.sent_at is None else (self.sent_at - self.started) * 1000,
            ttft_ms=None if first_byte_at is None else (first_byte_at - self.started) * 1000,
            total_ms=(now - self.started) * 1000,
            attempts=self.attempts,
            route_reason=self.reason,
            labels=self.labels,
        )


@lru_cache(maxsize=4096)
def _route_headers(provider: str | None, reason: str) -> bytes:
    """Returns the lines x-provider and x-route-reason. What a header cannot hold is replaced by `?`.

    Providers' names come from configuration files, so they may hold any character, line breaks among them.
    """
    lines = (("x-provider", provider), ("x-route-reason", reason))
    return b"".join(
        b"%b: %b\r\n" % (name.encode(), "".join(c if " " <= c <= "~" else "?" for c in text).encode())
        for name, text in lines
        if text is not None
    )
