"""The worker under the real runpod SDK: jobs are taken from a queue that speaks RunPod's worker API, and answered."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import defaultdict
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from scripts.demo_training.corpus import DEMO_MODEL_DIR
from tests.e2e import process

FRANCE = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
JOBS: dict[str, Any] = {
    "plain": {"openai_route": "/v1/chat/completions", "openai_input": FRANCE},
    "stream": {"openai_route": "/v1/chat/completions", "openai_input": FRANCE | {"stream": True}},
    "native stream": {"messages": FRANCE["messages"], "stream": True},
    "unknown": {"prompt": "Hi", "lora_adapter": "nobody"},
    "malformed": {"route": "@127.0.0.1:1/x"},
}


class Queue:
    """As much of RunPod's worker API as the SDK needs to take jobs and report on them."""

    def __init__(self, jobs: dict[str, Any]) -> None:
        self.waiting = [{"id": name, "input": job} for name, job in jobs.items()]
        self.results: dict[str, Any] = {}
        self.chunks: dict[str, list[Any]] = defaultdict(list)
        self.all_done = asyncio.Event()
        self.request_ids: set[str] = set()
        self.exit_code: int | None = None
        self._expected = len(jobs)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/job-take/{worker}", self._take)
        app.router.add_get("/job-take-batch/{worker}", self._take)
        app.router.add_get("/job-stop/{worker}", self._nothing)
        app.router.add_get("/ping/{worker}", self._nothing)
        app.router.add_post("/stream/{job}", self._stream)
        app.router.add_post("/done/{job}", self._done)
        return app

    async def _take(self, request: web.Request) -> web.StreamResponse:
        size = int(request.query.get("batch_size", "1"))
        taken, self.waiting = self.waiting[:size], self.waiting[size:]
        if not taken:
            return await self._nothing(request)
        return web.json_response(taken if "batch" in request.path else taken[0])

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.chunks[request.match_info["job"]].append(json.loads(await request.text())["output"])
        return web.Response()

    async def _done(self, request: web.Request) -> web.StreamResponse:
        self.request_ids.add(request.headers["X-Request-ID"])
        self.results[request.match_info["job"]] = json.loads(await request.text())
        if len(self.results) == self._expected:
            self.all_done.set()
        return web.Response()


def variables(port: int) -> dict[str, str]:
    base = f"http://127.0.0.1:{port}"
    return {
        "MODEL_NAME": str(DEMO_MODEL_DIR),
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?x=1",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/done/$ID?x=1",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/stream/$ID?x=1",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_ENDPOINT_ID": "ep",
        "RUNPOD_POD_ID": "worker-1",
        "KV_CACHE_MEMORY_BYTES": "256M",
    }


@pytest.fixture(scope="module")
async def answered() -> Queue:
    """The queue after a worker has answered all its jobs and was told to stop."""
    queue = Queue(JOBS)
    runner = web.AppRunner(queue.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    worker = await process.start("handler.py", variables=variables(port))
    output = asyncio.create_task(worker.communicate())
    try:
        async with asyncio.timeout(process.START_SECONDS):
            await asyncio.wait({output, asyncio.create_task(queue.all_done.wait())}, return_when="FIRST_COMPLETED")
        if not queue.all_done.is_set():
            pytest.fail(f"the worker ended early:\n{(await output)[1].decode()[-4000:]}")
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            queue.chunks["log"] = [stream.decode() for stream in await output]
        queue.exit_code = worker.returncode
    finally:
        if worker.returncode is None:
            worker.kill()
        await runner.cleanup()
    return queue


async def test_a_plain_job_is_completed_with_vllms_answer(answered: Queue) -> None:
    (document,) = answered.results["plain"]["output"]
    assert document["choices"][0]["message"]["content"] == "The capital of France is Paris."


@pytest.mark.parametrize("job", ["stream", "native stream"])
async def test_a_stream_is_posted_in_whole_events(answered: Queue, job: str) -> None:
    pieces = answered.chunks[job]
    assert all(piece.endswith("\n\n") for piece in pieces)
    assert "".join(pieces).endswith("data: [DONE]\n\n")


async def test_only_a_native_stream_is_repeated_at_its_end(answered: Queue) -> None:
    assert answered.results["stream"]["output"] == []
    assert answered.results["native stream"]["output"] == answered.chunks["native stream"]


async def test_a_plain_job_posts_nothing_before_its_end(answered: Queue) -> None:
    assert "plain" not in answered.chunks


async def test_the_worker_exits_0_after_sigterm(answered: Queue) -> None:
    assert answered.exit_code == 0


async def test_posts_carry_the_id_of_their_own_job(answered: Queue) -> None:
    assert answered.request_ids == {quote(job) for job in JOBS}


@pytest.mark.parametrize(("job", "status"), [("unknown", 404), ("malformed", 400)])
async def test_a_failed_job_carries_the_error_as_json_text_and_no_output(
    answered: Queue, job: str, status: int
) -> None:
    assert "output" not in answered.results[job]
    error = json.loads(answered.results[job]["error"])
    assert error["status"] == status
    assert error["error"]["message"]


async def test_no_prompt_and_no_answer_stands_in_the_logs(answered: Queue) -> None:
    log = "".join(answered.chunks["log"])
    assert "capital of France" not in log
    assert "Paris" not in log
