"""The wiring of the emulator: the account with its endpoints, and the HTTP server in front of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Middleware

from runpod_emulator.account.account import Account
from runpod_emulator.api.balanced import BalancedApi
from runpod_emulator.api.batches import BatchApi
from runpod_emulator.api.client import ClientApi, no_such_endpoint
from runpod_emulator.api.management import ManagementApi, retired
from runpod_emulator.api.openai import OpenAIApi
from runpod_emulator.api.rest.billing import BillingApi
from runpod_emulator.api.rest.catalog import CatalogApi
from runpod_emulator.api.rest.door import RestDoor
from runpod_emulator.api.rest.endpoints import EndpointsApi
from runpod_emulator.api.rest.network_volumes import NetworkVolumesApi
from runpod_emulator.api.rest.quotas import REST_QUOTAS
from runpod_emulator.api.rest.registries import RegistriesApi
from runpod_emulator.api.rest.templates import TemplatesApi
from runpod_emulator.api.worker import WorkerApi
from runpod_emulator.billing.bill import Bill
from runpod_emulator.billing.rates import BillingRates
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

#: The time that open requests get when the emulator stops.
SHUTDOWN_SECONDS = 0.5


class Emulator:
    """A local RunPod account; runs inside `async with`, in the event loop that enters it.

    It has one endpoint at the start; the REST API makes others. workers: the command that starts a worker, of any
    endpoint. None: no process is started, and any worker with `worker_environment` may connect. hosted: providers that
    are served on the same address. rest_quotas: requests a minute for each group of the REST API; a group that is not
    named has no limit. management_v1: serves version 1 of the management API too, which is 410 otherwise.
    rates: what is billed beside GPUs. middlewares: aiohttp's, around every request. clock_began_at: the clock's 0 in
    seconds since 1970; None: as it is now.
    """

    def __init__(
        self,
        settings: EndpointSettings | None = None,
        workers: WorkerCommand | None = None,
        *,
        hosted: Sequence[HostedSettings] = (),
        rest_quotas: Mapping[str, int] = REST_QUOTAS,
        management_v1: bool = False,
        rates: BillingRates | None = None,
        middlewares: Sequence[Middleware] = (),
        clock: Clock = time.monotonic,
        clock_began_at: float | None = None,
    ) -> None:
        #: The first endpoint's settings at the start. `endpoint.settings` has what was changed since.
        self.settings = settings or EndpointSettings()
        self.account = Account(self.settings, workers, rates=rates, clock=clock, clock_began_at=clock_began_at)
        self.hosted = HostedProviders(hosted, clock=clock)
        self._rest_quotas = rest_quotas
        self._middlewares = middlewares
        self._management_v1 = management_v1
        self._webhooks = Webhooks(clock)
        # With cancellation a handler ends when its client disconnects; aiohttp's default lets it run on.
        self._runner = web.AppRunner(
            self._app(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
        )

    @property
    def endpoint(self) -> Endpoint:
        """Returns the state of the first endpoint."""
        return self.account.first.state

    @property
    def fleet(self) -> Fleet | None:
        """Returns the worker processes of the first endpoint; None where none are started."""
        return self.account.first.fleet

    @property
    def starts_workers(self) -> bool:
        """Returns whether the emulator starts the workers itself."""
        return self.account.starts_workers

    @property
    def origin(self) -> str:
        """Returns `http://host:port`."""
        return self.account.origin

    @property
    def url(self) -> str:
        """Returns the job API's base URL, which precedes /run, /runsync and the others."""
        return f"{self.origin}/v2/{self.settings.endpoint_id}"

    @property
    def openai_url(self) -> str:
        """Returns the `base_url` of an OpenAI client."""
        return f"{self.url}/openai/v1"

    @property
    def balanced_url(self) -> str:
        """Returns the URL of the first endpoint's load balancer, which precedes the paths of its workers."""
        return self.account.balanced_url(self.settings.endpoint_id)

    def hosted_url(self, name: str) -> str:
        """Returns the `base_url` of a hosted provider. Raises KeyError for an unknown name."""
        return f"{self.origin}/hosted/{self.hosted.providers[name].settings.name}/v1"

    def worker_environment(self, worker_id: str = "external-1") -> dict[str, str]:
        """Returns the variables that make an external worker connect to this endpoint."""
        return worker_environment(self.settings, self.origin, worker_id)

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
        """Returns the first endpoint's bill until now. It is final after `async with`."""
        return self.endpoint.registry.bill()

    async def __aenter__(self) -> Self:
        """Starts to listen. Raises CannotListen."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.settings.host, self.settings.port).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            raise CannotListen(self.settings.host, self.settings.port, error) from error
        self.account.when_finished.append(self._webhooks.post)
        self.account.start(f"http://{self.settings.host}:{self._runner.addresses[0][1]}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the workers, then the server."""
        await self.account.close()
        await self._webhooks.close()
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=0, middlewares=self._middlewares)  # each operation has a limit of its own
        # Before the job API: `serverless` is no endpoint's id.
        rest = RestDoor(self.account, self._rest_quotas)
        for resource in (EndpointsApi, TemplatesApi, NetworkVolumesApi, RegistriesApi, CatalogApi, BillingApi):
            resource(self.account).add_routes(app.router, rest)
        client_api = ClientApi(self.account)
        WorkerApi(self.account).add_routes(app.router)
        client_api.add_routes(app.router)
        BatchApi().add_routes(app.router, client_api)
        OpenAIApi().add_routes(app.router, client_api)
        BalancedApi(self.account).add_routes(app.router, client_api)
        if self._management_v1:
            ManagementApi().add_routes(app.router, client_api)
        else:
            app.router.add_route("*", "/v1/{path:.*}", retired)
        self.hosted.add_routes(app.router)
        app.router.add_route("*", "/{path:.*}", answering_errors(no_such_endpoint))
        return app
