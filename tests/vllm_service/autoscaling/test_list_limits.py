"""Replicas that look at endpoints of one key stay within its limit, at an emulated RunPod that counts requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from runpod_emulator import EndpointSettings
from tests.contract.rest_contract import checked_emulator
from tests.vllm_service.autoscaling.test_endpoint_look import Wants, catalog
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.catalog.model import Management, Provider, ProviderKind
from vllm_service.domain.pricing import SecondPrice
from vllm_service.http.pool import ConnectionPool
from vllm_service.runpod.control import ControlHttp
from vllm_service.runpod.endpoint import Reply
from vllm_service.storage.coordination.memory import MemoryWakes

KEY = "endpoint-key"
MINUTES = 3


class Counted(ControlHttp):
    """The gateway's own connections; counts the answers of the REST API by path and status."""

    def __init__(self, connections: ConnectionPool) -> None:
        super().__init__(connections)
        self.answers: Counter[tuple[str, int]] = Counter()

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        reply = await super().__call__(method, url, headers, body, timeout_seconds)
        if "/v2/serverless" in url:
            self.answers["list" if url.endswith("/workers") else "endpoint", reply.status] += 1
        return reply


def provider(name: str, origin: str) -> Provider:
    return Provider(
        name,
        ProviderKind.RUNPOD,
        f"{origin}/v2/ep/openai/v1",
        api_key=KEY,
        control_url=f"{origin}/v2/ep",
        second_price=SecondPrice.per_second("0.00031"),
        management=Management("ep", origin),
    )


@pytest.mark.parametrize(("endpoints", "replicas", "quota"), [(1, 1, 60), (2, 2, 60), (1, 3, 12)])
async def test_no_list_is_refused_and_half_of_the_limit_is_left(endpoints: int, replicas: int, quota: int) -> None:
    now = 1000.0
    settings = EndpointSettings(endpoint_id="ep", api_key=KEY)
    options: dict[str, Any] = {"rest_quotas": {"serverless": quota}, "clock": lambda: now}
    async with checked_emulator(settings, ours=True, **options) as (emulator, _):
        pool = ConnectionPool()
        http = Counted(pool)
        configured = catalog(*(provider(f"own-{number}", emulator.origin) for number in range(endpoints)))
        router = Wants(configured)
        controllers = [
            EndpointController(http, MemoryWakes(lambda: now), clock=lambda: now, replicas=replicas)
            for _ in range(replicas)
        ]
        for _ in range(60 * MINUTES):
            for controller in controllers:
                controller.round(configured, router)
            for controller in controllers:
                await controller.idle()
            now += 1.0
        await pool.close()
    lists = http.answers.pop(("list", 200))
    assert {status for _, status in http.answers} == {200}
    assert MINUTES * quota / 2 - 3 * replicas * endpoints <= lists <= MINUTES * quota / 2 + replicas * endpoints
