"""Makes the parts of the gateway from its settings, in the order in which they need one another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from vllm_service.api.dependencies import Dependencies
from vllm_service.autoscaling.bill_schedule import BillSchedule
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.autoscaling.lives_keeper import KeeperSettings, LivesKeeper
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.roles import Role
from vllm_service.domain.status import (
    BookingState,
    BreakersState,
    CacheState,
    KeysState,
    LedgerState,
    PoolsState,
    QuotaState,
    ServerState,
    SpentState,
    Statuses,
    WorkerSlotState,
    WorkersState,
)
from vllm_service.gateway.config_snapshot import ConfigSnapshot, CurrentConfig
from vllm_service.gateway.gateway import Gateway
from vllm_service.gateway.keep_alive import KeepAlive
from vllm_service.http.addresses import AddressLimits, ClientAddresses
from vllm_service.http.fair_queue import QueueBounds
from vllm_service.http.head_check import HeadCheck, Paths
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.pool import ConnectionPool
from vllm_service.http.server import HttpServer
from vllm_service.observability.access_log import log_request
from vllm_service.observability.measurements import Measurements
from vllm_service.observability.tracing import require_exporter
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.report import BreakerReport
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import DeadlineSettings, RetrySettings
from vllm_service.routing.worker_pins import WorkerPins
from vllm_service.runpod.control import ControlHttp
from vllm_service.runpod.endpoint import RunPodSettings
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.server.dispatch import (
    PATHS,
    Dispatcher,
    LoadedApplication,
    fastapi_application,
    metrics_application,
)
from vllm_service.server.supervisor import WorkerSlot
from vllm_service.settings import ServiceSettings
from vllm_service.storage.open import Storage, open_storage
from vllm_service.storage.protocol import Keys
from vllm_service.storage.quotas.memory import LEASE_SECONDS
from vllm_service.storage.quotas.redis import WhenRedisIsAway
from vllm_service.storage.responses.memory import ResponseBounds

if TYPE_CHECKING:
    from vllm_service.observability.opentelemetry import Tracing

#: Every caller's key when keys are not required; the service then binds to loopback only.
LOCAL_KEY = ApiKey("local", "local", Tier.ENTERPRISE, OrganisationLimits(None, None, None, None, None), role=Role.ADMIN)


@dataclass(frozen=True)
class Parts:
    """The parts of one gateway process, besides its storage."""

    config: CurrentConfig
    upstream: ConnectionPool
    policy: ResiliencePolicy
    controller: EndpointController
    #: None where worker seconds are not to be booked.
    lives_keeper: LivesKeeper | None
    #: None where worker seconds are not to be booked.
    bill_schedule: BillSchedule | None
    gateway: Gateway
    dispatcher: Dispatcher
    server: HttpServer
    #: The status of each part that has one, for health, performance and metrics.
    statuses: Statuses
    tracing: Tracing | None = None
    #: Listens on METRICS_PORT; None without one.
    metrics_server: HttpServer | None = None


def build(
    settings: ServiceSettings, storage: Storage, snapshot: ConfigSnapshot, slot: WorkerSlot | None = None
) -> Parts:
    """Returns the parts, connected but not started. Must be called in the event loop that runs them.

    slot: given to one of several processes behind one port. Raises ConfigurationError where tracing is configured and
    not installed.
    """
    config = CurrentConfig(snapshot)
    statuses = Statuses()
    upstream = ConnectionPool(bounds=_queue_bounds(settings), is_shared=settings.require_keys)
    policy = policy_of(settings, storage)
    tracing = None if settings.otlp_endpoint is None else tracing_to(settings.otlp_endpoint)
    measurements = Measurements(config.catalog, settings.latency_target_seconds)
    limits = RateLimits()
    keeper, bills = _booking(settings, storage, config, ControlHttp(upstream), limits)
    controller = _controller(settings, storage, upstream, keeper, limits, pins=snapshot.pins)
    keys = storage.keys if settings.require_keys else None
    gateway = Gateway(
        config=config,
        upstream=upstream,
        quotas=storage.quotas,
        recorders=_recorders(settings, storage, measurements),
        responses=storage.responses if settings.response_cache else None,
        policy=policy,
        record_loss=storage.ledger.record,
        tracer=tracing,
        max_body_bytes=settings.max_body_bytes,
        keep_alive=KeepAlive(settings.stream_keep_alive_seconds),
        in_flight=storage.ledger.in_flight,
    )
    dependencies = _dependencies(settings, config, measurements, statuses, keys)
    dispatcher = Dispatcher(gateway, partial(fastapi_application, dependencies))
    server = HttpServer(dispatcher, connection_limits(settings), head_check(settings, keys))
    _register(
        statuses,
        settings=settings,
        storage=storage,
        slot=slot,
        policy=policy,
        controller=controller,
        keeper=keeper,
        server=server,
        upstream=upstream,
    )
    metrics_server = None if settings.metrics_port is None else _metrics_server(settings, dependencies)
    return Parts(
        *(config, upstream, policy, controller, keeper, bills, gateway, dispatcher, server),
        *(statuses, tracing, metrics_server),
    )


def _metrics_server(settings: ServiceSettings, dependencies: Dependencies) -> HttpServer:
    """Returns the server of METRICS_PORT. Scrapers are few, and no path there takes a large body."""
    limits = replace(connection_limits(settings), connections=64, buffered_bytes=8 * 2**20)
    is_local = settings.metrics_bind_to_loopback
    check = HeadCheck(asyncio.get_running_loop().time, paths=Paths(operations=()), is_local=is_local)
    return HttpServer(LoadedApplication(partial(metrics_application, dependencies)), limits, check)


def _dependencies(
    settings: ServiceSettings, config: CurrentConfig, measurements: Measurements, statuses: Statuses, keys: Keys | None
) -> Dependencies:
    return Dependencies(
        config.catalog,
        measurements,
        statuses,
        keys,
        serves_metrics=settings.metrics,
        metrics_need_key=settings.metrics_need_key,
    )


def _register(
    statuses: Statuses,
    *,
    settings: ServiceSettings,
    storage: Storage,
    slot: WorkerSlot | None,
    policy: ResiliencePolicy,
    controller: EndpointController,
    keeper: LivesKeeper | None,
    server: HttpServer,
    upstream: ConnectionPool,
) -> None:
    statuses.register(ServerState, server.status)
    statuses.register(BreakersState, BreakerReport(policy.breakers).status)
    statuses.register(WorkersState, controller.status)
    statuses.register(PoolsState, upstream.status)
    statuses.register(LedgerState, storage.ledger.status)
    statuses.register(SpentState, storage.spend.status)
    statuses.register(QuotaState, storage.quotas.status)
    if settings.require_keys:
        statuses.register(KeysState, storage.keys.status)
    if keeper is not None:
        statuses.register(BookingState, keeper.status)
    if settings.response_cache:
        statuses.register(CacheState, storage.responses.status)
    if slot is not None:
        statuses.register(WorkerSlotState, slot.status)


def storage_of(settings: ServiceSettings) -> AbstractAsyncContextManager[Storage]:
    """Returns the storage that the settings name, to be opened. Entering it raises StorageUnavailable."""
    return open_storage(
        settings.database_url,
        settings.redis_url,
        settings.data_dir,
        pepper=settings.key_pepper.encode(),
        address_limit=settings.requests_per_second_per_ip,
        # A reservation must outlive the longest request, or its share of the limits would be given out twice.
        lease_seconds=max(LEASE_SECONDS, 1.5 * settings.request_timeout_seconds),
        when_redis_is_away=WhenRedisIsAway(settings.when_redis_is_away),
        processes=settings.replicas * settings.workers,
        retention_days=settings.ledger_retention_days,
        response_bounds=ResponseBounds(
            settings.response_cache_max_bytes, ttl_seconds=settings.response_cache_ttl_seconds
        ),
    )


def policy_of(settings: ServiceSettings, storage: Storage) -> ResiliencePolicy:
    """Returns the policy by the settings: breakers (shared through the storage), retries, deadlines, hedging."""
    seconds = settings.request_timeout_seconds
    open_seconds = settings.breaker_open_seconds
    hedges = HedgeSettings(percent=settings.hedge_percent, delay_seconds=settings.hedge_delay_seconds)
    return ResiliencePolicy.of(
        BreakerSettings(
            consecutive_failures=settings.breaker_failures,
            open_seconds=open_seconds,
            longest_open_seconds=max(300.0, open_seconds),  # the longest may not be less than the first
            by_organisation=settings.require_keys,  # without keys all requests are of one caller
        ),
        storage.breakers,
        RetrySettings(attempts=settings.attempts, attempts_per_offer=settings.attempts_per_place),
        DeadlineSettings(default_seconds=seconds, longest_seconds=seconds),
        Hedging(hedges, is_on=settings.hedge),
    )


def connection_limits(settings: ServiceSettings) -> ConnectionLimits:
    """Returns the limits of callers' connections by the settings."""
    return ConnectionLimits(
        head_bytes=settings.max_header_bytes,
        body_bytes=settings.max_body_bytes,
        head_seconds=settings.header_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
        stalled_write_seconds=settings.write_timeout_seconds,
        connections=settings.max_connections,
        address_connections=settings.max_connections_per_address,
        buffered_bytes=settings.max_buffered_bytes,
    )


