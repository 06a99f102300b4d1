"""How many workers: pure decisions, and the states that they look at."""

from __future__ import annotations

import math

import pytest

from runpod_emulator.endpoint.registry import State
from runpod_emulator.errors import NotFound
from runpod_emulator.jobs.store import Load
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.workers.scaling import ScalingInput, desired_workers
from tests.runpod_emulator.support import Bench

QUEUE_DELAY = EndpointSettings(scaling="queue_delay", max_workers=3)
REQUEST_COUNT = EndpointSettings(scaling="request_count", requests_per_worker=4, max_workers=3)


@pytest.mark.parametrize(
    ("queued", "wait", "workers", "last_start", "wanted"),
    [
        (0, 0.0, 0, math.inf, 0),
        (1, 0.0, 0, math.inf, 1),
        (9, 3.9, 1, 9.0, 1),
        (9, 4.0, 1, 9.0, 2),
        (9, 9.0, 2, 3.9, 2),
        (9, 99.0, 3, 99.0, 3),
        (0, 0.0, 2, 99.0, 2),
    ],
)
def test_queue_delay_adds_one_worker_per_delay(
    queued: int, wait: float, workers: int, last_start: float, wanted: int
) -> None:
    assert desired_workers(QUEUE_DELAY, ScalingInput(Load(queued, 0, wait), workers, last_start)) == wanted


@pytest.mark.parametrize(("queued", "running", "wanted"), [(0, 0, 0), (1, 0, 1), (3, 1, 1), (4, 1, 2), (99, 9, 3)])
def test_request_count_is_the_number_of_requests_over_the_scaler_rounded_up(
    queued: int, running: int, wanted: int
) -> None:
    assert desired_workers(REQUEST_COUNT, ScalingInput(Load(queued, running, 0), 0, 0)) == wanted


def test_active_workers_are_there_without_any_job() -> None:
    settings = EndpointSettings(min_workers=2)
    assert desired_workers(settings, ScalingInput(Load(0, 0, 0), 0, math.inf)) == 2


def test_the_longest_idle_workers_leave_first_and_active_ones_stay() -> None:
    bench = Bench(min_workers=1, idle_timeout_seconds=5)
    for worker in ("old", "middle", "new"):
        bench.registry.mark_ready(worker)
        bench.clock.pass_(1)
    assert bench.registry.idle_too_long() == []
    bench.clock.pass_(5)
    assert [worker.id for worker in bench.registry.idle_too_long()] == ["old", "middle"]


def test_a_busy_worker_never_idles_out_and_counts_from_its_last_job() -> None:
    bench = Bench(idle_timeout_seconds=5)
    job = bench.job()
    bench.take("w1")
    bench.clock.pass_(60)
    assert bench.registry.idle_too_long() == []
    bench.store.finish(job.id, "w1", {"output": 1})
    bench.clock.pass_(4.9)
    assert bench.registry.idle_too_long() == []
    bench.clock.pass_(0.2)
    assert [worker.id for worker in bench.registry.idle_too_long()] == ["w1"]


def test_a_worker_whose_heartbeats_stop_is_unhealthy_and_its_jobs_wait_again() -> None:
    bench = Bench(heartbeat_timeout_seconds=30)
    job = bench.job()
    bench.registry.ping("w1")
    bench.take("w1")
    bench.clock.pass_(31)
    bench.endpoint.housekeep()
    assert bench.registry.workers["w1"].state is State.UNHEALTHY
    assert bench.registry.counts()["unhealthy"] == 1
    assert not bench.registry.mark_ready("w1").gets_jobs
    assert bench.take("w2") == [job]
    bench.registry.ping("w1")
    assert bench.registry.mark_ready("w1").gets_jobs


def test_a_worker_that_is_never_ready_is_unhealthy() -> None:
    bench = Bench(init_timeout_seconds=420)
    worker = bench.registry.start("w1")
    bench.clock.pass_(421)
    bench.endpoint.housekeep()
    assert worker.state is State.UNHEALTHY


def test_health_counts_workers_by_state() -> None:
    bench = Bench()
    bench.registry.start("starts")
    bench.registry.mark_ready("waits")
    bench.job()
    bench.take("runs")
    bench.endpoint.end_worker(bench.registry.start("gone"), 1)
    assert bench.registry.counts() == {
        "idle": 1,
        "initializing": 1,
        "ready": 2,
        "running": 1,
        "throttled": 0,
        "unhealthy": 0,
    }


@pytest.mark.parametrize(
    "wrong", [{"min_workers": 4}, {"ping_interval_ms": 10}, {"requests_per_worker": 0}, {"endpoint_id": "a/b"}]
)
def test_settings_that_cannot_be_are_refused_by_name(wrong: dict[str, object]) -> None:
    name = "workers" if "min_workers" in wrong else next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        EndpointSettings(**wrong)  # type: ignore[arg-type]


def test_an_external_worker_is_admitted_only_where_no_workers_are_started() -> None:
    with pytest.raises(NotFound, match="only the workers that it starts"):
        Bench(starts_workers=True).registry.mark_ready("external")
    assert Bench().registry.mark_ready("external").state is State.IDLE


def test_an_external_worker_that_comes_back_under_its_old_id_is_a_new_worker_on_the_bill() -> None:
    bench = Bench()
    for _ in range(2):
        worker = bench.registry.mark_ready("w1")
        bench.clock.pass_(2)
        bench.endpoint.end_worker(worker, 0)
        bench.registry.ping("w1")  # its ping process outlives it
        assert worker.state is State.STOPPED
    assert [line.billed_seconds for line in bench.registry.bill().lines] == [2, 2]
