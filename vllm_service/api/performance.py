"""GET /performance and /performance/latency: measurements of the last hour, the last day and since the start."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends

from vllm_service.api import performance_schemas as schemas
from vllm_service.api.authentication import required_role
from vllm_service.api.dependencies import Dependencies
from vllm_service.api.health import GIGABYTE, is_target_met
from vllm_service.api.health_report import worst_circuit
from vllm_service.api.models import is_on_apple_silicon
from vllm_service.api.schemas import ErrorAnswer
from vllm_service.domain.roles import Permission
from vllm_service.domain.status import CacheState, Circuit
from vllm_service.observability.histogram import Distribution
from vllm_service.observability.tally import Tally

Grade = Literal["A", "B", "C", "D", "F"]
#: The least share of requests within their target for each grade; docs/operations.md has the same table.
_GRADES: tuple[tuple[float, Grade], ...] = ((0.99, "A"), (0.95, "B"), (0.90, "C"), (0.75, "D"), (0.0, "F"))


def performance_router(dependencies: Dependencies) -> APIRouter:
    """Returns the router of both views of the measurements, which are of all organisations together."""
    needed = Depends(required_role(dependencies.keys, Permission.READ_FIGURES))
    router = APIRouter(tags=["performance"], dependencies=[needed], responses={403: {"model": ErrorAnswer}})

    @router.get("/performance")
    async def performance() -> schemas.Performance:
        """Returns latency, throughput, resources and the features that are switched on."""
        measurements = dependencies.measurements
        hour = measurements.last_hour()
        return schemas.Performance(
            latency_metrics=_latency_metrics(hour, measurements.target_ms()),
            throughput_metrics=_throughput(dependencies),
            resource_utilization=_resources(dependencies),
            optimization_status=schemas.OptimizationStatus(
                apple_silicon_enabled=_has_apple_silicon(dependencies),
                mps_acceleration=None,
                response_caching=dependencies.statuses.of(CacheState) is not None,
                batch_processing=None,
                quantization_enabled=None,
            ),
            last_hour=_spread(hour),
            last_day=_spread(measurements.last_day()),
        )

    @router.get("/performance/latency")
    async def latency() -> schemas.Latency:
        """Returns latency by window and by phase, against the target."""
        return _latency(dependencies)

    return router


def grade(share: float | None) -> Grade | None:
    """Returns the grade for a share of requests within their target; None for None."""
    return None if share is None else next(letter for least, letter in _GRADES if share >= least)


def _latency(dependencies: Dependencies) -> schemas.Latency:
    measurements = dependencies.measurements
    hour = measurements.last_hour()
    day = measurements.last_day()
    always = measurements.all_time()
    target_ms = measurements.target_ms()
    return schemas.Latency(
        target_latency_ms=target_ms,
        current_average_ms=hour.latency.mean_ms,
        target_met=is_target_met(hour, target_ms),
        performance_grade=grade(hour.target_met_share),
        total_requests=always.requests,
        total_tokens=always.prompt_tokens + always.completion_tokens,
        throughput_tokens_per_second=measurements.rates().tokens_per_second,
        latency_breakdown=_breakdown(hour),
        optimizations_enabled=schemas.OptimizationsEnabled(
            apple_silicon=_has_apple_silicon(dependencies),
            warmup_completed=dependencies.server.is_listening,
            cache_enabled=dependencies.statuses.of(CacheState) is not None,
            circuit_breaker=bool(dependencies.breakers),
        ),
        historical_performance=schemas.HistoricalPerformance(
            last_hour_avg_ms=hour.latency.mean_ms,
            last_24h_avg_ms=day.latency.mean_ms,
            best_performance_ms=always.latency.least_ms,
            worst_performance_ms=always.latency.greatest_ms,
        ),
        last_hour=_spread(hour),
        last_day=_spread(day),
    )


def _latency_metrics(hour: Tally, target_ms: float | None) -> schemas.LatencyMetrics:
    share = hour.target_met_share
    return schemas.LatencyMetrics(
        target_ms=target_ms,
        current_average_ms=hour.latency.mean_ms,
        p50_ms=hour.latency.quantile_ms(0.5),
        p95_ms=hour.latency.quantile_ms(0.95),
        p99_ms=hour.latency.quantile_ms(0.99),
        target_met_percentage=None if share is None else share * 100,
    )


def _throughput(dependencies: Dependencies) -> schemas.ThroughputMetrics:
    always = dependencies.measurements.all_time()
    rates = dependencies.measurements.rates()
    return schemas.ThroughputMetrics(
        total_requests=always.requests,
        total_tokens_generated=always.completion_tokens,
        tokens_per_second=rates.tokens_per_second,
        requests_per_minute=rates.requests_per_minute,
        peak_throughput_achieved=rates.peak_tokens_per_second,
    )


def _resources(dependencies: Dependencies) -> schemas.ResourceUtilization:
    process = dependencies.process.status()
    cache = dependencies.statuses.of(CacheState)
    circuit = worst_circuit(dependencies.breakers)
    return schemas.ResourceUtilization(
        cpu_usage_percentage=process.cpu_percentage,
        memory_usage_gb=process.memory_bytes / GIGABYTE,
        gpu_utilization_percentage=None,
        cache_hit_rate=None if cache is None else cache.hit_rate,
        circuit_breaker_open=None if circuit is None else circuit is Circuit.OPEN,
    )


def _breakdown(hour: Tally) -> schemas.LatencyBreakdown:
    """Returns the mean times of a request's phases. Waiting that no provider reported is counted as inference."""
    count = hour.latency.count
    return schemas.LatencyBreakdown(
        inference_ms=(hour.latency.sum_ms - hour.queue_ms) / count if count else None,
        queue_ms=hour.queue_ms / hour.queued if hour.queued else None,
        ttft_ms=hour.ttft.mean_ms,
    )


def _spread(tally: Tally) -> schemas.Spread:
    return schemas.Spread(latency=_percentiles(tally.latency), ttft=_percentiles(tally.ttft))


def _percentiles(distribution: Distribution) -> schemas.Percentiles:
    return schemas.Percentiles(
        requests=distribution.count,
        mean_ms=distribution.mean_ms,
        p50_ms=distribution.quantile_ms(0.5),
        p95_ms=distribution.quantile_ms(0.95),
        p99_ms=distribution.quantile_ms(0.99),
    )


def _has_apple_silicon(dependencies: Dependencies) -> bool:
    catalog = dependencies.catalog()
    return any(is_on_apple_silicon(catalog, model) for model in catalog.models.values())
