"""A slow start is hedged within a budget; exactly one request answers and the other is stopped and booked."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import until
from vllm_service.domain.plan import Step
from vllm_service.resilience.hedging import (
    MOST_ORGANISATIONS,
    FirstBytes,
    HedgeBudget,
    HedgeSettings,
    Hedging,
    Winner,
    hedged,
)

FIRST, SECOND = Step("a", "m", cost_picousd=100), Step("b", "m", cost_picousd=300)
DELAY = 0.25


class Broken(Exception):
    """A place fails."""


class Race:
    """Both places answer, fail or are slow as the test says; time passes when it says so."""

    def __init__(self, percent: int = 5, spent: int = 100_000) -> None:
        self.sent: dict[str, asyncio.Future[str]] = {}
        self.started = asyncio.Event()
        self.delay = asyncio.Event()
        self.cleaned: list[str] = []
        self.abandoned: list[tuple[str, str | None]] = []
        self.failures: list[str] = []
        self.slept: list[float] = []
        self.budget = HedgeBudget(HedgeSettings(percent=percent))
        self.budget.earn(spent)

    async def attempt(self, step: Step) -> str:
        self.sent[step.provider] = asyncio.get_running_loop().create_future()
        self.started.set()
        try:
            return await self.sent[step.provider]
        finally:
            self.cleaned.append(step.provider)

    async def abandon(self, step: Step, answer: str | None) -> int:
        self.abandoned.append((step.provider, answer))
        return 70

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.delay.wait()

    def failed(self, step: Step, error: Exception) -> None:
        self.failures.append(step.provider)

    def run(self, second: Step | None = SECOND, delay: float | None = DELAY) -> asyncio.Task[Winner[str]]:
        race = hedged(self, FIRST, lambda: second, delay, self.budget, failed=self.failed, sleep=self.sleep)
        return asyncio.create_task(race)

    async def until_sent(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                self.started.clear()
                await self.started.wait()


async def test_a_first_byte_in_time_sends_no_hedge() -> None:
    race = Race()
    task = race.run()
    await race.until_sent(1)
    race.sent["a"].set_result("A")
    assert await task == Winner(FIRST, "A")
    assert (list(race.sent), race.slept, race.abandoned) == (["a"], [DELAY], [])
    assert race.budget.picousd == 5000


@pytest.mark.parametrize(("winner", "loser"), [("a", "b"), ("b", "a")])
async def test_the_faster_of_two_answers_and_the_other_is_stopped_and_booked(winner: str, loser: str) -> None:
    race = Race()
    task = race.run()
    race.delay.set()
    await race.until_sent(2)
    race.sent[winner].set_result("answer")
    won = await task
    assert (won.step.provider, won.answer) == (winner, "answer")
    assert race.cleaned == [winner, loser]
    assert race.abandoned == [(loser, None)]
    assert (race.budget.picousd, race.budget.spent_extra_picousd) == (5000 - 70, 70)


async def test_when_both_begin_in_the_same_moment_one_answers_and_the_others_answer_is_closed() -> None:
    race = Race()
    task = race.run()
    race.delay.set()
    await race.until_sent(2)
    race.sent["b"].set_result("B")
    race.sent["a"].set_result("A")
    won = await task
    other = {"a": ("b", "B"), "b": ("a", "A")}[won.step.provider]
    assert race.abandoned == [other]


async def test_a_failure_before_the_delay_is_raised_at_once() -> None:
    race = Race()
    task = race.run()
    await race.until_sent(1)
    race.sent["a"].set_exception(Broken())
    with pytest.raises(Broken):
        await task
    assert (list(race.sent), race.failures) == (["a"], ["a"])


@pytest.mark.parametrize(("broken", "other"), [("a", "b"), ("b", "a")])
async def test_when_one_of_two_fails_the_other_answers(broken: str, other: str) -> None:
    race = Race()
    task = race.run()
    race.delay.set()
    await race.until_sent(2)
    race.sent[broken].set_exception(Broken())
    race.sent[other].set_result("answer")
    assert (await task).step.provider == other
    assert (race.failures, race.abandoned) == ([broken], [])
    assert race.budget.picousd == 5000


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_when_both_fail_the_caller_hears_why_the_first_place_did(order: str) -> None:
    race = Race()
    task = race.run()
    await race.until_sent(1)
    race.delay.set()
    await race.until_sent(2)
    for place in order:
        race.sent[place].set_exception(Broken(place))
        await until(lambda place=place: place in race.failures)  # type: ignore[misc]
    with pytest.raises(Broken, match="a"):
        await task


async def test_when_both_fail_one_failure_is_raised_and_both_are_told() -> None:
    race = Race()
    task = race.run()
    race.delay.set()
    await race.until_sent(2)
    for future in race.sent.values():
        future.set_exception(Broken())
    with pytest.raises(Broken):
        await task
    assert sorted(race.failures) == ["a", "b"]


async def test_a_caller_who_leaves_stops_both() -> None:
    race = Race()
    task = race.run()
    race.delay.set()
    await race.until_sent(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(race.cleaned) == ["a", "b"]
    assert sorted(race.abandoned) == [("a", None), ("b", None)]


@pytest.mark.parametrize(
    ("race_percent", "spent", "second"),
    [
        (5, 5999, SECOND),  # 299 earned, 300 needed
        (0, 10**9, SECOND),
        (5, 10**9, Step("b", "m", cost_picousd=None)),
        (5, 10**9, None),
    ],
)
async def test_no_hedge_without_budget_or_a_known_cost_or_another_place(
    race_percent: int, spent: int, second: Step | None
) -> None:
    race = Race(race_percent, spent)
    race.delay.set()
    task = race.run(second)
    await race.until_sent(1)
    race.sent["a"].set_result("A")
    assert (await task).answer == "A"
    assert list(race.sent) == ["a"]


async def test_without_a_delay_nothing_is_hedged() -> None:
    race = Race()
    task = race.run(delay=None)
    await race.until_sent(1)
    race.sent["a"].set_result("A")
    assert (await task).answer == "A"
    assert race.slept == []


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=60),
)
def test_extra_spend_never_exceeds_its_share_of_spend(percent: int, rounds: list[tuple[int, int, int]]) -> None:
    budget, spent, extra = HedgeBudget(HedgeSettings(percent=percent)), 0, 0
    for cost, first, second in rounds:
        reserved = budget.reserve(Step("a", "m", first), Step("b", "m", second))
        if reserved is not None:
            lost = min(first, second)
            budget.settle(reserved, lost)
            extra += lost
        budget.earn(cost)
        spent += cost
        assert extra * 100 <= percent * spent
        assert budget.spent_extra_picousd == extra


def test_a_loser_dearer_than_expected_is_paid_back_before_the_next_hedge() -> None:
    budget = HedgeBudget(HedgeSettings(percent=10))
    budget.earn(10_000)
    reserved = budget.reserve(FIRST, SECOND)
    assert reserved == 300
    budget.settle(reserved, 5_000)
    assert budget.picousd == -4_000
    assert budget.reserve(FIRST, SECOND) is None


def test_the_p95_of_first_bytes_is_unknown_until_there_are_enough_and_follows_the_latest() -> None:
    times = FirstBytes(HedgeSettings(samples=100, fewest_samples=20))
    for number in range(19):
        times.add(float(number))
    assert times.p95() is None
    times.add(19.0)
    assert times.p95() == 18.0
    for _ in range(100):
        times.add(0.5)
    assert times.p95() == 0.5


def test_one_organisations_slow_answers_put_off_no_other_ones_hedge() -> None:
    hedging = Hedging(HedgeSettings(fewest_samples=20), is_on=True)
    step = Step("p", "m")
    for number in range(20):
        for name in ("good", "other"):
            hedging.began(step, name, 0.01 * number)
    for _ in range(1000):
        hedging.began(step, "attacker", 60.0)
    assert hedging.delay_seconds(step, "attacker") == 60.0
    assert hedging.delay_seconds(step, "good") == pytest.approx(0.18)
    assert hedging.delay_seconds(step, "new") == pytest.approx(0.18)
    for number in range(MOST_ORGANISATIONS * 2):
        hedging.began(step, f"organisation {number}", 1.0)
    assert len(hedging._first_bytes["p", "m"]._of) == MOST_ORGANISATIONS
