"""The way of a request: its key, its limits, its plan, the answer on its way back, and the row that it leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.plan import Plan
from vllm_service.domain.requests import Outcome, RequestFacts, RequestRecord
from vllm_service.domain.usage import ASSUMED_COMPLETION_TOKENS, Usage, estimated_prompt_tokens
from vllm_service.errors import ServiceError, Unauthorized
from vllm_service.gateway import routing_headers as wishes
from vllm_service.gateway.config_snapshot import CurrentConfig
from vllm_service.gateway.context import RequestContext, RequestIds
from vllm_service.gateway.in_process import Completion, EventStream, WholeAnswer, completion_of, finished, request_of
from vllm_service.gateway.labels import labels_text
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.provider_request import ProviderRequest
from vllm_service.gateway.request_body import read
from vllm_service.gateway.respond import cache_key, relay_events, replay, send_whole
from vllm_service.gateway.token_counting import TokenCounting
from vllm_service.http.error_answers import error_body, error_headers
from vllm_service.http.messages import Request, ResponseWriter
from vllm_service.http.request_reader import ClientAddresses
from vllm_service.http.upstream import Upstream
from vllm_service.logs import source_location
from vllm_service.observability.tracing import Tracer
from vllm_service.resilience.attempts import TriedRequest, first_answer
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import HEADER, Deadline
from vllm_service.resilience.retry_schedule import deadline as deadline_of
from vllm_service.storage.protocol import Keys, Quotas, Reservation, ResponseCache

_log = logging.getLogger(__name__)
DEADLINE = HEADER.encode()
NO_TEXTS: Mapping[str, str] = MappingProxyType({})


class Gateway:
    """Everything that a request passes. A reload replaces `config.snapshot`; requests under way keep theirs.

    keys: None lets everybody in as `anonymous`. recorders: called with each row; the ledger's `record` is one of them.
    record_loss: called with the rows of hedges that lost, which are no requests of their own: the ledger's.
    wall_clock: seconds since 1970, for rows and quotas' days; it may jump. None is this machine's.
    """

    def __init__(
        self,
        *,
        config: CurrentConfig,
        upstream: Upstream,
        quotas: Quotas,
        recorders: Sequence[Callable[[RequestRecord], None]],
        keys: Keys | None = None,
        anonymous: ApiKey | None = None,
        addresses: ClientAddresses | None = None,
        responses: ResponseCache | None = None,
        policy: ResiliencePolicy | None = None,
        tracer: Tracer | None = None,
        record_loss: Callable[[RequestRecord], None] | None = None,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        self.config = config
        self._upstream = upstream
        self._quotas = quotas
        self._recorders = tuple(recorders)
        self._keys = keys
        self._anonymous = anonymous
        self._addresses = addresses or ClientAddresses()
        self._responses = responses
        self._policy = policy or ResiliencePolicy.of()
        self._record_loss = record_loss or self._recorders[0]
        self._ids = RequestIds()
        self._counting = TokenCounting()
        self._tracer = tracer
        self._wall_clock = wall_clock
        self._tasks: set[asyncio.Task[None]] = set()  # of requests from within, which nothing else may hold

    def serve(self, operation: Operation, request: Request, caller: ResponseWriter) -> Coroutine[Any, Any, None]:
        """Answers the request, whatever happens, and records it."""
        return self._serve(self._context(operation, request, caller))

    async def complete(
        self,
        key: ApiKey,
        operation: Operation,
        body: Mapping[str, Any],
        labels: Mapping[str, str] = NO_TEXTS,
        headers: Mapping[str, str] = NO_TEXTS,
    ) -> Completion:
        """Returns the whole answer to a request from within this process, which goes the way of one from outside.

        key: whose limits count it. labels: kept in the ledger. headers: routing headers, a deadline, x-request-id.
        Cancelling it cancels the request. Raises ServiceError.
        """
        writer = WholeAnswer()
        context = self._context(operation, request_of(body, headers, stream=False), writer, labels_text(labels))
        await finished(self._in_background(context, key), writer)
        return completion_of(context, writer.body)

    def stream(
        self,
        key: ApiKey,
        operation: Operation,
        body: Mapping[str, Any],
        labels: Mapping[str, str] = NO_TEXTS,
        headers: Mapping[str, str] = NO_TEXTS,
    ) -> EventStream:
        """Returns the events of a streamed answer; as `complete` otherwise. Wrong labels raise at once."""
        request, kept = request_of(body, headers, stream=True), labels_text(labels)
        return EventStream(
            lambda writer: self._context(operation, request, writer, kept),
            lambda context: self._in_background(context, key),
        )

    def _in_background(self, context: RequestContext, key: ApiKey) -> asyncio.Task[None]:
        task = asyncio.create_task(self._serve(context, key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _context(
        self, operation: Operation, request: Request, caller: ResponseWriter, labels: str | None = None
    ) -> RequestContext:
        headers = request.named
        call = RequestContext(
            operation,
            request,
            caller,
            self._ids.of(headers.get(b"x-request-id")),
            configured=self.config.snapshot,
            policy=self._policy,
            upstream=self._upstream,
        )
        if self._wall_clock is not None:
            call.started_at = self._wall_clock()
        if self._tracer is not None:
            call.trace = self._tracer.begin(operation.name, headers.get(b"traceparent"), headers.get(b"tracestate"))
        if labels is not None:
            call.labels = labels
        return call

    async def _serve(self, call: RequestContext, key: ApiKey | None = None) -> None:
        """key: of a request from within; from outside it is in the headers."""
        try:
            await self._answer(call, key)
        except ServiceError as error:
            _refuse(call, error)
        except asyncio.CancelledError:
            if not call.is_answered:  # else the connection is the next request's
                call.outcome, call.status, call.error_code = Outcome.CANCELLED, 499, None
                call.caller.abort()
        except Exception as error:
            _log.error("request %s failed within the gateway: %s", call.request_id, source_location(error))
            _refuse(call, ServiceError("The gateway failed on this request; its log has more under its id."))
        await self._account(call)

    async def _answer(self, call: RequestContext, key: ApiKey | None) -> None:
        headers = call.headers
        if key is None:
            key = self._anonymous if self._keys is None else await self._keys.find(_secret(headers))
        if key is None:
            raise Unauthorized("This key is not known, or has been revoked.")
        call.key = key
        call.annotates = key.annotate and headers.get(b"x-annotate") != b"off"
        call.fields = fields = read(call.request.body)
        model = call.configured.models.get(fields.model)
        if model is None:
            raise call.configured.not_found(fields.model)
        call.model = model
        call.facts = _facts(call)
        asked = headers.get(DEADLINE)
        wished = None if asked is None else asked.decode("latin-1")
        deadline = deadline_of(wished, self._policy.deadlines, call.started)
        call.reservation = await self._reserve(call)
        cached_under = None if self._responses is None else await self._replay(call, self._responses)
        if call.outcome is Outcome.CACHED:
            return
        plan = call.configured.router.plan(call.facts, call.started)
        call.reason = plan.reason
        request = _to_be_tried(call, plan, deadline)
        try:
            attempt = await first_answer(plan, ProviderRequest(call), request)
        finally:
            call.reason, call.losers = request.reason, request.losers
        call.first_byte = attempt.first_byte_at
        if call.step is not attempt.step:  # a hedge was quicker: the row is about that
            call.went_to(attempt, call.configured.catalog.providers[attempt.step.provider].on_disconnect)
        try:
            if attempt.answer.is_stream:
                response = await relay_events(call, attempt, keeps=cached_under is not None)
            else:
                response = send_whole(call, attempt, keeps=cached_under is not None)
        finally:
            attempt.abandoned()  # unless it has ended by itself
        if cached_under is not None and response is not None and self._responses is not None:
            await self._responses.put(key.organisation, cached_under, response)

    async def _replay(self, call: RequestContext, responses: ResponseCache) -> bytes | None:
        """Answers from the cache if it can; else returns the key under which the answer is to be kept, if any."""
        key = cache_key(call)
        cached = None if key is None else await responses.get(call.key.organisation, key)
        if cached is not None:
            replay(call, cached)
        return key

    def _reserve(self, call: RequestContext) -> Awaitable[Reservation]:
        """Raises errors.RateLimited when it is awaited."""
        facts, model, request = call.facts, call.model, call.request
        completion = facts.max_tokens or ASSUMED_COMPLETION_TOKENS if call.operation.has_completion else 0
        tokens = facts.prompt_tokens + completion
        cost = facts.prompt_tokens * model.dearest_input + completion * model.dearest_output
        address = self._addresses.of(request.peer, request.headers)
        return self._quotas.reserve(call.key, address, tokens, cost, call.started_at)

    async def _account(self, call: RequestContext) -> None:
        """Settles what was reserved and leaves the row. The caller has the answer: an error here is only logged."""
        if call.usage is None and call.sent is not None and call.outcome is Outcome.CANCELLED:
            call.count(Usage(call.facts.prompt_tokens, 0, estimated=True))  # who left early got nothing
        if call.said is not None and call.usage is not None and call.usage.estimated and call.model.tokenizer:
            await self._counting.count(call, call.model.tokenizer, call.said)
        try:
            if call.reservation is not None:
                await self._settled(call, call.reservation)
        except Exception as error:
            _log.error("a reservation was not settled, its lease will expire: %s", source_location(error))
        row = call.record(time.monotonic())
        recorders = self._recorders if call.trace is None else (*self._recorders, call.trace.end)
        for record in recorders:  # the ledger is the first
            _record(record, row)
        for loser in call.losers:
            _record(self._record_loss, call.record_of(loser, time.monotonic()))

    def _settled(self, call: RequestContext, reservation: Reservation) -> Awaitable[None]:
        """Also what a hedge lost was spent. What answers cost is what hedges may be paid from."""
        if call.outcome is Outcome.CACHED:
            return reservation.settle(0, 0)
        if call.usage is None:
            return reservation.release()
        hedging, spent = self._policy.hedging, call.cost_picousd or 0
        if hedging is not None:
            hedging.budget.earn(spent)
        if call.losers:
            spent += sum(loser.cost_picousd or 0 for loser in call.losers)
        return reservation.settle(call.usage.total_tokens, spent)


def _to_be_tried(call: RequestContext, plan: Plan, deadline: Deadline) -> TriedRequest:
    """Two answers may cost more than a cap allows: such a request is not hedged."""
    configured, policy, facts = call.configured, call.policy, call.facts
    hedging = policy.hedging
    return TriedRequest(
        policy,
        configured.router,
        configured.catalog.providers,
        call.model.prices,
        facts,
        deadline,
        plan.reason,
        hedging is not None and facts.cap_picousd is None and hedging.wanted_by(call.headers),
        call.trace,
    )


def _record(record: Callable[[RequestRecord], None], row: RequestRecord) -> None:
    """A fault of one recorder is not the others'."""
    try:
        record(row)
    except Exception as error:
        _log.error("request %s was not recorded everywhere: %s", row.request_id, source_location(error))


