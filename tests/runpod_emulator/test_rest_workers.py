"""Workers of endpoints made over REST v2: real processes with the endpoint's environment, releases and deletions."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.registry import State
from tests.runpod_emulator.rest_calls import RestCalls, rest_of
from tests.waiting import until

WORKER = WorkerCommand(
    (sys.executable, str(Path(__file__).with_name("variable_worker.py"))), variables={"RUNPOD_DEBUG_LEVEL": "ERROR"}
)
SETTINGS = EndpointSettings(max_workers=0, stop_grace_seconds=10)
ENDPOINTS = "/v2/serverless"


async def answer(rest: RestCalls, endpoint_id: str, **job: Any) -> dict[str, Any]:
    document: dict[str, Any] = (await rest.client.post(f"/v2/{endpoint_id}/runsync", json={"input": job})).json()
    return document


async def seen(rest: RestCalls, endpoint_id: str) -> list[dict[str, Any]]:
    document = (await rest("GET", f"{ENDPOINTS}/{endpoint_id}/workers")).json()
    workers: list[dict[str, Any]] = document["workers"]
    counted = {name: count for name, count in document["summary"].items() if count and name != "total"}
    assert counted == {
        status.lower(): [worker["status"] for worker in workers].count(status)
        for status in {worker["status"] for worker in workers}
    }
    assert document["summary"]["total"] == len(workers)
    return workers


async def line_of(rest: RestCalls, endpoint_id: str, worker_id: str, wanted: str) -> None:
    """Waits for a line of the worker's output."""
    async with (
        asyncio.timeout(60),
        rest.client.stream("GET", f"{ENDPOINTS}/{endpoint_id}/workers/{worker_id}/logs") as stream,
    ):
        async for line in stream.aiter_lines():
            if line.startswith("data: ") and json.loads(line[6:])["line"] == wanted:
                return
    raise AssertionError(f"the log ended without {wanted!r}")


async def test_two_endpoints_have_their_own_queues_environments_workers_and_releases() -> None:
    async with Emulator(SETTINGS, WORKER, rest_quotas={}) as emulator, rest_of(emulator) as rest:
        one, two = [
            (await rest.created(env={"VALUE": value}, workers={"max": 1}, gpu={"pools": [pool], "count": 2}))["id"]
            for value, pool in (("one", "ADA_24"), ("two", "AMPERE_80"))
        ]
        answers = await asyncio.gather(answer(rest, one), answer(rest, two))
        assert [document["output"]["value"] for document in answers] == ["one", "two"]
        (first,) = await seen(rest, one)
        assert (first["status"], first["version"], first["isStale"], first["image"]) == (
            *("IDLE", 1, False),
            "example/worker:1",
        )
        assert (first["gpuTypeId"], first["gpuCount"]) == ("NVIDIA GeForce RTX 4090", 2)

        # A new release: the running worker is stale while it works, and is replaced once it is idle.
        working = asyncio.create_task(answer(rest, one, sleep=1))
        state = emulator.account.endpoints[one].state
        await until(lambda: state.registry.workers[first["id"]].state is State.RUNNING)
        await rest("PATCH", f"{ENDPOINTS}/{one}", {"env": {"VALUE": "new"}, "workers": {"min": 1}})
        (stale,) = await seen(rest, one)
        history = (await rest("GET", f"{ENDPOINTS}/{one}/releases")).json()
        assert history["rollout"] == {
            **{"inProgress": True, "workersOnLatest": 0, "workersTotal": 1, "percentOnLatest": 0},
        }
        assert [(release["version"], release["workerCount"]) for release in history["releases"]] == [(2, 0), (1, 1)]
        assert history["releases"][0]["diff"] == [
            {"field": "template.env", "old": {"VALUE": "one"}, "new": {"VALUE": "new"}}
        ]
        assert (stale["id"], stale["isStale"], stale["version"]) == (first["id"], True, 1)
        assert (await working)["output"] == {"value": "one", "worker": first["id"]}
        await until(lambda: state.registry.workers[first["id"]].state is State.STOPPED)
        replaced = await answer(rest, one)
        assert replaced["output"]["value"] == "new"
        (fresh,) = await seen(rest, one)
        assert (fresh["id"], fresh["isStale"], fresh["version"]) == (replaced["output"]["worker"], False, 2)

        # Deleted: its jobs are cancelled, its worker ends, and both stay on its bill. The other goes on.
        working = asyncio.create_task(answer(rest, one, sleep=60, say="it works"))
        await line_of(rest, one, fresh["id"], "it works")
        assert (await rest("DELETE", f"{ENDPOINTS}/{one}")).status_code == 204
        assert (await working)["status"] == "CANCELLED"
        assert (await rest.client.get(f"/v2/{one}/health")).status_code == 404
        await until(lambda: state.registry.workers[fresh["id"]].state is State.STOPPED)
        assert [line.exit_code for line in emulator.account.deleted[0].state.registry.bill().lines] == [0, 0]
        assert (await answer(rest, two))["output"]["value"] == "two"
    assert emulator.bill().lines == ()


