"""What a worker's GPU costs: by RunPod's catalogue, else by the package's own table with its date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from vllm_service.catalog.gpu_types import GPU_TYPES, LIST_PRICES_AS_OF
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

SECONDS_PER_HOUR = 3600
#: The hours of a month by which its price is divided: 365 x 24 / 12.
HOURS_PER_MONTH = 730
#: A higher price of an hour is a defect of the answer.
_MOST_USD = Decimal(100_000)


@dataclass(frozen=True, slots=True)
class GpuPrices:
    """Dollars an hour of one GPU in a flex worker."""

    by_type: Mapping[str, Decimal]
    #: Of the dearest type in the pool; a pool with a type of unknown price is left out.
    by_pool: Mapping[str, Decimal]
    #: Where they come from, and of when they are, for people.
    source: str

    def usd_per_hour(self, gpu_type: str | None, gpus: int | None) -> Decimal | None:
        """Returns the price of a worker's GPUs by the hour; None where type, number or price is not known."""
        price = self.by_type.get(gpu_type or "")
        return None if price is None or gpus is None else price * gpus

    def most_usd_per_hour(self, pools: Iterable[str], gpus: int) -> Decimal | None:
        """Returns what a worker in one of the pools costs at most by the hour; None where one price is unknown."""
        prices = [self.by_pool.get(pool) for pool in pools]
        known = [price for price in prices if price is not None]
        return max(known) * gpus if known and len(known) == len(prices) else None


def shipped_prices() -> GpuPrices:
    """Returns the prices of the package's table."""
    types = [(gpu.id, gpu.pool, gpu.usd_per_second * SECONDS_PER_HOUR) for gpu in GPU_TYPES]
    return _prices(types, f"the shipped table of {LIST_PRICES_AS_OF}")


async def read_prices(api: RestApi) -> GpuPrices:
    """Returns the catalogue's prices; those of the package's table where RunPod refuses or does not answer."""
    try:
        types = [_type(item) async for item in api.pages("/v2/catalog/gpus", "gpus")]
    except RestError:
        return shipped_prices()
    return _prices(types, "RunPod's catalogue")


def _type(item: Mapping[str, Any]) -> tuple[str, str, Decimal | None]:
    price = item.get("price")
    usd = price.get("serverless") if isinstance(price, Mapping) else None
    return str(item.get("id", "")), str(item.get("pool") or ""), _usd(usd)


def _usd(number: object) -> Decimal | None:
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        return None
    price = Decimal(number)
    return price if price.is_finite() and 0 < price <= _MOST_USD else None


def _prices(types: Iterable[tuple[str, str, Decimal | None]], source: str) -> GpuPrices:
    by_type: dict[str, Decimal] = {}
    by_pool: dict[str, Decimal | None] = {}
    for type_id, pool, usd in types:
        if usd is not None:
            by_type[type_id] = usd
        if pool:
            before = by_pool.get(pool, Decimal(0))
            by_pool[pool] = None if usd is None or before is None else max(before, usd)
    return GpuPrices(by_type, {pool: usd for pool, usd in by_pool.items() if usd is not None}, source)
