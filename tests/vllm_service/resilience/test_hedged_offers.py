"""A hedge between two offers: both attempts are open at once, and nothing of them stays in flight or unbooked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.vllm_service.resilience.doors import DOORS, Opens, Setting, Verdict, World, leaving
from tests.vllm_service.routing.catalogs import catalog, facts
from tests.waiting import turns
from vllm_service.domain.breakers import BreakerState
from vllm_service.http.upstream import Patience
from vllm_service.resilience.attempts import Attempt, TriedRequest, first_answer
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import Deadline
from vllm_service.routing.router import CostRouter
from vllm_service.testing import HANGS, ReceivedRequest, Reply, Script, refused, reply_of, says

TWO = Setting(hedge_after_seconds=0.02, offers_of_one=2)
Pair = tuple[Reply | Script, Reply | Script]
# What the first offer does once the second has been asked, and what the second one does.
PAIRS: dict[str, tuple[Pair, Verdict]] = {
    "the first is quicker": ((says("first"), HANGS), Verdict("answered", 200, None, "provider-1", "first", 2)),
    "the second is quicker": ((HANGS, says("second")), Verdict("answered", 200, None, "provider-1", "second", 2)),
    "the first fails": ((refused(500), says("second")), Verdict("answered", 200, None, "provider-1", "second", 2)),
    "the second fails": ((says("first"), refused(500)), Verdict("answered", 200, None, "provider-1", "first", 2)),
    "both fail": ((refused(500), refused(500)), Verdict("refused", 502, "UPSTREAM_502", "provider-1")),
    "the caller leaves": ((HANGS, HANGS), Verdict("left", 499)),
}


def one_provider(first: Reply | Script, second: Reply | Script) -> Callable[[], list[Script]]:
    """It knows its offers by the name of the model."""

    def scripts() -> list[Script]:
        is_hedged = asyncio.Event()

        async def script(request: ReceivedRequest) -> Reply:
            if request.json["model"] == "small-2":
                is_hedged.set()
                return await reply_of(second, request)
            return (await reply_of(first, request)).after(is_hedged)

        return [script]

    return scripts


async def _asked(world: World, name: str, *, stream: bool) -> Verdict:
    if name != "the caller leaves":
        return await world.door.ask(stream=stream)
    return await leaving(world, world.providers[0].until_requests(2), stream=stream)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", PAIRS)
async def test_two_offers_of_one_provider_leave_nothing_in_flight(name: str, stream: bool, door: Opens) -> None:
    replies, verdict = PAIRS[name]
    async with asyncio.timeout(20), door(one_provider(*replies), TWO) as world:
        assert await _asked(world, name, stream=stream) == verdict
        assert world.in_flight == 0
        assert world.breaker_states == (BreakerState.CLOSED, BreakerState.CLOSED)


EARNED_PICOUSD = HedgeSettings().burst_picousd


@dataclass
class SlowFirst:
    """An attempts.Send whose first attempt never begins and takes some turns to stop; the hedge answers at once."""

    turns_to_stop: int
    is_hedge_sent: asyncio.Event = field(default_factory=asyncio.Event)
    answered: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    is_answer_needed = True

    async def __call__(self, attempt: Attempt[str], patience: Patience) -> str:
        attempt.was_sent = True
        if not attempt.is_hedge:
            try:
                await asyncio.Event().wait()
            finally:
                await turns(self.turns_to_stop)
        self.is_hedge_sent.set()
        await turns(1)
        self.answered.append("hedge")
        return "hedge"

    async def close(self, answer: str) -> None:
        await turns(1)
        self.closed.append(answer)


class HedgedRequest:
    """One request that is hedged as soon as its first attempt is sent."""

    def __init__(self, send: SlowFirst) -> None:
        self.send = send
        self.hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0.0), is_on=True)
        policy = ResiliencePolicy.of(hedging=self.hedging)
        self.router = CostRouter(catalog())
        asked = facts(strategy="QUALITY")
        self.budget = self.hedging.budget_of(asked.organisation)
        self.budget.earn(EARNED_PICOUSD)
        now = policy.clock()
        self.plan = self.router.plan(asked, now)
        self.request = TriedRequest(
            policy, self.router, catalog().providers, {}, asked, Deadline(now, 60), self.plan.reason, is_hedged=True
        )

    async def cancelled_after(self, turns_before: int, turns_between: int | None) -> bool:
        """Cancels so many turns after the hedge was sent, and perhaps once more. Returns False if it had answered."""
        task = asyncio.create_task(first_answer(self.plan, self.send, self.request))
        await self.send.is_hedge_sent.wait()
        await turns(turns_before)
        if task.done():
            task.result().abandoned()
            return False
        task.cancel()
        if turns_between is not None:
            await turns(turns_between)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return True

    @property
    def in_flight(self) -> int:
        return sum(candidate.in_flight for candidate in self.router._routes["m"].candidates)


@pytest.mark.parametrize(
    "turns_between", [None, 0, 1, 2, 4], ids=lambda turns: "once" if turns is None else f"again after {turns}"
)
@pytest.mark.parametrize("turns_to_stop", [0, 5], ids=["quick to stop", "slow to stop"])
async def test_a_caller_who_leaves_at_any_turn_of_a_race_leaves_nothing_open_and_nothing_unbooked(
    turns_to_stop: int, turns_between: int | None
) -> None:
    async with asyncio.timeout(20):
        for turns_before in itertools.count():
            race = HedgedRequest(SlowFirst(turns_to_stop))
            is_cancelled = await race.cancelled_after(turns_before, turns_between)
            first, hedge = race.plan.steps[:2]
            lost = [first, hedge] if is_cancelled else [first]
            cost_picousd = sum(step.cost_picousd or 0 for step in lost)
            budget = race.budget
            assert race.in_flight == 0
            assert race.send.closed == (race.send.answered if is_cancelled else [])
            assert [cut.step for cut in race.request.cuts] == lost
            assert budget.spent_extra_picousd == cost_picousd > 0
            assert budget.picousd == EARNED_PICOUSD - cost_picousd
            if not is_cancelled:
                break
    assert turns_before > turns_to_stop + 3
