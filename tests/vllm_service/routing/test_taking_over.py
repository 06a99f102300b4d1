"""A configuration that was read again: what the router has learned stays, where it still holds."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from tests.vllm_service.routing.catalogs import facts, router
from vllm_service.catalog.model import Catalog
from vllm_service.domain.usage import Usage
from vllm_service.routing.profiles import EndpointProfile, RouterSettings
from vllm_service.routing.router import CostRouter

PROFILE = EndpointProfile()


def taught() -> CostRouter:
    """A router with a warm worker that it wants, short answers, and a start that took 99 s."""
    made = router(warm=1)
    made.endpoints["own"].set_target(1, 0.0)
    made.endpoints["own"].cold_start.value = 99.0
    for number in range(50):
        asked, at = facts(), float(number)
        step = made.plan(asked, at).steps[0]
        attempt = made.started(step, asked, at)
        attempt.first_token(at + 0.2)
        attempt.succeeded(Usage(1000, 7), at + 0.4)
    return made


def test_what_was_learned_is_kept_and_requests_under_way_still_count() -> None:
    before, after = taught(), router()
    asked = facts()
    step = before.plan(asked, 60.0).steps[0]
    assert step.provider == "own"
    attempt = before.started(step, asked, 60.0)
    after.take_over(before)
    endpoint = after.endpoints["own"]
    assert (endpoint.target, endpoint.warm, endpoint.in_flight, endpoint.cold_start.value) == (1, 1, 1, 99.0)
    attempt.succeeded(Usage(1000, 7), 61.0)
    assert endpoint.in_flight == 0
    asked = facts()
    plan = after.plan(asked, 62.0)
    assert plan.steps[0].provider == "own"
    assert plan.steps[0].cost_picousd == before.plan(asked, 62.0).steps[0].cost_picousd
    assert after.controllers["own"] is before.controllers["own"]


def test_an_endpoint_that_is_expected_to_be_different_starts_anew() -> None:
    before = taught()
    changed = replace(PROFILE, cold_start_seconds=12.0)
    after = router(settings=RouterSettings(profiles=MappingProxyType({"own": changed}), max_steps=4))
    after.take_over(before)
    assert after.endpoints["own"].cold_start.value == 12.0
    assert after.plan(facts(), 62.0).steps[0].provider == "cheap"


def test_lengths_of_answers_stay_known_and_a_model_that_is_new_is_served() -> None:
    before, after = taught(), router()
    dear = next(step for step in before.plan(facts(), 60.0).steps if step.provider == "dear")
    unlearned = next(step for step in after.plan(facts(), 60.0).steps if step.provider == "dear")
    after.take_over(before)
    learned = next(step for step in after.plan(facts(), 60.0).steps if step.provider == "dear")
    assert learned == dear != unlearned
    nothing = CostRouter(Catalog(MappingProxyType({}), MappingProxyType({})))
    after.take_over(nothing)
    assert next(step for step in after.plan(facts(), 60.0).steps if step.provider == "dear") == learned
