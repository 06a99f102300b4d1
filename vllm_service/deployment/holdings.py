"""What a deployment has at RunPod at this moment, and what that costs an hour. What is not known says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from vllm_service.deployment.existing import Existing, Json, Kind, id_of
from vllm_service.deployment.pools import volume_usd_per_month
from vllm_service.deployment.prices import HOURS_PER_MONTH, GpuPrices
from vllm_service.deployment.situation import counted
from vllm_service.runpod.rest_api import RestApi, endpoint_path
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.workers import EndpointWorkers, parse_workers

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Holding:
    """One thing at RunPod."""

    kind: Kind
    id: str
    name: str
    #: What is billed for it now, as an hour of this state costs; None where it is not known.
    usd_per_hour: Decimal | None
    #: What it costs an hour when nobody uses it: a volume, and the workers that always run.
    idle_usd_per_hour: Decimal | None
    #: What the amounts rest on.
    note: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything that a deployment has."""

    items: tuple[Holding, ...]
    #: Where the GPUs' prices come from.
    prices_from: str

    @property
    def usd_per_hour(self) -> Decimal | None:
        """The sum; None as soon as one amount is not known."""
        return _sum([item.usd_per_hour for item in self.items])

    @property
    def idle_usd_per_hour(self) -> Decimal | None:
        """The sum of what is billed without any request; None as soon as one amount is not known."""
        return _sum([item.idle_usd_per_hour for item in self.items])


async def list_workers(api: RestApi, endpoint: Json) -> EndpointWorkers | None:
    """Returns an endpoint's workers; None for an answer that lists none. Raises RestError."""
    return parse_workers(await api.get(f"{endpoint_path(id_of(endpoint))}/workers"))


async def workers_of(api: RestApi, endpoint: Json) -> EndpointWorkers | None:
    """Returns an endpoint's workers; None where they cannot be read."""
    try:
        return await list_workers(api, endpoint)
    except RestError:
        return None


async def read_holdings(api: RestApi, existing: Existing, prices: GpuPrices) -> Holdings:
    """Returns what exists with what it costs. Raises nothing: what cannot be read is unknown."""
    workers = {id_of(endpoint): await workers_of(api, endpoint) for endpoint in existing.endpoints}
    return holdings_of(existing, workers, prices)


def holdings_of(existing: Existing, workers: Mapping[str, EndpointWorkers | None], prices: GpuPrices) -> Holdings:
    """Returns the holdings. workers: by the endpoint's id."""
    items = [
        *(_volume(volume) for volume in existing.volumes),
        *(_template(template) for template in existing.templates),
        *(_endpoint(endpoint, workers.get(id_of(endpoint)), prices) for endpoint in existing.endpoints),
    ]
    return Holdings(tuple(items), prices.source)


def _volume(volume: Json) -> Holding:
    size = volume.get("size")
    is_known = isinstance(size, int) and 0 < size < 10**6
    usd = volume_usd_per_month(size) / HOURS_PER_MONTH if isinstance(size, int) and is_known else None
    note = f"{size} GB in {volume.get('dataCenter', '?')}, billed until it is deleted" if is_known else "size unknown"
    return Holding(Kind.VOLUME, id_of(volume), _name(volume), usd, usd, note)


def _template(template: Json) -> Holding:
    return Holding(Kind.TEMPLATE, id_of(template), _name(template), ZERO, ZERO, "costs nothing")


def _endpoint(endpoint: Json, workers: EndpointWorkers | None, prices: GpuPrices) -> Holding:
    always_on = _bound(endpoint, "min")
    most = _bound(endpoint, "max")
    bounds = f"workers {_text(always_on)} to {_text(most)}"
    return Holding(
        Kind.ENDPOINT,
        id_of(endpoint),
        _name(endpoint),
        _working_usd(workers, prices),
        _always_on_usd(endpoint, always_on, prices),
        f"{bounds}; now {counted(workers)}",
    )


def _working_usd(workers: EndpointWorkers | None, prices: GpuPrices) -> Decimal | None:
    """Returns what the workers cost that are billed now: those that run and those that idle.

    RunPod does not bill pulling the image, throttled and unhealthy workers. A worker that loads its model is billed,
    and cannot be told from one that pulls its image, so one that initialises makes the amount unknown.
    """
    if workers is None:
        return None
    counts = workers.health_counts()
    if counts["initializing"]:
        return None
    return _sum([prices.usd_per_hour(one.gpu_type, one.gpu_count) for one in workers.workers if one.status.is_warm])


def _always_on_usd(endpoint: Json, always_on: int | None, prices: GpuPrices) -> Decimal | None:
    if always_on is None:
        return None
    if always_on == 0:
        return ZERO
    gpu = endpoint.get("gpu")
    pools = gpu.get("pools") if isinstance(gpu, Mapping) else None
    count = gpu.get("count") if isinstance(gpu, Mapping) else None
    if not isinstance(pools, list) or not isinstance(count, int):
        return None
    usd = prices.most_usd_per_hour([str(pool) for pool in pools], count)
    return None if usd is None else usd * always_on


def _bound(endpoint: Json, name: str) -> int | None:
    workers = endpoint.get("workers")
    found: Any = workers.get(name) if isinstance(workers, Mapping) else None
    is_number = isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 10**6
    return found if is_number else None


def _name(document: Json) -> str:
    name = document.get("name")
    return name if isinstance(name, str) else ""


def _text(number: int | None) -> str:
    return "?" if number is None else str(number)


def _sum(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, ZERO) if len(known) == len(amounts) else None
