"""One organisation's requests teach the router nothing false for the others."""

from __future__ import annotations

import pytest

from tests.vllm_service.routing.catalogs import catalog, facts
from vllm_service.catalog.model import Catalog, Offer, PublicModel
from vllm_service.domain.plan import Step
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.routing.estimates import AnswerLengths, MeanByCaller
from vllm_service.routing.profiles import RouterSettings
from vllm_service.routing.router import CostRouter


def hosted() -> CostRouter:
    """Two offers; the first is the one that is preferred as long as nothing is known."""
    price = TokenPrice.per_million("0.10", "0.20")
    offers = (Offer("cheap", "m-cheap", price), Offer("dear", "m-dear", price))
    settings = RouterSettings(default_strategy="LATENCY")
    return CostRouter(Catalog(catalog().providers, {"m": PublicModel("m", offers)}), settings)


def serve(
    router: CostRouter,
    step: Step,
    request: RequestFacts,
    seconds: float,
    *,
    per_token: float = 0.01,
    timed: bool = True,
) -> None:
    attempt = router.started(step, request, 0.0)
    attempt.first_token(seconds)
    usage = Usage(request.prompt_tokens, 101)
    attempt.succeeded(usage, seconds + 100 * per_token, is_timed=timed)


def first(router: CostRouter, organisation: str) -> str:
    return router.plan(facts(organisation=organisation), 1.0).steps[0].provider


def test_slow_requests_of_one_organisation_do_not_make_an_offer_slow_for_the_others() -> None:
    router = hosted()
    for name in ("good", "other"):
        for provider in ("cheap", "dear"):
            serve(
                router, Step(provider, f"m-{provider}"), facts(organisation=name), 0.5 if provider == "cheap" else 1.0
            )
    for _ in range(1000):
        serve(router, Step("cheap", "m-cheap"), facts(organisation="attacker"), 60.0, per_token=2.0)
    assert first(router, "attacker") == "dear"
    assert first(router, "good") == "cheap"


def test_for_a_new_caller_each_other_one_counts_once_however_much_it_has_sent() -> None:
    mean: MeanByCaller[str] = MeanByCaller(1.0)
    for name in "abcd":
        mean.add(name, 1.0)
    for _ in range(10_000):
        mean.add("attacker", 601.0)
    assert mean.expect("new") == pytest.approx((5 * 1.0 + 601.0) / 6, rel=0.05)
    assert mean.expect("a") == 1.0


def test_what_is_kept_of_callers_is_bounded_and_its_sum_stays_right() -> None:
    mean: MeanByCaller[int] = MeanByCaller(10.0, most=10)
    for caller in range(25):
        mean.add(caller, 30.0)
    assert len(mean._means) <= 10
    assert mean._sum == pytest.approx(sum(one.value for one in mean._means.values()))


def test_one_keys_lengths_are_no_other_keys() -> None:
    lengths = AnswerLengths()
    for _ in range(5000):
        lengths.add("attacker", "chat.completions", 1)
    assert lengths.expect("new", "chat.completions", None) >= 100


def own_router() -> CostRouter:
    router = CostRouter(catalog())
    router.observe_health("own", {"workers": {"idle": 1}}, 0.0)
    return router


def test_a_caller_who_reads_slowly_does_not_make_an_own_worker_late() -> None:
    router = own_router()
    endpoint = router.endpoints["own"]
    margin, speed = endpoint.margin, endpoint.token_seconds.at(1.0)
    for _ in range(100):
        serve(router, Step("own", "org/m"), facts(organisation="attacker"), 0.3, per_token=60.0, timed=False)
    assert (endpoint.margin, endpoint.token_seconds.at(1.0)) == (margin, speed)


def test_a_prompt_whose_tokens_were_estimated_too_low_does_not_make_an_own_worker_late() -> None:
    router = own_router()
    margin = router.endpoints["own"].margin
    attempt = router.started(Step("own", "org/m"), facts(100, organisation="attacker"), 0.0)
    attempt.first_token(7.0)
    attempt.succeeded(Usage(40_000, 10), 7.2)
    assert router.endpoints["own"].margin >= margin


def test_prompts_whose_tokens_were_estimated_too_low_teach_no_false_speed_of_reading() -> None:
    router = own_router()
    endpoint = router.endpoints["own"]
    for _ in range(200):
        attempt = router.started(Step("own", "org/m"), facts(1_000, organisation="attacker"), 0.0)
        attempt.first_token(0.15 + 8_000 / endpoint.profile.prefill_tokens_per_second)
        attempt.succeeded(Usage(8_000, 10), 1.5)
    assert endpoint.read_seconds.at(1_000) == pytest.approx(0.15 + 1_000 / 8_000, rel=0.1)
