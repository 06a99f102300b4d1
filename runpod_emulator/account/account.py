"""The account: all endpoints by id, and the rules that hold between them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from runpod_emulator.account.configuration import EndpointConfig, first_config
from runpod_emulator.account.data_centers import DATA_CENTERS
from runpod_emulator.account.gpus import GPU_TYPES, GpuType, in_pools, pool_at
from runpod_emulator.account.network_volumes import NetworkVolume, NetworkVolumes
from runpod_emulator.account.registries import Registries, RegistryCredentials
from runpod_emulator.account.serverless import ServerlessEndpoint
from runpod_emulator.account.stock import Stock, StockPlacer
from runpod_emulator.account.template import Template
from runpod_emulator.billing.bill import Bill
from runpod_emulator.billing.rates import BillingRates
from runpod_emulator.endpoint.state import Endpoint, FinishedCallback
from runpod_emulator.errors import BadRequest, Conflict, NotFound, Unprocessable
from runpod_emulator.jobs.store import Clock
from runpod_emulator.line_writer import LineWriter
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.workers.fleet import WorkerCommand

#: The most workers of all endpoints together, as on RunPod (its documentation, 2026-08).
WORKER_QUOTA = 30
STANDARD_OUTPUT = 1
#: The data center of workers whose endpoint names none.
ANY_DATA_CENTER = "US-KS-2"


class Account:
    """Holds the endpoints. The first one is there from the start, with the settings that are passed in.

    command: the command of every endpoint's workers; None: the emulator starts none.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        command: WorkerCommand | None = None,
        *,
        rates: BillingRates | None = None,
        clock: Clock = time.monotonic,
        clock_began_at: float | None = None,
    ) -> None:
        self.settings = settings
        self.gpu_types = GPU_TYPES
        #: The places for workers, by GPU type and pool.
        self.stock = Stock(self.gpu_types)
        self.data_centers = DATA_CENTERS
        self.rates = rates or BillingRates()
        self.clock = clock
        #: The clock's 0 in seconds since 1970. It is read once, so that the times on the bill never change.
        self.clock_began_at = time.time() - clock() if clock_began_at is None else clock_began_at
        #: `http://host:port` once the emulator listens.
        self.origin = ""
        self.endpoints: dict[str, ServerlessEndpoint] = {}
        #: Deleted endpoints; they stay on the bill.
        self.deleted: list[ServerlessEndpoint] = []
        self.templates: dict[str, Template] = {}
        self.volumes = NetworkVolumes(self.data_centers, self.now_us)
        self.registries = Registries()
        #: Called with each job that has ended, of any endpoint.
        self.when_finished: list[FinishedCallback] = []
        if settings.is_balanced and command is None:
            raise ValueError("type: a load balancer needs a worker command: it sends requests only to those workers")
        self._command = command
        #: Copies the workers' output without waiting for the reader of standard output.
        self._terminal = LineWriter(STANDARD_OUTPUT)
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._first_pool = pool_at(self.gpu_types, settings.usd_per_second)
        self.first = self._add(first_config(settings.endpoint_id, self._first_pool), settings)

    @property
    def starts_workers(self) -> bool:
        """Returns whether the emulator starts the workers itself."""
        return self._command is not None

    def now_us(self) -> int:
        """Returns the time in microseconds since 1970."""
        return round((self.clock_began_at + self.clock()) * 1_000_000)

    def balanced_url(self, endpoint_id: str) -> str:
        """Returns the URL before a path of the workers. On RunPod it is a host: https://ENDPOINT_ID.api.runpod.ai."""
        return f"{self.origin}/lb/{endpoint_id}"

    def endpoint(self, endpoint_id: str) -> ServerlessEndpoint:
        """Returns an endpoint. Raises NotFound."""
        endpoint = self.endpoints.get(endpoint_id)
        if endpoint is None:
            raise NotFound(f"endpoint {endpoint_id}: there is none in this account")
        return endpoint

    def bills(self) -> dict[str, Bill]:
        """Returns the bills until now by endpoint: the first one's, and those of others that had workers."""
        endpoints = [self.first, *(one for one in [*self.deleted, *self.endpoints.values()] if one is not self.first)]
        bills = {one.id: one.state.registry.bill() for one in endpoints}
        return {name: bill for name, bill in bills.items() if bill.lines or name == self.first.id}

    def closing(self, endpoint_id: str) -> ServerlessEndpoint | None:
        """Returns a deleted endpoint whose workers have not all ended."""
        return next((one for one in self.deleted if one.id == endpoint_id and one.id in self._closing), None)

    def template(self, template_id: str) -> Template:
        """Returns the template for an endpoint. Raises NotFound, and Unprocessable for a template of pods."""
        template = self.templates.get(template_id)
        if template is None:
            raise NotFound(f"template {template_id}: there is none that this account can use")
        if not template.serverless:
            raise Unprocessable("templateId: expected a serverless template", [f"$.templateId: {template_id}"])
        return template

    def create(self, config: EndpointConfig, settings: Mapping[str, Any]) -> ServerlessEndpoint:
        """Adds an endpoint with these fields of the first one's settings changed, and starts its workers.

        Raises BadRequest.
        """
        made = _changed(self.settings, {**settings, "endpoint_id": secrets.token_hex(7)})
        self._check(config, made, 0)
        endpoint = self._add(config, made)
        endpoint.start(self._command, self.origin, self._terminal.put)
        return endpoint

    def change(self, endpoint: ServerlessEndpoint, config: EndpointConfig, settings: Mapping[str, Any]) -> None:
        """Changes an endpoint; an error changes nothing. Raises BadRequest."""
        former = endpoint.state.settings
        self._check(config, _changed(former, settings), former.max_workers)
        self._configure(endpoint, config)
        endpoint.state.change(**settings)
        if "max_workers" in settings:
            endpoint.state.note_use()

    def delete(self, endpoint: ServerlessEndpoint) -> None:
        """Removes an endpoint: its jobs are cancelled now, its workers are stopped."""
        del self.endpoints[endpoint.id]
        self.deleted.append(endpoint)
        endpoint.state.store.cancel_all()
        endpoint.state.batch_store.cancel_all()
        closing = self._closing[endpoint.id] = asyncio.create_task(endpoint.close())
        closing.add_done_callback(lambda _: self._closing.pop(endpoint.id, None))

    def delete_volume(self, volume: NetworkVolume) -> None:
        """Removes a network volume. Raises Conflict while an endpoint has it."""
        for endpoint in self.endpoints.values():
            if volume.id in endpoint.config.network_volumes:
                raise Conflict(
                    f"network volume {volume.id}: endpoint {endpoint.id} has it. Take it out of the endpoint's "
                    "networkVolumes, or delete the endpoint, before"
                )
        self.volumes.delete(volume)

    def delete_template(self, template: Template) -> None:
        """Removes a template. Raises BadRequest while there is an endpoint that was made from it."""
        for endpoint in self.endpoints.values():
            if endpoint.config.template_id == template.id:
                raise BadRequest(f"template {template.id}: endpoint {endpoint.id} was made from it; delete that before")
        del self.templates[template.id]

    def delete_registry(self, registry: RegistryCredentials) -> None:
        """Removes credentials, and the references of templates to them."""
        self.registries.delete(registry)
        for template in self.templates.values():
            if template.container.registry == registry.id:
                container = replace(template.container, registry=None)
                self.templates[template.id] = replace(template, container=container)

    def start(self, origin: str) -> None:
        """Begins to run the endpoints. Needs a running event loop."""
        self.origin = origin
        for endpoint in self.endpoints.values():
            endpoint.start(self._command, origin, self._terminal.put)

    async def close(self) -> None:
        """Stops all workers, and waits for their ends."""
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints.values()), *self._closing.values())
        await asyncio.to_thread(self._terminal.flush)

    def _add(self, config: EndpointConfig, settings: EndpointSettings) -> ServerlessEndpoint:
        state = Endpoint(
            settings,
            clock=self.clock,
            clock_began_at=self.clock_began_at,
            starts_workers=self.starts_workers,
        )
        state.when_finished = self.when_finished
        endpoint = self.endpoints[settings.endpoint_id] = ServerlessEndpoint(config, state)
        self._configure(endpoint, config)
        return endpoint

    def _configure(self, endpoint: ServerlessEndpoint, config: EndpointConfig) -> None:
        endpoint.configure(config)
        endpoint.state.registry.placer = StockPlacer(
            self.stock,
            [(gpu_type, self._price(endpoint, gpu_type) * config.gpu.count) for gpu_type in self._eligible(config)],
            config.gpu.count,
            self._data_center(config),
        )

    def _price(self, endpoint: ServerlessEndpoint, gpu_type: GpuType) -> Decimal:
        """Returns the price of one GPU's second; the first endpoint has its own for the pool that it starts with."""
        is_first = endpoint.id == self.settings.endpoint_id and gpu_type.pool == self._first_pool
        return self.settings.usd_per_second if is_first else gpu_type.usd_per_second

    def _eligible(self, config: EndpointConfig) -> list[GpuType]:
        selected = in_pools(self.gpu_types, config.gpu.pools)
        return [gpu_type for gpu_type in selected if gpu_type.id not in config.gpu.excluded_types]

    def _check(self, config: EndpointConfig, settings: EndpointSettings, former_max: int) -> None:
        if settings.is_balanced and not self.starts_workers:
            raise BadRequest("type: the emulator sends a load balancer's requests only to workers that it starts")
        self._check_gpus(config)
        self._check_places(config)
        others = sum(endpoint.state.settings.max_workers for endpoint in self.endpoints.values()) - former_max
        if settings.max_workers > former_max and others + settings.max_workers > WORKER_QUOTA:
            raise BadRequest(
                f"workers.max: {settings.max_workers}, with {others} of other endpoints, is above the account's quota "
                f"of {WORKER_QUOTA} workers. Lower another endpoint's maximum, or delete one"
            )

    def _check_places(self, config: EndpointConfig) -> None:
        known = {data_center.id for data_center in self.data_centers}
        if unknown := [one for one in config.data_center_ids if one not in known]:
            raise BadRequest(
                f"dataCenterIds: there is no {unknown[0]}; the data centers are {', '.join(sorted(known))}"
            )
        volumes = [self.volumes.find(volume_id) for volume_id in config.network_volumes]
        places = [volume.data_center for volume in volumes if volume is not None]
        if None in volumes or len(set(places)) < len(volumes):
            raise BadRequest("networkVolumes: expected ids of the account's volumes, one for each data center")
        if config.data_center_ids and (elsewhere := set(places) - set(config.data_center_ids)):
            raise BadRequest(f"networkVolumes: a volume is in {min(elsewhere)}, which dataCenterIds does not have")

    def _data_center(self, config: EndpointConfig) -> str:
        """Returns where workers start: with the first network volume, else in the first data center of the list."""
        volumes = (self.volumes.find(volume_id) for volume_id in config.network_volumes)
        places = (volume.data_center for volume in volumes if volume is not None)
        return [*places, *config.data_center_ids, ANY_DATA_CENTER][0]

    def _check_gpus(self, config: EndpointConfig) -> None:
        known = {gpu_type.pool for gpu_type in self.gpu_types}
        for pool in config.gpu.pools:
            if pool not in known:
                raise BadRequest(f"gpu.pools: there is no pool {pool}; the pools are {', '.join(sorted(known))}")
        selected = {gpu_type.id for gpu_type in in_pools(self.gpu_types, config.gpu.pools)}
        for excluded in config.gpu.excluded_types:
            if excluded not in selected:
                raise BadRequest(f"gpu.excludedTypes: {excluded} is no GPU type of these pools")
        if not self._eligible(config):
            raise BadRequest("gpu.excludedTypes: no GPU type is left in these pools")


def _changed(settings: EndpointSettings, changes: Mapping[str, Any]) -> EndpointSettings:
    try:
        return replace(settings, **changes)
    except ValueError as error:
        raise BadRequest(str(error)) from None
