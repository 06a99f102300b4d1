"""An own endpoint and a hosted provider of one model, as scripted servers on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.vllm_service.client.runpod_provider import runpod
from vllm_service import TokenPrice
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import SecondPrice
from vllm_service.resilience.retry_schedule import RetrySettings
from vllm_service.testing import Reply, Script, ScriptedProvider, says

AT_ONCE = RetrySettings(first_wait_seconds=0, jitter_seconds=0)
PRICE = TokenPrice.per_million("0.10", "0.10")
OWN, HOSTED = says("own"), says("hosted")


@dataclass(frozen=True)
class Two:
    """An own endpoint and a hosted provider of one model."""

    own: ScriptedProvider
    hosted: ScriptedProvider
    catalog: Catalog


@asynccontextmanager
async def two(own: Script | Reply = OWN, hosted: Script | Reply = HOSTED) -> AsyncIterator[Two]:
    async with runpod(own) as one, ScriptedProvider(hosted) as other:
        providers = (
            Provider("own", ProviderKind.RUNPOD, one.url, "k", second_price=SecondPrice.per_second("0.00019")),
            Provider("hosted", ProviderKind.HOSTED, other.url, "k"),
        )
        model = PublicModel("m", (Offer("own", "org/m"), Offer("hosted", "m-8b", PRICE)))
        yield Two(one, other, Catalog({provider.name: provider for provider in providers}, {"m": model}))
