"""The wiring of an emulated endpoint: its HTTP server, its workers, and the supervisor's loop."""

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
from runpod_emulator.errors import CannotListen
from runpod_emulator.hosted import HostedProviders, HostedSettings
from runpod_emulator.http import answering_errors
from runpod_emulator.jobs.store import Clock
from runpod_emulator.jobs.webhooks import Webhooks
from runpod_emulator.settings import EndpointSettings, worker_environment
from runpod_emulator.workers.fleet import Fleet, WorkerCommand

logger = logging.getLogger(__name__)

#: The time that open requests get when the emulator stops.
SHUTDOWN_SECONDS = 0.5


class Emulator:
    """A local RunPod with one endpoint; runs inside `async with`, in the event loop that enters it.

    workers: the command that starts one. None: no process is started, and any worker with `worker_environment` may
    connect. hosted: providers that are served on the same address.
    """

    def __init__(
        self,
        settings: EndpointSettings | None = None,
        workers: WorkerCommand | None = None,
        *,
        hosted: Sequence[HostedSettings] = (),
        clock: Clock = time.monotonic,
    ) -> None:
        #: The settings at the start. `endpoint.settings` has the min_workers that the management API has set since.
        self.settings = settings or EndpointSettings()
        self.endpoint = Endpoint(self.settings, clock=clock, starts_workers=workers is not None)
        self.hosted = HostedProviders(hosted, clock=clock)
        self.fleet: Fleet | None = None
        self._workers = workers
        self._webhooks = Webhooks(clock)
        # With cancellation a handler ends when its client disconnects; aiohttp's default lets it run on.
        self._runner = web.AppRunner(
            self._app(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
        )
        self._supervisor: asyncio.Task[None] | None = None
        self._origin = ""

    @property
    def origin(self) -> str:
        """Returns `http://host:port`."""
        return self._origin

    @property
    def url(self) -> str:
        """Returns the job API's base URL, which precedes /run, /runsync and the others."""
        return f"{self._origin}/v2/{self.settings.endpoint_id}"

    @property
    def openai_url(self) -> str:
        """Returns the `base_url` of an OpenAI client."""
        return f"{self.url}/openai/v1"

    def hosted_url(self, name: str) -> str:
        """Returns the `base_url` of a hosted provider. Raises KeyError for an unknown name."""
        return f"{self._origin}/hosted/{self.hosted.providers[name].settings.name}/v1"

    def worker_environment(self, worker_id: str = "external-1") -> dict[str, str]:
        """Returns the variables that make an external worker connect to this endpoint."""
        return worker_environment(self.settings, self._origin, worker_id)

    def inject(self, faults: Faults) -> None:
        """Replaces all faults. Raises BadRequest."""
        self.endpoint.inject(faults)

    @property
    def workers(self) -> Mapping[str, Worker]:
        """Returns every worker since the start by id, also stopped ones."""
        return MappingProxyType(self.endpoint.registry.workers)

    def retire_worker(self, worker_id: str) -> None:
        """Gives an external worker no more jobs, and ends its open polls. The caller sends the SIGTERM."""
        self.endpoint.retire(self.workers[worker_id])

    def end_worker(self, worker_id: str, exit_code: int | None = None) -> None:
        """Marks an external worker as ended: its jobs are queued again, its meter stops. Raises KeyError."""
        self.endpoint.end_worker(self.workers[worker_id], exit_code)

    def bill(self) -> Bill:
        """Returns the bill until now. It is final after `async with`."""
        return self.endpoint.registry.bill()

    async def __aenter__(self) -> Self:
        """Starts to listen. Raises CannotListen."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.settings.host, self.settings.port).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            raise CannotListen(self.settings.host, self.settings.port, error) from error
        self._origin = f"http://{self.settings.host}:{self._runner.addresses[0][1]}"
        self.endpoint.when_finished.append(self._webhooks.post)
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
                # Without it no worker is started or stopped any more: it must outlive its errors.
                logger.exception("the emulator's supervisor failed in this round and continues")
            await self.endpoint.changed.wait(self.settings.tick_seconds)