def head_check(settings: ServiceSettings, keys: Keys | None) -> HeadCheck:
    """Returns what decides at the end of each request's head. keys: None lets everyone in."""
    return HeadCheck(
        asyncio.get_running_loop().time,
        keys=keys,
        anonymous=LOCAL_KEY,
        addresses=ClientAddresses(settings.trusted_proxies),
        limits=AddressLimits(settings.requests_per_second_per_ip, settings.wrong_keys_per_minute_per_ip),
        paths=PATHS,
    )


def _queue_bounds(settings: ServiceSettings) -> QueueBounds:
    return QueueBounds(settings.waiting_per_organisation, settings.waiting_requests)


def tracing_to(endpoint: str) -> Tracing:
    """Returns what exports spans. Imports it only here, since the import is slow and most gateways do not trace.

    Raises ConfigurationError where the extra is not installed.
    """
    require_exporter()
    from vllm_service.observability.opentelemetry import Tracing  # noqa: PLC0415

    return Tracing.to(endpoint)


def _booking(
    settings: ServiceSettings, storage: Storage, config: CurrentConfig, send: ControlHttp, limits: RateLimits
) -> tuple[LivesKeeper | None, BillSchedule | None]:
    """Returns what books workers' seconds, and what has their bills; None for both where it is switched off."""
    if not settings.book_worker_seconds:
        return None, None
    # A request may wait for its connection and its caller beside its own time, and its row for its batch.
    final_seconds = settings.request_timeout_seconds + settings.body_timeout_seconds + 10.0
    keeper = LivesKeeper(*storage.lives, config.catalog, KeeperSettings(final_seconds=final_seconds))
    days, lease = storage.bills
    return keeper, BillSchedule(config.catalog, send, days, storage.lives.store, lease, limits=limits)


def _controller(
    settings: ServiceSettings,
    storage: Storage,
    upstream: ConnectionPool,
    keeper: LivesKeeper | None,
    rest_limits: RateLimits,
    *,
    pins: WorkerPins,
) -> EndpointController:
    return EndpointController(
        ControlHttp(upstream),
        storage.wakes if settings.wake_endpoints else None,
        RunPodSettings(health_interval_seconds=settings.endpoint_health_seconds),
        targets=storage.targets,
        requests=upstream,
        rest_limits=rest_limits,
        replicas=settings.replicas * settings.workers,
        lives=keeper,
        pins=pins,
    )


def _recorders(
    settings: ServiceSettings, storage: Storage, measurements: Measurements
) -> list[Callable[[RequestRecord], None]]:
    """Returns the functions that take the row of each ended request; the ledger's is the first."""
    recorders: list[Callable[[RequestRecord], None]] = [storage.ledger.record, measurements.record]
    return [*recorders, log_request] if settings.access_log else recorders
