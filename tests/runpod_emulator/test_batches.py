"""Batch jobs: drafts over HTTP, their own workers, cancellation that drains, limits, pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.jobs.batch import Batch
from tests.runpod_emulator.played_worker import SETTINGS, PlayedWorker
from tests.runpod_emulator.support import ECHO_WORKER, Bench, client_of
from tests.waiting import until

INPUTS: list[dict[str, Any]] = [{"input": {"n": number}} for number in range(3)]


@asynccontextmanager
async def emulated(**changes: Any) -> AsyncIterator[tuple[Emulator, httpx.AsyncClient]]:
    async with Emulator(replace(SETTINGS, **changes)) as emulator, client_of(emulator) as client:
        yield emulator, client


async def made(client: httpx.AsyncClient, inputs: list[dict[str, Any]]) -> str:
    answer = await client.post("/batch", json=inputs)
    assert (answer.status_code, answer.json()["status"]) == (200, "DRAFT")
    batch_id: str = answer.json()["id"]
    return f"/batch/{batch_id}"


async def counts(client: httpx.AsyncClient, batch: str) -> tuple[str, int, int, int, int]:
    summary = (await client.get(batch)).json()
    numbers = (summary[f"request{name}"] for name in ("Total", "InProgress", "Completed", "Failed"))
    total, running, completed, failed = numbers
    return summary["status"], total, running, completed, failed


async def test_a_batch_grows_as_a_draft_and_is_locked_by_finalize() -> None:
    async with emulated() as (emulator, client):
        batch = await made(client, [])
        assert (await client.post(batch + "/requests", json={"requests": INPUTS})).json()["requestTotal"] == 3
        listed = (await client.get(batch + "/requests")).json()
        assert [request["status"] for request in listed["requests"]] == ["IN_QUEUE"] * 3
        await client.delete(f"{batch}/requests/{listed['requests'][0]['id']}")
        assert await counts(client, batch) == ("DRAFT", 2, 0, 0, 0)
        assert emulator.endpoint.batch_store.load().queued == 0
        assert (await client.put(batch, json={"name": "nightly"})).json()["name"] == "nightly"
        assert (await client.post(batch + "/finalize")).json()["status"] == "FINALIZED"
        assert emulator.endpoint.batch_store.load().queued == 2
        for refused in (
            await client.post(batch + "/finalize"),
            await client.post(batch + "/requests", json={"requests": INPUTS}),
            await client.delete(f"{batch}/requests/{listed['requests'][1]['id']}"),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")


async def test_requests_are_taken_by_batch_workers_only_and_never_delay_the_queue() -> None:
    async with emulated() as (emulator, client):
        emulator.endpoint.registry.start("b1", takes_batches=True)
        queue, ours = PlayedWorker(client, "w1"), PlayedWorker(client, "b1")
        batch = await made(client, INPUTS)
        await client.post(batch + "/finalize")
        assert await queue.take() is None
        queued = (await client.post("/run", json={"input": {"n": "queue"}})).json()["id"]
        assert [job["input"]["n"] for job in await ours.batch(9)] == [0, 1, 2]
        assert await counts(client, batch) == ("FINALIZED", 3, 3, 0, 0)
        assert await ours.take() is None
        assert (await queue.answer(output=1))["id"] == queued
        workers = (await client.get("/health")).json()["workers"]
        assert (workers["idle"], workers["running"]) == (1, 0)


async def test_results_come_page_by_page_and_a_failed_request_does_not_fail_the_batch() -> None:
    async with emulated() as (emulator, client):
        emulator.endpoint.registry.start("b1", takes_batches=True)
        worker = PlayedWorker(client, "b1")
        batch = await made(client, INPUTS)
        await client.post(batch + "/finalize")
        for job in await worker.batch(3):
            result: dict[str, Any] = {"error": "no"} if job["input"]["n"] == 1 else {"output": job["input"]}
            await worker.post("done", job["id"], result)
        assert await counts(client, batch) == ("FINALIZED", 3, 0, 2, 1)
        first = (await client.get(batch + "/requests?limit=2")).json()
        rest = (await client.get(batch + "/requests?limit=2&offset=2")).json()
    assert (first["total"], first["offset"], first["limit"], first["hasMore"]) == (3, 0, 2, True)
    assert (rest["hasMore"], [request["output"] for request in rest["requests"]]) == (False, [{"n": 2}])
    answered, failed = first["requests"]
    assert (answered["status"], answered["output"]) == ("COMPLETED", {"n": 0})
    assert answered["startedAt"] <= answered["completedAt"]
    assert (failed["status"], failed["error"], "output" in failed) == ("FAILED", "no", False)


async def test_a_cancelled_batch_finishes_what_runs_and_then_is_cancelled() -> None:
    async with emulated() as (emulator, client):
        emulator.endpoint.registry.start("b1", takes_batches=True)
        worker = PlayedWorker(client, "b1")
        batch = await made(client, INPUTS)
        await client.post(batch + "/finalize")
        running = await worker.take()
        assert running is not None
        assert (await client.post(batch + "/cancel")).json()["status"] == "FINALIZED"
        assert await worker.take() is None
        await worker.post("done", running["id"], {"output": 7})
        await until(lambda: emulator.endpoint.batches.newest_first()[0].status == "CANCELLED")
        assert await counts(client, batch) == ("CANCELLED", 3, 0, 1, 0)
        draft = await made(client, INPUTS)
        assert (await client.post(draft + "/cancel")).json()["status"] == "CANCELLED"
        assert (await client.post(draft + "/finalize")).status_code == 409


async def test_batches_are_listed_the_newest_first() -> None:
    async with emulated() as (_, client):
        made_ids = [(await made(client, [])).removeprefix("/batch/") for _ in range(3)]
        listed = (await client.get("/batch")).json()["batches"]
    assert [batch["id"] for batch in listed] == made_ids[::-1]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("POST", "/batch", {"requests": []}, 400, "JSON array"),
        ("POST", "/batch", [{}], 400, "requests[0].input"),
        ("POST", "/batch", [*INPUTS, 7], 400, "requests[3].input"),
        ("POST", "/batch", [{"input": 1, "policy": {"ttl": -1}}], 400, "policy.ttl"),
        ("POST", "/batch", [{"input": "x" * 2000}], 413, "1000 bytes"),
        ("POST", "/batch/none/requests", {"requests": INPUTS}, 404, "no batch none"),
        ("GET", "/batch/none", None, 404, "no batch none"),
        ("POST", "{batch}/requests", [], 400, "requests: expected an array"),
        ("PUT", "{batch}", {"name": 7}, 400, "name: expected text"),
        ("DELETE", "{batch}/requests/none", None, 404, "no request none"),
        ("GET", "{batch}/requests?limit=0", None, 400, "limit: expected a whole number from 1"),
        ("GET", "{batch}/requests?offset=-1", None, 400, "offset: expected a whole number from 0"),
        ("GET", "{batch}/requests?offset=" + "9" * 5000, None, 400, "offset"),
        ("POST", "{batch}/requests", {"requests": [{"input": 1}] * 9}, 400, "a batch holds 5"),
    ],
)
async def test_a_wrong_call_is_refused_and_changes_nothing(
    method: str, path: str, body: object, status: int, named: str
) -> None:
    async with emulated(max_batch_bytes=1000, max_batch_requests=5) as (_, client):
        batch = await made(client, INPUTS)
        answer = await client.request(method, path.replace("{batch}", batch), json=body)
        assert (answer.status_code, named in answer.json()["error"]["message"]) == (status, True), answer.text
        assert await counts(client, batch) == ("DRAFT", 3, 0, 0, 0)
        assert len((await client.get("/batch")).json()["batches"]) == 1


async def test_the_key_is_asked_for() -> None:
    async with emulated(api_key="k") as (_, client):
        assert (await client.get("/batch")).status_code == 401
        assert (await client.get("/batch", headers={"Authorization": "Bearer k"})).status_code == 200


async def test_there_is_a_limit_of_active_batches_and_of_queued_requests() -> None:
    async with emulated(max_active_batches=2, max_queued_batch_requests=4) as (_, client):
        first, second = await made(client, INPUTS), await made(client, INPUTS)
        refused = await client.post("/batch", json=[])
        assert (refused.status_code, "2 active batches" in refused.text) == (409, True)
        await client.post(first + "/finalize")
        assert (await client.post(second + "/finalize")).status_code == 409
        await client.post(first + "/cancel")
        assert (await client.post(second + "/finalize")).status_code == 200


async def test_ended_batches_are_forgotten_beyond_a_number_the_oldest_first() -> None:
    async with emulated(kept_batches=2) as (emulator, client):
        for _ in range(5):
            await client.post(await made(client, INPUTS) + "/cancel")
        await made(client, [])
        assert len(emulator.endpoint.batches.newest_first()) == 3


def ended(batch: Batch) -> list[str]:
    return [request.status.value for request in batch.requests.values()]


def test_a_lost_batch_workers_requests_are_given_to_the_next() -> None:
    bench = Bench(heartbeat_timeout_seconds=35, max_redeliveries=1)
    batch = bench.endpoint.batches.create(INPUTS)
    bench.endpoint.batches.finalize(batch)
    for name in ("b1", "b2"):
        bench.registry.start(name, takes_batches=True)
        bench.registry.mark_ready(name)
        bench.registry.ping(name)
        assert len(bench.endpoint.store_of(name).take(name, 9)) == 3
        bench.clock.pass_(36)
        bench.endpoint.housekeep()
    assert ended(batch) == ["FAILED"] * 3


def test_a_batch_fails_as_a_whole_when_its_workers_cannot_start() -> None:
    bench = Bench(starts_workers=True, failed_starts_until_jobs_fail=1)
    batch = bench.endpoint.batches.create(INPUTS)
    bench.endpoint.batches.finalize(batch)
    bench.endpoint.failed_starts.add(1, "the log")
    bench.endpoint.housekeep()
    assert (batch.status.value, ended(batch)) == ("FAILED", ["FAILED"] * 3)


async def test_real_workers_of_its_own_run_a_batch_and_end_and_are_billed() -> None:
    settings = EndpointSettings(max_workers=0, idle_timeout_seconds=0.2, tick_seconds=0.05)
    async with Emulator(settings, ECHO_WORKER) as emulator, client_of(emulator) as client:
        batch = await made(client, INPUTS)
        await client.post(batch + "/finalize")
        await until(lambda: emulator.endpoint.batches.newest_first()[0].has_ended, 60)
        assert (await counts(client, batch))[3] == 3
        [worker] = emulator.workers.values()
        assert worker.takes_batches
        await until(lambda: worker.state == "stopped", 60)
        assert emulator.bill().total_usd > 0
