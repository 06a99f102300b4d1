"""The protocols of what replicas do together: one probe of an offer, one wake, one number of workers.

No method raises: while Redis is away each replica decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vllm_service.domain.breakers import BreakerChange, ProbeAnswer, ProbeClaim

#: Probes of one breaker that may be out at a time. More than one, so that a slow one does not keep others from probing.
MOST_PROBES = 2


class BreakerStore(Protocol):
    """Shares the state of circuit breakers between replicas. A breaker belongs to an offer: a provider and a model."""

    async def publish(self, change: BreakerChange) -> None:
        """Sends the change to the other replicas."""
        ...

    async def claim_probe(self, claim: ProbeClaim, seconds: float) -> ProbeAnswer:
        """Claims a probe among all replicas. It ends by release_probe, or expires after `seconds`.

        Of one breaker's probes one is granted to each organisation, and MOST_PROBES at a time.
        """
        ...

    async def release_probe(self, claim: ProbeClaim) -> None:
        """Ends a probe, after `publish` where its result has changed something."""
        ...

    async def follow(self, apply: Callable[[BreakerChange], None]) -> None:
        """Calls `apply` for every open breaker and every change by other replicas, until it is cancelled."""
        ...


class Wakes(Protocol):
    """Wake leases: of all replicas, one at a time wakes an endpoint."""

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """Returns True if the caller is to wake the endpoint; it then has the lease for `seconds`, or until `clear`."""
        ...

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """Cuts the lease to `seconds` after a wake that failed; any replica may try again after them."""
        ...

    async def clear(self, endpoint: str) -> None:
        """Ends the lease: the worker is there, or has gone. Any replica may claim the next one."""
        ...


class Targets(Protocol):
    """Each replica's target of workers for an endpoint. The highest counts, so that replicas do not fight."""

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """Returns the highest target of all replicas; this one counts for `seconds`. While Redis is away: `workers`."""
        ...

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """Removes this replica's target; returns the highest of the others. None: there is none, or Redis is away."""
        ...
