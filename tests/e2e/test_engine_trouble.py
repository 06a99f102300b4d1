"""Real vLLM in a worker process: killed with many jobs waiting, stuck, and healthy while the worker itself waits."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults, WorkerCommand
from runpod_emulator.jobs.job import Job, Status
from runpod_emulator.settings import NO_RATE_LIMITS
from scripts.demo_training.corpus import DEMO_MODEL_DIR
from tests.e2e.process import ROOT, START_SECONDS
from tests.e2e.test_chaos import engines
from tests.handler.model_cache.hub_server import HubServer, files_below
from tests.waiting import until

SLOTS, JOBS = 8, 40
STALL_SECONDS, GRACE_SECONDS = 3.0, 3.0
ENDPOINT = EndpointSettings(
    min_workers=0, max_workers=1, idle_timeout_seconds=60, queue_delay_seconds=0, rate_limits=NO_RATE_LIMITS
)
LONG_ANSWER = {"prompt": "Hello!", "sampling_params": {"max_tokens": 60, "ignore_eos": True}}
SHORT_ANSWER = {"prompt": "Hello!", "sampling_params": {"max_tokens": 4}}


@dataclass
class Endpoint:
    """An emulated endpoint whose worker starts with the first job, and a hub with one adapter that comes slowly."""

    emulator: Emulator
    client: httpx.AsyncClient
    hub: HubServer

    async def submit(self, job_input: dict[str, Any]) -> Job:
        job_id = (await self.client.post("run", json={"input": job_input})).json()["id"]
        return self.emulator.endpoint.store.get(job_id)

    async def load_adapter(self, name: str, bytes_per_second: float) -> Job:
        self.hub.bytes_per_second = bytes_per_second
        self.hub.add(f"org/{name}", files_below(DEMO_MODEL_DIR / "adapters" / "pirate"))
        return await self.submit(
            {"route": "/v1/load_lora_adapter", "body": {"lora_name": name, "lora_path": f"org/{name}"}}
        )

    def exit_codes(self) -> list[int | None]:
        return [worker.exit_code for worker in self.emulator.workers.values()]


@pytest.fixture(scope="module")
async def endpoint(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    directory: Path = tmp_path_factory.mktemp("trouble")
    hub = HubServer()
    with hub.running():
        variables = {
            "MODEL_NAME": str(DEMO_MODEL_DIR),
            "KV_CACHE_MEMORY_BYTES": "256M",
            "MAX_NUM_SEQS": str(SLOTS),
            "ENABLE_LORA": "true",
            "MAX_LORA_RANK": "8",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "MODEL_CACHE_DIR": str(directory / "models"),
            "STALL_SECONDS": str(STALL_SECONDS),
            "GRACE_SECONDS": str(GRACE_SECONDS),
        }
        command = WorkerCommand((sys.executable, "handler.py"), variables, directory=ROOT, log_directory=directory)
        async with Emulator(ENDPOINT, command) as emulator, httpx.AsyncClient(base_url=emulator.url) as client:
            yield Endpoint(emulator, client, hub)


async def test_a_killed_engine_fails_no_more_jobs_than_it_ran_and_the_next_worker_does_the_rest(
    endpoint: Endpoint,
) -> None:
    jobs = [await endpoint.submit(LONG_ANSWER) for _ in range(JOBS)]
    await until(lambda: count(jobs, Status.COMPLETED) >= 1, START_SECONDS)
    (engine,) = engines()
    engine.kill()
    await until(lambda: endpoint.exit_codes()[0] == 1)
    assert count(jobs, Status.FAILED) <= SLOTS
    await until(lambda: count(jobs, Status.COMPLETED, Status.FAILED) == JOBS, START_SECONDS)
    assert count(jobs, Status.FAILED) <= SLOTS
    assert all(json.loads(job.error or "")["retryable"] for job in jobs if job.status is Status.FAILED)


async def test_a_slow_download_and_a_platform_that_takes_no_posts_do_not_end_a_healthy_worker(
    endpoint: Endpoint,
) -> None:
    before = endpoint.exit_codes()
    loading = await endpoint.load_adapter("slow", bytes_per_second=30_000)  # 8 s
    asked = await endpoint.submit(SHORT_ANSWER)
    await until(lambda: asked.is_final)
    assert (asked.status, loading.is_final) == (Status.COMPLETED, False)
    await until(lambda: loading.is_final)
    assert loading.status is Status.COMPLETED, loading.error
    endpoint.emulator.inject(Faults(post_latency_seconds=4 * STALL_SECONDS))
    late = [await endpoint.submit(SHORT_ANSWER | {"stream": stream}) for stream in (False, True)]
    await until(lambda: all(job.is_final for job in late))
    endpoint.emulator.inject(Faults())
    assert [job.status for job in late] == [Status.COMPLETED] * 2
    assert endpoint.exit_codes() == before


async def test_sigterm_ends_a_worker_in_time_although_an_adapter_is_being_downloaded(endpoint: Endpoint) -> None:
    assert endpoint.emulator.fleet is not None
    asked = await endpoint.submit(SHORT_ANSWER)
    await until(lambda: asked.is_final, START_SECONDS)
    loading = await endpoint.load_adapter("endless", bytes_per_second=1_000)  # 4 min
    await until(lambda: any("endless" in path and "safetensors" in path for _, path in list(endpoint.hub.asked)))
    name, worker = list(endpoint.emulator.workers.items())[-1]
    began_at = time.monotonic()
    endpoint.emulator.fleet.terminate(name)
    await until(lambda: worker.exit_code is not None)
    assert time.monotonic() - began_at < GRACE_SECONDS + 10
    assert worker.exit_code == 0
    assert json.loads(loading.error or "")["retryable"]


async def test_an_engine_that_is_stuck_with_a_request_inside_ends_its_worker(endpoint: Endpoint) -> None:
    asked = await endpoint.submit(SHORT_ANSWER)
    await until(lambda: asked.is_final, START_SECONDS)
    worker = list(endpoint.emulator.workers.values())[-1]
    (engine,) = engines()
    engine.send_signal(signal.SIGSTOP)
    stuck = await endpoint.submit(SHORT_ANSWER)
    await until(lambda: worker.exit_code is not None)
    assert worker.exit_code == 1
    assert "no progress for 3 s" in (stuck.error or "")
    await until(lambda: not psutil.pid_exists(engine.pid))


def count(jobs: list[Job], *statuses: Status) -> int:
    return sum(job.status in statuses for job in jobs)
