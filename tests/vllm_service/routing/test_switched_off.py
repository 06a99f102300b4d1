"""An endpoint that may have fewer workers than the demand is worth, or none."""

from __future__ import annotations

from decimal import Decimal

import pytest

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.errors import ModelUnavailable
from vllm_service.routing.profiles import EndpointProfile, RouterSettings
from vllm_service.routing.router import CostRouter

OWN = Provider("own", ProviderKind.RUNPOD, "http://own/v1", second_price=SecondPrice(310))
UNPRICED = Provider("unpriced", ProviderKind.RUNPOD, "http://unpriced/v1")
HOSTED = Provider("hosted", ProviderKind.HOSTED, "http://hosted/v1")
PRICE = TokenPrice.per_million(Decimal(1000), Decimal(1000))
PROFILES = {"own": EndpointProfile(always_on_workers=2, max_workers=5)}


def router(*providers: Provider) -> CostRouter:
    offers = tuple(Offer(p.name, "m", PRICE if p is HOSTED else None) for p in providers)
    catalog = Catalog({p.name: p for p in providers}, {"m": PublicModel("m", offers, strategy="QUALITY")})
    return CostRouter(catalog, RouterSettings(profiles=PROFILES))


def facts() -> RequestFacts:
    return RequestFacts(model="m", operation="chat", prompt_tokens=100, max_tokens=10)


def planned(routing: CostRouter) -> list[str]:
    return [step.provider for step in routing.plan(facts(), 1.0).steps]


def test_a_target_never_exceeds_what_the_platform_allows_and_follows_it_up_again() -> None:
    routing = router(OWN, HOSTED)
    assert [target.workers for target in routing.worker_targets(1.0)] == [2]
    routing.observe_most_workers("own", 1)
    (limited,) = routing.worker_targets(2.0)
    assert (limited.workers, limited.always_on) == (1, 1)
    assert limited.reason.endswith("and the platform lets the endpoint have 1")
    routing.observe_most_workers("own", 0)
    (none,) = routing.worker_targets(3.0)
    assert (none.workers, none.always_on) == (0, 0)
    routing.observe_most_workers("own", None)
    assert [target.workers for target in routing.worker_targets(4.0)] == [2]


@pytest.mark.parametrize("own", [OWN, UNPRICED])
def test_an_endpoint_without_any_worker_is_in_no_plan_until_it_may_have_one(own: Provider) -> None:
    routing = router(own, HOSTED)
    assert planned(routing) == [own.name, "hosted"]
    routing.observe_most_workers(own.name, 0)
    assert planned(routing) == ["hosted"]
    routing.observe_most_workers(own.name, 1)
    assert planned(routing) == [own.name, "hosted"]


def test_where_nothing_else_serves_the_model_the_error_says_why_and_when_to_come_back() -> None:
    routing = router(OWN)
    routing.observe_most_workers("own", 0)
    with pytest.raises(
        ModelUnavailable, match="No worker of m can start: RunPod has switched its endpoint off"
    ) as said:
        routing.plan(facts(), 1.0)
    assert said.value.retry_after_seconds == 60


def test_a_router_that_replaces_this_one_knows_it_too() -> None:
    before, after = router(OWN, HOSTED), router(OWN, HOSTED)
    before.observe_most_workers("own", 0)
    after.take_over(before)
    assert planned(after) == ["hosted"]
