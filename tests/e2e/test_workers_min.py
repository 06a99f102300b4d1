"""A gateway that sets workersMin of its endpoint: up and down with the traffic, one for all replicas, and set back."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx

from runpod_emulator.endpoint.faults import Faults
from runpod_emulator.endpoint.registry import READY, State
from tests.e2e.gated import KEY, SETTINGS, VARIABLES, Callers, Gated, gated
from tests.e2e.gateway import Gateway, gateway
from tests.servers import RedisServer
from tests.waiting import until

SECONDS = 200  # for what takes a few, or half a minute, unless other tests share the cores
THREE = replace(SETTINGS, max_workers=3, idle_timeout_seconds=2)
# A worker reads the ten tokens of a prompt in half a second: one request a second wants one worker, many want three.
EXPECTED = {
    "cold_start_seconds": 0.1,
    "idle_timeout_seconds": 0.1,
    "max_workers": 3,
    "prefill_tokens_per_second": 20,
}
HOSTED_USD = 100
FAULTS = {"hang": "no answer in time", "error": "RunPod answered 500", "garbage": "is not RunPod"}


def configured(endpoint: Gated, directory: Path, api: str = "v2", **others: object) -> None:
    own = endpoint.provider(EXPECTED, scaling="workers_min", management_api=api)
    endpoint.configure_with(directory, {"own": own, **others}, HOSTED_USD)


def minimum(endpoint: Gated) -> int:
    return endpoint.emulator.endpoint.settings.min_workers


def logged(gateway: Gateway) -> str:
    return (gateway.directory / "log").read_text()


async def measured(gateway: Gateway, name: str) -> str:
    """The sample's value as it is written."""
    async with httpx.AsyncClient(trust_env=False) as client:
        lines = (await client.get(f"{gateway.url.removesuffix('/v1')}/metrics")).text.splitlines()
    return next(line.split()[-1] for line in lines if line.startswith(f"{name}{{"))


def rises_then_falls(numbers: list[int]) -> bool:
    top = numbers.index(max(numbers))
    up, down = numbers[: top + 1], numbers[top:]
    return all(a < b for a, b in itertools.pairwise(up)) and all(a > b for a, b in itertools.pairwise(down))


async def test_the_workers_follow_the_traffic_from_none_to_one_to_three_and_back_to_none(tmp_path: Path) -> None:
    async with gated(tmp_path, THREE) as endpoint:
        configured(endpoint, tmp_path)
        endpoint.open()
        minima = endpoint.emulator.endpoint.minima
        async with gateway(tmp_path, **VARIABLES) as running:
            few, many = Callers([running], pause_seconds=1), Callers([running], pause_seconds=0.2)
            async with few.calling(1):
                await until(lambda: minima == [1] and few.by["own"] > 3, SECONDS)
                assert len(endpoint.workers) == 1
                assert await measured(running, "vllm_workers_min") == "1.0"
            async with many.calling(4):
                await until(lambda: sum(worker.state in READY for worker in endpoint.workers) == 3, SECONDS)
                assert minima[-1] == 3
                own = many.by["own"]
                await until(lambda: many.by["own"] > own + 20, SECONDS)
            await until(lambda: minima[-1] == 0, SECONDS)
            await until(lambda: {worker.state for worker in endpoint.workers} == {State.STOPPED}, SECONDS)
        assert few.wrong == many.wrong == []
        assert endpoint.warm_ups == 0
        assert rises_then_falls(minima)
        assert len(endpoint.workers) == 3
        assert len(endpoint.emulator.bill().lines) == 3


async def test_replicas_that_want_different_numbers_never_lower_one_another_and_the_last_that_stops_sets_it_back(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.empty()
    async with gated(tmp_path, THREE) as endpoint, AsyncExitStack() as stack:
        variables = VARIABLES | {"REDIS_URL": redis_server.url}
        for name in ("busy", "idle", "late"):
            configured(endpoint, tmp_path / name)
        busy, idle = [
            await stack.enter_async_context(gateway(tmp_path / name, **variables)) for name in ("busy", "idle")
        ]
        endpoint.open()
        minima = endpoint.emulator.endpoint.minima
        callers = Callers([busy], pause_seconds=0.2)
        async with callers.calling(4):
            await until(lambda: bool(minima) and minima[-1] == 3 and callers.by["own"] > 20, SECONDS)
            late = await stack.enter_async_context(gateway(tmp_path / "late", **variables))  # finds 3, and wants none
            await _looked(endpoint, 24)
            assert minima == sorted(set(minima))
            for replica in (late, idle):
                await replica.stop()
                assert minima == sorted(set(minima))
            await _looked(endpoint, 6)
            assert minima == sorted(set(minima))
        await busy.stop()
        assert minima[-1] == 0
        assert rises_then_falls(minima)
        assert callers.wrong == []


async def test_a_gateway_that_was_killed_leaves_workers_that_are_paid_and_the_next_one_lowers_them(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.empty()
    async with gated(tmp_path, THREE) as endpoint:
        configured(endpoint, tmp_path, "v1")
        endpoint.open()
        variables = VARIABLES | {"REDIS_URL": redis_server.url}
        async with gateway(tmp_path, **variables) as killed:
            callers = Callers([killed], pause_seconds=0.2)
            async with callers.calling(4):
                await until(lambda: minimum(endpoint) > 0 and callers.by["own"] > 0, SECONDS)
            killed.process.kill()
            await killed.process.wait()
        assert minimum(endpoint) > 0
        async with gateway(tmp_path, **variables):
            await until(lambda: minimum(endpoint) == 0, SECONDS)
            await until(lambda: {worker.state for worker in endpoint.workers} == {State.STOPPED}, SECONDS)


async def test_management_that_fails_stops_neither_requests_nor_other_endpoints_nor_the_gateways_end(
    tmp_path: Path,
) -> None:
    (tmp_path / "other").mkdir()
    async with gated(tmp_path, THREE) as endpoint, gated(tmp_path / "other") as other:
        configured(endpoint, tmp_path, other=other.provider(EXPECTED))
        endpoint.open()
        other.open()
        endpoint.emulator.inject(Faults(management="hang"))
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running], pause_seconds=0.1)
            async with callers.calling(4):
                for fault, said in FAULTS.items():
                    endpoint.emulator.inject(Faults(management=fault))
                    answered, looks = callers.by.total(), endpoint.looks
                    await until(lambda said=said: said in logged(running), SECONDS)  # type: ignore[misc]
                    assert callers.by.total() > answered
                    assert endpoint.looks > looks
                await until(lambda: callers.by["other"] > 20, SECONDS)  # woken by a job
                assert (other.warm_ups > 0, minimum(endpoint), endpoint.workers) == (True, 0, [])
                endpoint.emulator.inject(Faults())
                await until(lambda: callers.by["own"] > 0, SECONDS)
            assert callers.wrong == []
            left = minimum(endpoint)
            endpoint.emulator.inject(Faults(management="error"))
            await running.stop()
        assert minimum(endpoint) == left > 0
        assert "workersMin of own could not be set back to 0" in logged(running)
        assert KEY not in logged(running)


async def _looked(endpoint: Gated, times: int) -> None:
    """All gateways together have asked for /health so often since."""
    before = endpoint.looks
    await until(lambda: endpoint.looks >= before + times, SECONDS)
