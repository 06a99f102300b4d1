"""One attempt of a request's course: let by the breaker, within what is left of the request's time."""

from __future__ import annotations

import asyncio
import time

from vllm_service.errors import ServiceError
from vllm_service.gateway.call import Call, Sent
from vllm_service.gateway.sending import send
from vllm_service.providers.protocol import Patience
from vllm_service.routing.deadlines import Deadline
from vllm_service.routing.fallback import Attempt, Course


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
