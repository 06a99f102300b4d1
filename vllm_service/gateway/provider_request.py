"""One request to a provider over the gateway's own connections: what resilience/attempts.py sends with."""

from __future__ import annotations

import asyncio

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.request_body import for_provider
from vllm_service.gateway.validate_answer import not_reached, usage_of_answer
from vllm_service.http.upstream import Answer, Patience, ProviderFault, TimedOut
from vllm_service.resilience.attempts import Attempt


class ProviderRequest(msgspec.Struct, eq=False):
    """An attempts.Send. What it knows of each attempt stands in the call, for the row in the ledger."""

    _call: RequestContext

    async def __call__(self, attempt: Attempt[Answer], patience: Patience) -> Answer:
        """See attempts.Send. Returns when a whole answer is there, or of a stream the first event."""
        call, step = self._call, attempt.step
        provider = call.configured.catalog.providers[step.provider]
        call.attempts += 1
        if not attempt.is_hedge:
            call.went_to(attempt, provider.on_disconnect)
        body = for_provider(call.request.body, call.fields, call.operation, step.model)
        try:
            if patience.first_byte_seconds < provider.first_byte_timeout_seconds:
                answer = await self._within(patience, provider, body)
            else:  # the connections look after longer times, without a timer for each request
                headers = call.upstream_headers()
                answer = await call.upstream.send(provider, call.operation.path, headers, body, patience)
        except ProviderFault as fault:
            raise not_reached(fault, call.facts.model) from fault
        attempt.usage = usage_of_answer(answer, call.facts.model)
        return answer

    @property
    def is_wanted(self) -> bool:
        """A caller who has left, and whose answer was to be read to its end, needs no other."""
        return not self._call.caller.has_left

    async def leave(self, answer: Answer) -> None:
        """See attempts.Send."""
        answer.close()

    async def _within(self, patience: Patience, provider: Provider, body: bytes) -> Answer:
        call, seconds = self._call, patience.first_byte_seconds
        try:
            async with asyncio.timeout(seconds):
                headers = call.upstream_headers()
                return await call.upstream.send(provider, call.operation.path, headers, body, patience)
        except TimeoutError:
            raise TimedOut(f"no answer within the {seconds:g} s that were left") from None
