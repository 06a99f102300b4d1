"""A second request to the next place when the first is slow to begin, within a budget; exactly one of them answers.

Of two requests the one that does not answer is extra spend. Its budget is a share of what is spent anyway: every dollar
spent earns some cents, up to a limit, and no hedge is sent that could cost more than has been earned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from vllm_service.domain.plan import Step

Answer = TypeVar("Answer")
Sleep = Callable[[float], Awaitable[None]]
HEADER = b"x-hedge"


@dataclass(frozen=True, kw_only=True)
class HedgeSettings:
    """percent: of spend, at most, for requests that do not answer; 0 never hedges. delay_seconds None: the p95.

    burst_picousd: how much can be saved up; samples: of first bytes that the p95 is taken from.
    """

    percent: int = 5
    burst_picousd: int = 10**12
    delay_seconds: float | None = None
    samples: int = 200
    fewest_samples: int = 20


class HedgeBudget:
    """A bucket of pico-dollars: extra spend stays below its share unless a loser costs more than was expected."""

    def __init__(self, settings: HedgeSettings) -> None:
        self._percent = settings.percent
        self._burst = settings.burst_picousd
        self._hundredths = 0  # of pico-dollars, so that a percent of a small cost is not lost
        self.spent_extra_picousd = 0

    @property
    def picousd(self) -> int:
        """What a hedge may cost now; below 0 when losers cost more than expected."""
        return self._hundredths // 100

    def earn(self, cost_picousd: int) -> None:
        """So much was spent on requests that answered."""
        self._hundredths = min(self._hundredths + cost_picousd * self._percent, self._burst * 100)

    def reserve(self, first: Step, second: Step) -> int | None:
        """Pico-dollars set aside for whichever of the two loses; None: not enough, or a cost is unknown."""
        if first.cost_picousd is None or second.cost_picousd is None:
            return None
        most = max(first.cost_picousd, second.cost_picousd)
        if self._percent <= 0 or most > self.picousd:
            return None
        self._hundredths -= most * 100
        return most

    def settle(self, reserved_picousd: int, lost_picousd: int) -> None:
        """The loser cost so much; the rest of what was set aside comes back."""
        self._hundredths = min(self._hundredths + (reserved_picousd - lost_picousd) * 100, self._burst * 100)
        self.spent_extra_picousd += lost_picousd


class FirstBytes:
    """How long one place takes to its first byte, of its latest answers; seconds."""

    def __init__(self, settings: HedgeSettings) -> None:
        self._latest: deque[float] = deque(maxlen=settings.samples)
        self._fewest = settings.fewest_samples
        self._p95: float | None = None
        self._new = 0

    def add(self, seconds: float) -> None:
        """One answer has begun."""
        self._latest.append(seconds)
        self._new += 1

    def p95(self) -> float | None:
        """None while there are too few; worked out anew every twentieth sample."""
        if len(self._latest) >= self._fewest and (self._p95 is None or self._new >= self._fewest):
            self._p95 = sorted(self._latest)[-(-len(self._latest) * 95 // 100) - 1]
            self._new = 0
        return self._p95


@dataclass
class Hedging:
    """How slow each place is to begin, and what may be spent on a second request. is_on: where nothing was asked for.

    The budget starts empty: it is earned.
    """

    settings: HedgeSettings = field(default_factory=HedgeSettings)
    is_on: bool = False

    def __post_init__(self) -> None:
        self.budget = HedgeBudget(self.settings)
        self._first_bytes: dict[tuple[str, str], FirstBytes] = {}

    def is_on_for(self, headers: Mapping[bytes, bytes]) -> bool:
        """`x-hedge: on` or `off`, else as configured."""
        sent = headers.get(HEADER)
        return self.is_on if sent is None else sent == b"on"

    def delay_seconds(self, step: Step) -> float | None:
        """When the second request is sent; None: never, too little is known of the first place."""
        if self.settings.delay_seconds is not None:
            return self.settings.delay_seconds
        known = self._first_bytes.get((step.provider, step.model))
        return None if known is None else known.p95()

    def began(self, step: Step, seconds: float) -> None:
        """An answer's first byte came after so long."""
        known = self._first_bytes.get((step.provider, step.model))
        if known is None:
            known = self._first_bytes[step.provider, step.model] = FirstBytes(self.settings)
        known.add(seconds)


class Racer(Protocol[Answer]):
    """What the driver gives the race. Neither may swallow its cancellation."""

    async def attempt(self, step: Step) -> Answer:
        """Returns with the first byte of content; raises when the place fails. Cleans up when it is cancelled."""
        ...

    async def abandon(self, step: Step, answer: Answer | None) -> int:
        """The request lost: closes its answer if it has one already, books it, returns its cost in pico-dollars."""
        ...


@dataclass(frozen=True, slots=True)
class Won(Generic[Answer]):
    """The answer, and the place it comes from."""

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
) -> Won[Answer]:
    """Exactly one answer; raises the first place's failure when there is none. Every failure is told to `failed`.

    choose_second: asked after `delay_seconds` (None: never), when the first has not begun; None: there is no other.
    """
    runners: dict[asyncio.Task[Answer], Step] = {asyncio.create_task(_run(racer, first)): first}
    reserved: int | None = None
    try:
        if delay_seconds is not None and not await _begins_within(next(iter(runners)), delay_seconds, sleep):
            second = choose_second()
            reserved = None if second is None else budget.reserve(first, second)
            if second is not None and reserved is not None:
                runners[asyncio.create_task(_run(racer, second))] = second
        return await _first_to_answer(runners, first, failed)
    finally:
        lost = [await _stop(racer, task, step, failed) for task, step in runners.items()]
        if reserved is not None:
            budget.settle(reserved, sum(lost))


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
) -> Won[Answer]:
    """Takes the winner, and those that failed, out of the runners: who is left has lost.

    That the second place was left alone, or failed too, says less than why the first did.
    """
    told: Exception | None = None
    while True:
        done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in runners if task in done]:  # in the plan's order
            error = task.exception()
            step = runners.pop(task)
            if error is None:
                return Won(step, task.result())
            if not isinstance(error, Exception):
                raise error
            failed(step, error)
            told = error if told is None or step is first else told
            if not runners:
                raise told


async def _stop(
    racer: Racer[Answer], task: asyncio.Task[Answer], step: Step, failed: Callable[[Step, Exception], None]
) -> int:
    """Cancels it and waits until it has cleaned up, since only then what it cost is known."""
    task.cancel()
    await asyncio.wait({task})
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        failed(step, error)
        return 0
    return await racer.abandon(step, None if task.cancelled() else task.result())
