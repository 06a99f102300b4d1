"""One attempt, and the only loop over attempts. docs/failing-over.md has the rules.

`first_answer` tries the steps of a plan until one begins to answer; after that nothing else is tried. How a request is
sent, and whether what came back is an answer, is the caller's `Send`: the gateway and the client each have one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.plan import AttemptObserver, Plan, Router, Step
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import ModelUnavailable, ServiceError
from vllm_service.http.upstream import Patience
from vllm_service.resilience.breakers.circuit_breaker import Admission, CircuitBreaker
from vllm_service.resilience.failures import Failure, NotAnswered
from vllm_service.resilience.hedging import hedged
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import Deadline, RetrySchedule, ScheduledAttempt

Answer = TypeVar("Answer")


class AttemptTrace(Protocol):
    """Where attempts are noted down."""

    def attempted(self, step: Step, seconds: float, outcome: str, status: int | None) -> None:
        """An attempt has ended just now, and took so long. status: HTTP's; None where there was no answer."""
        ...


class HedgeLoser(NamedTuple):
    """What a request cost at a step that did not answer; an estimate, unless its whole answer was there."""

    step: Step
    usage: Usage
    cost_picousd: int | None


class Attempt(msgspec.Struct, Generic[Answer], eq=False):
    """One sending of a request. It ends by `succeeded`, `failed` or `abandoned`; only the first of these calls counts.

    Each of them reaches router, breaker and trace. Times are of the policy's clock.
    """

    step: Step
    started_at: float
    #: Whether it was sent beside another, which was slow to begin.
    is_hedge: bool
    _observer: AttemptObserver
    _breaker: CircuitBreaker
    _admission: Admission
    _policy: ResiliencePolicy
    _trace: AttemptTrace | None
    first_byte_at: float | None = None
    #: Of a whole answer, as its provider counted it.
    usage: Usage | None = None
    _answer: Answer | None = None
    _is_over: bool = False

    @property
    def answer(self) -> Answer:
        """What `Send` returned."""
        assert self._answer is not None
        return self._answer

    def began(self, answer: Answer) -> None:
        """Content has come: from now on nothing else is tried. A probe of the breaker has succeeded with that."""
        self._answer = answer
        policy, admission = self._policy, self._admission
        self.first_byte_at = now = policy.clock()
        if admission.is_probe:
            self._breaker.answers(admission, now)
        self._observer.first_token(now)
        if policy.hedging is not None:
            policy.hedging.began(self.step, now - self.started_at)

    def succeeded(self, usage: Usage | None, now: float | None = None) -> None:
        """The answer is complete. usage: its provider's count, None where there is none. now: None reads the clock."""
        if self._is_over:
            return
        self._is_over = True
        now = self._policy.clock() if now is None else now
        if self._trace is not None:
            self._trace.attempted(self.step, now - self.started_at, "completed", 200)
        self._breaker.succeeded(self._admission, now)
        self._observer.succeeded(usage, now)

    def failed(self, failure: Failure) -> None:
        """The provider failed, before its answer began or in the middle of it."""
        if self._is_over:
            return
        self._is_over = True
        now, status, wait = self._policy.clock(), failure.told_status, failure.retry_after_seconds
        if self._trace is not None:
            self._trace.attempted(self.step, now - self.started_at, "failed", status or None)
        self._policy.shared.failed(self.step, self._admission, status, wait)
        self._observer.failed(status, wait, now)

    def abandoned(self) -> None:
        """The caller has left, or another attempt was quicker: not the provider's fault."""
        if self._is_over:
            return
        self._is_over = True
        now = self._policy.clock()
        if self._trace is not None:
            self._trace.attempted(self.step, now - self.started_at, "left", None)
        self._policy.shared.cancelled(self.step, self._admission)
        self._observer.abandoned(now)


class Send(Protocol[Answer]):
    """The seam of the driver: how a request is sent, and what counts as an answer."""

    def __call__(self, attempt: Attempt[Answer], patience: Patience) -> Awaitable[Answer]:
        """Returns when a whole answer is there, or of a stream its first content. Keeps to `patience`.

        Raises failures.NotAnswered; anything else that it raises ends the request. Cleans up when it is cancelled.
        """
        ...

    @property
    def is_wanted(self) -> bool:
        """Whether another attempt is still worth its money."""
        ...

    async def leave(self, answer: Answer) -> None:
        """Closes an answer that lost a race."""
        ...


class TriedRequest(msgspec.Struct, eq=False):
    """One request while it is tried: what each attempt needs, and what has become of them so far."""

    policy: ResiliencePolicy
    router: Router
    providers: Mapping[str, Provider]
    prices: Mapping[tuple[str, str], TokenPrice | None]
    facts: RequestFacts
    deadline: Deadline
    #: Why it goes where it goes: the plan's reason, and what happened on the way.
    reason: str
    #: Whether it may be sent twice at once; only where the policy hedges.
    is_hedged: bool = False
    trace: AttemptTrace | None = None
    #: Hedges that lost, and what they cost.
    losers: Sequence[HedgeLoser] = ()
    #: Of the attempt that failed last.
    error: ServiceError | None = None

    def cost_picousd(self, step: Step, usage: Usage) -> int | None:
        """By the price of a token; where there is none, what the router expected."""
        price = self.prices.get((step.provider, step.model))
        return step.cost_picousd if price is None else price.cost_picousd(usage)


