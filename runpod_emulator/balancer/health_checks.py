"""Requests each worker's health check, and takes those out of the rotation that are not healthy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from functools import partial

import aiohttp

from runpod_emulator.endpoint.registry import State, Worker, WorkerRegistry
from runpod_emulator.endpoint.state import Endpoint

logger = logging.getLogger(__name__)


class Verdict(Enum):
    """The verdict of a health check."""

    HEALTHY = "healthy"
    INITIALIZING = "initializing"
    UNHEALTHY = "unhealthy"
    #: There was no answer.
    SILENT = "silent"


def verdict(status: int | None) -> Verdict:
    """Returns what a status means: 200 healthy, 204 initializing, any other one unhealthy. None: no answer."""
    if status is None:
        return Verdict.SILENT
    return {200: Verdict.HEALTHY, 204: Verdict.INITIALIZING}.get(status, Verdict.UNHEALTHY)


def apply(found: Verdict, worker: Worker, registry: WorkerRegistry) -> None:
    """Changes the worker's state. Silence of a worker that has never been ready changes nothing: it starts."""
    if worker.state is State.STOPPED or registry.workers.get(worker.id) is not worker:
        return
    if found is Verdict.HEALTHY:
        registry.restore(worker)
    elif found is Verdict.INITIALIZING:
        registry.make_initializing(worker)
    elif found is Verdict.UNHEALTHY or worker.state is not State.INITIALIZING:
        registry.make_unhealthy(worker)


class HealthChecks:
    """One task for each worker with an address, until the worker has stopped. when_changed: called after a change."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, when_changed: Callable[[], None]) -> None:
        self._endpoint = endpoint
        self._session = session
        self._when_changed = when_changed
        self._tasks: dict[Worker, asyncio.Task[None]] = {}

    def watch(self) -> None:
        """Begins to check workers that are new."""
        for worker in self._endpoint.registry.workers.values():
            if worker.address is not None and worker.state is not State.STOPPED and worker not in self._tasks:
                task = self._tasks[worker] = asyncio.create_task(self._check(worker))
                task.add_done_callback(partial(self._forget, worker))

    async def close(self) -> None:
        """Ends all checks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, worker: Worker, _: asyncio.Task[None]) -> None:
        self._tasks.pop(worker, None)

    async def _check(self, worker: Worker) -> None:
        while worker.state is not State.STOPPED:
            found, before = verdict(await self._status(worker)), worker.state
            apply(found, worker, self._endpoint.registry)
            if worker.state is not before:
                logger.info("worker %s is %s: its health check is %s", worker.id, worker.state.value, found.value)
                self._when_changed()
            await asyncio.sleep(self._endpoint.settings.health_check_seconds)

    async def _status(self, worker: Worker) -> int | None:
        assert worker.address is not None
        timeout = aiohttp.ClientTimeout(self._endpoint.settings.health_check_timeout_seconds)
        try:
            async with self._session.get(worker.address.health_url, timeout=timeout, allow_redirects=False) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
