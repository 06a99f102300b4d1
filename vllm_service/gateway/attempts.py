"""Trying the places of a plan until one begins to answer; after that nobody else is asked. docs/failing-over.md."""

from __future__ import annotations

import asyncio
import time

from vllm_service.errors import GatewayTimeout, ModelUnavailable, RateLimited, ServiceError
from vllm_service.gateway.call import Call, Sent
from vllm_service.gateway.sending import NotAnswered, send
from vllm_service.providers.protocol import Patience
from vllm_service.routing.deadlines import Deadline
from vllm_service.routing.failures import ONLY_HERE, OUR_ACCOUNT
from vllm_service.routing.fallback import Attempt, Course
from vllm_service.routing.plan import Plan


async def first_answer(call: Call, plan: Plan, deadline: Deadline) -> Sent:
    """The first answer that holds content. Raises the caller's own error at once, else what all failures amount to."""
    failing_over = call.failing_over
    course = Course(plan.steps, failing_over.retries, deadline)
    error: ServiceError | None = None
    while (attempt := course.next(time.monotonic())) is not None:
        try:
            sent = await attempted(call, attempt, course, deadline)
        except NotAnswered as failed:
            error = failed.error
            course.failed(attempt.step, failed.failure, time.monotonic())
            if failed.failure.is_final:
                raise failed.error from None
        else:
            if sent is not None:
                return sent
    raise given_up(call, plan, course, error)


async def attempted(call: Call, attempt: Attempt, course: Course, deadline: Deadline) -> Sent | None:
    """None: the place is left alone for now, nothing was sent. Raises NotAnswered, or errors.GatewayTimeout."""
    step = attempt.step
    provider = call.configured.catalog.providers.get(step.provider)
    if attempt.wait_seconds > 0:
        await asyncio.sleep(attempt.wait_seconds)
    admission = None if provider is None else await call.failing_over.shared.admit(step)
    if provider is None or admission is None:
        course.skip(step)
        call.reason = f"{call.reason}; {step.provider} is left alone"
        return None
    now = time.monotonic()
    try:
        limits = deadline.limits(
            provider.connect_timeout_seconds, provider.first_byte_timeout_seconds, now, is_last=attempt.is_last
        )
    except ServiceError:
        call.failing_over.shared.cancelled(step, admission)
        raise
    call.step = step
    patience = Patience(limits.connect_seconds, limits.first_byte_seconds, limits.total_seconds)
    return await send(call, step, provider, admission, patience)


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
