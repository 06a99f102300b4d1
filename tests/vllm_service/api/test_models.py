"""GET /v1/models: prices as configured, speed as measured, null where nobody knows; the OpenAI SDK reads it."""

from __future__ import annotations

import httpx
import openai
import pytest
from msgspec.structs import replace

from tests.vllm_service.api.service import CATALOG, KEY, REQUEST, OneKey, dependencies, served
from vllm_service.catalog.model import Catalog, Offer, PublicModel
from vllm_service.domain.pricing import TokenPrice


def test_a_model_is_described_by_what_is_configured_and_measured() -> None:
    service = dependencies(started_at=1_800_000_000.5)
    service.measurements.record(REQUEST)
    with served(service) as address:
        listed = httpx.get(f"{address}/models").json()
        assert listed == httpx.get(f"{address}/v1/models").json()
        assert httpx.get(f"{address}/v1/models/gpt-3.5-turbo").json() == listed["data"][0]
    llama, sql = listed["data"]
    assert llama == {
        "id": "llama",
        "object": "model",
        "created": 1_800_000_000,
        "owned_by": "hosted",
        "cost_per_1k_tokens": 0.0002,
        "cost_basis": "booked",
        "openai_equivalent": "gpt-4o-mini",
        "performance": {
            "avg_latency_ms": 100.0,
            "tokens_per_second": 200.0,
            "max_context_length": 8192,
            "apple_silicon_optimized": True,
        },
        "quality_metrics": {
            "bleu_score_vs_openai": None,
            "engagement_prediction_accuracy": None,
            "content_coherence": None,
        },
        "description": "A small model",
        "usd_per_million_tokens": {"input": 0.1, "cached_input": 0.05, "output": 0.3},
        "providers": ["hosted", "runpod"],
        "offers": [
            {
                "provider": "hosted",
                "model": "llama-3.1-8b",
                "usd_per_million_tokens": {"input": 0.1, "cached_input": 0.05, "output": 0.3},
            },
            {
                "provider": "runpod",
                "model": "llama",
                "usd_per_million_tokens": {"input": None, "cached_input": None, "output": None},
            },
        ],
        "aliases": ["gpt-3.5-turbo"],
        "capabilities": ["chat"],
    }
    assert (sql["id"], sql["cost_per_1k_tokens"], sql["performance"]["avg_latency_ms"]) == ("org/sql", None, None)


def test_a_model_billed_by_the_second_costs_what_was_charged() -> None:
    service = dependencies()
    service.measurements.record(replace(REQUEST, model="org/sql", provider="runpod", cost_picousd=60_000_000))
    with served(service) as address:
        assert httpx.get(f"{address}/v1/models/org/sql").json()["cost_per_1k_tokens"] == pytest.approx(0.002)


def test_the_catalog_of_the_moment_is_listed() -> None:
    catalogs = [CATALOG]
    with served(dependencies(catalog=lambda: catalogs[-1])) as address:
        assert len(httpx.get(f"{address}/v1/models").json()["data"]) == 2
        free = PublicModel("free", (Offer("hosted", "f", TokenPrice.per_million(0, 0)),))
        catalogs.append(Catalog(CATALOG.providers, {"free": free}))
        (model,) = httpx.get(f"{address}/v1/models").json()["data"]
    assert (model["id"], model["cost_per_1k_tokens"]) == ("free", 0.0)


def test_the_openai_sdk_reads_the_list_and_raises_its_own_errors() -> None:
    with served(dependencies(keys=OneKey())) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        assert [model.id for model in client.models.list()] == ["llama", "org/sql"]
        assert client.models.retrieve("org/sql").owned_by == "runpod"
        with pytest.raises(openai.NotFoundError) as missing:
            client.models.retrieve("nobody")
        assert (missing.value.code, missing.value.param) == ("NOT_FOUND_404", "model")
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="sk-wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError) as refused,
        ):
            stranger.models.list()
        assert refused.value.code == "UNAUTHORIZED_401"
        client.close()