async def first_answer(plan: Plan, send: Send[Answer], request: TriedRequest) -> Attempt[Answer]:
    """Returns the first attempt whose answer holds content; the caller ends it by one of its three exits.

    Raises the caller's own error at once, else what all failures amount to.
    """
    policy = request.policy
    schedule = RetrySchedule(plan.steps, policy.retries, request.deadline)
    while (due := schedule.next(policy.clock())) is not None:
        if request.error is not None and not send.is_wanted:
            raise asyncio.CancelledError
        attempted = _raced if request.is_hedged and due.number == 1 else _attempted
        try:
            attempt = await attempted(due, send, request, schedule)
        except NotAnswered as failed:
            if failed.failure.is_final:
                raise failed.error from None
        else:
            if attempt is not None:
                return attempt
    raise _given_up(plan, request, schedule)


async def _attempted(
    due: ScheduledAttempt,
    send: Send[Answer],
    request: TriedRequest,
    schedule: RetrySchedule,
    is_hedge: bool = False,
) -> Attempt[Answer] | None:
    """Waits, passes the breaker, sends. None: the breaker refused, nothing was sent. Raises NotAnswered."""
    if due.wait_seconds > 0:
        await asyncio.sleep(due.wait_seconds)
    step, policy = due.step, request.policy
    provider = request.providers.get(step.provider)
    if provider is None:
        _leave_out(step, request, schedule)
        return None
    breakers = policy.shared.breakers
    breaker = breakers.by_place.get((step.provider, step.model)) or breakers.of(step.provider, step.model)
    # While it is closed there is nothing to share with other replicas.
    admission = breaker.while_closed or await policy.shared.admit(step)
    if admission is None:
        _leave_out(step, request, schedule)
        return None
    now = policy.clock()
    observer = request.router.started(step, request.facts, now)
    attempt: Attempt[Answer] = Attempt(step, now, is_hedge, observer, breaker, admission, policy, request.trace)
    try:
        attempt.began(await send(attempt, _patience(provider, request, now, is_last=due.is_last)))
    except NotAnswered as not_answered:
        attempt.failed(not_answered.failure)
        schedule.failed(step, not_answered.failure, policy.clock())
        request.error = not_answered.error
        raise
    except BaseException:  # the caller has left, or our own code failed: not the provider's fault
        attempt.abandoned()
        raise
    return attempt


def _leave_out(step: Step, request: TriedRequest, schedule: RetrySchedule) -> None:
    """Goes on without a step, and says so in the reason."""
    schedule.skip(step)
    request.reason = f"{request.reason}; {step.provider} is left alone"


def _patience(provider: Provider, request: TriedRequest, now: float, *, is_last: bool) -> Patience:
    """Raises errors.GatewayTimeout when no time is left.

    A whole answer's first byte comes with its last: the provider's time to a first byte is for streams.
    """
    first_byte = provider.first_byte_timeout_seconds if request.facts.stream else math.inf
    return request.deadline.limits(provider.connect_timeout_seconds, first_byte, now, is_last=is_last)


async def _raced(
    due: ScheduledAttempt, send: Send[Answer], request: TriedRequest, schedule: RetrySchedule
) -> Attempt[Answer] | None:
    """The first attempt, and a second one where it is slow to begin. As `_attempted` otherwise."""
    hedging = request.policy.hedging
    assert hedging is not None
    racer = _Racer(due, send, request, schedule)
    try:
        won = await hedged(
            racer,
            due.step,
            lambda: schedule.peek(request.policy.clock()),
            hedging.delay_seconds(due.step),
            hedging.budget,
            failed=_noted_already,
        )
    except _Refused:
        return None
    except asyncio.CancelledError:  # the request's own row is about the first
        request.losers = [loser for loser in racer.losers if loser.step is not due.step]
        raise
    request.losers = racer.losers
    if won.step is not due.step:
        request.reason = f"{request.reason}; hedged: {due.step.provider} was slow to begin"
    return won.answer


class _Refused(Exception):
    """The breaker refused one of the two in a race."""


class _Racer(Generic[Answer]):
    """A hedging.Racer over attempts."""

    def __init__(
        self, first: ScheduledAttempt, send: Send[Answer], request: TriedRequest, schedule: RetrySchedule
    ) -> None:
        self.losers: list[HedgeLoser] = []
        self._first, self._send = first, send
        self._request, self._schedule = request, schedule

    async def attempt(self, step: Step) -> Attempt[Answer]:
        """Raises NotAnswered, or _Refused."""
        is_hedge, due = step is not self._first.step, self._first
        if is_hedge:
            self._schedule.hedge(step)
            due = ScheduledAttempt(step, self._schedule.attempts, 0.0, is_last=True)
        attempt = await _attempted(due, self._send, self._request, self._schedule, is_hedge)
        if attempt is None:
            raise _Refused
        return attempt

    async def abandon(self, step: Step, answer: Attempt[Answer] | None) -> int:
        """See hedging.Racer. A provider that was stopped before it answered has read the prompt, as far as is known."""
        usage = None
        if answer is not None:
            answer.abandoned()
            await self._send.leave(answer.answer)
            usage = answer.usage
        usage = usage or Usage(self._request.facts.prompt_tokens, 0, estimated=True)
        cost = self._request.cost_picousd(step, usage)
        self.losers.append(HedgeLoser(step, usage, cost))
        return cost or 0


def _noted_already(step: Step, error: Exception) -> None:
    """What a failure of the race is told: the attempt itself has noted it."""


def _given_up(plan: Plan, request: TriedRequest, schedule: RetrySchedule) -> ServiceError:
    """The error for the caller; the last provider's own words where they say more than that it failed."""
    now, model, last = request.policy.clock(), request.facts.model, request.error
    if last is None:
        if not any(step.provider in request.providers for step in plan.steps):
            return ModelUnavailable("No provider of this model is configured.", details={"model": model})
        return request.policy.all_left_alone(plan, model, now)
    error = schedule.error(now, last)
    if error is not last:
        error.details = {"model": model, "attempts": schedule.attempts}
    return error
