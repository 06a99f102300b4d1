"""One process of the gateway: opened, serving, its configuration replaced on SIGHUP, drained on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from functools import partial

from vllm_service.catalog.model import Catalog
from vllm_service.domain.plan import Router
from vllm_service.errors import ServiceError
from vllm_service.gateway.config_snapshot import ConfigSnapshot, CurrentConfig
from vllm_service.routing.router import CostRouter
from vllm_service.server.process import announce, beside, bound, signals
from vllm_service.server.supervisor import WorkerSlot
from vllm_service.server.wiring import Parts, build, storage_of
from vllm_service.settings import ServiceSettings

_log = logging.getLogger(__name__)

LoadCatalog = Callable[[], Catalog]
MakeRouter = Callable[[Catalog], Router]


async def run_service(
    settings: ServiceSettings, load_catalog: LoadCatalog, make_router: MakeRouter, slot: WorkerSlot | None = None
) -> int:
    """Serves until SIGTERM or SIGINT. Returns 0 when every request ended within the grace, else 1.

    load_catalog: reads the configuration; called again, in a thread, on SIGHUP. slot: as one of several processes.
    Raises ServiceError at the start.
    """
    catalog = load_catalog()
    snapshot = ConfigSnapshot(catalog, make_router(catalog))
    async with storage_of(settings) as storage:
        parts = build(settings, storage, snapshot, slot)
        return await _serve(settings, parts, Reload(parts.config, load_catalog, make_router), slot)


async def _serve(settings: ServiceSettings, parts: Parts, reload: Reload, slot: WorkerSlot | None) -> int:
    stop, server = asyncio.Event(), parts.server
    listening = bound(settings.host, settings.port) if slot is None else slot.listening
    await server.listen(listening)
    if slot is not None:
        asyncio.get_running_loop().add_reader(slot.lifeline, stop.set)
        if settings.worker_port is not None:
            await server.listen(bound(settings.host, settings.worker_port + slot.number))
    with signals({signal.SIGTERM: stop.set, signal.SIGINT: stop.set, signal.SIGHUP: reload.begin}):
        announce(listening) if slot is None else slot.ready()
        await parts.dispatcher.load()
        _spare_the_collector()
        controller = parts.controller
        async with beside(parts.policy.shared.run, partial(controller.run, parts.config.catalog_and_router)):
            await stop.wait()
            has_ended = await server.stop(settings.grace_seconds)
        await controller.leave()
    await parts.upstream.close()
    if parts.tracing is not None:
        await asyncio.get_running_loop().run_in_executor(None, parts.tracing.close)
    return 0 if has_ended else 1


class Reload:
    """Replaces the configuration in use. One that cannot be used is an error in the log, and the one in use stays."""

    def __init__(self, config: CurrentConfig, load_catalog: LoadCatalog, make_router: MakeRouter) -> None:
        self._config = config
        self._load_catalog = load_catalog
        self._make_router = make_router
        self._is_stale = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Reads the files again; once more where they are being read already, since they may have changed meanwhile."""
        self._is_stale = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._is_stale:
            self._is_stale = False
            try:
                catalog = await asyncio.get_running_loop().run_in_executor(None, self._load_catalog)
                router, before = self._make_router(catalog), self._config.snapshot.router
                if isinstance(router, CostRouter) and isinstance(before, CostRouter):
                    router.take_over(before)
                self._config.snapshot = ConfigSnapshot(catalog, router)
            except ServiceError as error:
                _log.error("the configuration stays as it was: %s", error.message)
            else:
                _log.info("the configuration has been read again")


def _spare_the_collector() -> None:
    """Takes what has been imported out of the garbage collector's walks under load.

    A request makes no cycles, so collections may be rare; a failed one does, since an exception holds its frame.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
