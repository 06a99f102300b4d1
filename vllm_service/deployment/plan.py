"""The plan of a deployment: the GPU pools that hold the model, what they cost, and what would change at RunPod."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from vllm_service.deployment.difference import Difference
from vllm_service.deployment.pools import Catalogue, Pool, volume_usd_per_month
from vllm_service.deployment.sizes import ModelSizes
from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.deployment.unknown import Unknown
from vllm_service.domain.spelling import nearest
from vllm_service.errors import ConfigurationError
from vllm_service.storage.ledger.cold_starts import ColdStart

#: vLLM's share of a GPU where the environment sets none. vLLM 0.32 takes 0.92; a host's driver takes some, too.
GPU_MEMORY_UTILIZATION = Decimal("0.9")
#: Makers' GB, of which a GPU has no fewer: a "24 GB" GPU has 22.5 to 24 GiB.
BYTES_PER_GB = 10**9
DAYS_PER_MONTH = 30
HOURS_PER_DAY = 24
#: Hours a day with requests, for which a month is priced.
BUSY_HOURS = (0, 1, 24)


@dataclass(frozen=True, slots=True)
class PoolLine:
    """One pool as the deployment would use it."""

    pool: Pool
    gpus_per_worker: int
    #: Of one worker, the dearest that the pool can give.
    usd_per_hour: Decimal | None
    #: Bytes that are left of vLLM's share on each GPU; below zero, what the pool lacks. Unknown with the model's need.
    spare_bytes: int | Unknown
    #: Dollars a month by busy hours a day, volume included; None where no price is known.
    usd_per_month: tuple[Decimal | None, ...]
    is_chosen: bool
    #: From a worker's start until it is ready: the median of those measured on this pool's GPUs; None without one.
    cold_start_seconds: float | None = None

    @property
    def holds(self) -> bool | None:
        """True where the model fits; None where that is not known."""
        return None if isinstance(self.spare_bytes, Unknown) else self.spare_bytes >= 0


@dataclass(frozen=True)
class Plan:
    """The content of `deploy plan`."""

    spec: DeploymentSpec
    sizes: ModelSizes
    #: All pools of the catalogue, the cheapest first.
    lines: tuple[PoolLine, ...]
    #: The pools of the endpoint, in the order of preference.
    pools: tuple[str, ...]
    prices_from: str
    #: None without a volume.
    volume_usd_per_month: Decimal | None
    #: What RunPod has otherwise; None where RunPod was not asked.
    differences: tuple[Difference, ...] | None
    #: RunPod's id of the endpoint; None where there is none, or RunPod was not asked.
    endpoint_id: str | None
    notes: tuple[str, ...]


def spare_bytes(spec: DeploymentSpec, pool: Pool, sizes: ModelSizes) -> int | Unknown:
    """Returns the bytes that are left of vLLM's share of each GPU, below zero where the model does not fit."""
    if isinstance(sizes.need, Unknown):
        return sizes.need
    share = spec.gpu_memory_share or GPU_MEMORY_UTILIZATION
    return int(pool.memory_gb * BYTES_PER_GB * share) - sizes.need.total_bytes


def choose_pools(spec: DeploymentSpec, sizes: ModelSizes, catalogue: Catalogue) -> tuple[str, ...]:
    """Returns the pools of the endpoint: the specification's, else the cheapest that holds the model.

    Raises ConfigurationError for a pool that RunPod does not have, and where no pool can be chosen.
    """
    if not spec.takes_cheapest:
        _require_known(spec.gpu_pools, catalogue)
        return spec.gpu_pools
    if isinstance(sizes.need, Unknown):
        raise ConfigurationError(
            f"gpu_pools: the cheapest cannot be chosen, because the model's need is not known: {sizes.need.reason}; "
            "name pools, such as [ADA_24, AMPERE_48]",
            param="gpu_pools",
        )
    priced = [pool for pool in catalogue.pools if pool.usd_per_hour is not None]
    spare = {pool.id: spare_bytes(spec, pool, sizes) for pool in priced}
    for pool in priced:
        left = spare[pool.id]
        if isinstance(left, int) and left >= 0:
            return (pool.id,)
    raise _none_holds(spec, sizes, priced)


def lines_of(
    spec: DeploymentSpec,
    sizes: ModelSizes,
    catalogue: Catalogue,
    chosen: tuple[str, ...],
    starts: Sequence[ColdStart] = (),
) -> tuple[PoolLine, ...]:
    """Returns a line for each pool of the catalogue. starts: those measured at the endpoint."""
    return tuple(_line(spec, sizes, pool, starts, is_chosen=pool.id in chosen) for pool in catalogue.pools)


def usd_per_month(spec: DeploymentSpec, usd_per_hour: Decimal, busy_hours: int) -> Decimal:
    """Returns the dollars of 30 days in which one worker is on for so many hours a day, volume included.

    workers_min run all the time; while there are requests, one worker is on at least.
    """
    hours = spec.workers_min * HOURS_PER_DAY + max(1 - spec.workers_min, 0) * busy_hours
    return hours * DAYS_PER_MONTH * usd_per_hour + _volume_usd(spec)


def volume_usd(spec: DeploymentSpec) -> Decimal | None:
    """Returns the dollars of the volume a month; None without one."""
    return None if spec.volume is None else _volume_usd(spec)


def _volume_usd(spec: DeploymentSpec) -> Decimal:
    return Decimal(0) if spec.volume is None else volume_usd_per_month(spec.volume.size_gb)


def _line(
    spec: DeploymentSpec, sizes: ModelSizes, pool: Pool, starts: Sequence[ColdStart], *, is_chosen: bool
) -> PoolLine:
    price = None if pool.usd_per_hour is None else pool.usd_per_hour * spec.gpus_per_worker
    months = tuple(None if price is None else usd_per_month(spec, price, hours) for hours in BUSY_HOURS)
    seconds = [start.seconds for start in starts if start.gpu_type in pool.type_ids]
    median = statistics.median(seconds) if seconds else None
    return PoolLine(pool, spec.gpus_per_worker, price, spare_bytes(spec, pool, sizes), months, is_chosen, median)


def _require_known(pools: tuple[str, ...], catalogue: Catalogue) -> None:
    known = [pool.id for pool in catalogue.pools]
    listed = ", ".join(known) or "none"
    for pool in pools:
        if catalogue.is_complete and pool not in known:
            raise ConfigurationError(
                f"gpu_pools: RunPod has no pool {pool!r}{nearest(pool, known)}; its pools: {listed}", param="gpu_pools"
            )


def _none_holds(spec: DeploymentSpec, sizes: ModelSizes, priced: list[Pool]) -> ConfigurationError:
    largest = max(priced, key=lambda pool: pool.memory_gb, default=None)
    if largest is None:
        return ConfigurationError("gpu_pools: no pool has a price; name pools", param="gpu_pools")
    left = spare_bytes(spec, largest, sizes)
    lacking = f" by {-left / BYTES_PER_GB:.1f} GB on each GPU" if isinstance(left, int) else ""
    return ConfigurationError(
        f"gpu_pools: no pool holds the model with gpus_per_worker {spec.gpus_per_worker}; the largest, {largest.id} of "
        f"{largest.memory_gb} GB, is too small{lacking}. Raise gpus_per_worker, or lower context_length or concurrency",
        param="gpu_pools",
    )
