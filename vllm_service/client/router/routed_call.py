"""One request through the providers of its plan, over kept connections, with the gateway's own driver of attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

import openai

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.client.connection import Connection
from vllm_service.client.deltas import Delta
from vllm_service.client.errors import BadAnswer, StreamBroken, Unreachable, at_endpoint
from vllm_service.client.payload import Payload
from vllm_service.client.results import Answer
from vllm_service.client.retry import NOT_CONNECTED, may_be_running
from vllm_service.client.settings import NO_KEY, ClientSettings
from vllm_service.client.streams import Begun, OpenedStream, begin
from vllm_service.domain.plan import Plan, Router
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import ConfigurationError, GatewayTimeout, ServiceError, UpstreamFailed
from vllm_service.gateway.provider_errors import not_an_answer, not_reached, refused
from vllm_service.http.upstream import CutShort, NotReached, Patience, ProviderFault, TimedOut
from vllm_service.resilience.attempts import Attempt, TriedRequest, first_answer
from vllm_service.resilience.failures import Failure, Kind, NotAnswered
from vllm_service.resilience.policy import Clock, ResiliencePolicy
from vllm_service.resilience.retry_schedule import Deadline


def not_answered(error: ServiceError, model: str) -> NotAnswered:
    """Returns the failure of an attempt that ended with an error of client/connection.py before its first content."""
    cause = error.__cause__
    if isinstance(cause, openai.APIStatusError) and cause.status_code >= 400:
        failed = refused(cause.status_code, _retry_after(cause.response.headers), cause.response.content, model)
        failed.error.request_id = error.request_id
        return failed
    if isinstance(cause, BadAnswer):
        failed = not_an_answer(cause.judgement, _retry_after(cause.headers), model)
        failed.error.request_id = error.request_id
        return failed
    fault = _fault(error, cause)
    if fault is not None:
        failed = not_reached(fault, model)
        return NotAnswered(replace(failed.failure, may_be_running=may_be_running(error)), failed.error)
    told = UpstreamFailed(f"A provider of {model!r} failed.", details={"model": model})
    return NotAnswered(Failure(Kind.GARBAGE), told)


def _retry_after(headers: Mapping[str, str]) -> Mapping[bytes, bytes]:
    wait = headers.get("retry-after")
    return {} if wait is None else {b"retry-after": wait.encode("latin-1", "replace")}


def timed_out(what: str, model: str) -> NotAnswered:
    """Returns the failure of an attempt that took too long."""
    return not_reached(TimedOut(what), model)


def _fault(error: ServiceError, cause: BaseException | None) -> ProviderFault | None:
    """Returns the fault below HTTP; None if there was an HTTP response that is no answer."""
    if isinstance(cause, openai.APIConnectionError):
        reason = cause.__cause__
        if isinstance(reason, NOT_CONNECTED):
            return NotReached(type(reason).__name__)
        if isinstance(cause, openai.APITimeoutError):
            return TimedOut("the time for an answer is over")
        return CutShort(type(reason or cause).__name__)
    if isinstance(error, Unreachable):
        return CutShort(error.message)
    return None


class Connections:
    """The connections of all providers. Each is opened by the provider's first request, and kept until close()."""

    def __init__(self, catalog: Catalog, router: Router, policy: ResiliencePolicy) -> None:
        """Raises ConfigurationError for a provider to which nothing can be sent."""
        self.catalog = catalog
        self.router = router
        self.policy = policy
        self.prices = {
            (offer.provider, offer.model): offer.price for model in catalog.models.values() for offer in model.offers
        }
        self._connections = {name: self._named(provider) for name, provider in catalog.providers.items()}

    @property
    def clock(self) -> Clock:
        """Returns the policy's clock, in monotonic seconds."""
        return self.policy.clock

    def connection(self, provider: str) -> Connection:
        """Returns the connection to a provider of the catalog."""
        return self._connections[provider]

    async def close(self) -> None:
        """Closes every connection."""
        for connection in self._connections.values():
            await connection.close()

    def _named(self, provider: Provider) -> Connection:
        """Returns a new connection. Raises ConfigurationError, which names the provider."""
        try:
            return self._connect(provider)
        except ConfigurationError as error:
            raise ConfigurationError(f"providers: {provider.name}: {error.message}", param="providers") from None

    def _connect(self, provider: Provider) -> Connection:
        """Returns a new connection."""
        # A redirect is a failure, as in the gateway: the key must not be sent elsewhere.
        prices = self.prices.items()
        return Connection(
            provider=provider.name,
            endpoint=provider.name,
            base_url=provider.base_url,
            api_key=provider.api_key or NO_KEY,
            timeout_seconds=self.policy.deadlines.default_seconds,
            connect_timeout_seconds=provider.connect_timeout_seconds,
            prices={model: price for (name, model), price in prices if name == provider.name and price},
            owner="LLMRouter",
            reads_annotations=True,
            names_provider=False,
            follow_redirects=False,
            stream_options=provider.stream_options,
        )


