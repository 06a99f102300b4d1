"""Budgets and caps in dollars: they hold whatever a provider reports, for the longest answer of the whole request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.vllm_service.gateway.asking import MESSAGES
from tests.vllm_service.gateway.running import SECRET, Running, catalog_of, running
from vllm_service.catalog.model import Catalog, PublicModel
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.pricing import TokenPrice, UnpricedOffers
from vllm_service.domain.usage import Usage
from vllm_service.gateway.config_snapshot import ConfigSnapshot
from vllm_service.routing.from_catalog import make_router
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.testing import (
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    chat_chunk,
    chat_document,
    chat_events,
    completion,
    events,
    whole,
)

CENT = 10**10
PRICE = TokenPrice.per_million("1", "2")
TEXT = "word " * 60
OTHER = "sk-of-another-caller"


def reporting(usage: Any) -> Script:
    """Answers 60 words, with this usage; in a stream it is the last chunk's."""

    def script(request: ReceivedRequest) -> Reply:
        if "prompt" in request.json:
            return completion(TEXT, usage)
        if not request.is_stream:
            return whole(chat_document(TEXT, usage))
        words = [chat_chunk(f"{word} ") for word in TEXT.split()]
        return events(
            *words, *chat_events(usage=None)[:-1], chat_chunk(None, choices=[], usage=usage), b"data: [DONE]\n\n"
        )

    return script


def key_of(organisation: str, budget: int | None = None) -> ApiKey:
    return ApiKey(f"key-of-{organisation}", organisation, Tier.ENTERPRISE, OrganisationLimits(None, None, None, budget))


@asynccontextmanager
async def budgeted(
    script: Script,
    budget_picousd: int | None,
    *,
    price: TokenPrice | None = PRICE,
    unpriced: UnpricedOffers = UnpricedOffers.REFUSE,
    **model: Any,
) -> AsyncIterator[tuple[Running, MemoryQuotas]]:
    """A gateway with real quotas: SECRET has the budget, OTHER has none."""
    quotas = MemoryQuotas()
    async with ScriptedProvider(script) as provider:
        before = catalog_of(provider.url)
        small = before.models["small"]
        changed: PublicModel = replace(small, offers=(replace(small.offers[0], price=price),), **model)
        catalog = Catalog(before.providers, {"small": changed})
        async with running(catalog, quotas=quotas) as gateway:
            router = make_router(catalog, "QUALITY")
            gateway.gateway.config.snapshot = ConfigSnapshot(catalog, router, unpriced)
            gateway.books.keys = {SECRET: key_of("acme", budget_picousd), OTHER: key_of("zeta")}
            yield gateway, quotas


async def chat(gateway: Running, secret: str = SECRET, **fields: Any) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {secret}", **fields.pop("headers", {})}
    body = {"model": "small", "messages": MESSAGES, "max_tokens": 300, **fields}
    path = "completions" if "prompt" in body else "chat/completions"
    answer = await gateway.http.post(f"{gateway.url}/{path}", json=body, headers=headers)
    is_json = answer.headers["content-type"].startswith("application/json")
    return answer.status_code, answer.json() if is_json else {}


