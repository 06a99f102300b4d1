"""LLMRouter over an own endpoint with a real vLLM and an emulated hosted provider."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from runpod_emulator import HostedModel, HostedProviders, HostedSettings
from tests.e2e.client.conftest import MODEL
from tests.e2e.client.test_generation import ASKED, EXACT, FRANCE, PARIS
from tests.e2e.emulated import API_KEY, Endpoint
from vllm_service import LLMRouter, RoutingStrategy, TokenPrice, errors
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import SecondPrice

HOSTED = HostedSettings(
    name="hosted", models=(HostedModel(id="small", input_usd=Decimal("0.10"), output_usd=Decimal("0.10")),)
)


@pytest.fixture(scope="module")
async def catalog(endpoint: Endpoint) -> AsyncIterator[Catalog]:
    async with HostedProviders([HOSTED]) as hosted:
        own = Provider(
            "own",
            ProviderKind.RUNPOD,
            endpoint.emulator.openai_url,
            API_KEY,
            second_price=SecondPrice.per_second("0.00019"),
        )
        other = Provider("hosted", ProviderKind.HOSTED, hosted.base_url("hosted"))
        offers = (Offer("own", MODEL), Offer("hosted", "small", TokenPrice.per_million("0.10", "0.10")))
        yield Catalog({"own": own, "hosted": other}, {"demo": PublicModel("demo", offers)})


async def test_balanced_gives_the_own_endpoint_eight_of_ten(catalog: Catalog) -> None:
    async with LLMRouter(RoutingStrategy.BALANCED, catalog) as router:
        answers = [await router.complete(FRANCE, **EXACT) for _ in range(10)]
    assert Counter(answer.provider for answer in answers) == {"own": 8, "hosted": 2}
    assert {answer.text for answer in answers if answer.provider == "own"} == {PARIS}
    assert all(answer.cost_picousd for answer in answers if answer.provider == "hosted")


async def test_chat_and_stream(catalog: Catalog) -> None:
    async with LLMRouter(RoutingStrategy.QUALITY, catalog) as router:
        assert (await router.chat(ASKED, **EXACT)).text == PARIS
        stream = router.stream(FRANCE, **EXACT)
        assert "".join([text async for text in stream]) == PARIS
        assert stream.answer.provider == "own"
        assert [step.provider for step in router.explain(FRANCE).plan.steps] == ["own", "hosted"]


async def test_a_mistake_is_told_and_not_sent_elsewhere(catalog: Catalog) -> None:
    async with LLMRouter(RoutingStrategy.QUALITY, catalog) as router:
        with pytest.raises(errors.InvalidRequest, match="temperature"):
            await router.chat(ASKED, temperature=-1)
