"""What `explain` says of each offer: dearer or cheaper, workers, waiting, breakers, the prompt's cache, prices."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.routing.explanation import PlanExplanation, explain
from vllm_service.routing.profiles import RouterSettings
from vllm_service.routing.router import CostRouter

PREFIX = 12345


class Breakers:
    """Those of these providers are open."""

    def __init__(self, *open_ones: str) -> None:
        self._open = open_ones

    @property
    def not_closed(self) -> Collection[tuple[str, str]]:
        return [(name, "m") for name in self._open]

    def may_try(self, provider: str, model: str, now_seconds: float, organisation: str) -> bool:
        return provider not in self._open


def router(*open_ones: str) -> CostRouter:
    providers = {
        "own": Provider("own", ProviderKind.RUNPOD, "http://o/v1", second_price=SecondPrice.per_second("0.0001")),
        "cheap": Provider("cheap", ProviderKind.HOSTED, "http://c/v1"),
        "dear": Provider("dear", ProviderKind.HOSTED, "http://d/v1"),
        "secretive": Provider("secretive", ProviderKind.HOSTED, "http://s/v1"),
    }
    offers = (
        Offer("own", "m"),
        Offer("cheap", "m", TokenPrice.per_million("0.50", "1", "0.05")),
        Offer("dear", "m", TokenPrice.per_million(5, 10)),
        Offer("secretive", "m"),
    )
    return CostRouter(Catalog(providers, {"m": PublicModel("m", offers)}), RouterSettings(), Breakers(*open_ones))


def facts(strategy: str | None = None, provider: str | None = None) -> RequestFacts:
    return RequestFacts(
        "m", "chat.completions", 2000, max_tokens=100, strategy=strategy, prefix=PREFIX, provider=provider
    )


def notes(explanation: PlanExplanation) -> dict[str, str]:
    return {offer.provider: offer.note for offer in (*explanation.steps, *explanation.left_out)}


def test_a_cold_endpoint_is_cheaper_and_not_first_for_its_start_and_the_target() -> None:
    found = explain(router(), facts(), 0.0)
    assert [step.provider for step in found.steps] == ["cheap", "dear", "own"]
    assert "dearer than own" in notes(found)["cheap"]
    assert "cheaper, but not first" in notes(found)["own"]
    assert "no worker is warm: a start takes about 30 s, and the latency target is 2.4 s" in notes(found)["own"]
    assert notes(found)["secretive"] == "its price is unknown, and COST needs one"


def test_a_warm_endpoint_has_room_or_its_slots_are_taken() -> None:
    warm = router()
    warm.observe_health("own", {"workers": {"idle": 1}}, 0.0)
    assert "a warm worker has room within the latency target" in notes(explain(warm, facts(), 0.0))["own"]
    step = warm.plan(facts(), 0.0).steps[0]
    for _ in range(40):
        warm.started(step, facts(), 0.0)
    assert "all slots of its 1 warm workers are taken" in notes(explain(warm, facts(), 0.0))["own"]


def test_an_offer_that_asked_to_wait_says_how_long() -> None:
    limited = router()
    step = limited.plan(facts(), 0.0).steps[0]
    limited.started(step, facts(), 0.0).failed(429, 20.0, 0.0)
    found = explain(limited, facts(), 5.0)
    assert found.steps[0].provider == "dear"
    assert "it asked to wait 15 s more" in notes(found)["cheap"]


def test_an_open_breaker_leaves_an_offer_out_and_is_named() -> None:
    found = explain(router("cheap"), facts(), 0.0)
    assert "cheap" in {offer.provider for offer in found.left_out}
    assert "its circuit breaker is open" in notes(found)["cheap"]


def test_an_expected_prompt_cache_is_named() -> None:
    known = router()
    step = known.plan(facts(), 0.0).steps[0]
    for _ in range(2):
        known.started(step, facts(), 0.0).succeeded(Usage(2000, 10, 1500), 1.0)
    assert "prompt tokens are expected in its prompt cache" in notes(explain(known, facts(), 2.0))["cheap"]


@pytest.mark.parametrize("strategy", ["LATENCY", "QUALITY", "ROUND_ROBIN", "LEAST_LOADED", "WEIGHTED", "BALANCED"])
def test_every_strategy_has_a_reason_and_each_dearer_offer_before_a_cheaper_one_names_it(strategy: str) -> None:
    found = explain(router(), facts(strategy), 0.0)
    assert found.plan.reason
    costs = [step.cost_picousd for step in found.steps]
    for number, step in enumerate(found.steps):
        cheaper = [cost for cost in costs[number + 1 :] if cost is not None and cost < (step.cost_picousd or 0)]
        assert ("dearer than" in step.note) is bool(cheaper)


def test_an_offer_that_the_request_rules_out_says_so() -> None:
    found = explain(router(), facts(provider="dear"), 0.0)
    assert [step.provider for step in found.steps] == ["dear"]
    assert notes(found)["cheap"] == "the request names dear"
