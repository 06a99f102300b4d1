"""Which places a plan names, in which order, and what it says of why."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vllm_service.routing.catalogs import catalog, facts, router
from vllm_service.errors import InvalidRequest, ModelNotFound
from vllm_service.routing.router import CostRouter
from vllm_service.routing.strategies import STRATEGIES


def order(made: CostRouter, now: float = 0.0, **request: Any) -> list[str]:
    return [step.provider for step in made.plan(facts(**request), now).steps]


def test_cost_takes_a_warm_own_worker_first_and_the_cheapest_hosted_place_next() -> None:
    plan = router(warm=1).plan(facts(), 0.0)
    assert [step.provider for step in plan.steps] == ["own", "cheap", "dear"]
    assert "warm own worker" in plan.reason


def test_cost_never_waits_for_a_cold_endpoint() -> None:
    plan = router(warm=0).plan(facts(), 0.0)
    assert [step.provider for step in plan.steps] == ["cheap", "dear", "own"]
    assert "off" in plan.reason


def test_cost_leaves_a_place_of_unknown_price_alone() -> None:
    assert "secret" not in order(router(warm=1))


def test_cost_spills_over_when_the_own_worker_would_be_late() -> None:
    made = router(warm=1)
    step = made.plan(facts(16_000), 0.0).steps[0]
    made.started(step, facts(16_000), 0.0)  # two seconds of reading at 8000 tokens a second
    plan = made.plan(facts(1000), 0.0)
    assert plan.steps[0].provider == "cheap"
    assert "busy" in plan.reason
    assert made.plan(facts(1000), 2.0).steps[0].provider == "own"


def test_the_prompts_cost_is_exact() -> None:
    steps = router().plan(facts(1000, max_tokens=10), 0.0).steps
    assert {step.provider: step.cost_picousd for step in steps if step.provider != "own"} == {
        "cheap": 1000 * 100_000 + 10 * 200_000,
        "dear": 1000 * 500_000 + 10 * 1_000_000,
    }


def test_balanced_gives_80_of_100_requests_to_the_own_endpoint() -> None:
    made = router(strategy="BALANCED")
    first = Counter(order(made)[0] for _ in range(100))
    assert first["own"] == 80


def test_round_robin_takes_turns() -> None:
    made = router(strategy="ROUND_ROBIN")
    assert [order(made)[0] for _ in range(5)] == ["own", "dear", "cheap", "secret", "own"]


def test_least_loaded_prefers_the_fewest_in_flight() -> None:
    made = router(strategy="LEAST_LOADED")
    for place in ("own", "dear"):
        step = next(step for step in made.plan(facts(), 0.0).steps if step.provider == place)
        made.started(step, facts(), 0.0)
    assert order(made)[0] == "cheap"


def test_weighted_draws_by_weight() -> None:
    made = router(strategy="WEIGHTED")
    first = Counter(order(made)[0] for _ in range(6000))
    assert first["dear"] / 6000 == pytest.approx(0.5, abs=0.03)  # weight 3 of 6
    assert first["cheap"] / 6000 == pytest.approx(1 / 6, abs=0.03)


def test_pinned_tries_one_place_only() -> None:
    assert order(router(), strategy="PINNED", provider="dear") == ["dear"]
    assert order(router(), strategy="pinned") == ["own"]


def test_quality_keeps_the_configured_order() -> None:
    assert order(router(strategy="QUALITY")) == ["own", "dear", "cheap", "secret"]


def test_latency_prefers_who_was_fast_and_wakes_nobody() -> None:
    made = router(strategy="LATENCY")
    step = made.plan(facts(), 0.0).steps[0]
    for number in range(20):
        request = facts(prompt_tokens=number + 1)
        dear = next(step for step in made.plan(request, 0.0).steps if step.provider == "dear")
        attempt = made.started(dear, request, 0.0)
        attempt.first_token(0.05)
        attempt.succeeded(None, 0.1)
    assert step.provider != "own"
    assert order(made)[0] == "dear"
    assert order(made)[-1] == "own"


def test_a_strategy_is_named_per_request_before_per_model() -> None:
    assert order(router(strategy="QUALITY", warm=0), strategy="COST")[0] == "cheap"


def test_an_unknown_strategy_or_model_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest, match="ROUND_ROBIN"):
        router().plan(facts(strategy="FASTEST"), 0.0)
    with pytest.raises(ModelNotFound):
        router().plan(facts(model="nobody"), 0.0)


def test_an_alias_is_the_model() -> None:
    assert order(router(), model="alias")[0] == "cheap"


class AllOpen:
    """Implements router.BreakerView."""

    not_closed = frozenset({("own", "llama")})

    def may_try(self, provider: str, model: str, now: float, organisation: str) -> bool:
        return False


def test_where_every_breaker_is_open_the_plan_names_all_so_that_the_error_can_say_until_when() -> None:
    made = CostRouter(catalog(), breakers=AllOpen())
    assert len(made.plan(facts(), 0.0).steps) == 3


@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    prompt=st.integers(1, 100_000),
    max_tokens=st.none() | st.integers(1, 10_000),
    cap=st.none() | st.integers(0, 10**11),
    warm=st.integers(0, 3),
    tags=st.frozensets(st.sampled_from(["region:eu", "region:us", "no-training"])),
)
def test_a_plan_names_configured_places_once_and_stays_under_the_cap(
    *, strategy: str, prompt: int, max_tokens: int | None, cap: int | None, warm: int, tags: frozenset[str]
) -> None:
    made = router(warm=warm)
    request = facts(prompt, max_tokens=max_tokens, cap_picousd=cap, tags=tags, strategy=strategy)
    try:
        steps = made.plan(request, 0.0).steps
    except InvalidRequest:
        return
    known = {(offer.provider, offer.model) for offer in catalog().models["m"].offers}
    named = [(step.provider, step.model) for step in steps]
    assert set(named) <= known
    assert len(named) == len(set(named))
    if cap is not None:
        assert all(step.cost_picousd is not None and step.cost_picousd <= cap for step in steps)
