"""Rate limits and fault injection, decided on a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from runpod_emulator.endpoint.faults import FaultInjector, Faults
from runpod_emulator.endpoint.limits import RateLimiter
from runpod_emulator.errors import BadRequest, TooManyRequests
from runpod_emulator.settings import RateLimit
from runpod_emulator.signals import Signal
from tests.runpod_emulator.support import Bench, HandClock


def limiter(clock: HandClock, **limits: RateLimit) -> RateLimiter:
    return RateLimiter(limits, 10, clock)


def test_a_window_lets_so_many_by_and_says_when_there_is_room_again() -> None:
    clock = HandClock()
    gate = limiter(clock, run=RateLimit(2, 9))
    for _ in range(2):
        with gate.admit("run"):
            clock.pass_(1)
    with pytest.raises(TooManyRequests) as refused, gate.admit("run"):
        pass
    assert refused.value.headers == {"Retry-After": "8"}
    clock.pass_(8)
    with gate.admit("run"):
        pass


def test_so_many_may_be_under_way_at_once() -> None:
    gate = limiter(HandClock(), stream=RateLimit(99, 1))
    with gate.admit("stream"), pytest.raises(TooManyRequests, match="under way"), gate.admit("stream"):
        pass
    with gate.admit("stream"), gate.admit("unlimited"), gate.admit("unlimited"):
        pass


def test_the_same_seed_makes_the_same_faults() -> None:
    def fates(seed: int) -> list[bool]:
        injector = FaultInjector()
        injector.inject(Faults(drop_post_share=0.3, seed=seed), 0)
        return [injector.drops_post() for _ in range(200)]

    assert fates(1) == fates(1) != fates(2)
    assert 30 < sum(fates(1)) < 90


def test_a_crash_happens_once_when_it_is_due_and_there_is_a_worker() -> None:
    injector = FaultInjector()
    injector.inject(Faults(worker_crash_after_seconds=5), 100)
    assert injector.crashing(["w1"], 104) is None
    assert injector.crashing([], 105) is None
    assert injector.crashing(["w1"], 106) == "w1"
    assert injector.crashing(["w1"], 107) is None


def test_heartbeats_are_lost_for_the_named_worker_only() -> None:
    injector = FaultInjector()
    injector.inject(Faults(lost_heartbeat=True, worker_id="w1"), 0)
    assert [injector.loses_heartbeat(worker) for worker in ("w1", "w2")] == [True, False]


@pytest.mark.parametrize(
    "document",
    [
        {"post_latency": 1},
        {"post_latency_seconds": -1},
        {"drop_post_share": 1.5},
        {"lost_heartbeat": "yes"},
        {"worker_crash_after_seconds": True},
        [],
    ],
)
def test_a_fault_that_cannot_be_is_refused(document: Mapping[str, object]) -> None:
    with pytest.raises(BadRequest):
        Faults.parse(document)


def test_an_external_worker_cannot_be_crashed() -> None:
    with pytest.raises(BadRequest, match="did not start these workers"):
        Bench().endpoint.inject(Faults(worker_crash_after_seconds=0))


async def test_a_wake_up_goes_to_the_longest_waiting_and_passes_on_when_that_one_leaves() -> None:
    signal = Signal()
    first, second = asyncio.create_task(signal.wait(5)), asyncio.create_task(signal.wait(5))
    await asyncio.sleep(0)
    signal.notify_one()
    first.cancel()
    assert await second
    assert first.cancelled()
    assert not await signal.wait(0.001)


def test_late_health_reports_the_state_of_so_long_ago_and_ends_with_the_fault() -> None:
    bench = Bench()
    bench.endpoint.inject(Faults(health_late_seconds=5))
    bench.registry.mark_ready("w1")
    seen = []
    for _ in range(12):
        bench.clock.pass_(1)
        bench.endpoint.housekeep()
        seen.append(bench.endpoint.health.document(5)["workers"]["idle"])
    assert seen == [0] * 5 + [1] * 7
    bench.job()
    assert bench.endpoint.health.document(5)["jobs"]["inQueue"] == 0
    bench.endpoint.inject(Faults())
    assert bench.endpoint.health.document(0)["jobs"]["inQueue"] == 1
