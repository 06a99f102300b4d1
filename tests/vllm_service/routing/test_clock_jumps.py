"""A router whose monotonic clock jumps ahead by hours: the process was stopped, the machine slept."""

from __future__ import annotations

import pytest

from tests.vllm_service.routing.catalogs import facts, router
from vllm_service.domain.usage import Usage
from vllm_service.routing.router import CostRouter

HOUR = 3600.0
SOON_SECONDS = 150


def second(made: CostRouter, now: float, *, is_busy: bool) -> int:
    """A look, and ten requests when busy; RunPod does as the router wants. Returns how many workers are wanted."""
    (target,) = made.worker_targets(now)
    made.observe_health("own", {"workers": {"idle": target.workers}}, now)
    for number in range(10 if is_busy else 0):
        at, asked = now + number / 20, facts(prompt_tokens=500)
        step = made.plan(asked, at).steps[0]
        attempt = made.started(step, asked, at)
        attempt.first_token(at + 0.02)
        attempt.succeeded(Usage(500, 200), at + 0.04)
    return target.workers


def seconds_until(made: CostRouter, wanted: int, now: float, *, is_busy: bool) -> int:
    """How long it takes until so many workers are wanted."""
    return next(count for count in range(10_000) if second(made, now + count, is_busy=is_busy) == wanted)


@pytest.mark.parametrize("jump", [0.0, 5 * HOUR, 100 * HOUR])
def test_hours_in_which_nobody_looked_are_neither_billed_nor_held_against_the_endpoint(jump: float) -> None:
    made, now = router(), 0.0
    now += seconds_until(made, 1, now, is_busy=True)
    for _ in range(300):
        now += 1
        second(made, now, is_busy=True)
    billed = made.endpoints["own"].billed_usd(now)
    now += jump
    left_after = seconds_until(made, 0, now, is_busy=False)
    assert left_after < SOON_SECONDS
    now += left_after
    assert made.endpoints["own"].billed_usd(now) - billed < 0.0003 * (SOON_SECONDS + 60)
    assert seconds_until(made, 1, now + 1, is_busy=True) < SOON_SECONDS