SAYS_NOTHING: list[Any] = [
    {},
    None,
    [],
    {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"prompt_tokens": True, "completion_tokens": [], "total_tokens": {}},
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("usage", SAYS_NOTHING, ids=str)
async def test_usage_that_says_nothing_is_estimated_and_a_budget_stops_it(usage: Any, stream: bool) -> None:
    async with budgeted(reporting(usage), CENT) as (gateway, _):
        statuses = [(await chat(gateway, stream=stream))[0] for _ in range(60)]
        row = await gateway.books.row(0)
    answered = statuses.count(200)
    assert 0 < answered < 60
    assert statuses[answered:] == [429] * (60 - answered)
    assert row.usage is not None
    assert (row.usage.estimated, row.usage.implausible) == (True, False)
    assert row.usage.completion_tokens >= 50
    assert row.usage.prompt_tokens > 0
    assert row.cost_picousd


@pytest.mark.parametrize(
    ("usage", "prompt", "completion", "is_estimated"),
    [
        ({"total_tokens": 120}, None, None, True),
        ({"prompt_tokens": 11.0, "completion_tokens": "70"}, 11, 70, False),
        ({"prompt_tokens": [], "completion_tokens": 70}, None, 70, True),
        ({"prompt_tokens": 11, "completion_tokens": []}, 11, None, True),
        ({"prompt_tokens": 11, "completion_tokens": 0, "total_tokens": 81}, 11, 70, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_was_reported_counts_and_the_rest_is_estimated(
    usage: Any, prompt: int | None, completion: int | None, is_estimated: bool, stream: bool
) -> None:
    async with budgeted(reporting(usage), None) as (gateway, _):
        await chat(gateway, stream=stream)
        row = await gateway.books.row()
    assert row.usage is not None
    assert row.usage.prompt_tokens == prompt or prompt is None
    assert row.usage.completion_tokens == completion or completion is None
    assert row.usage.prompt_tokens > 0
    assert row.usage.completion_tokens >= 50
    assert row.usage.estimated is is_estimated
    assert row.usage.total_tokens == usage.get("total_tokens", row.usage.total_tokens)


ABSURD: list[Any] = [
    {"prompt_tokens": 10**30, "completion_tokens": 10**30},
    {"prompt_tokens": 2**63, "completion_tokens": 2**63 - 1},
    {"prompt_tokens": -5, "completion_tokens": -(10**20)},
    {"prompt_tokens": 9, "completion_tokens": 301},
    {"prompt_tokens": 5_000_000, "completion_tokens": 9},
    {"prompt_tokens": 1e300, "completion_tokens": "9" * 400},
    {"total_tokens": 10**18},
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("usage", ABSURD, ids=lambda usage: str(usage)[:40])
async def test_absurd_counts_are_bounded_and_marked_and_hurt_nobody_else(usage: Any, stream: bool) -> None:
    async with budgeted(reporting(usage), None) as (gateway, quotas):
        for _ in range(3):
            assert (await chat(gateway, stream=stream))[0] == 200
        assert (await chat(gateway, OTHER))[0] == 200
        row = await gateway.books.row(0)
    assert row.usage is not None
    assert (row.usage.estimated, row.usage.implausible) == (True, True)
    assert 0 < row.usage.prompt_tokens < 5000
    assert 0 < row.usage.completion_tokens <= 300
    assert row.cost_picousd
    assert row.cost_picousd < CENT
    settled = [month.picousd for month in quotas.periods.unsaved if month.key[1] == "month"]
    assert sum(settled) == sum(row.cost_picousd or 0 for row in gateway.books.rows)


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"best_of": 4}, 4),
        ({"n": 2, "best_of": 4}, 4),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": [[1, 2], [3], [4]]}, 3),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 3}, 6),
        ({"prompt": [1, 2, 3], "echo": True, "logprobs": 5}, 1),
        ({"max_tokens": 100, "max_completion_tokens": 300}, 1),
        ({"max_tokens": 300, "max_completion_tokens": 100}, 1),
        ({"max_tokens": 100, "max_completion_tokens": 300, "n": 2}, 2),
    ],
    ids=str,
)
async def test_a_cap_and_a_reservation_count_the_longest_answer_of_the_whole_request(
    fields: dict[str, Any], answers: int
) -> None:
    """Each answer of 300 tokens costs $0.0006, a prompt of some 30 tokens $0.00003."""
    enough, too_little = f"{answers * 0.0006 + 0.00006:.6f}", f"{answers * 0.0006:.6f}"
    async with budgeted(reporting({"prompt_tokens": 9, "completion_tokens": 9}), 10**12) as (gateway, _):
        status, refused = await chat(gateway, headers={"x-max-cost-usd": too_little}, **fields)
        assert (status >= 400, "cap of" in str(refused)) == (True, True)
        assert (await chat(gateway, headers={"x-max-cost-usd": enough}, **fields))[0] == 200
        gateway.books.keys[SECRET] = key_of("small", int(answers * 6 * 10**8))
        status, refused = await chat(gateway, **fields)
        assert (status, refused["error"]["details"]["limit"]) == (429, "usd_per_month")
        gateway.books.keys[SECRET] = key_of("large", int(answers * 6 * 10**8 + 6 * 10**7))
        assert (await chat(gateway, **fields))[0] == 200


async def test_without_a_bound_the_models_context_is_the_longest_answer() -> None:
    """8,000 tokens at $2 a million are $0.016."""
    usual = reporting({"prompt_tokens": 9, "completion_tokens": 9})
    async with budgeted(usual, 2 * CENT, context_length=8000) as (gateway, _):
        free: dict[str, Any] = {"max_tokens": None}
        assert (await chat(gateway, headers={"x-max-cost-usd": "0.0159"}, **free))[0] >= 400
        assert (await chat(gateway, headers={"x-max-cost-usd": "0.0161"}, **free))[0] == 200
        gateway.books.keys[SECRET] = key_of("small", int(1.59 * CENT))
        assert (await chat(gateway, **free))[0] == 429
        assert (await chat(gateway, max_tokens=300))[0] == 200


@pytest.mark.parametrize(
    ("unpriced", "status", "cost_is_known"),
    [(UnpricedOffers.REFUSE, 403, False), (UnpricedOffers.ALLOW, 200, False), (UnpricedOffers.ESTIMATE, 403, False)],
)
async def test_a_model_without_any_price_under_a_budget(
    unpriced: UnpricedOffers, status: int, cost_is_known: bool
) -> None:
    """There is nothing to estimate by, so the second choice is as good as the first."""
    script = reporting({"prompt_tokens": 9, "completion_tokens": 9})
    async with budgeted(script, CENT, price=None, unpriced=unpriced) as (gateway, _):
        answered, body = await chat(gateway)
        assert answered == status
        assert ("UNPRICED_OFFERS" in str(body)) is (status == 403)
        assert (await chat(gateway, OTHER))[0] == 200, "who has no budget is served"
        row = await gateway.books.row(1)
    assert (row.cost_picousd is not None) is cost_is_known


async def test_an_unpriced_offer_counts_as_the_dearest_and_the_budget_stops_it() -> None:
    script = reporting({"prompt_tokens": 10, "completion_tokens": 290})
    async with budgeted(script, CENT, price=None, unpriced=UnpricedOffers.ESTIMATE) as (gateway, _):
        catalog = gateway.gateway.config.snapshot.catalog
        dear = PublicModel("dear", (replace(catalog.models["small"].offers[0], price=TokenPrice.per_million(3, 9)),))
        catalog = Catalog(catalog.providers, {**catalog.models, "dear": dear})
        router = make_router(catalog, "QUALITY")
        gateway.gateway.config.snapshot = ConfigSnapshot(catalog, router, UnpricedOffers.ESTIMATE)
        statuses = [(await chat(gateway))[0] for _ in range(10)]
        _, body = await chat(gateway, OTHER)
        row = await gateway.books.row(0)
    assert statuses == [200] * 3 + [429] * 7
    assert row.usage == Usage(10, 290)
    assert row.cost_picousd == 10 * 3_000_000 + 290 * 9_000_000
    assert body["cost_info"]["is_estimate"] is True


async def test_offers_of_known_price_are_used_under_a_budget_and_others_are_not() -> None:
    script = reporting({"prompt_tokens": 10, "completion_tokens": 290})
    async with budgeted(script, CENT, price=None) as (gateway, _):
        catalog = gateway.gateway.config.snapshot.catalog
        small = catalog.models["small"]
        known = replace(small.offers[0], model="known", price=TokenPrice.per_million(1, 2))
        catalog = Catalog(catalog.providers, {"small": replace(small, offers=(small.offers[0], known))})
        gateway.gateway.config.snapshot = ConfigSnapshot(catalog, make_router(catalog, "QUALITY"))
        await chat(gateway)
        await chat(gateway, OTHER)
        rows = [await gateway.books.row(number) for number in range(2)]
    assert [row.upstream_model for row in rows] == ["known", "small-there"]
