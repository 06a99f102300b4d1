"""Runs the gateway by its settings: in this process, or in several that share one address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial

import uvloop

from vllm_service import logs
from vllm_service.catalog.load import load
from vllm_service.cli.configuration import validated
from vllm_service.routing.from_catalog import make_router
from vllm_service.server.process import announce, bound_socket
from vllm_service.server.run import run_service
from vllm_service.server.supervisor import Supervisor, WorkerSlot
from vllm_service.settings import ServiceSettings
from vllm_service.storage.open import open_database


def serve() -> int:
    """Serves until SIGTERM, by the environment's settings. The first line on stdout is the base URL."""
    settings = validated().settings
    log = logs.configure(settings.log_level, settings.log_format)
    router = partial(
        make_router,
        default_strategy=settings.default_strategy,
        organisation_share=settings.organisation_workers_percent / 100,
    )
    service = partial(run_service, settings, partial(load, settings), router, log=log)
    return uvloop.run(service()) if settings.workers == 1 else _serve_in_several(settings, service)


async def _opened_once(settings: ServiceSettings) -> None:
    database = await open_database(settings.database_url, settings.data_dir)
    await database.close()


def _serve_in_several(settings: ServiceSettings, service: Callable[[WorkerSlot], Coroutine[None, None, int]]) -> int:
    """Binds the address and opens the database before any fork, so that what is wrong with them is reported once."""
    listening = bound_socket(settings.host, settings.port)
    asyncio.run(_opened_once(settings))
    supervisor = Supervisor(
        workers=settings.workers,
        listening=listening,
        serve=lambda slot: uvloop.run(service(slot)),
        announce=partial(announce, listening),
        grace_seconds=settings.grace_seconds,
    )
    return supervisor.run()