def own_endpoint(settings: ClientSettings) -> Catalog:
    """Returns the catalog of an application that sets only RUNPOD_*: one endpoint, one model."""
    provider = Provider(
        "runpod", ProviderKind.RUNPOD, settings.base_url, settings.api_key, control_url=settings.control_url
    )
    model = PublicModel(settings.default_model, (Offer(provider.name, settings.default_model),))
    return Catalog({provider.name: provider}, {model.name: model})


Sent = TypeVar("Sent")
#: A stream that has begun, and its first delta; None if the answer is empty.
OpenedAnswer = tuple[OpenedStream, Delta | None]


class RoutedCall:
    """One routed request. Raises ServiceError; an error of the caller's request is not tried elsewhere."""

    def __init__(self, connections: Connections, ask: Payload, facts: RequestFacts) -> None:
        self._connections = connections
        self._ask = ask
        policy, now = connections.policy, connections.clock()
        self._deadline = Deadline(now, policy.deadlines.default_seconds, policy.deadlines.reserve_seconds)
        self._plan = connections.router.plan(facts, now)
        self._request = TriedRequest(
            policy,
            connections.router,
            connections.catalog.providers,
            connections.prices,
            facts,
            self._deadline,
            self._plan.reason,
            policy.hedging is not None and policy.hedging.is_on and facts.cap_picousd is None,
        )

    async def answer(self) -> Answer:
        """Returns the whole answer."""
        send = _WholeRequest(self._connections, self._ask)
        attempt = await self._first(send)
        answer = attempt.answer
        self._succeeded(attempt, answer.usage)
        return replace(answer, attempts=send.attempts, route_reason=self._request.reason)

    async def begin(self) -> Begun:
        """Returns the stream once its first content has come. From then on there is no other provider for it."""
        send = _StreamRequest(self._connections, self._ask)
        attempt = await self._first(send)
        provider = self._connections.catalog.providers[attempt.step.provider]
        pieces = _RoutedPieces(
            attempt,
            self._deadline,
            provider.idle_timeout_seconds,
            self._connections,
            self._succeeded,
            plan=self._plan,
        )
        return Begun(
            pieces,
            attempt.answer[1],
            self._connections.connection(provider.name),
            self._ask.to(attempt.step.model),
            send.attempts,
            self._request.reason,
            opened=attempt.answer[0],
        )

    async def _first(self, send: _ConnectionRequest[Sent]) -> Attempt[Sent]:
        try:
            return await first_answer(self._plan, send, self._request)
        except BaseException as error:
            self._plan.ended(is_answered=False)
            raise (at_endpoint(error, send.provider) if isinstance(error, ServiceError) else error) from None

    def _succeeded(self, attempt: Attempt[Sent], usage: Usage | None) -> None:
        """Reports the success. The budget of hedges is a part of what answers cost, so the cost is added to it."""
        hedging = self._connections.policy.hedging
        self._plan.ended(is_answered=True)
        attempt.succeeded(None if usage is None else usage.if_counted)
        if hedging is not None and usage is not None:
            hedging.budget_of(self._request.facts.organisation).earn(
                self._request.cost_picousd(attempt.step, usage) or 0
            )


