"""The service's life in one process: opened, serving, its configuration replaced on SIGHUP, drained on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from functools import partial

from vllm_service.api.dependencies import Dependencies, ServiceState
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.catalog.model import Catalog
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.plan import Router
from vllm_service.domain.requests import RequestRecord
from vllm_service.errors import ServiceError
from vllm_service.gateway.config_snapshot import ConfigSnapshot
from vllm_service.gateway.gateway import Gateway
from vllm_service.http.pool import ConnectionPool
from vllm_service.http.request_reader import ClientAddresses
from vllm_service.http.server import HttpServer
from vllm_service.observability.access_log import log_request
from vllm_service.observability.measurements import Measurements
from vllm_service.resilience.breakers.report import BreakerReport
from vllm_service.routing.router import CostRouter
from vllm_service.runpod.control import ControlHttp
from vllm_service.runpod.endpoint import RunPodSettings
from vllm_service.server.dispatch import Dispatcher, rest_of
from vllm_service.server.process import announce, beside, bound, signals
from vllm_service.server.supervisor import WorkerSlot
from vllm_service.server.wiring import connection_limits, policy_of, tracing_to
from vllm_service.settings import ServiceSettings
from vllm_service.storage.open import Storage, open_storage
from vllm_service.storage.quotas.memory import LEASE_SECONDS
from vllm_service.storage.quotas.redis import WhenRedisIsAway
from vllm_service.storage.responses.memory import ResponseBounds

_log = logging.getLogger(__name__)
# Everybody on this machine, when keys are not required; the service then binds to loopback only.
LOCAL_KEY = ApiKey("local", "local", Tier.ENTERPRISE, OrganisationLimits(None, None, None, None))

LoadCatalog = Callable[[], Catalog]
MakeRouter = Callable[[Catalog], Router]


async def run_service(
    settings: ServiceSettings, load_catalog: LoadCatalog, make_router: MakeRouter, place: WorkerSlot | None = None
) -> int:
    """Serves until SIGTERM or SIGINT. 0 when every request ended within the grace, else 1. ServiceError at the start.

    load_catalog: reads the configuration; called again, in a thread, on SIGHUP. place: as one of several workers.
    """
    catalog = load_catalog()
    configured = ConfigSnapshot(catalog, make_router(catalog))
    bounds = ResponseBounds(settings.response_cache_max_bytes, ttl_seconds=settings.response_cache_ttl_seconds)
    async with open_storage(
        settings.database_url,
        settings.redis_url,
        settings.data_dir,
        pepper=settings.key_pepper.encode(),
        address_limit=settings.requests_per_second_per_ip,
        lease_seconds=max(LEASE_SECONDS, 1.5 * settings.request_timeout_seconds),
        when_redis_is_away=WhenRedisIsAway(settings.when_redis_is_away),
        retention_days=settings.ledger_retention_days,
        response_bounds=bounds,
    ) as storage:
        return await _Running(settings, configured, storage, place).serve(load_catalog, make_router)


class _Running:
    """The opened parts."""

    def __init__(
        self, settings: ServiceSettings, configured: ConfigSnapshot, storage: Storage, place: WorkerSlot | None
    ) -> None:
        self._settings = settings
        self._place = place
        self._upstream = ConnectionPool()
        self._stop = asyncio.Event()
        self._is_stale = False
        self._reloading: asyncio.Task[None] | None = None
        self._policy = policy = policy_of(settings, storage)
        self._keeper = EndpointController(
            ControlHttp(self._upstream),
            storage.wakes if settings.wake_endpoints else None,
            RunPodSettings(health_interval_seconds=settings.endpoint_health_seconds),
            targets=storage.targets,
        )
        self._tracing = None if settings.otlp_endpoint is None else tracing_to(settings.otlp_endpoint)
        measurements = Measurements(lambda: self._gateway.configured.catalog, settings.latency_target_seconds)
        keys = storage.keys if settings.require_keys else None
        self._gateway = Gateway(
            configured=configured,
            upstream=self._upstream,
            quotas=storage.quotas,
            recorders=_recorders(settings, storage, measurements),
            keys=keys,
            anonymous=LOCAL_KEY,
            addresses=ClientAddresses(settings.trusted_proxies),
            responses=storage.responses if settings.response_cache else None,
            policy=policy,
            record_loss=storage.ledger.record,
            tracer=self._tracing,
        )
        parts = Dependencies(
            lambda: self._gateway.configured.catalog,
            measurements,
            self._state(storage),
            keys,
            serves_metrics=settings.metrics,
            metrics_need_key=settings.metrics_require_key,
        )
        self._service = Dispatcher(self._gateway, lambda: rest_of(parts))
        self._server = HttpServer(self._service, connection_limits(settings))

    def _state(self, storage: Storage) -> ServiceState:
        """What /health and /metrics ask for when they are asked."""
        place = self._place
        return ServiceState(
            breakers=BreakerReport(self._policy.breakers).by_provider,
            workers=self._keeper.workers,
            cache=storage.cache_state if self._settings.response_cache else lambda: None,
            ledger=storage.ledger.state,
            quotas=storage.quota_state,
            is_ready=lambda: True,
            is_draining=self._stop.is_set,
            in_flight=lambda: self._server.in_flight,
            place=lambda: None if place is None else place.state(),
        )

    async def serve(self, load_catalog: LoadCatalog, make_router: MakeRouter) -> int:
        """See run_service."""
        settings = self._settings
        place = self._place
        listening = bound(settings.host, settings.port) if place is None else place.listening
        await self._server.listen(listening)
        if place is not None:
            asyncio.get_running_loop().add_reader(place.lifeline, self._stop.set)
            if settings.worker_port is not None:
                await self._server.listen(bound(settings.host, settings.worker_port + place.number))

        def reload() -> None:
            self._is_stale = True
            if self._reloading is None or self._reloading.done():
                self._reloading = asyncio.create_task(self._reload(load_catalog, make_router))

        with signals({signal.SIGTERM: self._stop.set, signal.SIGINT: self._stop.set, signal.SIGHUP: reload}):
            announce(listening) if place is None else place.ready()
            await self._service.load()
            _spare_the_collector()
            async with beside(self._policy.shared.run, partial(self._keeper.run, self._now_configured)):
                await self._stop.wait()
                has_ended = await self._server.stop(settings.grace_seconds)
            await self._keeper.leave()
        await self._upstream.close()
        if self._tracing is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._tracing.close)
        return 0 if has_ended else 1

    def _now_configured(self) -> tuple[Catalog, Router]:
        return self._gateway.configured.catalog, self._gateway.configured.router

    async def _reload(self, load_catalog: LoadCatalog, make_router: MakeRouter) -> None:
        """A configuration that cannot be used is said so, and the one in use stays. A signal meanwhile reads again."""
        while self._is_stale:
            self._is_stale = False
            try:
                catalog = await asyncio.get_running_loop().run_in_executor(None, load_catalog)
                router, before = make_router(catalog), self._gateway.configured.router
                if isinstance(router, CostRouter) and isinstance(before, CostRouter):
                    router.take_over(before)
                self._gateway.configured = ConfigSnapshot(catalog, router)
            except ServiceError as error:
                _log.error("the configuration stays as it was: %s", error.message)
            else:
                _log.info("the configuration has been read again")


def _recorders(
    settings: ServiceSettings, storage: Storage, measurements: Measurements
) -> list[Callable[[RequestRecord], None]]:
    """Who is told of each request that has ended."""
    recorders: list[Callable[[RequestRecord], None]] = [storage.ledger.record, measurements.record]
    return [*recorders, log_request] if settings.access_log else recorders


def _spare_the_collector() -> None:
    """What has been imported stays: the garbage collector need not walk it again and again under load.

    A request makes no cycles, so collections may be rare; what fails (an exception holds its frame) does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
