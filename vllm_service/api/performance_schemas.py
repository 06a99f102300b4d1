"""The answers of /performance and /performance/latency. Null is not measured, or out of a gateway's sight."""

from __future__ import annotations

from typing import Literal

from vllm_service.api.schemas import Answer


class LatencyMetrics(Answer):
    """Latency of the last hour's completed requests, in milliseconds."""

    target_ms: float | None
    current_average_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    target_met_percentage: float | None


class ThroughputMetrics(Answer):
    """Totals since the start, rates over the last five minutes; peak: tokens per second of the best minute."""

    total_requests: int
    total_tokens_generated: int
    tokens_per_second: float
    requests_per_minute: float
    peak_throughput_achieved: float


class ResourceUtilization(Answer):
    """Resources of the gateway's process; a provider's GPU is out of its sight."""

    cpu_usage_percentage: float | None
    memory_usage_gb: float
    gpu_utilization_percentage: float | None
    cache_hit_rate: float | None
    circuit_breaker_open: bool | None


class OptimizationStatus(Answer):
    """The gateway's optimizations; those that only a provider could report are null."""

    apple_silicon_enabled: bool | None
    mps_acceleration: bool | None
    response_caching: bool
    batch_processing: bool | None
    quantization_enabled: bool | None


class Percentiles(Answer):
    """Percentiles in milliseconds, each within 2.5 % of the true value."""

    requests: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Spread(Answer):
    """Latency from a request's arrival to its end, and to the first token of a stream."""

    latency: Percentiles
    ttft: Percentiles


class Performance(Answer):
    """The whole gateway's performance."""

    latency_metrics: LatencyMetrics
    throughput_metrics: ThroughputMetrics
    resource_utilization: ResourceUtilization
    optimization_status: OptimizationStatus
    last_hour: Spread
    last_day: Spread


class LatencyBreakdown(Answer):
    """Mean milliseconds of the last hour. A gateway sees waiting, inference and the first token; the rest is null."""

    model_loading_ms: float | None = None
    tokenization_ms: float | None = None
    inference_ms: float | None
    detokenization_ms: float | None = None
    quality_check_ms: float | None = None
    response_formatting_ms: float | None = None
    queue_ms: float | None
    ttft_ms: float | None


class OptimizationsEnabled(Answer):
    """The features that are switched on."""

    apple_silicon: bool | None
    warmup_completed: bool
    cache_enabled: bool
    circuit_breaker: bool


class HistoricalPerformance(Answer):
    """Means over two windows; best and worst since the start."""

    last_hour_avg_ms: float | None
    last_24h_avg_ms: float | None
    best_performance_ms: float | None
    worst_performance_ms: float | None


class Latency(Answer):
    """Latency in detail. performance_grade: by the share of requests within the target."""

    target_latency_ms: float | None
    current_average_ms: float | None
    target_met: bool | None
    performance_grade: Literal["A", "B", "C", "D", "F"] | None
    total_requests: int
    total_tokens: int
    throughput_tokens_per_second: float
    latency_breakdown: LatencyBreakdown
    optimizations_enabled: OptimizationsEnabled
    historical_performance: HistoricalPerformance
    last_hour: Spread
    last_day: Spread
