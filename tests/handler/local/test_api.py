"""The development API: the SDK's routes, with honest states."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from handler.engine.protocol import EngineRequest
from handler.local.api import KEPT_JOBS, LocalApi
from handler.settings import WorkerSettings
from tests.support import FakeEngine

JOB = {"input": {"prompt": "Hi"}}


def client(engine: FakeEngine) -> httpx.AsyncClient:
    app = LocalApi(engine, WorkerSettings(environment={})).app()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker")


async def test_runsync_waits_and_reports_the_outputs() -> None:
    async with client(FakeEngine(pieces=[b'{"a": 1}'])) as api:
        report = (await api.post("/runsync", json=JOB)).json()
    assert (report["status"], report["output"]) == ("COMPLETED", {"a": 1})


async def test_a_failed_job_is_reported_as_failed_with_the_engines_error() -> None:
    async with client(FakeEngine(pieces=[b'{"error": {"message": "gone"}}'], status=404)) as api:
        report = (await api.post("/runsync", json=JOB)).json()
    assert report["status"] == "FAILED"
    assert json.loads(report["error"])["status"] == 404


async def test_a_stream_can_be_read_while_it_grows() -> None:
    go_on = asyncio.Event()

    async def answer(request: EngineRequest) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await go_on.wait()
        yield b"data: 2\n\n"

    async with client(FakeEngine(answer=answer, content_type="text/event-stream")) as api:
        job_id = (await api.post("/run", json=JOB)).json()["id"]
        first = await _stream_with_chunks(api, job_id)
        assert (first["status"], first["stream"]) == ("IN_PROGRESS", [{"output": "data: 1\n\n"}])
        assert (await api.get(f"/status/{job_id}")).json() == {"id": job_id, "status": "IN_PROGRESS"}
        go_on.set()
        assert (await _stream_with_chunks(api, job_id))["stream"] == [{"output": "data: 2\n\n"}]
        final = (await api.post(f"/status/{job_id}")).json()
    assert final == {"id": job_id, "status": "COMPLETED", "output": ["data: 1\n\n", "data: 2\n\n"]}


async def test_head_of_a_stream_reads_none_of_it() -> None:
    async with client(FakeEngine(pieces=[b'{"a": 1}'])) as api:
        job_id = (await api.post("/runsync", json=JOB)).json()["id"]
        short = await api.head(f"/stream/{job_id}")
        full = await api.get(f"/stream/{job_id}")
    assert full.json()["stream"] == [{"output": {"a": 1}}]
    assert short.headers["content-length"] == full.headers["content-length"]


async def _stream_with_chunks(api: httpx.AsyncClient, job_id: str) -> dict[str, object]:
    while True:
        report: dict[str, object] = (await api.post(f"/stream/{job_id}")).json()
        if report["stream"]:
            return report
        await asyncio.sleep(0)


@pytest.mark.parametrize("body", [b"{", b"[1]", b"{}", b"\xff", b"[" * 100_000])
async def test_a_malformed_body_is_a_400_that_says_what_was_expected(body: bytes) -> None:
    async with client(FakeEngine()) as api:
        answer = await api.post("/run", content=body)
    assert answer.status_code == 400
    assert "body:" in answer.json()["error"]["message"]


async def test_an_unknown_job_is_a_404() -> None:
    async with client(FakeEngine()) as api:
        assert (await api.get("/status/x")).status_code == 404
        assert (await api.get("/stream/x")).json()["error"]["code"] == "job_not_found"


async def test_the_oldest_jobs_are_forgotten() -> None:
    async with client(FakeEngine()) as api:
        first = (await api.post("/runsync", json=JOB)).json()["id"]
        for _ in range(KEPT_JOBS):
            await api.post("/run", json=JOB)
        assert (await api.get(f"/status/{first}")).status_code == 404


async def test_the_engine_lives_as_long_as_the_app() -> None:
    engine = FakeEngine()
    app = LocalApi(engine, WorkerSettings(environment={})).app()
    async with app.router.lifespan_context(app):
        assert engine.started
    assert engine.stopped
