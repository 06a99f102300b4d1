"""Runs one process of the gateway: serves, reads the configuration again on SIGHUP, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from functools import partial

from vllm_service.catalog.model import Catalog
from vllm_service.domain.plan import Router
from vllm_service.domain.status import LogState, LoopState
from vllm_service.errors import ServiceError
from vllm_service.gateway.config_snapshot import ConfigSnapshot, CurrentConfig
from vllm_service.gateway.request_body import CacheSalts
from vllm_service.logs import LogWriter
from vllm_service.observability.loop_lag import LoopLag
from vllm_service.routing.router import CostRouter
from vllm_service.server.process import announce, background_work, bound_socket, signal_handlers
from vllm_service.server.supervisor import WorkerSlot
from vllm_service.server.wiring import Parts, build, storage_of
from vllm_service.settings import ServiceSettings

_log = logging.getLogger(__name__)

LoadCatalog = Callable[[], Catalog]
MakeRouter = Callable[[Catalog], Router]


async def run_service(
    settings: ServiceSettings,
    load_catalog: LoadCatalog,
    make_router: MakeRouter,
    slot: WorkerSlot | None = None,
    log: LogWriter | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT. Returns 0 when every request ended within the grace, else 1.

    load_catalog: reads the configuration; called again, in a thread, on SIGHUP. slot: given to one of several
    processes. log: metrics show what it has dropped. Raises ServiceError when the start fails.
    """
    catalog = load_catalog()
    router = make_router(catalog)
    async with storage_of(settings) as storage:
        snapshot = ConfigSnapshot(catalog, router, settings.unpriced_offers, CacheSalts(storage.secret))
        parts = build(settings, storage, snapshot, slot)
        if log is not None:
            parts.statuses.register(LogState, log.status)
        return await _serve(settings, parts, Reload(parts.config, load_catalog, make_router), slot)


async def _serve(settings: ServiceSettings, parts: Parts, reload: Reload, slot: WorkerSlot | None) -> int:
    stop = asyncio.Event()
    server = parts.server
    listening = bound_socket(settings.host, settings.port) if slot is None else slot.listening
    await server.listen(listening)
    if slot is not None:
        # Readable means end of file: the parent, the only process with the other end, is gone, however it ended.
        asyncio.get_running_loop().add_reader(slot.lifeline, stop.set)
        if settings.worker_port is not None:
            own_port = settings.worker_port + slot.number
            await server.listen(bound_socket(settings.host, own_port, "SERVICE_WORKER_PORT plus the process's number"))
    if (metrics := parts.metrics_server) is not None and settings.metrics_port is not None:
        port = settings.metrics_port + (0 if slot is None else slot.number)
        await metrics.listen(bound_socket(settings.metrics_host, port, "METRICS_PORT", "METRICS_HOST"))
    with signal_handlers({signal.SIGTERM: stop.set, signal.SIGINT: stop.set, signal.SIGHUP: reload.begin}):
        announce(listening) if slot is None else slot.ready()
        await parts.dispatcher.load()
        _tune_garbage_collection()
        controller = parts.controller
        loop_lag = LoopLag()
        parts.statuses.register(LoopState, loop_lag.status)
        keeper = parts.lives_keeper
        scaling = partial(controller.run, parts.config.catalog_and_router)
        booking = [work.run for work in (keeper, parts.bill_schedule) if work is not None]
        async with background_work(parts.policy.shared.run, scaling, loop_lag.run, *booking):
            await stop.wait()
            has_ended = await server.stop(settings.grace_seconds)
            if metrics is not None:
                await metrics.stop(0)
        await controller.leave()
        if keeper is not None:
            await keeper.close()
    await parts.upstream.close()
    if parts.tracing is not None:
        await asyncio.get_running_loop().run_in_executor(None, parts.tracing.close)
    return 0 if has_ended else 1


class Reload:
    """Replaces the configuration in use. If the new one is wrong, logs an error and keeps the one in use."""

    def __init__(self, config: CurrentConfig, load_catalog: LoadCatalog, make_router: MakeRouter) -> None:
        self._config = config
        self._load_catalog = load_catalog
        self._make_router = make_router
        self._is_stale = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Reads the files again. If they are being read now, reads them once more, since they may have changed."""
        self._is_stale = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._is_stale:
            self._is_stale = False
            try:
                catalog = await asyncio.get_running_loop().run_in_executor(None, self._load_catalog)
                router = self._make_router(catalog)
                before = self._config.snapshot
                if isinstance(router, CostRouter) and isinstance(before.router, CostRouter):
                    router.take_over(before.router)  # what was measured of offers and workers stays
                self._config.snapshot = ConfigSnapshot(catalog, router, before.unpriced, before.salts, before.pins)
            except ServiceError as error:
                _log.error("the configuration could not be read, and the one in use is kept: %s", error.message)
            else:
                _log.info("the configuration has been read again")


def _tune_garbage_collection() -> None:
    """Makes collections rare and keeps them from walking the imported modules, which never become garbage.

    A request that succeeds makes no cycles. A failed one does, since an exception refers to its frame: that is why the
    collector stays on.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
