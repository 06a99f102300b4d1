"""The development API: the SDK's routes, with honest states."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from handler.door.flags import Door
from handler.engine.protocol import EngineRequest
from handler.errors import ConfigurationError, EngineUnavailable
from handler.local import api as api_module
from handler.local.api import LocalApi
from handler.local.kept_jobs import KEPT_JOBS, KeptJobs, LocalJob, OutputTooLarge, TooManyJobs
from handler.outputs import StreamPiece
from handler.settings import WorkerSettings
from tests.handler.http.http_worker import free_port
from tests.support import FakeEngine
from tests.waiting import until_seen

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


async def test_a_body_is_read_up_to_its_bound() -> None:
    settings = WorkerSettings(environment={}, max_body_bytes=1000)
    engine = FakeEngine(pieces=[b'{"a": 1}'])

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100

    transport = httpx.ASGITransport(LocalApi(engine, settings).app())
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as api:
        refused = await api.post("/run", content=endless())
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
        assert (await api.post("/runsync", json=JOB)).json()["status"] == "COMPLETED"


def job_of(number: int, *, done: bool = False, held_bytes: int = 0) -> LocalJob:
    return LocalJob(f"job-{number}", held_bytes, error=EngineUnavailable("done") if done else None)


def test_finished_jobs_make_room_for_others_and_running_ones_do_not() -> None:
    jobs = KeptJobs(most_jobs=2, most_bytes=100)
    jobs.add(job_of(1))
    jobs.add(job_of(2, done=True))
    jobs.add(job_of(3))
    with pytest.raises(TooManyJobs, match="too many jobs"):
        jobs.add(job_of(4))
    assert [jobs.find(f"job-{number}").id for number in (1, 3)] == ["job-1", "job-3"]


def test_kept_jobs_are_bounded_by_their_bytes() -> None:
    jobs = KeptJobs(most_bytes=100)
    for number in range(1000):
        jobs.add(job_of(number, done=True, held_bytes=40))
        assert jobs.held_bytes <= 100
    running = job_of(1000)
    jobs.add(running)
    for _ in range(10):
        jobs.keep(running, StreamPiece("x" * 10))
    assert (len(jobs), jobs.held_bytes) == (1, 100)
    with pytest.raises(OutputTooLarge, match="more than 100 bytes"):
        jobs.keep(running, StreamPiece("x"))
    with pytest.raises(TooManyJobs):
        jobs.add(job_of(1001, held_bytes=1))
    jobs.ended(running, 0)


async def test_an_answer_that_does_not_fit_fails_its_job_and_no_other() -> None:
    async def answer(request: EngineRequest) -> AsyncIterator[bytes]:
        for _ in range(100 if b"long" in (request.body or b"") else 1):
            yield b"data: " + b"x" * 100 + b"\n\n"

    jobs = KeptJobs(most_bytes=2_000)
    engine = FakeEngine(answer=answer, content_type="text/event-stream")
    transport = httpx.ASGITransport(LocalApi(engine, WorkerSettings(environment={}), jobs).app())
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as api:
        long = (await api.post("/runsync", json={"input": {"prompt": "long", "stream": True}})).json()
        short = (await api.post("/runsync", json=JOB)).json()
    assert (long["status"], json.loads(long["error"])["status"]) == ("FAILED", 507)
    assert short["status"] == "COMPLETED"
    assert jobs.held_bytes <= 2_000


@asynccontextmanager
async def served(engine: FakeEngine, door: Door, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """The API on a socket, from its start to SIGTERM."""
    serving = asyncio.create_task(api_module.serve(engine, WorkerSettings(environment={}), door, "127.0.0.1", port))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as api:

        async def answers() -> bool:
            assert not serving.done()
            try:
                return bool(await api.get("/status/x"))
            except httpx.TransportError:
                return False

        await until_seen(answers, 5)
        yield api
    os.kill(os.getpid(), signal.SIGTERM)
    assert await serving == 0


async def test_the_engine_lives_as_long_as_the_server() -> None:
    engine = FakeEngine()
    async with served(engine, Door(), await free_port()):
        assert engine.started
    assert engine.stopped


async def test_with_a_key_every_route_needs_it() -> None:
    engine = FakeEngine()
    async with served(engine, Door(api_keys=("k",)), await free_port()) as api:
        for method, path in [("POST", "/run"), ("POST", "/runsync"), ("GET", "/status/x"), ("GET", "/stream/x")]:
            assert (await api.request(method, path, json=JOB)).status_code == 401
        headers = {"Authorization": "Bearer k"}
        assert (await api.post("/runsync", json=JOB, headers=headers)).json()["status"] == "COMPLETED"
    assert len(engine.requests) == 1


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
async def test_without_a_key_a_public_address_is_a_loud_warning(
    host: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(start_error=EngineUnavailable("enough"))
    with caplog.at_level(logging.WARNING, "handler"):
        assert await api_module.serve(engine, WorkerSettings(environment={}), Door(), host, 0) == 1
    assert ("NO API KEY" in caplog.text) is warns


async def test_a_start_that_fails_is_one_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(start_error=ConfigurationError("DTYPE=x: no", param="DTYPE"))
    assert await api_module.serve(engine, WorkerSettings(environment={}), Door(), "127.0.0.1", 0) == 1
    assert engine.stopped
    assert failed_start(caplog)["error"]["param"] == "DTYPE"


async def test_a_port_that_is_taken_ends_the_start_before_the_engine_loads(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert await api_module.serve(engine, WorkerSettings(environment={}), Door(), "127.0.0.1", port) == 1
    assert not engine.started
    document = failed_start(caplog)
    assert (document["error"]["param"], document["retryable"]) == ("--rp_api_port", True)


def failed_start(caplog: pytest.LogCaptureFixture) -> Any:
    """The error that the log has of a start."""
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("start_failed ")]
    return json.loads(line.removeprefix("start_failed "))
