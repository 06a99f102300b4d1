"""One request of an LLMRouter on its way through the providers of its plan, driven by resilience/attempts.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from vllm_service.client.connection import Connection
from vllm_service.client.errors import StreamBroken, at_endpoint
from vllm_service.client.payload import Payload
from vllm_service.client.results import Answer
from vllm_service.client.router.connections import Connections
from vllm_service.client.router.routed_errors import not_answered, timed_out
from vllm_service.client.settings import ONE_ATTEMPT
from vllm_service.client.streams import Begun, OpenedStream, begin
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import GatewayTimeout, ServiceError
from vllm_service.http.upstream import Patience
from vllm_service.resilience.attempts import Attempt, TriedRequest, first_answer
from vllm_service.resilience.deadlines import Deadline
from vllm_service.resilience.failures import Failure, Kind

Sent = TypeVar("Sent")
#: A stream that has begun, and its first text; None where the answer is empty.
OpenedAnswer = tuple[OpenedStream, str | None]


class RoutedCall:
    """Raises ServiceError; a caller's own error at once."""

    def __init__(self, places: Connections, ask: Payload, facts: RequestFacts) -> None:
        self._places = places
        self._ask = ask
        policy, now = places.policy, places.clock()
        self._deadline = Deadline(now, policy.deadlines.default_seconds, policy.deadlines.reserve_seconds)
        self._plan = places.router.plan(facts, now)
        self._request = TriedRequest(
            policy,
            places.router,
            places.catalog.providers,
            places.prices,
            facts,
            self._deadline,
            self._plan.reason,
            policy.hedging is not None and policy.hedging.is_on and facts.cap_picousd is None,
        )

    async def answer(self) -> Answer:
        """The whole answer."""
        send = _WholeRequest(self._places, self._ask)
        attempt = await self._first(send)
        answer = attempt.answer
        self._succeeded(attempt, answer.usage)
        return replace(answer, attempts=send.attempts, route_reason=self._request.reason)

    async def begin(self) -> Begun:
        """The answer once its first text is there; the provider is not left from then on."""
        send = _StreamRequest(self._places, self._ask)
        attempt = await self._first(send)
        provider = self._places.catalog.providers[attempt.step.provider]
        pieces = _RoutedPieces(attempt, self._deadline, provider.idle_timeout_seconds, self._places, self._succeeded)
        connection = self._places.connection(provider.name)
        return Begun(pieces, attempt.answer[1], connection, attempt.step.model, send.attempts, self._request.reason)

    async def _first(self, send: _ConnectionRequest[Sent]) -> Attempt[Sent]:
        try:
            return await first_answer(self._plan, send, self._request)
        except ServiceError as error:
            raise at_endpoint(error, send.provider) from None

    def _succeeded(self, attempt: Attempt[Sent], usage: Usage | None) -> None:
        """What answers cost is what hedges may be paid from."""
        hedging = self._places.policy.hedging
        attempt.succeeded(usage)
        if hedging is not None and usage is not None:
            hedging.budget.earn(self._request.cost_picousd(attempt.step, usage) or 0)


class _ConnectionRequest(Generic[Sent]):
    """An attempts.Send over the client's connections. attempts: how many were sent; provider: the last one's name."""

    is_wanted = True

    def __init__(self, places: Connections, ask: Payload) -> None:
        self.attempts = 0
        self.provider = ""
        self._places = places
        self._ask = ask

    async def __call__(self, attempt: Attempt[Sent], patience: Patience) -> Sent:
        """See attempts.Send."""
        self.attempts += 1
        self.provider = attempt.step.provider
        connection, seconds = self._places.connection(self.provider), patience.first_byte_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._send(connection, self._ask.to(attempt.step.model), attempt)
        except TimeoutError:
            raise timed_out(f"no answer within {seconds:g} s", self._ask.model) from None
        except ServiceError as error:
            raise not_answered(error, self._ask.model) from error

    async def _send(self, connection: Connection, ask: Payload, attempt: Attempt[Sent]) -> Sent:
        """Raises ServiceError."""
        raise NotImplementedError

    async def leave(self, answer: Sent) -> None:
        """See attempts.Send. A whole answer holds no connection."""


class _WholeRequest(_ConnectionRequest[Answer]):
    async def _send(self, connection: Connection, ask: Payload, attempt: Attempt[Answer]) -> Answer:
        answer = await connection.answer(ask, ONE_ATTEMPT)
        attempt.usage = answer.usage
        return answer


class _StreamRequest(_ConnectionRequest[OpenedAnswer]):
    async def _send(self, connection: Connection, ask: Payload, attempt: Attempt[OpenedAnswer]) -> OpenedAnswer:
        return await begin(connection, ask)

    async def leave(self, answer: OpenedAnswer) -> None:
        await answer[0].close()


class _RoutedPieces:
    """A stream whose attempt ends with it. Its provider may be silent for so long, and the whole until the deadline."""

    def __init__(
        self,
        attempt: Attempt[OpenedAnswer],
        deadline: Deadline,
        idle_seconds: float,
        places: Connections,
        succeeded: Callable[[Attempt[OpenedAnswer], Usage | None], None],
    ) -> None:
        self._attempt = attempt
        self._opened = attempt.answer[0]
        self._deadline, self._idle_seconds = deadline, idle_seconds
        self._clock = places.clock
        self._succeeded = succeeded
        self.request_id = self._opened.request_id

    @property
    def finish_reason(self) -> str | None:
        return self._opened.finish_reason

    @property
    def usage(self) -> Usage | None:
        return self._opened.usage

    async def next_text(self) -> str | None:
        seconds = min(self._idle_seconds, self._deadline.left(self._clock()))
        try:
            async with asyncio.timeout(seconds):
                text = await self._opened.next_text()
        except TimeoutError:
            self._attempt.failed(Failure(Kind.TIMEOUT, content_started=True))
            raise self._silent(seconds) from None
        except ServiceError:
            self._attempt.failed(Failure(Kind.CUT, content_started=True))
            raise
        if text is None:
            self._succeeded(self._attempt, self.usage)
        return text

    async def close(self) -> None:
        self._attempt.abandoned()  # unless it has ended by itself
        await self._opened.close()

    def _silent(self, seconds: float) -> StreamBroken:
        provider = self._attempt.step.provider
        error = StreamBroken(f"{provider} sent nothing for {seconds:g} s within the answer, or took too long for it")
        error.status, error.code = GatewayTimeout.status, GatewayTimeout.code
        at_endpoint(error, provider)
        return error