def _secret(headers: Mapping[bytes, bytes]) -> str:
    """The caller's key. Raises errors.Unauthorized."""
    sent = headers.get(b"authorization", b"")
    if sent[:7].lower() != b"bearer ":
        raise Unauthorized("A key is needed: send it as `Authorization: Bearer KEY`.")
    return sent[7:].strip().decode("latin-1")


def _facts(call: RequestContext) -> RequestFacts:
    """Raises errors.InvalidRequest for a header that is no wish."""
    fields, headers, key = call.fields, call.headers, call.key
    wished = wishes.NONE if headers.keys().isdisjoint(wishes.NAMES) else wishes.wishes(headers)
    return RequestFacts(
        call.model.name,
        call.operation.name,
        estimated_prompt_tokens(call.request.body),
        fields.longest_answer_tokens,
        fields.stream is True,
        key.id,
        key.organisation,
        fields.prefix,
        wished.latency_target_seconds,
        wished.cap_picousd,
        wished.strategy or key.strategy,
        wished.provider,
        wished.tags,
    )


def _refuse(call: RequestContext, error: ServiceError) -> None:
    """The one place where an error becomes an answer; one that has its answer already has no other."""
    if call.is_answered:
        return
    call.outcome = Outcome.REJECTED if call.reservation is None else Outcome.FAILED
    call.status, call.error_code, call.error = error.status, error.code, error
    if call.caller.has_begun:
        call.caller.abort()  # what has been sent of a stream cannot be taken back, and has no end
        return
    call.answer(error.status, error_headers(error) + call.id_line, error_body(error, call.request_id))
