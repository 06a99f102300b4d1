"""One request on its way through the places of its plan, by the gateway's own course of attempts and breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from vllm_service.client.asks import Ask
from vllm_service.client.connection import Connection
from vllm_service.client.errors import StreamBroken, Unreachable, placed
from vllm_service.client.places import Places
from vllm_service.client.results import Answer
from vllm_service.client.settings import ONE_ATTEMPT
from vllm_service.client.streams import Begun, OpenedStream, begin
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import GatewayTimeout, ServiceError, UpstreamFailed
from vllm_service.routing.circuit_breaker import Admission
from vllm_service.routing.deadlines import Deadline
from vllm_service.routing.failures import LEFT_BY_CALLER, Failure, Kind
from vllm_service.routing.fallback import Attempt, Course, RetrySettings
from vllm_service.routing.plan import Plan, Step

T = TypeVar("T")


class RoutedCall:
    """Router and breaker hear of everything that becomes of it. Raises ServiceError; a caller's own error at once."""

    def __init__(self, places: Places, ask: Ask, facts: RequestFacts, retries: RetrySettings) -> None:
        self._places = places
        self._ask = ask
        self._facts = facts
        now = places.clock()
        self._deadline = Deadline(now, places.timeout_seconds, reserve_seconds=10.0)
        self._plan: Plan = places.router.plan(facts, now)
        self._course = Course(self._plan.steps, retries, self._deadline)
        self._step: Step
        self._admission: Admission

    async def answer(self) -> Answer:
        """The whole answer."""
        answer = await self._first(lambda connection, ask: connection.answer(ask, ONE_ATTEMPT), whole=True)
        self.ended(answer.usage)
        return replace(answer, attempts=self._course.attempts, route_reason=self._plan.reason)

    async def begin(self) -> Begun:
        """The answer once its first text is there; the place is not left from then on."""
        opened, first = await self._first(begin, whole=False)
        connection = self._places.connection(self._step.provider)
        pieces = _RoutedPieces(self, opened)
        return Begun(pieces, first, connection, self._step.model, self._course.attempts, self._plan.reason)

    def ended(self, usage: Usage | None) -> None:
        """The answer is whole."""
        self._places.gatekeeper.succeeded(self._step, self._admission)
        self._places.router.finished(self._step, self._facts, usage, self._places.clock())

    def failed(self, failure: Failure) -> None:
        """The place where it is has failed, or was left."""
        status, wait = failure.told_status, failure.retry_after_seconds
        if status == LEFT_BY_CALLER:
            self._places.gatekeeper.cancelled(self._step, self._admission)
        else:
            self._places.gatekeeper.failed(self._step, self._admission, status, wait)
        self._places.router.failed(self._step, self._facts, status, wait, self._places.clock())

    async def _first(self, send: Callable[[Connection, Ask], Awaitable[T]], *, whole: bool) -> T:
        """What the first place that answers has sent."""
        last: ServiceError | None = None
        while (attempt := self._course.next(self._places.clock())) is not None:
            if attempt.wait_seconds:
                await asyncio.sleep(attempt.wait_seconds)
            admission = await self._places.gatekeeper.admit(attempt.step)
            if admission is None:
                self._course.skip(attempt.step)
                continue
            self._step, self._admission = attempt.step, admission
            try:
                return await self._send(attempt, send, whole=whole)
            except ServiceError as error:
                last = error
                failure = failure_of(error)
                self.failed(failure)
                self._course.failed(attempt.step, failure, self._places.clock())
                if failure.is_final:
                    raise
            except BaseException:
                self.failed(Failure(Kind.CANCELLED))
                raise
        told = self._course.error(self._places.clock())
        raise (told if last is None else placed(told, last.endpoint or "")) from last

    async def _send(self, attempt: Attempt, send: Callable[[Connection, Ask], Awaitable[T]], *, whole: bool) -> T:
        places, provider = self._places, self._places.catalog.providers[attempt.step.provider]
        places.router.started(attempt.step, self._facts, places.clock())
        limits = self._deadline.limits(
            provider.connect_timeout_seconds,
            provider.first_byte_timeout_seconds,
            places.clock(),
            is_last=attempt.is_last,
        )
        seconds = limits.total_seconds if whole else limits.first_byte_seconds
        try:
            async with asyncio.timeout(seconds):
                sent = await send(places.connection(provider.name), self._ask.to(attempt.step.model))
        except TimeoutError:
            raise placed(GatewayTimeout(f"{provider.name} did not answer in time"), provider.name) from None
        self._course.succeeded()
        places.gatekeeper.answers(self._step, self._admission)
        places.router.first_token(attempt.step, self._facts, places.clock())
        return sent


class _RoutedPieces:
    """A stream that tells router and breaker how it ended."""

    def __init__(self, call: RoutedCall, opened: OpenedStream) -> None:
        self._call = call
        self._opened = opened
        self._is_over = False
        self.request_id = opened.request_id

    @property
    def finish_reason(self) -> str | None:
        return self._opened.finish_reason

    @property
    def usage(self) -> Usage | None:
        return self._opened.usage

    async def next_text(self) -> str | None:
        try:
            text = await self._opened.next_text()
        except ServiceError as error:
            self._end(failure_of(error))
            raise
        if text is None and not self._is_over:
            self._is_over = True
            self._call.ended(self.usage)
        return text

    async def close(self) -> None:
        self._end(Failure(Kind.CANCELLED))
        await self._opened.close()

    def _end(self, failure: Failure) -> None:
        if not self._is_over:
            self._is_over = True
            self._call.failed(failure)


def failure_of(error: ServiceError) -> Failure:
    """What the course of attempts is told of an error of the client's."""
    if isinstance(error, StreamBroken):
        return Failure(Kind.CUT, content_started=True)
    if isinstance(error, Unreachable):
        return Failure(Kind.CONNECT)
    if isinstance(error, GatewayTimeout):
        return Failure(Kind.TIMEOUT)
    if isinstance(error, UpstreamFailed):
        return Failure(Kind.GARBAGE)
    return Failure(Kind.STATUS, error.status, retry_after_seconds=error.retry_after_seconds)
