"""Cold starts out of lists of workers: from the start to the first sight of a warm worker."""

from __future__ import annotations

import pytest

from vllm_service.autoscaling.cold_starts import ColdStarts
from vllm_service.runpod.workers import EndpointWorkers, SeenWorker, WorkerStatus

SECOND = 10**6
BEGAN = 1_780_000_000 * SECOND


def workers(*seen: SeenWorker) -> EndpointWorkers:
    return EndpointWorkers(seen)


def worker(
    status: str, started: float | None = 0.0, uptime_seconds: int | None = None, worker_id: str = "w"
) -> SeenWorker:
    """A worker that started so many seconds after BEGAN."""
    started_at_us = None if started is None else BEGAN + round(started * SECOND)
    return SeenWorker(
        worker_id, WorkerStatus(status), started_at_us=started_at_us, uptime_seconds=uptime_seconds, gpu_count=1
    )


def measured(*looks: tuple[float, EndpointWorkers]) -> list[tuple[float, ...] | None]:
    """What each look, at so many seconds after BEGAN, measures."""
    starts = ColdStarts()
    return [starts.observe(seen, BEGAN + round(seconds * SECOND)) for seconds, seen in looks]


def test_a_start_ends_when_its_worker_is_first_seen_warm() -> None:
    looks = [
        *((0.0, workers()), (2.0, workers(worker("INITIALIZING", 1.0)))),
        *((20.0, workers(worker("IDLE", 1.0))), (22.0, workers(worker("RUNNING", 1.0)))),
    ]
    assert measured(*looks) == [(), (), (19.0,), ()]


def test_a_worker_that_was_never_seen_starting_counts_too() -> None:
    assert measured((0.0, workers()), (30.0, workers(worker("RUNNING", 6.0)))) == [(), (24.0,)]


def test_what_was_warm_before_the_first_look_or_during_a_long_gap_is_not_measured() -> None:
    assert measured((0.0, workers(worker("IDLE", -500.0)))) == [()]
    assert measured((0.0, workers()), (121.0, workers(worker("IDLE", 10.0)))) == [(), ()]
    assert measured((0.0, workers()), (-1.0, workers(worker("IDLE", -10.0)))) == [(), ()]


def test_a_worker_that_starts_again_under_its_id_is_measured_again() -> None:
    looks = [
        *((0.0, workers()), (10.0, workers(worker("IDLE", 2.0)))),
        *((12.0, workers()), (60.0, workers(worker("IDLE", 40.0)))),
        (90.0, workers(worker("IDLE", 75.0))),
    ]
    assert measured(*looks) == [(), (8.0,), (), (20.0,), (15.0,)]


@pytest.mark.parametrize(
    ("started", "uptime_seconds", "seconds"),
    [
        (10.0, None, (20.0,)),
        (10.0, 19, (20.0,)),
        (500.0, 19, (19.0,)),  # RunPod's clock is ahead of this machine's
        (-500.0, 19, (19.0,)),
        (None, 19, (19.0,)),
        (None, None, None),
        (500.0, None, ()),  # it has not started yet
        (-4000.0, None, ()),  # no start takes longer than an hour
        (-4000.0, 10**9, ()),
    ],
)
def test_clocks_that_disagree_are_not_mixed(
    started: float | None, uptime_seconds: int | None, seconds: tuple[float, ...] | None
) -> None:
    looks = ((0.0, workers()), (30.0, workers(worker("IDLE", started, uptime_seconds))))
    assert measured(*looks) == [(), seconds]


@pytest.mark.parametrize("status", ["INITIALIZING", "THROTTLED", "UNHEALTHY", "UNKNOWN"])
def test_no_other_status_ends_a_start(status: str) -> None:
    assert measured((0.0, workers()), (30.0, workers(worker(status)))) == [(), ()]


def test_one_start_without_a_time_leaves_all_of_this_look_unknown() -> None:
    seen = workers(worker("IDLE", 10.0, worker_id="a"), worker("IDLE", None, worker_id="b"))
    assert measured((0.0, workers()), (30.0, seen)) == [(), None]
