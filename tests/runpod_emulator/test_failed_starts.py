"""Workers that end before they take a job: pauses that grow to a bound, and jobs that fail with the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import openai
import pytest

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.failed_starts import FailedStarts
from tests.runpod_emulator.support import ECHO_WORKER, Bench, HandClock, client_of
from tests.waiting import until

DIES = WorkerCommand((sys.executable, "-c", "import sys; print('MODEL_NAME: missing'); sys.exit(2)"))


def failed(clock: HandClock, **settings: float) -> FailedStarts:
    return FailedStarts(EndpointSettings(**settings), clock)  # type: ignore[arg-type]


def test_each_failed_start_doubles_the_pause_up_to_a_bound() -> None:
    clock = HandClock()
    starts = failed(clock, restart_delay_seconds=1, longest_restart_delay_seconds=10)
    pauses = []
    for _ in range(6):
        starts.add(2, "x.log")
        pauses.append(starts.seconds_to_next)
    assert pauses == [1, 2, 4, 8, 10, 10]
    for _ in range(5000):
        starts.add(2, "x.log")
    assert starts.seconds_to_next == 10
    clock.pass_(10)
    assert starts.seconds_to_next == 0


def test_a_worker_that_becomes_ready_ends_the_row() -> None:
    starts = failed(HandClock())
    for _ in range(3):
        starts.add(2, "x.log")
    assert starts.fails_jobs
    assert starts.document()["failedStarts"]["inARow"] == 3
    starts.end()
    assert (starts.in_a_row, starts.seconds_to_next, starts.fails_jobs, starts.document()) == (0, 0, False, {})


def test_jobs_fail_only_while_no_start_is_due_and_several_have_failed() -> None:
    bench = Bench(starts_workers=True, restart_delay_seconds=1)
    waiting = bench.job()
    starts = bench.endpoint.failed_starts
    for number in range(1, 4):
        assert not waiting.is_final
        starts.add(2, "x.log")
        assert starts.fails_jobs is (number == 3)
        bench.endpoint.housekeep()
    assert waiting.error is not None
    assert "the last 3 workers ended before taking a job, with exit code 2; x.log says why" in waiting.error
    bench.clock.pass_(60)
    later = bench.job()
    bench.endpoint.housekeep()
    assert not later.is_final  # the next start is due, and may go well


def test_a_worker_that_runs_keeps_the_jobs_although_others_die() -> None:
    bench = Bench(starts_workers=True)
    bench.registry.start("w1")
    for _ in range(3):
        bench.endpoint.failed_starts.add(2, "x.log")
    waiting = bench.job()
    bench.endpoint.housekeep()
    assert not waiting.is_final  # w1 still starts
    bench.registry.mark_ready("w1")
    bench.endpoint.housekeep()
    assert bench.endpoint.failed_starts.in_a_row == 0


async def test_a_request_is_answered_with_the_reason_and_health_has_it(tmp_path: Path) -> None:
    settings = EndpointSettings(max_workers=1, restart_delay_seconds=0.01, longest_restart_delay_seconds=60)
    command = WorkerCommand(DIES.arguments, log_directory=tmp_path)
    async with Emulator(settings, command) as emulator, client_of(emulator) as client:
        answer = (await client.post("/runsync", json={"input": 1})).json()
        assert answer["status"] == "FAILED"
        assert "exit code 2" in answer["error"]
        (log,) = [path for path in tmp_path.glob("*.log") if path.name in answer["error"]]
        assert "MODEL_NAME: missing" in log.read_text()
        health = (await client.get("/health")).json()
        assert health["failedStarts"]["exitCode"] == 2
        assert health["workers"]["ready"] == 0


async def test_an_openai_client_gets_the_reason_as_an_error() -> None:
    settings = EndpointSettings(max_workers=1, restart_delay_seconds=0.01)
    async with (
        Emulator(settings, DIES) as emulator,
        openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="any", max_retries=0) as client,
    ):
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError, match="No worker starts"):
                await client.chat.completions.create(model="m", messages=[], stream=stream)


async def test_workers_that_the_emulator_kills_are_no_failed_starts() -> None:
    async with Emulator(
        EndpointSettings(max_workers=1, min_workers=1, restart_delay_seconds=0), ECHO_WORKER
    ) as emulator:
        assert emulator.fleet is not None
        for number in range(1, 4):
            await until(lambda number=number: len(emulator.workers) == number)  # type: ignore[misc]
            worker = list(emulator.workers.values())[-1]
            await until(lambda worker=worker: worker.id in emulator.fleet.running)  # type: ignore[misc]
            emulator.fleet.kill(worker.id)
        await until(lambda: len(emulator.workers) == 4)
        assert emulator.endpoint.failed_starts.in_a_row == 0
