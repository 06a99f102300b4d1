"""Both APIs over HTTP, with workers played by the test: no processes, no SDK."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from runpod_emulator import Emulator, EndpointSettings, Faults, RateLimit
from tests.runpod_emulator.support import client_of, until

SETTINGS = EndpointSettings(
    max_run_bytes=1000,
    max_runsync_bytes=2000,
    max_chunk_bytes=500,
    take_poll_seconds=0.2,
    stop_poll_seconds=0.2,
    stream_wait_seconds=0.2,
    shortest_wait_ms=10,
    shortest_execution_timeout_seconds=0.05,
    tick_seconds=0.02,
)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class PlayedWorker:
    """Speaks the worker API as the SDK does."""

    def __init__(self, client: httpx.AsyncClient, name: str = "w1") -> None:
        self.client = client
        self.name = name

    async def take(self) -> dict[str, Any] | None:
        answer = await self.client.get(f"/job-take/{self.name}?gpu=x&job_in_progress=0")
        return answer.json() if answer.status_code == 200 else None

    async def batch(self, size: int) -> list[dict[str, Any]]:
        answer = await self.client.get(f"/job-take-batch/{self.name}?gpu=x&batch_size={size}&job_in_progress=1")
        jobs: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
        return jobs

    async def post(self, kind: str, job: str, document: object) -> httpx.Response:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url = f"/job-{kind}/{self.name}/{job}?gpu=x&isStream=false"
        return await self.client.post(url, content=json.dumps(document), headers=headers)

    async def answer(self, *chunks: object, **result: object) -> dict[str, Any]:
        job = None
        while job is None:
            job = await self.take()
        for chunk in chunks:
            await self.post("stream", job["id"], {"output": chunk})
        await self.post("done", job["id"], result)
        return job


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(SETTINGS) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(emulator) as client:
        yield client


@pytest.fixture
def worker(client: httpx.AsyncClient) -> PlayedWorker:
    return PlayedWorker(client)


@pytest.fixture
async def openai_client(emulator: Emulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="any", max_retries=0) as client:
        yield client


async def alongside(worker: Awaitable[Any], call: Awaitable[Any]) -> tuple[Any, Any]:
    first, second = await asyncio.gather(worker, call)
    return first, second


async def test_a_job_is_run_and_its_status_tells_the_result(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    queued = (await client.post("/run", json={"input": {"a": 1}})).json()
    assert queued["status"] == "IN_QUEUE"
    assert await worker.answer(output={"b": 2}) == {"id": queued["id"], "input": {"a": 1}}
    status = (await client.get(f"/status/{queued['id']}")).json()
    assert (status["status"], status["output"], status["workerId"]) == ("COMPLETED", {"b": 2}, "w1")
    assert status["delayTime"] >= 0 <= status["executionTime"]


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


async def test_runsync_answers_in_time_or_says_how_far_it_is(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    late = (await client.post("/runsync?wait=20", json={"input": 1})).json()
    assert late["status"] == "IN_QUEUE"
    assert await worker.answer(output=1)
    _, answer = await alongside(worker.answer(output="now"), client.post("/runsync", json={"input": 1}))
    assert (answer.json()["status"], answer.json()["output"]) == ("COMPLETED", "now")


async def test_a_batch_takes_what_there_is(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    for number in range(3):
        await client.post("/run", json={"input": number})
    assert [job["input"] for job in await worker.batch(2)] == [0, 1]
    assert [job["input"] for job in await worker.batch(9)] == [2]
    assert await worker.batch(9) == []


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


async def test_an_openai_call_is_a_job_and_its_output_the_answer(
    openai_client: openai.AsyncOpenAI, worker: PlayedWorker
) -> None:
    document = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
    job, answer = await alongside(worker.answer(output=[document]), openai_client.chat.completions.create(**CHAT))
    assert job["input"] == {"openai_route": "/v1/chat/completions", "openai_input": CHAT}
    assert answer.id == "c"


async def test_a_get_on_the_openai_route_keeps_its_query(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    job, answer = await alongside(worker.answer(output={"data": []}), client.get("/openai/v1/models?limit=2"))
    assert job["input"] == {"openai_route": "/v1/models?limit=2", "openai_input": {}}
    assert answer.json() == {"data": []}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": {"message": "no such model"}, "status": 404}, openai.NotFoundError),
        ({"error": {"message": "wrong"}, "status": 400}, openai.BadRequestError),
        ("a traceback", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_job_raises_the_right_exception(
    openai_client: openai.AsyncOpenAI, worker: PlayedWorker, error: Any, kind: type[openai.APIStatusError], stream: bool
) -> None:
    text = error if isinstance(error, str) else json.dumps(error)
    answering = asyncio.create_task(worker.answer(error=text))
    with pytest.raises(kind) as raised:
        await openai_client.chat.completions.create(**CHAT, stream=stream)
    await answering
    assert (error if isinstance(error, str) else error["error"]["message"]) in str(raised.value)


async def test_a_stream_passes_each_chunk_on_as_it_comes(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    async def work() -> None:
        job = await worker.take()
        assert job
        for number in range(3):
            await worker.post("stream", job["id"], {"output": f"data: {number} 😀\n\n"})
            await seen[number].wait()
        await worker.post("done", job["id"], {"output": []})

    seen = [asyncio.Event() for _ in range(3)]
    working = asyncio.create_task(work())
    async with client.stream("POST", "/openai/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        number = 0
        async for text in response.aiter_text():
            assert text == f"data: {number} 😀\n\n"
            seen[number].set()
            number += 1
    await working
    assert number == 3


async def test_a_stream_that_breaks_ends_in_an_error_and_without_done(
    emulator: Emulator, client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    async def break_off() -> None:
        job = await worker.take()
        assert job
        await worker.post("stream", job["id"], {"output": "data: 1\n\n"})
        await until(lambda: emulator.endpoint.store.get(job["id"]).chunks_read == 1)
        emulator.end_worker("w1", 137)

    breaking = asyncio.create_task(break_off())
    answer = await client.post("/openai/v1/chat/completions", json=CHAT | {"stream": True})
    await breaking
    first, last = answer.text.strip().split("\n\n")
    assert first == "data: 1"
    assert "exit code 137" in json.loads(last.removeprefix("data:"))["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_job(
    emulator: Emulator, openai_client: openai.AsyncOpenAI, worker: PlayedWorker, stream: bool
) -> None:
    call = asyncio.ensure_future(openai_client.chat.completions.create(**CHAT, stream=stream))
    job = await worker.take()
    assert job
    call.cancel()
    await until(lambda: emulator.endpoint.store.get(job["id"]).status == "CANCELLED")
    assert (await worker.client.get("/job-stop/w1?gpu=x")).json() == {"jobsToStop": [job["id"]]}


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


async def test_a_webhook_gets_the_result(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def receive(request: web.Request) -> web.StreamResponse:
        received.set_result(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        hook = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        await client.post("/run", json={"input": 1, "webhook": hook})
        await worker.answer(output="told")
        async with asyncio.timeout(5):
            assert (await received)["output"] == "told"
    finally:
        await runner.cleanup()
