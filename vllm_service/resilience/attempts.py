"""The attempt, and `first_answer`, the only loop over attempts. docs/failing-over.md has the rules.

`RetrySchedule` chooses a step, its breaker lets it by, `Send` sends it; after the first content nothing else is tried.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.plan import AttemptObserver, AttemptTrace, Plan, Router, Step
from vllm_service.domain.pricing import TokenPrice, charged_picousd
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import ModelUnavailable, ServiceError
from vllm_service.http.upstream import Patience
from vllm_service.resilience.breakers.offer_breaker import OfferBreaker
from vllm_service.resilience.breakers.probes import Admission
from vllm_service.resilience.failures import CutAttempt, Failure, Kind, NotAnswered
from vllm_service.resilience.hedging import hedged
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import Deadline, RetrySchedule, ScheduledAttempt

Answer = TypeVar("Answer")


class Attempt(msgspec.Struct, Generic[Answer], eq=False):
    """One sending of a request. It ends by `succeeded`, `failed` or `abandoned`; only the first of these calls counts.

    Each of them informs router, breaker and trace. Times are of the policy's clock.
    """

    step: Step
    started_at: float
    #: Whether it was sent beside another attempt, which was slow to begin.
    is_hedge: bool
    #: Whose request it is; breakers do not blame a provider for what a single organisation meets there.
    organisation: str
    _observer: AttemptObserver
    _breaker: OfferBreaker
    _admission: Admission
    _policy: ResiliencePolicy
    _trace: AttemptTrace | None
    first_byte_at: float | None = None
    #: The provider's count for a whole answer; None for a stream, whose usage comes at its end.
    usage: Usage | None = None
    #: Whether the request has been written to the provider. `Send` sets it.
    was_sent: bool = False
    #: Whether its caller has read slower than the provider sent.
    is_held_up: bool = False
    _answer: Answer | None = None
    _is_over: bool = False

    @property
    def answer(self) -> Answer:
        """The answer that `Send` returned."""
        assert self._answer is not None
        return self._answer

    def waited(self, seconds: float) -> None:
        """Implements upstream.Sending: what is measured of the offer begins when the request is sent."""
        self.started_at += seconds
        self._observer.waited(seconds)

    def began(self, answer: Answer) -> None:
        """Takes the answer when its first content has come. From now on nothing else is tried."""
        self._answer = answer
        policy = self._policy
        self.first_byte_at = now = policy.clock()
        # A probe has succeeded with its first content: the next one would otherwise wait for the end of a long answer.
        if self._admission is not self._breaker.while_closed:
            policy.shared.first_content(self.step, self._admission, self.organisation)
        self._observer.first_token(now)
        if policy.hedging is not None:
            policy.hedging.began(self.step, self.organisation, now - self.started_at)

    def succeeded(self, usage: Usage | None, now: float | None = None) -> None:
        """Ends the attempt with a complete answer. usage: the provider's count or None. now: None reads the clock."""
        if self._is_over:
            return
        self._is_over = True
        now = self._policy.clock() if now is None else now
        if self._trace is not None:
            self._trace.attempted(self.step, now - self.started_at, "completed", 200)
        if self._admission is self._breaker.while_sound:
            self._breaker.window.add(now, failed=False)
        else:
            self._policy.shared.succeeded(self.step, self._admission, now, self.organisation)
        self._observer.succeeded(usage, now, is_timed=not self.is_held_up)

    def failed(self, failure: Failure) -> None:
        """Ends the attempt with the provider's failure, before its answer began or in the middle of it."""
        if self._is_over:
            return
        self._is_over = True
        now = self._policy.clock()
        status = failure.breaker_status
        wait = failure.retry_after_seconds
        if self._trace is not None:
            self._trace.attempted(self.step, now - self.started_at, "failed", status or None)
        self._policy.shared.failed(self.step, self._admission, status, wait, self.organisation)
        self._observer.failed(status, wait, now)

    def abandoned(self) -> None:
        """Ends the attempt without a judgement of the provider: the caller has left, or another attempt was quicker."""
        if self._is_over:
            return
        self._is_over = True
        now = self._policy.clock()
        if self._trace is not None:
            self._trace.attempted(self.step, now - self.started_at, "left", None)
        self._policy.shared.cancelled(self.step, self._admission, self.organisation)
        self._observer.abandoned(now)


class Send(Protocol[Answer]):
    """Sends a request and decides what counts as an answer. The gateway and the client implement it."""

    def __call__(self, attempt: Attempt[Answer], patience: Patience) -> Awaitable[Answer]:
        """Returns when a whole answer is there, or the first content of a stream. Keeps to the times of `patience`.

        Raises failures.NotAnswered; anything else that it raises ends the request. Cleans up when it is cancelled.
        """
        ...

    @property
    def is_answer_needed(self) -> bool:
        """True while the caller waits for the answer, so that a further attempt is worth its money."""
        ...

    async def close(self, answer: Answer) -> None:
        """Closes an answer that lost a race."""
        ...


