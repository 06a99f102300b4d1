"""Both APIs over HTTP, with workers played by the test: no processes, no SDK."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings, RateLimit
from tests.runpod_emulator.played_worker import PlayedWorker, alongside
from tests.runpod_emulator.support import client_of
from vllm_service.testing import ScriptedProvider, whole


async def test_a_job_is_run_and_its_status_tells_the_result(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    queued = (await client.post("/run", json={"input": {"a": 1}})).json()
    assert queued["status"] == "IN_QUEUE"
    assert await worker.answer(output={"b": 2}) == {"id": queued["id"], "input": {"a": 1}}
    status = (await client.get(f"/status/{queued['id']}")).json()
    assert (status["status"], status["output"], status["workerId"]) == ("COMPLETED", {"b": 2}, "w1")
    assert status["delayTime"] >= 0 <= status["executionTime"]


async def test_runsync_answers_in_time_or_says_how_far_it_is(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    late = (await client.post("/runsync?wait=20", json={"input": 1})).json()
    assert late["status"] == "IN_QUEUE"
    assert await worker.answer(output=1)
    _, answer = await alongside(worker.answer(output="now"), client.post("/runsync", json={"input": 1}))
    assert (answer.json()["status"], answer.json()["output"]) == ("COMPLETED", "now")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_stream_hands_out_each_chunk_once_and_waits_for_the_next(
    client: httpx.AsyncClient, worker: PlayedWorker, method: str
) -> None:
    job = (await client.post("/run", json={"input": 1})).json()["id"]
    await worker.take()
    for chunk in ("a", "b"):
        await worker.post("stream", job, {"output": chunk})
    first = (await client.request(method, f"/stream/{job}")).json()
    assert (first["status"], first["stream"]) == ("IN_PROGRESS", [{"output": "a"}, {"output": "b"}])
    poll = asyncio.create_task(client.request(method, f"/stream/{job}"))
    await asyncio.sleep(0.02)
    await worker.post("stream", job, {"output": "c"})
    assert (await poll).json()["stream"] == [{"output": "c"}]
    assert (await client.request(method, f"/stream/{job}")).json()["stream"] == []
    await worker.post("done", job, {"output": []})
    last = (await client.request(method, f"/stream/{job}")).json()
    assert (last["status"], last["stream"]) == ("COMPLETED", [])
    assert "output" not in last


async def test_head_reads_nothing_that_get_hands_out_once(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    job = (await client.post("/run", json={"input": 1})).json()["id"]
    assert (await client.head("/job-take/w1")).status_code == 404
    await worker.take()
    await worker.post("stream", job, {"output": "a"})
    short = await client.head(f"/stream/{job}")
    full = await client.get(f"/stream/{job}")
    assert (short.status_code, short.content) == (200, b"")
    assert full.json()["stream"] == [{"output": "a"}]
    assert (await client.head("/health")).headers["content-length"] == str(len((await client.get("/health")).content))


async def test_an_execution_timeout_stops_the_job(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    answer = await client.post("/run", json={"input": 1, "policy": {"executionTimeout": 60}})
    await worker.take()
    stop = await client.get("/job-stop/w1?gpu=x")
    assert stop.json() == {"jobsToStop": [answer.json()["id"]]}
    assert (await client.get(f"/status/{answer.json()['id']}")).json()["status"] == "TIMED_OUT"


async def test_a_failed_job_can_be_retried_and_health_counts_all(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    job = (await client.post("/run", json={"input": 1})).json()["id"]
    await worker.answer(error="no")
    assert (await client.get(f"/status/{job}")).json()["error"] == "no"
    assert (await client.post(f"/retry/{job}")).json()["status"] == "IN_QUEUE"
    await worker.answer(output=1)
    assert (await client.post(f"/retry/{job}")).status_code == 400
    await client.post("/run", json={"input": 1})
    health = (await client.get("/health")).json()
    assert health["jobs"] == {"completed": 1, "failed": 1, "inProgress": 0, "inQueue": 1, "retried": 1}
    assert health["workers"]["idle"] == 1
    assert (await client.post("/purge-queue")).json() == {"removed": 1, "status": "completed"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/run", "{", 400),
        ("POST", "/run", "[]", 400),
        ("POST", "/run", "{}", 400),
        ("POST", "/run", json.dumps({"input": "x" * 1000}), 413),
        ("POST", "/runsync", json.dumps({"input": "x" * 2000}), 413),
        ("POST", "/runsync?wait=1", '{"input": 1}', 400),
        ("POST", "/runsync?wait=x", '{"input": 1}', 400),
        ("POST", "/run", '{"input": 1, "policy": {"executionTimeout": 1}}', 400),
        ("POST", "/run", '{"input": 1, "webhook": 1}', 400),
        ("GET", "/status/nobody", "", 404),
        ("GET", "/nothing", "", 404),
        ("POST", "/faults", '{"worker_crash_after_seconds": 0}', 400),
        ("GET", "/job-take-batch/w1?batch_size=0", "", 400),
        ("POST", "/job-stream/w1/j", '{"output": "' + "x" * 500 + '"}', 413),
    ],
)
async def test_what_cannot_be_is_refused_as_json(
    client: httpx.AsyncClient, method: str, path: str, body: str, status: int
) -> None:
    answer = await client.request(method, path, content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert answer.json()["status"] == status


async def test_only_who_knows_the_key_may_call() -> None:
    async with Emulator(EndpointSettings(api_key="secret")) as emulator:
        async with client_of(emulator, Authorization="Bearer secret") as friend:
            assert (await friend.get("/health")).status_code == 200
        async with client_of(emulator, Authorization="Bearer wrong") as stranger:
            assert (await stranger.get("/health")).status_code == 401


async def test_too_many_requests_are_told_when_to_come_back() -> None:
    settings = EndpointSettings(rate_limits={"status": RateLimit(1, 9)})
    async with Emulator(settings) as emulator, client_of(emulator) as client:
        assert (await client.get("/status/x")).status_code == 404
        refused = await client.get("/status/x")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")


async def test_a_webhook_gets_the_result(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    async with ScriptedProvider(whole({}), path="/hook") as caller:
        await client.post("/run", json={"input": 1, "webhook": caller.url})
        await worker.answer(output="told")
        async with asyncio.timeout(60):
            await caller.until_requests(1)
    assert (caller.requests[0].target, caller.requests[0].json["output"]) == ("/hook", "told")
