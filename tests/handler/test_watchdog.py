"""A dead engine is noticed, and so is one that stands still with requests inside; an idle one is left alone."""

from __future__ import annotations

import asyncio
from itertools import chain

import pytest

from handler import watchdog
from handler.watchdog import StallDetector
from tests.support import FakeEngine

STILL, IDLE = 1, None
#: Progress as it is seen once a second, and the second in which the engine counts as stalled; the limit is 10 s.
LIVES: dict[str, tuple[list[int | None], int | None]] = {
    "it stands still": ([STILL] * 20, 10),
    "it works": (list(range(30)), None),
    "it works now and then": ([second // 9 for second in range(60)], None),
    "it stands still after it has worked": ([*range(5), *[4] * 20], 14),
    "it has nothing to do": ([IDLE] * 60, None),
    "a request at times, and each makes progress": (
        [*chain.from_iterable(([n] * 8 + [IDLE] * 5) for n in range(9))],
        None,
    ),
    "callers that give up after 4 s do not hide that it is stuck": ([*[STILL] * 4, IDLE, IDLE] * 9, 19),
    "what it does not report is no stall": ([None] * 100, None),
}


@pytest.mark.parametrize("life", LIVES)
def test_an_engine_is_stalled_after_the_limit_without_progress_while_requests_are_inside(life: str) -> None:
    seen, stalled_at = LIVES[life]
    detector = StallDetector(limit_seconds=10)
    stalled = [second for second, progress in enumerate(seen) if detector.is_stalled(1000 + second, progress)]
    assert (stalled[0] if stalled else None) == stalled_at


def test_a_worker_that_was_frozen_does_not_blame_its_engine_for_the_time() -> None:
    detector = StallDetector(limit_seconds=10)
    detector.is_stalled(0, STILL)
    assert not detector.is_stalled(3600, STILL)
    assert not detector.is_stalled(3601, STILL + 1)


async def test_a_dead_engine_ends_the_watch_with_its_error() -> None:
    engine = FakeEngine()
    watching = asyncio.create_task(watchdog.failure(engine, stall_seconds=60))
    await asyncio.sleep(0)
    assert not watching.done()
    engine.dead = True
    async with asyncio.timeout(5):
        assert (await watching).message == "the engine has died"


async def test_a_stalled_engine_ends_the_watch_too() -> None:
    engine = FakeEngine(progress=1)
    async with asyncio.timeout(5):
        error = await watchdog.failure(engine, stall_seconds=0.1)
    assert "no progress for 0.1 s" in error.message
