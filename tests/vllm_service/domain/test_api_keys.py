"""Tiers of keys, and the limits that an organisation has where nothing else was said."""

from __future__ import annotations

import pytest

from vllm_service.domain.keys import REQUESTS_PER_MINUTE, ApiKey, OrganisationLimits, Tier


@pytest.mark.parametrize(("tier", "requests"), [("development", 100), ("production", 1_000), ("enterprise", 10_000)])
def test_a_tier_sets_the_requests_of_a_minute(tier: str, requests: int) -> None:
    assert REQUESTS_PER_MINUTE[Tier(tier)] == requests


def test_every_tier_has_its_requests() -> None:
    assert REQUESTS_PER_MINUTE.keys() == set(Tier)


@pytest.mark.parametrize("tier", Tier)
def test_a_tier_is_looked_up_by_its_name_too(tier: Tier) -> None:
    assert (hash(tier), {tier: 1}[tier.value]) == (hash(tier.value), 1)  # type: ignore[index]


def test_a_key_may_do_what_the_documented_defaults_say() -> None:
    key = ApiKey("id", "acme")
    assert (key.tier, key.annotate, key.strategy) == (Tier.DEVELOPMENT, True, None)
    assert key.limits == OrganisationLimits(10_000_000, 100_000, 300_000_000, None)
