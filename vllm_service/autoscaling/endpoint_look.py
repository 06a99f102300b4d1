"""Looks at one endpoint: its `/health`, which counts jobs and workers, and its list of workers where that is allowed.

The list says more, and counts workers of an older version apart. Jobs are counted by `/health` alone. Where lists are
far apart, since many endpoints or replicas share a key's rate limit, `/health` counts the workers between two of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vllm_service.autoscaling.cold_starts import ColdStarts
from vllm_service.catalog.model import Provider
from vllm_service.catalog.worker_prices import is_priced, worker_price
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.plan import ListedWorkers
from vllm_service.runpod.endpoint import RunPodEndpoint
from vllm_service.runpod.health import EndpointHealth
from vllm_service.runpod.worker_list import WorkerList
from vllm_service.runpod.workers import EndpointWorkers

#: Of GPU types without a price that are named in the log.
_MOST_NAMED_TYPES = 20
_log = logging.getLogger(__name__)


class WorkerLives(Protocol):
    """Takes every new look, to follow the lives of workers."""

    def observe(
        self,
        provider: str,
        endpoint_id: str,
        workers: EndpointWorkers | None,
        health: EndpointHealth | None,
        now_us: int,
    ) -> None:
        """Takes one look, at microseconds since 1970; returns at once. Both None: the endpoint was not seen.

        workers: None where they cannot be listed now; between two lists nothing is passed on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """The result of the last look."""

    #: The counts of workers, by the list if there is one, and of jobs; None: the endpoint was not seen.
    health: EndpointHealth | None = None
    #: What the router learns from the list besides; None where there is none.
    listed: ListedWorkers | None = None
    #: As last listed; None where they cannot be listed.
    workers: EndpointWorkers | None = None


class EndpointLook:
    """One endpoint as it is seen. wall_clock: seconds since 1970. workers: None where they are not to be listed."""

    def __init__(
        self,
        provider: Provider,
        endpoint: RunPodEndpoint,
        workers: WorkerList | None,
        lives: WorkerLives | None,
        wall_clock: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._endpoint = endpoint
        self._list = workers
        self._lives = lives
        self._wall_clock = wall_clock
        self._starts = ColdStarts()
        #: When `/health` was read before.
        self._counted_at: float | None = None
        #: The GPU types that were seen, and those whose missing price the log has named.
        self._types: set[str] = set()
        self._named: set[str] = set()

    def take_over(self, before: EndpointLook) -> None:
        """Keeps what was known of the same endpoint before the configuration was read again."""
        if self._provider.control_url != before._provider.control_url:
            return
        self._starts = before._starts
        if self._list is not None and before._list is not None:
            self._list.take_over(before._list)

    async def look(self) -> Look:
        """Reads what is due, and returns what is known then."""
        counted, is_listed_anew = await asyncio.gather(self._endpoint.health(), self._read_list())
        workers = None if self._list is None else self._list.workers
        is_counted_anew = self._counted_at != self._endpoint.looked_at
        self._counted_at = self._endpoint.looked_at
        now_us = round(self._wall_clock() * 1e6)
        if is_listed_anew or (workers is None and is_counted_anew):
            self._pass_on(workers, counted, now_us)
        if workers is None:
            return Look(counted)
        starts = self._starts.observe(workers, now_us) if is_listed_anew else ()
        listed = ListedWorkers(starts, self._mean_price(workers))
        return Look(self._merged(workers, counted), listed, workers)

    async def _read_list(self) -> bool:
        return self._list is not None and await self._list.read()

    def _pass_on(self, workers: EndpointWorkers | None, counted: EndpointHealth | None, now_us: int) -> None:
        if self._lives is not None and self._provider.management is not None:
            endpoint_id = self._provider.management.endpoint_id
            self._lives.observe(self._provider.name, endpoint_id, workers, counted, now_us)

    def _merged(self, workers: EndpointWorkers, counted: EndpointHealth | None) -> EndpointHealth:
        """Returns the jobs as counted, and the workers by whichever is newer, if the list is not of just now."""
        jobs: Mapping[str, int] = {} if counted is None else counted.jobs
        if counted is None or self._list is None or self._list.is_recent:
            return EndpointHealth(jobs, workers.health_counts())
        counts = dict(counted.workers)
        for worker in workers.leaving:
            for state in (worker.status.lower(), "ready"):  # /health counts a warm worker under both
                if state in counts:
                    counts[state] = max(0, counts[state] - 1)
        return EndpointHealth(jobs, {**counts, "leaving": len(workers.leaving)})

    def _mean_price(self, workers: EndpointWorkers) -> float | None:
        """Returns the mean dollars a second of the workers that have GPUs, also of those that start."""
        paid = [worker for worker in workers.workers if worker.status.is_placed and worker.gpu_type is not None]
        self._name_missing_prices({(worker.gpu_type or "", worker.gpu_count) for worker in paid})
        prices = [worker_price(self._provider, worker.gpu_type, worker.gpu_count) for worker in paid]
        known = [price.picousd_per_microsecond for price in prices if price is not None]
        return sum(known) / len(known) * 1e6 / PICOUSD_PER_USD if known else None

    def _name_missing_prices(self, seen: set[tuple[str, int | None]]) -> None:
        self._types = set(sorted(self._types | {gpu_type for gpu_type, _ in seen})[:_MOST_NAMED_TYPES])
        for gpu_type, gpu_count in sorted(seen, key=str):
            is_known = is_priced(self._provider, gpu_type, gpu_count, is_only_type=len(self._types) == 1)
            if is_known or gpu_type in self._named or len(self._named) >= _MOST_NAMED_TYPES:
                continue
            self._named.add(gpu_type)
            _log.warning(
                "%s: a worker runs on %s, whose price is not known: it counts as usd_per_second. Set its price in "
                "gpu_prices at this provider in providers.yaml",
                *(self._provider.name, gpu_type),
            )
