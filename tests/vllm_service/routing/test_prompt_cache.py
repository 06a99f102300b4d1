"""Prefix-cache affinity: a conversation is worth more where its beginning has been read."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from tests.vllm_service.routing.catalogs import catalog, facts
from vllm_service.catalog.model import Catalog, Offer, PromptCache, PublicModel
from vllm_service.domain.plan import Step
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.routing.estimates import KEPT_SECONDS, MOST_PREFIXES, CachedPrefixes
from vllm_service.routing.profiles import EndpointProfile, RouterSettings
from vllm_service.routing.router import CostRouter

TALK, OTHER_TALK = 7, 8
OWN = Step("own", "org/m")
READS = 3000.0  # tokens per second


def hosted_router(cache: PromptCache = PromptCache.SHARED) -> CostRouter:
    """`cheap` takes 0.10, `dear` 0.12, and half of that for what it has cached."""
    offers = (
        Offer("cheap", "m-cheap", TokenPrice.per_million("0.10", "0.20", "0.05")),
        Offer("dear", "m-dear", TokenPrice.per_million("0.12", "0.20", "0.06")),
    )
    providers = {name: replace(provider, prompt_cache=cache) for name, provider in catalog().providers.items()}
    return CostRouter(Catalog(providers, {"m": PublicModel("m", offers)}))


def own_router(workers: int) -> CostRouter:
    """An endpoint that takes seven seconds to read 20,000 tokens; the first token must be there within six."""
    profile = EndpointProfile(prefill_tokens_per_second=READS)
    settings = RouterSettings(profiles=MappingProxyType({"own": profile}), max_steps=4)
    router = CostRouter(catalog(), settings)
    router.observe_health("own", {"workers": {"idle": workers}}, 0.0)
    return router


def served(router: CostRouter, provider: str, request: RequestFacts, cached: float, at: float) -> None:
    """`provider` answers it, the own one after reading, and says which share of the prompt it had cached."""
    model = {"own": "org/m", "cheap": "m-cheap", "dear": "m-dear"}[provider]
    step = Step(provider, model)
    attempt = router.started(step, request, at)
    tokens = request.prompt_tokens
    first_at = at + (0.15 + (1.0 - cached) * tokens / READS if provider == "own" else 0.5)
    attempt.first_token(first_at)
    attempt.succeeded(Usage(tokens, 10, cached_tokens=int(cached * tokens)), first_at + 0.5)


def goes_to(router: CostRouter, request: RequestFacts, at: float) -> str:
    return router.plan(request, at).steps[0].provider


def taught(router: CostRouter, provider: str) -> None:
    """Each of a few conversations comes twice: nothing is cached at first, nine tenths the second time."""
    for talk in range(100, 110):
        served(router, provider, facts(prefix=talk), 0.0, at=0.0)
        served(router, provider, facts(prefix=talk), 0.9, at=2.0)


def test_a_conversation_stays_where_its_beginning_was_read_and_a_new_one_goes_to_the_cheapest() -> None:
    router = hosted_router()
    taught(router, "dear")
    served(router, "dear", facts(prefix=TALK), 0.0, at=10.0)
    assert goes_to(router, facts(prefix=TALK), 12.0) == "dear"
    assert goes_to(router, facts(prefix=OTHER_TALK), 12.0) == "cheap"
    assert goes_to(router, facts(), 12.0) == "cheap"


@pytest.mark.parametrize(("cache", "goes"), [(PromptCache.VLLM, "cheap"), (PromptCache.SHARED, "dear")])
def test_another_organisations_conversation_is_no_hit_where_the_cache_is_divided(cache: PromptCache, goes: str) -> None:
    router = hosted_router(cache)
    taught(router, "dear")
    served(router, "dear", facts(prefix=TALK, organisation="acme"), 0.0, at=10.0)
    assert goes_to(router, facts(prefix=TALK, organisation="acme"), 12.0) == "dear"
    assert goes_to(router, facts(prefix=TALK, organisation="zeta"), 12.0) == goes


def test_what_was_read_long_ago_is_not_cached_any_more() -> None:
    router = hosted_router()
    taught(router, "dear")
    served(router, "dear", facts(prefix=TALK), 0.0, at=10.0)
    assert goes_to(router, facts(prefix=TALK), 11.0 + KEPT_SECONDS - 1.0) == "dear"
    assert goes_to(router, facts(prefix=TALK), 11.0 + KEPT_SECONDS + 1.0) == "cheap"


def test_a_prompt_that_follows_is_expected_to_be_cached_no_less_than_others() -> None:
    router = hosted_router()
    for at in range(50):
        served(router, "dear", facts(), 0.9, at=2.0 * at)
    served(router, "dear", facts(prefix=TALK), 0.9, at=110.0)
    assert goes_to(router, facts(), 112.0) == "dear"
    assert goes_to(router, facts(prefix=TALK), 112.0) == "dear"


def test_a_configuration_that_is_read_again_forgets_no_conversation() -> None:
    before, after = hosted_router(), hosted_router()
    taught(before, "dear")
    served(before, "dear", facts(prefix=TALK), 0.0, at=10.0)
    after.take_over(before)
    assert goes_to(after, facts(prefix=TALK), 12.0) == "dear"


def test_where_answers_say_that_nothing_was_cached_nothing_is_expected_to_be() -> None:
    router = hosted_router()
    for at in range(10):
        served(router, "dear", facts(prefix=TALK), 0.0, at=2.0 * at)
    assert goes_to(router, facts(prefix=TALK), 30.0) == "cheap"


def test_an_estimate_of_usage_says_nothing_of_what_was_cached() -> None:
    router, request, step = hosted_router(), facts(), Step("dear", "m-dear")
    for at in range(10):
        served(router, "dear", request, 0.9, at=2.0 * at)
    for at in range(100):
        attempt = router.started(step, request, 30.0 + at)
        attempt.succeeded(Usage(1000, 10, estimated=True), 30.5 + at)
    assert goes_to(router, request, 200.0) == "dear"


def test_the_expected_cost_of_a_step_counts_what_is_cached_there() -> None:
    router = hosted_router()
    taught(router, "cheap")
    served(router, "cheap", facts(prefix=TALK), 0.0, at=10.0)
    known = router.plan(facts(prefix=TALK), 12.0).steps[0].cost_picousd
    new = router.plan(facts(prefix=OTHER_TALK), 12.0).steps[0].cost_picousd
    assert known is not None
    assert new is not None
    assert 0.8 * 1000 * 50_000 < new - known <= 0.9 * 1000 * 50_000  # pico-dollars per token: 0.10 less 0.05 USD/M


def test_a_long_conversation_is_in_time_where_the_only_worker_has_read_it() -> None:
    router, turn = own_router(1), facts(20_000, prefix=TALK)
    assert goes_to(router, turn, 1.0) == "cheap"
    taught(router, "own")
    served(router, "own", turn, 0.0, at=10.0)
    assert goes_to(router, turn, 20.0) == "own"
    assert goes_to(router, facts(20_000, prefix=OTHER_TALK), 20.0) == "cheap"


def test_the_work_that_a_worker_is_spared_makes_its_turn_cheaper() -> None:
    router, turn, other = own_router(1), facts(5000, prefix=TALK), facts(5000, prefix=OTHER_TALK)
    taught(router, "own")
    served(router, "own", turn, 0.0, at=10.0)
    known, new = (router.plan(request, 20.0).steps[0] for request in (turn, other))
    assert known.provider == new.provider == "own"
    assert known.cost_picousd is not None
    assert new.cost_picousd is not None
    assert known.cost_picousd < new.cost_picousd / 2


def test_of_two_workers_nobody_knows_which_one_has_read_it() -> None:
    router, turn = own_router(2), facts(20_000, prefix=TALK)
    taught(router, "own")
    served(router, "own", turn, 0.0, at=10.0)
    assert goes_to(router, turn, 20.0) == "cheap"


@pytest.mark.parametrize("workers", [0, 2])
def test_nobody_relies_on_a_worker_that_has_left_or_on_the_platform_to_pick_the_right_one(workers: int) -> None:
    router, turn = own_router(1), facts(20_000, prefix=TALK)
    taught(router, "own")
    served(router, "own", turn, 0.0, at=10.0)
    assert goes_to(router, turn, 20.0) == "own"
    router.observe_health("own", {"workers": {"idle": workers}}, 21.0)
    assert goes_to(router, turn, 22.0) == "cheap"
    router.observe_health("own", {"workers": {"idle": 1}}, 23.0)  # perhaps not the one that has read it
    assert goes_to(router, turn, 24.0) == "cheap"


def test_cached_prompts_do_not_make_a_worker_look_faster_than_it_reads() -> None:
    router = own_router(1)
    before = router.endpoints["own"].prefill_tokens_per_second
    for talk in range(100):
        served(router, "own", facts(3000, prefix=1 + talk), 0.0, at=10.0 * talk)
        served(router, "own", facts(30_000, prefix=1 + talk), 0.9, at=10.0 * talk + 5.0)
    assert router.endpoints["own"].prefill_tokens_per_second == pytest.approx(before, rel=0.05)


def test_speed_is_learned_from_prompts_that_are_partly_cached() -> None:
    router, request = own_router(1), facts(30_000, prefix=TALK)
    served(router, "own", facts(10, prefix=TALK), 0.0, at=0.0)
    for turn in range(1, 100):  # it reads half as fast as it was believed to
        attempt = router.started(OWN, request, 10.0 * turn)
        attempt.first_token(10.0 * turn + 0.15 + 3000 / (READS / 2))
        attempt.succeeded(Usage(30_000, 10, cached_tokens=27_000), 10.0 * turn + 3.0)
    assert router.endpoints["own"].prefill_tokens_per_second < 0.7 * READS


def test_what_waits_to_be_read_is_what_is_not_cached_and_ends_at_nothing() -> None:
    router, turn = own_router(1), facts(20_000, prefix=TALK)
    endpoint = router.endpoints["own"]
    attempt = router.started(OWN, turn, 1.0)
    assert endpoint.unread_tokens == 20_000
    attempt.abandoned(2.0)
    assert endpoint.unread_tokens == 0.0
    taught(router, "own")
    served(router, "own", turn, 0.0, at=10.0)
    attempt = router.started(OWN, turn, 20.0)
    assert endpoint.unread_tokens < 5000
    waiting = facts(1000)
    router.started(OWN, waiting, 20.0)
    attempt.succeeded(None, 23.0)
    assert endpoint.unread_tokens == 1000.0


def test_the_fastest_place_is_the_one_that_has_read_the_conversation() -> None:
    router, turn = own_router(1), facts(20_000, prefix=TALK, strategy="LATENCY")
    taught(router, "own")
    assert goes_to(router, turn, 9.0) != "own"
    for talk in range(200, 300):
        served(router, "own", facts(prefix=talk), 0.0, at=10.0)
        served(router, "own", facts(prefix=talk), 0.99, at=12.0)
    served(router, "own", turn, 0.0, at=20.0)
    assert goes_to(router, turn, 30.0) == "own"


def test_the_oldest_beginnings_are_forgotten_first() -> None:
    cache = CachedPrefixes()
    for prefix in range(1, MOST_PREFIXES + 1):
        cache.add(prefix, False, 0.0, "", 1.0)
    cache.add(1, True, 0.5, "", 2.0)  # read again: now the latest
    cache.add(MOST_PREFIXES + 1, False, 0.0, "", 3.0)
    assert cache.has_read(1, 3.0)
    assert not cache.has_read(2, 3.0)
    assert cache.has_read(3, 3.0)


def test_prompts_that_are_too_short_for_a_beginning_follow_nothing() -> None:
    cache = CachedPrefixes()
    cache.add(0, False, 0.0, "", 5.0)
    assert not cache.has_read(0, 6.0)
