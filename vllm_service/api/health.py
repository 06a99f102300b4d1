"""GET /health for people and load balancers, /health/live and /health/ready for orchestrators.

All answer without a key. Then they name nothing of the deployment; /health has more for a key whose role may see it.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from vllm_service.api import schemas
from vllm_service.api.authentication import role_of
from vllm_service.api.dependencies import Dependencies
from vllm_service.api.health_report import (
    HealthStatus,
    available_providers,
    health_status,
    shown_address,
    storage_reasons,
    use_cases,
    worst_circuit,
)
from vllm_service.api.models import is_on_apple_silicon
from vllm_service.catalog.model import Catalog, PublicModel
from vllm_service.domain.roles import Permission, Role, may
from vllm_service.domain.status import BookingState, ProcessState, ProviderCircuit, WorkerState
from vllm_service.domain.timestamps import rfc3339
from vllm_service.observability.tally import Tally

GIGABYTE = 10**9
_UNWELL: dict[int | str, dict[str, Any]] = {
    500: {"model": schemas.Health, "description": "Unhealthy: no request can succeed"},
    503: {"model": schemas.Health, "description": "Initializing or degraded"},
}
_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": schemas.Probe, "description": "Starting, stopping or unhealthy"}
}


def health_router(dependencies: Dependencies) -> APIRouter:
    """Returns the router of the three probes."""
    router = APIRouter(tags=["health"])

    @router.get("/health", responses=_UNWELL)
    async def health(request: Request, response: Response) -> schemas.Health:
        """Returns 200 when healthy, 503 initializing or degraded, 500 unhealthy; the fields are always the same.

        Those that the key's role may not see are null or empty.
        """
        status = health_status(dependencies)
        response.status_code = status.http_status
        return _visible_report(dependencies, status, await role_of(dependencies.keys, request))

    @router.get("/health/live")
    async def live() -> schemas.Probe:
        """Returns 200 as long as the process answers."""
        return schemas.Probe(status="alive")

    @router.get("/health/ready", responses=_NOT_READY)
    async def ready(response: Response) -> schemas.Probe:
        """Returns 200 if requests should be sent here: also when degraded, since some are served.

        It reads what the parts know by now, and waits for none of them.
        """
        status = health_status(dependencies)
        if status.name in ("healthy", "degraded") and not dependencies.server.is_stopping:
            return schemas.Probe(status="ready", reasons=storage_reasons(dependencies.statuses))
        response.status_code = 503
        return schemas.Probe(status="not_ready", reasons=storage_reasons(dependencies.statuses))

    return router


def _visible_report(dependencies: Dependencies, status: HealthStatus, role: Role | None) -> schemas.Health:
    """Returns what a key of this role may see; None: a stranger. What is not listed here is not for strangers."""
    if may(role, Permission.READ_FIGURES):
        return _report(dependencies, status, with_addresses=may(role, Permission.READ_ADDRESSES))
    return schemas.Health.model_validate(
        {
            "status": status.name,
            "warmup_completed": dependencies.server.is_listening,
            "last_health_check": rfc3339(dependencies.clock()),
        }
    )


def _report(dependencies: Dependencies, status: HealthStatus, *, with_addresses: bool) -> schemas.Health:
    catalog = dependencies.catalog()
    measurements = dependencies.measurements
    breakers = dependencies.breakers
    hour = measurements.last_hour()
    models = list(catalog.models.values())
    return schemas.Health.model_validate(
        {
            "status": status.name,
            "reasons": list(status.reasons),
            "model_loaded": _is_loaded(dependencies),
            "workers": {name: _workers(state) for name, state in dependencies.workers.items()},
            "scaled_down": {
                name: worker.scaled_down
                for name, worker in dependencies.workers.items()
                if worker.scaled_down is not None
            },
            "worker_spend": _spend(dependencies.statuses.of(BookingState)),
            "gpu_available": None,  # the gateway needs no GPU, and cannot see those of its workers
            "apple_silicon_optimized": any(is_on_apple_silicon(catalog, model) for model in models),
            "warmup_completed": dependencies.server.is_listening,
            "memory_usage": _memory(dependencies.process.status()),
            "uptime_seconds": measurements.uptime_seconds,
            "performance_target_met": is_target_met(hour, measurements.target_ms()),
            "circuit_breaker_status": worst_circuit(breakers),
            "circuit_breakers": {name: _breaker(breaker) for name, breaker in breakers.items()},
            "last_health_check": rfc3339(dependencies.clock()),
            "backends": {
                use_case: _addresses(catalog, models) if with_addresses else []
                for use_case, models in use_cases(catalog).items()
            },
            "model_endpoints": {
                use_case: _endpoint(dependencies, models, with_address=with_addresses)
                for use_case, models in use_cases(catalog).items()
            },
        }
    )


def is_target_met(hour: Tally, target_ms: float | None) -> bool | None:
    """Returns true if the last hour's mean latency is within the target; None without a target or requests."""
    mean_ms = hour.latency.mean_ms
    return None if target_ms is None or mean_ms is None else mean_ms <= target_ms


