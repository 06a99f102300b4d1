"""The way of a request through the gateway, in the order of `Gateway._answer`.

Key, body, model, facts and deadline, reservation of limits, response cache, plan, attempts, answer; then `Bookkeeping`
counts tokens, settles the reservation and records the row, whatever has happened before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.plan import Plan
from vllm_service.domain.requests import CACHED, Outcome, RequestFacts, RequestRecord
from vllm_service.domain.usage import TokenBounds, estimated_prompt_tokens
from vllm_service.errors import ServiceError, Unauthorized, key_needed
from vllm_service.gateway import routing_headers
from vllm_service.gateway.bookkeeping import Bookkeeping
from vllm_service.gateway.config_snapshot import CurrentConfig
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.in_process import Completion, EventStream, WholeAnswer, completion_of, finished, request_of
from vllm_service.gateway.keep_alive import KeepAlive
from vllm_service.gateway.labels import labels_text
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.provider_request import ProviderRequest
from vllm_service.gateway.request_body import read
from vllm_service.gateway.respond import LARGE_BYTES, cache_key, refuse, relay_events, replay, send_whole
from vllm_service.http.messages import Request, RequestIds, ResponseWriter
from vllm_service.http.upstream import Upstream
from vllm_service.logs import source_location
from vllm_service.observability.tracing import Tracer
from vllm_service.resilience.attempts import TriedRequest, first_answer
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import HEADER, Deadline
from vllm_service.resilience.retry_schedule import deadline as deadline_of
from vllm_service.storage.protocol import CachedResponse, Quotas, ResponseCache

_log = logging.getLogger(__name__)
DEADLINE = HEADER.encode()
NO_TEXTS: Mapping[str, str] = MappingProxyType({})


class Gateway:
    """Answers requests. A reload replaces `config.snapshot`; requests under way keep theirs.

    A request from outside has its key already: http/head_check.py has found it. recorders: called with each row; the
    ledger's `record` comes first. record_loss: called with the rows of cut and beaten attempts; metrics must not count
    these as requests, so None is the first recorder alone. wall_clock: seconds since 1970, for rows and quotas' days;
    it may jump. None: time.time. keep_alive: watches streams over sockets; None: they are as silent as providers.
    in_flight: gets when each request began, in seconds since 1970, until its rows are recorded.
    """

    def __init__(
        self,
        *,
        config: CurrentConfig,
        upstream: Upstream,
        quotas: Quotas,
        recorders: Sequence[Callable[[RequestRecord], None]],
        responses: ResponseCache | None = None,
        policy: ResiliencePolicy | None = None,
        tracer: Tracer | None = None,
        record_loss: Callable[[RequestRecord], None] | None = None,
        wall_clock: Callable[[], float] | None = None,
        max_body_bytes: int = 20_000_000,
        keep_alive: KeepAlive | None = None,
        in_flight: dict[int, float] | None = None,
    ) -> None:
        self.config = config
        self._in_flight = {} if in_flight is None else in_flight
        self._upstream = upstream
        self._responses = responses
        self._policy = policy or ResiliencePolicy.of()
        self._books = Bookkeeping(quotas, recorders, record_loss, self._policy.hedging)
        self._ids = RequestIds()
        self._tracer = tracer
        self._wall_clock = wall_clock
        self._max_body_bytes = max_body_bytes
        self._keep_alive = keep_alive
        # Requests from within this process. The event loop holds tasks weakly, so they would be collected without this.
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, operation: Operation, request: Request, writer: ResponseWriter) -> Coroutine[Any, Any, None]:
        """Answers a request that came over a socket, and records it; every error becomes an answer."""
        return self._serve(self._context(operation, request, writer))

    async def complete(
        self,
        key: ApiKey,
        operation: Operation,
        body: Mapping[str, Any],
        labels: Mapping[str, str] = NO_TEXTS,
        headers: Mapping[str, str] = NO_TEXTS,
    ) -> Completion:
        """Returns the whole answer to a request from within this process, which goes the way of one from outside.

        key: its limits count the request. labels: kept in the ledger. headers: routing headers, a deadline,
        x-request-id. Cancelling this call cancels the request. Raises ServiceError.
        """
        writer = WholeAnswer()
        context = self._context(
            operation,
            request_of(body, headers, stream=False, most_bytes=self._max_body_bytes),
            writer,
            labels_text(labels),
        )
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
        """Returns the events of a streamed answer; as `complete` otherwise. Invalid labels raise at once."""
        request = request_of(body, headers, stream=True, most_bytes=self._max_body_bytes)
        label_text = labels_text(labels)
        return EventStream(
            lambda writer: self._context(operation, request, writer, label_text),
            lambda context: self._in_background(context, key),
        )

    def _in_background(self, context: RequestContext, key: ApiKey) -> asyncio.Task[None]:
        if not isinstance(key, ApiKey):
            raise Unauthorized("key: an ApiKey is needed.")
        task = asyncio.create_task(self._serve(context, key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _context(
        self, operation: Operation, request: Request, writer: ResponseWriter, labels: str | None = None
    ) -> RequestContext:
        headers = request.headers_by_name
        context = RequestContext(
            operation,
            request,
            writer,
            self._ids.of(headers.get(b"x-request-id")),
            snapshot=self.config.snapshot,  # taken once, so that a reload in between changes nothing for this request
            policy=self._policy,
            upstream=self._upstream,
        )
        if self._wall_clock is not None:
            context.started_at = self._wall_clock()
        if self._tracer is not None:
            context.trace = self._tracer.begin(operation.name, headers.get(b"traceparent"), headers.get(b"tracestate"))
        if labels is not None:
            context.labels = labels
        return context

    async def _serve(self, context: RequestContext, key: ApiKey | None = None) -> None:
        """Answers a request and accounts for it. key: of a request from within; None: it is in the headers."""
        self._in_flight[id(context)] = context.started_at
        try:
            await self._answer(context, key)
        except ServiceError as error:
            refuse(context, error)
        except asyncio.CancelledError:
            # After an answer the connection belongs to the next request, which an abort would break.
            if not context.is_answered:
                context.outcome = Outcome.CANCELLED
                context.status = 499
                context.error_code = None
                context.writer.abort()
        except Exception as error:
            _log.error("request %s failed within the gateway: %s", context.request_id, source_location(error))
            refuse(context, ServiceError("The gateway failed on this request; its log has more under its id."))
        if context.learn_worker is not None:
            context.learn_worker()  # once more: the conversation is silent from now on
        try:
            await self._books.close(context)
        finally:
            del self._in_flight[id(context)]

    async def _answer(self, context: RequestContext, key: ApiKey | None) -> None:
        """Takes a request from its key to its answer. Raises ServiceError for what the caller gets instead."""
        headers = context.headers
        keep_alive = self._keep_alive if key is None else None
        if key is None:
            caller = context.request.caller
            key = None if caller is None else caller.key
        if key is None:
            raise key_needed()
        context.key = key
        context.annotates = key.annotate and headers.get(b"x-annotate") != b"off"
        try:
            deadline = self._read(context)
        except ServiceError:
            await self._books.count_refused(context)
            raise
        context.reservation = await self._books.reserve(context)
        cached_under = None if self._responses is None else await self._replay(context, self._responses)
        if context.outcome is CACHED:
            return
        plan = context.snapshot.router.plan(context.facts, context.started)
        context.plan = plan
        context.reason = plan.reason
        request = _tried_request(context, plan, deadline)
        watching = keep_alive if keep_alive is not None and context.is_streamed else None
        if watching is not None:
            watching.watch(context)
        try:
            response = await _tried(context, plan, request, keeps=cached_under is not None)
        finally:
            if watching is not None:
                watching.forget(context)
        if cached_under is not None and response is not None and self._responses is not None:
            await self._responses.put(key.organisation, cached_under, response)

    def _read(self, context: RequestContext) -> Deadline:
        """Reads the request into the context, and returns its deadline. Raises ServiceError for what is not valid."""
        context.fields = fields = read(context.request.body)
        model = context.snapshot.models.get(fields.model)
        if model is None:
            raise context.snapshot.not_found(fields.model)
        context.model = model
        context.bounds = _bounds(context)
        context.facts = _facts(context)
        timeout_bytes = context.headers.get(DEADLINE)
        timeout_text = None if timeout_bytes is None else timeout_bytes.decode("latin-1")
        return deadline_of(timeout_text, self._policy.deadlines, context.started)

    async def _replay(self, context: RequestContext, responses: ResponseCache) -> bytes | None:
        """Answers from the cache if the answer is there. Returns the key to keep an answer under; None: do not keep it.

        After an answer from the cache `context.outcome` is CACHED.
        """
        if len(context.request.body) > LARGE_BYTES:
            key = await asyncio.get_running_loop().run_in_executor(None, cache_key, context)
        else:
            key = cache_key(context)
        cached = None if key is None else await responses.get(context.key.organisation, key)
        if cached is not None:
            await replay(context, cached)
        return key


def _tried_request(context: RequestContext, plan: Plan, deadline: Deadline) -> TriedRequest:
    """Returns what the attempts need. A request with a cost cap is not hedged: two answers may exceed the cap."""
    snapshot = context.snapshot
    facts = context.facts
    hedging = context.policy.hedging
    return TriedRequest(
        context.policy,
        snapshot.router,
        snapshot.catalog.providers,
        context.model.prices,
        facts,
        deadline,
        plan.reason,
        hedging is not None and facts.cap_picousd is None and hedging.is_on_for(context.headers),
        context.trace,
    )


async def _tried(context: RequestContext, plan: Plan, request: TriedRequest, *, keeps: bool) -> CachedResponse | None:
    """Answers by the first attempt that has an answer. keeps: returns it for the response cache."""
    try:
        attempt = await first_answer(plan, ProviderRequest(context), request)
    finally:  # the row has them for failures, too
        context.reason = request.reason
        context.cuts = request.cuts
        context.was_sent = request.was_sent
    context.first_byte_at = attempt.first_byte_at
    if context.step is not attempt.step:  # a hedge was quicker: the row is about that one
        context.sent_to(attempt, context.snapshot.catalog.providers[attempt.step.provider].on_disconnect)
    try:
        if attempt.answer.is_stream:
            return await relay_events(context, attempt, keeps=keeps)
        return send_whole(context, attempt, keeps=keeps)
    finally:
        attempt.abandoned()  # does nothing where the attempt has ended already


def _facts(context: RequestContext) -> RequestFacts:
    """Returns what the router decides by. Raises errors.InvalidRequest for a routing header that is not valid."""
    fields = context.fields
    key = context.key
    has_none = context.headers.keys().isdisjoint(routing_headers.NAMES)  # most requests, and cheaper than reading
    routing = routing_headers.NONE if has_none else routing_headers.read(context.headers)
    bounds = context.bounds
    return RequestFacts(
        context.model.name,
        context.operation.name,
        bounds.prompt_tokens,
        bounds.longest_answer,
        fields.stream is True,
        key.id,
        key.organisation,
        fields.prefix,
        routing.latency_target_seconds,
        routing.cap_picousd,
        routing.strategy or key.strategy,
        routing.provider,
        routing.tags,
        bounds.choices,
        context.model.refuses_unpriced and key.limits.picousd_per_month is not None,
    )


def _bounds(context: RequestContext) -> TokenBounds:
    """Returns the most that the request can use, by its body and its model."""
    fields = context.fields
    operation = context.operation
    body = context.request.body
    choices = fields.written_answers(operation)
    answer = fields.longest_answer_tokens(operation, choices) if operation.has_completion else 0
    inputs = fields.prompt or fields.input
    prompt = estimated_prompt_tokens(body, memoryview(inputs)) if inputs else estimated_prompt_tokens(body)
    return TokenBounds(body, prompt, answer, choices, context.model.model.context_length)
