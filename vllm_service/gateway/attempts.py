"""Trying the places of a plan in their order, until one begins to answer; after that nobody else is asked."""

from __future__ import annotations

import asyncio
import re
import time

from vllm_service.errors import ModelUnavailable, ServiceError, UpstreamFailed
from vllm_service.gateway.call import Call
from vllm_service.gateway.identifiers import trace_headers
from vllm_service.gateway.provider_errors import (
    callers_error,
    fault_error,
    may_succeed_elsewhere,
    providers_error,
    retry_after_seconds,
)
from vllm_service.gateway.request_body import for_provider
from vllm_service.providers.configured import OnDisconnect, Provider
from vllm_service.providers.protocol import Answer, ProviderFault, Upstream
from vllm_service.routing.plan import Plan, Step

# A provider that fails after it has said 200 says so in its first event.
_ERROR_EVENT = re.compile(rb'\s*(?:event: ?error|data: ?\{\s*"error"\s*:)')


async def first_answer(call: Call, plan: Plan, upstream: Upstream) -> Answer:
    """The first answer that holds content. Raises the caller's own error at once, else the last provider's."""
    error: ServiceError | None = None
    headers = _request_headers(call)
    for step in plan.steps:
        provider = call.configured.catalog.providers.get(step.provider)
        if provider is None:
            continue
        call.step = step
        call.attempts += 1
        try:
            return await _ask(call, step, provider, headers, upstream)
        except _Elsewhere as failed:
            error = failed.error
    if error is None:
        error = ModelUnavailable("No provider of this model is configured.", details={"model": call.facts.model})
    raise error


class _Elsewhere(Exception):
    """This place failed in a way that another may not. `error` is what the caller is told if there is none."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__()
        self.error = error


async def _ask(call: Call, step: Step, provider: Provider, headers: bytes, upstream: Upstream) -> Answer:
    router, facts = call.configured.router, call.facts
    body = for_provider(call.request.body, call.fields, call.operation, step.model)
    call.caller.stays = provider.on_disconnect is OnDisconnect.DRAIN
    call.sent = now = time.monotonic()
    router.started(step, facts, now)
    try:
        answer = await upstream.send(provider, call.operation.path, headers, body)
    except ProviderFault as fault:
        router.failed(step, facts, 0, None, time.monotonic())
        raise _Elsewhere(fault_error(fault, facts.model)) from fault
    except asyncio.CancelledError:
        router.failed(step, facts, 499, None, time.monotonic())
        raise
    now = time.monotonic()
    if answer.status == 200 and not (answer.is_stream and _ERROR_EVENT.match(answer.body)):
        call.first_byte = now
        router.first_token(step, facts, now)
        return answer
    answer.close()
    status = 502 if 200 <= answer.status < 400 else answer.status
    router.failed(step, facts, status, retry_after_seconds(answer.headers), now)
    if status != answer.status:
        raise _Elsewhere(UpstreamFailed(f"The providers of {facts.model!r} failed.", details={"model": facts.model}))
    if may_succeed_elsewhere(status):
        raise _Elsewhere(providers_error(answer, facts.model))
    raise callers_error(answer)


def _request_headers(call: Call) -> bytes:
    """What goes with the request besides the provider's own headers; nothing else of the caller's does."""
    lines = b"x-request-id: %b\r\n" % call.request_id.encode()
    parent = call.headers.get(b"traceparent")
    return lines if parent is None else lines + trace_headers(parent, call.headers.get(b"tracestate"))
