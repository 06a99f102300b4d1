"""A dead engine is noticed, and so is one that stands still while requests run; an idle one is left alone."""

from __future__ import annotations

import asyncio

from handler import watchdog
from handler.watchdog import StallDetector
from tests.support import FakeEngine


def test_progress_that_stands_still_while_busy_is_a_stall_after_the_limit() -> None:
    detector = StallDetector(limit_seconds=10)
    assert not detector.is_stalled(0, 1, busy=True)
    assert not detector.is_stalled(9.9, 1, busy=True)
    assert detector.is_stalled(10, 1, busy=True)


def test_progress_and_idleness_start_the_clock_anew() -> None:
    detector = StallDetector(limit_seconds=10)
    detector.is_stalled(0, 1, busy=True)
    assert not detector.is_stalled(10, 2, busy=True)
    assert not detector.is_stalled(19, 2, busy=False)
    assert not detector.is_stalled(28, 2, busy=True)
    assert detector.is_stalled(29, 2, busy=True)


def test_an_engine_that_cannot_tell_its_progress_never_stalls() -> None:
    detector = StallDetector(limit_seconds=10)
    assert not any(detector.is_stalled(now, None, busy=True) for now in range(0, 100, 5))


async def test_a_dead_engine_ends_the_watch_with_its_error() -> None:
    engine = FakeEngine()
    watching = asyncio.create_task(watchdog.failure(engine, lambda: False, stall_seconds=60))
    await asyncio.sleep(0)
    assert not watching.done()
    engine.dead = True
    async with asyncio.timeout(5):
        assert (await watching).message == "the engine has died"


async def test_a_stalled_engine_ends_the_watch_too() -> None:
    engine = FakeEngine(progress=1)
    async with asyncio.timeout(5):
        error = await watchdog.failure(engine, lambda: True, stall_seconds=0.1)
    assert "no progress for 0.1 s" in error.message
