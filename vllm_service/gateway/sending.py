"""One sending of the request to one place: an answer that has begun, or how the place failed."""

from __future__ import annotations

import asyncio
import re
import time

from vllm_service.errors import ServiceError, UpstreamFailed
from vllm_service.gateway import outcomes
from vllm_service.gateway.answer_usage import find_usage
from vllm_service.gateway.call import Call, Sent
from vllm_service.gateway.provider_errors import callers_error, fault_error, providers_error, retry_after_of
from vllm_service.gateway.request_body import for_provider
from vllm_service.providers.configured import OnDisconnect, Provider
from vllm_service.providers.protocol import Answer, CutShort, NotReached, Patience, ProviderFault, TimedOut
from vllm_service.providers.streamed_answer import FIRST_EVENT
from vllm_service.routing.circuit_breaker import Admission
from vllm_service.routing.failures import Failure, Kind
from vllm_service.routing.plan import Step

# A provider that fails after it has said 200 says so in its first event, or in place of the answer.
_ERROR_EVENT = re.compile(rb'\s*(?:event: ?error|data: ?\{\s*"error"\s*:\s*[^n\s])')
_ERROR_BODY = re.compile(rb'\s*\{\s*"error"\s*:\s*[^n\s]')
_KINDS = {NotReached: Kind.CONNECT, TimedOut: Kind.TIMEOUT, CutShort: Kind.CUT}


class NotAnswered(Exception):
    """This place failed. `error` is what the caller is told if there is no other."""

    def __init__(self, failure: Failure, error: ServiceError) -> None:
        super().__init__()
        self.failure = failure
        self.error = error
        self.is_told = False  # whether the course knows of it


async def send(call: Call, step: Step, provider: Provider, admission: Admission, patience: Patience) -> Sent:
    """Returns when a whole answer is there, or of a stream the first event. Raises NotAnswered."""
    facts = call.facts
    body = for_provider(call.request.body, call.fields, call.operation, step.model)
    call.caller.stays = provider.on_disconnect is OnDisconnect.DRAIN
    call.attempts += 1
    call.sent = now = time.monotonic()
    sent = Sent(step, admission, now)
    call.configured.router.started(step, facts, now)
    try:
        if patience.first_byte_seconds < provider.first_byte_timeout_seconds:
            answer = await _within(patience, call, provider, body)
        else:  # the connections look after the provider's own time-outs, without a timer for each request
            answer = await call.upstream.send(provider, call.operation.path, call.upstream_headers(), body, patience)
    except ProviderFault as fault:
        failure = Failure(_KINDS.get(type(fault), Kind.CUT))
        outcomes.failed(call, sent, failure.told_status, None)
        raise NotAnswered(failure, fault_error(fault, facts.model)) from fault
    except asyncio.CancelledError:
        outcomes.left(call, sent)
        raise
    sent.answer = answer
    not_answered = _judged(sent, facts.model)
    if not_answered is not None:
        answer.close()
        failure = not_answered.failure
        outcomes.failed(call, sent, failure.told_status, failure.retry_after_seconds)
        raise not_answered
    sent.first_byte = now = time.monotonic()
    if admission.is_probe:
        call.failing_over.shared.answers(step, admission)
    call.configured.router.first_token(step, facts, now)
    if call.failing_over.hedging is not None:
        call.failing_over.hedging.began(step, now - sent.at)
    return sent


async def _within(patience: Patience, call: Call, provider: Provider, body: bytes) -> Answer:
    seconds = patience.first_byte_seconds
    try:
        async with asyncio.timeout(seconds):
            return await call.upstream.send(provider, call.operation.path, call.upstream_headers(), body, patience)
    except TimeoutError:
        raise TimedOut(f"no answer within the {seconds:g} s that were left") from None


def _judged(sent: Sent, model: str) -> NotAnswered | None:
    """None for an answer that may be passed on; its usage, if it is whole, is kept in `sent`."""
    answer, status = sent.answer, sent.answer.status
    if status != 200:
        if 200 <= status < 400:
            return _no_answer(Kind.GARBAGE, model, "failed")
        failure = Failure(Kind.STATUS, status, retry_after_seconds=retry_after_of(answer.headers))
        return NotAnswered(failure, callers_error(answer) if failure.is_final else providers_error(answer, model))
    if answer.is_stream and not FIRST_EVENT.search(answer.body):
        return _no_answer(Kind.CUT, model, "ended the stream before it began")
    if (_ERROR_EVENT if answer.is_stream else _ERROR_BODY).match(answer.body):
        return _no_answer(Kind.GARBAGE, model, "failed")
    try:
        sent.usage = None if answer.is_stream else find_usage(answer.body).usage
    except ValueError:
        return _no_answer(Kind.GARBAGE, model, "answered with what is not a JSON object")
    return None


def _no_answer(kind: Kind, model: str, what: str) -> NotAnswered:
    return NotAnswered(Failure(kind), UpstreamFailed(f"A provider of {model!r} {what}.", details={"model": model}))
