"""Trying the places of a plan until one begins to answer; after that nobody else is asked. docs/failing-over.md."""

from __future__ import annotations

import asyncio
import time

from vllm_service.errors import GatewayTimeout, ModelUnavailable, RateLimited, ServiceError
from vllm_service.gateway.call import Call, Sent
from vllm_service.gateway.hedged_attempts import hedged_attempt
from vllm_service.gateway.judging import NotAnswered
from vllm_service.gateway.one_attempt import attempted
from vllm_service.routing.deadlines import Deadline
from vllm_service.routing.failures import ONLY_HERE, OUR_ACCOUNT
from vllm_service.routing.fallback import Course
from vllm_service.routing.plan import Plan


async def first_answer(call: Call, plan: Plan, deadline: Deadline) -> Sent:
    """The first answer that holds content. Raises the caller's own error at once, else what all failures amount to."""
    course = Course(plan.steps, call.failing_over.retries, deadline)
    error: ServiceError | None = None
    while (attempt := course.next(time.monotonic())) is not None:
        if call.caller.has_left:  # its place was to be read to the end, and failed: nobody else is paid for nobody
            raise asyncio.CancelledError
        begin = hedged_attempt if attempt.number == 1 and _is_hedged(call) else attempted
        try:
            sent = await begin(call, attempt, course, deadline)
        except NotAnswered as failed:
            error = failed.error
            if not failed.is_told:
                course.failed(attempt.step, failed.failure, time.monotonic())
            if failed.failure.is_final:
                raise failed.error from None
        else:
            if sent is not None:
                return sent
    raise given_up(call, plan, course, error)


def _is_hedged(call: Call) -> bool:
    """First attempts only; later ones are a second place already. Two answers may cost more than a cap allows."""
    hedging = call.failing_over.hedging
    return hedging is not None and hedging.wanted_by(call.headers) and call.facts.cap_picousd is None


def given_up(call: Call, plan: Plan, course: Course, last: ServiceError | None) -> ServiceError:
    """What the caller is told; the last place's own words where they say more than that it failed."""
    now, model = time.monotonic(), call.facts.model
    if last is None:
        if not any(step.provider in call.configured.catalog.providers for step in plan.steps):
            return ModelUnavailable("No provider of this model is configured.", details={"model": model})
        return call.failing_over.all_left_alone(plan, model, now)
    if all(failure.told_status in ONLY_HERE | OUR_ACCOUNT for _, failure in course.failures):
        return last
    error = course.error(now)
    if not isinstance(error, RateLimited | GatewayTimeout) and not isinstance(last, RateLimited):
        return last
    error.details = {"model": model, "attempts": course.attempts}
    if isinstance(error, RateLimited) and error.retry_after_seconds is None:
        error.retry_after_seconds = 1.0
    return error
