"""A worker of an emulated endpoint with other GPUs, from its start on: its price and its cold start."""

from __future__ import annotations

import time

import pytest

from runpod_emulator import EndpointSettings
from tests.contract.rest_contract import checked_emulator
from tests.runpod_emulator.rest_calls import rest_of
from tests.runpod_emulator.support import ECHO_WORKER
from tests.vllm_service.autoscaling.test_endpoint_look import Wants, catalog
from tests.waiting import until_seen
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.catalog.model import Management, Provider, ProviderKind
from vllm_service.domain.pricing import SecondPrice
from vllm_service.http.pool import ConnectionPool
from vllm_service.runpod.control import ControlHttp
from vllm_service.runpod.endpoint import RunPodSettings
from vllm_service.storage.coordination.memory import MemoryWakes

LOOK_SECONDS = 0.5


async def test_a_worker_costs_what_its_gpus_cost_and_its_start_is_measured() -> None:
    quotas = {"serverless": 600}
    async with checked_emulator(EndpointSettings(), ECHO_WORKER, ours=True, rest_quotas=quotas) as (emulator, _):
        async with rest_of(emulator) as rest:
            made = await rest.created(gpu={"pools": ["AMPERE_48"]}, workers={"min": 0, "max": 1})
            own = Provider(
                "own",
                ProviderKind.RUNPOD,
                f"{emulator.origin}/v2/{made['id']}/openai/v1",
                control_url=f"{emulator.origin}/v2/{made['id']}",
                second_price=SecondPrice.per_second("0.00031"),
                management=Management(made["id"], emulator.origin),
            )
            configured = catalog(own)
            router = Wants(configured)
            pool = ConnectionPool()
            settings = RunPodSettings(health_interval_seconds=LOOK_SECONDS)
            controller = EndpointController(
                ControlHttp(pool), MemoryWakes(time.monotonic), settings, clock=time.monotonic, replicas=1
            )

            async def starts() -> list[float]:
                controller.round(configured, router)
                await controller.idle()
                listed = [listed for _, listed in router.told if listed is not None]
                return [seconds for one in listed for seconds in one.cold_starts_seconds or ()]

            assert await starts() == []
            await rest("PATCH", f"/v2/serverless/{made['id']}", {"workers": {"min": 1}})
            (measured,) = await until_seen(starts)
            price = router.told[-1][1]
            seen = controller.status().by_provider["own"].by_gpu_type
            await pool.close()
        (worker,) = emulator.account.endpoint(made["id"]).state.registry.workers.values()
    assert price is not None
    assert price.usd_per_second == pytest.approx(0.00034)
    assert seen == {worker.placement.gpu_type_id: 1}
    assert worker.meter.ready_at is not None
    started = worker.meter.ready_at - worker.meter.started_at
    assert started <= measured <= started + 5.0  # looks may be late on a busy machine
