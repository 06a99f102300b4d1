"""A load-balancing endpoint looked after by the controller, at the emulator: woken by a request, pins that end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.runpod_emulator.test_balancer import balanced
from tests.vllm_service.autoscaling.test_controller import PROVIDER, Wants
from tests.vllm_service.http_seam import HttpSeam
from tests.waiting import until_seen
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.catalog.model import Catalog, Management, Offer, PublicModel
from vllm_service.routing.worker_pins import WorkerPins
from vllm_service.runpod.endpoint import RunPodSettings
from vllm_service.storage.coordination.memory import MemoryWakes


async def test_it_is_woken_and_a_conversation_is_let_go_with_its_worker() -> None:
    async with balanced(idle_timeout_seconds=60, max_workers=1) as running:
        emulator = running.emulator
        own = replace(
            PROVIDER,
            base_url=f"{emulator.balanced_url}/v1",
            control_url=emulator.url,
            management=Management("local", emulator.origin),
            is_balanced=True,
        )
        catalog = Catalog({"own": own}, {"m": PublicModel("m", (Offer("own", "there"),))})
        clock, http, pins, router = asyncio.get_running_loop().time, HttpSeam(), WorkerPins(), Wants(1)
        keeper = EndpointController(
            *(http, MemoryWakes(clock), RunPodSettings(health_interval_seconds=0.1)), clock=clock, replicas=1, pins=pins
        )

        async def asked_for() -> str | None:
            keeper.round(catalog, router)
            await keeper.idle()
            return pins.worker_for("own", "acme", b"chat", clock())

        async def is_warm() -> bool:
            await asked_for()
            return bool(keeper.status().by_provider) and keeper.status().by_provider["own"].idle == 1

        await until_seen(is_warm, 60)
        (worker,) = emulator.workers
        pins.served("own", "acme", b"chat", worker, clock() + 600)

        async def is_kept() -> bool:
            return await asked_for() == worker

        await until_seen(is_kept, 60)  # once it is in the list, which is read less often than it is counted
        router.workers = 0

        async def is_let_go() -> bool:
            return await asked_for() is None

        await until_seen(is_let_go, 30)
        assert http.sent["GET /lb/local/v1/models"] >= 1
        assert not [sent for sent in http.sent if sent.endswith("/run")]
        keeper.stop()
        await http.aclose()
