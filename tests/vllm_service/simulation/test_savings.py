"""The bound by slots, at any prices, against every plan of a few requests on simulated workers."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.vllm_service.simulation.test_work import Job, played
from tests.vllm_service.simulation.worlds import scenario, trace
from vllm_service.simulation.bound.savings import Prices, Savings
from vllm_service.simulation.bound.work import Demand, demand_of, weights_of, work_by
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.scenario import Scenario

WORKERS = 2
REQUESTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 2.0, 6.0]), st.integers(200, 9000), st.sampled_from([1, 20, 90])),
    min_size=2,
    max_size=4,
)
PRICES = [Prices(share, late) for share in (0.0, 0.4, 1.0) for late in (0.0, 0.3, 0.6)]


def cheapest_plan(jobs: list[Job], demand: Demand, world: Scenario, late: int, start_usd: float) -> float:
    """Dollars of the best way to send each request to a hosted provider or to one of two workers, in any order.

    A worker lives from its first request's arrival, or a later one's, until its last answer ends; all of a worker's
    requests wait until it is there, and the first cold start is over. At most so many may be late.
    """
    best = float("inf")
    for places in product(range(WORKERS + 1), repeat=len(jobs)):
        hosted = [job for job, place in enumerate(places) if place == WORKERS]
        options = [
            [(float(demand.hosted_usd[hosted].sum()), 0)],
            *(
                lives_of([job for job, place in enumerate(places) if place == worker], jobs, demand, world, start_usd)
                for worker in range(WORKERS)
            ),
        ]
        for plan in product(*options):
            if sum(missed for _, missed in plan) <= late:
                best = min(best, sum(usd for usd, _ in plan))
    return best


def lives_of(
    own: list[int], jobs: list[Job], demand: Demand, world: Scenario, start_usd: float
) -> list[tuple[float, int]]:
    """Of one worker that answers these: dollars and how many come late, in every order and from every arrival on."""
    if not own:
        return [(0.0, 0)]
    found: dict[int, float] = {}
    for order in permutations(own):
        for comes in {jobs[job].at for job in own if jobs[job].at >= jobs[order[0]].at}:
            there = max(comes, world.own.profile.cold_start_seconds)
            times = played([jobs[job]._replace(at=max(there, jobs[job].at)) for job in order], world.own.profile)
            missed = sum(
                first > demand.first_due[job] + 1e-9 or end > demand.end_due[job] + 1e-9
                for job, (first, end) in zip(order, times, strict=True)
            )
            usd = start_usd + world.own.usd_per_second * (max(end for _, end in times) - there)
            found[missed] = min(found.get(missed, usd), usd)
    return [(usd, missed) for missed, usd in found.items()]


@pytest.mark.parametrize("longest_seconds", [0.1, 1.0, 3.0, 300.0])
@settings(max_examples=12, deadline=None)
@example([(0.0, 2000, 1), (0.5, 200, 1), (2.0, 1500, 1)], 0, 0.0006, (0.0003, 0.0))  # done in later slots
@example([(0.0, 2000, 1), (0.0, 2000, 1)], 0, 0.0, (0.0003, 0.0))  # at once: two workers, one each
@given(
    REQUESTS,
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0.0, 0.002]),
    st.tuples(st.sampled_from([0.0003, 0.001]), st.sampled_from([0.0, 2.0])),
)
def test_no_plan_costs_less_than_the_bound_at_any_prices(
    longest_seconds: float,
    rows: list[tuple[float, int, int]],
    late: int,
    start_usd: float,
    second_and_cold: tuple[float, float],
) -> None:
    """second_and_cold: dollars per second of a worker, and how long its start takes."""
    second, cold_seconds = second_and_cold
    at = np.cumsum([gap for gap, _, _ in rows])
    jobs = [Job(float(now - at[0]), float(row[1]), float(row[2])) for now, row in zip(at, rows, strict=True)]
    world = scenario(second, max_workers=WORKERS, decode_seconds=0.02, cold_start_seconds=cold_seconds)
    requests = trace(jobs)
    demand = demand_of(requests, world, Draws(world, len(jobs), 0))
    cheapest = cheapest_plan(jobs, demand, world, late, start_usd)
    for weights in weights_of(world.own.profile):
        savings = Savings.cut(demand, work_by(demand, *weights), longest_seconds, world.own, late)
        for prices in PRICES:
            least, _ = savings.least_usd(prices, np.array([start_usd]))
            assert least[0] <= cheapest + 1e-9
