"""The fall-back onto the SDK's own loop: no job before the engine is ready, errors that make a job FAILED."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

import pytest

from handler.dispatch import Dispatcher
from handler.errors import EngineUnavailable
from handler.metrics import WorkerMetrics
from handler.queue.mode import EngineGate, job_outputs, serve
from handler.queue.runpod_sdk import Handler, SdkMoved, SdkPlatform
from handler.settings import WorkerSettings
from tests.e2e import process
from tests.support import FakeEngine
from tests.waiting import until

SETTINGS = WorkerSettings(environment={})


def gate_of(engine: FakeEngine, settings: WorkerSettings) -> EngineGate:
    return EngineGate(engine, Dispatcher(engine, settings), stall_seconds=60)


async def test_no_job_is_taken_before_the_engine_is_ready_then_as_many_as_it_has_room_for() -> None:
    gate = gate_of(FakeEngine(slots=7), SETTINGS)
    assert gate.concurrency(1) == 0
    await asyncio.sleep(0)
    assert gate.concurrency(0) == 7


async def test_max_concurrency_wins_over_the_engines_capacity() -> None:
    gate = gate_of(FakeEngine(slots=7), WorkerSettings(environment={}, max_concurrency=3))
    gate.concurrency(1)
    await asyncio.sleep(0)
    assert gate.concurrency(0) == 3


async def test_an_engine_that_does_not_start_ends_the_worker() -> None:
    gate = gate_of(FakeEngine(start_error=EngineUnavailable("no memory")), SETTINGS)
    gate.concurrency(1)
    await asyncio.sleep(0)
    with pytest.raises(SystemExit):
        gate.concurrency(0)


async def test_an_engine_that_dies_takes_no_more_jobs_and_ends_the_worker() -> None:
    engine = FakeEngine(slots=7)
    gate = gate_of(engine, WorkerSettings(environment={}, max_concurrency=3))
    gate.concurrency(1)
    await asyncio.sleep(0)
    assert gate.concurrency(0) == 3
    engine.dead = True
    assert gate.concurrency(0) == 0

    def ends() -> bool:
        try:
            return gate.concurrency(0) > 0
        except SystemExit:
            return True

    await until(ends)


async def test_a_failed_job_yields_the_error_as_the_json_text_that_the_sdk_passes_on() -> None:
    engine = FakeEngine(pieces=[b'{"error": {"message": "gone"}}'], status=404)
    outputs = [output async for output in job_outputs(Dispatcher(engine, SETTINGS), {"input": {"prompt": "Hi"}})]
    assert json.loads(outputs[0]["error"])["status"] == 404


def test_an_sdk_that_has_moved_falls_back_to_its_own_loop_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    started: list[Handler] = []

    def moved(metrics: WorkerMetrics) -> SdkPlatform:
        raise SdkMoved("no rp_job.get_job")

    def sdk_loop(handle: Handler, concurrency: Callable[[int], int]) -> None:
        started.append(handle)

    with caplog.at_level(logging.WARNING, logger="handler"):
        assert serve(FakeEngine(), SETTINGS, make_platform=moved, sdk_loop=sdk_loop) == 0
    assert len(started) == 1
    assert "no rp_job.get_job; falling back to the SDK's own loop" in caplog.text


@pytest.mark.parametrize("engine", ["comes-up", "fails"])
async def test_a_worker_whose_engine_swallowed_the_sigterm_takes_no_jobs_and_ends_with_0(engine: str) -> None:
    ended = await process.run("-m", "tests.handler.queue.deaf_worker", engine)
    assert (ended.code, ended.stdout) == (0, "swallowed\n"), ended.stderr


async def test_a_sigterm_in_the_middle_of_a_line_of_the_log_is_not_lost() -> None:
    ended = await process.run("-m", "tests.handler.queue.deaf_worker", "writes")
    assert (ended.code, ended.stdout) == (0, ""), ended.stderr
