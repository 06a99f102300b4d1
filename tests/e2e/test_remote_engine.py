"""The worker as a process between the emulator and a model server over HTTP, which dies, or answers in large pieces."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from benchmarks.paced_upstream import PacedUpstream
from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.registry import READY
from runpod_emulator.jobs.job import Job, Status
from runpod_emulator.settings import NO_RATE_LIMITS
from tests.e2e.process import ROOT, START_SECONDS
from tests.waiting import until
from vllm_service import RunPodVLLMService
from vllm_service.testing import Reply, ScriptedProvider, events, whole

SETTINGS = EndpointSettings(min_workers=1, max_workers=1, rate_limits=NO_RATE_LIMITS, restart_delay_seconds=0.2)
SLOTS, WAITING = 32, 150
#: Of one event: the platform takes at most a megabyte in one post.
LONG = '🙂 "quoted" \\ 漢字 e\u0301\n' * 60_000


@asynccontextmanager
async def endpoint(url: str, logs: Path, variables: Mapping[str, str] | None = None) -> AsyncIterator[Emulator]:
    """An emulated endpoint with one worker, which takes jobs, in front of a server that runs already."""
    settings = {"VLLM_BASE_URL": url, "MAX_CONCURRENCY": str(SLOTS), **(variables or {})}
    command = WorkerCommand((sys.executable, "handler.py"), settings, directory=ROOT, log_directory=logs)
    async with Emulator(SETTINGS, command) as emulator:
        await until(lambda: any(worker.state in READY for worker in emulator.workers.values()), START_SECONDS)
        yield emulator


def chunk(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


async def test_a_server_that_dies_fails_no_more_jobs_than_ran_and_the_rest_is_done_by_the_next_worker(
    tmp_path: Path,
) -> None:
    job = {"input": {"route": "/v1/completions", "body": {"prompt": "Hi", "stream": False}}}
    async with AsyncExitStack() as life:
        upstream = await life.enter_async_context(PacedUpstream(tokens=6000))
        port = int(upstream.url.rpartition(":")[2])
        async with endpoint(upstream.url, tmp_path) as emulator, httpx.AsyncClient(base_url=emulator.url) as client:
            ids = [(await client.post("run", json=job)).json()["id"] for _ in range(WAITING)]
            jobs = [emulator.endpoint.store.get(job_id) for job_id in ids]
            await upstream.until(lambda stats: stats.in_flight == SLOTS)
            await life.aclose()
            await until(lambda: any(worker.exit_code == 1 for worker in emulator.workers.values()))
            assert count(jobs, Status.FAILED) <= SLOTS
            assert count(jobs, Status.COMPLETED) == 0
            async with PacedUpstream(tokens=1, port=port):
                await until(lambda: count(jobs, Status.FAILED, Status.COMPLETED) == WAITING)
    assert count(jobs, Status.FAILED) <= SLOTS
    assert all(json.loads(job.error or "")["retryable"] for job in jobs if job.status is Status.FAILED)


def count(jobs: list[Job], *statuses: Status) -> int:
    return sum(job.status in statuses for job in jobs)


async def test_one_event_above_a_megabyte_arrives_by_the_openai_route_and_by_the_native_stream(tmp_path: Path) -> None:
    large = events(chunk("first "), chunk(LONG), chunk("", "stop"), b"data: [DONE]\n\n")
    question: Any = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}
    async with (
        answering(large) as url,
        endpoint(url, tmp_path) as emulator,
        AsyncOpenAI(base_url=emulator.openai_url, api_key="x", max_retries=0) as openai,
        RunPodVLLMService(base_url=emulator.openai_url, api_key="x", default_model="m") as service,
    ):
        stream: Any = await openai.chat.completions.create(**question, stream=True)
        said = [event.choices[0].delta.content async for event in stream]
        assert said == ["first ", LONG, ""], "the event is one event again"
        assert "".join([text async for text in service.stream("Hi")]) == f"first {LONG}"
        job_id = (await service.submit({"messages": question["messages"], "stream": True})).id
        pieces = [piece async for piece in service.stream_job(job_id)]
        report = await service.status(job_id)
    texts = "".join(pieces).split("\n\n")
    assert [json.loads(text[5:])["choices"][0]["delta"]["content"] for text in texts[:3]] == ["first ", LONG, ""]
    assert "".join(report.output) == "".join(pieces)


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_is_a_failed_job_with_its_status(tmp_path: Path, status: int) -> None:
    async with (
        answering(whole(b"", status, {"location": "/v1/completions"})) as url,
        endpoint(url, tmp_path) as emulator,
        httpx.AsyncClient(base_url=emulator.url, timeout=60) as client,
    ):
        for stream in (False, True):
            job = {"openai_route": "/v1/completions", "openai_input": {"prompt": "Hi", "stream": stream}}
            report = (await client.post("runsync", json={"input": job})).json()
            assert report["status"] == "FAILED"
            assert json.loads(report["error"])["status"] == status
        answer = await client.post("openai/v1/completions", json={"prompt": "Hi"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, status)


@asynccontextmanager
async def answering(reply: Reply) -> AsyncIterator[str]:
    """The URL of a model server that answers every request with a body so."""
    async with ScriptedProvider(lambda request: reply if request.body else whole({"data": []}), path="") as provider:
        yield provider.url
