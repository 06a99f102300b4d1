"""A load-balancing endpoint over HTTP with real worker processes: proxied, streamed, pinned, killed, scaled."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults, WorkerCommand
from runpod_emulator.__main__ import main
from runpod_emulator.balancer.affinity import WORKER_HEADER
from runpod_emulator.endpoint.registry import State
from tests.runpod_emulator.rest_calls import rest_of
from tests.runpod_emulator.support import ECHO_WORKER
from tests.waiting import until

HTTP_WORKER = WorkerCommand((sys.executable, str(Path(__file__).with_name("http_worker.py"))))
SERVERLESS = "/v2/serverless"


@dataclass
class Balanced:
    """An emulator whose first endpoint is a load balancer, and a client of it."""

    emulator: Emulator
    client: httpx.AsyncClient

    async def get(self, path: str, affinity: str = "") -> httpx.Response:
        return await self.client.get(path, headers={WORKER_HEADER: affinity} if affinity else {})

    def states(self) -> list[str]:
        return sorted(worker.state.value for worker in self.emulator.workers.values())

    async def until_ready(self, workers: int) -> list[str]:
        """The ids of so many idle workers, once there are."""
        await until(lambda: self.states().count("idle") == workers, 20)
        return [worker.id for worker in self.emulator.workers.values() if worker.state is State.IDLE]


@asynccontextmanager
async def balanced(variables: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Balanced]:
    given = {"requests_per_worker": 4, "health_check_seconds": 0.05, "stop_grace_seconds": 5} | settings
    endpoint = EndpointSettings(type="load_balancer", scaling="request_count", **given)
    command = WorkerCommand(HTTP_WORKER.arguments, variables=variables or {})
    async with (
        Emulator(endpoint, command, rest_quotas={}) as emulator,
        httpx.AsyncClient(base_url=emulator.balanced_url, timeout=30, trust_env=False) as client,
    ):
        yield Balanced(emulator, client)


@pytest.fixture(scope="module")
async def one() -> AsyncIterator[Balanced]:
    """An endpoint with one worker that no test here ends."""
    async with balanced(min_workers=1, max_workers=1, max_balanced_bytes=10_000) as one:
        yield one


async def test_the_first_request_starts_a_worker_and_waits_for_it() -> None:
    async with balanced(idle_timeout_seconds=0.3, unused_until_reduced_seconds=60) as endpoint:
        assert endpoint.states() == []
        answer = await endpoint.get("/echo/x%2Fy?a=%20b&c")
        (worker,) = endpoint.emulator.workers.values()
        assert answer.headers[WORKER_HEADER] == answer.json()["worker"] == worker.id
        assert answer.json()["path"] == "/echo/x%2Fy?a=%20b&c"
        assert answer.json()["queue"] is None, "there is no queue to take jobs from"
        await until(lambda: endpoint.states() == ["stopped"], 20)
        line = endpoint.emulator.bill().to_json()["workers"][0]
        assert line["cold_start_seconds"] > 0
        assert line["idle_seconds"] >= 0.3
        assert line["exit_code"] == 0


async def test_a_request_and_its_answer_pass_through_whole(one: Balanced) -> None:
    sent = {"X-Own": "1", WORKER_HEADER: "nobody", "Connection": "X-Hop", "X-Hop": "1", "Content-Type": "text/x"}
    answer = await one.client.put("/echo", content=b"x" * 9_999, headers=sent)
    document = answer.json()
    assert (document["method"], document["bytes"], document["headers"]["content-type"]) == ("PUT", 9_999, "text/x")
    assert "x-own" in document["headers"]
    assert not {"x-hop", WORKER_HEADER.lower()} & set(document["headers"]), "one connection's, or the balancer's own"
    assert answer.headers["x-own"] == "1"
    assert "x-hop" not in answer.headers
    assert (await one.client.head("/echo")).status_code == 200
    missing = await one.get("/nothing")
    assert (missing.status_code, WORKER_HEADER in missing.headers) == (404, True), "the worker's own answer"


async def test_a_stream_arrives_as_it_is_written(one: Balanced) -> None:
    async with one.client.stream("GET", "/stream") as answer:
        pieces = answer.aiter_text()
        assert await anext(pieces) == "data: 1\n\n"
        assert one.states() == ["running"]
        await one.get("/go")
        assert [piece async for piece in pieces] == ["data: 2\n\n"]
    await one.until_ready(1)


async def test_a_client_that_leaves_ends_its_request_at_the_worker() -> None:
    async with balanced(min_workers=1, max_workers=1) as endpoint:
        await endpoint.until_ready(1)
        async with endpoint.client.stream("GET", "/stream") as answer:
            await anext(answer.aiter_text())
        await until(lambda: endpoint.states() == ["idle"], 10)
        assert (await endpoint.get("/seen")).json() == {"left": 1}
        health = await endpoint.client.get(f"{endpoint.emulator.url}/health")
        assert health.json()["jobs"]["failed"] == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_before_a_worker_has_it(one: Balanced, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 1000

    answer = await one.client.post("/echo", content=pieces() if chunked else b"x" * 10_001)
    assert answer.status_code == 413
    assert "10000 bytes" in answer.text
    assert WORKER_HEADER not in answer.headers


async def test_an_answer_over_the_limit_is_refused_or_cut(one: Balanced) -> None:
    answer = await one.get("/big?bytes=10001")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "bad_gateway")
    assert WORKER_HEADER in answer.headers
    assert len((await one.get("/big?bytes=10000")).content) == 10_000
    with pytest.raises(httpx.RemoteProtocolError):
        await one.get("/big?bytes=90000&chunked=1")
    await one.until_ready(1)


async def test_what_is_not_the_load_balancers_says_where_it_is(one: Balanced) -> None:
    for path in ("run", "openai/v1/chat/completions"):
        refused = await one.client.post(f"{one.emulator.url}/{path}", json={"input": {}})
        assert refused.status_code == 400
        assert one.emulator.balanced_url in refused.text
    upgrade = await one.client.get("/echo", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    assert upgrade.status_code == 501
    async with Emulator() as queue, httpx.AsyncClient(trust_env=False) as client:
        assert "has a queue" in (await client.get(f"{queue.balanced_url}/v1/models")).text
        assert (await client.get(f"{queue.origin}/lb/nobody/v1/models")).status_code == 404


@pytest.mark.parametrize("affinity", ["strict", "strict-resume", "strict a b"])
async def test_a_malformed_strict_header_is_a_bad_request(one: Balanced, affinity: str) -> None:
    assert (await one.get("/echo", affinity)).status_code == 400


async def test_requests_that_stay_open_start_workers_and_go_to_the_least_loaded() -> None:
    async with balanced(requests_per_worker=2, max_workers=2, idle_timeout_seconds=60) as endpoint:
        first = asyncio.create_task(endpoint.get("/wait"))
        await until(lambda: endpoint.states() == ["running"], 20)
        others = [asyncio.create_task(endpoint.get("/wait")) for _ in range(3)]
        await until(lambda: sum(worker.jobs for worker in endpoint.emulator.workers.values()) == 4, 20)
        assert [worker.jobs for worker in endpoint.emulator.workers.values()] == [2, 2]
        counts = (await endpoint.client.get(f"{endpoint.emulator.url}/health")).json()
        assert counts["workers"]["running"] == 2
        assert counts["jobs"]["inProgress"] == 4
        waiting = asyncio.create_task(endpoint.get("/echo"))
        await until(lambda: endpoint.emulator.endpoint.requests.waiting == 1, 10)
        async with httpx.AsyncClient(trust_env=False) as own:
            for worker in endpoint.emulator.workers.values():
                assert worker.address is not None
                await own.get(worker.address.url("/go"))
        answers = await asyncio.gather(first, *others, waiting)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.headers[WORKER_HEADER] for answer in answers[:4]}) == 2


async def test_a_pinned_request_goes_to_its_worker_and_starts_it_again_when_it_was_scaled_down() -> None:
    async with balanced(min_workers=2, max_workers=2, idle_timeout_seconds=60) as endpoint:
        workers = await endpoint.until_ready(2)
        for worker in workers:
            for mode in ("", "strict ", "strict-resume "):
                assert (await endpoint.get("/echo", mode + worker)).headers[WORKER_HEADER] == worker
        endpoint.emulator.endpoint.change(min_workers=0, idle_timeout_seconds=0)
        await until(lambda: endpoint.states() == ["stopped", "stopped"], 20)
        endpoint.emulator.endpoint.change(idle_timeout_seconds=60)
        gone = await endpoint.get("/echo", f"strict {workers[0]}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "affinity_worker_gone")
        resumed = await endpoint.get("/echo", f"strict-resume {workers[0]}")
        assert resumed.headers[WORKER_HEADER] == workers[0]
        assert len(endpoint.emulator.bill().lines) == 3, "its first life stays on the bill"
        assert (await endpoint.get("/echo", workers[1])).headers[WORKER_HEADER] == workers[0], "soft never starts one"


async def test_strict_resume_waits_for_room() -> None:
    async with balanced(min_workers=1, max_workers=1, idle_timeout_seconds=0.2, pinned_wait_seconds=1) as endpoint:
        (former,) = await endpoint.until_ready(1)
        endpoint.emulator.endpoint.change(min_workers=0)
        await until(lambda: endpoint.states() == ["stopped"], 20)
        endpoint.emulator.endpoint.change(idle_timeout_seconds=60)
        other = await endpoint.get("/echo")
        assert other.headers[WORKER_HEADER] != former
        full = await endpoint.get("/echo", f"strict-resume {former}")
        assert (full.status_code, full.json()["error"]["code"]) == (400, "worker_timeout")


@pytest.mark.parametrize("when", ["", "?late=1"])
async def test_a_worker_that_is_killed_in_a_request_ends_it_and_another_worker_serves_the_next(when: str) -> None:
    async with balanced(max_workers=1) as endpoint:
        if when:
            with pytest.raises(httpx.RemoteProtocolError):
                await endpoint.get(f"/die{when}")
        else:
            cut = await endpoint.get("/die")
            assert (cut.status_code, cut.json()["error"]["code"]) == (502, "bad_gateway")
            assert cut.headers[WORKER_HEADER] in endpoint.emulator.workers
        (dead,) = endpoint.emulator.workers
        await until(lambda: endpoint.states() == ["stopped"], 10)
        served = await endpoint.get("/echo", dead)
        assert served.headers[WORKER_HEADER] != dead
        gone = await endpoint.get("/echo", f"strict-resume {dead}")
        assert gone.status_code == 404, "it was not scaled down"


async def test_the_fault_that_kills_a_worker_ends_its_requests() -> None:
    async with balanced(max_workers=1, min_workers=1) as endpoint:
        await endpoint.until_ready(1)
        request = asyncio.create_task(endpoint.get("/wait"))
        await until(lambda: endpoint.states() == ["running"], 10)
        endpoint.emulator.inject(Faults(worker_crash_after_seconds=0))
        assert (await request).status_code == 502


async def test_a_worker_gets_requests_only_while_its_health_check_is_200() -> None:
    variables = {"FIRST_STATUS": "204", "HEALTH_CHECK_PATH": "/health"}
    async with balanced(variables, max_workers=1, min_workers=1, no_worker_timeout_seconds=0.3) as endpoint:
        await until(lambda: bool(endpoint.emulator.workers), 10)
        (worker,) = endpoint.emulator.workers.values()
        refused = await endpoint.get("/echo")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_workers_available")
        assert "no workers available" in refused.text
        await until(lambda: worker.address is not None, 10)
        assert worker.address is not None
        async with httpx.AsyncClient(trust_env=False, base_url=worker.address.url("")) as own:

            async def is_serving() -> bool:
                try:
                    return (await own.get("/ping")).status_code == 204
                except httpx.TransportError:
                    return False

            while not await is_serving():
                await asyncio.sleep(0.02)
            assert worker.state is State.INITIALIZING
            for status, state in (
                (200, State.IDLE),
                (500, State.UNHEALTHY),
                (200, State.IDLE),
                (204, State.INITIALIZING),
            ):
                await own.get(f"/become?status={status}")
                await until(lambda state=state: worker.state is state, 10)  # type: ignore[misc]
                assert (await endpoint.get("/echo")).status_code == (200 if status == 200 else 503)


async def test_a_worker_that_takes_too_long_is_a_gateway_timeout_and_goes_on() -> None:
    async with balanced(min_workers=1, max_workers=1, processing_timeout_seconds=0.2) as endpoint:
        await endpoint.until_ready(1)
        late = await endpoint.get("/wait")
        assert (late.status_code, late.json()["error"]["code"]) == (504, "processing_timeout")
        with pytest.raises(httpx.RemoteProtocolError):
            await endpoint.get("/stream")
        assert (await endpoint.get("/echo")).status_code == 200


async def test_commands_that_do_not_start_are_named_to_who_waits() -> None:
    endpoint = EndpointSettings(type="load_balancer", scaling="request_count", no_worker_timeout_seconds=1)
    async with (
        Emulator(endpoint, WorkerCommand((sys.executable, "-c", "raise SystemExit(3)"))) as emulator,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.get(f"{emulator.balanced_url}/echo")
        assert answer.status_code == 503
        assert "exit code 3" in answer.text


async def test_a_load_balancer_is_made_changed_and_deleted_over_rest() -> None:
    wanted: dict[str, Any] = {"type": "LOAD_BALANCER", "scaling": {"type": "REQUEST_COUNT", "requestCount": 3}}
    settings = EndpointSettings(health_check_seconds=0.05, max_workers=1)
    async with Emulator(settings, HTTP_WORKER, rest_quotas={}) as emulator, rest_of(emulator) as rest:
        made = await rest.created(**wanted, env={"HEALTH_CHECK_PATH": "/health"}, workers={"idleTimeout": 60})
        base = f"{emulator.origin}/lb/{made['id']}"
        assert (made["type"], made["scaling"]) == ("LOAD_BALANCER", wanted["scaling"])
        assert made["requestUrls"] == {"base": base, "health": f"{base}/health"}
        assert made["workers"] == {"min": 0, "max": 3, "idleTimeout": 60}
        path = f"{SERVERLESS}/{made['id']}"
        refused = await rest("PATCH", path, {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}})
        assert refused.status_code == 400
        assert "has no queue" in refused.text
        changed = (await rest("PATCH", path, {"scaling": {"type": "REQUEST_COUNT", "requestCount": 9}})).json()
        assert changed["scaling"]["requestCount"] == 9
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.get(f"{base}/echo")
            (worker,) = (await rest("GET", f"{path}/workers")).json()["workers"]
            assert (worker["id"], worker["status"]) == (answer.headers[WORKER_HEADER], "IDLE")
            assert (await rest("DELETE", path)).status_code == 204
            assert (await client.get(f"{base}/echo")).status_code == 404


async def test_a_load_balancer_over_rest_needs_its_own_scaling_and_workers() -> None:
    async with Emulator(rest_quotas={}) as emulator, rest_of(emulator) as rest:
        wanted = {"type": "LOAD_BALANCER", "name": "x", "image": "x", "gpu": {"pools": ["AMPERE_24"]}}
        delay = {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}}
        count = {"scaling": {"type": "REQUEST_COUNT", "requestCount": 4}}
        assert "has no queue" in (await rest("POST", SERVERLESS, json.dumps(wanted | delay))).text
        assert "workers that it starts" in (await rest("POST", SERVERLESS, wanted | count)).text


def test_a_load_balancer_without_a_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="worker command"):
        Emulator(EndpointSettings(type="load_balancer", scaling="request_count"))
    for arguments in (["--external-workers"], ["--worker", "x", "--scaling", "queue_delay"]):
        with pytest.raises(SystemExit):
            main(["--type", "load-balancer", *arguments])
    assert "--type: a load balancer needs --worker" in capsys.readouterr().err


async def test_a_queue_endpoints_workers_still_get_no_ports() -> None:
    async with Emulator(EndpointSettings(), ECHO_WORKER) as emulator, httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{emulator.url}/runsync", json={"input": {}}, timeout=30)
        (worker,) = emulator.workers.values()
        assert worker.address is None
