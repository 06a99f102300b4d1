"""Wires an endpoint: its HTTP server, its workers, and the loop that looks after both."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

from aiohttp import web

from runpod_emulator.api.client import ClientApi, no_such_endpoint
from runpod_emulator.api.management import ManagementApi
from runpod_emulator.api.openai import OpenAIApi
from runpod_emulator.api.worker import WorkerApi
from runpod_emulator.billing.bill import Bill
from runpod_emulator.endpoint.faults import Faults
from runpod_emulator.endpoint.registry import Worker
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.hosted import HostedProviders, HostedSettings
from runpod_emulator.http import answering_errors
from runpod_emulator.jobs.store import Clock
from runpod_emulator.jobs.webhooks import Webhooks
from runpod_emulator.settings import EndpointSettings, worker_environment
from runpod_emulator.workers.fleet import Fleet, WorkerCommand

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 0.5  # for requests that are still being answered when the emulator leaves


class Emulator:
    """A local RunPod with one endpoint; runs inside `async with`, in the event loop that enters it.

    Without `workers` no process is started: any worker with `worker_environment` may connect. `hosted` providers
    answer beside it. settings: as it began; `endpoint.settings` has the min_workers that management has ordered since.
    """

    def __init__(
        self,
        settings: EndpointSettings | None = None,
        workers: WorkerCommand | None = None,
        *,
        hosted: Sequence[HostedSettings] = (),
        clock: Clock = time.monotonic,
    ) -> None:
        self.settings = settings or EndpointSettings()
        self.endpoint = Endpoint(self.settings, clock=clock, starts_workers=workers is not None)
        self.hosted = HostedProviders(hosted, clock=clock)
        self.fleet: Fleet | None = None
        self._workers = workers
        self._webhooks = Webhooks(clock)
        # Cancelled handlers are how a client's leaving is noticed.
        self._runner = web.AppRunner(
            self._app(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
        )
        self._supervisor: asyncio.Task[None] | None = None
        self._origin = ""

    @property
    def origin(self) -> str:
        """`http://host:port`."""
        return self._origin

    @property
    def url(self) -> str:
        """What comes before /run, /runsync and the others."""
        return f"{self._origin}/v2/{self.settings.endpoint_id}"

    @property
    def openai_url(self) -> str:
        """The `base_url` of an OpenAI client."""
        return f"{self.url}/openai/v1"

    def hosted_url(self, name: str) -> str:
        """The `base_url` of a hosted provider. Raises KeyError."""
        return f"{self._origin}/hosted/{self.hosted.providers[name].settings.name}/v1"

    def worker_environment(self, worker_id: str = "external-1") -> dict[str, str]:
        """The variables that make a worker started elsewhere connect to this endpoint."""
        return worker_environment(self.settings, self._origin, worker_id)

    def inject(self, faults: Faults) -> None:
        """From now on these faults and no others; raises BadRequest."""
        self.endpoint.inject(faults)

    @property
    def workers(self) -> Mapping[str, Worker]:
        """Every worker that ever was, by id; `state`, `jobs`, `exit_code` and `started_at` tell how it does."""
        return MappingProxyType(self.endpoint.registry.workers)

    def retire_worker(self, worker_id: str) -> None:
        """Gives a worker started elsewhere no more jobs and ends its open polls; SIGTERM is yours to send."""
        self.endpoint.retire(self.workers[worker_id])

    def end_worker(self, worker_id: str, exit_code: int | None = None) -> None:
        """Says that a worker started elsewhere has ended: its jobs go back, its meter stops. Raises KeyError."""
        self.endpoint.end_worker(self.workers[worker_id], exit_code)

    def bill(self) -> Bill:
        """The bill until now; final once the emulator has been left."""
        return self.endpoint.registry.bill()

    async def __aenter__(self) -> Self:
        """Listens; raises OSError when the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.settings.host, self.settings.port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._origin = f"http://{self.settings.host}:{self._runner.addresses[0][1]}"
        self.endpoint.when_finished.append(self._webhooks.tell)
        if self._workers:
            self.fleet = Fleet(self.endpoint, self._workers, self._origin)
        self._supervisor = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the workers, then the server."""
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self.endpoint.close()
        if self.fleet:
            await self.fleet.close()
        for worker in self.endpoint.registry.alive():
            self.endpoint.registry.end(worker, None)
        await self._webhooks.close()
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=0)  # each operation has a limit of its own
        client_api = ClientApi(self.endpoint)
        WorkerApi(self.endpoint).add_routes(app.router)
        client_api.add_routes(app.router)
        OpenAIApi(self.endpoint).add_routes(app.router, client_api)
        ManagementApi(self.endpoint).add_routes(app.router, client_api)
        self.hosted.add_routes(app.router)
        app.router.add_route("*", "/{path:.*}", answering_errors(no_such_endpoint))
        return app

    async def _supervise(self) -> None:
        due = 0.0
        while True:
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + self.settings.tick_seconds
                    self.endpoint.housekeep()
                if self.fleet:
                    self.fleet.reconcile()
            except Exception:
                logger.exception("the emulator's supervisor failed, and goes on")
            await self.endpoint.changed.wait(self.settings.tick_seconds)
