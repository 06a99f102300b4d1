"""What a worker's GPUs cost by the hour, by RunPod's catalogue, else by the package's own table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from vllm_service.deployment.pools import Catalogue, read_catalogue, shipped
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

#: The hours of a month by which its price is divided: 365 x 24 / 12. (A plan's month is 30 days, which keeps its
#: dollars exact.)
HOURS_PER_MONTH = 730


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
    return _prices(shipped())


async def read_prices(api: RestApi) -> GpuPrices:
    """Returns the catalogue's prices; those of the package's table where RunPod refuses or does not answer."""
    try:
        return _prices(await read_catalogue(api))
    except RestError:
        return shipped_prices()


def _prices(catalogue: Catalogue) -> GpuPrices:
    by_pool = {pool.id: pool.usd_per_hour for pool in catalogue.pools if pool.usd_per_hour is not None}
    return GpuPrices(catalogue.usd_per_hour_by_type, by_pool, catalogue.source)
