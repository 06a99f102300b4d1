"""The native queue against a scripted platform: what is sent, what is repeated, what is never sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.settings import RateLimit as PlatformLimit
from tests.vllm_service.client.scripted import AT_ONCE, HANG, RESET, Reply, Request, Scripted, answer, refused, scripted
from vllm_service import RateLimit, RunPodVLLMService, errors

QUEUED = answer({"id": "j1", "status": "IN_QUEUE"})
DONE = answer({"id": "j1", "status": "COMPLETED", "output": 7})


@asynccontextmanager
async def platform(**replies: Reply | list[Reply]) -> AsyncIterator[tuple[RunPodVLLMService, Scripted]]:
    """What each operation answers: once, or in turn."""
    remaining = {name: list(reply) if isinstance(reply[0], list) else [reply] for name, reply in replies.items()}

    def reply(request: Request) -> Reply:
        turns = remaining[request.path.split("/")[3]]
        return turns.pop(0) if len(turns) > 1 else turns[0]

    async with scripted(reply) as server, RunPodVLLMService(base_url=server.url, retry=AT_ONCE) as service:
        yield service, server


def paths(server: Scripted) -> list[str]:
    return [request.path for request in server.requests]


async def test_a_submission_carries_its_policy_in_milliseconds() -> None:
    async with platform(run=QUEUED) as (service, server):
        await service.submit(
            {"prompt": "x"}, webhook="http://h", execution_timeout_seconds=9, ttl_seconds=60.5, low_priority=True
        )
        await service.submit({"prompt": "x"})
    policy = {"executionTimeout": 9000, "ttl": 60_500, "lowPriority": True}
    assert server.requests[0].body == {"input": {"prompt": "x"}, "webhook": "http://h", "policy": policy}
    assert server.requests[1].body == {"input": {"prompt": "x"}}


async def test_a_refused_submission_is_repeated_and_an_uncertain_one_is_not() -> None:
    async with platform(run=[refused(429), QUEUED]) as (service, server):
        assert (await service.submit({"prompt": "x"})).id == "j1"
        assert paths(server) == ["/v2/ep/run"] * 2
    async with platform(run=[RESET]) as (service, server):
        with pytest.raises(errors.UpstreamFailed) as caught:
            await service.submit({"prompt": "x"})
        assert paths(server) == ["/v2/ep/run"]
        assert not caught.value.is_transient


async def test_reads_are_repeated() -> None:
    async with platform(status=[[RESET], refused(503), DONE], health=[refused(500), answer({})]) as (service, server):
        assert (await service.wait("j1")).output == 7
        await service.health()
    assert paths(server) == ["/v2/ep/status/j1"] * 3 + ["/v2/ep/health"] * 2


async def test_chunks_of_a_stream_are_never_asked_for_again() -> None:
    async with platform(stream=[RESET], cancel=QUEUED) as (service, server):
        with pytest.raises(errors.UpstreamFailed):
            await anext(service.stream_job("j1"))
    assert paths(server) == ["/v2/ep/stream/j1"]


async def test_a_submission_that_is_left_cancels_the_job_it_made() -> None:
    """The platform answers only after the caller has gone."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head.split(" ")[1])
        asked.set()
        if head.startswith("POST /v2/ep/run"):
            await gone.wait()
        writer.write(b"".join(QUEUED).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
        writer.close()

    seen: list[str] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2/ep/openai/v1"
        async with RunPodVLLMService(base_url=url, retry=AT_ONCE) as service:
            task = asyncio.create_task(service.submit({"prompt": "x"}))
            await asked.wait()
            task.cancel()
            await asyncio.sleep(0)
            gone.set()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert seen == ["/v2/ep/run", "/v2/ep/cancel/j1"]


async def test_a_call_that_hangs_is_cancelled_with_its_job() -> None:
    async with platform(status=[HANG], cancel=QUEUED) as (service, server):
        task = asyncio.create_task(service.wait("j1"))
        await server.hanging.wait()
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
