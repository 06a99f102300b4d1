"""The answers of the operations endpoints as pydantic models. Null is unknown.

The docstrings of models and routes are descriptions in the published OpenAPI document.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_EXACT = ConfigDict(extra="forbid", protected_namespaces=())


class Answer(BaseModel):
    """The base of all answers. A field that is not declared is refused, so the published schema is complete."""

    model_config = _EXACT


class ErrorBody(Answer):
    """An error: what is wrong, where, and what to do; `code` is for programs.

    `request_id` is null for a request that was refused before it had been read.
    """

    type: str
    code: str
    message: str
    param: str | None
    details: dict[str, Any]
    request_id: str | None


class ErrorAnswer(Answer):
    """The form of every error of the gateway."""

    error: ErrorBody


class Prices(Answer):
    """Prices in US dollars per million tokens; null is unknown, or billed by the second."""

    input: float | None
    cached_input: float | None
    output: float | None


class ModelPerformance(Answer):
    """A model's speed, measured over the last hour; the context length is configured."""

    avg_latency_ms: float | None
    tokens_per_second: float | None
    max_context_length: int | None
    apple_silicon_optimized: bool | None


class QualityMetrics(Answer):
    """Scores of answers' quality; null while they are not measured."""

    bleu_score_vs_openai: float | None = None
    engagement_prediction_accuracy: float | None = None
    content_coherence: float | None = None


class ModelOffer(Answer):
    """A provider's model that can answer, with its price; offers come in the configured order."""

    provider: str
    model: str
    usd_per_million_tokens: Prices


class Model(Answer):
    """A model that requests can name. cost_per_1k_tokens: US dollars for 500 prompt and 500 generated tokens.

    cost_basis: what that rests on: booked is a configured price by the token, expected the router's own count of a
    worker's seconds, without starts and idle time.
    Prices, offers and measurements are for the role viewer; others get null, and no offers. An answer's cost_info has
    what a request cost.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    cost_per_1k_tokens: float | None
    cost_basis: Literal["expected", "booked"] | None
    openai_equivalent: str | None
    performance: ModelPerformance
    quality_metrics: QualityMetrics
    description: str | None
    usd_per_million_tokens: Prices
    providers: list[str]
    offers: list[ModelOffer]
    aliases: list[str]
    capabilities: list[str]


class ModelList(Answer):
    """The list of all models."""

    object: Literal["list"] = "list"
    data: list[Model]


class MemoryUsage(Answer):
    """Memory in GB of 10^9 bytes. allocated: this process. cached, total_available, utilization: its machine."""

    allocated_gb: float
    cached_gb: float | None
    total_available_gb: float
    utilization_percentage: float


class ModelEndpoint(Answer):
    """A use case's state.

    endpoint: the address of the first provider that may be tried. response_time: mean seconds of the last hour.
    """

    status: Literal["available", "unavailable"]
    endpoint: str | None
    response_time: float | None


class CircuitBreaker(Answer):
    """A provider's circuit breaker, as it is for everyone; times are RFC 3339.

    organisations: how many organisations alone are kept away, since only their requests fail there.
    """

    status: Literal["closed", "half_open", "open"]
    failure_count: int | None
    estimated_recovery_time: str | None
    organisations: int


class EndpointWorkers(Answer):
    """The workers and jobs of a RunPod endpoint, by RunPod's states.

    throttled: wait for a GPU. leaving: warm ones of an older version, which RunPod replaces. by_gpu_type: those that
    run or start, by RunPod's id of the type; null where RunPod counts the workers and does not list them.
    """

    running: int | None
    idle: int | None
    initializing: int | None
    throttled: int | None
    unhealthy: int | None
    leaving: int | None
    by_gpu_type: dict[str, int] | None
    jobs_queued: int | None
    jobs_in_progress: int | None


class WorkerSpend(Answer):
    """The booking of worker seconds to requests, which one replica does at a time.

    open_lives and booked_lag_seconds (how old the youngest moment is that is booked) are null at the others. waiting:
    looks and lives that wait for the next round; lost: those that were dropped since the start.
    """

    is_booking: bool
    is_failing: bool
    open_lives: int | None
    waiting: int
    lost: int
    booked_lag_seconds: float | None


class Health(Answer):
    """The gateway's health.

    Everybody gets status, warmup_completed and last_health_check; the role viewer everything but addresses, which are
    in backends and model_endpoints and need the role operator. What a role may not see is null or empty.
    """

    status: Literal["healthy", "initializing", "degraded", "unhealthy"]
    reasons: list[str] = []
    model_loaded: bool | None = None
    workers: dict[str, EndpointWorkers] = {}
    #: Endpoints that RunPod has scaled down by itself: why, and the remedy.
    scaled_down: dict[str, str] = {}
    worker_spend: WorkerSpend | None = None
    gpu_available: bool | None = None
    apple_silicon_optimized: bool | None = None
    warmup_completed: bool
    memory_usage: MemoryUsage | None = None
    uptime_seconds: float | None = None
    performance_target_met: bool | None = None
    circuit_breaker_status: Literal["closed", "half_open", "open"] | None = None
    circuit_breakers: dict[str, CircuitBreaker] = {}
    last_health_check: str
    backends: dict[str, list[str]] = {}
    model_endpoints: dict[str, ModelEndpoint] = {}


class Probe(Answer):
    """The answer of a probe for orchestrators."""

    status: Literal["alive", "ready", "not_ready"]
    #: What the stores cannot do now; empty when they are well.
    reasons: list[str] = []
