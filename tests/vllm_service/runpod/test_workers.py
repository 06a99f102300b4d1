"""RunPod's list of an endpoint's workers, as the published schema has it and as a broken or hostile answer has it."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from vllm_service.runpod.workers import MOST_WORKERS, EndpointWorkers, SeenWorker, WorkerStatus, parse_workers

PUBLISHED = """{
  "endpointVersion": 4,
  "summary": {"running": 1, "idle": 1, "initializing": 0, "throttled": 0, "unhealthy": 0, "total": 2},
  "workers": [
    {"id": "8g3n5t6r", "status": "RUNNING", "isStale": false, "version": 4, "gpuCount": 1,
     "image": "runpod/pytorch:1.0.2", "uptimeSeconds": 3600, "gpuTypeId": "NVIDIA GeForce RTX 4090",
     "dataCenterId": "US-KS-2", "startedAt": "2026-06-01T12:05:00Z"},
    {"id": "placed-nowhere", "status": "THROTTLED", "isStale": false, "version": null, "gpuCount": 1,
     "image": null, "uptimeSeconds": null, "gpuTypeId": null, "dataCenterId": null, "startedAt": null}
  ]
}"""


def of(**fields: object) -> SeenWorker:
    """The one worker of an answer with these fields, an id added."""
    read = parse_workers({"workers": [{"id": "w", **fields}]})
    assert read is not None
    return read.workers[0]


def workers(*states: str) -> EndpointWorkers:
    """Workers in these states; a star behind one marks a stale worker."""
    return EndpointWorkers(
        tuple(
            SeenWorker(str(number), WorkerStatus(state.rstrip("*")), is_stale=state.endswith("*"))
            for number, state in enumerate(states)
        )
    )


def test_the_published_example_is_read_in_full() -> None:
    assert parse_workers(json.loads(PUBLISHED, parse_float=Decimal)) == EndpointWorkers(
        (
            SeenWorker(
                "8g3n5t6r",
                WorkerStatus.RUNNING,
                gpu_type="NVIDIA GeForce RTX 4090",
                gpu_count=1,
                data_center="US-KS-2",
                started_at_us=1_780_315_500_000_000,
                uptime_seconds=3600,
            ),
            SeenWorker("placed-nowhere", WorkerStatus.THROTTLED, gpu_count=1),
        ),
        4,
    )


@pytest.mark.parametrize(
    "document",
    [
        *(None, "[]", [], {}, {"error": "not found"}),
        *({"workers": None}, {"workers": {"id": "w"}}, {"workers": "RUNNING"}),
        *({"workers": [1, "w"]}, {"workers": [{"status": "RUNNING"}]}, {"workers": [{"id": ""}]}),
    ],
)
def test_what_is_no_list_of_workers_is_unknown_and_not_empty(document: object) -> None:
    assert parse_workers(document) is None


def test_no_workers_is_known() -> None:
    assert parse_workers({"workers": []}) == EndpointWorkers()


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        ("2026-06-01T12:05:00Z", 1_780_315_500_000_000),
        ("2026-06-01T12:05:00.25Z", 1_780_315_500_250_000),
        ("2026-06-01T12:05:00.123456789Z", 1_780_315_500_123_456),
        ("2026-06-01T14:05:00+02:00", 1_780_315_500_000_000),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("2026-06-01T12:05:00", None),
        ("yesterday", None),
        ("", None),
        ("2" * 10_000_000, None),
        (1_780_315_500, None),
        (None, None),
        ({}, None),
    ],
)
def test_starts_are_microseconds_since_1970(value: object, microseconds: int | None) -> None:
    assert of(startedAt=value).started_at_us == microseconds


@pytest.mark.parametrize(
    ("value", "count"),
    [(0, 0), (8, 8), (8.0, 8), (Decimal("8"), 8), (Decimal("8.0"), 8)]
    + [
        (value, None)
        for value in (-1, 1.5, Decimal("1.5"), True, "8", None, [8], 2**60, 10**400, float("nan"), float("inf"))
    ]
    + [(Decimal(text), None) for text in ("NaN", "sNaN", "Infinity", "-1", "1E+999999")],
)
def test_counts_are_whole_and_bounded(value: object, count: int | None) -> None:
    assert of(gpuCount=value).gpu_count == count
    assert of(uptimeSeconds=value).uptime_seconds == count
    read = parse_workers({"workers": [], "endpointVersion": value})
    assert read is not None
    assert read.endpoint_version == count


@pytest.mark.parametrize(
    ("value", "status"),
    [("RUNNING", WorkerStatus.RUNNING), ("idle", WorkerStatus.IDLE), ("UNHEALTHY", WorkerStatus.UNHEALTHY)]
    + [(value, WorkerStatus.UNKNOWN) for value in ("DRAINING", "UNKNOWN", "", None, 1, ["IDLE"])],
)
def test_a_status_that_is_not_published_is_unknown(value: object, status: WorkerStatus) -> None:
    assert of(status=value).status is status


@pytest.mark.parametrize("value", ["x" * 201, "two\nlines", "\x1b[2J", "", 7, None, ["w"]])
def test_a_text_that_could_not_be_shown_is_unknown(value: object) -> None:
    assert of(gpuTypeId=value, dataCenterId=value) == of()
    assert parse_workers({"workers": [{"id": value}]}) is None


def test_stale_is_only_what_says_so() -> None:
    assert [of(isStale=value).is_stale for value in (True, False, None, "true", 1)] == [True, *[False] * 4]


def test_the_same_worker_is_counted_once_and_an_endless_list_is_cut() -> None:
    rows: list[object] = [{"id": "w", "status": "IDLE"}, {"id": "w", "status": "RUNNING"}, {"status": "IDLE"}]
    read = parse_workers({"workers": rows})
    assert read is not None
    assert [(worker.id, worker.status) for worker in read.workers] == [("w", WorkerStatus.IDLE)]
    endless = parse_workers({"workers": [{"id": str(number), "status": "IDLE"} for number in range(50_000)]})
    assert endless is not None
    assert len(endless.workers) == MOST_WORKERS


NONE = {"running": 0, "idle": 0, "initializing": 0, "throttled": 0, "unhealthy": 0, "leaving": 0}


@pytest.mark.parametrize(
    ("seen", "counts"),
    [
        (workers(), {}),
        (workers("RUNNING", "IDLE", "IDLE", "INITIALIZING"), {"running": 1, "idle": 2, "initializing": 1}),
        (workers("THROTTLED", "UNHEALTHY", "UNKNOWN"), {"throttled": 1, "unhealthy": 1}),
        # An older version serves until the new one is warm; then it is leaving.
        (workers("IDLE*", "RUNNING*"), {"idle": 1, "running": 1}),
        (workers("IDLE*", "INITIALIZING"), {"idle": 1, "initializing": 1}),
        (workers("IDLE*", "RUNNING*", "IDLE"), {"idle": 1, "leaving": 2}),
        (workers("INITIALIZING*", "RUNNING"), {"running": 1, "initializing": 1}),
    ],
)
def test_workers_are_counted_under_the_names_of_health(seen: EndpointWorkers, counts: dict[str, int]) -> None:
    assert seen.health_counts() == {**NONE, **counts}
