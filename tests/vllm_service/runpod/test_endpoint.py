"""Waking and watching an endpoint, on the real emulator with a real worker process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.jobs.job import Job, Status
from tests.runpod_emulator.support import ECHO_WORKER
from tests.servers import own_redis
from tests.vllm_service.http_seam import HttpSeam
from vllm_service.autoscaling.wake_lease import WakeOutcome, WakeSettings, wake_once
from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.errors import ConfigurationError, UpstreamFailed
from vllm_service.runpod.endpoint import Reply, RunPodEndpoint, RunPodSettings
from vllm_service.runpod.health import EndpointHealth, parse_health
from vllm_service.storage.coordination.memory import MemoryWakes
from vllm_service.storage.coordination.redis import RedisWakes
from vllm_service.storage.redis_link import RedisLink

SETTINGS = EndpointSettings(api_key="secret-key", max_workers=3, idle_timeout_seconds=60, stop_grace_seconds=10)


class Bench:
    """The emulator, the HTTP seam, and endpoints that look at it with a clock set by hand."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.http = HttpSeam()
        self.now = 0.0
        self.ended: asyncio.Queue[Job] = asyncio.Queue()
        emulator.endpoint.when_finished.append(self.ended.put_nowait)
        self.provider = Provider(
            "own",
            ProviderKind.RUNPOD,
            base_url=emulator.openai_url,
            control_url=emulator.url,
            api_key="secret-key",
        )

    def endpoint(self, **settings: float) -> RunPodEndpoint:
        return RunPodEndpoint(self.provider, self.http, lambda: self.now, RunPodSettings(**settings))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Emulator(SETTINGS, ECHO_WORKER) as emulator:
        bench = Bench(emulator)
        yield bench
        await bench.http.aclose()


async def test_looking_never_wakes_a_worker_and_waking_starts_one_which_runs_the_job(bench: Bench) -> None:
    endpoint = bench.endpoint()
    for _ in range(20):
        cold = await endpoint.health()
        bench.now += 10
    assert bench.emulator.workers == {}
    assert cold is not None
    assert (cold.workers_warm, cold.workers_initializing, cold.jobs_queued) == (0, 0, 0)

    job_id = await endpoint.wake("llama")
    async with asyncio.timeout(60):
        job = await bench.ended.get()
    assert (job.id, job.status) == (job_id, Status.COMPLETED)
    assert (job.policy.ttl_seconds, job.policy.execution_timeout_seconds) == (600, 30)
    assert job.input["openai_input"]["max_tokens"] == 1
    assert len(bench.emulator.workers) == 1
    bench.now += 10
    warm = await endpoint.health()
    assert warm is not None
    assert (warm.workers_warm, warm.jobs["completed"]) == (1, 1)


async def test_however_often_it_is_asked_it_looks_at_a_bounded_rate(bench: Bench) -> None:
    endpoint = bench.endpoint(health_interval_seconds=2)
    for _ in range(100):
        await asyncio.gather(*(endpoint.health() for _ in range(3)))
        bench.now += 0.1
    assert sum(bench.http.sent.values()) == 5


async def test_two_replicas_that_want_it_woken_send_one_job_between_them(bench: Bench) -> None:
    with own_redis() as server:
        links = RedisLink(server.url), RedisLink(server.url)
        replicas = [(RedisWakes(link, timeout_seconds=5), bench.endpoint()) for link in links]
        outcomes = await asyncio.gather(
            *(wake_once("own", "llama", endpoint, wakes, WakeSettings()) for wakes, endpoint in replicas * 10)
        )
        for link in links:
            await link.close()
    assert [waked for waked, _ in outcomes].count(WakeOutcome.STARTED) == 1
    assert bench.http.sent == {"POST /v2/local/run": 1}


async def test_a_wake_that_fails_says_why_without_the_key_and_is_tried_again_after_a_moment(bench: Bench) -> None:
    bench.provider = replace(bench.provider, api_key="wrong-key")
    wakes = MemoryWakes(lambda: bench.now)
    endpoint, settings = bench.endpoint(), WakeSettings(retry_seconds=5)
    waked, reason = await wake_once("own", "llama", endpoint, wakes, settings)
    assert (waked, reason) == (WakeOutcome.FAILED, "own: did not take the warm-up job, status 401")
    assert (await wake_once("own", "llama", endpoint, wakes, settings))[0] is WakeOutcome.UNDER_WAY
    bench.now += 5
    assert (await wake_once("own", "llama", endpoint, wakes, settings))[0] is WakeOutcome.FAILED


async def test_an_endpoint_that_cannot_be_reached_is_asked_ever_less_often() -> None:
    now, asked = 0.0, 0

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float) -> Reply:
        nonlocal asked
        asked += 1
        raise ConnectionRefusedError

    provider = Provider("own", ProviderKind.RUNPOD, base_url="http://x/openai/v1", control_url="http://x")
    endpoint = RunPodEndpoint(provider, send, lambda: now)
    for _ in range(600):
        assert await endpoint.health() is None
        now += 1
    assert asked <= 16
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        await endpoint.wake("llama")


def test_a_provider_without_a_control_url_is_a_configuration_error() -> None:
    provider = Provider("own", ProviderKind.RUNPOD, base_url="http://x/openai/v1")
    with pytest.raises(ConfigurationError, match="control_url"):
        RunPodEndpoint(provider, HttpSeam(), lambda: 0.0)


@pytest.mark.parametrize(
    ("body", "health"),
    [
        (
            b'{"jobs": {"inQueue": 2}, "workers": {"idle": 1, "running": 2}}',
            EndpointHealth({"inQueue": 2}, {"idle": 1, "running": 2}),
        ),
        (
            b'{"workers": {"ready": 3, "idle": "?", "throttled": -1, "unhealthy": true}}',
            EndpointHealth(workers={"ready": 3}),
        ),
        (b'{"jobs": [], "workers": null, "new": 1}', EndpointHealth()),
        (b'{"workers": {"idle": 1.0, "running": 1.5, "ready": 1e99}}', EndpointHealth(workers={"idle": 1})),
        (b'{"jobs": {"odd": 7}}', EndpointHealth({"odd": 7})),
        (b"{}", EndpointHealth()),
        (b"[]", None),
        (b"<html>", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_health_is_read_leniently_and_what_is_missing_is_unknown(body: bytes, health: EndpointHealth | None) -> None:
    assert parse_health(body) == health


def test_workers_are_warm_when_idle_or_running_or_called_ready_and_unknown_when_nothing_is_said() -> None:
    assert EndpointHealth(workers={"idle": 1, "running": 2, "ready": 1}).workers_warm == 3
    assert EndpointHealth(workers={"idle": 1, "running": 2, "ready": 9}).workers_warm == 9
    assert EndpointHealth(workers={"ready": 2}).workers_warm == 2
    assert EndpointHealth().workers_warm is None
