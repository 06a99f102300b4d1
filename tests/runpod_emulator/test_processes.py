"""End to end: real worker processes on the real runpod SDK, started and stopped by the emulator."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults, WorkerCommand
from runpod_emulator.endpoint.registry import State
from tests.runpod_emulator.support import ECHO_WORKER, client_of
from tests.waiting import until

# Workers take seconds to import the SDK: most tests share one emulator, and its worker.
SETTINGS = EndpointSettings(max_workers=1, idle_timeout_seconds=60, stop_grace_seconds=10, max_redeliveries=1)


@pytest.fixture(scope="module")
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(SETTINGS, ECHO_WORKER) as emulator:
        yield emulator


@pytest.fixture(scope="module")
async def client(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(emulator) as client:
        yield client


@pytest.fixture(scope="module")
async def openai_client(emulator: Emulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="any", max_retries=0) as client:
        yield client


async def run(client: httpx.AsyncClient, **order: Any) -> str:
    job: str = (await client.post("/run", json={"input": order})).json()["id"]
    return job


async def ended(emulator: Emulator, job_id: str) -> dict[str, Any]:
    job = emulator.endpoint.store.get(job_id)
    await until(lambda: job.is_final)
    return job.for_client(0)


async def test_the_first_job_starts_a_worker_which_answers_it(client: httpx.AsyncClient, emulator: Emulator) -> None:
    assert emulator.workers == {}
    answer = (await client.post("/runsync", json={"input": {"a": "ä😀"}})).json()
    (worker,) = emulator.workers.values()
    assert answer["status"] == "COMPLETED"
    assert answer["output"] == [{"echo": {"a": "ä😀"}, "worker": worker.id}]
    assert worker.last_ping is not None


async def test_an_emulator_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    emulator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runpod_emulator", "--port", "0", "--min-workers", "1"),
        *("--worker", f"{sys.executable} {worker}"),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert emulator.stdout is not None
    async with asyncio.timeout(30):
        line = b""
        while not line.strip().isdigit():
            line = await emulator.stdout.readline()
            assert line, "the emulator ended"
        emulator.kill()
        await emulator.stdout.read()  # at its end once the worker, which writes to it too, is gone


async def test_a_stream_is_posted_piece_by_piece(client: httpx.AsyncClient) -> None:
    job = await run(client, chunks=2)
    chunks: list[str] = []
    status = ""
    while status != "COMPLETED" or len(chunks) < 3:
        answer = (await client.get(f"/stream/{job}")).json()
        status = answer["status"]
        chunks += [item["output"] for item in answer["stream"]]
    assert chunks == ['data: {"number": 0}\n\n', 'data: {"number": 1}\n\n', "data: [DONE]\n\n"]


async def test_the_openai_route_streams(client: httpx.AsyncClient) -> None:
    answer = await client.post("/openai/v1/chat/completions", json={"stream": True, "chunks": 3})
    assert answer.text == "".join(f'data: {{"number": {n}}}\n\n' for n in range(3)) + "data: [DONE]\n\n"


async def test_the_openai_route_answers_plainly_and_raises_the_workers_error(
    openai_client: openai.AsyncOpenAI, client: httpx.AsyncClient
) -> None:
    answer = (await client.post("/openai/v1/embeddings", json={"input": "x"})).json()
    assert answer["echo"]["openai_route"] == "/v1/embeddings"
    error = {"error": {"message": "too long", "type": "BadRequestError"}, "status": 400}
    with pytest.raises(openai.BadRequestError, match="too long"):
        await openai_client.chat.completions.create(model="m", messages=[], extra_body={"fail": error})


async def test_a_failing_job_is_failed(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/runsync", json={"input": {"fail": "out of luck"}})).json()
    assert (answer["status"], answer["error"]) == ("FAILED", "out of luck")


async def test_a_cancelled_job_is_stopped_in_the_worker(client: httpx.AsyncClient, emulator: Emulator) -> None:
    job = await run(client, sleep=60)
    await until(lambda: emulator.endpoint.store.get(job).status == "IN_PROGRESS")
    await asyncio.sleep(0.3)  # the SDK looks at its own queue every 0.1 s
    await client.post(f"/cancel/{job}")
    (worker,) = emulator.workers.values()
    await until(lambda: worker.stop_ids == [])
    assert (await client.post("/runsync", json={"input": {"a": 1}})).json()["status"] == "COMPLETED"


async def test_the_jobs_of_a_crashed_worker_are_done_by_the_next(client: httpx.AsyncClient, emulator: Emulator) -> None:
    job = await run(client, sleep=1)
    (first,) = emulator.workers.values()
    await until(lambda: first.jobs == 1)
    emulator.inject(Faults(worker_crash_after_seconds=0))
    answer = await ended(emulator, job)
    second = next(worker for worker in emulator.workers.values() if worker is not first)
    assert (first.state, first.exit_code) == (State.STOPPED, -signal.SIGKILL)
    assert answer["status"] == "COMPLETED"
    assert answer["output"][0]["worker"] == second.id


async def test_a_job_that_kills_every_worker_is_given_up(client: httpx.AsyncClient, emulator: Emulator) -> None:
    answer = await ended(emulator, await run(client, die=True))
    assert answer["status"] == "FAILED"
    assert "exit code 3; given up after 2 attempts" in answer["error"]


async def test_workers_scale_to_two_by_request_count_and_back_to_none() -> None:
    settings = EndpointSettings(
        max_workers=2, scaling="request_count", requests_per_worker=4, idle_timeout_seconds=0.5, stop_grace_seconds=10
    )
    async with Emulator(settings, ECHO_WORKER) as emulator, client_of(emulator) as client:
        jobs = [await run(client, sleep=0.1) for _ in range(8)]
        assert {(await ended(emulator, job))["status"] for job in jobs} == {"COMPLETED"}
        await until(lambda: {worker.state for worker in emulator.workers.values()} == {State.STOPPED})
        workers = list(emulator.workers.values())
    assert [worker.exit_code for worker in workers] == [0, 0]
    bill = emulator.bill()
    assert len(bill.lines) == 2
    for line in bill.lines:
        assert line.cold_start_seconds > 0
        assert line.usd == line.billed_seconds * settings.usd_per_second
    assert sum(line.running_seconds for line in bill.lines) > 0


async def test_a_worker_whose_heartbeats_are_lost_is_killed_and_replaced() -> None:
    settings = EndpointSettings(max_workers=1, ping_interval_ms=1000, heartbeat_timeout_seconds=2.5)
    async with Emulator(settings, ECHO_WORKER) as emulator, client_of(emulator) as client:
        assert (await client.post("/runsync", json={"input": {"a": 1}})).json()["status"] == "COMPLETED"
        (first,) = emulator.workers.values()
        job = await run(client, sleep=4)
        await until(lambda: first.jobs == 1)
        emulator.inject(Faults(lost_heartbeat=True, worker_id=first.id))
        await until(lambda: first.state is State.STOPPED)
        assert (first.exit_code, first.jobs) == (-signal.SIGKILL, 0)
        await client.post(f"/cancel/{job}")
        assert (await client.post("/runsync", json={"input": {"a": 2}})).json()["status"] == "COMPLETED"


async def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    command = WorkerCommand((sys.executable, "-c", script), log_directory=tmp_path)
    settings = EndpointSettings(min_workers=1, stop_grace_seconds=0.2)
    async with Emulator(settings, command) as emulator:
        await until(lambda: any(log.read_text() for log in tmp_path.glob("*.log")))
        (worker,) = emulator.workers.values()
    assert worker.exit_code == -signal.SIGKILL
    assert (tmp_path / f"{worker.id}.log").read_text() == "deaf\n"


async def test_a_command_that_does_not_exist_is_tried_again_later_and_does_no_harm() -> None:
    settings = EndpointSettings(max_workers=1, restart_delay_seconds=0.05)
    async with Emulator(settings, WorkerCommand(("/no/such/worker",))) as emulator, client_of(emulator) as client:
        await run(client, a=1)
        await until(lambda: len(emulator.workers) >= 2)
        health = (await client.get("/health")).json()
    assert health["jobs"]["inQueue"] == 1
    assert {worker.exit_code for worker in emulator.workers.values()} == {127}


async def test_a_worker_started_elsewhere_connects_and_leaves_on_sigterm() -> None:
    async with Emulator() as emulator, client_of(emulator) as client:
        variables = dict(os.environ) | emulator.worker_environment("mine") | dict(ECHO_WORKER.variables)
        process = await asyncio.create_subprocess_exec(*ECHO_WORKER.arguments, env=variables)
        answer = (await client.post("/runsync", json={"input": {"a": 1}})).json()
        assert answer["workerId"] == "mine"
        process.terminate()
        emulator.retire_worker("mine")
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        emulator.end_worker("mine", 0)
        assert (await client.get("/health")).json()["workers"]["ready"] == 0


async def test_a_bill_that_is_read_again_tells_the_same_times(client: httpx.AsyncClient) -> None:
    (await client.post("/runsync", json={"input": {"a": 1}})).raise_for_status()
    bills = [(await client.get("/billing")).json()["workers"] for _ in range(5)]
    assert [workers[0]["started_at"] for workers in bills] == [bills[0][0]["started_at"]] * 5


async def test_the_command_line_prints_its_address_and_at_the_end_the_bill() -> None:
    worker = f"{ECHO_WORKER.arguments[0]} {ECHO_WORKER.arguments[1]}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runpod_emulator", "--worker", worker, "--port", "0", "--usd-per-second", "0.001"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    url = (await process.stdout.readline()).decode().split()[-1]
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/runsync", json={"input": {"a": 1}}, timeout=30)
        billing = (await client.get(f"{url}/billing")).json()
    assert answer.json()["status"] == "COMPLETED"
    assert json.loads(json.dumps(billing))["workers"][0]["cold_start_seconds"] > 0
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(15):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert "RunPod bill of endpoint local at $0.001 per second" in output.decode()
