"""One attempt of a request's course: let by the breaker, within what is left of the request's time, sent and judged."""

from __future__ import annotations

import asyncio
import time

from vllm_service.errors import ServiceError
from vllm_service.gateway import outcomes
from vllm_service.gateway.call import Call, Sent
from vllm_service.gateway.judging import judge, not_reached
from vllm_service.gateway.request_body import for_provider
from vllm_service.providers.configured import OnDisconnect, Provider
from vllm_service.providers.protocol import Answer, Patience, ProviderFault, TimedOut
from vllm_service.routing.deadlines import Deadline
from vllm_service.routing.fallback import Attempt, Course


async def attempted(call: Call, attempt: Attempt, course: Course, deadline: Deadline) -> Sent | None:
    """Returns when a whole answer is there, or of a stream the first event.

    None: the place is left alone for now, nothing was sent. Raises judging.NotAnswered, or errors.GatewayTimeout.
    """
    step, shared = attempt.step, call.failing_over.shared
    provider = call.configured.catalog.providers.get(step.provider)
    if attempt.wait_seconds > 0:
        await asyncio.sleep(attempt.wait_seconds)
    body = for_provider(call.request.body, call.fields, call.operation, step.model)
    admission = None if provider is None else shared.admit_at_once(step) or await shared.admit(step)
    if provider is None or admission is None:
        course.skip(step)
        call.reason = f"{call.reason}; {step.provider} is left alone"
        return None
    sent = Sent(step, admission, time.monotonic(), provider.on_disconnect is OnDisconnect.DRAIN)
    patience = _patience(call, sent, provider, attempt, deadline)
    call.attempts += 1
    call.went_to(sent)
    call.configured.router.started(step, call.facts, sent.at)
    try:
        if patience.first_byte_seconds < provider.first_byte_timeout_seconds:
            sent.answer = await _within(patience, call, provider, body)
        else:  # the connections look after the provider's own time-outs, without a timer for each request
            headers = call.upstream_headers()
            sent.answer = await call.upstream.send(provider, call.operation.path, headers, body, patience)
    except ProviderFault as fault:
        raise not_reached(call, sent, fault) from fault
    except BaseException:  # the caller has left, or the gateway itself failed: nobody's fault
        outcomes.left(call, sent)
        raise
    judge(call, sent)
    return sent


def _patience(call: Call, sent: Sent, provider: Provider, attempt: Attempt, deadline: Deadline) -> Patience:
    """Raises errors.GatewayTimeout when no time is left."""
    try:
        return deadline.limits(
            provider.connect_timeout_seconds, provider.first_byte_timeout_seconds, sent.at, is_last=attempt.is_last
        )
    except ServiceError:
        call.failing_over.shared.cancelled(sent.step, sent.admission)
        raise


async def _within(patience: Patience, call: Call, provider: Provider, body: bytes) -> Answer:
    seconds, headers = patience.first_byte_seconds, call.upstream_headers()
    try:
        async with asyncio.timeout(seconds):
            return await call.upstream.send(provider, call.operation.path, headers, body, patience)
    except TimeoutError:
        raise TimedOut(f"no answer within the {seconds:g} s that were left") from None