class _ConnectionRequest(Generic[Sent]):
    """An attempts.Send over the client's connections.

    attempts: how many requests were sent. provider: the name of the last one's provider.
    """

    is_answer_needed = True

    def __init__(self, connections: Connections, ask: Payload) -> None:
        self.attempts = 0
        self.provider = ""
        self._connections = connections
        self._ask = ask

    async def __call__(self, attempt: Attempt[Sent], patience: Patience) -> Sent:
        """Makes one attempt. Raises NotAnswered."""
        self.attempts += 1
        attempt.was_sent = True  # as far as can be seen through the SDK
        self.provider = attempt.step.provider
        connection, seconds = self._connections.connection(self.provider), patience.first_byte_seconds
        try:
            async with asyncio.timeout(seconds) as timer:
                silence = Silence(timer, self._idle_seconds(patience), patience.total_seconds)
                return await self._send(connection, self._ask.to(attempt.step.model), attempt, silence)
        except TimeoutError:
            raise timed_out(f"no answer within {seconds:g} s", self._ask.model) from None
        except ServiceError as error:
            raise not_answered(error, self._ask.model) from error

    def _idle_seconds(self, patience: Patience) -> float:
        """Returns how long the provider may be silent before the first content; 0: the first byte's time counts alone.

        A time that the request's deadline has cut is for other providers, which signs of life must not take away.
        """
        provider = self._connections.catalog.providers[self.provider]
        is_cut = patience.first_byte_seconds < provider.first_byte_timeout_seconds
        return 0 if is_cut else provider.idle_timeout_seconds

    async def _send(self, connection: Connection, ask: Payload, attempt: Attempt[Sent], silence: Silence) -> Sent:
        """Sends the request. Raises ServiceError."""
        raise NotImplementedError

    async def close(self, answer: Sent) -> None:
        """Does nothing for a whole answer, which holds no connection."""


class _WholeRequest(_ConnectionRequest[Answer]):
    async def _send(self, connection: Connection, ask: Payload, attempt: Attempt[Answer], silence: Silence) -> Answer:
        answer = await connection.attempt(ask, time.perf_counter())
        attempt.usage = answer.usage
        return answer


class _StreamRequest(_ConnectionRequest[OpenedAnswer]):
    async def _send(
        self, connection: Connection, ask: Payload, attempt: Attempt[OpenedAnswer], silence: Silence
    ) -> OpenedAnswer:
        return await begin(connection, ask, silence.heard)

    async def close(self, answer: OpenedAnswer) -> None:
        await answer[0].close()


class Silence:
    """Puts a timer off whenever the provider sends something, a comment or a chunk without content among it."""

    def __init__(self, timer: asyncio.Timeout, idle_seconds: float, total_seconds: float) -> None:
        """total_seconds: the timer is not put off beyond them."""
        self._timer = timer
        self._idle_seconds = idle_seconds
        self._now = asyncio.get_running_loop().time
        self._ends_at = self._now() + total_seconds

    def heard(self) -> None:
        """Puts the timer off by the idle time; never forward."""
        until = self._timer.when()
        later = min(self._now() + self._idle_seconds, self._ends_at)
        if until is not None and until < later:
            self._timer.reschedule(later)


class _RoutedPieces:
    """A stream whose end is its attempt's end. It fails after `idle_seconds` without data, and at the deadline."""

    def __init__(
        self,
        attempt: Attempt[OpenedAnswer],
        deadline: Deadline,
        idle_seconds: float,
        connections: Connections,
        succeeded: Callable[[Attempt[OpenedAnswer], Usage | None], None],
        *,
        plan: Plan,
    ) -> None:
        self._plan = plan
        self._attempt = attempt
        self._opened = attempt.answer[0]
        self._deadline, self._idle_seconds = deadline, idle_seconds
        self._clock = connections.clock
        self._succeeded = succeeded
        self.request_id = self._opened.request_id

    @property
    def usage(self) -> Usage | None:
        return self._opened.usage

    async def next_delta(self) -> Delta | None:
        left = self._deadline.left(self._clock())
        seconds = min(self._idle_seconds, left)
        try:
            async with asyncio.timeout(seconds) as timer:
                self._opened.on_data(Silence(timer, self._idle_seconds, left).heard)
                delta = await self._opened.next_delta()
        except TimeoutError:
            kind = Kind.TIMEOUT if self._deadline.left(self._clock()) > 0 else Kind.DEADLINE
            self._attempt.failed(Failure(kind, content_started=True))
            raise self._silent(seconds) from None
        except ServiceError as error:
            failed = not_answered(error, self._attempt.step.model)
            self._attempt.failed(replace(failed.failure, content_started=True))
            error.code = failed.error.code
            raise
        if delta is None:
            self._succeeded(self._attempt, self.usage)
        return delta

    async def close(self) -> None:
        self._attempt.abandoned()  # unless it has ended by itself
        self._plan.ended(is_answered=False)
        await self._opened.close()

    def _silent(self, seconds: float) -> StreamBroken:
        provider = self._attempt.step.provider
        error = StreamBroken(f"{provider} sent nothing for {seconds:g} s within the answer, or took too long for it")
        error.status, error.code = GatewayTimeout.status, GatewayTimeout.code
        at_endpoint(error, provider)
        return error
