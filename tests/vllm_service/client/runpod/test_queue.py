"""The native queue against a scripted platform: what is sent, what is repeated, what is never sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.settings import RateLimit as PlatformLimit
from tests.vllm_service.client.runpod_provider import AT_ONCE, runpod
from vllm_service import RateLimit, RunPodVLLMService, errors
from vllm_service.testing import HANGS, RESETS, ReceivedRequest, Reply, ScriptedProvider, refused, whole

QUEUED = whole({"id": "j1", "status": "IN_QUEUE"})
ENDED = whole({"id": "j1", "status": "COMPLETED", "output": 7})


@asynccontextmanager
async def platform(**replies: Reply | list[Reply]) -> AsyncIterator[tuple[RunPodVLLMService, ScriptedProvider]]:
    """What each operation answers: once, or in turn."""
    remaining = {name: [reply] if isinstance(reply, Reply) else list(reply) for name, reply in replies.items()}

    def reply(request: ReceivedRequest) -> Reply:
        turns = remaining[request.target.split("/")[3]]
        return turns.pop(0) if len(turns) > 1 else turns[0]

    async with runpod(reply) as server, RunPodVLLMService(base_url=server.url, retry=AT_ONCE) as service:
        yield service, server


def paths(server: ScriptedProvider) -> list[str]:
    return [request.target for request in server.requests]


async def test_a_submission_carries_its_policy_in_milliseconds() -> None:
    async with platform(run=QUEUED) as (service, server):
        await service.submit(
            {"prompt": "x"}, webhook="http://h", execution_timeout_seconds=9, ttl_seconds=60.5, low_priority=True
        )
        await service.submit({"prompt": "x"})
    policy = {"executionTimeout": 9000, "ttl": 60_500, "lowPriority": True}
    assert server.requests[0].json == {"input": {"prompt": "x"}, "webhook": "http://h", "policy": policy}
    assert server.requests[1].json == {"input": {"prompt": "x"}}


async def test_a_refused_submission_is_repeated_and_an_uncertain_one_is_not() -> None:
    async with platform(run=[refused(429), QUEUED]) as (service, server):
        assert (await service.submit({"prompt": "x"})).id == "j1"
        assert paths(server) == ["/v2/ep/run"] * 2
    async with platform(run=RESETS) as (service, server):
        with pytest.raises(errors.UpstreamFailed) as caught:
            await service.submit({"prompt": "x"})
        assert paths(server) == ["/v2/ep/run"]
        assert not caught.value.is_transient


async def test_reads_are_repeated() -> None:
    async with platform(status=[RESETS, refused(503), ENDED], health=[refused(500), whole({})]) as (service, server):
        assert (await service.wait("j1")).output == 7
        await service.health()
    assert paths(server) == ["/v2/ep/status/j1"] * 3 + ["/v2/ep/health"] * 2


async def test_chunks_of_a_stream_are_never_asked_for_again() -> None:
    async with platform(stream=RESETS, cancel=QUEUED) as (service, server):
        with pytest.raises(errors.UpstreamFailed):
            await anext(service.stream_job("j1"))
    assert paths(server) == ["/v2/ep/stream/j1"]


async def test_a_submission_that_is_left_cancels_the_job_it_made() -> None:
    """The platform answers only after the caller has gone."""
    gone = asyncio.Event()
    async with platform(run=QUEUED.after(gone), cancel=QUEUED) as (service, server):
        task = asyncio.create_task(service.submit({"prompt": "x"}))
        await server.until_requests(1)
        task.cancel()
        await asyncio.sleep(0)
        gone.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert paths(server) == ["/v2/ep/run", "/v2/ep/cancel/j1"]


async def test_a_call_that_hangs_is_cancelled_with_its_job() -> None:
    async with platform(status=HANGS, cancel=QUEUED) as (service, server):
        task = asyncio.create_task(service.wait("j1"))
        await server.is_silent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert paths(server) == ["/v2/ep/status/j1", "/v2/ep/cancel/j1"]


async def test_the_platforms_limits_are_kept_to() -> None:
    """An emulator with small limits refuses what comes too fast; within them nothing is ever refused."""
    narrow: dict[str, Any] = {"run": (5, 2), "status": (8, 3)}
    settings = EndpointSettings(
        endpoint_id="ep",
        rate_window_seconds=0.4,
        rate_limits={name: PlatformLimit(*limit) for name, limit in narrow.items()},
    )
    limits = {name: RateLimit(*limit) for name, limit in narrow.items()}
    async with (
        Emulator(settings) as emulator,
        RunPodVLLMService(
            base_url=emulator.openai_url, queue_limits=limits, queue_window_seconds=0.5, retry=AT_ONCE
        ) as service,
    ):
        jobs = await asyncio.gather(*(service.submit({"prompt": "x"}) for _ in range(12)))
        states = await asyncio.gather(*(service.status(job.id) for job in jobs))
    assert len({job.id for job in states}) == 12
