"""An endpoint that RunPod has scaled down by itself: the gateway says so, wakes nothing, and wakes it when it may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.gated import KEY, SETTINGS, VARIABLES, Callers, Gated, gated
from tests.e2e.gateway import Gateway, gateway
from tests.e2e.test_playground import CHROMIUM, opened
from tests.waiting import until

SECONDS = 200
EXPECTED = {"cold_start_seconds": 0.1, "idle_timeout_seconds": 2, "max_workers": 3}


async def set_most_workers(endpoint: Gated, most: int) -> None:
    """As RunPod does it by itself, and its owner after that."""
    async with httpx.AsyncClient(base_url=endpoint.emulator.origin, trust_env=False) as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = await client.patch("/v2/serverless/ep", json={"workers": {"max": most}}, headers=headers)
    assert answer.status_code == 200, answer.text


async def health(running: Gateway) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        found: dict[str, Any] = (await client.get(f"{running.url.removesuffix('/v1')}/health")).json()
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: nothing to test with")
async def test_the_page_shows_an_endpoint_that_is_scaled_down_and_what_to_run(tmp_path: Path) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        await set_most_workers(endpoint, 0)
        async with gateway(tmp_path, **VARIABLES) as running:
            page_url = f"{running.url.removesuffix('/v1')}/"
            async with opened(page_url, tmp_path / "profile") as page:
                text = await page.until("sums.innerText.includes('Scaled down by RunPod') && sums.innerText")
    assert "own: run deploy apply" in text


@pytest.mark.parametrize("scaling", ["warm_up_jobs", "workers_min"])
async def test_nothing_is_hoped_for_from_an_endpoint_that_may_have_no_worker_until_it_may(
    tmp_path: Path, scaling: str
) -> None:
    async with gated(tmp_path, replace(SETTINGS, max_workers=3)) as endpoint:
        own = endpoint.provider(EXPECTED, scaling=scaling)
        endpoint.configure_with(tmp_path, {"own": own}, hosted_usd=1000)
        endpoint.open()
        await set_most_workers(endpoint, 0)
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling(4):
                await until(lambda: callers.by["hosted"] > 100, SECONDS)
            found = await health(running)
            log = (running.directory / "log").read_text()
        assert (callers.wrong, callers.by["own"]) == ([], 0)
        assert (endpoint.wakes, endpoint.workers, endpoint.emulator.endpoint.minima) == (0, [], [])
        assert found["status"] == "healthy"
        assert "`python -m vllm_service deploy apply` puts it back" in found["scaled_down"]["own"]
        assert log.count("own is scaled down: RunPod lets it have no worker") == 1
        await set_most_workers(endpoint, 3)
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling(4):
                await until(lambda: callers.by["own"] > 0, SECONDS)
            assert (await health(running))["scaled_down"] == {}
