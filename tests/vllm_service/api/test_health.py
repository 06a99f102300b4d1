"""Health says what is known and why: 200 healthy, 503 initializing or degraded, 500 unhealthy."""

from __future__ import annotations

import httpx
import pytest

from tests.vllm_service.api.service import CATALOG, KEY, REQUEST, Clock, OneKey, dependencies, served, statuses
from vllm_service.catalog.model import Catalog
from vllm_service.domain.status import (
    BookingState,
    BreakersState,
    Circuit,
    KeysState,
    LedgerState,
    ProviderCircuit,
    QuotaState,
    ServerState,
    WorkersState,
    WorkerState,
)

OPEN = ProviderCircuit(Circuit.OPEN, failures=5, openings=1, retry_at=1_800_000_000.0)
CLOSED = ProviderCircuit(Circuit.CLOSED, failures=0, openings=0)

SCALED_DOWN = WorkersState({"runpod": WorkerState(workers_max=0, scaled_down="RunPod lets it have no worker: deploy")})


@pytest.mark.parametrize(
    ("known", "code", "status", "readiness"),
    [
        ([], 200, "healthy", 200),
        ([ServerState(is_listening=False)], 503, "initializing", 503),
        ([ServerState(is_listening=True, is_stopping=True)], 503, "degraded", 503),
        ([BreakersState({"hosted": OPEN, "runpod": CLOSED})], 200, "healthy", 200),
        ([BreakersState({"hosted": CLOSED, "runpod": OPEN})], 503, "degraded", 200),
        ([BreakersState({"hosted": OPEN, "runpod": OPEN})], 500, "unhealthy", 503),
        ([WorkersState({"runpod": WorkerState(workers_max=2, scaled_down="two")})], 200, "healthy", 200),
        ([WorkersState({"runpod": WorkerState(workers_max=0, scaled_down="none")})], 503, "degraded", 200),
        ([BreakersState({"hosted": OPEN}), SCALED_DOWN], 500, "unhealthy", 503),
        ([LedgerState(queued=9, is_failing=True)], 503, "degraded", 200),
        ([LedgerState(queued=9, dropped=1, refused=1, refusal="no column")], 503, "degraded", 200),
        ([QuotaState(is_failing=True)], 500, "unhealthy", 503),
        ([QuotaState(is_counting_alone=True)], 503, "degraded", 200),
        ([KeysState(is_failing=True)], 503, "degraded", 200),
        ([KeysState(is_failing=True, is_usable=False)], 500, "unhealthy", 503),
        ([LedgerState(queued=9, oldest_queued_seconds=4.0)], 200, "healthy", 200),
        ([LedgerState(queued=9, oldest_queued_seconds=6.0)], 503, "degraded", 200),
    ],
)
def test_the_status_follows_from_the_parts(known: list[object], code: int, status: str, readiness: int) -> None:
    with served(dependencies(statuses(*known))) as address:
        answer = httpx.get(f"{address}/health")
        assert (answer.status_code, answer.json()["status"]) == (code, status)
        assert bool(answer.json()["reasons"]) == (status != "healthy")
        ready = httpx.get(f"{address}/health/ready")
        assert ready.status_code == readiness
        from_stores = [part for part in known if isinstance(part, LedgerState | QuotaState | KeysState)]
        assert bool(ready.json()["reasons"]) == bool(from_stores and status != "healthy")
        assert httpx.get(f"{address}/health/live").status_code == 200


def test_without_models_nothing_can_be_served() -> None:
    with served(dependencies(catalog=lambda: Catalog({}, {}))) as address:
        answer = httpx.get(f"{address}/health")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["no model is configured"])


def test_the_document_holds_what_is_known_and_null_for_the_rest() -> None:
    service = dependencies(statuses(BreakersState({"hosted": OPEN})), clock=Clock(), started_at=0.0)
    with served(service) as address:
        before = httpx.get(f"{address}/v1/health").json()
        service.measurements.record(REQUEST)
        after = httpx.get(f"{address}/health").json()
    assert before["performance_target_met"] is None
    assert after["performance_target_met"] is True
    assert (before["model_loaded"], before["gpu_available"]) == (None, None)
    assert before["circuit_breaker_status"] == "open"
    assert before["circuit_breakers"]["hosted"] == {
        "status": "open",
        "failure_count": 5,
        "estimated_recovery_time": "2027-01-15T08:00:00.000Z",
        "organisations": 0,
    }
    assert before["memory_usage"]["allocated_gb"] > 0
    assert after["backends"]["text2sql"] == ["https://api.runpod.test/v2/abc123/openai/v1"]
    assert after["model_endpoints"]["chat"] == {
        "status": "available",
        "endpoint": "https://api.runpod.test/v2/abc123/openai/v1",
        "response_time": 0.1,
    }


@pytest.mark.parametrize(("workers", "is_loaded"), [(0, False), (2, True), (None, None)])
def test_a_model_is_loaded_where_a_worker_runs(workers: int | None, is_loaded: bool | None) -> None:
    with served(dependencies(statuses(WorkersState({"runpod": WorkerState(running=workers)})))) as address:
        assert httpx.get(f"{address}/health").json()["model_loaded"] is is_loaded


def test_workers_are_shown_by_state_and_gpu_type() -> None:
    state = WorkerState(running=1, idle=0, throttled=2, leaving=1, by_gpu_type={"NVIDIA A40": 1}, jobs_queued=3)
    with served(dependencies(statuses(WorkersState({"runpod": state})))) as address:
        assert httpx.get(f"{address}/health").json()["workers"] == {
            "runpod": {
                **{"running": 1, "idle": 0, "initializing": None, "throttled": 2, "unhealthy": None, "leaving": 1},
                **{"by_gpu_type": {"NVIDIA A40": 1}, "jobs_queued": 3, "jobs_in_progress": None},
            }
        }


def test_an_endpoint_that_runpod_has_scaled_down_is_named_with_what_to_do() -> None:
    with served(dependencies(statuses(SCALED_DOWN))) as address:
        report = httpx.get(f"{address}/health").json()
    assert report["scaled_down"] == {"runpod": "RunPod lets it have no worker: deploy"}
    assert "runpod is scaled down: RunPod lets it have no worker: deploy" in report["reasons"]
    assert {status["status"] for status in report["model_endpoints"].values()} == {"available", "unavailable"}


def test_the_booking_of_worker_seconds_is_shown_where_there_is_one() -> None:
    state = BookingState(is_booking=True, open_lives=2, waiting=3, booked_lag_seconds=610.0)
    with served(dependencies(statuses(state))) as address:
        assert httpx.get(f"{address}/health").json()["worker_spend"] == {
            **{"is_booking": True, "is_failing": False, "open_lives": 2, "waiting": 3},
            **{"lost": 0, "booked_lag_seconds": 610.0},
        }
    with served(dependencies(statuses())) as address:
        assert httpx.get(f"{address}/health").json()["worker_spend"] is None


def test_an_address_never_shows_its_credentials() -> None:
    with served(dependencies(keys=OneKey())) as address:
        known = httpx.get(f"{address}/health", headers={"Authorization": f"Bearer {KEY}"})
    assert known.json()["backends"]["text2sql"] == ["https://api.runpod.test/v2/abc123/openai/v1"]
    assert CATALOG.providers["runpod"].base_url not in known.text