def lines_of(stream: httpx.Response) -> list[str]:
    return [json.loads(line[6:])["line"] for line in stream.text.splitlines() if line.startswith("data: ")]


async def test_a_workers_log_is_read_while_it_works_and_after_its_end_from_any_line_on() -> None:
    async with Emulator(SETTINGS, WORKER, rest_quotas={}) as emulator, rest_of(emulator) as rest:
        made = (await rest.created(workers={"max": 1, "idleTimeout": 1}))["id"]
        worker_id = (await answer(rest, made, lines=150, say="enough"))["output"]["worker"]
        await line_of(rest, made, worker_id, "enough")
        state = emulator.account.endpoints[made].state
        await until(lambda: state.registry.workers[worker_id].state is State.STOPPED)
        logs = f"{ENDPOINTS}/{made}/workers/{worker_id}/logs"
        whole = await rest("GET", f"{logs}?tail=5000")
        lines = lines_of(whole)
        assert lines[0] == "The worker has started, version 1."
        assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(150)]
        assert lines[-1] == "The worker has ended, exit code 0."
        assert lines_of(await rest("GET", f"{logs}?tail=0")) == []
        assert len(lines_of(await rest("GET", logs))) == 100
        assert lines_of(await rest("GET", f"{logs}?source=system&tail=5000")) == [lines[0], lines[-1]]
        ids = [line[4:] for line in whole.text.splitlines() if line.startswith("id: ")]
        assert lines_of(await rest("GET", f"{logs}?since={ids[-2]}")) == lines[-2:]
        seen_already = await rest.client.get(logs, headers={"Last-Event-ID": ids[-3]})
        assert lines_of(seen_already) == lines[-2:]
        assert whole.headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize(
    "query", ["tail=5001", "tail=-1", "tail=x", "source=other", "since=yesterday", "since=2026-01-01"]
)
async def test_a_log_that_cannot_be_asked_for_is_refused(query: str) -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        emulator.endpoint.registry.start("w")
        refused = await rest.client.get(f"{ENDPOINTS}/local/workers/w/logs?{query}")
        assert (refused.status_code, query.partition("=")[0] in refused.json()["errors"][0]) == (422, True)
        assert (await rest("GET", f"{ENDPOINTS}/local/workers/none/logs")).status_code == 404


async def test_a_reader_that_reads_nothing_holds_neither_the_worker_nor_the_emulators_end() -> None:
    script = "import sys; sys.stdout.write('x' * 999 + chr(10)) ; sys.stdout.flush()"
    flood = f"{script}\nfor _ in range(50_000): sys.stdout.write('y' * 999 + chr(10))\nsys.stdout.flush()"
    command = WorkerCommand((sys.executable, "-c", flood))
    settings = EndpointSettings(min_workers=1, max_workers=1, restart_delay_seconds=60)
    async with Emulator(settings, command) as emulator, rest_of(emulator) as rest:
        await until(lambda: emulator.workers)
        (worker,) = emulator.workers.values()
        async with rest.client.stream("GET", f"{ENDPOINTS}/local/workers/{worker.id}/logs?tail=5000"):
            await until(lambda: worker.state is State.STOPPED)
    assert worker.exit_code == 0