class TriedRequest(msgspec.Struct, eq=False):
    """One request while it is tried: what each attempt needs, and what has happened so far."""

    policy: ResiliencePolicy
    router: Router
    providers: Mapping[str, Provider]
    #: The price of each offer, by provider and the provider's name of the model; None where it has none.
    prices: Mapping[tuple[str, str], TokenPrice | None]
    facts: RequestFacts
    deadline: Deadline
    #: The reason of the route: the plan's, and what happened on the way.
    reason: str
    #: Whether a second attempt may run beside the first; the policy must have hedging for that.
    is_hedged: bool = False
    trace: AttemptTrace | None = None
    #: The attempts that were sent and whose answers are not used: cut, or beaten in a race.
    cuts: Sequence[CutAttempt] = ()
    was_sent: bool = False
    #: The error of the failure that says most to the caller: failures.Failure.weight.
    error: ServiceError | None = None
    _weight: int = 0

    def failed(self, attempt: Attempt[Answer], not_answered: NotAnswered) -> None:
        """Adds the provider to the route's reason, and keeps the attempt's error, unless an earlier one says more."""
        what = "is busy" if not_answered.failure.kind is Kind.BUSY else "failed"
        if not self.reason.endswith(failed := f"; {attempt.step.provider} {what}"):
            self.reason += failed
        if (weight := not_answered.failure.weight) >= self._weight:
            self.error = not_answered.error
            self._weight = weight
        self.ended(attempt, may_be_billed=not_answered.failure.may_be_billed)

    def ended(self, attempt: Attempt[Answer], *, may_be_billed: bool = True) -> None:
        """Takes an attempt that has ended before its answer began."""
        self.was_sent |= attempt.was_sent
        if attempt.was_sent and may_be_billed:
            self.cut(attempt.step)

    def cut(self, step: Step, usage: Usage | None = None) -> None:
        """Adds an attempt whose answer is not used. usage: None is its prompt, which the provider may have read."""
        usage = usage or Usage(self.facts.prompt_tokens, 0, estimated=True)
        self.cuts = (*self.cuts, CutAttempt(step, usage, self.cost_picousd(step, usage)))

    def beaten(self, step: Step) -> int:
        """Marks the attempt at this step, if one was cut there, as one that lost a race. Returns its cost."""
        self.cuts = [cut._replace(is_beaten=True) if cut.step is step else cut for cut in self.cuts]
        return sum(cut.cost_picousd or 0 for cut in self.cuts if cut.step is step)

    def cost_picousd(self, step: Step, usage: Usage) -> int | None:
        """Returns the cost by the price of a token; without a price, what the router expected, or None."""
        price = self.prices.get((step.provider, step.model))
        return step.cost_picousd if price is None else charged_picousd(price, usage)


async def first_answer(plan: Plan, send: Send[Answer], request: TriedRequest) -> Attempt[Answer]:
    """Returns the first attempt whose answer has content; the caller ends it by one of its three exits.

    Raises an error that the caller has caused at once; when all attempts have failed, the error that sums them up.
    """
    policy = request.policy
    schedule = RetrySchedule(plan.steps, policy.retries, request.deadline)
    while (due := schedule.next(policy.clock())) is not None:
        if request.error is not None and not send.is_answer_needed:
            raise asyncio.CancelledError
        # Only the first attempt is hedged: the next one is a second chance already.
        send_once = _send_hedged if request.is_hedged and due.number == 1 else _send_one
        try:
            attempt = await send_once(due, send, request, schedule)
        except NotAnswered as not_answered:
            if not_answered.failure.is_final:
                raise not_answered.error from None
        else:
            if attempt is not None:
                return attempt
    raise _final_error(plan, request, schedule)


