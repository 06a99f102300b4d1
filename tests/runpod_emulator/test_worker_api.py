"""What workers see: polls that are given up or cannot take a job, posts that are lost or late, second deliveries."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from runpod_emulator import Emulator, Faults
from tests.runpod_emulator.played_worker import PlayedWorker
from tests.runpod_emulator.support import client_of
from tests.waiting import until


async def test_a_waiting_worker_gets_a_job_within_milliseconds(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    waits = []
    for _ in range(20):
        poll = asyncio.create_task(worker.take())
        await asyncio.sleep(0.01)
        start = time.perf_counter()
        await client.post("/run", json={"input": 1})
        assert await poll
        waits.append(time.perf_counter() - start)
    assert sorted(waits)[10] < 0.02  # both HTTP requests and the test's own client; the emulator's part is far less


async def test_a_batch_takes_what_there_is(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    for number in range(3):
        await client.post("/run", json={"input": number})
    assert [job["input"] for job in await worker.batch(2)] == [0, 1]
    assert [job["input"] for job in await worker.batch(9)] == [2]
    assert await worker.batch(9) == []


async def test_a_cancelled_job_reaches_the_stop_channel_at_once(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    job = (await client.post("/run", json={"input": 1})).json()["id"]
    await worker.take()
    assert (await client.get("/job-stop/w1?gpu=x")).status_code == 204
    poll = asyncio.create_task(client.get("/job-stop/w1?gpu=x"))
    await asyncio.sleep(0.02)
    assert (await client.post(f"/cancel/{job}")).json()["status"] == "CANCELLED"
    assert (await poll).json() == {"jobsToStop": [job]}
    assert (await worker.post("done", job, {"output": 1})).json() == {"status": "ignored"}


async def test_a_poll_that_was_given_up_loses_no_job(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    for _ in range(10):
        poll = asyncio.create_task(worker.take())
        await asyncio.sleep(0.01)
        poll.cancel()
        await client.post("/run", json={"input": 1})
        assert await PlayedWorker(client, "w2").take()


async def test_a_job_goes_at_once_past_a_poll_that_cannot_take_it() -> None:
    async with Emulator() as emulator, client_of(emulator) as client:
        polls = []
        for name in ("w1", "w2"):
            polls.append(asyncio.create_task(PlayedWorker(client, name).take()))
            await until(lambda name=name: name in emulator.workers)  # type: ignore[misc]
        emulator.endpoint.registry.make_unhealthy(emulator.workers["w1"])
        await client.post("/run", json={"input": 1})
        async with asyncio.timeout(1):
            assert await polls[1]
            assert await polls[0] is None


async def test_a_dropped_post_is_not_recorded_and_its_connection_closes(
    emulator: Emulator, client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    await client.post("/run", json={"input": 1})
    job = await worker.take()
    assert job
    emulator.inject(Faults(drop_post_share=1))
    with pytest.raises(httpx.TransportError):
        await worker.post("done", job["id"], {"output": 1})
    emulator.inject(Faults())
    assert (await worker.post("done", job["id"], {"output": 1})).json() == {"status": "ok"}


async def test_posts_are_as_slow_as_asked(emulator: Emulator, worker: PlayedWorker) -> None:
    emulator.inject(Faults(post_latency_seconds=0.1))
    start = time.monotonic()
    await worker.post("done", "nobody", {"output": 1})
    assert 0.1 <= time.monotonic() - start < 1


async def test_a_delivery_is_made_twice_on_request(
    emulator: Emulator, client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    answer = await client.post("/faults", json={"duplicate_delivery_share": 1})
    assert answer.json()["duplicate_delivery_share"] == 1
    await client.post("/run", json={"input": 1})
    first, second = await worker.take(), await PlayedWorker(client, "w2").take()
    assert first
    assert first == second
    await worker.post("done", first["id"], {"output": 1})
    assert emulator.endpoint.store.counts["COMPLETED"] == 1


async def test_a_worker_that_asked_to_be_refreshed_gets_no_more_jobs(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    await client.post("/run", json={"input": 1})
    await worker.answer(output=1, stopPod=True)
    await client.post("/run", json={"input": 2})
    assert await worker.take() is None
    assert await PlayedWorker(client, "w2").take()
