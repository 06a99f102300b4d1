"""An attempt ends once, whatever is called, and every listener hears of that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.vllm_service.routing.catalogs import catalog, facts
from vllm_service.domain.breakers import BreakerState
from vllm_service.domain.plan import Step
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import UpstreamFailed
from vllm_service.http.upstream import Patience
from vllm_service.resilience.attempts import Attempt, TriedRequest, first_answer
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.resilience.failures import Failure, Kind, NotAnswered
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import Deadline
from vllm_service.routing.router import CostRouter, ObservedAttempt

FAILURE = Failure(Kind.STATUS, 500)
EXITS: dict[str, Callable[[Attempt[str]], None]] = {
    "succeeded": lambda attempt: attempt.succeeded(Usage(10, 3)),
    "failed": lambda attempt: attempt.failed(FAILURE),
    "abandoned": lambda attempt: attempt.abandoned(),
}


@dataclass
class Sends:
    """An attempts.Send that returns or raises what stands next in its list; a trace that notes the ends down."""

    results: list[str | BaseException]
    left: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    is_answer_needed = True

    async def __call__(self, attempt: Attempt[str], patience: Patience) -> str:
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    async def close(self, answer: str) -> None:
        self.left.append(answer)

    def attempted(self, step: Step, seconds: float, outcome: str, status: int | None) -> None:
        self.ends.append(outcome)


@dataclass
class World:
    """A router, breakers that open at the first failure, and one request."""

    sends: Sends
    router: CostRouter = field(default_factory=lambda: CostRouter(catalog()))
    policy: ResiliencePolicy = field(
        default_factory=lambda: ResiliencePolicy.of(BreakerSettings(consecutive_failures=1))
    )

    async def first_answer(self) -> Attempt[str]:
        asked, now = facts(strategy="QUALITY"), self.policy.clock()
        plan = self.router.plan(asked, now)
        self.step = plan.steps[0]
        request = TriedRequest(
            self.policy, self.router, catalog().providers, {}, asked, Deadline(now, 10), plan.reason, trace=self.sends
        )
        return await first_answer(plan, self.sends, request)

    @property
    def in_flight(self) -> int:
        return sum(candidate.in_flight for candidate in self.router._routes["m"].candidates)

    @property
    def breaker(self) -> BreakerState:
        return self.policy.breakers.of(self.step.provider, self.step.model).state(self.policy.clock())


@pytest.mark.parametrize("second", EXITS)
@pytest.mark.parametrize("first", EXITS)
async def test_only_the_first_exit_of_an_attempt_counts(first: str, second: str) -> None:
    world = World(Sends(["answer"]))
    attempt = await world.first_answer()
    assert (attempt.answer, world.in_flight) == ("answer", 1)
    EXITS[first](attempt)
    EXITS[second](attempt)
    assert world.in_flight == 0
    assert world.sends.ends == [{"succeeded": "completed", "failed": "failed", "abandoned": "left"}[first]]
    assert world.breaker is (BreakerState.OPEN if first == "failed" else BreakerState.CLOSED)


@pytest.mark.parametrize("fault", [RuntimeError("our own"), asyncio.CancelledError()], ids=["our fault", "cancelled"])
async def test_whatever_ends_a_request_ends_its_attempt_and_blames_no_provider(fault: BaseException) -> None:
    world = World(Sends([fault]))
    with pytest.raises(type(fault)):
        await world.first_answer()
    assert (world.in_flight, world.sends.ends, world.breaker) == (0, ["left"], BreakerState.CLOSED)


async def test_an_attempt_that_failed_is_over_when_the_next_one_begins() -> None:
    world = World(Sends([NotAnswered(FAILURE, UpstreamFailed("broken")), "answer"]))
    attempt = await world.first_answer()
    assert (world.in_flight, world.sends.ends) == (1, ["failed"])
    attempt.abandoned()
    assert (world.in_flight, world.sends.ends) == (0, ["failed", "left"])


async def test_a_request_that_is_answer_needed_no_more_makes_no_second_attempt() -> None:
    sends = Sends([NotAnswered(FAILURE, UpstreamFailed("broken")), "answer"])
    sends.is_answer_needed = False
    with pytest.raises(asyncio.CancelledError):
        await World(sends).first_answer()
    assert sends.results == ["answer"]


class StartsNothing(CostRouter):
    """A router with a fault of its own."""

    def started(self, step: Step, facts: RequestFacts, now_seconds: float) -> ObservedAttempt:
        raise RuntimeError("our own")


async def test_a_probe_is_given_back_when_the_router_cannot_start_it() -> None:
    now = 1000.0
    settings = BreakerSettings(consecutive_failures=1)
    breakers = Breakers(settings)
    shared = SharedBreakers(breakers, None, lambda: now, probe_seconds=settings.probe_seconds)
    world = World(Sends([]), StartsNothing(catalog()), ResiliencePolicy(breakers, shared, clock=lambda: now))
    step = world.router.plan(facts(strategy="QUALITY"), now).steps[0]
    admission = await shared.admit(step)
    assert admission is not None
    shared.failed(step, admission, 500, None)
    now += settings.open_seconds
    with pytest.raises(RuntimeError):
        await world.first_answer()
    assert world.breaker is BreakerState.HALF_OPEN
    assert breakers.allows(step, now)
