"""Why no worker is ready yet, by the states of the workers, and what to do about each."""

from __future__ import annotations

import pytest

from vllm_service.deployment.situation import ADVICE, Situation, counted, situation_of
from vllm_service.runpod.workers import EndpointWorkers, SeenWorker, WorkerStatus

RUNNING, IDLE = WorkerStatus.RUNNING, WorkerStatus.IDLE
INITIALIZING, THROTTLED = WorkerStatus.INITIALIZING, WorkerStatus.THROTTLED
UNHEALTHY, UNKNOWN = WorkerStatus.UNHEALTHY, WorkerStatus.UNKNOWN


def workers(*states: WorkerStatus) -> EndpointWorkers:
    return EndpointWorkers(tuple(SeenWorker(f"w{number}", state) for number, state in enumerate(states)))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), Situation.NO_WORKER),
        ((IDLE,), Situation.READY),
        ((THROTTLED, UNHEALTHY, RUNNING), Situation.READY),
        ((THROTTLED, INITIALIZING), Situation.INITIALIZING),
        ((THROTTLED, UNHEALTHY), Situation.UNHEALTHY),
        ((UNKNOWN, THROTTLED), Situation.THROTTLED),
        ((UNKNOWN,), Situation.UNKNOWN),
    ],
)
def test_the_best_worker_decides(states: tuple[WorkerStatus, ...], expected: Situation) -> None:
    assert situation_of(workers(*states)) is expected


def test_a_ready_worker_of_an_older_configuration_is_ready() -> None:
    stale = SeenWorker("w1", IDLE, is_stale=True)
    assert situation_of(EndpointWorkers((stale,))) is Situation.READY


def test_workers_that_cannot_be_seen_are_unknown() -> None:
    assert situation_of(None) is Situation.UNKNOWN


def test_each_situation_has_its_advice() -> None:
    assert set(ADVICE) == set(Situation)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, "workers unknown"),
        (workers(), "no worker"),
        (workers(IDLE), "1 worker: 1 idle"),
        (workers(RUNNING, THROTTLED, RUNNING), "3 workers: 2 running, 1 throttled"),
    ],
)
def test_workers_are_counted_in_words(found: EndpointWorkers | None, expected: str) -> None:
    assert counted(found) == expected
