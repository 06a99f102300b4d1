"""GET /performance and /performance/latency: computed from what was recorded, null before."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from tests.vllm_service.api.service import REQUEST, Clock, dependencies, served, statuses
from vllm_service.api.performance import grade
from vllm_service.domain.status import BreakersState, CacheState, Circuit, ProviderCircuit


def fetched(path: str, service: Any) -> Any:
    with served(service) as address:
        return httpx.get(f"{address}{path}").json()


def test_latency_is_told_by_percentiles_targets_and_windows() -> None:
    clock = Clock()
    service = dependencies(clock=clock)
    service.measurements.record(replace(REQUEST, total_ms=900.0))
    clock.seconds += 7200
    for milliseconds in range(1, 101):
        service.measurements.record(replace(REQUEST, total_ms=float(milliseconds), queue_ms=0.5, ttft_ms=None))
    latency = fetched("/v1/performance/latency", service)
    assert latency["current_average_ms"] == pytest.approx(50.5)
    assert (latency["target_latency_ms"], latency["target_met"], latency["performance_grade"]) == (500.0, True, "A")
    assert (latency["total_requests"], latency["total_tokens"]) == (101, 101 * 30)
    assert latency["historical_performance"] == {
        "last_hour_avg_ms": pytest.approx(50.5),
        "last_24h_avg_ms": pytest.approx(5950 / 101),
        "best_performance_ms": 1.0,
        "worst_performance_ms": 900.0,
    }
    assert latency["latency_breakdown"]["inference_ms"] == pytest.approx(50.0)
    assert latency["latency_breakdown"]["tokenization_ms"] is None
    assert latency["last_hour"]["latency"]["p95_ms"] == pytest.approx(95, rel=0.025)
    assert latency["last_hour"]["ttft"]["p50_ms"] is None
    metrics = fetched("/performance", service)["latency_metrics"]
    assert [metrics[name] for name in ("p50_ms", "p95_ms", "p99_ms")] == pytest.approx([50, 95, 99], rel=0.025)
    assert metrics["target_met_percentage"] == 100.0


def test_before_the_first_request_nothing_is_invented() -> None:
    performance = fetched("/performance", dependencies())
    assert performance["latency_metrics"] == {
        "target_ms": 500.0,
        **dict.fromkeys(("current_average_ms", "p50_ms", "p95_ms", "p99_ms", "target_met_percentage")),
    }
    assert performance["resource_utilization"]["cache_hit_rate"] is None
    assert performance["resource_utilization"]["gpu_utilization_percentage"] is None
    latency = fetched("/performance/latency", dependencies())
    assert (latency["target_met"], latency["performance_grade"]) == (None, None)


def test_cache_and_breakers_are_reported_where_there_are_any() -> None:
    service = dependencies(
        statuses(CacheState(hits=3, misses=1), BreakersState({"hosted": ProviderCircuit(Circuit.HALF_OPEN)}))
    )
    performance = fetched("/performance", service)
    assert performance["resource_utilization"]["cache_hit_rate"] == 0.75
    assert performance["resource_utilization"]["circuit_breaker_open"] is False
    assert performance["optimization_status"]["response_caching"] is True


@pytest.mark.parametrize(
    ("share", "letter"),
    [(1.0, "A"), (0.99, "A"), (0.95, "B"), (0.9, "C"), (0.75, "D"), (0.5, "F"), (0.0, "F"), (None, None)],
)
def test_a_grade_is_the_share_of_requests_within_the_target(share: float | None, letter: str | None) -> None:
    assert grade(share) == letter
