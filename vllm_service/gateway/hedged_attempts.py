"""The first attempt, sent to a second place as well when the first is slow to begin. See routing/hedging.py."""

from __future__ import annotations

import asyncio
import time

from vllm_service.domain.usage import Usage
from vllm_service.gateway import outcomes
from vllm_service.gateway.call import Call, Loss, Sent
from vllm_service.gateway.judging import NotAnswered
from vllm_service.gateway.one_attempt import attempted
from vllm_service.routing.deadlines import Deadline
from vllm_service.routing.fallback import Attempt, Course
from vllm_service.routing.hedging import hedged
from vllm_service.routing.plan import Step


class LeftAlone(Exception):
    """Nothing was sent: the breaker leaves the place alone."""


class Race:
    """A hedging.Racer over the gateway's attempts; `losses` holds what was abandoned."""

    def __init__(self, call: Call, course: Course, deadline: Deadline, attempt: Attempt) -> None:
        self.losses: list[Loss] = []
        self.first_sent: float | None = None
        self._call, self._course, self._deadline = call, course, deadline
        self._first = attempt

    async def attempt(self, step: Step) -> Sent:
        """Raises NotAnswered, or LeftAlone."""
        if step is self._first.step:
            attempt = self._first
        else:
            self._course.hedge(step)
            self.first_sent = self._call.sent
            attempt = Attempt(step, self._course.attempts, 0.0, is_last=True)
        sent = await attempted(self._call, attempt, self._course, self._deadline)
        if sent is None:
            raise LeftAlone
        return sent

    async def abandon(self, step: Step, answer: Sent | None) -> int:
        """See hedging.Racer. A place that was stopped before it answered has read the prompt, as far as is known."""
        call = self._call
        usage = answer.usage if answer is not None else None
        if answer is not None:
            answer.answer.close()
            outcomes.left(call, answer)
        usage = usage or Usage(call.facts.prompt_tokens, 0, estimated=True)
        price = call.model.prices.get((step.provider, step.model))
        cost = step.cost_picousd if price is None else price.cost_picousd(usage)
        self.losses.append(Loss(step, usage, cost))
        return cost or 0

    def failed(self, step: Step, error: Exception) -> None:
        """Told by the race."""
        if isinstance(error, NotAnswered):
            self._course.failed(step, error.failure, time.monotonic())
            error.is_told = True


async def hedged_attempt(call: Call, attempt: Attempt, course: Course, deadline: Deadline) -> Sent | None:
    """Whoever begins first; `call.losses` has the other. As `attempted` otherwise."""
    hedging = call.failing_over.hedging
    assert hedging is not None
    race = Race(call, course, deadline, attempt)
    first = attempt.step
    try:
        won = await hedged(
            race,
            first,
            lambda: course.peek(time.monotonic()),
            hedging.delay_seconds(first),
            hedging.budget,
            failed=race.failed,
        )
    except LeftAlone:
        return None
    except asyncio.CancelledError:
        # The caller has left: the request's own row is about the first place.
        call.step, call.sent = first, race.first_sent or call.sent
        call.losses = [loss for loss in race.losses if loss.step is not first]
        raise
    call.losses = race.losses
    if won.step is not first:
        call.reason = f"{call.reason}; hedged: {first.provider} was slow to begin"
    return won.answer
