"""The lag of the event loop: what the last look saw, and the most of a minute."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import until
from vllm_service.domain.status import LoopState
from vllm_service.observability.loop_lag import LOOK_EVERY_SECONDS, WINDOW_SECONDS, LoopLag


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_longest_lag_is_that_of_the_last_minute() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    assert lag.status() == LoopState(0.0, 0.0)
    lag.saw(0.5, 100.0)
    lag.saw(0.2, 110.0)
    lag.saw(0.0, 120.0)
    clock.now = 120.0
    assert lag.status() == LoopState(0.0, 0.5)
    clock.now = 100.0 + WINDOW_SECONDS + 1
    assert lag.status() == LoopState(0.0, 0.2)
    clock.now = 110.0 + WINDOW_SECONDS + 1
    assert lag.status() == LoopState(0.0, 0.0)


def test_two_who_look_see_the_same() -> None:
    lag = LoopLag(Clock())
    lag.saw(0.5, 100.0)
    assert lag.status() == lag.status()


async def test_it_is_the_time_by_which_a_pause_was_longer_than_it_was_to_be() -> None:
    clock = Clock()
    late_seconds = iter((0.0, 0.3, 0.1))

    async def pause(seconds: float) -> None:
        clock.now += seconds + next(late_seconds, 0.0)
        if seconds < LOOK_EVERY_SECONDS / 2 or clock.now > 101:
            await asyncio.get_running_loop().create_future()

    lag = LoopLag(clock, pause)
    running = asyncio.create_task(lag.run())
    await until(lambda: clock.now > 101)
    running.cancel()
    assert lag.status().longest_lag_seconds == pytest.approx(0.3)
