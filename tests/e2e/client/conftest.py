"""One endpoint with one worker, shared by every test of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.emulated import API_KEY, Endpoint, emulated_endpoint
from vllm_service import RunPodVLLMService, TokenPrice

MODEL = "demo-model"
PRICES = {MODEL: TokenPrice.per_million("0.02", "0.02")}


@pytest.fixture(scope="package")
async def endpoint(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    async with emulated_endpoint(tmp_path_factory.mktemp("worker")) as endpoint:
        yield endpoint


@pytest.fixture(scope="package")
async def service(endpoint: Endpoint) -> AsyncIterator[RunPodVLLMService]:
    async with RunPodVLLMService("ep", API_KEY, endpoint.emulator.openai_url, MODEL, prices=PRICES) as service:
        yield service