def _is_loaded(dependencies: Dependencies) -> bool | None:
    """Returns true if an own worker runs, and so has its model loaded; None while no endpoint has reported workers."""
    running = [worker.running for worker in dependencies.workers.values()]
    idle = [worker.idle for worker in dependencies.workers.values()]
    known = [count for count in (*running, *idle) if count is not None]
    return any(known) if known else None


def _workers(state: WorkerState) -> schemas.EndpointWorkers:
    return schemas.EndpointWorkers(
        running=state.running,
        idle=state.idle,
        initializing=state.initializing,
        throttled=state.throttled,
        unhealthy=state.unhealthy,
        leaving=state.leaving,
        by_gpu_type=None if state.by_gpu_type is None else dict(state.by_gpu_type),
        jobs_queued=state.jobs_queued,
        jobs_in_progress=state.jobs_in_progress,
    )


def _spend(state: BookingState | None) -> schemas.WorkerSpend | None:
    if state is None:
        return None
    return schemas.WorkerSpend(
        is_booking=state.is_booking,
        is_failing=state.is_failing,
        open_lives=state.open_lives,
        waiting=state.waiting,
        lost=state.dropped,
        booked_lag_seconds=state.booked_lag_seconds,
    )


def _memory(process: ProcessState) -> schemas.MemoryUsage:
    cached = process.machine_cached_bytes
    return schemas.MemoryUsage(
        allocated_gb=process.memory_bytes / GIGABYTE,
        cached_gb=None if cached is None else cached / GIGABYTE,
        total_available_gb=process.machine_available_bytes / GIGABYTE,
        utilization_percentage=process.machine_used_percentage,
    )


def _breaker(breaker: ProviderCircuit) -> schemas.CircuitBreaker:
    return schemas.CircuitBreaker(
        status=breaker.circuit.value,
        failure_count=breaker.failures,
        estimated_recovery_time=None if breaker.retry_at is None else rfc3339(breaker.retry_at),
        organisations=breaker.organisations,
    )


def _addresses(catalog: Catalog, models: list[PublicModel]) -> list[str]:
    urls = (catalog.providers[offer.provider].base_url for model in models for offer in model.offers)
    return list(dict.fromkeys(shown_address(url) for url in urls))


def _endpoint(dependencies: Dependencies, models: list[PublicModel], *, with_address: bool) -> schemas.ModelEndpoint:
    providers = dependencies.catalog().providers
    breakers = dependencies.breakers
    usable = [name for model in models for name in available_providers(model, breakers, dependencies.switched_off)]
    mean_ms = dependencies.measurements.numbers_of_last_hour(models[0].name).mean_latency_ms
    return schemas.ModelEndpoint(
        status="available" if usable else "unavailable",
        endpoint=shown_address(providers[usable[0]].base_url) if usable and with_address else None,
        response_time=None if mean_ms is None else mean_ms / 1000,
    )
