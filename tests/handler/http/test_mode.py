"""The load-balancing worker on real sockets, from loading to its end: pings, draining, SIGTERM, exit codes."""

from __future__ import annotations

import json

import pytest

from benchmarks.paced_upstream import PacedUpstream
from handler.errors import ConfigurationError
from handler.http import mode
from handler.settings import ALLOWED_PATHS
from tests.handler.http.http_worker import CHAT, SSE, Held, SlowEngine, worker
from tests.support import FakeEngine


@pytest.mark.parametrize("two_ports", [False, True])
async def test_ping_tells_loading_ready_and_draining(two_ports: bool) -> None:
    engine, held = SlowEngine(content_type=SSE), Held()
    engine.answer = held
    async with worker(engine, two_ports=two_ports) as running:
        assert await running.ping() == 204
        async with running.main.post(CHAT, json={}) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert (await response.json())["error"]["code"] == "engine_loading"
        engine.loaded.set()
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            running.terminate()
            await running.ping_until(503)
            async with running.main.post(CHAT, json={}) as late:
                assert (late.status, late.headers["connection"]) == (503, "close")
                assert (await late.json())["error"]["code"] == "worker_draining"
            held.go_on.set()
            assert await response.text() == "data: 1\n\ndata: 2\n\n"
        assert await running.task == 0
    assert engine.stopped
    assert len(engine.requests) == 1


async def test_the_health_port_serves_nothing_else() -> None:
    async with worker(FakeEngine(), two_ports=True) as running:
        await running.ping_until(200)
        async with running.health.get("/v1/models") as response:
            assert response.status == 404
        async with running.main.get("/ping") as response:
            assert response.status == 200
        async with running.health.post("/ping") as response:
            assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, POST, DELETE")


async def test_what_does_not_finish_in_the_grace_period_is_aborted() -> None:
    held = Held()
    engine = FakeEngine(content_type=SSE, answer=held)
    async with worker(engine, drain_seconds=0.05) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            running.terminate()
            text = await response.text()
        assert '"code": "worker_draining"' in text
        assert held.dropped.is_set()
        assert await running.task == 0
    assert engine.stopped


async def test_sigterm_while_loading_ends_the_worker() -> None:
    engine = SlowEngine()
    async with worker(engine) as running:
        assert await running.ping() == 204
        running.terminate()
        assert await running.task == 0
    assert engine.stopped


@pytest.mark.parametrize("error", [ConfigurationError("no such model"), RuntimeError("CUDA")])
async def test_an_engine_that_does_not_start_ends_the_worker_with_code_1_and_one_line_of_json(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(start_error=error)
    async with worker(engine) as running:
        assert await running.task == 1
    assert engine.stopped
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("start_failed ")]
    document = json.loads(line.removeprefix("start_failed "))
    assert (document["status"], document["retryable"]) == (500, False)


@pytest.mark.parametrize(("host", "variable"), [("no.such.host.invalid", "HOST"), ("203.0.113.9", "HOST")])
async def test_an_address_that_is_not_this_machines_is_blamed_on_host(
    host: str, variable: str, caplog: pytest.LogCaptureFixture
) -> None:
    exit_code = await mode.serve(
        FakeEngine(), host=host, port=0, health_port=0, allowed_paths=(), max_body_bytes=1, drain_seconds=1
    )
    assert exit_code == 1
    assert f'"param": "{variable}"' in caplog.text


async def test_an_engine_that_dies_ends_the_worker_with_code_1_and_its_requests_with_an_error() -> None:
    engine = FakeEngine(content_type=SSE, answer=Held())
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            engine.dead = True
            assert '"status": 503' in await response.text()
        assert await running.task == 1


async def test_an_engine_that_stands_still_while_requests_run_ends_the_worker_with_code_1() -> None:
    engine = FakeEngine(content_type=SSE, answer=Held(), progress=7)
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            assert '"status": 503' in await response.text()
        assert await running.task == 1


async def test_a_port_that_is_taken_ends_the_worker_with_code_1(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    async with PacedUpstream() as other:
        port = int(other.url.rpartition(":")[2])
        exit_code = await mode.serve(
            engine,
            host="127.0.0.1",
            port=port,
            health_port=port,
            allowed_paths=ALLOWED_PATHS,
            max_body_bytes=1,
            drain_seconds=1,
        )
    assert exit_code == 1
    assert not engine.started
    assert '"param": "PORT"' in caplog.text
    assert '"retryable": true' in caplog.text
