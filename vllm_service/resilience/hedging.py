"""Sends a second attempt to the next offer when the first is slow to begin; exactly one of the two answers.

The attempt that loses is extra spend. Its budget is a share of what answers cost anyway: every dollar earns some cents,
up to a limit, and no hedge is sent that could cost more than has been earned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from statistics import median_high
from typing import Any, Generic, Protocol, TypeVar

from vllm_service.domain.plan import Step

Answer = TypeVar("Answer")
Sleep = Callable[[float], Awaitable[None]]
HEADER = b"x-hedge"
#: How many organisations' times are kept at one offer, and how many organisations' budgets.
MOST_ORGANISATIONS = 256


@dataclass(frozen=True, kw_only=True)
class HedgeSettings:
    """Settings for the time at which a hedge is sent, and for its budget."""

    #: The share of spend that may go to attempts that lose; 0 never hedges.
    percent: int = 5
    #: The most that the budget can save up.
    burst_picousd: int = 10**12
    #: The time that the first attempt has to begin; None: the offer's own 95th percentile.
    delay_seconds: float | None = None
    #: How many of an offer's latest answers the percentile is taken from.
    samples: int = 200
    #: With fewer there is no percentile; 20 is the least for which the 95th is not simply the largest.
    fewest_samples: int = 20


class HedgeBudget:
    """A bucket of pico-dollars. Extra spend stays below its share unless a loser costs more than was expected.

    The bucket starts empty: hedges are paid from what answers have earned.
    """

    def __init__(self, settings: HedgeSettings) -> None:
        self._percent = settings.percent
        self._burst = settings.burst_picousd
        # In hundredths of a pico-dollar, so that a percent of any cost is whole and nothing is lost by rounding.
        self._hundredths = 0
        #: What all losers have cost.
        self.spent_extra_picousd = 0

    @property
    def picousd(self) -> int:
        """The most that a hedge may cost now; below 0 after losers that cost more than expected."""
        return self._hundredths // 100

    def earn(self, cost_picousd: int) -> None:
        """Adds the share of what an answer has cost."""
        self._hundredths = min(self._hundredths + cost_picousd * self._percent, self._burst * 100)

    def reserve(self, first: Step, second: Step) -> int | None:
        """Sets aside what the loser of the two can cost. Returns it; None if it is too much or a cost is unknown."""
        if first.cost_picousd is None or second.cost_picousd is None:
            return None
        # Which of the two will lose is not known yet, so the dearer one is covered.
        most = max(first.cost_picousd, second.cost_picousd)
        if self._percent <= 0 or most > self.picousd:
            return None
        self._hundredths -= most * 100
        return most

    def settle(self, reserved_picousd: int, lost_picousd: int) -> None:
        """Books what the loser has cost; the rest of what was set aside returns to the bucket."""
        self._hundredths = min(self._hundredths + (reserved_picousd - lost_picousd) * 100, self._burst * 100)
        self.spent_extra_picousd += lost_picousd


class FirstBytes:
    """The seconds to the first byte of one offer's latest answers to one organisation."""

    def __init__(self, settings: HedgeSettings) -> None:
        self._latest: deque[float] = deque(maxlen=settings.samples)
        self._fewest = settings.fewest_samples
        self._p95: float | None = None
        self._new = 0

    def add(self, seconds: float) -> None:
        """Adds an answer that has begun."""
        self._latest.append(seconds)
        self._new += 1

    def p95(self) -> float | None:
        """Returns the 95th percentile; None while there are fewer than `fewest_samples`.

        It is computed again only after as many new samples, since sorting for each request would cost too much.
        """
        if len(self._latest) >= self._fewest and (self._p95 is None or self._new >= self._fewest):
            # The nearest rank, ceil(0.95 n), in whole numbers: -(-a // b) rounds up.
            self._p95 = sorted(self._latest)[-(-len(self._latest) * 95 // 100) - 1]
            self._new = 0
        return self._p95


class OfferFirstBytes:
    """The seconds to the first byte at one offer: of an organisation's own answers, so that none slows the others."""

    def __init__(self, settings: HedgeSettings) -> None:
        self._settings = settings
        self._of: dict[str, FirstBytes] = {}

    def add(self, organisation: str, seconds: float) -> None:
        """Adds an answer that has begun."""
        first_bytes = self._of.get(organisation)
        if first_bytes is None:
            if len(self._of) >= MOST_ORGANISATIONS:
                del self._of[next(iter(self._of))]  # it is learned again
            first_bytes = self._of[organisation] = FirstBytes(self._settings)
        first_bytes.add(seconds)

    def p95(self, organisation: str) -> float | None:
        """Returns the organisation's 95th percentile; the median of the others' where too little is known of it."""
        own = self._of.get(organisation)
        known = None if own is None else own.p95()
        if known is not None:
            return known
        others = [p95 for first_bytes in self._of.values() if (p95 := first_bytes.p95()) is not None]
        return median_high(others) if others else None


@dataclass
class Hedging:
    """Keeps each offer's times to the first byte, and each organisation's budget for second attempts."""

    settings: HedgeSettings = field(default_factory=HedgeSettings)
    #: Whether requests without the header are hedged.
    is_on: bool = False

    def __post_init__(self) -> None:
        self._budgets: dict[str, HedgeBudget] = {}
        self._first_bytes: dict[tuple[str, str], OfferFirstBytes] = {}

    def budget_of(self, organisation: str) -> HedgeBudget:
        """Returns the budget that an organisation's own answers earn, so that none spends what others have earned."""
        budget = self._budgets.get(organisation)
        if budget is None:
            if len(self._budgets) >= MOST_ORGANISATIONS:
                del self._budgets[next(iter(self._budgets))]  # it begins anew, with nothing earned
            budget = self._budgets[organisation] = HedgeBudget(self.settings)
        return budget

    def is_on_for(self, headers: Mapping[bytes, bytes]) -> bool:
        """Returns whether a request may be hedged: by its header `x-hedge: on` or `off`, else as configured."""
        header = headers.get(HEADER)
        return self.is_on if header is None else header == b"on"

    def delay_seconds(self, step: Step, organisation: str) -> float | None:
        """Returns how long the first attempt has to begin; None: no hedge, too little is known of its offer."""
        if self.settings.delay_seconds is not None:
            return self.settings.delay_seconds
        first_bytes = self._first_bytes.get((step.provider, step.model))
        return None if first_bytes is None else first_bytes.p95(organisation)

    def began(self, step: Step, organisation: str, seconds: float) -> None:
        """Records the seconds to the first byte of an answer to the organisation."""
        first_bytes = self._first_bytes.get((step.provider, step.model))
        if first_bytes is None:
            first_bytes = OfferFirstBytes(self.settings)
            self._first_bytes[step.provider, step.model] = first_bytes
        first_bytes.add(organisation, seconds)


class Racer(Protocol[Answer]):
    """Sends and stops the attempts of a race. Neither method may suppress its cancellation."""

    async def attempt(self, step: Step) -> Answer:
        """Returns at the first content; raises when the provider fails. Cleans up when it is cancelled."""
        ...

    async def abandon(self, step: Step, answer: Answer | None) -> int:
        """Books an attempt that lost, and closes its answer if it has one. Returns its cost in pico-dollars."""
        ...


@dataclass(frozen=True, slots=True)
class Winner(Generic[Answer]):
    """The answer, and the step that it comes from."""

    step: Step
    answer: Answer


async def hedged(
    racer: Racer[Answer],
    first: Step,
    choose_second: Callable[[], Step | None],
    delay_seconds: float | None,
    budget: HedgeBudget,
    *,
    failed: Callable[[Step, Exception], None],
    sleep: Sleep = asyncio.sleep,
) -> Winner[Answer]:
    """Returns exactly one answer. Raises the first step's failure when there is none. Calls `failed` for every failure.

    choose_second: called when the first has not begun after `delay_seconds` (None: never); None: there is no other.
    """
    # A runner leaves this mapping when it answers or fails; the runners that are left at the end have lost.
    runners: dict[asyncio.Task[Answer], Step] = {asyncio.create_task(_run(racer, first)): first}
    reserved: int | None = None
    winner: Winner[Answer] | None = None
    lost_picousd: list[int] = []
    try:
        if delay_seconds is not None and not await _begins_within(next(iter(runners)), delay_seconds, sleep):
            second = choose_second()
            reserved = None if second is None else budget.reserve(first, second)
            if second is not None and reserved is not None:
                runners[asyncio.create_task(_run(racer, second))] = second
        winner = await _first_to_answer(runners, first, failed)
        return winner
    finally:  # reached by an answer, a failure and a cancellation alike: no attempt may go on without being booked
        try:
            if runners:
                await _end_race(racer, runners, winner, failed, lost_picousd)
        finally:
            if reserved is not None:
                budget.settle(reserved, sum(lost_picousd))


async def _run(racer: Racer[Answer], step: Step) -> Answer:
    return await racer.attempt(step)


async def _begins_within(task: asyncio.Task[Answer], seconds: float, sleep: Sleep) -> bool:
    timer = asyncio.ensure_future(sleep(seconds))
    both: set[asyncio.Future[Any]] = {task, timer}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
    return task.done()


async def _first_to_answer(
    runners: dict[asyncio.Task[Answer], Step], first: Step, failed: Callable[[Step, Exception], None]
) -> Winner[Answer]:
    """Returns the winner; takes it, and the runners that failed before it, out of `runners`.

    When all have failed, raises the first step's failure: a second one's failure, or its open breaker, explains less.
    """
    failure: Exception | None = None
    while True:
        done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
        # In the plan's order, since `done` is a set: when both have begun, the first one wins.
        for task in [task for task in runners if task in done]:
            error = task.exception()
            step = runners.pop(task)
            if error is None:
                return Winner(step, task.result())
            if not isinstance(error, Exception):
                raise error
            failed(step, error)
            failure = error if failure is None or step is first else failure
            if not runners:
                raise failure


async def _end_race(
    racer: Racer[Answer],
    runners: dict[asyncio.Task[Answer], Step],
    winner: Winner[Answer] | None,
    failed: Callable[[Step, Exception], None],
    lost_picousd: list[int],
) -> None:
    """Stops the runners that are left and adds their costs to `lost_picousd`.

    When that raises, or the caller leaves meanwhile, the winner's answer reaches no caller and is abandoned as well.
    """

    async def stop_all() -> None:
        for task, step in runners.items():
            lost_picousd.append(await _stop(racer, task, step, failed))

    async def abandon(unclaimed: Winner[Answer]) -> None:
        lost_picousd.append(await racer.abandon(unclaimed.step, unclaimed.answer))

    try:
        await _to_its_end(stop_all())
    except BaseException:
        if winner is not None:
            await _to_its_end(abandon(winner))
        raise


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits until the work is done, however often the caller is cancelled; only then raises CancelledError."""
    task = asyncio.create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            # Unlike `await task`, this leaves the task alone when the caller is cancelled.
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancellation = error
    try:
        task.result()
    finally:  # even when the work has failed: a timeout around the caller counts on its own cancellation
        if cancellation is not None:
            raise cancellation


async def _stop(
    racer: Racer[Answer], task: asyncio.Task[Answer], step: Step, failed: Callable[[Step, Exception], None]
) -> int:
    """Cancels an attempt and waits until it has cleaned up, since its cost is known only then. Returns that cost."""
    task.cancel()
    await asyncio.wait({task})
    # It may have failed, or even answered, before the cancellation reached it.
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        failed(step, error)
        return 0
    return await racer.abandon(step, None if task.cancelled() else task.result())
