"""Rules that come before cost: region, tags, context length, capabilities, a cap; and tasks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm_service.routing.catalogs import facts, router
from vllm_service.errors import ContextTooLong, InvalidRequest


def places(**request: Any) -> list[str]:
    return [step.provider for step in router(warm=1).plan(facts(**request), 0.0).steps]


def test_data_stays_in_the_region_that_was_asked_for() -> None:
    assert places(tags=frozenset({"region:eu"})) == ["own", "dear"]


def test_a_tag_must_be_the_providers() -> None:
    assert places(tags=frozenset({"no-training"})) == ["dear"]


def test_rules_add_up_and_the_one_that_left_nobody_is_named() -> None:
    with pytest.raises(
        InvalidRequest, match=r"region:us leaves no provider of m. Regions of its providers: eu"
    ) as error:
        places(tags=frozenset({"no-training", "region:us"}))
    assert error.value.details["rule"] == "region:us"


def test_a_capability_is_the_models() -> None:
    request = facts(tags=frozenset({"needs:vision"}))
    with pytest.raises(InvalidRequest, match="vision"):
        router().plan(request, 0.0)
    assert router(capabilities=frozenset({"vision"})).plan(request, 0.0).steps


def test_a_prompt_that_does_not_fit_is_refused_before_anybody_is_asked() -> None:
    with pytest.raises(ContextTooLong):
        router(context_length=999).plan(facts(1000), 0.0)
    assert router(context_length=1000).plan(facts(1000), 0.0).steps


def test_a_cap_counts_the_longest_answer() -> None:
    exact = 1000 * 100_000 + 500 * 200_000
    asked = {"prompt_tokens": 1000, "max_tokens": 500, "provider": "cheap"}
    assert places(**asked, cap_picousd=exact) == ["cheap"]
    with pytest.raises(InvalidRequest, match=r"a cap of 0\.000199999999 USD .* may cost up to 0\.0002 USD") as error:
        places(**asked, cap_picousd=exact - 1)
    assert error.value.param == "x-max-cost-usd"


@pytest.mark.parametrize(
    ("request_", "param", "says"),
    [
        ({"provider": "nobody"}, "x-route-provider", "'nobody' leaves .* It has: cheap, dear, own, secret."),
        ({"tags": frozenset({"fast"})}, "x-route-tags", "the tag fast leaves .* Tags of its providers: no-training."),
        ({"tags": frozenset({"region:mars"})}, "x-route-tags", "region:mars leaves .* its providers: eu, us."),
        ({"provider": "secret", "cap_picousd": 10**12}, "x-max-cost-usd", "None of them has a known price"),
        ({"provider": "secret"}, "x-route-provider", "set x-route-strategy to one that needs none"),
        ({"provider": "secret", "strategy": "COST"}, "x-route-strategy", "set x-route-strategy to one that needs none"),
        ({"cap_picousd": 1}, "x-max-cost-usd", "raise the cap"),
        ({"strategy": "CHEAPEST"}, "strategy", "Strategies: COST"),
    ],
)  # fmt: skip
def test_rules_that_leave_nobody_are_the_callers_mistake(request_: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as error:
        places(**request_)
    assert (error.value.status, error.value.param, error.value.is_transient) == (400, param, False)


def test_a_place_of_unknown_price_is_never_under_a_cap() -> None:
    assert "secret" not in places(strategy="QUALITY", cap_picousd=10**12)
