"""RunPod's management call: how many workers are always there, changed while the endpoint runs, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults
from runpod_emulator.endpoint.registry import READY, State
from tests.runpod_emulator.support import ECHO_WORKER, Bench, client_of
from tests.waiting import until

KEY = {"Authorization": "Bearer key"}


@asynccontextmanager
async def managed(emulator: Emulator, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{emulator.origin}/v1", headers=headers, trust_env=False) as client:
        yield client


async def test_workers_min_is_changed_and_read_back_and_nothing_else_is() -> None:
    settings = EndpointSettings(api_key="key", max_workers=5, min_workers=1, idle_timeout_seconds=7)
    async with Emulator(settings, management_v1=True) as emulator, managed(emulator, **KEY) as client:
        before = (await client.get("/endpoints/local")).json()
        changed = await client.patch("/endpoints/local", json={"workersMin": 3})
        after = (await client.get("/endpoints/local")).json()
    assert (before["id"], before["workersMin"], before["workersMax"], before["idleTimeout"]) == ("local", 1, 5, 7)
    assert (before["scalerType"], before["scalerValue"]) == ("QUEUE_DELAY", 4)
    assert (changed.status_code, changed.json()) == (200, after)
    assert after == before | {"workersMin": 3}
    assert emulator.endpoint.minima == [3]


@pytest.mark.parametrize(
    "body",
    [
        *('{"workersMin": 4}', '{"workersMin": -1}', '{"workersMin": 1.5}', '{"workersMin": true}', "{}", "[]", "{"),
        *('{"workersMin": "2"}', '{"workersMin": null}', '{"workersMin": 2, "workerMax": 4}', '{"idleTimeout": 9}'),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(body: str) -> None:
    async with Emulator(EndpointSettings(max_workers=3), management_v1=True) as emulator, managed(emulator) as client:
        refused = await client.patch("/endpoints/local", content=body)
        assert (await client.get("/endpoints/local")).json()["workersMin"] == 0
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}])
async def test_the_key_is_asked_for_and_another_endpoint_is_not_there(headers: dict[str, str]) -> None:
    async with (
        Emulator(EndpointSettings(api_key="key"), management_v1=True) as emulator,
        managed(emulator, **headers) as client,
    ):
        answers = [
            await client.get("/endpoints/local"),
            await client.patch("/endpoints/local", json={"workersMin": 1}),
            await client.patch("/endpoints/other", json={"workersMin": 1}, headers=KEY),
            await client.get("/endpoints/other", headers=KEY),
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 404, 404]
    assert emulator.endpoint.minima == []


async def test_workers_come_at_once_stay_past_the_idle_timeout_and_leave_by_it_and_the_bill_has_them_all() -> None:
    settings = EndpointSettings(max_workers=3, idle_timeout_seconds=0.5, stop_grace_seconds=10)
    async with Emulator(settings, ECHO_WORKER, management_v1=True) as emulator, managed(emulator) as client:
        workers = emulator.workers
        await client.patch("/endpoints/local", json={"workersMin": 3})
        await until(lambda: len(workers) == 3 and all(worker.state in READY for worker in workers.values()), 60)
        async with client_of(emulator) as jobs:
            assert (await jobs.post("/runsync", json={"input": {"a": 1}})).json()["status"] == "COMPLETED"
        now, ready = emulator.endpoint.clock, {worker.since for worker in workers.values()}
        await until(lambda: now() > max(ready) + 2)
        assert {worker.state for worker in workers.values()} == {State.IDLE}
        await client.patch("/endpoints/local", json={"workersMin": 1})
        await until(lambda: [worker.state for worker in workers.values()].count(State.STOPPED) == 2)
        await client.patch("/endpoints/local", json={"workersMin": 0})
        await until(lambda: {worker.state for worker in workers.values()} == {State.STOPPED})
    assert [line.exit_code for line in emulator.bill().lines] == [0, 0, 0]
    assert emulator.bill().billed_seconds >= 6
    assert emulator.endpoint.minima == [3, 1, 0]


def test_a_busy_worker_beyond_the_minimum_ends_its_job_and_then_idles_out() -> None:
    bench = Bench(max_workers=2, idle_timeout_seconds=5)
    bench.endpoint.set_min_workers(1)
    job = bench.job()
    bench.take("w1")
    bench.endpoint.set_min_workers(0)
    bench.clock.pass_(60)
    assert bench.registry.idle_too_long() == []
    bench.store.finish(job.id, "w1", {"output": 1})
    assert bench.registry.idle_too_long() == []
    bench.clock.pass_(5)
    assert [worker.id for worker in bench.registry.idle_too_long()] == ["w1"]


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_management_fails_as_told_changes_nothing_and_the_endpoints_other_calls_go_on(method: str) -> None:
    async with (
        Emulator(EndpointSettings(), management_v1=True) as emulator,
        managed(emulator) as client,
        client_of(emulator) as jobs,
    ):

        async def answer() -> httpx.Response:
            return await client.request(method, "/endpoints/local", json={"workersMin": 1})

        emulator.inject(Faults(management="error"))
        assert (await answer()).status_code == 500
        emulator.inject(Faults(management="garbage"))
        garbage = await answer()
        assert (garbage.status_code, garbage.text[:6]) == (200, "<html>")
        emulator.inject(Faults(management="hang"))
        hanging = asyncio.create_task(answer())
        assert (await jobs.get("/health")).status_code == 200
        assert not hanging.done()
        hanging.cancel()
        emulator.inject(Faults())
        assert emulator.endpoint.minima == []
        document: dict[str, Any] = (await answer()).json()
    assert document["workersMin"] == (1 if method == "PATCH" else 0)


@pytest.mark.parametrize("fault", ["500", True, 1])
async def test_a_fault_of_management_that_does_not_exist_is_refused(fault: object) -> None:
    async with Emulator() as emulator, client_of(emulator) as client:
        refused = await client.post("/faults", json={"management": fault})
    assert refused.status_code == 400
    assert "management" in refused.text
