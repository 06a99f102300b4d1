"""When workers are woken and let go, and what the shadow workers say of their worth."""

from __future__ import annotations

import pytest

from vllm_service.routing.profiles import LatencyTarget
from vllm_service.routing.shadow import Demand, Offered, ShadowWorkers, Speeds, token_seconds
from vllm_service.routing.waking import WakeController

SPEEDS = Speeds(0.15, 1 / 8000, 0.011, 0.0003, 0.7, 32)
SECOND_USD, COLD, IDLE = 0.0003, 30.0, 5.0


def offered(at: float, usd: float, reading: float = 0.1, tokens: float = 10.0) -> Offered:
    return Offered(at, usd, reading, tokens, 2.0, 0.06)


def demand(at: float, usd: float) -> Demand:
    return Demand(at, round(usd * 1e12), 800, 10.0, LatencyTarget())


def targets(usd_per_second: float, seconds: int, silence: int = 0) -> list[int]:
    """What is wanted each second of steady demand, a request a second, and then of silence."""
    controller, wanted, spent = WakeController(10, SECOND_USD), [], 0.0
    for now in range(seconds + silence):
        if now < seconds:
            controller.demand(demand(now, usd_per_second))
        wanted.append(controller.decide(float(now), COLD, IDLE, SPEEDS, spent))
        if now > 0 and wanted[-1]:
            spent += wanted[-1] * SECOND_USD
            controller.took(usd_per_second)
    return wanted


def test_demand_that_is_worth_less_than_a_worker_wakes_nobody() -> None:
    assert max(targets(0.5 * SECOND_USD, 5000)) == 0


def test_demand_that_is_worth_three_workers_wakes_one_that_can_serve_it() -> None:
    wanted = targets(3.0 * SECOND_USD, 600)
    assert wanted.index(1) < 90
    assert set(wanted[200:]) == {1}  # one can read it all: a second would save nothing


def test_a_worker_leaves_after_a_silence_that_costs_about_a_start() -> None:
    wanted = targets(3.0 * SECOND_USD, 600, silence=300)
    assert 0 < sum(wanted[600:]) <= 5 * (COLD + IDLE) + 60
    assert wanted[-1] == 0


def test_bursts_that_end_before_a_cold_start_does_cost_a_bounded_share() -> None:
    controller, spent, hosted = WakeController(10, SECOND_USD), 0.0, 0.0
    for now in range(40_000):
        if now % 400 < 12:
            controller.demand(demand(now, 20 * SECOND_USD))
            hosted += 20 * SECOND_USD
        spent += controller.decide(float(now), COLD, IDLE, SPEEDS, spent) * SECOND_USD
    assert spent <= 0.02 * hosted + 2 * SECOND_USD * (COLD + IDLE)  # nothing was ever served: all of it is loss


def test_a_shadow_worker_takes_what_would_be_in_time() -> None:
    one, two = ShadowWorkers(1), ShadowWorkers(2)
    for shadow in (one, two):
        for _ in range(3):
            shadow.offer(offered(0.0, 1.0, reading=1.0), SPEEDS)
    assert one.usd == 1.0  # the second would have its first token after 2.15 of 2 seconds
    assert two.usd == 2.0


def test_token_seconds_settle_where_rate_and_batch_agree() -> None:
    seconds = token_seconds(SPEEDS, 0.5, 500.0)
    batch = 500.0 * seconds
    assert seconds == pytest.approx((0.011 + 0.0003 * batch) / (1 - 0.7 * 0.5))
    assert token_seconds(SPEEDS, 1.0, 2000.0) == float("inf")
