"""The SDK's hooks: no job before the engine is ready, errors in the form that makes a job FAILED."""

from __future__ import annotations

import asyncio
import json

import pytest

from handler.dispatch import Dispatcher
from handler.errors import EngineUnavailable
from handler.queue_mode import EngineGate, job_outputs
from handler.settings import WorkerSettings
from tests.support import FakeEngine

SETTINGS = WorkerSettings(environment={})


async def test_no_job_is_taken_before_the_engine_is_ready_then_as_many_as_it_has_room_for() -> None:
    gate = EngineGate(FakeEngine(capacity=7), SETTINGS)
    assert gate.concurrency(1) == 0
    await asyncio.sleep(0)
    assert gate.concurrency(0) == 7


async def test_max_concurrency_wins_over_the_engines_capacity() -> None:
    gate = EngineGate(FakeEngine(capacity=7), WorkerSettings(environment={}, max_concurrency=3))
    gate.concurrency(1)
    await asyncio.sleep(0)
    assert gate.concurrency(0) == 3


async def test_an_engine_that_does_not_start_ends_the_worker() -> None:
    gate = EngineGate(FakeEngine(start_error=EngineUnavailable("no memory")), SETTINGS)
    gate.concurrency(1)
    await asyncio.sleep(0)
    with pytest.raises(SystemExit):
        gate.concurrency(0)


async def test_a_failed_job_yields_the_error_as_the_json_text_that_the_sdk_passes_on() -> None:
    engine = FakeEngine(pieces=[b'{"error": {"message": "gone"}}'], status=404)
    outputs = [output async for output in job_outputs(Dispatcher(engine, SETTINGS), {"input": {"prompt": "Hi"}})]
    assert json.loads(outputs[0]["error"])["status"] == 404
