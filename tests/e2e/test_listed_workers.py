"""A gateway that reads RunPod's list of its workers, and does without it while it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from runpod_emulator.endpoint.faults import Faults
from tests.e2e.gated import KEY, VARIABLES, Callers, gated
from tests.e2e.gateway import Gateway, gateway
from tests.waiting import until, until_seen

SECONDS = 200
RTX_4090 = "NVIDIA GeForce RTX 4090"


async def workers_of(running: Gateway, name: str = "own") -> dict[str, Any]:
    """The endpoint's workers in /health; empty before it was seen."""
    async with httpx.AsyncClient(trust_env=False) as client:
        document = (await client.get(f"{running.url.removesuffix('/v1')}/health")).json()
    found: dict[str, Any] = document["workers"].get(name, {})
    return found


async def samples_of(running: Gateway) -> list[str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{running.url.removesuffix('/v1')}/metrics")).text.splitlines()


async def seen(running: Gateway, **counts: int | dict[str, int] | None) -> None:
    """Waits until /health has these counts of workers."""

    async def are_there() -> bool:
        found = await workers_of(running)
        return bool(found) and all(found[state] == count for state, count in counts.items())

    await until_seen(are_there, SECONDS)


async def test_workers_are_seen_by_state_and_gpu_from_start_to_end(tmp_path: Path) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        async with gateway(tmp_path, **VARIABLES) as running:
            await seen(running, initializing=0, by_gpu_type={})
            callers = Callers([running])
            async with callers.calling():
                await seen(running, initializing=1, by_gpu_type={RTX_4090: 1})
                endpoint.open()
                await until(lambda: callers.by["own"] > 3, SECONDS)
                await seen(running, initializing=0, by_gpu_type={RTX_4090: 1})
                found = [line for line in await samples_of(running) if line.startswith("vllm_workers_by_gpu{")]
                assert found == [f'vllm_workers_by_gpu{{gpu_type="{RTX_4090}",provider="own"}} 1.0']
            assert callers.wrong == []
        assert "cannot be listed" not in (running.directory / "log").read_text()


async def test_a_list_that_fails_stops_nothing_and_is_read_again(tmp_path: Path) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        endpoint.open()
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling():
                await until(lambda: callers.by["own"] > 3, SECONDS)
                for fault in ("error", "garbage", "hang"):
                    endpoint.emulator.inject(Faults(management=fault))
                    await seen(running, by_gpu_type=None)  # /health counts
                    own = callers.by["own"]
                    await until(lambda own=own: callers.by["own"] > own + 3, SECONDS)  # type: ignore[misc]
                    endpoint.emulator.inject(Faults())
                    await seen(running, by_gpu_type={RTX_4090: 1})
            assert callers.wrong == []
        assert KEY not in (running.directory / "log").read_text()


async def test_a_worker_without_a_gpu_is_not_waited_for_and_is_woken_once(tmp_path: Path) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        endpoint.open()
        endpoint.emulator.account.stock.limit("ADA_24", 0)
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling():
                await seen(running, throttled=1, initializing=0, by_gpu_type={})
                hosted = callers.by["hosted"]
                await until(lambda: callers.by["hosted"] > hosted + 100, SECONDS)  # every request is answered at once
                assert (endpoint.wakes, callers.by["own"]) == (1, 0)
                endpoint.emulator.account.stock.limit("ADA_24", 1)
                await until(lambda: callers.by["own"] > 3, SECONDS)
                await seen(running, throttled=0, by_gpu_type={RTX_4090: 1})
            assert callers.wrong == []
