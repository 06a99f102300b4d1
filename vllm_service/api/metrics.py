"""GET /metrics: the documented families in Prometheus' text format, read from the measurements at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vllm_service.api.authentication import required_role
from vllm_service.api.dependencies import Dependencies
from vllm_service.api.schemas import ErrorAnswer
from vllm_service.domain.roles import Permission
from vllm_service.domain.status import (
    CacheState,
    KeysState,
    LedgerState,
    LogState,
    LoopState,
    PoolsState,
    QualityState,
    QuotaState,
    SessionsState,
    SpentState,
    WorkerSlotState,
)
from vllm_service.observability.prometheus.family import Family, Snapshot
from vllm_service.observability.prometheus.part_families import PARTS
from vllm_service.observability.prometheus.request_families import REQUESTS
from vllm_service.observability.prometheus.spend_families import SPEND
from vllm_service.observability.tally import combined

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"},
    401: {"model": ErrorAnswer},
    403: {"model": ErrorAnswer},
}
FAMILIES: tuple[Family, ...] = (*REQUESTS, *SPEND, *PARTS)


class GatewayCollector(Collector):
    """Reads everything once per scrape, so that requests between scrapes pay nothing for it."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    def collect(self) -> Iterator[Metric]:
        """Returns all families in the order of docs/metrics.md."""
        snapshot = take_snapshot(self._dependencies)
        return (family.collect(snapshot) for family in FAMILIES)

    def describe(self) -> list[Metric]:
        """Returns nothing, so that registering reads no state before the first scrape."""
        return []


def metrics_router(dependencies: Dependencies) -> APIRouter:
    """Returns the router of /metrics. Whether it needs a key depends on the port and on METRICS_REQUIRE_KEY."""
    router = APIRouter(tags=["metrics"])
    registry = CollectorRegistry()
    registry.register(GatewayCollector(dependencies))
    needs_role = Depends(required_role(dependencies.keys, Permission.READ_FIGURES))
    needed = [needs_role] if dependencies.metrics_need_key else []

    @router.get("/metrics", response_class=Response, responses=_ANSWERS, dependencies=needed)
    async def metrics() -> Response:
        """Returns at least 47 families. Labels hold names of the catalog, never anything that a caller sent."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


def take_snapshot(dependencies: Dependencies) -> Snapshot:
    """Returns the present state of all parts."""
    of = dependencies.statuses.of
    measurements = dependencies.measurements
    catalog = dependencies.catalog()
    server = dependencies.server
    sessions = of(SessionsState)
    quality = of(QualityState)
    pools = of(PoolsState)
    models = measurements.by_model()
    names = sorted({model.name for model in catalog.models.values()})
    return Snapshot(
        catalog=catalog,
        everything=combined(models.values()),
        models=models,
        providers=measurements.by_provider(),
        rates=measurements.rates(),
        uptime_seconds=measurements.uptime_seconds,
        targets_ms={name: measurements.target_ms(name) for name in names},
        is_ready=server.is_listening,
        breakers=dependencies.breakers,
        workers=dependencies.workers,
        pools={} if pools is None else pools.by_provider,
        cache=of(CacheState),
        ledger=of(LedgerState),
        spent=of(SpentState),
        quotas=of(QuotaState),
        keys=of(KeysState),
        process=dependencies.process.status(),
        loop=of(LoopState),
        log=of(LogState),
        worker_slot=of(WorkerSlotState),
        in_flight=server.in_flight,
        connections=server.connections,
        buffered_bytes=server.buffered_bytes,
        refusals=server.refusals,
        quality_scores={} if quality is None else quality.by_model,
        active_sessions=None if sessions is None else sessions.active,
    )