async def _send_one(
    due: ScheduledAttempt,
    send: Send[Answer],
    request: TriedRequest,
    schedule: RetrySchedule,
    is_hedge: bool = False,
) -> Attempt[Answer] | None:
    """Sends an attempt when it is due, and returns it when its answer has begun; None if its breaker refuses it."""
    if due.wait_seconds > 0:
        await asyncio.sleep(due.wait_seconds)
    step = due.step
    policy = request.policy
    provider = request.providers.get(step.provider)
    if provider is None:  # the plan's router has another catalog than this request
        _skip(step, request, schedule)
        return None
    breakers = policy.shared.breakers
    breaker = breakers.by_offer.get((step.provider, step.model)) or breakers.of(step.provider, step.model)
    # Only a probe has to be agreed on with other replicas, and a closed breaker sends none.
    by = request.facts.organisation
    admission = breaker.while_closed or await policy.shared.admit(step, by)
    if admission is None:
        _skip(step, request, schedule)
        return None
    now = policy.clock()
    try:
        observer = request.router.started(step, request.facts, now)
    except BaseException:  # no attempt exists yet that could give a probe back
        policy.shared.cancelled(step, admission, by)
        raise
    attempt: Attempt[Answer] = Attempt(step, now, is_hedge, by, observer, breaker, admission, policy, request.trace)
    try:
        patience = _patience(provider, request, now, is_last=due.is_last)
        attempt.began(await send(attempt, patience))
    except NotAnswered as not_answered:
        not_answered.failure = failure = not_answered.failure.judged_by(patience, policy.clock() - now)
        attempt.failed(failure)
        schedule.failed(step, failure, policy.clock())
        request.failed(attempt, not_answered)
        raise
    except BaseException:  # the caller has left, or our own code failed: not the provider's fault
        attempt.abandoned()
        request.ended(attempt)
        raise
    return attempt


def _skip(step: Step, request: TriedRequest, schedule: RetrySchedule) -> None:
    """Goes on without a step, and adds that to the route's reason."""
    schedule.skip(step)
    request.reason = f"{request.reason}; {step.provider} is left alone"


def _patience(provider: Provider, request: TriedRequest, now: float, *, is_last: bool) -> Patience:
    """Returns how long the attempt may take. Raises errors.GatewayTimeout when no time is left.

    A provider's limit for the first byte is for streams: the first byte of a whole answer comes with its last one.
    """
    first_byte = provider.first_byte_timeout_seconds if request.facts.stream else math.inf
    return request.deadline.limits(provider.connect_timeout_seconds, first_byte, now, is_last=is_last)


async def _send_hedged(
    due: ScheduledAttempt, send: Send[Answer], request: TriedRequest, schedule: RetrySchedule
) -> Attempt[Answer] | None:
    """Sends an attempt, and a second one beside it if the first is slow to begin. As `_send_one` otherwise."""
    hedging = request.policy.hedging
    assert hedging is not None
    racer = _Racer(due, send, request, schedule)
    try:
        winner = await hedged(
            racer,
            due.step,
            lambda: schedule.peek(request.policy.clock()),
            hedging.delay_seconds(due.step, request.facts.organisation),
            hedging.budget_of(request.facts.organisation),
            failed=lambda *_: None,  # the attempt itself has reported it
        )
    except _Refused:
        return None
    if winner.step is not due.step:
        request.reason = f"{request.reason}; hedged: {due.step.provider} was slow to begin"
    return winner.answer


class _Refused(Exception):
    """The breaker refused one of the two in a race."""


class _Racer(Generic[Answer]):
    """Implements hedging.Racer with attempts."""

    def __init__(
        self, first: ScheduledAttempt, send: Send[Answer], request: TriedRequest, schedule: RetrySchedule
    ) -> None:
        self._first = first
        self._send = send
        self._request = request
        self._schedule = schedule

    async def attempt(self, step: Step) -> Attempt[Answer]:
        """Returns the attempt when its answer has begun. Raises NotAnswered, or _Refused."""
        due = self._first
        is_hedge = step is not due.step
        if is_hedge:
            self._schedule.hedge(step)
            due = ScheduledAttempt(step, self._schedule.attempts, 0.0, is_last=True)
        attempt = await _send_one(due, self._send, self._request, self._schedule, is_hedge)
        if attempt is None:
            raise _Refused
        return attempt

    async def abandon(self, step: Step, answer: Attempt[Answer] | None) -> int:
        """Ends an attempt that lost, and returns its cost in pico-dollars."""
        if answer is not None:  # else `_send_one` has counted it, if it was sent
            answer.abandoned()
            self._request.cut(step, answer.usage)
            await self._send.close(answer.answer)
        return self._request.beaten(step)


def _final_error(plan: Plan, request: TriedRequest, schedule: RetrySchedule) -> ServiceError:
    """Returns the error for the caller when no attempt has answered: the last attempt's, or a summary of all."""
    model = request.facts.model
    last = request.error
    if last is None:  # no attempt was sent
        if not any(step.provider in request.providers for step in plan.steps):
            return ModelUnavailable("No provider of this model is configured.", details={"model": model})
        return request.policy.circuit_open(plan, request.facts, request.policy.clock())
    error = schedule.error(request.policy.clock(), last)
    if error is not last:
        error.details = {"model": model, "attempts": schedule.attempts}
    return error
