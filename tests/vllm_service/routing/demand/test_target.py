"""When workers are woken and let go, and what counterfactual workers would have saved."""

from __future__ import annotations

import pytest

from vllm_service.routing.demand.counterfactual import (
    CounterfactualWorkers,
    Demand,
    OfferedRequest,
    Speeds,
    token_seconds,
)
from vllm_service.routing.demand.target import DemandController
from vllm_service.routing.profiles import LatencyTarget

SPEEDS = Speeds(0.15, 1 / 8000, 0.011, 0.0003, 0.7, 32)
SECOND_USD, COLD, IDLE = 0.0003, 30.0, 5.0


def offered(at: float, usd: float, reading: float = 0.1, tokens: float = 10.0) -> OfferedRequest:
    return OfferedRequest(at, usd, reading, tokens, 2.0, 0.06)


def demand(at: float, usd: float) -> Demand:
    return Demand(at, round(usd * 1e12), 800, 10.0, LatencyTarget())


def targets(usd_per_second: float, seconds: int, silence: int = 0, always_on: int = 0) -> list[int]:
    """What is wanted each second of steady demand, a request a second, and then of silence."""
    controller, wanted, spent = DemandController(10, SECOND_USD, always_on), [], 0.0
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


@pytest.mark.parametrize("always_on", [1, 2, 10])
def test_nobody_is_woken_for_what_workers_that_are_always_on_can_take(always_on: int) -> None:
    assert set(targets(3.0 * SECOND_USD, 600, always_on=always_on)) == {always_on}


def test_what_workers_that_are_always_on_leave_can_be_worth_another() -> None:
    """Each second four requests, each of half a second's reading and promised within two seconds: two can take them."""
    controller = DemandController(10, SECOND_USD, always_on=1)
    for now in range(300):
        for _ in range(4):
            controller.demand(Demand(float(now), round(3e12 * SECOND_USD), 4000, 10.0, LatencyTarget()))
        wanted = controller.decide(float(now), COLD, IDLE, SPEEDS, 0.0)
    assert wanted == 2


def test_a_worker_leaves_after_a_silence_that_costs_about_a_start() -> None:
    wanted = targets(3.0 * SECOND_USD, 600, silence=300)
    assert 0 < sum(wanted[600:]) <= 5 * (COLD + IDLE) + 60
    assert wanted[-1] == 0


def test_bursts_that_end_before_a_cold_start_does_cost_a_bounded_share() -> None:
    controller, spent, hosted = DemandController(10, SECOND_USD), 0.0, 0.0
    for now in range(40_000):
        if now % 400 < 12:
            controller.demand(demand(now, 20 * SECOND_USD))
            hosted += 20 * SECOND_USD
        spent += controller.decide(float(now), COLD, IDLE, SPEEDS, spent) * SECOND_USD
    assert spent <= 0.02 * hosted + 2 * SECOND_USD * (COLD + IDLE)  # nothing was ever served: all of it is loss


def test_it_is_quiet_when_a_look_can_change_nothing_until_a_request_comes() -> None:
    each_second, once = DemandController(10, SECOND_USD), DemandController(10, SECOND_USD)
    for controller in (each_second, once):
        for now in range(20):
            controller.demand(demand(now, 3.0 * SECOND_USD))
            controller.decide(float(now), COLD, IDLE, SPEEDS, 0.0)
        assert not controller.is_quiet  # sixty seconds' worth of a worker have come
    seconds = 20
    while not (each_second.is_quiet and once.is_quiet):
        for controller in (each_second, once):
            controller.decide(float(seconds), COLD, IDLE, SPEEDS, 0.0)
        seconds += 1
    assert 40 < seconds < 120
    looked = {each_second.decide(float(now), COLD, IDLE, SPEEDS, 0.0) for now in range(seconds, seconds + 500)}
    assert looked == {0}
    once.decide(float(seconds + 499), COLD, IDLE, SPEEDS, 0.0)
    wanted = []
    for now in range(seconds + 500, seconds + 600):
        for controller in (each_second, once):
            controller.demand(demand(now, 3.0 * SECOND_USD))
        wanted.append([controller.decide(float(now), COLD, IDLE, SPEEDS, 0.0) for controller in (each_second, once)])
    assert all(one == other for one, other in wanted)
    assert wanted[-1] == [1, 1]


def test_a_counterfactual_worker_takes_what_would_be_in_time() -> None:
    one, two = CounterfactualWorkers(1), CounterfactualWorkers(2)
    for workers in (one, two):
        for _ in range(3):
            workers.offer(offered(0.0, 1.0, reading=1.0), SPEEDS)
    assert one.usd == 1.0  # the second would have its first token after 2.15 of 2 seconds
    assert two.usd == 2.0


def test_token_seconds_settle_where_rate_and_batch_agree() -> None:
    seconds = token_seconds(SPEEDS, 0.5, 500.0)
    batch = 500.0 * seconds
    assert seconds == pytest.approx((0.011 + 0.0003 * batch) / (1 - 0.7 * 0.5))
    assert token_seconds(SPEEDS, 1.0, 2000.0) == float("inf")
