"""What holds for every policy on any trace: nothing is lost, the bill adds up, a seed is a seed, the bound bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vllm_service.simulation.worlds import poisson, scenario, trace
from vllm_service.errors import ConfigurationError
from vllm_service.simulation.bound.clairvoyant import clairvoyant
from vllm_service.simulation.compare import CLAIRVOYANT, NAMES, POLICIES, compare
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.replay import Replay
from vllm_service.simulation.trace import Trace

ROWS = st.lists(st.tuples(st.floats(0, 300), st.integers(1, 5000), st.integers(1, 200)), min_size=1, max_size=40).map(
    sorted
)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, name=st.sampled_from(sorted(POLICIES)), price=st.floats(1e-5, 1e-3), seed=st.integers(0, 9))
def test_every_request_is_answered_and_the_bill_is_the_sum_of_the_workers_lives(
    rows: list[tuple[float, float, float]], name: str, price: float, seed: int
) -> None:
    world, requests = scenario(usd_per_second=round(price, 6), rejection_rate=0.2), trace(rows)
    outcome = Replay(requests, world, Draws(world, len(requests), seed), POLICIES[name]()).run()
    assert (outcome.first_token_seconds > 0).all()
    assert (outcome.end_seconds >= outcome.first_token_seconds - 1e-9).all()
    assert outcome.starts == len(outcome.lifetimes)
    assert outcome.billed_seconds == sum(math.ceil(end - begun - 1e-6) for begun, end in outcome.lifetimes)
    most = world.own.profile.max_workers
    for moment, _ in outcome.lifetimes:
        assert sum(begun <= moment < end for begun, end in outcome.lifetimes) <= most


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rate=st.sampled_from([0.05, 0.5, 3.0, 10.0]),
    price=st.sampled_from([1e-5, 1e-4, 1e-3]),
    seed=st.integers(0, 1000),
    prompt=st.sampled_from([50.0, 500.0]),
)
def test_the_clairvoyant_bound_is_under_every_policy_that_keeps_the_floor(
    rate: float, price: float, seed: int, prompt: float
) -> None:
    world = scenario(usd_per_second=price, rejection_rate=0.02)
    results = compare(poisson(rate, 400, seed, prompt), world, seed)
    bound = next(result.usd for result in results if result.policy == CLAIRVOYANT)
    for result in results:
        if result.within_target_pct >= 99.0:
            assert bound <= result.usd * (1 + 1e-9)


def test_the_bound_is_all_hosted_where_a_worker_can_never_pay() -> None:
    world = scenario(usd_per_second=10.0)
    requests = poisson(0.1, 300)
    (hosted,) = compare(requests, world, 0, ["all_hosted"])
    assert clairvoyant(requests, world, Draws(world, 300, 0)).usd == pytest.approx(hosted.usd, rel=0.2)
    assert clairvoyant(requests, world, Draws(world, 300, 0)).usd <= hosted.usd


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_same_seed_gives_the_same_figures(name: str) -> None:
    requests, world = poisson(2.0, 800), scenario(usd_per_second=1e-4, rejection_rate=0.05)
    first, second = (compare(requests, world, 3, [name])[0].to_json() for _ in range(2))
    assert first == second


def test_another_seed_draws_other_cold_starts_and_refusals() -> None:
    world = scenario(rejection_rate=0.5)
    assert (Draws(world, 100, 1).rejected != Draws(world, 100, 2).rejected).any()


def test_cost_wakes_workers_where_they_pay_and_beats_all_hosted_within_the_target() -> None:
    requests = poisson(6.0, 6000, prompt=100.0)
    world = scenario(usd_per_second=1e-4)
    hosted, cost = compare(requests, world, 0, ["all_hosted", "cost"])
    assert cost.starts >= 1
    assert cost.usd < 0.7 * hosted.usd
    assert cost.within_target_pct >= 99.0


def test_cost_wakes_nobody_where_it_cannot_pay() -> None:
    (cost,) = compare(poisson(0.02, 300), scenario(usd_per_second=0.01), 0, ["cost"])
    assert cost.starts == 0


def test_an_empty_or_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="cheapest"):
        compare(poisson(1.0, 5), scenario(), 0, ["cheapest"])


def test_all_promised_policies_are_there() -> None:
    assert set(NAMES) == {
        "cost", "all_hosted", "all_own", "split_80_20", "nominal_fallback", "latency", "active_spill", "clairvoyant",
    }  # fmt: skip


def test_progress_is_told_per_policy() -> None:
    told: list[tuple[str, int]] = []
    requests: Trace = poisson(5.0, 4500)
    compare(requests, scenario(), 0, ["all_hosted"], lambda policy, done: told.append((policy, done)))
    assert told == [("all_hosted", 2000), ("all_hosted", 4000), ("all_hosted", 4500)]
