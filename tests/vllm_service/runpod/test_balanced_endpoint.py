"""Waking a load-balancing endpoint, which has no queue: on the real emulator with a real worker process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.runpod_emulator.test_balancer import balanced
from tests.vllm_service.http_seam import HttpSeam
from tests.waiting import until
from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.balanced_endpoint import BalancedEndpoint
from vllm_service.runpod.endpoint import Reply

PROVIDER = Provider("own", ProviderKind.RUNPOD, "http://127.0.0.1:1/v1", control_url="http://127.0.0.1:1/v2/x")


async def test_a_request_wakes_a_worker_and_the_count_of_workers_is_read_from_health() -> None:
    async with balanced() as running:
        emulator, http = running.emulator, HttpSeam()
        provider = replace(PROVIDER, base_url=f"{emulator.balanced_url}/v1", control_url=emulator.url)
        endpoint = BalancedEndpoint(provider, http, lambda: 0.0)
        for _ in range(3):
            await endpoint.wake("demo")
        await running.until_ready(1)
        await until(lambda: emulator.endpoint.requests.completed >= 1, 10)
        assert len(emulator.workers) == 1
        health = await endpoint.health()
        assert health is not None
        assert health.workers_warm == 1
        await http.aclose()


async def test_only_one_request_is_open_and_cancelling_ends_it() -> None:
    open_requests: list[str] = []
    ended = asyncio.Event()

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float) -> Reply:
        open_requests.append(f"{method} {url}")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    endpoint = BalancedEndpoint(PROVIDER, send, lambda: 0.0)
    await asyncio.gather(endpoint.wake("demo"), endpoint.wake("demo"))
    assert open_requests == ["GET http://127.0.0.1:1/v1/models"]
    await endpoint.cancel("it")
    await asyncio.wait_for(ended.wait(), 5)


@pytest.mark.parametrize("status", [401, 403, 404, None])
async def test_a_refusal_or_no_answer_is_an_error(status: int | None) -> None:
    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float) -> Reply:
        if status is None:
            raise OSError
        return Reply(status, b"", {})

    with pytest.raises(UpstreamFailed, match="own"):
        await BalancedEndpoint(PROVIDER, send, lambda: 0.0).wake("demo")


@pytest.mark.parametrize("status", [200, 400, 502, 503])
async def test_that_no_worker_is_there_yet_is_none(status: int) -> None:
    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float) -> Reply:
        return Reply(status, b"", {})

    assert await BalancedEndpoint(PROVIDER, send, lambda: 0.0).wake("demo")
