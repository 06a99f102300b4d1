"""RunPod's GPU pools with their memory and prices: from its catalogue, else from the package's own table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from vllm_service.catalog.gpu_types import GPU_TYPES, LIST_PRICES_AS_OF

#: Network volumes: dollars per GB and month, up to 1 TB and above it (RunPod's documentation, 2026-11).
VOLUME_USD_PER_GB = Decimal("0.07")
LARGE_VOLUME_USD_PER_GB = Decimal("0.05")
LARGE_VOLUME_GB = 1000
SECONDS_PER_HOUR = 3600
_SECOND_DIGITS = Decimal("0.00000001")
#: Stock as the catalogue names it, from the least to the most.
_STOCK = ("NONE", "LOW", "MEDIUM", "HIGH")
#: Larger numbers than any GPU has: a defect of the answer.
_MOST_GB, _MOST_USD = 100_000, Decimal(100_000)


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool. A worker in it may get any of its types, so memory is the least of them and the price the highest."""

    id: str
    #: The names of its GPUs, for people.
    gpus: tuple[str, ...]
    memory_gb: int
    #: Of one GPU in a flex worker; None where no price is known.
    usd_per_hour: Decimal | None
    #: RunPod's word for the stock, of the type that has most; None where it is not known.
    stock: str | None = None
    #: RunPod's ids of its GPU types.
    type_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All pools, the cheapest first."""

    pools: tuple[Pool, ...]
    #: Where they come from, and of when they are, for people.
    source: str
    #: True for RunPod's own answer: a pool that is not in it does not exist.
    is_complete: bool
    #: Dollars an hour of one GPU, by RunPod's id of its type. A type of unknown price is left out.
    usd_per_hour_by_type: Mapping[str, Decimal] = field(default_factory=dict)

    def pool(self, pool_id: str) -> Pool | None:
        """Returns the pool of this id; None where there is none."""
        return next((pool for pool in self.pools if pool.id == pool_id), None)


@dataclass(frozen=True, slots=True)
class _Type:
    pool: str
    name: str
    memory_gb: int
    usd_per_hour: Decimal | None
    stock: str | None
    id: str


class Lists(Protocol):
    """The part of RestApi that reads lists."""

    def pages(
        self, path: str, name: str, query: Mapping[str, str | int] | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yields the objects of a list."""
        ...


def shipped() -> Catalogue:
    """Returns the pools of the package's table."""
    types = [
        _Type(gpu.pool, gpu.name, gpu.memory_gb, gpu.usd_per_second * SECONDS_PER_HOUR, None, gpu.id)
        for gpu in GPU_TYPES
    ]
    return _catalogue(types, f"the shipped table of {LIST_PRICES_AS_OF}", is_complete=False)


async def read_catalogue(
    api: Lists, *, gpus: int = 1, min_cuda_version: str | None = None, data_center: str | None = None
) -> Catalogue:
    """Returns the pools of RunPod's catalogue, with the stock for workers of so many GPUs. Raises RestError.

    data_center: where the stock is to be; None counts all of them.
    """
    query: dict[str, str | int] = {"include": "AVAILABILITY", "product": "SERVERLESS", "count": gpus}
    if min_cuda_version is not None:
        query["minCudaVersion"] = min_cuda_version
    types = [
        found async for item in api.pages("/v2/catalog/gpus", "gpus", query) if (found := _type(item, data_center))
    ]
    return _catalogue(types, "RunPod's catalogue", is_complete=True)


def volume_usd_per_month(size_gb: int) -> Decimal:
    """Returns the price of a network volume."""
    small, large = min(size_gb, LARGE_VOLUME_GB), max(size_gb - LARGE_VOLUME_GB, 0)
    return small * VOLUME_USD_PER_GB + large * LARGE_VOLUME_USD_PER_GB


def per_second(usd_per_hour: Decimal) -> Decimal:
    """Returns dollars per second for people, to eight digits. Sums are made of the price by the hour: it is exact."""
    return (usd_per_hour / SECONDS_PER_HOUR).quantize(_SECOND_DIGITS).normalize()


def _catalogue(types: Sequence[_Type], source: str, *, is_complete: bool) -> Catalogue:
    prices = {gpu.id: gpu.usd_per_hour for gpu in types if gpu.usd_per_hour is not None}
    return Catalogue(_pools(types), source, is_complete, prices)


def _pools(types: Iterable[_Type]) -> tuple[Pool, ...]:
    by_pool: dict[str, list[_Type]] = {}
    for gpu in types:
        by_pool.setdefault(gpu.pool, []).append(gpu)
    pools = [_pool(pool_id, members) for pool_id, members in by_pool.items()]
    return tuple(sorted(pools, key=lambda pool: (pool.usd_per_hour is None, pool.usd_per_hour, pool.memory_gb)))


def _pool(pool_id: str, members: list[_Type]) -> Pool:
    prices = [gpu.usd_per_hour for gpu in members if gpu.usd_per_hour is not None]
    stocks = [gpu.stock for gpu in members if gpu.stock is not None]
    return Pool(
        pool_id,
        tuple(gpu.name for gpu in members),
        min(gpu.memory_gb for gpu in members),
        max(prices) if len(prices) == len(members) else None,
        max(stocks, key=_STOCK.index) if stocks else None,
        tuple(gpu.id for gpu in members),
    )


def _type(item: Mapping[str, Any], data_center: str | None) -> _Type | None:
    """Returns one GPU type of the catalogue; None for one that no worker of ours can run on, or that cannot be read."""
    pool, memory_gb = item.get("pool"), item.get("memory")
    if not isinstance(pool, str) or not pool or item.get("manufacturer") != "NVIDIA":
        return None
    if isinstance(memory_gb, bool) or not isinstance(memory_gb, int) or not 0 < memory_gb <= _MOST_GB:
        return None
    price = item.get("price")
    serverless = price.get("serverless") if isinstance(price, Mapping) else None
    type_id = str(item.get("id") or "?")
    return _Type(
        pool, str(item.get("name") or type_id), memory_gb, _usd(serverless), _stock(item, data_center), type_id
    )


def _stock(item: Mapping[str, Any], data_center: str | None) -> str | None:
    """Returns RunPod's word for the stock; a data centre that is not listed has none (REST v2's schema of 2026-08)."""
    stock = item.get("availability")
    if data_center is not None:
        listed = item.get("dataCenters")
        places = [place for place in listed if isinstance(place, Mapping)] if isinstance(listed, list) else []
        stock = next((place.get("availability") for place in places if place.get("id") == data_center), "NONE")
    return stock if stock in _STOCK else None


def _usd(number: object) -> Decimal | None:
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        return None
    price = Decimal(number)
    return price if price.is_finite() and 0 < price <= _MOST_USD else None
